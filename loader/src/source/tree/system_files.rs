//! Files and folders that operating systems and other programs keep beside the photos of a user.

/// Names of such folders, compared without case.
const FOLDERS: [&str; 10] = [
    "__MACOSX",                  // macOS, in zip archives
    "@eaDir",                    // Synology: thumbnails
    "#recycle",                  // Synology
    "#snapshot",                 // Synology
    "@Recycle",                  // QNAP
    "@Recently-Snapshot",        // QNAP
    "$RECYCLE.BIN",              // Windows
    "System Volume Information", // Windows
    "lost+found",                // Linux
    "__pycache__",               // Python
];

/// Names of such files, compared without case.
const FILES: [&str; 5] = ["Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "Icon\r"];

/// Whether a file or folder is hidden (its name begins with a dot) or has one of the names that operating
/// systems and programs use for files of their own.
pub(super) fn is_system_file(name: &str, is_folder: bool) -> bool {
    let known: &[&str] = if is_folder { &FOLDERS } else { &FILES };
    name.starts_with('.') || known.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_names_belong_to_the_system() {
        for folder in [".git", "__MACOSX", "@eaDir", "@EADIR", "$Recycle.Bin", "lost+found", "#recycle"] {
            assert!(is_system_file(folder, true), "{folder}");
        }
        for file in [".DS_Store", "._a.jpg", "Thumbs.db", "thumbs.DB", "Desktop.ini", "Icon\r"] {
            assert!(is_system_file(file, false), "{file}");
        }
        // Classes and photos may have similar names.
        for folder in
            ["MACOSX", "macosx", "eaDir", "recycle", "lost", "found", "snapshot", "Thumbs.db", "pycache"]
        {
            assert!(!is_system_file(folder, true), "{folder}");
        }
        for file in ["thumbs.db.jpg", "desktop.jpg", "icon.png", "@eaDir", "lost+found", "a.ini", "Icon"] {
            assert!(!is_system_file(file, false), "{file}");
        }
    }
}
