//! Data sets in Parquet files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::error::HubError;
use super::files::{self, FileSelection, RequestedFile};
use super::name::{HubDataset, RepoRef, is_safe_relative_path};
use super::settings::HubSettings;
use crate::source::DownloadProgress;

/// Ends the files that are fetched.
const PARQUET_EXTENSION: &str = ".parquet";

/// The names of configurations that are meant where none is named.
const DEFAULT_FOLDERS: [&str; 2] = ["data", "default"];

/// What names the files that lie in no folder.
const TOP_LEVEL_PATTERN: &str = "*.parquet";

/// The Parquet files of a data set, on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetFiles {
    /// The folder of the cache that stands for the repository: what follows it in a file's path is the path there.
    pub root: PathBuf,
    /// The files, by their paths in the repository, bytewise; at least one.
    pub files: Vec<PathBuf>,
    /// What to call it in messages and in a run: the hub's name with its commit.
    pub origin: String,
}

/// Fetches the Parquet files of a data set, one after another, with the settings of huggingface_hub's environment variables.
///
/// The files are those at, below or matched by the [part](HubDataset::part) that the source names. Where it names none they
/// are all, if they lie below one folder; if they lie in several, the files below the one that is called `data` or `default`.
/// Folders are told apart by the first part of the path; the README's `configs` are not read.
///
/// What the cache has is not fetched again, so a call that broke off goes on where it was. The commit's list of files lies
/// beside them in the cache, so without the network the data set is either all there or an error, never a half of it.
///
/// # Errors
/// [`HubError`]. Whatever was found wrong is gone from the cache by then. Of [kind](HubError::kind)
/// [`Config`](crate::ErrorKind::Config) when there are no Parquet files, none of the part, or several folders to choose from.
///
/// # Examples
/// ```no_run
/// use headstock_backbone::hub::{HubDataset, fetch_dataset};
///
/// let source: HubDataset = "datasets/uoft-cs/cifar10/plain_text".parse()?;
/// for file in fetch_dataset(&source, &())?.files {
///     println!("{}", file.display());
/// }
/// # Ok::<(), headstock_backbone::HubError>(())
/// ```
pub fn fetch_dataset(source: &HubDataset, progress: &dyn DownloadProgress) -> Result<DatasetFiles, HubError> {
    fetch_dataset_with(source, &HubSettings::from_environment(), progress)
}

/// As [`fetch_dataset`], with settings of one's own.
///
/// # Errors
/// [`HubError`].
pub fn fetch_dataset_with(
    source: &HubDataset,
    settings: &HubSettings,
    progress: &dyn DownloadProgress,
) -> Result<DatasetFiles, HubError> {
    let resolved = files::fetch(source, settings, progress)?.ok_or_else(|| HubError::OfflineDataset {
        name: source.to_string(),
        cache: settings.cache.clone(),
    })?;
    let files = resolved.files.into_iter().flatten().collect();
    Ok(DatasetFiles { root: resolved.root, files, origin: resolved.origin })
}

impl FileSelection for HubDataset {
    fn place(&self) -> &RepoRef {
        self.repo_ref()
    }

    fn needs_file_list(&self) -> bool {
        true
    }

    fn select_files(&self, listed: Option<&[String]>) -> Result<Vec<RequestedFile>, HubError> {
        let chosen = select_parquet_files(self, listed.unwrap_or_default())?;
        Ok(chosen.into_iter().map(|file| RequestedFile { file: file.into(), is_optional: false }).collect())
    }
}

/// The files to fetch of a repository that has those `listed`, sorted.
fn select_parquet_files<'a>(source: &HubDataset, listed: &'a [String]) -> Result<Vec<&'a str>, HubError> {
    let name = source.repo_ref().repo_name();
    let to_owned_names = |files: &[&str]| files.iter().map(|&file| file.to_owned()).collect();
    let sorted: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    let (parquet, others): (Vec<&str>, Vec<&str>) =
        sorted.into_iter().partition(|file| file.ends_with(PARQUET_EXTENSION));
    if parquet.is_empty() {
        return Err(HubError::NoParquet { name, found: to_owned_names(&others) });
    }
    let chosen = match (source.path(), source.path_matcher()) {
        (Some(part), Some(pattern)) => {
            let is_selected = |file: &&str| Path::new(file).ancestors().any(|path| pattern.is_match(path));
            let chosen: Vec<&str> = parquet.iter().copied().filter(is_selected).collect();
            if chosen.is_empty() {
                return Err(HubError::NoMatchingParquet {
                    name,
                    part: part.into(),
                    found: to_owned_names(&parquet),
                });
            }
            chosen
        }
        _ => {
            default_files(parquet).map_err(|parts| HubError::SeveralFolders { name: name.clone(), parts })?
        }
    };
    match chosen.iter().find(|file| !is_safe_relative_path(file)) {
        Some(&file) => Err(HubError::UnsafePath { name, file: file.into() }),
        None => Ok(chosen),
    }
}

/// The files that are meant where no part is named; the error has the parts that could be.
fn default_files(files: Vec<&str>) -> Result<Vec<&str>, Vec<String>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for &file in &files {
        groups
            .entry(file.split_once('/').map_or(TOP_LEVEL_PATTERN, |(folder, _)| folder))
            .or_default()
            .push(file);
    }
    if groups.len() == 1 {
        return Ok(files);
    }
    let mut usual = DEFAULT_FOLDERS.iter().filter_map(|name| groups.get(name));
    match (usual.next(), usual.next()) {
        (Some(only), None) => Ok(only.clone()),
        _ => Err(groups.into_keys().map(str::to_owned).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is chosen of `files`, or the error.
    fn select(part: &str, files: &[&str]) -> Result<Vec<String>, String> {
        let source: HubDataset = format!("datasets/a/b{part}").parse().unwrap();
        let listed: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        let chosen = select_parquet_files(&source, &listed).map_err(|error| error.to_string())?;
        Ok(chosen.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn with_no_part_the_files_of_the_only_folder_are_meant_or_those_of_data_or_default() {
        for (files, expected) in [
            (
                &["README.md", "data/b.parquet", "data/a.parquet"][..],
                &["data/a.parquet", "data/b.parquet"][..],
            ),
            (&["b.parquet", "a.parquet", "x/y.csv"], &["a.parquet", "b.parquet"]),
            (&["plain/test.parquet"], &["plain/test.parquet"]),
            (
                &["default/t/0.parquet", "default/v/0.parquet"],
                &["default/t/0.parquet", "default/v/0.parquet"],
            ),
            (&["data/a.parquet", "extra/a.parquet", "a.parquet"], &["data/a.parquet"]),
            (&["default/a.parquet", "extra/a.parquet"], &["default/a.parquet"]),
            // Bytewise, not by components.
            (&["d/a/x.parquet", "d/a-b/x.parquet"], &["d/a-b/x.parquet", "d/a/x.parquet"]),
        ] {
            assert_eq!(select("", files).unwrap(), expected);
        }
    }

    #[test]
    fn several_folders_are_listed_each_as_it_may_be_written() {
        let files = ["de/a.parquet", "en/x/a.parquet", "a.parquet"];
        let error = select("@v1", &files).unwrap_err();
        assert!(error.contains("hf://datasets/a/b@v1/*.parquet (there are *.parquet, de, en)"), "{error}");
        for (part, expected) in [("*.parquet", 2), ("de", 0), ("en", 1)] {
            assert_eq!(select(&format!("/{part}"), &files).unwrap(), [files[expected]]);
        }
        assert!(select("", &["data/a.parquet", "default/a.parquet"]).is_err());
        let many: Vec<String> = (0..40).map(|at| format!("{at:02}/a.parquet")).collect();
        let error = select("", &many.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_err();
        assert!(error.ends_with("09 and 30 more)"), "{error}");
    }

    #[test]
    fn a_part_is_a_file_a_folder_or_a_pattern() {
        let files = [
            "c/train-0.parquet",
            "c/train-1.parquet",
            "c/test-0.parquet",
            "d/train/0.parquet",
            "c/train-0.csv",
        ];
        for (part, expected) in [
            ("c/train-1.parquet", &[1][..]),
            ("c", &[2, 0, 1]),
            ("d/train", &[3]),
            ("c/train-*", &[0, 1]),
            ("*/train*", &[0, 1, 3]),
            ("*/*.parquet", &[2, 0, 1]),
            ("**/*.parquet", &[2, 0, 1, 3]),
            ("c/{test,train}-0*", &[2, 0]),
        ] {
            let expected: Vec<_> = expected.iter().map(|&at| files[at]).collect();
            assert_eq!(select(&format!("/{part}"), &files).unwrap(), expected, "{part}");
        }
        for part in ["e", "c/train", "c/train-0.csv", "train-0.parquet", "C"] {
            let error = select(&format!("/{part}"), &files).unwrap_err();
            assert!(error.contains(&format!("at {part} in hf://datasets/a/b: there are c/te")), "{error}");
        }
    }

    #[test]
    fn without_parquet_files_the_error_tells_what_is_there_and_of_the_hubs_own_conversion() {
        let elsewhere = "hf://datasets/a/b@refs/convert/parquet";
        for at in ["", "@v1", "/data"] {
            let error = select(at, &["train.csv", "README.md"]).unwrap_err();
            assert!(
                error.contains("there are README.md, train.csv;") && error.ends_with(elsewhere),
                "{error}"
            );
        }
        let error = select("@refs/convert/parquet", &[]).unwrap_err();
        assert!(error.ends_with("holds no .parquet file: it is empty"), "{error}");
    }

    #[test]
    fn a_file_that_would_leave_the_cache_is_refused() {
        for file in [
            "data/../../x.parquet",
            "/x.parquet",
            "data//x.parquet",
            "data/..\\x.parquet",
            "c:x.parquet",
            "../x.parquet",
        ] {
            for part in ["", "/**"] {
                let error = select(part, &[file]).unwrap_err();
                assert!(error.contains("no path inside"), "{file}: {error}");
            }
        }
        // What is not meant does no harm.
        assert_eq!(select("", &["../x.parquet", "data/x.parquet"]).unwrap(), ["data/x.parquet"]);
    }
}
