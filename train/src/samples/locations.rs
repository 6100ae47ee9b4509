//! Opens the locations of images.

use std::path::{Path, PathBuf};

use headstock_hub::{DatasetFiles, fetch_dataset};
use headstock_inference::Progress;
use headstock_loader::source::common_folder;
use headstock_loader::{DataSource, FolderSource, ParquetSource, WebDatasetSource, find_shards};

use crate::config::{DataLocation, DataSourceConfig};
use crate::error::TrainError;

/// An opened location of images: its shards, the Parquet or tar files, have been found.
#[derive(Debug)]
pub struct OpenDataSource {
    /// Lists the samples.
    pub source: Box<dyn DataSource>,
    /// The folder that ids are relative to.
    pub root: PathBuf,
}

impl DataLocation {
    /// Opens the location to list its samples: finds the shards, the Parquet or tar files, that match its
    /// pattern, and downloads those of a data set of the Hugging Face hub. Folders and CSV tables are opened
    /// later.
    ///
    /// # Errors
    /// [`TrainError::Dataset`] for a pattern without matches, [`TrainError::Inference`] for the hub.
    pub fn open(&self, progress: &dyn Progress) -> Result<OpenDataSource, TrainError> {
        Ok(match self {
            Self::Folder(root) => {
                OpenDataSource { source: Box::new(FolderSource { root: root.clone() }), root: root.clone() }
            }
            Self::Csv(csv) => OpenDataSource { root: csv.images.clone(), source: Box::new(csv.clone()) },
            Self::Parquet { shards: pattern, image, fields } => {
                let (shards, root) = if let Some(name) = pattern.strip_prefix("hf://") {
                    let DatasetFiles { files, root, .. } = fetch_dataset(&name.parse()?, progress)?;
                    (files, root)
                } else {
                    let shards = find_shards(Path::new(pattern), &["parquet"])?;
                    let root = common_folder(&shards);
                    (shards, root)
                };
                let source = ParquetSource { shards, image: image.clone(), fields: fields.clone() };
                OpenDataSource { source: Box::new(source), root }
            }
            Self::WebDataset { shards: pattern, fields } => {
                let shards = find_shards(Path::new(pattern), &["tar", "tar.gz", "tgz"])?;
                let root = common_folder(&shards);
                OpenDataSource { source: Box::new(WebDatasetSource { shards, fields: fields.clone() }), root }
            }
        })
    }

    /// Whether every image is a file whose id is its path relative to the root.
    fn has_image_files(&self) -> bool {
        matches!(self, Self::Folder(_) | Self::Csv(_))
    }

    /// The folder that the ids of image files are relative to, by which an image is found from its id; for
    /// shards, which have no such folder, their pattern.
    fn root(&self) -> &Path {
        match self {
            Self::Folder(root) => root,
            Self::Csv(csv) => &csv.images,
            Self::Parquet { shards, .. } | Self::WebDataset { shards, .. } => Path::new(shards),
        }
    }
}

/// The folder that the ids of image files are relative to: the image folder, or with a test folder the
/// closest common parent folder of both. With it the image of an id is found without listing the data. `None`
/// for shards and precomputed features, whose ids are not paths of files.
pub(crate) fn image_files_root(source: &DataSourceConfig) -> Option<PathBuf> {
    match source {
        DataSourceConfig::Images { main, test: None } if main.has_image_files() => {
            Some(main.root().to_path_buf())
        }
        DataSourceConfig::Images { main, test: Some(test) } if main.has_image_files() => {
            let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
            let root = canonical(main.root());
            // From `root` the common parent is as many folders up as its relative path has components.
            let (main_relative, _) = strip_common_ancestor(&root, &canonical(test.root()));
            let depth = Path::new(&main_relative).components().count();
            Some(root.ancestors().nth(depth).unwrap_or(&root).to_path_buf())
        }
        _ => None,
    }
}

/// The prefixes that make the ids of the training set `main` and of the test set `test` unique when both are
/// merged: the paths of their roots relative to their closest common parent folder, first that of `main`.
/// `test_location` is the location that `test` was opened from.
///
/// # Errors
/// [`TrainError::Data`] if one folder of image files is inside the other.
pub(crate) fn id_prefixes(
    main: &OpenDataSource,
    test: &OpenDataSource,
    test_location: &DataLocation,
) -> Result<(String, String), TrainError> {
    let canonical = |path: &Path| path.canonicalize().map_err(TrainError::io("read", path));
    let (main_prefix, test_prefix) = strip_common_ancestor(&canonical(&main.root)?, &canonical(&test.root)?);
    if test_location.has_image_files() && (main_prefix.is_empty() || test_prefix.is_empty()) {
        return Err(TrainError::Data(format!(
            "one of `data.folder` {} and `data.test_folder` {} is inside the other: photos would be both \
             trained on and tested on; choose two separate folders",
            main.root.display(),
            test.root.display()
        )));
    }
    Ok((main_prefix, test_prefix))
}

/// The paths `train` and `test` relative to their closest common parent folder, with `/` as separator. They
/// are prefixes that keep the sample ids of training and test set apart, because ids are relative to these
/// two folders. A path that is itself the common folder becomes empty: the other one is then inside it.
fn strip_common_ancestor(train: &Path, test: &Path) -> (String, String) {
    // Number of leading path components that both share.
    let n_common = train.components().zip(test.components()).take_while(|(a, b)| a == b).count();
    let remainder = |path: &Path| {
        let components: Vec<_> =
            path.components().skip(n_common).map(|name| name.as_os_str().to_string_lossy()).collect();
        components.join("/")
    };
    (remainder(train), remainder(test))
}
