//! What the targets of shards and tables have in common.

use std::fs;
use std::path::PathBuf;

use headstock_loader::{Fields, Source};

/// Lists and reads a file of `bytes`, called `name`, beside a photo `a.jpg`, with the source that `make` makes of its path.
pub fn read<S: Source>(bytes: &[u8], name: &str, make: impl FnOnce(PathBuf) -> S) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a file");
    fs::write(folder.path().join("a.jpg"), b"x").expect("a file");
    let source = make(path);
    if let Ok(listing) = source.list() {
        for entry in &listing.entries {
            let leaves = entry.id.split('/').any(|part| part == "..") || entry.id.starts_with('/');
            assert!(!leaves && !entry.id.contains('\0'), "{}", entry.id);
            // An error is as good.
            let _ = entry.photo.read();
        }
    }
    let _ = source.unlabelled();
}

/// The columns or fields of a target's seeds.
pub fn fields(label: &str) -> Fields {
    Fields { label: label.into(), group: None, part: None }
}
