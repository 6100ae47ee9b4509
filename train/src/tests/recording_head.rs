//! For tests: a head that records the rows it is fitted on and queried for, and features with identifiable
//! rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};
use headstock_heads::{
    FeatureMatrix, FitContext, Fitted, Head, HeadConfig, HeadError, Logits, Registry, Tensors, TrainingSet,
};
use headstock_loader::encode::png;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Settings};

/// The inputs of a fit. Rows are identified by their [`row_id`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FitRecord {
    /// The head's parameter `point`.
    pub(crate) grid_point: u32,
    /// The rows that the head was fitted on, in order.
    pub(crate) rows: Vec<u32>,
    pub(crate) labels: Vec<u32>,
    pub(crate) groups: Option<Vec<u32>>,
    /// Whether it was a warm start.
    pub(crate) warm_started: bool,
    /// The rows that the fitted head computed logits of, one list per call.
    pub(crate) queried: Vec<Vec<u32>>,
}

impl FitRecord {
    /// Every row that the fitted head computed logits of, so that a test can check that none was fitted on.
    pub(crate) fn all_queried(&self) -> BTreeSet<u32> {
        self.queried.concat().into_iter().collect()
    }
}

/// The records of all fits, by the tag of the head.
static FIT_RECORDS: Mutex<BTreeMap<String, Vec<FitRecord>>> = Mutex::new(BTreeMap::new());

/// Calls `access` with the records of the heads with this tag, one per fit, and returns its result.
fn with_fit_records<T>(tag: &str, access: impl FnOnce(&mut Vec<FitRecord>) -> T) -> T {
    let mut records = FIT_RECORDS.lock().unwrap_or_else(PoisonError::into_inner);
    access(records.entry(tag.to_owned()).or_default())
}

/// Takes the records of all heads with this tag, one per fit, in the order in which the fits began.
pub(crate) fn take_fit_records(tag: &str) -> Vec<FitRecord> {
    with_fit_records(tag, std::mem::take)
}

/// A head that records its inputs under its `tag`, which must be unique to a test. It memorizes its training
/// rows; for other rows it predicts the class frequencies.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RecordingConfig {
    /// Key of the records.
    tag: String,
    /// Index in the grid.
    point: u32,
}

/// The fitted head of [`RecordingConfig`].
#[derive(Debug)]
pub(crate) struct RecordingHead {
    tag: String,
    fit_index: usize,
    width: usize,
    /// The label of each row it was fitted on.
    label_of_row: BTreeMap<u32, u32>,
    class_counts: Vec<f32>,
}

impl HeadConfig for RecordingConfig {
    const KIND: &'static str = "recording";
    const ABOUT: &'static str = "records its inputs";
    const SUPPORTS_WARM_START: bool = true;
    type Head = RecordingHead;

    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }

    /// Records the training data under the tag of the head, for a test to look at, and memorizes the label of
    /// each row.
    fn fit(
        &self,
        data: &TrainingSet<'_>,
        context: &FitContext<'_>,
    ) -> Result<Fitted<RecordingHead>, HeadError> {
        let rows = row_ids(data.features());
        let record = FitRecord {
            grid_point: self.point,
            rows: rows.clone(),
            labels: data.labels().to_vec(),
            groups: data.groups().map(<[u32]>::to_vec),
            warm_started: context.warm_start.is_some(),
            queried: Vec::new(),
        };
        let fit_index = with_fit_records(&self.tag, |records| {
            records.push(record);
            records.len() - 1
        });
        Ok(Fitted::without_history(RecordingHead {
            tag: self.tag.clone(),
            fit_index,
            width: data.features().width(),
            label_of_row: rows.into_iter().zip(data.labels().iter().copied()).collect(),
            // Plus 1, so that the logarithm of the count of an absent class is finite.
            class_counts: data.class_counts().iter().map(|&count| count as f32 + 1.0).collect(),
        }))
    }

    fn load(&self, _: &Tensors) -> Result<RecordingHead, HeadError> {
        Err(HeadError::Data("the head `recording` (for tests only) cannot be loaded from a file".into()))
    }

    /// Two configs that differ only in their number in the grid, so that tests see a grid search.
    fn candidate_configs(&self) -> Vec<Self> {
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

    /// Records the rows of `features`, and returns logits `[N, C]` of this head for tests: the logarithm of
    /// the class counts, plus 9 for the label of a row that was fitted on. 9 outweighs the class counts, so
    /// that the head looks perfect on rows that it has seen, and a test finds out if they leak into an
    /// evaluation.
    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        let rows = row_ids(features);
        let mut logits = Vec::with_capacity(rows.len() * self.class_counts.len());
        for row in &rows {
            let label = self.label_of_row.get(row);
            let logit = |class: usize| {
                self.class_counts[class].ln() + if label == Some(&(class as u32)) { 9.0 } else { 0.0 }
            };
            logits.extend((0..self.class_counts.len()).map(logit));
        }
        with_fit_records(&self.tag, |records| {
            // The test may have taken the records already.
            if let Some(record) = records.get_mut(self.fit_index) {
                record.queried.push(rows);
            }
        });
        Logits::new(logits, self.class_counts.len())
    }

    fn tensors(&self) -> Result<Tensors, HeadError> {
        Ok(Tensors::from([("counts".into(), Tensor::new(self.class_counts.as_slice(), &Device::Cpu)?)]))
    }
}

/// The number by which tests recognize a row of features: the first feature in the two-feature rows of
/// [`numbered_rows`], the FNV-1a hash of the bits in features of images.
pub(crate) fn row_id(row: &[f32]) -> u32 {
    let hash = |hash: u32, value: &f32| (hash ^ value.to_bits()).wrapping_mul(0x0100_0193);
    if row.len() == 2 { row[0] as u32 } else { row.iter().fold(0x811c_9dc5, hash) }
}

/// The [`row_id`] of each row, `[N]`.
fn row_ids(features: FeatureMatrix<'_>) -> Vec<u32> {
    features.rows().map(row_id).collect()
}

/// The built-in heads and the recording head, so that a test config can name `recording` as its head.
pub(crate) fn registry_with_recording() -> Registry {
    let mut heads = Registry::builtin();
    heads.add::<RecordingConfig>().expect("the name is unused");
    heads
}

/// A row of a feature file made for a test.
#[derive(Clone, Debug)]
pub(crate) struct FeatureRow {
    pub(crate) values: Vec<f32>,
    pub(crate) class: String,
    pub(crate) group: Option<String>,
}

/// Samples for tests, one of each entry of `classes`. The first feature of a sample is its index, so that a
/// test recognizes it by [`row_id`]; the second is arbitrary. `group` maps the index of a sample to the
/// number of its group; `None` for samples without groups.
pub(crate) fn numbered_rows(classes: &[&str], group: Option<&dyn Fn(usize) -> usize>) -> Vec<FeatureRow> {
    let row = |(number, class): (usize, &&str)| FeatureRow {
        values: vec![number as f32, (number * 7 % 11) as f32],
        class: (*class).to_owned(),
        group: group.map(|group| format!("g{:03}", group(number))),
    };
    classes.iter().enumerate().map(row).collect()
}

/// Writes a data set of precomputed features into `folder`: the values of `rows` as `NAME.npy`, and their
/// labels, classes and groups as `NAME.csv`.
pub(crate) fn write_features(folder: &Path, name: &str, rows: &[FeatureRow]) {
    let header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
        rows.len(),
        rows[0].values.len()
    );
    // Padded to 118 bytes: with the 10 bytes before it, it ends at a multiple of 64, as NumPy specifies.
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
        let label = names.binary_search(&row.class.as_str()).expect("the class is listed").to_string();
        let fields = [Some(label), Some(row.class.clone()), row.group.clone()];
        table.write_record(fields.into_iter().flatten()).expect("a row");
    }
    let table = table.into_inner().expect("writing to a vector succeeds");
    fs::write(folder.join(format!("{name}.csv")), table).expect("a file");
}

/// Settings to train on the features `NAME.npy` in `folder`, with the additional config lines `more`. The
/// recording head is available.
pub(crate) fn features_settings(folder: &Path, name: &str, more: &str) -> Settings {
    let config = format!("version = 1\n{more}\n[data]\nfeatures = \"{name}.npy\"\n");
    let config = Config::parse(&config, "test", folder).expect("a config");
    config.resolve(&registry_with_recording().into()).expect("settings")
}

/// A PNG image of 64 x 64 pixels of a single color, which differs for each `shade` below 256.
pub(crate) fn solid_color_png(shade: usize) -> Vec<u8> {
    let shade = (shade * 3) as u8;
    let pixels = [shade, 255 - shade, 90].repeat(64 * 64);
    png(&image::RgbImage::from_raw(64, 64, pixels).expect("the size fits"))
}

/// Writes the weights of the demo's ResNet-50 as `backbone` in `folder`, with a config that resizes images to
/// 32 x 32 pixels, so that tests are fast.
pub(crate) fn write_backbone(folder: &Path) {
    let weights = folder.join("backbone");
    fs::create_dir(&weights).expect("a folder");
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/backbone/model.safetensors");
    let here = weights.join("model.safetensors");
    if fs::hard_link(&bundled, &here).is_err() {
        fs::copy(&bundled, &here).expect("the weights");
    }
    let config = r#"{"architecture": "resnet50", "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 1.0,
        "interpolation": "bilinear", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}}"#;
    fs::write(weights.join("config.json"), config).expect("a file");
}
