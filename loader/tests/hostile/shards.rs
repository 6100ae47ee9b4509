//! Mutated tables and archives: each is listed and read, or gives errors.

use std::fs;
use std::path::{Path, PathBuf};

use headstock_loader::{CsvSource, Fields, ParquetSource, Source, WebDatasetSource};

use crate::generator;
use crate::watch::watched;

const FILES: usize = 1_500;

/// Shards and tables, by name.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/source");
    let mut seeds: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension != "py"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect();
    let rows: String = (0..40).map(|row| format!("{row:03},\"class, {}\",dog {}\n", row % 3, row % 7)).collect();
    seeds.push(("table.csv".into(), format!("id,label,dog\n{rows}").into_bytes()));
    seeds.push(("quoted.csv".into(), b"id;label\n\"a\n\"\"b\"\"\";x\n../c;y\n\0;z\n/etc/passwd;x\n".to_vec()));
    seeds.sort();
    seeds
}

/// The source that a file of this name is.
fn source(name: &str, path: PathBuf) -> Box<dyn Source> {
    let fields = Fields { label: "label".into(), group: None, part: None };
    let flat = Fields { label: "class".into(), group: None, part: Some("use".into()) };
    if name.ends_with(".csv") {
        let images = path.parent().unwrap().into();
        Box::new(CsvSource { csv: path, images, id: "id".into(), extension: "jpg".into(), fields })
    } else if name.ends_with(".parquet") {
        let is_flat = name.starts_with("plain") || name.starts_with("dictionary");
        let (image, fields) = if is_flat { ("picture", flat) } else { ("image", fields) };
        Box::new(ParquetSource { shards: vec![path], image: image.into(), fields })
    } else {
        Box::new(WebDatasetSource { shards: vec![path], fields })
    }
}

#[test]
fn every_mutated_shard_and_table_is_read_or_an_error_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let seeds = seeds();
    let (listed, refused) = watched(FILES, |number| {
        let (name, bytes) = generator::hostile(&seeds, number);
        let path = folder.path().join(&name);
        fs::write(&path, bytes).unwrap();
        let source = source(&name, path);
        let listing = source.list();
        if let Ok(listing) = &listing {
            for entry in listing.entries.iter().take(60) {
                assert!(!entry.id.contains("..") && !entry.id.contains('\0'), "{number}, {name}: {}", entry.id);
                if let Err(error) = entry.photo.read() {
                    assert!(!error.to_string().is_empty(), "{number}, {name}");
                }
            }
        }
        let unlabelled = source.unlabelled();
        if let Err(error) = &listing {
            assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{number}, {name}: {error}");
        }
        listing.is_ok() && unlabelled.is_ok()
    });
    assert!(listed > FILES / 10 && refused > FILES / 10, "{listed} listed, {refused} refused: too much alike");
}
