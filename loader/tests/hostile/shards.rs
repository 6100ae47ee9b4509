//! Mutated tables and archives: each is listed and read, or gives errors.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use headstock_loader::{CsvSource, Fields, ParquetSource, Source, WebDatasetSource};

use crate::generator;
use crate::watch::{in_little_memory, watched};

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
    let rows: String =
        (0..40).map(|row| format!("{row:03},\"class, {}\",dog {}\n", row % 3, row % 7)).collect();
    seeds.push(("table.csv".into(), format!("id,label,dog\n{rows}").into_bytes()));
    seeds
        .push(("quoted.csv".into(), b"id;label\n\"a\n\"\"b\"\"\";x\n../c;y\n\0;z\n/etc/passwd;x\n".to_vec()));
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
        let (name, mut bytes) = generator::hostile(&seeds, number);
        if name.ends_with(".tar") && number % 3 == 0 {
            bytes = compressed(&bytes);
        }
        let path = folder.path().join(&name);
        fs::write(&path, bytes).unwrap();
        let source = source(&name, path);
        let listing = source.list();
        if let Ok(listing) = &listing {
            for entry in listing.entries.iter().take(60) {
                assert!(
                    !entry.id.contains("..") && !entry.id.contains('\0'),
                    "{number}, {name}: {}",
                    entry.id
                );
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
    assert!(
        listed > FILES / 10 && refused > FILES / 10,
        "{listed} listed, {refused} refused: too much alike"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn mutated_shards_take_no_more_memory_than_a_few_records() {
    in_little_memory("shards::every_mutated_shard_and_table_is_read_or_an_error_in_time");
    in_little_memory("shards::an_archive_that_unfolds_to_gigabytes_is_refused");
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn an_archive_that_unfolds_to_gigabytes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, size) in [("a.jpg", 300 << 20), ("a.cls", 2 << 20)] {
        let mut out = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, size) in [(name, size), (if name == "a.jpg" { "a.cls" } else { "a.jpg" }, 1)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            out.append_data(&mut header, name, std::io::Read::take(std::io::repeat(0), size)).unwrap();
        }
        let path = folder.path().join("bomb.tar.gz");
        fs::write(&path, out.into_inner().unwrap().finish().unwrap()).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 8 << 20);
        let refused = match source("bomb.tar.gz", path).list() {
            Ok(listing) => listing.entries[0].photo.read().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        let expected = if name == "a.jpg" { "it takes 314572800 bytes" } else { "`a.cls` is no label" };
        assert!(refused.contains(expected), "{refused}");
    }
}

/// A record of a megabyte that does not compress.
fn record(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let bytes = (0..1 << 17).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    });
    bytes.collect()
}

#[test]
fn shards_that_are_larger_than_memory_are_read_record_by_record() {
    const RECORDS: usize = 500;
    let folder = tempfile::tempdir().unwrap();
    let (tar, parquet) = (folder.path().join("a.tar"), folder.path().join("a.parquet"));
    let mut out = tar::Builder::new(fs::File::create(&tar).unwrap());
    for number in 0..RECORDS {
        for (ending, bytes) in [("jpg", record(number)), ("cls", vec![b'0' + (number % 3) as u8])] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            out.append_data(&mut header, format!("{number}.{ending}"), bytes.as_slice()).unwrap();
        }
    }
    out.finish().unwrap();
    write_parquet(&parquet, RECORDS);
    for source in [source("a.tar", tar), source("plain.parquet", parquet)] {
        let entries = source.list().unwrap().entries;
        assert_eq!(entries.len(), RECORDS);
        for (number, entry) in entries.iter().enumerate() {
            assert!(entry.photo.read().unwrap() == record(number), "{number}");
        }
    }
}

/// In groups of 100 rows, as the hub's.
fn write_parquet(path: &Path, records: usize) {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let schema =
        "message m { required binary picture; required binary class (UTF8); required binary use (UTF8); }";
    let schema = std::sync::Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut file =
        SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, std::sync::Arc::new(properties))
            .unwrap();
    for begin in (0..records).step_by(100) {
        let mut group = file.next_row_group().unwrap();
        let make: [&dyn Fn(usize) -> Vec<u8>; 3] =
            [&record, &|number| vec![b'0' + (number % 3) as u8], &|_| b"train".to_vec()];
        for make in make {
            let mut column = group.next_column().unwrap().unwrap();
            for number in begin..begin + 100 {
                let value = [ByteArray::from(make(number))];
                column.typed::<ByteArrayType>().write_batch(&value, None, None).unwrap();
            }
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    file.close().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn shards_that_are_larger_than_memory_take_none_of_their_size() {
    in_little_memory("shards::shards_that_are_larger_than_memory_are_read_record_by_record");
}
