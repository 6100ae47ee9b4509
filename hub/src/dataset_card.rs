//! The README.md of a data set, its *card*: the `configs` in its front matter, which put files into splits.
//!
//! The rules are those of the `datasets` library: `MetadataConfigs` in `datasets/utils/metadata.py`, and
//! `sanitize_patterns`, `resolve_pattern` and `DataFilesPatternsList.resolve` in `datasets/data_files.py`. The
//! splits under `dataset_info` assign no files there, and none here.

use globset::{Glob, GlobBuilder};

use crate::yaml::{self, Node};

/// The file with the card.
pub(crate) const CARD: &str = "README.md";

/// The split of files that are listed without one.
const DEFAULT_SPLIT: &str = "train";

/// The name of the config that is used by default.
const DEFAULT_CONFIG: &str = "default";

/// A named selection of the files of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DatasetConfig {
    pub(crate) name: String,
    is_default: bool,
    /// The folder that patterns are relative to; empty for the root of the repository.
    folder: String,
    /// The splits in order, at least one; `None` if the config names no files.
    splits: Option<Vec<SplitPatterns>>,
}

/// The files of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SplitPatterns {
    split: String,
    patterns: Vec<String>,
}

/// Reads the configs of the card `readme`, none if there are none. The error is the problem with the card.
pub(crate) fn read_configs(readme: &str) -> Result<Vec<DatasetConfig>, String> {
    let Some((front_matter, n_lines_before)) = front_matter(readme) else { return Ok(Vec::new()) };
    let card = yaml::parse(&format!("{}{front_matter}", "\n".repeat(n_lines_before)))?;
    let Some(entries) = card.get("configs") else { return Ok(Vec::new()) };
    let Node::List(entries) = entries else { return Err("`configs` is not a list".into()) };
    let mut configs: Vec<DatasetConfig> = Vec::new();
    for entry in entries {
        let config = DatasetConfig::read(entry)?;
        // Of two configs of one name the last counts.
        match configs.iter_mut().find(|known| known.name == config.name) {
            Some(known) => *known = config,
            None => configs.push(config),
        }
    }
    Ok(configs)
}

/// The config to use if none is named: the only one, the one called `default`, or the one that is marked.
/// `None` if the user must choose. The error is the problem with the card.
pub(crate) fn default_config(configs: &[DatasetConfig]) -> Result<Option<&DatasetConfig>, String> {
    let is_default =
        |config: &&DatasetConfig| configs.len() == 1 || config.name == DEFAULT_CONFIG || config.is_default;
    let mut defaults = configs.iter().filter(is_default);
    match (defaults.next(), defaults.next()) {
        (Some(first), Some(second)) => {
            Err(format!("the configs `{}` and `{}` are both marked as the default", first.name, second.name))
        }
        (only, _) => Ok(only),
    }
}

impl DatasetConfig {
    /// Reads an entry of `configs`.
    fn read(entry: &Node) -> Result<Self, String> {
        let name = entry.get("config_name").and_then(Node::as_text);
        let name = name.ok_or("an entry of `configs` has no `config_name`")?.to_owned();
        let in_config = |problem: String| format!("in the config `{name}`, {problem}");
        let folder = match entry.get("data_dir") {
            None => "",
            Some(folder) => folder.as_text().ok_or_else(|| in_config("`data_dir` is not a text".into()))?,
        };
        let splits = entry.get("data_files").map(read_splits).transpose().map_err(in_config)?;
        // What Python's YAML reads as false.
        let is_default = entry.get("default").is_some_and(|marked| {
            let is_false = |text: &str| ["false", "no", "off", "0"].contains(&text.to_lowercase().as_str());
            !marked.as_text().is_some_and(is_false)
        });
        Ok(Self { is_default, folder: folder.to_owned(), splits, name })
    }

    /// The files among `files`, paths in the repository, that the config puts into each split, in the order of
    /// the card; without a split if the config names no files but a folder. `None` if it names neither. The
    /// error is the problem with the card.
    pub(crate) fn files<'a>(&self, files: &[&'a str]) -> Result<Option<Vec<SplitFiles<'a>>>, String> {
        let in_config = |problem: String| format!("in the config `{}`, {problem}", self.name);
        let Some(splits) = &self.splits else {
            let folder = join_pattern(&self.folder, "");
            if folder.is_empty() {
                return Ok(None);
            }
            let files: Vec<&str> = files.iter().copied().filter(|file| file.starts_with(&folder)).collect();
            if files.is_empty() {
                return Err(in_config(format!("`data_dir` is {folder}, where no .parquet file is")));
            }
            return Ok(Some(vec![SplitFiles { split: None, files }]));
        };
        let of_split = |SplitPatterns { split, patterns }: &SplitPatterns| {
            let mut found = Vec::new();
            for pattern in patterns {
                found.extend(matching_files(&self.folder, pattern, files).map_err(in_config)?);
            }
            if found.is_empty() {
                let patterns = patterns.join(", ");
                return Err(in_config(format!("no .parquet file of the split `{split}` is at {patterns}")));
            }
            found.sort_unstable();
            found.dedup();
            Ok(SplitFiles { split: Some(split.clone()), files: found })
        };
        splits.iter().map(of_split).collect::<Result<_, _>>().map(Some)
    }
}

/// The files of a split, sorted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SplitFiles<'a> {
    pub(crate) split: Option<String>,
    pub(crate) files: Vec<&'a str>,
}

/// The text between the line `---` at the beginning and the next one, and the number of lines before it;
/// `None` without such a block. As `REGEX_YAML_BLOCK` of huggingface_hub finds it.
fn front_matter(readme: &str) -> Option<(&str, usize)> {
    let is_end = |rest: &str| rest.is_empty() || rest.starts_with(['\n', '\r']);
    let block = readme.trim_start().strip_prefix("---").filter(|block| !block.is_empty() && is_end(block))?;
    let ends = block.match_indices("\n---").map(|(end, line)| (end, end + line.len()));
    let (end, _) = ends.into_iter().find(|&(_, after)| is_end(&block[after..]))?;
    let n_lines_before = readme[..readme.len() - block.len()].matches('\n').count();
    Some((&block[..end], n_lines_before))
}

/// Reads `data_files`: a pattern or a list of patterns for training, or a list of splits, each with the keys
/// `split` and `path`.
fn read_splits(data_files: &Node) -> Result<Vec<SplitPatterns>, String> {
    let expected = || {
        "`data_files` must be a pattern, a list of patterns, or a list whose entries have the two keys `split` \
         and `path`"
            .to_owned()
    };
    if let Some(patterns) = patterns(data_files) {
        return Ok(vec![SplitPatterns { split: DEFAULT_SPLIT.into(), patterns }]);
    }
    let Node::List(entries) = data_files else { return Err(expected()) };
    let mut splits: Vec<SplitPatterns> = Vec::new();
    for entry in entries {
        let Node::Table(table) = entry else { return Err(expected()) };
        let split = entry.get("split").and_then(Node::as_text).ok_or_else(expected)?;
        let patterns =
            entry.get("path").and_then(patterns).filter(|_| table.len() == 2).ok_or_else(expected)?;
        if !is_split_name(split) {
            return Err(format!(
                "`{}` is not the name of a split: only letters, digits and `_` are allowed, in words with dots \
                 between them",
                split.escape_debug()
            ));
        }
        if splits.iter().any(|known| known.split == split) {
            return Err(format!("the split `{split}` is there twice"));
        }
        splits.push(SplitPatterns { split: split.into(), patterns });
    }
    Ok(splits)
}

/// One pattern, or a list of them; `None` for something else.
fn patterns(node: &Node) -> Option<Vec<String>> {
    match node {
        Node::List(items) => items.iter().map(|item| item.as_text().map(str::to_owned)).collect(),
        other => Some(vec![other.as_text()?.to_owned()]),
    }
}

/// Whether `_split_re` of `datasets/naming.py` matches: `^\w+(\.\w+)*$`.
fn is_split_name(name: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_');
    name.split('.').all(is_word)
}

/// The files among `files` that match `pattern`, which is relative to `folder`. A path without wildcards must
/// exist. The error is the problem with the pattern.
fn matching_files<'a>(folder: &str, pattern: &str, files: &[&'a str]) -> Result<Vec<&'a str>, String> {
    if pattern.contains("::") || pattern.contains("://") || pattern.starts_with('/') {
        return Err(format!("`data_files` is {pattern}: only files of the same data set are supported"));
    }
    let pattern = join_pattern(folder, pattern);
    let glob = compile_pattern(&pattern)
        .map_err(|error| format!("`data_files` is {pattern}, which is not a pattern: {}", error.kind()))?;
    let matcher = glob.compile_matcher();
    let is_match = |file: &&str| matcher.is_match(file) && is_requested(file, &pattern);
    let found: Vec<&str> = files.iter().copied().filter(is_match).collect();
    if found.is_empty() && !pattern.contains(['*', '?', '[']) {
        return Err(format!("`data_files` is {pattern}, where no .parquet file is"));
    }
    Ok(found)
}

/// A pattern relative to the root of the repository, from one that is relative to `folder`.
fn join_pattern(folder: &str, pattern: &str) -> String {
    let is_named = |part: &&str| !part.is_empty() && *part != ".";
    let folders = folder.split('/').filter(is_named).map(|part| format!("{part}/"));
    let mut joined: String = folders.collect();
    joined += pattern.trim_start_matches("./");
    joined
}

/// A pattern of the card: `*` and `?` match within a name, `**` any folders, `[...]` one of the characters.
/// Braces and backslashes stand for themselves, unlike in the pattern of an `hf://` name.
fn compile_pattern(pattern: &str) -> Result<Glob, globset::Error> {
    let mut literal_braces = String::new();
    let mut in_set = false;
    for c in pattern.chars() {
        match c {
            '{' | '}' if !in_set => literal_braces.extend(['[', c, ']']),
            _ => literal_braces.push(c),
        }
        in_set = c == '[' || in_set && c != ']';
    }
    GlobBuilder::new(&literal_braces).literal_separator(true).backslash_escape(false).build()
}

/// Whether a match of `file` is meant: hidden files and folders, and folders whose name begins with two
/// underscores, only match a pattern that names as many (`_is_inside_unrequested_special_dir` and
/// `_is_unrequested_hidden_file_or_is_inside_unrequested_hidden_dir` of `datasets/data_files.py`).
fn is_requested(file: &str, pattern: &str) -> bool {
    let n_hidden = |path: &str| path.split('/').filter(|part| part.starts_with('.')).count();
    let n_special = |path: &str| {
        let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
        folders.split('/').filter(|part| part.starts_with("__")).count()
    };
    n_hidden(file) == n_hidden(pattern) && n_special(file) == n_special(pattern)
}

#[cfg(test)]
mod tests;
