//! `hf://` names.

use std::fmt;
use std::str::FromStr;

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
pub struct HubSource {
    repo: String,
    revision: Option<String>,
    file: Option<String>,
}

/// The longest repository the hub takes.
const LONGEST_REPO: usize = 96;

impl HubSource {
    /// `owner/name`.
    #[must_use]
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The branch, tag or commit that was asked for.
    #[must_use]
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// The `.safetensors` file that was asked for.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The revision where it is a commit, which never changes.
    pub(super) fn commit(&self) -> Option<&str> {
        self.revision().filter(|revision| is_commit(revision))
    }

    /// The revision, or the hub's default.
    pub(super) fn branch(&self) -> &str {
        self.revision().unwrap_or("main")
    }

    /// The weights' path in the repository.
    pub(super) fn weights(&self) -> &str {
        self.file().unwrap_or("model.safetensors")
    }

    /// The path of a file beside the weights.
    pub(super) fn beside(&self, file: &str) -> String {
        match self.weights().rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{file}"),
            None => file.into(),
        }
    }

    /// The name without a file, as an error gives it.
    pub(super) fn repository(&self) -> String {
        Self { file: None, ..self.clone() }.to_string()
    }

    /// The name with a file of the repository, as an error gives it.
    pub(super) fn naming(&self, file: Option<&str>) -> String {
        let file = file.or(self.file());
        Self { file: file.map(str::to_owned), ..self.clone() }.to_string()
    }

    /// The same at `commit`.
    pub(super) fn at(&self, commit: &str) -> Self {
        Self { revision: Some(commit.into()), ..self.clone() }
    }
}

/// Whether a revision is a whole commit hash.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl fmt::Display for HubSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "hf://{}", self.repo)?;
        if let Some(revision) = &self.revision {
            write!(out, "@{}", revision.replace('/', "%2F"))?;
        }
        if let Some(file) = &self.file {
            write!(out, "/{file}")?;
        }
        Ok(())
    }
}

impl FromStr for HubSource {
    type Err = HubError;

    /// Reads what follows `hf://`.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = |problem: &str| HubError::Name { name: text.into(), problem: problem.into() };
        let Some((owner, rest)) = text.split_once('/') else {
            return Err(wrong("the owner is missing"));
        };
        let (name, rest) = rest.split_at(rest.find(['@', '/']).unwrap_or(rest.len()));
        let (revision, rest) = match rest.strip_prefix('@') {
            Some(rest) => {
                let (revision, rest) = rest.split_at(end_of_revision(rest));
                (Some(revision.replace("%2F", "/").replace("%2f", "/")), rest)
            }
            None => (None, rest),
        };
        let file = rest.strip_prefix('/');
        check_repo(owner, name).map_err(&wrong)?;
        let revision = revision.map(|revision| check_revision(revision).map_err(&wrong)).transpose()?;
        if let Some(file) = file {
            check_file(file).map_err(&wrong)?;
        }
        Ok(Self { repo: format!("{owner}/{name}"), revision, file: file.map(str::to_owned) })
    }
}

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
    if owner.len() + 1 + name.len() > LONGEST_REPO {
        return Err("owner and name are longer than 96 characters");
    }
    Ok(())
}

/// A revision becomes a path below `refs/` in the cache, so it must stay there.
fn check_revision(revision: String) -> Result<String, &'static str> {
    if !is_inside(&revision) {
        return Err("the revision is no branch, tag or commit");
    }
    Ok(if is_commit(&revision) { revision.to_ascii_lowercase() } else { revision })
}

fn check_file(file: &str) -> Result<(), &'static str> {
    if !is_inside(file) {
        return Err("the file must be a path inside the repository");
    }
    if !file.ends_with(".safetensors") {
        return Err("the file must be a .safetensors file");
    }
    Ok(())
}

/// Whether a path of plain parts, joined to a directory, stays in it.
fn is_inside(path: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part.chars().any(|c| c != '.') && !part.contains(['\\', ':', '?', '*'])
    };
    path.split('/').all(plain) && !path.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, Option<String>, Option<String>) {
        let HubSource { repo, revision, file } =
            text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        (repo, revision, file)
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
    fn what_lies_beside_the_weights_lies_in_their_folder() {
        let source: HubSource = "a/b/f32/model.safetensors".parse().unwrap();
        assert_eq!(source.beside("config.json"), "f32/config.json");
        assert_eq!("a/b".parse::<HubSource>().unwrap().beside("config.json"), "config.json");
    }
}
