//! Download of data sets in Parquet files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::client::RequestedFile;
use crate::dataset_card::{CARD, DatasetConfig, SplitFiles, default_config, read_configs};
use crate::error::{HubError, join_names};
use crate::files::{CommitContents, Selection, fetch};
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
    pub files: Vec<DatasetFile>,
    /// The name in messages and run records: the `hf://` name with its commit.
    pub origin: String,
}

/// A local file of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetFile {
    /// The file.
    pub path: PathBuf,
    /// The name of the split that the README.md of the data set puts the file into; `None` if it says nothing.
    pub split: Option<String>,
}

/// Fetches the Parquet files of a data set one after another, with the settings of
/// [`HubSettings::from_environment`].
///
/// Without a path in the source, the files are those that the README.md of the data set lists under `configs`,
/// in the splits that it gives, by the rules of Python's `datasets`: of several configs the one that is marked
/// as the default. A path that is the name of a config selects that config. Of several splits, those are
/// fetched for whose name `uses_split` is true.
///
/// Any other path selects the file of that name, the files in that folder, or those that match that pattern,
/// without a split. Without a path and without `configs`, all files are selected if they are in a single
/// top-level folder; otherwise the files in the top-level folder `data` or `default`.
///
/// Cached files are not downloaded again, so an interrupted call can be resumed. The cache stores the file
/// list of the commit, so offline a data set is either complete or an error.
///
/// # Errors
/// [`HubError`]. Damaged files have been removed from the cache. The error [is about the
/// name](HubError::is_name_error) if no Parquet file is selected, or if there are several folders or configs to
/// choose from.
///
/// # Examples
/// ```no_run
/// use headstock_hub::{HubDataset, fetch_dataset};
///
/// let source: HubDataset = "datasets/uoft-cs/cifar10/plain_text".parse()?;
/// let uses_split = |split: &str| ["train", "test"].contains(&split);
/// for file in fetch_dataset(&source, &uses_split, &())?.files {
///     println!("{} {}", file.path.display(), file.split.unwrap_or_default());
/// }
/// # Ok::<(), headstock_hub::HubError>(())
/// ```
pub fn fetch_dataset(
    source: &HubDataset,
    uses_split: &SplitFilter<'_>,
    progress: &dyn DownloadProgress,
) -> Result<DatasetFiles, HubError> {
    fetch_dataset_with(source, uses_split, &HubSettings::from_environment(), progress)
}

/// Whether the files of a split of this name are wanted.
pub type SplitFilter<'a> = dyn Fn(&str) -> bool + Sync + 'a;

/// Downloads the Parquet files of a data set, those that the cache lacks, and returns the local paths of all
/// of them. Unlike [`fetch_dataset`], which describes the selection of the files, it takes the settings from
/// the caller instead of environment variables, for example in tests with a server of their own.
///
/// # Errors
/// The errors of [`fetch_dataset`].
pub fn fetch_dataset_with(
    source: &HubDataset,
    uses_split: &SplitFilter<'_>,
    settings: &HubSettings,
    progress: &dyn DownloadProgress,
) -> Result<DatasetFiles, HubError> {
    let select = |contents: &CommitContents<'_>| {
        let listed = contents.listed.unwrap_or_default();
        let SelectedFiles { files, unused } =
            select_parquet_files(source, listed, contents.description, uses_split)?;
        let requests =
            files.iter().map(|(file, _)| RequestedFile { file: (*file).into(), is_config: false }).collect();
        let splits = files.into_iter().map(|(_, split)| split).collect::<Vec<_>>();
        Ok(Selection { files: requests, details: (splits, unused) })
    };
    let resolved = fetch(&source.repo_ref, Some(CARD), &select, settings, progress)?;
    let (splits, unused) = resolved.details;
    if !unused.is_empty() {
        tracing::info!(
            "{}: {} for training, validation or testing by name, and left out; to use the files of a split, add \
             their path to the name of the data set",
            resolved.origin,
            match unused.as_slice() {
                [only] => format!("the split {only} is not"),
                several => format!("the splits {} are not", join_names(several)),
            }
        );
    }
    let files = resolved.files.into_iter().flatten().zip(splits);
    let files = files.map(|(path, split)| DatasetFile { path, split }).collect();
    Ok(DatasetFiles { root: resolved.root, files, origin: resolved.origin })
}

/// The files that are selected from a repository.
#[derive(Debug, PartialEq, Eq)]
struct SelectedFiles<'a> {
    /// Each with the split that the card puts it into: at least one, sorted bytewise.
    files: Vec<(&'a str, Option<String>)>,
    /// The splits of the card whose files are not selected.
    unused: Vec<String>,
}

/// The Parquet files to download for `source` from a repository with the files `listed` and the text of its
/// README.md, `card`: those that the path in `source` selects (a config of the card, a file, a folder or a
/// pattern with `*`), or without a path those of the default config, or else the [`default_files`]. Otherwise
/// the error says what the repository has instead.
fn select_parquet_files<'a>(
    source: &HubDataset,
    listed: &'a [String],
    card: Option<&str>,
    uses_split: &SplitFilter<'_>,
) -> Result<SelectedFiles<'a>, HubError> {
    let name = source.repo_ref.repo_name();
    let no_selection = |problem| HubError::NoSelection { name: name.clone(), problem };
    let sorted: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    let (parquet, others): (Vec<&str>, Vec<&str>) =
        sorted.into_iter().partition(|file| file.ends_with(PARQUET_EXTENSION));
    if parquet.is_empty() {
        return Err(no_selection(describe_no_parquet(&name, &others)));
    }
    let configs = card.map_or(Ok(Vec::new()), read_configs);
    let chosen = choose_config(source, &configs).map_err(no_selection)?;
    let card_files = match chosen {
        Some(config) => {
            config.files(&parquet).map_err(|problem| no_selection(describe_bad_card(&problem)))?
        }
        None => None,
    };
    let selected = match (card_files, &source.pattern) {
        (Some(splits), _) => choose_splits(splits, uses_split).map_err(no_selection)?,
        (None, Some(pattern)) if chosen.is_none() => {
            let matcher = pattern.compile_matcher();
            // A file is also selected by a match of a folder that it is in.
            let is_selected = |file: &&str| Path::new(file).ancestors().any(|path| matcher.is_match(path));
            let selected: Vec<&str> = parquet.iter().copied().filter(is_selected).collect();
            if selected.is_empty() {
                let names: Vec<&str> = configs.iter().flatten().map(|config| config.name.as_str()).collect();
                let configs = if names.is_empty() {
                    String::new()
                } else {
                    format!(", its configs {}", join_names(&names))
                };
                return Err(no_selection(format!(
                    "no .parquet file at {}: give the path of a folder or file of the data set; its .parquet \
                     files are {}{configs}",
                    pattern.glob(),
                    join_names(&parquet)
                )));
            }
            without_splits(selected)
        }
        (None, _) => without_splits(default_files(parquet).map_err(|folders| {
            no_selection(format!(
                "Parquet files in several folders: add a folder to the name, for example {name}/{} \
                 (available: {})",
                folders[0],
                join_names(&folders)
            ))
        })?),
    };
    // The names become paths in the cache, so the hub must not lead out of it.
    match selected.files.iter().find(|(file, _)| !is_safe_relative_path(file)) {
        Some((file, _)) => Err(HubError::UnsafePath { name, file: (*file).into() }),
        None => Ok(selected),
    }
}

/// Files that the card says nothing about.
fn without_splits(files: Vec<&str>) -> SelectedFiles<'_> {
    SelectedFiles { files: files.into_iter().map(|file| (file, None)).collect(), unused: Vec::new() }
}

/// The config of the card that `source` asks for: the one whose name is its path, or without a path the
/// default. `None` if the files are chosen otherwise; `configs` is an error if the card cannot be read, which
/// only matters without a path. The error is the problem, for [`HubError::NoSelection`].
fn choose_config<'a>(
    source: &HubDataset,
    configs: &'a Result<Vec<DatasetConfig>, String>,
) -> Result<Option<&'a DatasetConfig>, String> {
    if let Some(pattern) = &source.pattern {
        return Ok(configs.iter().flatten().find(|config| config.name == pattern.glob()));
    }
    let configs = configs.as_ref().map_err(|problem| describe_bad_card(problem))?;
    let default = default_config(configs).map_err(|problem| describe_bad_card(&problem))?;
    if default.is_none()
        && let Some(first) = configs.first()
    {
        let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
        return Err(format!(
            "several configs, of which none is the default: add one to the name, for example {}/{} \
             (available: {})",
            source.repo_ref.repo_name(),
            first.name,
            join_names(&names)
        ));
    }
    Ok(default)
}

/// The problem of a data set whose card cannot be followed, for an error message.
fn describe_bad_card(problem: &str) -> String {
    format!(
        "a {CARD} that does not say which files to use: {problem}; choose the files yourself, by the path of a \
         folder, file or pattern after the name of the data set"
    )
}

/// The files of the splits that `uses_split` selects, with their splits; all files, if there is one split. The
/// error is the problem, for [`HubError::NoSelection`].
fn choose_splits<'a>(
    splits: Vec<SplitFiles<'a>>,
    uses_split: &SplitFilter<'_>,
) -> Result<SelectedFiles<'a>, String> {
    let is_used = |split: &SplitFiles<'_>| split.split.as_deref().is_some_and(uses_split);
    let names = |splits: &[SplitFiles<'_>]| -> Vec<String> {
        splits.iter().filter_map(|split| split.split.clone()).collect()
    };
    if let [SplitFiles { files, .. }] = splits.as_slice()
        && !is_used(&splits[0])
    {
        return Ok(without_splits(files.clone()));
    }
    let (used, unused): (Vec<_>, Vec<_>) = splits.into_iter().partition(is_used);
    let unused = names(&unused);
    if used.is_empty() {
        return Err(format!(
            "several splits, of which none is for training or testing by name ({}): choose the files yourself, \
             by the path of a folder, file or pattern after the name of the data set",
            join_names(&unused)
        ));
    }
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for SplitFiles { split, files: of_split } in used {
        let split = split.expect("a used split has a name");
        for file in of_split {
            if let Some(other) = files.insert(file, split.clone()) {
                return Err(describe_bad_card(&format!(
                    "it puts the file {file} into the split {other} and into the split {split}, so photos would \
                     be in both"
                )));
            }
        }
    }
    Ok(SelectedFiles { files: files.into_iter().map(|(file, split)| (file, Some(split))).collect(), unused })
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

    /// The selected files with their splits, and the unused splits, or the error message; `suffix` is the
    /// revision and path in the `hf://` name, `configs` what the card has under this key.
    fn select_by_card(
        suffix: &str,
        files: &[&str],
        configs: &str,
    ) -> Result<(Vec<String>, Vec<String>), String> {
        let source: HubDataset = format!("datasets/a/b{suffix}").parse().unwrap();
        let listed: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        let card = format!("---\nconfigs: {configs}\n---\n");
        let uses_split = |split: &str| ["train", "test"].contains(&split);
        let selected = select_parquet_files(&source, &listed, Some(&card), &uses_split);
        let SelectedFiles { files, unused } = selected.map_err(|error| error.to_string())?;
        let described = files.into_iter().map(|(file, split)| match split {
            Some(split) => format!("{split}: {file}"),
            None => file.to_owned(),
        });
        Ok((described.collect(), unused))
    }

    /// The selected files of a data set without a card that names some.
    fn select(suffix: &str, files: &[&str]) -> Result<Vec<String>, String> {
        select_by_card(suffix, files, "[]").map(|(files, _)| files)
    }

    /// Files in the folders `a` and `b`.
    const FILES: [&str; 4] = ["a/0.parquet", "a/1.parquet", "b/0.parquet", "b/1.parquet"];

    #[test]
    fn the_card_puts_files_into_splits() {
        let configs = "[{config_name: x, data_files: [{split: test, path: a/1.parquet}, {split: train, path: b/*}, \
                       {split: extra, path: a/0.parquet}]}]";
        let expected = ["test: a/1.parquet", "train: b/0.parquet", "train: b/1.parquet"];
        for suffix in ["", "/x", "@v1", "@v1/x"] {
            let (files, unused) = select_by_card(suffix, &FILES, configs).unwrap();
            assert_eq!(
                (files.as_slice(), unused),
                (&expected.map(str::to_owned)[..], vec!["extra".to_owned()])
            );
        }
        // A path that is no config selects files itself.
        assert_eq!(select_by_card("/a", &FILES, configs).unwrap().0, FILES[..2]);
        let error = select_by_card("/y", &FILES, configs).unwrap_err();
        assert!(
            error.contains("no .parquet file at y: ") && error.ends_with("b/1.parquet, its configs x"),
            "{error}"
        );
    }

    #[test]
    fn a_config_has_precedence_over_a_folder_of_its_name() {
        let configs = "[{config_name: a, data_files: b/*}, {config_name: b, data_dir: a}]";
        assert_eq!(
            select_by_card("/a", &FILES, configs).unwrap().0,
            ["train: b/0.parquet", "train: b/1.parquet"]
        );
        assert_eq!(select_by_card("/b", &FILES, configs).unwrap().0, FILES[..2]);
        assert_eq!(select_by_card("/a/*", &FILES, configs).unwrap().0, FILES[..2]);
    }

    #[test]
    fn several_configs_without_a_default_are_listed() {
        let error =
            select_by_card("", &FILES, "[{config_name: x, data_files: a/*}, {config_name: y}]").unwrap_err();
        assert!(
            error.contains(
                "none is the default: add one to the name, for example hf://datasets/a/b/x (available: x, y)"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_config_without_files_leaves_the_choice_to_the_names() {
        for suffix in ["", "/x"] {
            let files = ["data/train-0.parquet", "other/0.parquet"];
            assert_eq!(select_by_card(suffix, &files, "[{config_name: x}]").unwrap().0, files[..1]);
        }
    }

    #[test]
    fn a_single_split_of_another_name_is_no_split_and_several_are_an_error() {
        let split = |name: &str| format!("{{split: {name}, path: {name}/*}}");
        let configs = |splits: &str| format!("[{{config_name: x, data_files: [{splits}]}}]");
        let (files, unused) = select_by_card("", &FILES, &configs(&split("a"))).unwrap();
        assert_eq!((&files[..], unused.len()), (&FILES.map(str::to_owned)[..2], 0));
        let both = configs(&format!("{}, {}", split("a"), split("b")));
        let error = select_by_card("", &FILES, &both).unwrap_err();
        assert!(
            error.contains("none is for training or testing by name (a, b): choose the files"),
            "{error}"
        );
    }

    #[test]
    fn a_card_that_cannot_be_followed_is_an_error_unless_a_path_chooses_the_files() {
        for (configs, expected) in [
            ("]", "a README.md that does not say which files to use: line 2"),
            ("[{data_files: x}]", "has no `config_name`; choose the files yourself"),
            ("[{config_name: x, data_files: c/*}]", "no .parquet file of the split `train` is at c/*"),
            (
                "[{config_name: x, data_files: [{split: train, path: '**'}, {split: test, path: b/*}]}]",
                "the file b/0.parquet into the split train and into the split test, so photos would be in both",
            ),
        ] {
            let error = select_by_card("", &FILES, configs).unwrap_err();
            assert!(error.contains(expected), "{configs}: {error}");
            assert_eq!(select_by_card("/b", &FILES, configs).unwrap().0, FILES[2..], "{configs}");
        }
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
            assert!(error.contains("; its .parquet files are c/te") && !error.contains("configs"), "{error}");
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
