//! `headstock bench`: the network alone, pixels in memory in, features out; with `--data` all the way from files.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use headstock_backbone::{Backbone, FeatureLayer, PixelBatch};
use headstock_train::config::{Config, Settings, TuneFrom};
use headstock_train::features::PretrainedBackbone;
use headstock_train::{FinetuneSpeed, TrainError, measure_finetune_speed, measure_throughput};
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
    #[serde(flatten)]
    measured: Measured,
    /// From the start of the program to the first batch of features.
    seconds_to_first: f64,
    /// Where the system tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_mib: Option<f64>,
}

/// How often, and how long that took.
#[derive(Serialize)]
#[serde(untagged)]
enum Measured {
    Network { batches: usize, seconds: f64 },
    Data { photos: usize, seconds: f64, network_images_per_second: f64, ratio: f64 },
}

pub(crate) fn run(args: &BenchArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let limit =
        Duration::try_from_secs_f64(args.seconds).ok().filter(|limit| !limit.is_zero()).ok_or_else(|| {
            TrainError::Usage(format!(
                "--seconds {:?}: give a time above 0 that a clock can hold",
                args.seconds
            ))
        })?;
    let settings = settings(args, session)?;
    let without = || TrainError::Usage("give --weights, or a config with a backbone".into());
    let options = settings.options.backbone.as_ref().ok_or_else(without)?;
    let stock = PretrainedBackbone::open(options, session.bars)?;
    if let Some(from) = args.tune {
        return tuning(&stock, from, usize::from(args.batch), limit, session);
    }
    let backbone = stock.load()?;
    let (height, width) = stock.transform().crop;
    let (height, width, batch) = (height as usize, width as usize, usize::from(args.batch));
    let data = some_pixels(batch, height, width)?;
    let pixels = PixelBatch::new(&data, batch, height, width).map_err(TrainError::from)?;
    let alone = Alone { backbone: &backbone, pixels, layer: options.layer };

    alone.once()?;
    let seconds_to_first = session.started.elapsed().as_secs_f64();
    let (rate, measured) = if args.data {
        // Half of the time before and half after: what else the machine does shows in both.
        let before = alone.measure(limit / 2)?;
        let way = measure_throughput(&settings, &stock, &backbone, limit, session.bars)?;
        let after = alone.measure(limit / 2)?;
        let network = ((before.0 + after.0) * batch) as f64 / (before.1 + after.1);
        let rate = way.photos as f64 / way.seconds;
        let (photos, seconds, ratio) = (way.photos, way.seconds, rate / network);
        (rate, Measured::Data { photos, seconds, network_images_per_second: network, ratio })
    } else {
        let (batches, seconds) = alone.measure(limit)?;
        ((batches * batch) as f64 / seconds, Measured::Network { batches, seconds })
    };

    let architecture = backbone.architecture().to_string();
    let (device, isa) = (if backbone.is_on_cpu() { "cpu" } else { "cuda" }, backbone.isa());
    let threads = rayon::current_num_threads();
    let out = &mut *session.output;
    let from_files = match measured {
        Measured::Data { ratio, .. } => format!(" from files, {ratio:.3} of the network alone"),
        Measured::Network { .. } => String::new(),
    };
    out.line(format!(
        "{architecture}, {height} x {width}, batch {batch}, {}, {device} ({isa}), {threads} threads: {rate:.1} photos/s{from_files}",
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
        measured,
        seconds_to_first,
        peak_memory_mib: peak_memory(),
    })?;
    Ok(())
}

/// What `--tune --json` prints.
#[derive(Serialize)]
struct TuningFigures {
    images_per_second: f64,
    architecture: String,
    batch: usize,
    threads: usize,
    steps: usize,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_mib: Option<f64>,
}

/// Measures steps of tuning.
fn tuning(
    stock: &PretrainedBackbone,
    from: TuneFrom,
    batch: usize,
    limit: Duration,
    session: &mut Session<'_>,
) -> anyhow::Result<()> {
    let FinetuneSpeed { steps, seconds } = measure_finetune_speed(stock, from, batch, limit)?;
    let figures = TuningFigures {
        images_per_second: (steps * batch) as f64 / seconds,
        architecture: stock.checkpoint().architecture().to_string(),
        batch,
        threads: rayon::current_num_threads(),
        steps,
        seconds,
        peak_memory_mib: peak_memory(),
    };
    let out = &mut *session.output;
    out.line(format!(
        "{}, tuned, batch {batch}, {} threads: {:.1} photos/s",
        figures.architecture, figures.threads, figures.images_per_second
    ))?;
    out.figures(&figures)?;
    Ok(())
}

/// The network alone, on the same pixels again and again.
struct Alone<'a> {
    backbone: &'a Backbone,
    pixels: PixelBatch<'a>,
    layer: FeatureLayer,
}

impl Alone<'_> {
    fn once(&self) -> Result<(), TrainError> {
        self.backbone.features(self.pixels, self.layer)?;
        Ok(())
    }

    /// Runs batches for `limit`, one at least; how many, and in how many seconds.
    fn measure(&self, limit: Duration) -> Result<(usize, f64), TrainError> {
        let (started, mut batches) = (Instant::now(), 0);
        while batches == 0 || started.elapsed() < limit {
            self.once()?;
            batches += 1;
        }
        Ok((batches, started.elapsed().as_secs_f64()))
    }
}

/// The most memory that this program has held so far, in MiB; none where the system does not say so as Linux does.
fn peak_memory() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
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

/// The config's settings, or those of one in memory where `--weights` is all that is needed, with what the arguments change.
fn settings(args: &BenchArgs, session: &Session<'_>) -> Result<Settings, TrainError> {
    let mut changes = Vec::new();
    if let Some(precision) = args.precision {
        changes.push(format!("backbone.precision={precision}"));
    }
    if let Some(weights) = &args.weights {
        changes.push(format!("backbone.weights={}", toml::Value::String(from_here(weights)?)));
    }
    match (&args.weights, &session.global.config) {
        (Some(_), None) if !args.data => {
            let config = "version = 1\n[data]\nfolder = \".\"\n";
            let mut config = Config::parse(config, "the arguments", Path::new(""))?;
            config.set(&[&changes[..], &session.global.overrides].concat())?;
            Ok(config.resolve(&session.heads)?)
        }
        _ => session.settings(&changes),
    }
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
