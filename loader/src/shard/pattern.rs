//! Which files a pattern means.

use std::path::{Component, Path, PathBuf};

use globset::GlobBuilder;

use crate::dataset::DatasetError;

const WILDCARDS: [char; 3] = ['*', '?', '['];

/// More files than any data set has shards.
const MOST: usize = 100_000;

/// The shards that `pattern` names: a file; a folder, for all files below it whose names end in one of `endings`; or a
/// pattern with `*`, `?`, and numbers in braces as WebDataset has them (`train-{000..146}.tar`). They are sorted by path,
/// bytewise; hidden files are passed over.
///
/// ```
/// use headstock_loader::shards;
///
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// for name in ["a-08.tar", "a-09.tar", "a-10.tar", "b.tar", "notes.txt"] {
///     std::fs::write(folder.join(name), [])?;
/// }
/// let named = |pattern: &str| shards(&folder.join(pattern), &["tar"]).map(|paths| paths.len());
/// assert_eq!(named("")?, 4);
/// assert_eq!(named("a-*.tar")?, 3);
/// assert_eq!(named("a-{09..10}.tar")?, 2);
/// assert_eq!(named("b.tar")?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`DatasetError`] for a folder that cannot be read and for a pattern that names nothing.
pub fn shards(pattern: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, DatasetError> {
    let fault = |problem: String| DatasetError::Pattern { pattern: pattern.into(), problem };
    if pattern.is_file() {
        return Ok(vec![pattern.into()]);
    }
    let mut found = Vec::new();
    if pattern.is_dir() {
        enter(pattern, &|path| has_ending(path, endings), &mut found)?;
    } else {
        let text = pattern.to_str().ok_or_else(|| fault("it is not UTF-8".into()))?;
        for text in in_braces(text).map_err(fault)? {
            if !text.contains(WILDCARDS) {
                let path = PathBuf::from(&text);
                if !path.is_file() {
                    return Err(fault(format!("there is no file {text}")));
                }
                found.push(path);
                continue;
            }
            let glob = GlobBuilder::new(&text).literal_separator(true).build();
            let matcher = glob.map_err(|error| fault(error.to_string()))?.compile_matcher();
            let mut below = Vec::new();
            enter(&without_wildcards(&text), &|path| matcher.is_match(path), &mut below)?;
            found.append(&mut below);
        }
    }
    if found.is_empty() {
        return Err(fault(format!(
            "no file is there; name a file that ends in .{}, a folder of such files, or a pattern with `*` or `{{000..146}}`",
            endings.join(" or .")
        )));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The files below a folder that are meant.
fn enter(
    folder: &Path,
    is_meant: &dyn Fn(&Path) -> bool,
    found: &mut Vec<PathBuf>,
) -> Result<(), DatasetError> {
    let io = |source| DatasetError::Io { path: folder.into(), source };
    for entry in folder.read_dir().map_err(io)? {
        let entry = entry.map_err(io)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(io)?);
        if is_hidden(&path) {
            continue;
        }
        // Links to files are followed, those to folders are not: they may lead in a circle.
        if kind.is_dir() {
            enter(&path, is_meant, found)?;
        } else if is_meant(&path) && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

/// The folder above the first name of a pattern that has wildcards.
fn without_wildcards(pattern: &str) -> PathBuf {
    let plain = |part: &Component<'_>| !part.as_os_str().to_string_lossy().contains(WILDCARDS);
    let folder: PathBuf = Path::new(pattern).components().take_while(plain).collect();
    if folder.as_os_str().is_empty() { ".".into() } else { folder }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    endings.iter().any(|ending| name.strip_suffix(ending).is_some_and(|rest| rest.ends_with('.')))
}

/// The texts that numbers in braces stand for: `a-{08..10}` is `a-08`, `a-09`, `a-10`.
fn in_braces(text: &str) -> Result<Vec<String>, String> {
    let Some((before, rest)) = text.split_once('{') else { return Ok(vec![text.to_owned()]) };
    let range = rest.split_once('}').and_then(|(range, after)| Some((range.split_once("..")?, after)));
    let numbers = range.and_then(|((first, last), after)| {
        let width = if first.starts_with('0') { first.len() } else { 0 };
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?, width, after))
    });
    let Some((first, last, width, after)) = numbers else {
        return Err("braces hold two numbers, as {000..146}".into());
    };
    if last < first || last - first >= MOST {
        return Err(format!("{{{first}..{last}}} is no range of up to {MOST} numbers"));
    }
    let rest = in_braces(after)?;
    if (last - first + 1) * rest.len() > MOST {
        return Err(format!("it names more than {MOST} files"));
    }
    let texts = rest
        .iter()
        .flat_map(|after| (first..=last).map(move |number| format!("{before}{number:0width$}{after}")));
    Ok(texts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_braces_keep_their_width() {
        assert_eq!(in_braces("a-{08..10}.tar").unwrap(), ["a-08.tar", "a-09.tar", "a-10.tar"]);
        assert_eq!(in_braces("{1..2}{0..1}").unwrap(), ["10", "20", "11", "21"]);
        assert_eq!(in_braces(&format!("{{1..{MOST}}}")).unwrap().len(), MOST);
        assert_eq!(in_braces("{1..100}{1..1000}").unwrap().len(), MOST);
        for wrong in [
            "{",
            "{1}",
            "{a..b}",
            "{2..1}",
            "{0..9999999999}",
            "{0..100000}",
            "{0..999}{0..999}",
            "{1..1001}{1..100}",
        ] {
            assert!(in_braces(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_stands_for_its_shards_sorted_and_a_pattern_that_names_nothing_says_what_to_write() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b/2.TAR", "a/1.tar.gz", "c.tar", ".hidden.tar", "d.txt"] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, []).unwrap();
        }
        let found = shards(root.path(), &["tar", "tar.gz"]).unwrap();
        assert_eq!(found, ["a/1.tar.gz", "b/2.TAR", "c.tar"].map(|name| root.path().join(name)));
        let refused = shards(&root.path().join("e*.tar"), &["tar", "tar.gz"]).unwrap_err().to_string();
        assert!(
            refused.contains("e*.tar: no file is there; name a file that ends in .tar or .tar.gz"),
            "{refused}"
        );
    }
}
