//! Checkpoints on disk, golden files, and comparisons.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use headstock_backbone::{Backbone, BackboneError, Checkpoint, DeviceChoice, Precision, WeightsSource};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::formula;

/// The config of networks from the formula; mean and std differ between channels.
pub(crate) const CONFIG: &str =
    r#"{"pretrained_cfg": {"mean": [0.5, 0.45, 0.4], "std": [0.25, 0.2, 0.3], "license": "mit"}}"#;

/// Tensors by name, with type, shape and bytes.
#[derive(Clone)]
pub(crate) struct StateDict(pub(crate) BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl StateDict {
    /// All tensors of a network of `names.json`, with values from the formula; the classifier is zero.
    pub(crate) fn from_formula(network: &str) -> Self {
        let shapes = tensor_shapes(network);
        let bottlenecks = shapes.keys().any(|name| name.contains(".conv3.") || name.contains(".layer.2."));
        let last_norms: &[&str] = if bottlenecks {
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
                let values =
                    formula::tensor(&name, &shape, last_norms.iter().any(|norm| name.contains(norm)));
                (Dtype::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            };
            (name, entry)
        });
        Self(tensors.collect())
    }

    /// Without the classifier and the counters of BatchNorm.
    pub(crate) fn without_classifier(mut self) -> Self {
        self.0.retain(|name, _| !is_classifier(name) && !name.ends_with("num_batches_tracked"));
        self
    }

    /// Converts all `f32` values with `convert` to the 16-bit type `dtype`.
    pub(crate) fn with_dtype(mut self, dtype: Dtype, convert: impl Fn(f32) -> [u8; 2]) -> Self {
        for (tensor_dtype, _, bytes) in self.0.values_mut().filter(|(dtype, ..)| *dtype == Dtype::F32) {
            *tensor_dtype = dtype;
            *bytes = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .flat_map(|bytes| convert(f32::from_le_bytes(*bytes)))
                .collect();
        }
        self
    }

    /// Divides the scales of the last BatchNorm of each block by 8. Needs the names of torchvision.
    pub(crate) fn with_damped_residuals(mut self) -> Self {
        let scales =
            if self.0.keys().any(|name| name.contains(".bn3.")) { ".bn3.weight" } else { ".bn2.weight" };
        for (_, _, bytes) in
            self.0.iter_mut().filter(|(name, _)| name.ends_with(scales)).map(|(_, tensor)| tensor)
        {
            for value in bytes.as_chunks_mut::<4>().0 {
                *value = (f32::from_le_bytes(*value) / 8.0).to_le_bytes();
            }
        }
        self
    }

    /// Sets the first value of the `f32` tensor `name`.
    pub(crate) fn set_first_value(&mut self, name: &str, value: f32) {
        let bytes = &mut self.0.get_mut(name).expect("the tensor exists").2;
        bytes[..4].copy_from_slice(&value.to_le_bytes());
    }

    /// Writes `model.safetensors` and [`CONFIG`] to a new directory.
    pub(crate) fn to_dir(&self) -> CheckpointDir {
        let directory = CheckpointDir::new();
        directory.write("config.json", CONFIG);
        self.write(&directory.path("model.safetensors"));
        directory
    }

    pub(crate) fn write(&self, path: &Path) {
        let views = self.0.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("the bytes match the shape"))
        });
        safetensors::serialize_to_file(views, None, path).expect("the file is written");
    }
}

fn is_classifier(name: &str) -> bool {
    name.starts_with("fc.") || name.starts_with("classifier.")
}

/// Writes a sparse `.safetensors` file with zero tensors (name, type, shape).
pub(crate) fn write_zeros<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a str, &'a [usize])>,
) {
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, dtype, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * if dtype == "I64" { 8 } else { 4 };
        header.insert(
            name.into(),
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    let length = bytes.len() + end;
    fs::write(path, bytes).expect("the file is written");
    let file = fs::OpenOptions::new().write(true).open(path).expect("the file exists");
    file.set_len(length as u64).expect("the file is extended");
}

/// A temporary directory for a checkpoint.
pub(crate) struct CheckpointDir(TempDir);

impl CheckpointDir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("the directory is created"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("the file is written");
    }

    /// Opens the directory.
    pub(crate) fn open(&self) -> Result<Checkpoint, BackboneError> {
        self.open_named("")
    }

    /// Opens a file of the directory.
    pub(crate) fn open_named(&self, name: &str) -> Result<Checkpoint, BackboneError> {
        let source = WeightsSource::parse(name, self.0.path())?;
        Ok(Checkpoint::open(&source.fetch(&())?)?)
    }

    /// The error of opening the directory, which must fail.
    pub(crate) fn open_error(&self) -> String {
        error_chain(&self.open().expect_err("opening fails"))
    }

    /// A backbone on the CPU with the checkpoint of the directory.
    pub(crate) fn backbone(&self) -> Backbone {
        let checkpoint = self.open().expect("the checkpoint is valid");
        Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).expect("the backbone is loaded")
    }
}

/// The messages of an error and its causes, in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The contents of a file in `reference/backbone`.
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
    serde_json::from_slice(&golden_bytes(name)).expect("the golden file has this type")
}

/// Names and shapes of all tensors of a network of torchvision (`resnet50`) or transformers
/// (`transformers-resnet50`).
pub(crate) fn tensor_shapes(network: &str) -> BTreeMap<String, Vec<usize>> {
    golden_json::<BTreeMap<String, _>>("names.json").remove(network).expect("names.json has the network")
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
    let failure = gaps.enumerate().find(|(_, gap)| *gap > bound || gap.is_nan());
    assert!(failure.is_none(), "{what}: the difference of value {failure:?} is larger than {bound}");
}
