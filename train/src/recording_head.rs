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
pub(crate) struct FitRecord {
    /// The parameter `point` of the head.
    pub(crate) grid_point: u32,
    /// The rows that were fitted on, in order.
    pub(crate) rows: Vec<u32>,
    pub(crate) labels: Vec<u32>,
    pub(crate) groups: Option<Vec<u32>>,
    /// Whether there was a head to start from.
    pub(crate) warm_started: bool,
    /// The rows that the fitted head was asked of, one list a call.
    pub(crate) queried: Vec<Vec<u32>>,
}

impl FitRecord {
    /// Every row that the head was asked of.
    pub(crate) fn all_queried(&self) -> BTreeSet<u32> {
        self.queried.concat().into_iter().collect()
    }
}

static FIT_RECORDS: Mutex<BTreeMap<String, Vec<FitRecord>>> = Mutex::new(BTreeMap::new());

fn with_fit_records<T>(tag: &str, act: impl FnOnce(&mut Vec<FitRecord>) -> T) -> T {
    let mut all = FIT_RECORDS.lock().unwrap_or_else(PoisonError::into_inner);
    act(all.entry(tag.to_owned()).or_default())
}

/// What the heads with this tag have noted, a fit each, in the order in which the fits began; they begin anew.
pub(crate) fn take_fit_records(tag: &str) -> Vec<FitRecord> {
    with_fit_records(tag, std::mem::take)
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
pub(crate) struct RecordingHead {
    tag: String,
    fit_index: usize,
    width: usize,
    /// The class of each row that it was fitted on, as it was there.
    label_of_row: BTreeMap<u32, u32>,
    class_counts: Vec<f32>,
}

impl HeadConfig for RecordingConfig {
    const KIND: &'static str = "recording";
    const ABOUT: &'static str = "notes what it is given";
    const PARAMETERS: &'static [HyperparameterInfo] =
        &[("tag", "where it is noted"), ("point", "a place in the grid")];
    const SUPPORTS_WARM_START: bool = true;
    type Head = RecordingHead;

    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }

    fn fit(
        &self,
        data: &TrainingSet<'_>,
        context: &FitContext<'_>,
    ) -> Result<Fitted<RecordingHead>, HeadError> {
        let rows = row_ids(data.features());
        let noted = FitRecord {
            grid_point: self.point,
            rows: rows.clone(),
            labels: data.labels().to_vec(),
            groups: data.groups().map(<[u32]>::to_vec),
            warm_started: context.warm_start.is_some(),
            queried: Vec::new(),
        };
        let fit = with_fit_records(&self.tag, |notes| {
            notes.push(noted);
            notes.len() - 1
        });
        Ok(Fitted::without_history(RecordingHead {
            tag: self.tag.clone(),
            fit_index: fit,
            width: data.features().width(),
            label_of_row: rows.into_iter().zip(data.labels().iter().copied()).collect(),
            class_counts: data.class_counts().iter().map(|&count| count as f32 + 1.0).collect(),
        }))
    }

    fn load(&self, _: &Tensors) -> Result<RecordingHead, HeadError> {
        Err(HeadError::Data("what it noted is not kept".into()))
    }

    fn grid(&self) -> Vec<Self> {
        (0..2).map(|point| Self { point, ..self.clone() }).collect()
    }
}

impl Head for RecordingHead {
    fn width(&self) -> usize {
        self.width
    }

    fn classes(&self) -> usize {
        self.class_counts.len()
    }

    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        let rows = row_ids(features);
        let mut logits = Vec::with_capacity(rows.len() * self.class_counts.len());
        for row in &rows {
            let known = self.label_of_row.get(row);
            let logit = |class: usize| {
                self.class_counts[class].ln() + if known == Some(&(class as u32)) { 9.0 } else { 0.0 }
            };
            logits.extend((0..self.class_counts.len()).map(logit));
        }
        with_fit_records(&self.tag, |notes| {
            // A test that has taken its notes already asks for nothing more.
            if let Some(noted) = notes.get_mut(self.fit_index) {
                noted.queried.push(rows);
            }
        });
        Logits::new(logits, self.class_counts.len())
    }

    fn tensors(&self) -> Result<Tensors, HeadError> {
        Ok(Tensors::from([("counts".into(), Tensor::new(self.class_counts.as_slice(), &Device::Cpu)?)]))
    }
}

/// What a row is known by: those made for a test by their first feature, which is their number; those of photos, which have
/// more features, by the bits of all (FNV-1a).
pub(crate) fn row_id(row: &[f32]) -> u32 {
    let hash = |hash: u32, value: &f32| (hash ^ value.to_bits()).wrapping_mul(0x0100_0193);
    if row.len() == 2 { row[0] as u32 } else { row.iter().fold(0x811c_9dc5, hash) }
}

fn row_ids(features: FeatureMatrix<'_>) -> Vec<u32> {
    features.rows().map(row_id).collect()
}

/// The heads, and the one that notes.
pub(crate) fn registry_with_recording() -> Registry {
    let mut heads = Registry::builtin();
    heads.add::<RecordingConfig>().expect("there is no other of its name");
    heads
}

/// A row of features made for a test.
#[derive(Clone, Debug)]
pub(crate) struct FeatureRow {
    pub(crate) values: Vec<f32>,
    pub(crate) class: String,
    pub(crate) group: Option<String>,
}

/// Rows whose first feature is their number, of these classes; `group` names the group of a row, where there are groups.
pub(crate) fn numbered_rows(classes: &[&str], group: Option<&dyn Fn(usize) -> usize>) -> Vec<FeatureRow> {
    let row = |(number, class): (usize, &&str)| FeatureRow {
        values: vec![number as f32, (number * 7 % 11) as f32],
        class: (*class).to_owned(),
        group: group.map(|group| format!("g{:03}", group(number))),
    };
    classes.iter().enumerate().map(row).collect()
}

/// Writes `rows` as `NAME.npy` and the table beside it.
pub(crate) fn write_features(folder: &Path, name: &str, rows: &[FeatureRow]) {
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
pub(crate) fn features_settings(folder: &Path, name: &str, more: &str) -> Settings {
    let config = format!("version = 1\n{more}\n[data]\nfeatures = \"{name}.npy\"\n");
    let config = Config::parse(&config, "test", folder).expect("a config");
    config.resolve(&registry_with_recording()).expect("settings")
}

/// A photo of one colour, `shade` of it.
pub(crate) fn solid_color_png(shade: usize) -> Vec<u8> {
    let shade = (shade * 3) as u8;
    let pixels = [shade, 255 - shade, 90].repeat(64 * 64);
    png(&image::RgbImage::from_raw(64, 64, pixels).expect("so many pixels"))
}

/// The bundled weights as `backbone` in `folder`, with a record of photos of 32 x 32 pixels.
pub(crate) fn write_backbone(folder: &Path) {
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
