//! Checkpoints on disk, golden files, and comparing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use headstock_backbone::{Backbone, BackboneError, Checkpoint, DeviceChoice, Precision, WeightsSource};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::formula;

/// The mean and the std of the formula's networks; no two channels are alike.
pub(crate) const CONFIG: &str =
    r#"{"pretrained_cfg": {"mean": [0.5, 0.45, 0.4], "std": [0.25, 0.2, 0.3], "license": "mit"}}"#;

/// Tensors by name: type, shape, bytes.
#[derive(Clone)]
pub(crate) struct StateDict(pub(crate) BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl StateDict {
    /// Every tensor of a network of `names.json`: the trunk from the formula, the rest zero.
    pub(crate) fn from_formula(network: &str) -> Self {
        let shapes = tensor_shapes(network);
        let bottlenecks = shapes.keys().any(|name| name.contains(".conv3.") || name.contains(".layer.2."));
        let last: &[&str] = if bottlenecks {
            &[".bn3.", ".layer.2.normalization."]
        } else {
            &[".bn2.", ".layer.1.normalization."]
        };
        let tensors = shapes.into_iter().map(|(name, shape)| {
            let entry = if name.ends_with("num_batches_tracked") {
                (Dtype::I64, shape, vec![0; 8])
            } else if is_classifier(&name) {
                let bytes = 4 * shape.iter().product::<usize>();
                (Dtype::F32, shape, vec![0; bytes])
            } else {
                let values = formula::tensor(&name, &shape, last.iter().any(|part| name.contains(part)));
                (Dtype::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            };
            (name, entry)
        });
        Self(tensors.collect())
    }

    /// Only what computes features.
    pub(crate) fn without_classifier(mut self) -> Self {
        self.0.retain(|name, _| !is_classifier(name) && !name.ends_with("num_batches_tracked"));
        self
    }

    /// Every `f32` value through `narrow`, stored as `dtype`.
    pub(crate) fn with_dtype(mut self, dtype: Dtype, narrow: impl Fn(f32) -> [u8; 2]) -> Self {
        for (kind, _, bytes) in self.0.values_mut().filter(|(kind, ..)| *kind == Dtype::F32) {
            *kind = dtype;
            *bytes = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .flat_map(|bytes| narrow(f32::from_le_bytes(*bytes)))
                .collect();
        }
        self
    }

    /// The scales of the last BatchNorm of each of torchvision's blocks, by an eighth of what they were.
    pub(crate) fn with_damped_residuals(mut self) -> Self {
        let last =
            if self.0.keys().any(|name| name.contains(".bn3.")) { ".bn3.weight" } else { ".bn2.weight" };
        for (_, _, bytes) in
            self.0.iter_mut().filter(|(name, _)| name.ends_with(last)).map(|(_, tensor)| tensor)
        {
            for value in bytes.as_chunks_mut::<4>().0 {
                *value = (f32::from_le_bytes(*value) / 8.0).to_le_bytes();
            }
        }
        self
    }

    /// Writes `value` over the first value of the `f32` tensor `name`.
    pub(crate) fn set_first_value(&mut self, name: &str, value: f32) {
        let bytes = &mut self.0.get_mut(name).expect("a tensor of that name").2;
        bytes[..4].copy_from_slice(&value.to_le_bytes());
    }

    /// A directory with `model.safetensors` and [`CONFIG`].
    pub(crate) fn to_dir(&self) -> CheckpointDir {
        let folder = CheckpointDir::new();
        folder.write("config.json", CONFIG);
        self.write(&folder.path("model.safetensors"));
        folder
    }

    pub(crate) fn write(&self, path: &Path) {
        let views = self.0.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("bytes that fit the shape"))
        });
        safetensors::serialize_to_file(views, None, path).expect("a file is written");
    }
}

fn is_classifier(name: &str) -> bool {
    name.starts_with("fc.") || name.starts_with("classifier.")
}

/// Writes a `.safetensors` file with such tensors, all zero, and sparse: only the header takes room.
pub(crate) fn write_zeros<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a str, &'a [usize])>,
) {
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, dtype, shape) in tensors {
        let begin = end;
        end += shape.iter().product::<usize>() * if dtype == "I64" { 8 } else { 4 };
        header.insert(
            name.into(),
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}),
        );
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    let length = bytes.len() + end;
    fs::write(path, bytes).expect("a file is written");
    let file = fs::OpenOptions::new().write(true).open(path).expect("the file is there");
    file.set_len(length as u64).expect("the file is extended");
}

/// A temporary directory.
pub(crate) struct CheckpointDir(TempDir);

impl CheckpointDir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("a file is written");
    }

    /// Opens the whole directory.
    pub(crate) fn open(&self) -> Result<Checkpoint, BackboneError> {
        self.open_named("")
    }

    /// Opens a file of it.
    pub(crate) fn open_named(&self, name: &str) -> Result<Checkpoint, BackboneError> {
        let source = WeightsSource::parse(name, self.0.path())?;
        Checkpoint::open(&source.fetch(&())?)
    }

    /// Why the directory is refused.
    pub(crate) fn open_error(&self) -> String {
        error_chain(&self.open().expect_err("a refusal"))
    }

    pub(crate) fn backbone(&self) -> Backbone {
        let checkpoint = self.open().expect("a checkpoint");
        Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).expect("a backbone")
    }
}

/// An error with its causes, in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A file of `reference/backbone`.
pub(crate) fn golden_bytes(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/backbone").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The `f32` values of a tensor of a golden file.
pub(crate) fn f32_tensor(golden: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = golden.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).data();
    data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

pub(crate) fn golden_json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&golden_bytes(name)).expect("a golden file of that form")
}

/// Names and shapes of a network: `resnet50` is torchvision's, `transformers-resnet50` transformers'.
pub(crate) fn tensor_shapes(network: &str) -> BTreeMap<String, Vec<usize>> {
    golden_json::<BTreeMap<String, _>>("names.json").remove(network).expect("a network of names.json")
}

/// `max |a - b| <= relative * max |b|`.
pub(crate) fn assert_close(ours: &[f32], oracle: &[f32], relative: f32, what: &str) {
    let largest = oracle.iter().fold(0f32, |max, x| max.max(x.abs()));
    assert_close_abs(ours, oracle, relative * largest, what);
}

/// `max |a - b| <= bound`.
pub(crate) fn assert_close_abs(ours: &[f32], oracle: &[f32], bound: f32, what: &str) {
    assert_eq!(ours.len(), oracle.len(), "{what}");
    let gaps = ours.iter().zip(oracle).map(|(a, b)| (a - b).abs());
    let far = gaps.enumerate().find(|(_, gap)| *gap > bound || gap.is_nan());
    assert!(far.is_none(), "{what}: value {far:?} is further off than {bound}");
}
