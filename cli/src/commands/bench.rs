//! `headstock bench`: throughput of the network alone, from pixels in memory to features; with `--data`, from
//! files; with `--tune`, of fine-tuning.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use headstock_backbone::{Backbone, FeatureLayer, PixelBatch};
use headstock_inference::PretrainedBackbone;
use headstock_train::config::{Config, Settings, TuneFrom};
use headstock_train::{FinetuneSpeed, TrainError, measure_finetune_speed, measure_throughput};
use serde::Serialize;

use super::{CommandContext, pluralize};
use crate::args::BenchArgs;

/// The output of `bench --json`.
#[derive(Serialize)]
struct BenchJson<'a> {
    images_per_second: f64,
    precision: &'a str,
    /// The instruction set in use, such as `avx2`.
    isa: &'a str,
    device: &'a str,
    architecture: &'a str,
    batch: usize,
    threads: usize,
    height: usize,
    width: usize,
    #[serde(flatten)]
    measured: Measurement,
    /// Time from the start of the program to the first batch of features.
    seconds_to_first: f64,
    /// `None` if the system does not report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_mib: Option<f64>,
}

/// What was measured, and for how long: the network alone, or from files (`--data`).
#[derive(Serialize)]
#[serde(untagged)]
enum Measurement {
    Network(Timing),
    Files {
        #[serde(rename = "photos")]
        n_images: usize,
        seconds: f64,
        network_images_per_second: f64,
        /// The rate from files divided by the rate of the network alone.
        ratio: f64,
    },
}

/// Measures and prints the speed in images per second: of the network alone, on pixels in memory; with
/// `--data` from image files to features; with `--tune` of fine-tuning.
pub(crate) fn run(args: &BenchArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let limit =
        Duration::try_from_secs_f64(args.seconds).ok().filter(|limit| !limit.is_zero()).ok_or_else(|| {
            TrainError::Usage(format!(
                "--seconds {:?} cannot be used: give a number of seconds above 0, such as 4",
                args.seconds
            ))
        })?;
    let settings = resolve_settings(args, context)?;
    let no_backbone = || {
        TrainError::Usage(
            "bench does not know which model weights to use: give --weights PATH, or a config file with a \
             section [backbone]"
                .into(),
        )
    };
    let options = settings.backbone.as_ref().ok_or_else(no_backbone)?;
    let pretrained = PretrainedBackbone::open(options, context.bars)?;
    if let Some(tune_from) = args.tune {
        return bench_tuning(&pretrained, tune_from, usize::from(args.batch), limit, context);
    }
    let backbone = pretrained.load()?;
    let (height, width) = pretrained.transform().crop;
    let (height, width) = (height as usize, width as usize);
    let batch = usize::from(args.batch);
    let data = synthetic_pixels(batch, height, width)?;
    let pixels = PixelBatch::new(&data, batch, height, width).map_err(TrainError::from)?;
    let network = NetworkBenchmark { backbone: &backbone, pixels, layer: options.layer };

    // The first batch is a warm-up and not part of the rate.
    network.run_batch()?;
    let seconds_to_first = context.started.elapsed().as_secs_f64();
    let (rate, measurement) = if args.data {
        // The network is measured before and after, so that a drift of the machine's speed affects both.
        let before = network.measure(limit / 2)?;
        let end_to_end = measure_throughput(&settings, &pretrained, &backbone, limit, context.bars)?;
        let after = network.measure(limit / 2)?;
        let n_network_images = (before.batches + after.batches) * batch;
        let network_rate = n_network_images as f64 / (before.seconds + after.seconds);
        let rate = end_to_end.n_images as f64 / end_to_end.seconds;
        let measurement = Measurement::Files {
            n_images: end_to_end.n_images,
            seconds: end_to_end.seconds,
            network_images_per_second: network_rate,
            ratio: rate / network_rate,
        };
        (rate, measurement)
    } else {
        let timing = network.measure(limit)?;
        ((timing.batches * batch) as f64 / timing.seconds, Measurement::Network(timing))
    };

    let architecture = backbone.architecture().to_string();
    let device = if backbone.is_on_cpu() { "cpu" } else { "cuda" };
    let isa = backbone.isa();
    let threads = rayon::current_num_threads();
    let out = &mut *context.output;
    let files_note = match measurement {
        Measurement::Files { ratio, .. } => {
            format!(" from files, {ratio:.3} times the rate of the network alone")
        }
        Measurement::Network(_) => String::new(),
    };
    out.print(format!(
        "{architecture}, {height} x {width} pixels, batches of {batch}, {}, {device} ({isa}), {}: {rate:.1} \
         photos/s{files_note}",
        options.precision,
        pluralize(threads, "thread")
    ))?;
    out.print_json(&BenchJson {
        images_per_second: rate,
        precision: options.precision.as_str(),
        isa,
        device,
        architecture: &architecture,
        batch,
        threads,
        height,
        width,
        measured: measurement,
        seconds_to_first,
        peak_memory_mib: peak_memory(),
    })?;
    Ok(())
}

/// The output of `bench --tune --json`.
#[derive(Serialize)]
struct TuneBenchJson {
    images_per_second: f64,
    architecture: String,
    batch: usize,
    threads: usize,
    /// Number of optimizer steps, and the time that they took.
    steps: usize,
    seconds: f64,
    /// `None` if the system does not report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_mib: Option<f64>,
}

/// Measures for about `limit` how many images per second are fine-tuned, and prints it. Each step trains the
/// backbone from the stage `tune_from` on, on `batch` images.
fn bench_tuning(
    pretrained: &PretrainedBackbone,
    tune_from: TuneFrom,
    batch: usize,
    limit: Duration,
    context: &mut CommandContext<'_>,
) -> anyhow::Result<()> {
    let FinetuneSpeed { steps, seconds } = measure_finetune_speed(pretrained, tune_from, batch, limit)?;
    let json = TuneBenchJson {
        images_per_second: (steps * batch) as f64 / seconds,
        architecture: pretrained.checkpoint().architecture().to_string(),
        batch,
        threads: rayon::current_num_threads(),
        steps,
        seconds,
        peak_memory_mib: peak_memory(),
    };
    let out = &mut *context.output;
    out.print(format!(
        "{}, fine-tuning, batches of {batch}, {}: {:.1} photos/s",
        json.architecture,
        pluralize(json.threads, "thread"),
        json.images_per_second
    ))?;
    out.print_json(&json)?;
    Ok(())
}

/// Number of batches, and the time that they took.
#[derive(Serialize)]
struct Timing {
    batches: usize,
    seconds: f64,
}

/// Runs the network repeatedly on the same batch of pixels up to `layer`, to measure its speed.
struct NetworkBenchmark<'a> {
    backbone: &'a Backbone,
    pixels: PixelBatch<'a>,
    layer: FeatureLayer,
}

impl NetworkBenchmark<'_> {
    /// Computes the features of the batch once and drops them: only the time counts.
    fn run_batch(&self) -> Result<(), TrainError> {
        self.backbone.features(self.pixels, self.layer)?;
        Ok(())
    }

    /// Computes the features of the batch again and again until the time `limit` is over, at least once.
    /// Returns how often, and the time that it took.
    fn measure(&self, limit: Duration) -> Result<Timing, TrainError> {
        let started = Instant::now();
        let mut batches = 0;
        while batches == 0 || started.elapsed() < limit {
            self.run_batch()?;
            batches += 1;
        }
        Ok(Timing { batches, seconds: started.elapsed().as_secs_f64() })
    }
}

/// Peak resident memory of this process in MiB, for the JSON output; `None` on systems without `/proc`.
fn peak_memory() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    // `VmHWM` is the high-water mark of the resident memory; the kernel's `kB` are KiB.
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// Fills `batch` images of `height` x `width` x 3 bytes with pixels for the network that look random, because
/// zeros could be faster than real pixels. Each byte is a hash of its index, so that every run has the same.
fn synthetic_pixels(batch: usize, height: usize, width: usize) -> Result<Vec<u8>, TrainError> {
    let length = [height, width, 3].into_iter().try_fold(batch, usize::checked_mul);
    let mut data = Vec::new();
    match length {
        Some(length) if data.try_reserve_exact(length).is_ok() => {
            // Knuth's multiplicative hash: the factor is about 2^32 divided by the golden ratio; the shift
            // skips the lowest bits, which are less random.
            data.extend((0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8));
            Ok(data)
        }
        _ => Err(TrainError::Usage(format!(
            "--batch {batch} is too large: so many photos of {height} x {width} pixels do not fit into \
             memory; choose a lower number"
        ))),
    }
}

/// The settings to measure with: those of the config, overridden by `--precision`, `--weights` and `--set`.
/// With `--weights` and neither `--config` nor `--data`, a minimal config takes the place of the file; the
/// image folder that it must name is never read.
fn resolve_settings(args: &BenchArgs, context: &CommandContext<'_>) -> Result<Settings, TrainError> {
    let mut overrides = Vec::new();
    if let Some(precision) = args.precision {
        overrides.push(format!("backbone.precision={precision}"));
    }
    if let Some(weights) = &args.weights {
        overrides.push(format!("backbone.weights={}", toml::Value::String(absolute_weights(weights)?)));
    }
    match (&args.weights, &context.global.config) {
        (Some(_), None) if !args.data => {
            let minimal = "version = 1\n[data]\nfolder = \".\"\n";
            let mut config = Config::parse(minimal, "bench --weights", Path::new(""))?;
            config.set(&[&overrides[..], &context.global.overrides].concat())?;
            Ok(config.resolve(&context.registries)?)
        }
        _ => context.resolve_settings(&overrides),
    }
}

/// The argument `--weights` as an absolute path: the user means a path relative to the current folder, but a
/// relative path in a config starts at the folder of the config. An `hf://` name stays as it is.
fn absolute_weights(weights: &str) -> Result<String, TrainError> {
    if weights.starts_with("hf://") {
        return Ok(weights.to_owned());
    }
    let absolute = std::path::absolute(weights).map_err(|error| {
        TrainError::Usage(format!(
            "--weights {weights:?} cannot be used as a path ({error}): give a folder, a .safetensors file or \
             an hf:// name"
        ))
    })?;
    Ok(absolute.to_string_lossy().into_owned())
}
