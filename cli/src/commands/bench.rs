//! `headstock bench`: the network alone, pixels in memory in, features out.

use std::path::Path;
use std::time::{Duration, Instant};

use headstock_backbone::Pixels;
use headstock_train::TrainError;
use headstock_train::config::{BackboneOptions, Config};
use headstock_train::features::Stock;
use serde::Serialize;

use super::Session;
use crate::args::BenchArgs;

/// What `--json` prints.
#[derive(Serialize)]
struct Figures<'a> {
    images_per_second: f64,
    precision: &'a str,
    isa: &'a str,
    device: &'a str,
    architecture: &'a str,
    batch: usize,
    threads: usize,
    height: usize,
    width: usize,
    batches: usize,
    seconds: f64,
}

pub(crate) fn run(args: &BenchArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let limit =
        Duration::try_from_secs_f64(args.seconds).ok().filter(|limit| !limit.is_zero()).ok_or_else(|| {
            TrainError::Usage(format!(
                "--seconds {:?}: give a time above 0 that a clock can hold",
                args.seconds
            ))
        })?;
    let options = options(args, session)?;
    let stock = Stock::open(&options, session.bars)?;
    let backbone = stock.load()?;
    let layer = stock.options().layer;
    let (height, width) = stock.transform().crop;
    let (height, width, batch) = (height as usize, width as usize, usize::from(args.batch));
    let data = some_pixels(batch, height, width)?;
    let pixels = Pixels::new(&data, batch, height, width).map_err(TrainError::from)?;

    backbone.features(pixels, layer).map_err(TrainError::from)?;
    let (started, mut batches) = (Instant::now(), 0);
    while batches == 0 || started.elapsed() < limit {
        backbone.features(pixels, layer).map_err(TrainError::from)?;
        batches += 1;
    }
    let seconds = started.elapsed().as_secs_f64();

    let rate = (batches * batch) as f64 / seconds;
    let architecture = backbone.architecture().to_string();
    let (device, isa) = (if backbone.is_on_cpu() { "cpu" } else { "cuda" }, backbone.isa());
    let threads = rayon::current_num_threads();
    let out = &mut *session.output;
    out.line(format!(
        "{architecture}, {height} x {width}, batch {batch}, {}, {device} ({isa}), {threads} threads: {rate:.1} photos/s",
        options.precision
    ))?;
    out.figures(&Figures {
        images_per_second: rate,
        precision: options.precision.as_str(),
        isa,
        device,
        architecture: &architecture,
        batch,
        threads,
        height,
        width,
        batches,
        seconds,
    })?;
    Ok(())
}

/// `[batch, height, width, 3]`. Any pixels do, but zeros might be fast by accident.
fn some_pixels(batch: usize, height: usize, width: usize) -> Result<Vec<u8>, TrainError> {
    let length = [height, width, 3].into_iter().try_fold(batch, usize::checked_mul);
    let mut data = Vec::new();
    match length {
        Some(length) if data.try_reserve_exact(length).is_ok() => {
            data.extend((0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8));
            Ok(data)
        }
        _ => Err(TrainError::Usage(format!(
            "--batch {batch}: so many photos of {height} x {width} do not fit into memory"
        ))),
    }
}

/// `[backbone]` of the config, or of one in memory where `--weights` is all that is needed, with what the arguments change.
fn options(args: &BenchArgs, session: &Session<'_>) -> Result<BackboneOptions, TrainError> {
    let mut changes = Vec::new();
    if let Some(precision) = args.precision {
        changes.push(format!("backbone.precision={precision}"));
    }
    if let Some(weights) = &args.weights {
        changes.push(format!("backbone.weights={}", toml::Value::String(from_here(weights)?)));
    }
    let settings = match (&args.weights, &session.global.config) {
        (Some(_), None) => {
            let config = "version = 1\n[data]\nfolder = \".\"\n";
            let mut config = Config::parse(config, "the arguments", Path::new(""))?;
            config.set(&[&changes[..], &session.global.overrides].concat())?;
            config.resolve(&session.heads)?
        }
        _ => session.settings(&changes)?,
    };
    let without = || TrainError::Usage("give --weights, or a config with a backbone".into());
    settings.options.backbone.ok_or_else(without)
}

/// `weights` as a config anywhere would name them.
fn from_here(weights: &str) -> Result<String, TrainError> {
    if weights.starts_with("hf://") {
        return Ok(weights.to_owned());
    }
    let absolute = std::path::absolute(weights)
        .map_err(|error| TrainError::Usage(format!("--weights {weights}: {error}")))?;
    Ok(absolute.to_string_lossy().into_owned())
}
