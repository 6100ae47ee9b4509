//! The kinds of repositories on the hub.

/// The kind of a repository on the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepoKind {
    Weights,
    Dataset,
}

impl RepoKind {
    /// What precedes `owner/name` in `hf://` names and in URLs of web pages.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Weights => "",
            Self::Dataset => "datasets/",
        }
    }

    /// The name of this kind in addresses of the hub's API, and the first word of the name of a repository's
    /// folder in the cache, `models--owner--name` for example, as in huggingface_hub.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Weights => "models",
            Self::Dataset => "datasets",
        }
    }
}
