//! Opens the locations of images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headstock_hub::DatasetFiles;
use headstock_inference::Progress;
use headstock_loader::Split;
use headstock_loader::source::{
    ConfiguredSource, DownloadedDataset, DownloadedFile, OpenDataSource, SourceContext,
};

use crate::config::{DataSourceConfig, fetch_hub_dataset};
use crate::error::TrainError;

/// Opens `source` to list its samples. Downloads the data sets of the Hugging Face hub that it names.
/// `split_column` is the column or field with the split of an image, if the data defines the split in one;
/// with `follow_links`, links in folders of images may lead out of them.
///
/// # Errors
/// [`TrainError::Dataset`] if the source cannot be opened, [`TrainError::Hub`] if the download fails.
pub fn open_source(
    source: &dyn ConfiguredSource,
    split_column: Option<&str>,
    follow_links: bool,
    progress: &dyn Progress,
) -> Result<OpenDataSource, TrainError> {
    let mut downloads = BTreeMap::new();
    for name in source.boxed_clone().hub_datasets() {
        let DatasetFiles { files, root, .. } = fetch_hub_dataset(name, progress)?;
        let split = |name: Option<String>| name.and_then(|name| Split::from_name(&name));
        let files =
            files.into_iter().map(|file| DownloadedFile { path: file.path, split: split(file.split) });
        let files = files.collect();
        downloads.insert(name.clone(), DownloadedDataset { files, root });
    }
    let split_column = split_column.map(str::to_owned);
    Ok(source.open(&SourceContext { split_column, follow_links, downloads })?)
}

/// The folder that the ids of image files are relative to: the image folder, or with a test folder the
/// closest common parent folder of both. With it the image of an id is found without listing the data. `None`
/// for shards and precomputed features, whose ids are not paths of files.
pub(crate) fn image_files_root(source: &DataSourceConfig) -> Option<PathBuf> {
    let DataSourceConfig::Images(main) = source else { return None };
    let root = main.image_root()?;
    let Some(test) = main.test_data() else { return Some(root.to_path_buf()) };
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let root = canonical(root);
    // From `root` the common parent is as many folders up as its relative path has components.
    let (main_relative, _) = strip_common_ancestor(&root, &canonical(test.image_root()?));
    let depth = Path::new(&main_relative).components().count();
    Some(root.ancestors().nth(depth).unwrap_or(&root).to_path_buf())
}

/// The prefixes that make the ids of the training set `main` and of the test set `test` unique when both are
/// merged: the paths of their roots relative to their closest common parent folder, first that of `main`.
/// `test_source` is the source that `test` was opened from.
///
/// # Errors
/// [`TrainError::Data`] if one folder of which all photos are used is inside the other.
pub(crate) fn id_prefixes(
    main: &OpenDataSource,
    test: &OpenDataSource,
    test_source: &dyn ConfiguredSource,
) -> Result<(String, String), TrainError> {
    let canonical = |path: &Path| path.canonicalize().map_err(TrainError::io("read", path));
    let (main_prefix, test_prefix) = strip_common_ancestor(&canonical(&main.root)?, &canonical(&test.root)?);
    // Tables may list different photos of the same folder.
    if test_source.listed_folder().is_some() && (main_prefix.is_empty() || test_prefix.is_empty()) {
        return Err(TrainError::Data(format!(
            "of the folders {} for training and {} for testing, one is inside the other: photos would be \
             both trained on and tested on; choose two separate folders",
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
