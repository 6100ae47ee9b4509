//! How photos are prepared, by the files beside the weights.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::sync::{Arc, LazyLock, Mutex};

use headstock_backbone::{Checkpoint, Interpolation, Preprocessing, WeightsSource};
use serde::Deserialize;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Event, Metadata, Subscriber};

use crate::support::{CheckpointDir, golden_json, tensor_shapes, write_zeros};

/// A record of `records.json`.
#[derive(Deserialize)]
struct GoldenRecord {
    config: serde_json::Value,
    resize: u32,
    interpolation: Interpolation,
    crop: [u32; 2],
    mean: [f32; 3],
    std: [f32; 3],
}

/// Weights with nothing beside them.
fn dir_with_weights(architecture: &str) -> CheckpointDir {
    let folder = CheckpointDir::new();
    let shapes = tensor_shapes(architecture);
    let tensors = shapes.iter().filter(|(_, shape)| !shape.is_empty());
    let tensors = tensors.map(|(name, shape)| (name.as_str(), "F32", shape.as_slice()));
    write_zeros(&folder.path("model.safetensors"), tensors);
    folder
}

fn golden_records() -> BTreeMap<String, GoldenRecord> {
    let mut all: BTreeMap<String, serde_json::Value> = golden_json("records.json");
    all.remove("transformers");
    all.into_iter().map(|(name, record)| (name, serde_json::from_value(record).unwrap())).collect()
}

#[test]
fn photos_are_prepared_as_timm_prepares_them_for_each_of_its_weights() {
    let records = golden_records();
    assert!(records.len() >= 40);
    for depth in [18, 34, 50, 101, 152] {
        let architecture = format!("resnet{depth}");
        let folder = dir_with_weights(&architecture);
        for (name, golden) in records.iter().filter(|(name, _)| name.starts_with(&format!("{architecture}.")))
        {
            folder.write("config.json", golden.config.to_string());
            let expected = Preprocessing {
                resize: golden.resize,
                crop: golden.crop,
                interpolation: golden.interpolation,
                mean: golden.mean,
                std: golden.std,
            };
            assert_eq!(*folder.open().unwrap().preprocessing(), expected, "{name}");
        }
    }
    // Some that are easily got wrong.
    assert_eq!(records["resnet34.ra4_e3600_r224_in1k"].mean, [0.5; 3]);
    assert_eq!(records["resnet50.a1_in1k"].resize, 235);
    assert_eq!(records["resnet50.tv_in1k"].interpolation, Interpolation::Bilinear);
}

/// Whatever is left out of a record is what timm takes for it, and each key is followed.
#[test]
fn keys_that_a_record_of_timms_leaves_out_are_timms_defaults() {
    let cases: BTreeMap<String, GoldenRecord> = golden_json("defaults.json");
    assert_eq!(cases.len(), 12);
    let folder = dir_with_weights("resnet18");
    for (name, golden) in &cases {
        folder.write("config.json", golden.config.to_string());
        let expected = Preprocessing {
            resize: golden.resize,
            crop: golden.crop,
            interpolation: golden.interpolation,
            mean: golden.mean,
            std: golden.std,
        };
        assert_eq!(*folder.open().unwrap().preprocessing(), expected, "{name}");
    }
    // By hand: what a config without any of them gives.
    let nothing = &cases["nothing"];
    assert_eq!(
        (nothing.resize, nothing.crop, nothing.interpolation),
        (256, [224, 224], Interpolation::Bicubic)
    );
    assert_eq!((nothing.mean, nothing.std), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]));
}

/// timm's record comes before transformers', and one that is known before both.
#[test]
fn of_several_records_the_nearest_counts() {
    let folder = dir_with_weights("resnet18");
    let processor = r#"{"size": 224, "resample": 2, "image_mean": [0.3, 0.3, 0.3], "image_std": [1, 1, 1]}"#;
    folder.write("preprocessor_config.json", processor);
    let mean = || folder.open().unwrap().preprocessing().mean;
    assert_eq!(mean(), [0.3; 3]);
    folder.write("config.json", r#"{"architecture": "resnet18", "license": "mit"}"#);
    assert_eq!(mean(), [0.3; 3]);
    folder.write("config.json", r#"{"architecture": "resnet18", "mean": [0.4, 0.4, 0.4]}"#);
    assert_eq!(mean(), [0.4; 3]);
    // Beside a table, what lies outside it does not count.
    folder.write(
        "config.json",
        r#"{"architecture": "resnet18", "mean": [0.4, 0.4, 0.4], "pretrained_cfg": {"mean": [0.2, 0.2, 0.2]}}"#,
    );
    assert_eq!(mean(), [0.2; 3]);
    // Without an architecture the keys beside it are not timm's.
    folder.write("config.json", r#"{"mean": [0.4, 0.4, 0.4]}"#);
    assert_eq!(mean(), [0.3; 3]);
    let known = Preprocessing { resize: 232, ..Preprocessing::default() };
    let source = WeightsSource::parse("", &folder.path("")).unwrap();
    let checkpoint = Checkpoint::open_with(&source.fetch(&()).unwrap(), &known).unwrap();
    assert_eq!(*checkpoint.preprocessing(), known);
}

#[test]
fn the_licence_that_is_told_is_the_records_or_facebooks() {
    let folder = dir_with_weights("resnet50");
    for (config, licence) in [
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
        folder.write("config.json", config);
        let lines = log_lines(|| drop(folder.open().unwrap()));
        let expected = licence.map(|licence| {
            let origin = folder.path("").display().to_string();
            format!("WARN the weights {origin} are for non-commercial use only ({licence})")
        });
        assert_eq!(lines, Vec::from_iter(expected), "{config}");
    }
}

#[test]
fn timms_old_form_without_a_table_is_read() {
    let folder = dir_with_weights("resnet34");
    folder.write(
        "config.json",
        r#"{"architecture": "resnet34", "num_classes": 1000, "input_size": [3, 160, 160], "crop_pct": 0.95,
            "interpolation": "bicubic", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}"#,
    );
    let expected = Preprocessing {
        resize: 168,
        crop: [160, 160],
        interpolation: Interpolation::Bicubic,
        mean: [0.5; 3],
        std: [0.25; 3],
    };
    assert_eq!(*folder.open().unwrap().preprocessing(), expected);
}

#[test]
fn transformers_configs_and_processors_are_followed() {
    let records: BTreeMap<String, serde_json::Value> = golden_json("records.json");
    // microsoft/resnet-50, and what transformers 5 writes.
    let processors = [
        r#"{"crop_pct": 0.875, "do_normalize": true, "do_resize": true, "resample": 3, "size": 224,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}"#,
        r#"{"crop_pct": 0.875, "do_normalize": true, "do_rescale": true, "do_resize": true, "resample": 3,
            "image_processor_type": "ConvNextImageProcessor", "rescale_factor": 0.00392156862745098,
            "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
            "size": {"shortest_edge": 224}}"#,
    ];
    let expected = Preprocessing { interpolation: Interpolation::Bicubic, ..Preprocessing::default() };
    for (architecture, config) in records["transformers"].as_object().unwrap() {
        let folder = dir_with_weights(&format!("transformers-{architecture}"));
        folder.write("config.json", config.to_string());
        for processor in processors {
            folder.write("preprocessor_config.json", processor);
            let checkpoint = folder.open().unwrap();
            assert_eq!(checkpoint.architecture().as_str(), architecture);
            assert_eq!(*checkpoint.preprocessing(), expected);
        }
    }
}

#[test]
fn records_that_cannot_be_read_or_followed_are_refused_with_the_file_and_the_key() {
    let folder = dir_with_weights("resnet18");
    for (file, content, part) in [
        ("config.json", "{", "EOF while parsing"),
        ("config.json", r#"{"pretrained_cfg": {"mean": [0.5]}}"#, "invalid length 1"),
        (
            "config.json",
            r#"{"pretrained_cfg": {"input_size": [1, 224, 224]}}"#,
            "`pretrained_cfg.input_size`",
        ),
        ("config.json", r#"{"pretrained_cfg": {"crop_mode": "border"}}"#, "`pretrained_cfg.crop_mode`"),
        ("config.json", r#"{"pretrained_cfg": {"crop_pct": 1.5}}"#, "`pretrained_cfg.crop_pct`"),
        ("config.json", r#"{"pretrained_cfg": {"std": [1, 1, 0]}}"#, "std [1.0, 1.0, 0.0]"),
        ("config.json", r#"{"pretrained_cfg": {"input_size": [3, 16, 16]}}"#, "crop of 16 x 16"),
        ("preprocessor_config.json", r#"{"size": {"height": 224, "width": 224}}"#, "`size`"),
        ("preprocessor_config.json", r#"{"size": 224, "image_std": [1, 1, 1]}"#, "`resample` is missing"),
        ("preprocessor_config.json", r#"{"size": 224, "resample": 2}"#, "`image_mean` is missing"),
    ] {
        folder.write("config.json", "{}");
        folder.write("preprocessor_config.json", "{}");
        folder.write(file, content);
        let refusal = folder.open_error();
        assert!(refusal.contains(part) && refusal.contains(file), "{content}: {refusal}");
    }
}

#[test]
fn without_a_record_imagenets_is_used_and_a_line_says_so() {
    let folder = dir_with_weights("resnet18");
    for config in
        [None, Some("{}"), Some(r#"{"model_type": "resnet"}"#), Some(r#"{"architecture": "resnet18"}"#)]
    {
        if let Some(config) = config {
            folder.write("config.json", config);
        }
        let mut checkpoint = None;
        let lines = log_lines(|| checkpoint = folder.open().ok());
        assert_eq!(*checkpoint.unwrap().preprocessing(), Preprocessing::default());
        assert_eq!(lines.len(), 1, "{config:?}: {lines:?}");
        assert!(lines[0].starts_with("INFO no preprocessing is recorded beside"), "{lines:?}");
        assert!(lines[0].contains("short side 256, centre crop 224, bilinear"), "{lines:?}");
    }
}

#[test]
fn weights_that_forbid_commercial_use_are_warned_of_and_no_others() {
    let mut warned = Vec::new();
    for (name, golden) in golden_records() {
        if !name.starts_with("resnet18.") && !name.starts_with("resnet50.") {
            continue;
        }
        let folder = dir_with_weights(name.split('.').next().unwrap());
        folder.write("config.json", golden.config.to_string());
        let lines = log_lines(|| drop(folder.open().unwrap()));
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

    let folder = dir_with_weights("resnet50");
    folder.write("config.json", r#"{"architecture": "ssl_resnet50", "mean": [0.485, 0.456, 0.406]}"#);
    assert_eq!(log_lines(|| drop(folder.open().unwrap())).len(), 1);
}

/// While there is one subscriber only, an event that a thread without it meets first counts as of no interest to anyone.
static EXTRA_DISPATCHES: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));

/// The events of this crate while `act` runs, as `LEVEL message`.
fn log_lines(act: impl FnOnce()) -> Vec<String> {
    LazyLock::force(&EXTRA_DISPATCHES);
    let lines = Arc::default();
    tracing::subscriber::with_default(LogSubscriber(Arc::clone(&lines)), act);
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
