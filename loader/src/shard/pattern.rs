//! Which files a pattern means.

use std::path::{Component, Path, PathBuf};

use globset::GlobBuilder;

use crate::dataset::DatasetError;

const WILDCARDS: [char; 3] = ['*', '?', '['];

/// More files than any data set has shards.
const MAX_SHARDS: usize = 100_000;

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
pub fn find_shards(pattern: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, DatasetError> {
    let pattern_error = |problem: String| DatasetError::Pattern { pattern: pattern.into(), problem };
    if pattern.is_file() {
        return Ok(vec![pattern.into()]);
    }
    let mut files = Vec::new();
    if pattern.is_dir() {
        collect_files(pattern, &|path| has_extension(path, extensions), &mut files)?;
    } else {
        let text = pattern.to_str().ok_or_else(|| pattern_error("it is not UTF-8".into()))?;
        for text in expand_braces(text).map_err(pattern_error)? {
            if !text.contains(WILDCARDS) {
                let path = PathBuf::from(&text);
                if !path.is_file() {
                    return Err(pattern_error(format!("there is no file {text}")));
                }
                files.push(path);
                continue;
            }
            let glob = GlobBuilder::new(&text).literal_separator(true).build();
            let matcher = glob.map_err(|error| pattern_error(error.to_string()))?.compile_matcher();
            let mut matched = Vec::new();
            collect_files(&literal_folder(&text), &|path| matcher.is_match(path), &mut matched)?;
            files.append(&mut matched);
        }
    }
    if files.is_empty() {
        return Err(pattern_error(format!(
            "no file is there; name a file that ends in .{}, a folder of such files, or a pattern with `*` or `{{000..146}}`",
            extensions.join(" or .")
        )));
    }
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

/// The files below a folder that are meant.
fn collect_files(
    folder: &Path,
    is_match: &dyn Fn(&Path) -> bool,
    files: &mut Vec<PathBuf>,
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
            collect_files(&path, is_match, files)?;
        } else if is_match(&path) && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// The folder above the first name of a pattern that has wildcards.
fn literal_folder(pattern: &str) -> PathBuf {
    let is_literal = |part: &Component<'_>| !part.as_os_str().to_string_lossy().contains(WILDCARDS);
    let folder: PathBuf = Path::new(pattern).components().take_while(is_literal).collect();
    if folder.as_os_str().is_empty() { ".".into() } else { folder }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    extensions.iter().any(|ending| name.strip_suffix(ending).is_some_and(|rest| rest.ends_with('.')))
}

/// The texts that numbers in braces stand for: `a-{08..10}` is `a-08`, `a-09`, `a-10`.
fn expand_braces(text: &str) -> Result<Vec<String>, String> {
    let Some((before, rest)) = text.split_once('{') else { return Ok(vec![text.to_owned()]) };
    let range = rest.split_once('}').and_then(|(range, after)| Some((range.split_once("..")?, after)));
    let numbers = range.and_then(|((first, last), after)| {
        let width = if first.starts_with('0') { first.len() } else { 0 };
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?, width, after))
    });
    let Some((first, last, width, after)) = numbers else {
        return Err("braces hold two numbers, as {000..146}".into());
    };
    if last < first || last - first >= MAX_SHARDS {
        return Err(format!("{{{first}..{last}}} is no range of up to {MAX_SHARDS} numbers"));
    }
    let rest = expand_braces(after)?;
    if (last - first + 1) * rest.len() > MAX_SHARDS {
        return Err(format!("it names more than {MAX_SHARDS} files"));
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
        assert_eq!(expand_braces("a-{08..10}.tar").unwrap(), ["a-08.tar", "a-09.tar", "a-10.tar"]);
        assert_eq!(expand_braces("{1..2}{0..1}").unwrap(), ["10", "20", "11", "21"]);
        assert_eq!(expand_braces(&format!("{{1..{MAX_SHARDS}}}")).unwrap().len(), MAX_SHARDS);
        assert_eq!(expand_braces("{1..100}{1..1000}").unwrap().len(), MAX_SHARDS);
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
            assert!(expand_braces(wrong).is_err(), "{wrong}");
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
        let found = find_shards(root.path(), &["tar", "tar.gz"]).unwrap();
        assert_eq!(found, ["a/1.tar.gz", "b/2.TAR", "c.tar"].map(|name| root.path().join(name)));
        let refused = find_shards(&root.path().join("e*.tar"), &["tar", "tar.gz"]).unwrap_err().to_string();
        assert!(
            refused.contains("e*.tar: no file is there; name a file that ends in .tar or .tar.gz"),
            "{refused}"
        );
    }
}
