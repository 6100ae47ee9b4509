//! Where weights come from.

use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::error::BackboneError;
use crate::hub::{self, HubError, HubSource};

/// `backbone.weights`: a file, a directory, or a repository on the Hugging Face hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightsSource {
    /// A `.safetensors` file, or a directory that holds one.
    Local(PathBuf),
    /// A repository on the hub.
    Hub(HubSource),
}

/// The files of a checkpoint, on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightFiles {
    /// The `.safetensors` file.
    pub weights: PathBuf,
    /// timm's or transformers' `config.json`, where there is one.
    pub config: Option<PathBuf>,
    /// transformers' `preprocessor_config.json`, where there is one.
    pub preprocessor: Option<PathBuf>,
    /// What to call it in messages and in a run: the path, or the hub's name with its commit.
    pub origin: String,
}

/// Why local weights are not found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Nothing is there.
    #[error("there are no weights at {} (`backbone.weights`)", .0.display())]
    Missing(PathBuf),
    /// The directory cannot be listed.
    #[error("failed to list {}", path.display())]
    ListDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No `.safetensors` in the directory.
    #[error("{} holds no .safetensors file{}", directory.display(), convert(.pickled.as_deref()))]
    NoWeights {
        /// The directory.
        directory: PathBuf,
        /// A file in PyTorch's own format that is there instead.
        pickled: Option<String>,
    },
    /// Several, none of them `model.safetensors`.
    #[error("{} holds several .safetensors files: name one of them in `backbone.weights` ({})", directory.display(), files.join(", "))]
    Ambiguous {
        /// The directory.
        directory: PathBuf,
        /// Their names.
        files: Vec<String>,
    },
    /// The weights are cut into several files.
    #[error("{} holds weights in shards: save them as one model.safetensors, no ResNet is too large for that", .0.display())]
    Sharded(PathBuf),
    /// The file is in PyTorch's own format.
    #[error("{} is not a .safetensors file{}", .0.display(), convert(Some("it")))]
    Pickled(PathBuf),
}

pub(crate) fn convert(pickled: Option<&str>) -> String {
    pickled.map_or_else(String::new, |file| {
        format!(": convert {file} in Python with safetensors.torch.save_file(torch.load(FILE, weights_only=True), \"model.safetensors\")")
    })
}

/// Is told how a download goes: from what the bytes add up to over time, a bar shows the rate and what is left.
///
/// What is in the cache already is not told of. A file that ends in an error has no `finish`.
pub trait DownloadProgress: Sync {
    /// A file begins, or begins anew after a damaged download: what was told of it before counts no more. `bytes` is its
    /// size where the hub says it.
    fn start(&self, file: &str, bytes: Option<u64>);
    /// So many bytes more, about ten times a second.
    fn advance(&self, bytes: u64);
    /// The file is there, and is what the hub announced.
    fn finish(&self);
}

/// Nobody is told.
impl DownloadProgress for () {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}

impl WeightsSource {
    /// Reads `backbone.weights`; a relative path is meant from `base`.
    ///
    /// # Errors
    /// [`HubError::Name`] for an `hf://` name that is malformed.
    pub fn parse(text: &str, base: &Path) -> Result<Self, HubError> {
        match text.strip_prefix("hf://") {
            Some(name) => Ok(Self::Hub(name.parse()?)),
            None => Ok(Self::Local(base.join(text))),
        }
    }

    /// The files, fetched first where they are on the hub.
    ///
    /// # Errors
    /// [`BackboneError::Source`] for local ones, [`BackboneError::Hub`] for the hub.
    pub fn fetch(&self, progress: &dyn DownloadProgress) -> Result<WeightFiles, BackboneError> {
        match self {
            Self::Local(path) => Ok(resolve_local(path)?),
            Self::Hub(source) => Ok(hub::fetch_weights(source, progress)?),
        }
    }
}

fn resolve_local(path: &Path) -> Result<WeightFiles, SourceError> {
    let (weights, directory) = if path.is_dir() {
        (find_in_directory(path)?, path)
    } else if path.is_file() {
        if is_pickled(path) {
            return Err(SourceError::Pickled(path.into()));
        }
        (path.to_path_buf(), path.parent().unwrap_or(Path::new("")))
    } else {
        return Err(SourceError::Missing(path.into()));
    };
    let sibling = |name: &str| Some(directory.join(name)).filter(|file| file.is_file());
    Ok(WeightFiles {
        weights,
        config: sibling("config.json"),
        preprocessor: sibling("preprocessor_config.json"),
        origin: path.display().to_string(),
    })
}

fn find_in_directory(directory: &Path) -> Result<PathBuf, SourceError> {
    let list = |source| SourceError::ListDirectory { path: directory.into(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(list)? {
        files.push(entry.map_err(list)?.path());
    }
    files.sort_unstable();
    let file_name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sharded = files.iter().any(|file| file_name(file).ends_with(".safetensors.index.json"));
    let pickled = files.iter().find(|file| is_pickled(file)).map(file_name);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    if let Some(model_file) = files.iter().find(|file| file_name(file) == "model.safetensors") {
        return Ok(model_file.clone());
    }
    match files.as_slice() {
        _ if sharded => Err(SourceError::Sharded(directory.into())),
        [] => Err(SourceError::NoWeights { directory: directory.into(), pickled }),
        [only] => Ok(only.clone()),
        several => Err(SourceError::Ambiguous {
            directory: directory.into(),
            files: several.iter().map(file_name).collect(),
        }),
    }
}

pub(crate) fn is_pickled(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["bin", "pt", "pth", "ckpt"].iter().any(|known| extension == *known))
}
