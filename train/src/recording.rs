//! For tests: a head that notes which rows it was given, and features whose rows can be told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};
use headstock_heads::{
    FeatureMatrix, FitContext, Fitted, Head, HeadConfig, HeadError, HyperparameterInfo, Logits, Registry,
    Tensors, TrainingSet,
};
use headstock_loader::encode::png;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Settings};

/// What a fit was given. Rows are known by their [`number`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Noted {
    /// The parameter `point` of the head.
    pub(crate) point: u32,
    /// The rows that were fitted on, in order.
    pub(crate) rows: Vec<u32>,
    pub(crate) labels: Vec<u32>,
    pub(crate) groups: Option<Vec<u32>>,
    /// Whether there was a head to start from.
    pub(crate) warm: bool,
    /// The rows that the fitted head was asked of, one list a call.
    pub(crate) asked: Vec<Vec<u32>>,
}

impl Noted {
    /// Every row that the head was asked of.
    pub(crate) fn all_asked(&self) -> BTreeSet<u32> {
        self.asked.concat().into_iter().collect()
    }
}

static NOTES: Mutex<BTreeMap<String, Vec<Noted>>> = Mutex::new(BTreeMap::new());

fn with_notes<T>(tag: &str, act: impl FnOnce(&mut Vec<Noted>) -> T) -> T {
    let mut all = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
    act(all.entry(tag.to_owned()).or_default())
}

/// What the heads with this tag have noted, a fit each, in the order in which the fits began; they begin anew.
pub(crate) fn notes(tag: &str) -> Vec<Noted> {
    with_notes(tag, std::mem::take)
}

/// A head that notes what it is given under its `tag`, which each test has of its own. It knows the rows that it was fitted
/// on by heart, and of others only how often each class occurs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RecordingConfig {
    tag: String,
    point: u32,
}

#[derive(Debug)]
pub(crate) struct Recording {
    tag: String,
    fit: usize,
    width: usize,
    /// The class of each row that it was fitted on, as it was there.
    known: BTreeMap<u32, u32>,
    counts: Vec<f32>,
}

impl HeadConfig for RecordingConfig {
    const KIND: &'static str = "recording";
    const ABOUT: &'static str = "notes what it is given";
    const PARAMETERS: &'static [HyperparameterInfo] =
        &[("tag", "where it is noted"), ("point", "a place in the grid")];
    const SUPPORTS_WARM_START: bool = true;
    type Head = Recording;

    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }

    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Recording>, HeadError> {
        let rows = numbers(data.features());
        let noted = Noted {
            point: self.point,
            rows: rows.clone(),
            labels: data.labels().to_vec(),
            groups: data.groups().map(<[u32]>::to_vec),
            warm: context.warm_start.is_some(),
            asked: Vec::new(),
        };
        let fit = with_notes(&self.tag, |notes| {
            notes.push(noted);
            notes.len() - 1
        });
        Ok(Fitted::without_history(Recording {
            tag: self.tag.clone(),
            fit,
            width: data.features().width(),
            known: rows.into_iter().zip(data.labels().iter().copied()).collect(),
            counts: data.class_counts().iter().map(|&count| count as f32 + 1.0).collect(),
        }))
    }

    fn load(&self, _: &Tensors) -> Result<Recording, HeadError> {
        Err(HeadError::Data("what it noted is not kept".into()))
    }

    fn grid(&self) -> Vec<Self> {
        (0..2).map(|point| Self { point, ..self.clone() }).collect()
    }
}

impl Head for Recording {
    fn width(&self) -> usize {
        self.width
    }

    fn classes(&self) -> usize {
        self.counts.len()
    }

    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        let rows = numbers(features);
        let mut logits = Vec::with_capacity(rows.len() * self.counts.len());
        for row in &rows {
            let known = self.known.get(row);
            let logit = |class: usize| {
                self.counts[class].ln() + if known == Some(&(class as u32)) { 9.0 } else { 0.0 }
            };
            logits.extend((0..self.counts.len()).map(logit));
        }
        with_notes(&self.tag, |notes| {
            // A test that has taken its notes already asks for nothing more.
            if let Some(noted) = notes.get_mut(self.fit) {
                noted.asked.push(rows);
            }
        });
        Logits::new(logits, self.counts.len())
    }

    fn tensors(&self) -> Result<Tensors, HeadError> {
        Ok(Tensors::from([("counts".into(), Tensor::new(self.counts.as_slice(), &Device::Cpu)?)]))
    }
}

/// What a row is known by: those made for a test by their first feature, which is their number; those of photos, which have
/// more features, by the bits of all (FNV-1a).
pub(crate) fn number(row: &[f32]) -> u32 {
    let hash = |hash: u32, value: &f32| (hash ^ value.to_bits()).wrapping_mul(0x0100_0193);
    if row.len() == 2 { row[0] as u32 } else { row.iter().fold(0x811c_9dc5, hash) }
}

fn numbers(features: FeatureMatrix<'_>) -> Vec<u32> {
    features.rows().map(number).collect()
}

/// The heads, and the one that notes.
pub(crate) fn registry() -> Registry {
    let mut heads = Registry::builtin();
    heads.add::<RecordingConfig>().expect("there is no other of its name");
    heads
}

/// A row of features made for a test.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) values: Vec<f32>,
    pub(crate) class: String,
    pub(crate) group: Option<String>,
}

/// Rows whose first feature is their number, of these classes; `group` names the group of a row, where there are groups.
pub(crate) fn numbered(classes: &[&str], group: Option<&dyn Fn(usize) -> usize>) -> Vec<Made> {
    let row = |(number, class): (usize, &&str)| Made {
        values: vec![number as f32, (number * 7 % 11) as f32],
        class: (*class).to_owned(),
        group: group.map(|group| format!("g{:03}", group(number))),
    };
    classes.iter().enumerate().map(row).collect()
}

/// Writes `rows` as `NAME.npy` and the table beside it.
pub(crate) fn write(folder: &Path, name: &str, rows: &[Made]) {
    let header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
        rows.len(),
        rows[0].values.len()
    );
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    rows.iter().flat_map(|row| &row.values).for_each(|value| bytes.extend(value.to_le_bytes()));
    fs::write(folder.join(format!("{name}.npy")), bytes).expect("a file");

    let mut names: Vec<&str> = rows.iter().map(|row| row.class.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let grouped = rows[0].group.is_some();
    let columns = if grouped { &["label", "class", "group"][..] } else { &["label", "class"] };
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(columns).expect("a header");
    for row in rows {
        let label = names.binary_search(&row.class.as_str()).expect("it is among them").to_string();
        let fields = [Some(label), Some(row.class.clone()), row.group.clone()];
        table.write_record(fields.into_iter().flatten()).expect("a row");
    }
    let table = table.into_inner().expect("a vector takes every byte");
    fs::write(folder.join(format!("{name}.csv")), table).expect("a file");
}

/// Settings for `NAME.npy` in `folder`, with more lines of config.
pub(crate) fn settings(folder: &Path, name: &str, more: &str) -> Settings {
    let config = format!("version = 1\n{more}\n[data]\nfeatures = \"{name}.npy\"\n");
    let config = Config::parse(&config, "test", folder).expect("a config");
    config.resolve(&registry()).expect("settings")
}

/// A photo of one colour, `shade` of it.
pub(crate) fn photo(shade: usize) -> Vec<u8> {
    let shade = (shade * 3) as u8;
    let pixels = [shade, 255 - shade, 90].repeat(64 * 64);
    png(&image::RgbImage::from_raw(64, 64, pixels).expect("so many pixels"))
}

/// The bundled weights as `backbone` in `folder`, with a record of photos of 32 x 32 pixels.
pub(crate) fn backbone(folder: &Path) {
    let weights = folder.join("backbone");
    fs::create_dir(&weights).expect("a folder");
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/backbone/model.safetensors");
    let here = weights.join("model.safetensors");
    if fs::hard_link(&bundled, &here).is_err() {
        fs::copy(&bundled, &here).expect("the weights");
    }
    let record = r#"{"architecture": "resnet50", "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 1.0,
        "interpolation": "bilinear", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}}"#;
    fs::write(weights.join("config.json"), record).expect("a record");
}
