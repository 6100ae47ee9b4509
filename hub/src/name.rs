//! Parsing and checking of `hf://` names of weights and data sets on the Hugging Face hub.

use std::fmt;
use std::str::FromStr;

use globset::{Glob, GlobBuilder};

use crate::error::HubError;
use crate::repo_kind::RepoKind;

/// Weights on the hub, `hf://owner/name@revision/file`, where revision and file are optional.
///
/// The revision is a branch, a tag or a commit; the default is `main`. It ends at the next slash; a slash in
/// a branch name is written `%2F` (`hf://owner/name@feature%2Fx`), except in `refs/pr/N` and
/// `refs/convert/NAME`, as in Python's `HfFileSystem`. The default file is `model.safetensors`.
///
/// ```
/// use headstock_hub::HubSource;
///
/// let source: HubSource = "timm/resnet50.a1_in1k@main".parse()?;
/// assert_eq!(source.to_string(), "hf://timm/resnet50.a1_in1k@main");
/// # Ok::<(), headstock_hub::HubError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSource(pub(crate) RepoRef);

impl HubSource {
    /// The path of the weights in the repository.
    pub(crate) fn weights_path(&self) -> &str {
        self.0.path.as_deref().unwrap_or("model.safetensors")
    }

    /// The path in the repository of `file`, a file name, in the folder of the weights: for `config.json`,
    /// which lies next to the weights.
    pub(crate) fn sibling_path(&self, file: &str) -> String {
        match self.weights_path().rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{file}"),
            None => file.into(),
        }
    }
}

impl fmt::Display for HubSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl FromStr for HubSource {
    type Err = HubError;

    /// Parses the name of weights without `hf://`: `owner/name`, optionally followed by `@revision` and by
    /// `/file`, a `.safetensors` file.
    fn from_str(name: &str) -> Result<Self, HubError> {
        let invalid_name =
            |problem: &str| HubError::InvalidName { name: name.into(), problem: problem.into() };
        let repo_ref = RepoRef::parse(RepoKind::Weights, name).map_err(invalid_name)?;
        if let Some(file) = &repo_ref.path {
            if !is_safe_relative_path(file) {
                return Err(invalid_name(
                    "the path of the file after `owner/name/` must not be empty or contain `..`, `:`, `*`, `?`, \
                     `\\` or empty folder names",
                ));
            }
            if !file.ends_with(".safetensors") {
                return Err(invalid_name("the name of the file must end with `.safetensors`"));
            }
        }
        Ok(Self(repo_ref))
    }
}

/// A data set on the hub, `hf://datasets/owner/name@revision/path`, where revision and path are optional.
///
/// The revision is as in [`HubSource`]; `@refs/convert/parquet` (or `@refs%2Fconvert%2Fparquet`) is the
/// branch into which the hub converts data sets of other formats.
///
/// The path is the name of a config of the data set's README.md, a folder, which includes everything below it,
/// or a `.parquet` file. It may be a glob pattern:
/// `*` matches any characters within a file or folder name, `**` any folders, `{a,b}` either name, as in
/// `data/train-*` or `*/{train,test}`. [`fetch_dataset`](super::fetch_dataset) documents the default.
///
/// ```
/// use headstock_hub::HubDataset;
///
/// let source: HubDataset = "datasets/owner/name@v1/data/train-*.parquet".parse()?;
/// assert_eq!(source.to_string(), "hf://datasets/owner/name@v1/data/train-*.parquet");
///
/// let converted: HubDataset = "datasets/owner/name@refs/convert/parquet/default".parse()?;
/// assert_eq!(converted.to_string(), "hf://datasets/owner/name@refs%2Fconvert%2Fparquet/default");
/// # Ok::<(), headstock_hub::HubError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubDataset {
    pub(crate) repo_ref: RepoRef,
    /// The path in `repo_ref` as a pattern; `None` without a path.
    pub(crate) pattern: Option<Glob>,
}

impl fmt::Display for HubDataset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repo_ref.fmt(out)
    }
}

impl FromStr for HubDataset {
    type Err = HubError;

    /// Parses the name of a data set without `hf://`: `datasets/owner/name`, optionally followed by
    /// `@revision` and by `/path`, a folder, file or glob pattern.
    fn from_str(name: &str) -> Result<Self, HubError> {
        let invalid_name =
            |problem: &str| HubError::InvalidDatasetName { name: name.into(), problem: problem.into() };
        let Some(rest) = name.strip_prefix(RepoKind::Dataset.prefix()) else {
            return Err(invalid_name("the name of a data set must start with `datasets/`"));
        };
        let mut repo_ref = RepoRef::parse(RepoKind::Dataset, rest).map_err(invalid_name)?;
        let Some(path) = &mut repo_ref.path else {
            return Ok(Self { repo_ref, pattern: None });
        };
        if let Some(folder) = path.strip_suffix('/') {
            *path = folder.to_owned();
        }
        // Wildcards cannot lead out of the repository, so for this check they are replaced by a letter.
        if !is_safe_relative_path(&path.replace(['*', '?'], "x")) {
            return Err(invalid_name(
                "the path after `owner/name/` must not be empty or contain `..`, `:`, `\\` or empty folder \
                 names",
            ));
        }
        // `literal_separator`: `*` and `?` do not match `/`.
        let pattern = GlobBuilder::new(path).literal_separator(true).build();
        let pattern = pattern
            .map_err(|error| invalid_name(&format!("the path is an invalid pattern: {}", error.kind())))?;
        Ok(Self { repo_ref, pattern: Some(pattern) })
    }
}

/// A repository on the hub, with an optional revision and an optional path in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RepoRef {
    pub(crate) kind: RepoKind,
    /// `owner/name`.
    pub(crate) repo: String,
    /// A branch, tag or commit; `None` for the default branch.
    revision: Option<String>,
    /// A file, folder or pattern in the repository; `None` for the default of the kind.
    path: Option<String>,
}

impl RepoRef {
    /// Parses `owner/name@revision/path`, a name without `hf://` and the prefix of `kind`, where `@revision`
    /// and `/path` are optional. Checks all parts except the path, whose rules depend on the kind. The error
    /// is the problem, for [`HubError::InvalidName`] or [`HubError::InvalidDatasetName`].
    fn parse(kind: RepoKind, full_name: &str) -> Result<Self, &'static str> {
        let (owner, after_owner) = full_name.split_once('/').ok_or("the owner is missing")?;
        let name_end = after_owner.find(['@', '/']).unwrap_or(after_owner.len());
        let (name, after_name) = after_owner.split_at(name_end);
        let (revision, path) = match after_name.strip_prefix('@') {
            Some(revision_and_path) => {
                let (revision, path) = revision_and_path.split_at(revision_length(revision_and_path));
                // `%2F` stands for a slash in a branch name; a plain slash would end the revision.
                (Some(revision.replace("%2F", "/").replace("%2f", "/")), path)
            }
            None => (None, after_name),
        };
        check_repo(owner, name)?;
        let revision = revision.map(check_revision).transpose()?;
        let path = path.strip_prefix('/').map(str::to_owned);
        Ok(Self { kind, repo: format!("{owner}/{name}"), revision, path })
    }

    /// The path of the repository's web page in URLs of the hub.
    pub(crate) fn page_path(&self) -> String {
        format!("{}{}", self.kind.prefix(), self.repo)
    }

    /// The revision if it is a commit hash.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.revision.as_deref().filter(|revision| is_commit(revision))
    }

    /// The revision, or the default branch.
    pub(crate) fn revision_or_main(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The `hf://` name without a path, for messages.
    pub(crate) fn repo_name(&self) -> String {
        Self { path: None, ..self.clone() }.to_string()
    }

    /// The `hf://` name with `file`, or else with the requested path, for messages.
    pub(crate) fn name_with_file(&self, file: Option<&str>) -> String {
        let path = file.or(self.path.as_deref()).map(str::to_owned);
        Self { path, ..self.clone() }.to_string()
    }

    /// The same repository and path at a different revision, for names with the commit that was downloaded.
    pub(crate) fn at_revision(&self, revision: &str) -> Self {
        Self { revision: Some(revision.into()), ..self.clone() }
    }
}

impl fmt::Display for RepoRef {
    /// Writes the name with `hf://`, such that it can be parsed again: a slash in the revision becomes `%2F`,
    /// because a plain slash would end the revision.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "hf://{}{}", self.kind.prefix(), self.repo)?;
        if let Some(revision) = &self.revision {
            write!(out, "@{}", revision.replace('/', "%2F"))?;
        }
        if let Some(path) = &self.path {
            write!(out, "/{path}")?;
        }
        Ok(())
    }
}

/// Whether a revision is a complete commit hash (40 hexadecimal digits), not a branch or tag.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The hub's limit for the length of `owner/name`.
const MAX_REPO_LENGTH: usize = 96;

/// The number of bytes of the revision at the start of `name`, the part of a name after the `@`. It ends at
/// the first slash, or at the third one for `refs/pr/N` and `refs/convert/NAME`.
fn revision_length(name: &str) -> usize {
    let n_parts = if name.starts_with("refs/pr/") || name.starts_with("refs/convert/") { 3 } else { 1 };
    name.match_indices('/').nth(n_parts - 1).map_or(name.len(), |(end, _)| end)
}

/// Checks owner and name by the rules of the hub (`validate_repo_id` of huggingface_hub), before any request.
/// The error is the rule that is violated.
fn check_repo(owner: &str, name: &str) -> Result<(), &'static str> {
    for part in [owner, name] {
        if part.is_empty() {
            return Err("both parts of `owner/name` are needed");
        }
        if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Err("the owner and the name may only contain letters, digits, `-`, `_` and `.`");
        }
        if part.contains("--") || part.contains("..") {
            return Err("neither the owner nor the name may contain `--` or `..`");
        }
        if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
            return Err("neither the owner nor the name may start or end with `-` or `.`");
        }
    }
    if name.ends_with(".git") {
        return Err("the name after `owner/` must not end with `.git`");
    }
    if owner.len() + 1 + name.len() > MAX_REPO_LENGTH {
        return Err(
            "`owner/name` has more than the 96 characters that the hub allows: copy the name from the web \
             page of the hub",
        );
    }
    Ok(())
}

/// Checks that a revision is safe as a path in the cache, and returns it, with a commit hash in lower case as
/// the hub writes it. The error is the rule that is violated.
fn check_revision(revision: String) -> Result<String, &'static str> {
    if !is_safe_relative_path(&revision) {
        return Err(
            "the revision after `@` has a character or part that no branch, tag or commit can have, such as \
             `:` or `..`",
        );
    }
    Ok(if is_commit(&revision) { revision.to_ascii_lowercase() } else { revision })
}

/// Whether a path, joined to a directory, stays inside it and has no special characters. Paths from the hub
/// or from an `hf://` name become paths in the cache, so they are checked first.
pub(crate) fn is_safe_relative_path(path: &str) -> bool {
    // A component of dots alone, such as `..`, can lead to another folder.
    let is_plain_component = |part: &str| {
        !part.is_empty() && part.chars().any(|c| c != '.') && !part.contains(['\\', ':', '?', '*'])
    };
    path.split('/').all(is_plain_component) && !path.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(name: &str) -> (String, Option<String>, Option<String>) {
        let HubSource(RepoRef { repo, revision, path, .. }) =
            name.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        (repo, revision, path)
    }

    #[test]
    fn revision_and_file_are_optional() {
        let repo = "timm/resnet50.a1_in1k";
        let commit = "767268603ca0cb0bfe326fa87277f19c419566ef";
        for (text, revision, file) in [
            (repo.to_owned(), None, None),
            (format!("{repo}@main"), Some("main"), None),
            (format!("{repo}/weights.safetensors"), None, Some("weights.safetensors")),
            (format!("{repo}/a/b.safetensors"), None, Some("a/b.safetensors")),
            (format!("{repo}@v1.0/b@2.safetensors"), Some("v1.0"), Some("b@2.safetensors")),
            (format!("{repo}@{commit}"), Some(commit), None),
            (format!("{repo}@{}", commit.to_uppercase()), Some(commit), None),
            (format!("{repo}@feature%2Fx/b.safetensors"), Some("feature/x"), Some("b.safetensors")),
            (format!("{repo}@refs/pr/1"), Some("refs/pr/1"), None),
            (format!("{repo}@refs%2Fpr%2F1/b.safetensors"), Some("refs/pr/1"), Some("b.safetensors")),
            (format!("{repo}@refs/pr/1/b.safetensors"), Some("refs/pr/1"), Some("b.safetensors")),
            (format!("{repo}@refs/convert/x/b.safetensors"), Some("refs/convert/x"), Some("b.safetensors")),
        ] {
            let expected = (repo.to_owned(), revision.map(str::to_owned), file.map(str::to_owned));
            assert_eq!(parts(&text), expected, "{text}");
        }
    }

    #[test]
    fn names_round_trip() {
        for text in ["a/b", "a/b@v1", "a/b/c.safetensors", "a/b@refs/pr/1/c.safetensors", "a/b@x%2Fy"] {
            let source: HubSource = text.parse().unwrap();
            let written = source.to_string();
            assert_eq!(
                written.strip_prefix("hf://").unwrap().parse::<HubSource>().unwrap(),
                source,
                "{text}"
            );
        }
    }

    #[test]
    fn the_error_for_a_malformed_name_describes_the_problem() {
        let long = format!("owner/{}", "n".repeat(91));
        for (text, problem) in [
            ("", "owner"),
            ("resnet50", "owner"),
            ("/resnet50", "both"),
            ("timm/", "both"),
            ("timm/@main", "both"),
            ("ti mm/resnet50", "letters"),
            ("timm/resnet50#1", "letters"),
            ("ti--mm/resnet50", "`--`"),
            ("timm/res..net", "`..`"),
            ("timm/.resnet", "start or end"),
            ("timm/resnet-", "start or end"),
            ("timm/resnet.git", ".git"),
            (long.as_str(), "96"),
            ("timm/resnet50@", "revision"),
            ("timm/resnet50@..", "revision"),
            ("timm/resnet50@%2Fetc", "revision"),
            ("timm/resnet50@a%2F..%2F..%2Fb", "revision"),
            ("timm/resnet50/", "must not be empty"),
            ("timm/resnet50/../x.safetensors", "`..`"),
            ("timm/resnet50@main//x.safetensors", "`..`"),
            ("timm/resnet50/..\\x.safetensors", "`..`"),
            ("timm/resnet50/pytorch_model.bin", ".safetensors"),
        ] {
            let error = text.parse::<HubSource>().expect_err(text).to_string();
            assert!(error.contains(problem) && error.contains(&format!("`hf://{text}`")), "{text}: {error}");
        }
    }

    #[test]
    fn revision_and_path_of_a_data_set_are_optional_and_names_round_trip() {
        for (text, revision, path) in [
            ("datasets/a/b", None, None),
            ("datasets/a/b@v1", Some("v1"), None),
            ("datasets/a/b/data/train", None, Some("data/train")),
            ("datasets/a/b/data/", None, Some("data")),
            ("datasets/a/b@v1/*/{train,test}-*.parquet", Some("v1"), Some("*/{train,test}-*.parquet")),
            ("datasets/a/b@refs/convert/parquet", Some("refs/convert/parquet"), None),
            ("datasets/a/b@refs%2Fconvert%2Fparquet/x", Some("refs/convert/parquet"), Some("x")),
        ] {
            let source: HubDataset = text.parse().unwrap();
            let RepoRef { repo, revision: found, path: found_path, .. } = &source.repo_ref;
            assert_eq!(
                (repo.as_str(), found.as_deref(), found_path.as_deref()),
                ("a/b", revision, path),
                "{text}"
            );
            let written = source.to_string();
            assert_eq!(written.strip_prefix("hf://").unwrap().parse::<HubDataset>().unwrap(), source);
        }
    }

    #[test]
    fn the_error_for_a_malformed_data_set_name_describes_the_problem() {
        for (text, problem) in [
            ("a/b", "`datasets/`"),
            ("datasets/mnist", "owner"),
            ("datasets/a/b@", "revision"),
            ("datasets/a/b/", "must not be empty"),
            ("datasets/a/b/../c", "`..`"),
            ("datasets/a/b/c//d", "empty folder names"),
            ("datasets/a/b/..\\c", "`..`"),
            ("datasets/a/b/{c", "pattern"),
        ] {
            let error = text.parse::<HubDataset>().expect_err(text);
            assert!(error.is_name_error());
            let error = error.to_string();
            assert!(error.contains(problem) && error.contains(&format!("`hf://{text}`")), "{text}: {error}");
        }
    }

    #[test]
    fn a_repository_name_has_at_most_96_characters() {
        let name = |length: usize| format!("owner/{}", "n".repeat(length - 6));
        assert_eq!(name(96).parse::<HubSource>().unwrap().0.repo, name(96));
        assert!(
            name(97).parse::<HubSource>().unwrap_err().to_string().contains("more than the 96 characters")
        );
    }

    #[test]
    fn a_commit_is_40_hexadecimal_digits() {
        let digits = "0123456789abcdefABCDEF0123456789abcdef01";
        for (revision, commit) in [
            (digits.to_owned(), Some(digits.to_lowercase())),
            (digits[1..].to_owned(), None),
            (format!("{digits}0"), None),
            (digits.replace('a', "g"), None),
            ("main".to_owned(), None),
        ] {
            let source: HubSource = format!("a/b@{revision}").parse().unwrap();
            assert_eq!(source.0.commit(), commit.as_deref(), "{revision}");
            assert_eq!(source.0.revision_or_main(), commit.as_ref().unwrap_or(&revision));
        }
        assert_eq!("a/b".parse::<HubSource>().unwrap().0.revision_or_main(), "main");
    }

    #[test]
    fn safe_relative_paths_have_only_plain_components() {
        for path in ["a", "a/b.c/d-e_f", "...a", "a..", "ä/ö", " a"] {
            assert!(is_safe_relative_path(path), "{path}");
        }
        for path in
            ["", "/a", "a/", "a//b", ".", "..", "...", "a/./b", "a\\b", "c:", "a?", "a*", "a\n", "a\0b"]
        {
            assert!(!is_safe_relative_path(path), "{path:?}");
        }
    }

    #[test]
    fn names_for_messages_have_the_requested_path_and_revision() {
        let source: HubSource = "a/b@feature%2fx/c.safetensors".parse().unwrap();
        let repo_ref = source.0;
        assert_eq!(repo_ref.repo_name(), "hf://a/b@feature%2Fx");
        assert_eq!(repo_ref.name_with_file(None), "hf://a/b@feature%2Fx/c.safetensors");
        assert_eq!(repo_ref.name_with_file(Some("d")), "hf://a/b@feature%2Fx/d");
        assert_eq!(repo_ref.at_revision("1234").to_string(), "hf://a/b@1234/c.safetensors");
        assert_eq!(
            (repo_ref.page_path(), repo_ref.repo.as_str(), repo_ref.kind),
            ("a/b".into(), "a/b", RepoKind::Weights)
        );
        let data: HubDataset = "datasets/a/b".parse().unwrap();
        let repo_ref = data.repo_ref;
        assert_eq!((repo_ref.page_path(), repo_ref.kind), ("datasets/a/b".into(), RepoKind::Dataset));
        assert_eq!(
            (repo_ref.repo_name(), repo_ref.name_with_file(Some("x"))),
            ("hf://datasets/a/b".into(), "hf://datasets/a/b/x".into())
        );
        for (kind, prefix, plural) in
            [(RepoKind::Weights, "", "models"), (RepoKind::Dataset, "datasets/", "datasets")]
        {
            assert_eq!((kind.prefix(), kind.plural()), (prefix, plural));
        }
    }

    #[test]
    fn siblings_of_the_weights_are_in_their_folder() {
        let source: HubSource = "a/b/f32/model.safetensors".parse().unwrap();
        assert_eq!(source.sibling_path("config.json"), "f32/config.json");
        assert_eq!("a/b".parse::<HubSource>().unwrap().sibling_path("config.json"), "config.json");
    }
}
