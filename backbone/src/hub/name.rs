//! `hf://` names.

use std::fmt;
use std::str::FromStr;

use globset::{Glob, GlobBuilder, GlobMatcher};

use super::error::HubError;

/// A repository on the hub, `hf://owner/name@revision/file` where revision and file may be left out.
///
/// The revision is a branch, a tag or a commit, `main` where there is none. It ends at the next slash; a slash in a branch
/// is written `%2F` (`hf://owner/name@feature%2Fx`). `refs/pr/N` and `refs/convert/NAME` may be written as they are, as
/// Python's `HfFileSystem` has it. The file is `model.safetensors` where there is none.
///
/// ```
/// use headstock_backbone::HubSource;
///
/// let source: HubSource = "timm/resnet50.a1_in1k@main".parse()?;
/// assert_eq!((source.repo(), source.revision(), source.file()), ("timm/resnet50.a1_in1k", Some("main"), None));
/// assert_eq!(source.to_string(), "hf://timm/resnet50.a1_in1k@main");
/// # Ok::<(), headstock_backbone::HubError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSource(RepoRef);

impl HubSource {
    /// `owner/name`.
    #[must_use]
    pub fn repo(&self) -> &str {
        &self.0.repo
    }

    /// The branch, tag or commit that was asked for.
    #[must_use]
    pub fn revision(&self) -> Option<&str> {
        self.0.revision.as_deref()
    }

    /// The `.safetensors` file that was asked for.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.0.path.as_deref()
    }

    pub(super) fn repo_ref(&self) -> &RepoRef {
        &self.0
    }

    /// The weights' path in the repository.
    pub(super) fn weights_path(&self) -> &str {
        self.file().unwrap_or("model.safetensors")
    }

    /// The path of a file beside the weights.
    pub(super) fn sibling_path(&self, file: &str) -> String {
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

    /// Reads what follows `hf://`.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let invalid_name =
            |problem: &str| HubError::InvalidName { name: text.into(), problem: problem.into() };
        let place = RepoRef::parse(RepoKind::Weights, text).map_err(invalid_name)?;
        if let Some(file) = &place.path {
            check_file(file).map_err(invalid_name)?;
        }
        Ok(Self(place))
    }
}

/// A data set on the hub, `hf://datasets/owner/name@revision/part` where revision and part may be left out.
///
/// The revision is as in [`HubSource`]; `@refs/convert/parquet` (or `@refs%2Fconvert%2Fparquet`) is the branch into which the
/// hub itself converts data sets of other formats.
///
/// The part is a folder, with all that is below it, or a `.parquet` file. It may be a pattern: `*` stands for any characters
/// of a file's or folder's name, `**` for any folders, `{a,b}` for either, as in `data/train-*` or `*/{train,test}`.
/// [`fetch_dataset`](super::fetch_dataset) says what is meant where there is none.
///
/// ```
/// use headstock_backbone::HubDataset;
///
/// let source: HubDataset = "datasets/owner/name@v1/data/train-*.parquet".parse()?;
/// assert_eq!((source.repo(), source.revision()), ("owner/name", Some("v1")));
/// assert_eq!(source.part(), Some("data/train-*.parquet"));
/// assert_eq!(source.to_string(), "hf://datasets/owner/name@v1/data/train-*.parquet");
///
/// let converted: HubDataset = "datasets/owner/name@refs/convert/parquet/default".parse()?;
/// assert_eq!((converted.revision(), converted.part()), (Some("refs/convert/parquet"), Some("default")));
/// # Ok::<(), headstock_backbone::HubError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubDataset {
    repo_ref: RepoRef,
    pattern: Option<Glob>,
}

impl HubDataset {
    /// `owner/name`.
    #[must_use]
    pub fn repo(&self) -> &str {
        &self.repo_ref.repo
    }

    /// The branch, tag or commit that was asked for.
    #[must_use]
    pub fn revision(&self) -> Option<&str> {
        self.repo_ref.revision.as_deref()
    }

    /// The folder, file or pattern that was asked for.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.repo_ref.path.as_deref()
    }

    pub(super) fn repo_ref(&self) -> &RepoRef {
        &self.repo_ref
    }

    /// Matches the files and folders that are meant by the part.
    pub(super) fn path_matcher(&self) -> Option<GlobMatcher> {
        self.pattern.as_ref().map(Glob::compile_matcher)
    }
}

impl fmt::Display for HubDataset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repo_ref.fmt(out)
    }
}

impl FromStr for HubDataset {
    type Err = HubError;

    /// Reads what follows `hf://`.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let invalid_name =
            |problem: &str| HubError::InvalidDatasetName { name: text.into(), problem: problem.into() };
        let Some(rest) = text.strip_prefix(RepoKind::Dataset.prefix()) else {
            return Err(invalid_name("it does not begin with `datasets/`"));
        };
        let mut place = RepoRef::parse(RepoKind::Dataset, rest).map_err(invalid_name)?;
        let Some(part) = &mut place.path else {
            return Ok(Self { repo_ref: place, pattern: None });
        };
        if let Some(folder) = part.strip_suffix('/') {
            *part = folder.to_owned();
        }
        // What stands for names stands in a path as a name does.
        if !is_safe_relative_path(&part.replace(['*', '?'], "x")) {
            return Err(invalid_name("the part must be a path inside the repository"));
        }
        let pattern = GlobBuilder::new(part).literal_separator(true).build();
        let pattern =
            pattern.map_err(|error| invalid_name(&format!("the pattern fails: {}", error.kind())))?;
        Ok(Self { repo_ref: place, pattern: Some(pattern) })
    }
}

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepoKind {
    Weights,
    Dataset,
}

impl RepoKind {
    /// What precedes `owner/name` in a name and in the addresses of pages and files.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Weights => "",
            Self::Dataset => "datasets/",
        }
    }

    /// Begins the name of a repository's folder in the cache.
    pub(super) fn cache_prefix(self) -> &'static str {
        match self {
            Self::Weights => "models",
            Self::Dataset => "datasets",
        }
    }

    /// For messages.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Dataset => "data set",
        }
    }
}

/// A place on the hub: a repository, and where they are named a revision and a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RepoRef {
    kind: RepoKind,
    repo: String,
    revision: Option<String>,
    path: Option<String>,
}

impl RepoRef {
    /// Reads what follows `hf://` and the kind's prefix; the part is not checked. The error says what is wrong.
    fn parse(kind: RepoKind, text: &str) -> Result<Self, &'static str> {
        let (owner, rest) = text.split_once('/').ok_or("the owner is missing")?;
        let (name, rest) = rest.split_at(rest.find(['@', '/']).unwrap_or(rest.len()));
        let (revision, rest) = match rest.strip_prefix('@') {
            Some(rest) => {
                let (revision, rest) = rest.split_at(end_of_revision(rest));
                (Some(revision.replace("%2F", "/").replace("%2f", "/")), rest)
            }
            None => (None, rest),
        };
        check_repo(owner, name)?;
        let revision = revision.map(check_revision).transpose()?;
        let part = rest.strip_prefix('/').map(str::to_owned);
        Ok(Self { kind, repo: format!("{owner}/{name}"), revision, path: part })
    }

    pub(super) fn kind(&self) -> RepoKind {
        self.kind
    }

    /// `owner/name`.
    pub(super) fn repo(&self) -> &str {
        &self.repo
    }

    /// The path of the repository's page on the hub.
    pub(super) fn page_path(&self) -> String {
        format!("{}{}", self.kind.prefix(), self.repo)
    }

    /// The revision where it is a commit, which never changes.
    pub(super) fn commit(&self) -> Option<&str> {
        self.revision.as_deref().filter(|revision| is_commit(revision))
    }

    /// The revision, or the hub's default.
    pub(super) fn revision_or_main(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The name without a part, as an error gives it.
    pub(super) fn repo_name(&self) -> String {
        Self { path: None, ..self.clone() }.to_string()
    }

    /// The name with a file of the repository, as an error gives it.
    pub(super) fn name_with_file(&self, file: Option<&str>) -> String {
        let part = file.or(self.path.as_deref()).map(str::to_owned);
        Self { path: part, ..self.clone() }.to_string()
    }

    /// The same at `revision`.
    pub(super) fn at_revision(&self, revision: &str) -> Self {
        Self { revision: Some(revision.into()), ..self.clone() }
    }
}

impl fmt::Display for RepoRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "hf://{}{}", self.kind.prefix(), self.repo)?;
        if let Some(revision) = &self.revision {
            write!(out, "@{}", revision.replace('/', "%2F"))?;
        }
        if let Some(part) = &self.path {
            write!(out, "/{part}")?;
        }
        Ok(())
    }
}

/// Whether a revision is a whole commit hash.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The longest repository the hub takes.
const MAX_REPO_LENGTH: usize = 96;

/// Where the revision ends in what follows the `@`.
fn end_of_revision(text: &str) -> usize {
    let parts = if text.starts_with("refs/pr/") || text.starts_with("refs/convert/") { 3 } else { 1 };
    text.match_indices('/').nth(parts - 1).map_or(text.len(), |(at, _)| at)
}

/// The hub's own rules (`validate_repo_id` of huggingface_hub).
fn check_repo(owner: &str, name: &str) -> Result<(), &'static str> {
    for part in [owner, name] {
        if part.is_empty() {
            return Err("owner and name must not be empty");
        }
        if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Err("owner and name are made of letters, digits, `-`, `_` and `.`");
        }
        if part.contains("--") || part.contains("..") {
            return Err("owner and name must not hold `--` or `..`");
        }
        if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
            return Err("owner and name must not begin or end with `-` or `.`");
        }
    }
    if name.ends_with(".git") {
        return Err("the name must not end with `.git`");
    }
    if owner.len() + 1 + name.len() > MAX_REPO_LENGTH {
        return Err("owner and name are longer than 96 characters");
    }
    Ok(())
}

/// A revision becomes a path below `refs/` in the cache, so it must stay there.
fn check_revision(revision: String) -> Result<String, &'static str> {
    if !is_safe_relative_path(&revision) {
        return Err("the revision is no branch, tag or commit");
    }
    Ok(if is_commit(&revision) { revision.to_ascii_lowercase() } else { revision })
}

fn check_file(file: &str) -> Result<(), &'static str> {
    if !is_safe_relative_path(file) {
        return Err("the file must be a path inside the repository");
    }
    if !file.ends_with(".safetensors") {
        return Err("the file must be a .safetensors file");
    }
    Ok(())
}

/// Whether a path of plain parts, joined to a directory, stays in it.
pub(super) fn is_safe_relative_path(path: &str) -> bool {
    let is_plain_component = |part: &str| {
        !part.is_empty() && part.chars().any(|c| c != '.') && !part.contains(['\\', ':', '?', '*'])
    };
    path.split('/').all(is_plain_component) && !path.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn parts(text: &str) -> (String, Option<String>, Option<String>) {
        let HubSource(RepoRef { repo, revision, path: part, .. }) =
            text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        (repo, revision, part)
    }

    #[test]
    fn revision_and_file_may_be_left_out() {
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
    fn a_name_is_written_so_that_it_reads_as_the_same_again() {
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
    fn a_malformed_name_says_what_is_wrong_with_it() {
        let long = format!("owner/{}", "n".repeat(91));
        for (text, problem) in [
            ("", "owner"),
            ("resnet50", "owner"),
            ("/resnet50", "empty"),
            ("timm/", "empty"),
            ("timm/@main", "empty"),
            ("ti mm/resnet50", "letters"),
            ("timm/resnet50#1", "letters"),
            ("ti--mm/resnet50", "`--`"),
            ("timm/res..net", "`..`"),
            ("timm/.resnet", "begin or end"),
            ("timm/resnet-", "begin or end"),
            ("timm/resnet.git", ".git"),
            (long.as_str(), "96"),
            ("timm/resnet50@", "revision"),
            ("timm/resnet50@..", "revision"),
            ("timm/resnet50@%2Fetc", "revision"),
            ("timm/resnet50@a%2F..%2F..%2Fb", "revision"),
            ("timm/resnet50/", "inside"),
            ("timm/resnet50/../x.safetensors", "inside"),
            ("timm/resnet50@main//x.safetensors", "inside"),
            ("timm/resnet50/..\\x.safetensors", "inside"),
            ("timm/resnet50/pytorch_model.bin", ".safetensors"),
        ] {
            let error = text.parse::<HubSource>().expect_err(text).to_string();
            assert!(error.contains(problem) && error.contains(&format!("`hf://{text}`")), "{text}: {error}");
        }
    }

    #[test]
    fn a_data_set_has_a_revision_and_a_part_or_neither_and_is_written_as_it_is_read() {
        for (text, revision, part) in [
            ("datasets/a/b", None, None),
            ("datasets/a/b@v1", Some("v1"), None),
            ("datasets/a/b/data/train", None, Some("data/train")),
            ("datasets/a/b/data/", None, Some("data")),
            ("datasets/a/b@v1/*/{train,test}-*.parquet", Some("v1"), Some("*/{train,test}-*.parquet")),
            ("datasets/a/b@refs/convert/parquet", Some("refs/convert/parquet"), None),
            ("datasets/a/b@refs%2Fconvert%2Fparquet/x", Some("refs/convert/parquet"), Some("x")),
        ] {
            let source: HubDataset = text.parse().unwrap();
            assert_eq!((source.repo(), source.revision(), source.path()), ("a/b", revision, part), "{text}");
            let written = source.to_string();
            assert_eq!(written.strip_prefix("hf://").unwrap().parse::<HubDataset>().unwrap(), source);
        }
    }

    #[test]
    fn a_malformed_name_of_a_data_set_says_what_is_wrong_with_it() {
        for (text, problem) in [
            ("a/b", "`datasets/`"),
            ("datasets/mnist", "owner"),
            ("datasets/a/b@", "revision"),
            ("datasets/a/b/", "inside"),
            ("datasets/a/b/../c", "inside"),
            ("datasets/a/b/c//d", "inside"),
            ("datasets/a/b/..\\c", "inside"),
            ("datasets/a/b/{c", "pattern"),
        ] {
            let error = text.parse::<HubDataset>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Config);
            let error = error.to_string();
            assert!(error.contains(problem) && error.contains(&format!("`hf://{text}`")), "{text}: {error}");
        }
    }

    #[test]
    fn a_repository_has_96_characters_at_most() {
        let name = |length: usize| format!("owner/{}", "n".repeat(length - 6));
        assert_eq!(name(96).parse::<HubSource>().unwrap().repo(), name(96));
        assert!(name(97).parse::<HubSource>().unwrap_err().to_string().contains("longer than 96 characters"));
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
            assert_eq!(source.repo_ref().commit(), commit.as_deref(), "{revision}");
            assert_eq!(source.repo_ref().revision_or_main(), commit.as_ref().unwrap_or(&revision));
        }
        assert_eq!("a/b".parse::<HubSource>().unwrap().repo_ref().revision_or_main(), "main");
    }

    #[test]
    fn a_path_inside_is_made_of_plain_parts() {
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
    fn a_place_is_named_with_and_without_its_part_and_at_its_commit() {
        let source: HubSource = "a/b@feature%2fx/c.safetensors".parse().unwrap();
        let place = source.repo_ref();
        assert_eq!(place.repo_name(), "hf://a/b@feature%2Fx");
        assert_eq!(place.name_with_file(None), "hf://a/b@feature%2Fx/c.safetensors");
        assert_eq!(place.name_with_file(Some("d")), "hf://a/b@feature%2Fx/d");
        assert_eq!(place.at_revision("1234").to_string(), "hf://a/b@1234/c.safetensors");
        assert_eq!((place.page_path(), place.repo(), place.kind()), ("a/b".into(), "a/b", RepoKind::Weights));
        let data: HubDataset = "datasets/a/b".parse().unwrap();
        let place = data.repo_ref();
        assert_eq!((place.page_path(), place.kind()), ("datasets/a/b".into(), RepoKind::Dataset));
        assert_eq!(
            (place.repo_name(), place.name_with_file(Some("x"))),
            ("hf://datasets/a/b".into(), "hf://datasets/a/b/x".into())
        );
        for (kind, prefix, folder, what) in [
            (RepoKind::Weights, "", "models", "weights"),
            (RepoKind::Dataset, "datasets/", "datasets", "data set"),
        ] {
            assert_eq!((kind.prefix(), kind.cache_prefix(), kind.label()), (prefix, folder, what));
        }
    }

    #[test]
    fn what_lies_beside_the_weights_lies_in_their_folder() {
        let source: HubSource = "a/b/f32/model.safetensors".parse().unwrap();
        assert_eq!(source.sibling_path("config.json"), "f32/config.json");
        assert_eq!("a/b".parse::<HubSource>().unwrap().sibling_path("config.json"), "config.json");
    }
}
