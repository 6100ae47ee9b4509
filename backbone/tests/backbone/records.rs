//! Preprocessing from the config files of the weights.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::sync::{Arc, LazyLock, Mutex};

use headstock_backbone::{Checkpoint, Preprocessing, Resampling, WeightsSource};
use serde::Deserialize;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Event, Metadata, Subscriber};

use crate::support::{CheckpointDir, golden_json, tensor_shapes, write_zeros};

/// A config of timm and the preprocessing of timm's transform, from `records.json`.
#[derive(Deserialize)]
struct GoldenRecord {
    config: serde_json::Value,
    resize: u32,
    interpolation: Resampling,
    crop: [u32; 2],
    mean: [f32; 3],
    std: [f32; 3],
}

/// Weights without config files.
fn dir_with_weights(architecture: &str) -> CheckpointDir {
    let directory = CheckpointDir::new();
    let shapes = tensor_shapes(architecture);
    let tensors = shapes.iter().filter(|(_, shape)| !shape.is_empty());
    let tensors = tensors.map(|(name, shape)| (name.as_str(), "F32", shape.as_slice()));
    write_zeros(&directory.path("model.safetensors"), tensors);
    directory
}

fn golden_records() -> BTreeMap<String, GoldenRecord> {
    let mut records: BTreeMap<String, serde_json::Value> = golden_json("records.json");
    records.remove("transformers");
    records.into_iter().map(|(name, record)| (name, serde_json::from_value(record).unwrap())).collect()
}

#[test]
fn the_preprocessing_of_all_weights_of_timm_matches_timm() {
    let records = golden_records();
    assert!(records.len() >= 40);
    for depth in [18, 34, 50, 101, 152] {
        let architecture = format!("resnet{depth}");
        let directory = dir_with_weights(&architecture);
        for (name, golden) in records.iter().filter(|(name, _)| name.starts_with(&format!("{architecture}.")))
        {
            directory.write("config.json", golden.config.to_string());
            let expected = Preprocessing {
                resize: golden.resize.into(),
                crop: golden.crop,
                interpolation: golden.interpolation,
                mean: golden.mean,
                std: golden.std,
            };
            assert_eq!(*directory.open().unwrap().preprocessing(), expected, "{name}");
        }
    }
    // Some easy mistakes.
    assert_eq!(records["resnet34.ra4_e3600_r224_in1k"].mean, [0.5; 3]);
    assert_eq!(records["resnet50.a1_in1k"].resize, 235);
    assert_eq!(records["resnet50.tv_in1k"].interpolation, Resampling::Bilinear);
}

#[test]
fn missing_keys_have_the_defaults_of_timm() {
    let cases: BTreeMap<String, GoldenRecord> = golden_json("defaults.json");
    assert_eq!(cases.len(), 12);
    let directory = dir_with_weights("resnet18");
    for (name, golden) in &cases {
        directory.write("config.json", golden.config.to_string());
        let expected = Preprocessing {
            resize: golden.resize.into(),
            crop: golden.crop,
            interpolation: golden.interpolation,
            mean: golden.mean,
            std: golden.std,
        };
        assert_eq!(*directory.open().unwrap().preprocessing(), expected, "{name}");
    }
    // A config without any key, with values from timm's documentation.
    let nothing = &cases["nothing"];
    assert_eq!((nothing.resize, nothing.crop, nothing.interpolation), (256, [224, 224], Resampling::Bicubic));
    assert_eq!((nothing.mean, nothing.std), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]));
}

#[test]
fn an_explicit_preprocessing_precedes_timms_and_that_precedes_transformers() {
    let directory = dir_with_weights("resnet18");
    let processor = r#"{"size": 224, "resample": 2, "image_mean": [0.3, 0.3, 0.3], "image_std": [1, 1, 1]}"#;
    directory.write("preprocessor_config.json", processor);
    let mean = || directory.open().unwrap().preprocessing().mean;
    assert_eq!(mean(), [0.3; 3]);
    directory.write("config.json", r#"{"architecture": "resnet18", "license": "mit"}"#);
    assert_eq!(mean(), [0.3; 3]);
    directory.write("config.json", r#"{"architecture": "resnet18", "mean": [0.4, 0.4, 0.4]}"#);
    assert_eq!(mean(), [0.4; 3]);
    // With `pretrained_cfg`, the keys at the top level are ignored.
    directory.write(
        "config.json",
        r#"{"architecture": "resnet18", "mean": [0.4, 0.4, 0.4], "pretrained_cfg": {"mean": [0.2, 0.2, 0.2]}}"#,
    );
    assert_eq!(mean(), [0.2; 3]);
    // Without an architecture, the keys at the top level are not timm's.
    directory.write("config.json", r#"{"mean": [0.4, 0.4, 0.4]}"#);
    assert_eq!(mean(), [0.3; 3]);
    let explicit = Preprocessing { resize: 232.into(), ..Preprocessing::default() };
    let source = WeightsSource::parse("", &directory.path("")).unwrap();
    let checkpoint = Checkpoint::open_with(&source.fetch(&()).unwrap(), Some(&explicit)).unwrap();
    assert_eq!(*checkpoint.preprocessing(), explicit);
}

#[test]
fn the_warning_names_the_license_of_the_config_or_of_facebook() {
    let directory = dir_with_weights("resnet50");
    for (config, license) in [
        (
            r#"{"architecture": "resnet50", "pretrained_cfg": {"license": "cc-by-nc-sa-4.0"}}"#,
            Some("cc-by-nc-sa-4.0"),
        ),
        (
            r#"{"architecture": "resnet50", "pretrained_cfg": {"tag": "fb_swsl_ig1b_ft_in1k"}}"#,
            Some("cc-by-nc-4.0"),
        ),
        (r#"{"architecture": "swsl_resnet50", "pretrained_cfg": {"license": "mit"}}"#, Some("mit")),
        (
            r#"{"architecture": "resnet50", "pretrained_cfg": {"license": "apache-2.0", "tag": "a1_in1k"}}"#,
            None,
        ),
        (r#"{"architecture": "resnet50", "pretrained_cfg": {"tag": "a1_in1k"}}"#, None),
    ] {
        directory.write("config.json", config);
        let lines = log_lines(|| drop(directory.open().unwrap()));
        let expected = license.map(|license| {
            let origin = directory.path("").display().to_string();
            format!("WARN the weights {origin} are for non-commercial use only ({license})")
        });
        assert_eq!(lines, Vec::from_iter(expected), "{config}");
    }
}

#[test]
fn the_old_format_of_timm_is_supported() {
    let directory = dir_with_weights("resnet34");
    directory.write(
        "config.json",
        r#"{"architecture": "resnet34", "num_classes": 1000, "input_size": [3, 160, 160], "crop_pct": 0.95,
            "interpolation": "bicubic", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}"#,
    );
    let expected = Preprocessing {
        resize: 168.into(),
        crop: [160, 160],
        interpolation: Resampling::Bicubic,
        mean: [0.5; 3],
        std: [0.25; 3],
    };
    assert_eq!(*directory.open().unwrap().preprocessing(), expected);
}

#[test]
fn configs_and_processors_of_transformers_are_supported() {
    let records: BTreeMap<String, serde_json::Value> = golden_json("records.json");
    // microsoft/resnet-50, and the same as written by transformers 5.
    let processors = [
        r#"{"crop_pct": 0.875, "do_normalize": true, "do_resize": true, "resample": 3, "size": 224,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}"#,
        r#"{"crop_pct": 0.875, "do_normalize": true, "do_rescale": true, "do_resize": true, "resample": 3,
            "image_processor_type": "ConvNextImageProcessor", "rescale_factor": 0.00392156862745098,
            "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
            "size": {"shortest_edge": 224}}"#,
    ];
    let expected = Preprocessing { interpolation: Resampling::Bicubic, ..Preprocessing::default() };
    for (architecture, config) in records["transformers"].as_object().unwrap() {
        let directory = dir_with_weights(&format!("transformers-{architecture}"));
        directory.write("config.json", config.to_string());
        for processor in processors {
            directory.write("preprocessor_config.json", processor);
            let checkpoint = directory.open().unwrap();
            assert_eq!(checkpoint.architecture().as_str(), architecture);
            assert_eq!(*checkpoint.preprocessing(), expected);
        }
    }
}

#[test]
fn errors_of_invalid_configs_name_the_file_and_the_key() {
    let directory = dir_with_weights("resnet18");
    for (file, content, part) in [
        ("config.json", "{", "the file is not a valid model config (EOF while parsing"),
        ("config.json", r#"{"pretrained_cfg": {"mean": [0.5]}}"#, "invalid length 1"),
        (
            "config.json",
            r#"{"pretrained_cfg": {"input_size": [1, 224, 224]}}"#,
            "`pretrained_cfg.input_size`",
        ),
        ("config.json", r#"{"pretrained_cfg": {"crop_mode": "border"}}"#, "`pretrained_cfg.crop_mode`"),
        ("config.json", r#"{"pretrained_cfg": {"crop_pct": 1.5}}"#, "`pretrained_cfg.crop_pct`"),
        ("config.json", r#"{"pretrained_cfg": {"std": [1, 1, 0]}}"#, "std [1.0, 1.0, 0.0]"),
        (
            "config.json",
            r#"{"pretrained_cfg": {"input_size": [3, 16, 16]}}"#,
            "cropped to 16 x 16 pixels: all sizes must be from 32 to 8192, and the crop must not exceed the \
             short side; choose different weights, or change this file",
        ),
        (
            "preprocessor_config.json",
            r#"{"size": {"height": 224}}"#,
            "`size` has neither a `shortest_edge` nor",
        ),
        ("preprocessor_config.json", r#"{"size": 224, "image_std": [1, 1, 1]}"#, "`resample` is missing"),
        ("preprocessor_config.json", r#"{"size": 224, "resample": 2}"#, "`image_mean` is missing"),
    ] {
        directory.write("config.json", "{}");
        directory.write("preprocessor_config.json", "{}");
        directory.write(file, content);
        let error = directory.open_error();
        assert!(error.contains(part) && error.contains(file), "{content}: {error}");
    }
}

#[test]
fn without_a_config_the_preprocessing_of_imagenet_is_used_and_logged() {
    let directory = dir_with_weights("resnet18");
    for config in
        [None, Some("{}"), Some(r#"{"model_type": "resnet"}"#), Some(r#"{"architecture": "resnet18"}"#)]
    {
        if let Some(config) = config {
            directory.write("config.json", config);
        }
        let mut checkpoint = None;
        let lines = log_lines(|| checkpoint = directory.open().ok());
        assert_eq!(*checkpoint.unwrap().preprocessing(), Preprocessing::default());
        assert_eq!(lines.len(), 1, "{config:?}: {lines:?}");
        assert!(lines[0].starts_with("INFO no config file of the weights"), "{lines:?}");
        assert!(
            lines[0]
                .contains("(short side resized to 256 pixels, bilinear; then the central 224 x 224 pixels)"),
            "{lines:?}"
        );
    }
}

#[test]
fn a_warning_is_logged_only_for_non_commercial_weights() {
    let mut warned = Vec::new();
    for (name, golden) in golden_records() {
        if !name.starts_with("resnet18.") && !name.starts_with("resnet50.") {
            continue;
        }
        let directory = dir_with_weights(name.split('.').next().unwrap());
        directory.write("config.json", golden.config.to_string());
        let lines = log_lines(|| drop(directory.open().unwrap()));
        if let [line] = lines.as_slice() {
            assert!(line.starts_with("WARN the weights") && line.contains("non-commercial"), "{line}");
            warned.push(name);
        } else {
            assert!(lines.is_empty(), "{lines:?}");
        }
    }
    let expected = [
        "resnet18.fb_ssl_yfcc100m_ft_in1k",
        "resnet18.fb_swsl_ig1b_ft_in1k",
        "resnet50.fb_ssl_yfcc100m_ft_in1k",
        "resnet50.fb_swsl_ig1b_ft_in1k",
    ];
    assert_eq!(warned, expected);

    let directory = dir_with_weights("resnet50");
    directory.write("config.json", r#"{"architecture": "ssl_resnet50", "mean": [0.485, 0.456, 0.406]}"#);
    assert_eq!(log_lines(|| drop(directory.open().unwrap())).len(), 1);
}

/// Further subscribers, without which an event that is first reached by a thread without subscriber would be
/// disabled globally.
static EXTRA_DISPATCHES: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));

/// The log of this crate while `run` runs, as `LEVEL message`.
pub(crate) fn log_lines(run: impl FnOnce()) -> Vec<String> {
    LazyLock::force(&EXTRA_DISPATCHES);
    let lines = Arc::default();
    tracing::subscriber::with_default(LogSubscriber(Arc::clone(&lines)), run);
    lines.lock().unwrap().clone()
}

struct LogSubscriber(Arc<Mutex<Vec<String>>>);

impl Subscriber for LogSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("headstock_backbone")
    }

    fn event(&self, event: &Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if field.name() == "message" {
                    write!(self.0, " {value:?}").unwrap();
                }
            }
        }
        let mut message = Message(event.metadata().level().to_string());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
