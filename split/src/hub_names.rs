//! Names of the Hugging Face hub in other notations, for messages: what was probably meant by a path.

use std::path::Path;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubKind {
    /// Model weights, `hf://owner/name`.
    Weights,
    /// A data set, `hf://datasets/owner/name`.
    Dataset,
}

/// The addresses of the hub's web pages, without the scheme.
const HOSTS: [&str; 3] = ["huggingface.co/", "www.huggingface.co/", "hf.co/"];

/// The prefixes of names in other programs, and the owner of a name that has none.
const PREFIXES: [(&str, Option<&str>); 5] =
    [("hf:", None), ("hf-hub:", None), ("hf_hub:", None), ("huggingface:", None), ("timm:", Some("timm"))];

/// The `hf://` name that is meant by `text`, which is an address of the hub's web page or a name with a prefix
/// of other programs, and so no path: `https://huggingface.co/timm/resnet50.a1_in1k/tree/main`,
/// `hf:timm/resnet50.a1_in1k`. `None` for a proper `hf://` name and for any other text.
///
/// ```
/// use headstock_split::hub_names::{HubKind, name_in_other_notation};
///
/// let address = "https://huggingface.co/datasets/acme/dogs";
/// let name = name_in_other_notation(address, HubKind::Dataset);
/// assert_eq!(name.as_deref(), Some("hf://datasets/acme/dogs"));
/// ```
#[must_use]
pub fn name_in_other_notation(text: &str, kind: HubKind) -> Option<String> {
    if text.starts_with("hf://") {
        return None;
    }
    let text = text.trim();
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    if ["", "http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
        let page = HOSTS.iter().find_map(|host| strip_prefix_ignoring_case(rest, host));
        if let Some(page) = page {
            return hub_name(page, None, kind);
        }
    }
    let with_owner =
        PREFIXES.iter().find_map(|(prefix, owner)| Some((strip_prefix_ignoring_case(text, prefix)?, *owner)));
    let (name, owner) = with_owner?;
    hub_name(name.trim_start_matches('/'), owner, kind)
}

/// The `hf://` name that may be meant by `path`, a path that does not exist: what follows the last folder in it
/// that exists is `owner/name`, or for weights the name of a ResNet. `None` if it does not look like a name.
#[must_use]
pub fn name_in_missing_path(path: &Path, kind: HubKind) -> Option<String> {
    let existing =
        path.ancestors().skip(1).find(|folder| folder.as_os_str().is_empty() || folder.exists())?;
    let missing = path.strip_prefix(existing).ok()?.to_str()?;
    if kind == HubKind::Weights
        && let Some(name) = resnet_name(missing)
    {
        return Some(name);
    }
    let n_parts = missing.split('/').count();
    let is_file = kind == HubKind::Weights && n_parts == 3 && missing.ends_with(".safetensors");
    let has_extension =
        [".parquet", ".safetensors", ".bin", ".pth", ".pt"].iter().any(|end| missing.ends_with(end));
    if !(is_file || n_parts == 2 && !has_extension) {
        return None;
    }
    hub_name(missing, None, kind)
}

/// The weights of timm or Microsoft that are meant by the name of a ResNet alone.
fn resnet_name(text: &str) -> Option<String> {
    let (architecture, tag) = text.split_once('.').unwrap_or((text, "a1_in1k"));
    let depth = architecture.strip_prefix("resnet")?;
    let is_tag = tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && tag.ends_with("in1k");
    match depth.strip_prefix('-') {
        Some(depth) if is_depth(depth) && text == architecture => {
            Some(format!("hf://microsoft/resnet-{depth}"))
        }
        None if is_depth(depth) && is_tag => Some(format!("hf://timm/resnet{depth}.{tag}")),
        _ => None,
    }
}

/// Whether there is a ResNet of this many layers.
fn is_depth(text: &str) -> bool {
    ["18", "34", "50", "101", "152"].contains(&text)
}

/// The `hf://` name for the path `page` of a web page of the hub, or for a name in which `owner` may be left
/// out.
fn hub_name(page: &str, owner: Option<&str>, kind: HubKind) -> Option<String> {
    let page = page.split(['?', '#']).next()?.trim_end_matches('/');
    let (is_dataset, page) = match page.strip_prefix("datasets/") {
        Some(page) => (true, page),
        None => (kind == HubKind::Dataset, page),
    };
    if is_dataset != (kind == HubKind::Dataset) {
        return None;
    }
    let mut parts: Vec<&str> = page.split('/').collect();
    if parts.len() == 1 {
        parts.insert(0, owner?);
    }
    let (owner, name_and_revision) = (parts[0], parts[1]);
    let (name, mut revision) = match name_and_revision.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (name_and_revision, None),
    };
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if !is_part(owner) || !is_part(name) {
        return None;
    }
    // Of a page of files: `tree/REVISION/FOLDER`, `blob/REVISION/FILE`.
    let mut path = &parts[2..];
    if let [view, at, rest @ ..] = path
        && ["tree", "blob", "resolve", "raw"].contains(view)
    {
        revision = Some(*at).filter(|at| *at != "main");
        path = rest;
    }
    let mut name = format!("hf://{}{owner}/{name}", if is_dataset { "datasets/" } else { "" });
    if let Some(revision) = revision {
        name += &format!("@{revision}");
    }
    for part in path {
        name += &format!("/{part}");
    }
    Some(name)
}

/// `text` without `prefix`, whatever the case of its letters.
fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let start = text.get(..prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_hub_and_names_of_other_programs_mean_a_hub_name() {
        let name = "hf://timm/resnet50.a1_in1k";
        for (text, expected) in [
            ("https://huggingface.co/timm/resnet50.a1_in1k", name),
            ("http://huggingface.co/timm/resnet50.a1_in1k/", name),
            ("HTTPS://HuggingFace.co/timm/resnet50.a1_in1k", name),
            ("https://huggingface.co/timm/resnet50.a1_in1k?library=timm#x", name),
            ("https://huggingface.co/timm/resnet50.a1_in1k/tree/main", name),
            ("https://www.huggingface.co/timm/resnet50.a1_in1k", name),
            ("huggingface.co/timm/resnet50.a1_in1k", name),
            ("hf.co/timm/resnet50.a1_in1k", name),
            ("hf:timm/resnet50.a1_in1k", name),
            ("HF:timm/resnet50.a1_in1k", name),
            ("hf:/timm/resnet50.a1_in1k", name),
            ("HF://timm/resnet50.a1_in1k", name),
            ("hf-hub:timm/resnet50.a1_in1k", name),
            ("hf_hub:timm/resnet50.a1_in1k", name),
            ("timm:resnet50.a1_in1k", name),
            ("timm:timm/resnet50.a1_in1k", name),
            ("hf:timm/resnet50.a1_in1k@v1", "hf://timm/resnet50.a1_in1k@v1"),
            ("https://huggingface.co/a/b/tree/v1", "hf://a/b@v1"),
            ("https://huggingface.co/a/b/blob/main/x/y.safetensors", "hf://a/b/x/y.safetensors"),
            ("https://huggingface.co/a/b/resolve/v1/y.safetensors", "hf://a/b@v1/y.safetensors"),
        ] {
            assert_eq!(name_in_other_notation(text, HubKind::Weights).as_deref(), Some(expected), "{text}");
        }
        for (text, expected) in [
            ("https://huggingface.co/datasets/a/b", "hf://datasets/a/b"),
            ("https://huggingface.co/datasets/a/b/tree/main/data", "hf://datasets/a/b/data"),
            ("hf:datasets/a/b", "hf://datasets/a/b"),
            ("hf:a/b", "hf://datasets/a/b"),
        ] {
            assert_eq!(name_in_other_notation(text, HubKind::Dataset).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn proper_names_paths_and_other_addresses_mean_no_other_name() {
        for text in [
            "hf://timm/resnet50",
            "hf://",
            "timm/resnet50",
            "photos",
            "https://example.com/timm/resnet50",
            "https://huggingface.co",
            "https://huggingface.co/timm",
            "https://huggingface.co/datasets/a/b",
            "hf:resnet50",
            "hf:a b/c",
            "C:\\weights",
            "",
        ] {
            assert_eq!(name_in_other_notation(text, HubKind::Weights), None, "{text}");
        }
    }

    #[test]
    fn the_missing_end_of_a_path_may_be_a_hub_name() {
        let weights = |path: &str| name_in_missing_path(Path::new(path), HubKind::Weights);
        for (path, expected) in [
            ("/timm/resnet50.a1_in1k", Some("hf://timm/resnet50.a1_in1k")),
            (
                "/timm/resnet50.a1_in1k/model.safetensors",
                Some("hf://timm/resnet50.a1_in1k/model.safetensors"),
            ),
            ("timm/resnet50.a1_in1k", Some("hf://timm/resnet50.a1_in1k")),
            ("/resnet50", Some("hf://timm/resnet50.a1_in1k")),
            ("/resnet18", Some("hf://timm/resnet18.a1_in1k")),
            ("/resnet50.tv_in1k", Some("hf://timm/resnet50.tv_in1k")),
            ("/resnet-50", Some("hf://microsoft/resnet-50")),
            ("/resnet51", None),
            ("/resnet50.pth", None),
            ("/resnet50.safetensors", None),
            ("/weights/resnet50.safetensors", None),
            ("/weights", None),
            ("/a/b/c", None),
        ] {
            assert_eq!(weights(path).as_deref(), expected, "{path}");
        }
        // What exists is not part of a name.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme/dogs");
        let name = || name_in_missing_path(&path, HubKind::Dataset);
        assert_eq!(name().as_deref(), Some("hf://datasets/acme/dogs"));
        std::fs::create_dir(folder.path().join("acme")).unwrap();
        assert_eq!(name(), None);
        assert_eq!(name_in_missing_path(&folder.path().join("a/b.parquet"), HubKind::Dataset), None);
    }
}
