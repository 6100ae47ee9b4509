//! Places of photos, opened.

use std::path::{Path, PathBuf};

use headstock_backbone::hub::{DatasetFiles, fetch_dataset};
use headstock_loader::source::common_folder;
use headstock_loader::{DataSource as Lists, FolderSource, ParquetSource, WebDatasetSource, find_shards};

use crate::config::{Place, Source};
use crate::error::TrainError;
use crate::progress::Progress;

/// A place whose shards are found.
#[derive(Debug)]
pub struct Opened {
    /// Lists the samples.
    pub source: Box<dyn Lists>,
    /// The folder that ids are relative to.
    pub root: PathBuf,
}

impl Place {
    /// Finds the shards; those of the hub are fetched.
    ///
    /// # Errors
    /// [`TrainError::Dataset`] for a pattern that names nothing, [`TrainError::Backbone`] for the hub.
    pub fn open(&self, progress: &dyn Progress) -> Result<Opened, TrainError> {
        Ok(match self {
            Self::Folder(root) => {
                Opened { source: Box::new(FolderSource { root: root.clone() }), root: root.clone() }
            }
            Self::Csv(csv) => Opened { root: csv.images.clone(), source: Box::new(csv.clone()) },
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
                Opened { source: Box::new(source), root }
            }
            Self::WebDataset { shards: pattern, fields } => {
                let shards = find_shards(Path::new(pattern), &["tar", "tar.gz", "tgz"])?;
                let root = common_folder(&shards);
                Opened { source: Box::new(WebDatasetSource { shards, fields: fields.clone() }), root }
            }
        })
    }

    /// Whether every photo is a file of its own, whose id is its path below the root.
    fn holds_files(&self) -> bool {
        matches!(self, Self::Folder(_) | Self::Csv(_))
    }

    /// The root of a place of files.
    fn root(&self) -> &Path {
        match self {
            Self::Folder(root) => root,
            Self::Csv(csv) => &csv.images,
            Self::Parquet { shards, .. } | Self::WebDataset { shards, .. } => Path::new(shards),
        }
    }
}

/// The folder that the ids of a source of files are relative to; none where photos are records of shards, or there are none.
pub(crate) fn root_of_files(source: &Source) -> Option<PathBuf> {
    match source {
        Source::Photos { main, test: None } if main.holds_files() => Some(main.root().to_path_buf()),
        Source::Photos { main, test: Some(test) } if main.holds_files() => {
            let there = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
            let root = there(main.root());
            let (below, _) = relative_to_shared(&root, &there(test.root()));
            let up = Path::new(&below).components().count();
            Some(root.ancestors().nth(up).unwrap_or(&root).to_path_buf())
        }
        _ => None,
    }
}

/// The paths of both roots relative to the folder that holds both: what ids begin with.
///
/// # Errors
/// [`TrainError::Data`] for folders that lie within each other.
pub(crate) fn prefixes(main: &Opened, test: &Opened, place: &Place) -> Result<(String, String), TrainError> {
    let canonical = |path: &Path| path.canonicalize().map_err(TrainError::io("read", path));
    let (here, there) = relative_to_shared(&canonical(&main.root)?, &canonical(&test.root)?);
    if place.holds_files() && (here.is_empty() || there.is_empty()) {
        return Err(TrainError::Data(format!(
            "`data.folder` {} and `data.test_folder` {} lie within each other: photos would be both trained on and tested on",
            main.root.display(),
            test.root.display()
        )));
    }
    Ok((here, there))
}

fn relative_to_shared(train: &Path, test: &Path) -> (String, String) {
    let shared = train.components().zip(test.components()).take_while(|(a, b)| a == b).count();
    let rest = |path: &Path| {
        let parts: Vec<_> =
            path.components().skip(shared).map(|part| part.as_os_str().to_string_lossy()).collect();
        parts.join("/")
    };
    (rest(train), rest(test))
}
