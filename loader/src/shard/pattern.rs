//! Finds the shards that a path or pattern matches.

use std::path::{Component, Path, PathBuf};

use globset::GlobBuilder;

use crate::dataset::DatasetError;

/// Characters by which a path is a glob pattern.
const WILDCARDS: [char; 3] = ['*', '?', '['];

/// Maximum number of files that braces may expand to.
const MAX_SHARDS: usize = 100_000;

/// The shards that `pattern` matches, sorted bytewise by path: a file; a folder, for all files in it and its
/// subfolders with one of `extensions`; or a pattern with `*`, `?` and ranges of numbers as in WebDataset
/// (`train-{000..146}.tar`). Hidden files are skipped.
///
/// ```
/// use headstock_loader::find_shards;
///
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// for name in ["a-08.tar", "a-09.tar", "a-10.tar", "b.tar", "notes.txt"] {
///     std::fs::write(folder.join(name), [])?;
/// }
/// let n_shards = |pattern: &str| find_shards(&folder.join(pattern), &["tar"]).map(|paths| paths.len());
/// assert_eq!(n_shards("")?, 4);
/// assert_eq!(n_shards("a-*.tar")?, 3);
/// assert_eq!(n_shards("a-{09..10}.tar")?, 2);
/// assert_eq!(n_shards("b.tar")?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`DatasetError`] for a folder that cannot be read, or a pattern that is invalid or matches no file.
pub fn find_shards(pattern: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, DatasetError> {
    let pattern_error = |problem: String| DatasetError::invalid(pattern, problem);
    if pattern.is_file() {
        return Ok(vec![pattern.into()]);
    }
    let mut files = Vec::new();
    if pattern.is_dir() {
        collect_files(pattern, &|path| has_extension(path, extensions), &mut files)?;
    } else {
        let text =
            pattern.to_str().ok_or_else(|| pattern_error("the path is not valid UTF-8 text".into()))?;
        for expanded in expand_braces(text).map_err(pattern_error)? {
            if !expanded.contains(WILDCARDS) {
                let path = PathBuf::from(&expanded);
                if !path.is_file() {
                    return Err(pattern_error(format!("there is no file {expanded}: check the path")));
                }
                files.push(path);
                continue;
            }
            let glob = GlobBuilder::new(&expanded).literal_separator(true).build();
            let matcher = glob.map_err(|error| pattern_error(error.to_string()))?.compile_matcher();
            collect_files(&literal_folder(&expanded), &|path| matcher.is_match(path), &mut files)?;
        }
    }
    if files.is_empty() {
        return Err(pattern_error(format!(
            "no file matches: give a file that ends in .{}, a folder of such files, or a pattern with `*` or \
             `{{000..146}}`",
            extensions.join(" or .")
        )));
    }
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

/// Appends to `files` the files in `folder` and its subfolders that satisfy `is_match`, in any order. Hidden
/// files and folders are skipped.
fn collect_files(
    folder: &Path,
    is_match: &dyn Fn(&Path) -> bool,
    files: &mut Vec<PathBuf>,
) -> Result<(), DatasetError> {
    for path in sorted_entries(folder)? {
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        // Links to files are followed; links to folders are not, as they may form a cycle.
        if path.symlink_metadata().map_err(DatasetError::io(folder))?.is_dir() {
            collect_files(&path, is_match, files)?;
        } else if is_match(&path) && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// The folder in which all files that a glob pattern can match lie, so that only it is searched: the
/// components before the first one with wildcards (`data/a` for `data/a/*.tar`), or `.` if there are none.
fn literal_folder(pattern: &str) -> PathBuf {
    let is_literal = |component: &Component<'_>| !component.as_os_str().to_string_lossy().contains(WILDCARDS);
    let folder: PathBuf = Path::new(pattern).components().take_while(is_literal).collect();
    if folder.as_os_str().is_empty() { ".".into() } else { folder }
}

/// The paths of the files and folders in `folder`, sorted bytewise by name, so that the order of samples is the
/// same on every file system.
pub(crate) fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let io_error = DatasetError::io(folder);
    let entries = folder.read_dir().map_err(&io_error)?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>().map_err(&io_error)?;
    paths.sort_unstable_by(|a, b| a.file_name().cmp(&b.file_name()));
    Ok(paths)
}

/// Whether the file name ends in a dot and one of `extensions`, which may have two parts (`tar.gz`); ignores
/// case.
fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    extensions.iter().any(|extension| name.strip_suffix(extension).is_some_and(|stem| stem.ends_with('.')))
}

/// Expands ranges in braces in a path pattern, as WebDataset does: `a-{08..10}` becomes `a-08`, `a-09`,
/// `a-10`. Returns all patterns without braces, or a message for the user.
fn expand_braces(text: &str) -> Result<Vec<String>, String> {
    let Some((before, opened)) = text.split_once('{') else { return Ok(vec![text.to_owned()]) };
    let range = opened.split_once('}').and_then(|(range, after)| Some((range.split_once("..")?, after)));
    let numbers = range.and_then(|((first, last), after)| {
        // With a leading zero, all numbers are padded to this width.
        let width = if first.starts_with('0') { first.len() } else { 0 };
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?, width, after))
    });
    let Some((first, last, width, after)) = numbers else {
        return Err(
            "the braces in a path must hold a range from one number to another, such as {000..146}".into()
        );
    };
    if last < first || last - first >= MAX_SHARDS {
        return Err(format!(
            "the braces {{{first}..{last}}} in the path must hold an ascending range of at most {MAX_SHARDS} \
             numbers, such as {{0..9}}"
        ));
    }
    // The rest of the path may have further braces.
    let endings = expand_braces(after)?;
    if (last - first + 1) * endings.len() > MAX_SHARDS {
        return Err(format!(
            "the braces in the path stand for more than {MAX_SHARDS} files: use smaller ranges"
        ));
    }
    let expanded = endings
        .iter()
        .flat_map(|ending| (first..=last).map(move |number| format!("{before}{number:0width$}{ending}")));
    Ok(expanded.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_braces_keep_their_width() {
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
    fn a_folder_gives_its_sorted_shards_and_a_pattern_without_match_suggests_what_to_write() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b/2.TAR", "a/1.tar.gz", "c.tar", ".hidden.tar", "d.txt"] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, []).unwrap();
        }
        let found = find_shards(root.path(), &["tar", "tar.gz"]).unwrap();
        assert_eq!(found, ["a/1.tar.gz", "b/2.TAR", "c.tar"].map(|name| root.path().join(name)));
        let error = find_shards(&root.path().join("e*.tar"), &["tar", "tar.gz"]).unwrap_err().to_string();
        assert!(
            error.contains("e*.tar: no file matches: give a file that ends in .tar or .tar.gz"),
            "{error}"
        );
    }
}
