//! Helpers of the targets that read shards and tables.

use std::fs;
use std::path::PathBuf;

use headstock_loader::{DataSource, FieldNames};

/// Writes `bytes` to a file `name` next to an image `a.jpg`, and reads all samples with the source that
/// `make_source` creates from its path.
pub fn read<S: DataSource>(bytes: &[u8], name: &str, make_source: impl FnOnce(PathBuf) -> S) {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a file can be written");
    fs::write(folder.path().join("a.jpg"), b"x").expect("a file can be written");
    let source = make_source(path);
    if let Ok(raw) = source.list() {
        for sample in &raw.samples {
            let leaves_root = sample.id.split('/').any(|part| part == "..") || sample.id.starts_with('/');
            assert!(!leaves_root && !sample.id.contains('\0'), "{}", sample.id);
            // Errors are allowed.
            let _ = sample.image.read();
        }
    }
    let _ = source.unlabeled();
}

/// The columns or fields of a target's seeds.
pub fn fields(label: &str) -> FieldNames {
    FieldNames { label: label.into(), group: None, split: None }
}
