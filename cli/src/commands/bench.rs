//! `headstock bench`: the network alone, pixels in memory in, features out.

use std::time::{Duration, Instant};

use headstock_backbone::{DeviceChoice, Pixels};
use headstock_train::TrainError;
use headstock_train::config::BackboneOptions;
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
    if !(args.seconds > 0.0 && args.seconds.is_finite()) {
        return Err(TrainError::Usage(format!("--seconds {}: give a time above 0", args.seconds)).into());
    }
    let stock = Stock::open(&options(args, session)?, session.bars)?;
    let backbone = stock.load()?;
    let layer = stock.options().layer;
    let (height, width) = stock.transform().crop;
    let (height, width, batch) = (height as usize, width as usize, args.batch.get());
    // Any pixels do, but zeros might be fast by accident.
    let data: Vec<u8> =
        (0..batch * height * width * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let pixels = Pixels::new(&data, batch, height, width).map_err(TrainError::from)?;

    backbone.features(pixels, layer).map_err(TrainError::from)?;
    let limit = Duration::from_secs_f64(args.seconds);
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
        args.precision
    ))?;
    out.figures(&Figures {
        images_per_second: rate,
        precision: args.precision.as_str(),
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

/// The weights of the arguments, or those of the config.
fn options(args: &BenchArgs, session: &Session<'_>) -> Result<BackboneOptions, TrainError> {
    let precision = args.precision;
    match &args.weights {
        Some(weights) => Ok(BackboneOptions {
            weights: weights.clone(),
            layer: headstock_backbone::Layer::default(),
            device: DeviceChoice::default(),
            precision,
        }),
        None => {
            let settings = session.settings(&[])?;
            let options = settings.options.backbone;
            let options = options
                .ok_or_else(|| TrainError::Usage("give --weights, or a config with a backbone".into()))?;
            Ok(BackboneOptions { precision, ..options })
        }
    }
}
