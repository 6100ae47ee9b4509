//! What photos that a table lists and that do not exist have in common.

use std::collections::HashMap;
use std::path::Path;

use percent_encoding::percent_decode_str;
use unicode_normalization::UnicodeNormalization;

use crate::source::paths::is_image_file;
use crate::source::tree::ImageTree;

/// How the name of a missing photo differs from that of a photo that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    Backslash,
    Case,
    Unicode,
    PercentEncoding,
    RepeatedExtension,
    Extension,
    LeadingZeros,
    Folder,
    Several,
}

impl Difference {
    const ALL: [Self; 9] = [
        Self::Backslash,
        Self::Case,
        Self::Unicode,
        Self::PercentEncoding,
        Self::RepeatedExtension,
        Self::Extension,
        Self::LeadingZeros,
        Self::Folder,
        Self::Several,
    ];

    /// The name without the part that differs, by which photos with similar names are found.
    fn key(self, id: &str) -> String {
        let without_folder = |id: &str| id.rsplit('/').next().unwrap_or_default().to_owned();
        match self {
            Self::Backslash => id.replace('\\', "/"),
            Self::Case => id.to_lowercase(),
            Self::Unicode => id.nfc().collect(),
            Self::PercentEncoding => percent_decode_str(id).decode_utf8_lossy().into_owned(),
            Self::RepeatedExtension => with_single_extension(id),
            Self::Extension => without_extension(id).to_owned(),
            Self::LeadingZeros => without_leading_zeros(without_extension(id)),
            Self::Folder => without_folder(&id.replace('\\', "/")),
            Self::Several => {
                let name = without_folder(&id.replace('\\', "/")).to_lowercase();
                without_leading_zeros(without_extension(&name.nfc().collect::<String>()))
            }
        }
    }

    /// What is different and what to do about it.
    fn advice(self) -> &'static str {
        match self {
            Self::Backslash => "the names have backslashes: write `/` between folder and file",
            Self::Case => "upper and lower case differ: write the names as the files have them",
            Self::Unicode => {
                "letters with accents are encoded differently (Unicode NFC and NFD): save the names in the \
                 same form as the files have"
            }
            Self::PercentEncoding => {
                "the names are encoded as in web addresses, such as `%20` for a space: write the names as the files have \
                 them"
            }
            Self::RepeatedExtension => {
                "the extension is there twice: the names have one already, so leave out `extension`"
            }
            Self::Extension => "the extensions differ: write the extensions that the files have",
            Self::LeadingZeros => {
                "zeros before the numbers differ, which spreadsheets remove: write the names as the files have them, as \
                 text"
            }
            Self::Folder => {
                "the photos are in a different folder: write the folder before the name, or name the folder of the photos"
            }
            Self::Several => "several parts of the names differ: write the names as the files have them",
        }
    }
}

/// `id` with only the last extension of an image, for names such as `1.jpg.jpg`.
fn with_single_extension(id: &str) -> String {
    let shorter = without_extension(id);
    if is_image_file(Path::new(shorter)) { shorter.to_owned() } else { id.to_owned() }
}

/// `id` without the zeros before the number with which the name of the file begins or ends.
fn without_leading_zeros(id: &str) -> String {
    let name_start = id.rfind('/').map_or(0, |slash| slash + 1);
    let name = &id[name_start..];
    let text = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = if text.is_empty() { name } else { &name[text.len()..] };
    format!("{}{text}{}", &id[..name_start], number.trim_start_matches('0'))
}

/// `id` without the extension of the file; the whole `id` if it has none.
fn without_extension(id: &str) -> &str {
    let name_start = id.rfind('/').map_or(0, |slash| slash + 1);
    match id[name_start..].rfind('.') {
        Some(dot) if dot > 0 => &id[..name_start + dot],
        _ => id,
    }
}

/// Why photos with the ids `missing` are not found in the folder `images`, if most of them have the same
/// reason: photos with similar names exist. The message names the first of them.
pub(in crate::source) fn missing_cause(
    missing: &[String],
    images: &Path,
    follow_links: bool,
) -> Option<String> {
    let tree = ImageTree::read(images, follow_links).ok()?;
    let existing: Vec<&str> = tree.root.all_images().into_iter().map(|file| file.id.as_str()).collect();
    Difference::ALL.iter().find_map(|&difference| {
        let mut by_key: HashMap<String, &str> = HashMap::new();
        for id in &existing {
            by_key.entry(difference.key(id)).or_insert(id);
        }
        let similar = |id: &String| Some((id.clone(), *by_key.get(&difference.key(id))?));
        let found: Vec<(String, &str)> = missing.iter().filter_map(similar).collect();
        let (id, file) = found.first()?;
        let all = if found.len() == missing.len() { "all" } else { "most" };
        (found.len() * 2 > missing.len()).then(|| {
            format!(
                "{all} of them exist under another name, such as `{file}` for `{id}`: {}",
                difference.advice()
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(files: &[&str], missing: &[&str]) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, []).unwrap();
        }
        let missing: Vec<String> = missing.iter().map(|&id| id.to_owned()).collect();
        missing_cause(&missing, root.path(), false)
    }

    #[test]
    fn the_common_difference_of_the_names_is_named() {
        for (file, id, part) in [
            ("a/1.jpg", "a\\1.jpg", "backslashes"),
            ("1.JPG", "1.jpg", "upper and lower case"),
            ("A/1.jpg", "a/1.jpg", "upper and lower case"),
            ("re\u{301}tro.jpg", "r\u{e9}tro.jpg", "NFC and NFD"),
            ("1.jpeg", "1.jpg", "extensions differ"),
            ("1.png", "1", "extensions differ"),
            ("b/1.jpg", "1.jpg", "different folder"),
            ("1.jpg", "train/1.jpg", "different folder"),
            ("a b.jpg", "a%20b.jpg", "web addresses"),
            ("1.jpg", "1.jpg.jpg", "extension is there twice"),
            ("007.jpg", "7.jpg", "zeros before the numbers"),
            ("img_007.jpg", "img_7", "zeros before the numbers"),
            ("b/1.JPG", "a\\1.png", "several parts"),
        ] {
            let message = cause(&[file], &[id]).unwrap_or_default();
            assert!(message.contains(part), "{file} {id}: {message}");
            assert!(message.contains(&format!("such as `{file}` for `{id}`")), "{message}");
        }
    }

    #[test]
    fn a_cause_holds_for_most_of_the_names() {
        let files = ["1.JPG", "2.JPG", "3.JPG"];
        assert!(cause(&files, &["1.jpg", "2.jpg", "3.jpg"]).unwrap().starts_with("all of them exist"));
        assert!(cause(&files, &["1.jpg", "2.jpg", "9.jpg"]).unwrap().starts_with("most of them exist"));
        assert_eq!(cause(&files, &["1.jpg", "8.jpg"]), None);
        assert_eq!(cause(&[], &["1.jpg"]), None);
    }
}
