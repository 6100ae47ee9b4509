//! Download of data sets in Parquet files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::client::RequestedFile;
use crate::error::{HubError, join_names};
use crate::files::fetch;
use crate::name::{HubDataset, is_safe_relative_path};
use crate::progress::DownloadProgress;
use crate::settings::HubSettings;

/// The extension of the files to download.
const PARQUET_EXTENSION: &str = ".parquet";

/// The top-level folders that are selected by default if there are several.
const DEFAULT_FOLDERS: [&str; 2] = ["data", "default"];

/// The path that selects the files at the top level of a repository.
const TOP_LEVEL_PATTERN: &str = "*.parquet";

/// The branch with data sets that the hub has converted to Parquet.
const CONVERTED_BRANCH: &str = "refs/convert/parquet";

/// The local Parquet files of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetFiles {
    /// The folder in the cache that corresponds to the root of the repository.
    pub root: PathBuf,
    /// At least one file, sorted bytewise by the paths in the repository.
    pub files: Vec<PathBuf>,
    /// The name in messages and run records: the `hf://` name with its commit.
    pub origin: String,
}

/// Fetches the Parquet files of a data set one after another, with the settings of
/// [`HubSettings::from_environment`].
///
/// A path in the source selects the file of that name, the files in that folder, or those
/// that match that pattern. Without a path, all files are selected if they are in a single top-level folder;
/// otherwise the files in the top-level folder `data` or `default`. The `configs` in the README of the data
/// set are ignored.
///
/// Cached files are not downloaded again, so an interrupted call can be resumed. The cache stores the file
/// list of the commit, so offline a data set is either complete or an error.
///
/// # Errors
/// [`HubError`]. Damaged files have been removed from the cache. The error [is about the
/// name](HubError::is_name_error) if no Parquet file is selected, or if there are several folders to choose
/// from.
///
/// # Examples
/// ```no_run
/// use headstock_hub::{HubDataset, fetch_dataset};
///
/// let source: HubDataset = "datasets/uoft-cs/cifar10/plain_text".parse()?;
/// for file in fetch_dataset(&source, &())?.files {
///     println!("{}", file.display());
/// }
/// # Ok::<(), headstock_hub::HubError>(())
/// ```
pub fn fetch_dataset(source: &HubDataset, progress: &dyn DownloadProgress) -> Result<DatasetFiles, HubError> {
    fetch_dataset_with(source, &HubSettings::from_environment(), progress)
}

/// Downloads the Parquet files of a data set, those that the cache lacks, and returns the local paths of all
/// of them. Unlike [`fetch_dataset`], which describes the selection of the files, it takes the settings from
/// the caller instead of environment variables, for example in tests with a server of their own.
///
/// # Errors
/// The errors of [`fetch_dataset`].
pub fn fetch_dataset_with(
    source: &HubDataset,
    settings: &HubSettings,
    progress: &dyn DownloadProgress,
) -> Result<DatasetFiles, HubError> {
    let select = |listed: Option<&[String]>| {
        let selected = select_parquet_files(source, listed.unwrap_or_default())?;
        Ok(selected.into_iter().map(|file| RequestedFile { file: file.into(), is_config: false }).collect())
    };
    let resolved = fetch(&source.repo_ref, /* needs_file_list */ true, &select, settings, progress)?;
    let files = resolved.files.into_iter().flatten().collect();
    Ok(DatasetFiles { root: resolved.root, files, origin: resolved.origin })
}

/// The Parquet files to download for `source` from a repository with the files `listed`: those that the path
/// in `source` selects (a file, a folder or a pattern with `*`), or the [`default_files`] without a path.
/// Returns at least one, sorted bytewise; otherwise the error says what the repository has instead.
fn select_parquet_files<'a>(source: &HubDataset, listed: &'a [String]) -> Result<Vec<&'a str>, HubError> {
    let name = source.repo_ref.repo_name();
    let no_selection = |problem| HubError::NoSelection { name: name.clone(), problem };
    let sorted: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    let (parquet, others): (Vec<&str>, Vec<&str>) =
        sorted.into_iter().partition(|file| file.ends_with(PARQUET_EXTENSION));
    if parquet.is_empty() {
        return Err(no_selection(describe_no_parquet(&name, &others)));
    }
    let selected = match &source.pattern {
        Some(pattern) => {
            let matcher = pattern.compile_matcher();
            // A file is also selected by a match of a folder that it is in.
            let is_selected = |file: &&str| Path::new(file).ancestors().any(|path| matcher.is_match(path));
            let selected: Vec<&str> = parquet.iter().copied().filter(is_selected).collect();
            if selected.is_empty() {
                return Err(no_selection(format!(
                    "no .parquet file at {}: give the path of a folder or file of the data set; its .parquet \
                     files are {}",
                    pattern.glob(),
                    join_names(&parquet)
                )));
            }
            selected
        }
        None => default_files(parquet).map_err(|folders| {
            no_selection(format!(
                "Parquet files in several folders: add a folder to the name, for example {name}/{} \
                 (available: {})",
                folders[0],
                join_names(&folders)
            ))
        })?,
    };
    // The names become paths in the cache, so the hub must not lead out of it.
    match selected.iter().find(|file| !is_safe_relative_path(file)) {
        Some(&file) => Err(HubError::UnsafePath { name, file: file.into() }),
        None => Ok(selected),
    }
}

/// The selection from all Parquet files of a repository, `files`, if the user names no path in it: all files
/// if they are in one top-level folder, otherwise those in the folder `data` or `default`. If there is
/// neither or both, the user must choose: the error then lists the top-level folders, as paths to choose
/// from.
fn default_files(files: Vec<&str>) -> Result<Vec<&str>, Vec<&str>> {
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for &file in &files {
        let folder = file.split_once('/').map_or(TOP_LEVEL_PATTERN, |(folder, _)| folder);
        folders.entry(folder).or_default().push(file);
    }
    if folders.len() == 1 {
        return Ok(files);
    }
    let mut defaults = DEFAULT_FOLDERS.iter().filter_map(|name| folders.get(name));
    match (defaults.next(), defaults.next()) {
        (Some(only), None) => Ok(only.clone()),
        _ => Err(folders.into_keys().collect()),
    }
}

/// The problem of a data set without Parquet files, for an error message: which files it has instead, `found`,
/// and what to do. The hub converts many data sets to Parquet, in a branch of their own. `name` is the
/// `hf://` name of the data set, which may end with `@` and the requested revision.
fn describe_no_parquet(name: &str, found: &[&str]) -> String {
    let contents =
        if found.is_empty() { " (it has no files)".into() } else { format!(", only {}", join_names(found)) };
    let (repo, revision) = name.split_once('@').unwrap_or((name, ""));
    // In `name` the slashes of a revision are written as `%2F`.
    let advice = if revision == CONVERTED_BRANCH.replace('/', "%2F") {
        "choose a different data set".into()
    } else {
        format!(
            "only .parquet files can be read from the hub; use the copy that the hub makes of many data sets, \
             {repo}@{CONVERTED_BRANCH}, or download the photos yourself and use their folder"
        )
    };
    format!("no .parquet file{contents}: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The selected files, or the error message; `suffix` is the revision and path in the `hf://` name.
    fn select(suffix: &str, files: &[&str]) -> Result<Vec<String>, String> {
        let source: HubDataset = format!("datasets/a/b{suffix}").parse().unwrap();
        let listed: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        let selected = select_parquet_files(&source, &listed).map_err(|error| error.to_string())?;
        Ok(selected.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn without_a_path_the_only_folder_or_data_or_default_is_selected() {
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
    fn several_folders_are_listed_as_valid_paths() {
        let files = ["de/a.parquet", "en/x/a.parquet", "a.parquet"];
        let error = select("@v1", &files).unwrap_err();
        assert!(error.contains("hf://datasets/a/b@v1/*.parquet (available: *.parquet, de, en)"), "{error}");
        for (path, expected) in [("*.parquet", 2), ("de", 0), ("en", 1)] {
            assert_eq!(select(&format!("/{path}"), &files).unwrap(), [files[expected]]);
        }
        assert!(select("", &["data/a.parquet", "default/a.parquet"]).is_err());
        let many: Vec<String> = (0..40).map(|i| format!("{i:02}/a.parquet")).collect();
        let error = select("", &many.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_err();
        assert!(error.ends_with("09 and 30 more)"), "{error}");
    }

    #[test]
    fn a_path_is_a_file_a_folder_or_a_pattern() {
        let files = [
            "c/train-0.parquet",
            "c/train-1.parquet",
            "c/test-0.parquet",
            "d/train/0.parquet",
            "c/train-0.csv",
        ];
        for (path, expected) in [
            ("c/train-1.parquet", &[1][..]),
            ("c", &[2, 0, 1]),
            ("d/train", &[3]),
            ("c/train-*", &[0, 1]),
            ("*/train*", &[0, 1, 3]),
            ("*/*.parquet", &[2, 0, 1]),
            ("**/*.parquet", &[2, 0, 1, 3]),
            ("c/{test,train}-0*", &[2, 0]),
        ] {
            let expected: Vec<_> = expected.iter().map(|&i| files[i]).collect();
            assert_eq!(select(&format!("/{path}"), &files).unwrap(), expected, "{path}");
        }
        for path in ["e", "c/train", "c/train-0.csv", "train-0.parquet", "C"] {
            let error = select(&format!("/{path}"), &files).unwrap_err();
            assert!(
                error.contains(&format!(
                    "hf://datasets/a/b has no .parquet file at {path}: give the path of a folder"
                )),
                "{error}"
            );
            assert!(error.contains("; its .parquet files are c/te"), "{error}");
        }
    }

    #[test]
    fn without_parquet_files_the_error_lists_the_files_and_names_the_converted_branch() {
        let converted = "hf://datasets/a/b@refs/convert/parquet";
        for suffix in ["", "@v1", "/data"] {
            let error = select(suffix, &["train.csv", "README.md"]).unwrap_err();
            assert!(
                error.contains("file, only README.md, train.csv: ") && error.contains(converted),
                "{error}"
            );
        }
        let error = select("@refs/convert/parquet", &[]).unwrap_err();
        assert!(
            error.ends_with("has no .parquet file (it has no files): choose a different data set"),
            "{error}"
        );
    }

    #[test]
    fn files_outside_the_cache_folder_are_rejected() {
        for file in [
            "data/../../x.parquet",
            "/x.parquet",
            "data//x.parquet",
            "data/..\\x.parquet",
            "c:x.parquet",
            "../x.parquet",
        ] {
            for suffix in ["", "/**"] {
                let error = select(suffix, &[file]).unwrap_err();
                assert!(error.contains("leads out of the download folder"), "{file}: {error}");
            }
        }
        // Files that are not selected do not matter.
        assert_eq!(select("", &["../x.parquet", "data/x.parquet"]).unwrap(), ["data/x.parquet"]);
    }
}
