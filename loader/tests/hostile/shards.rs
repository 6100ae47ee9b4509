//! Mutated tables and archives: each is listed and read, or returns errors.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use headstock_loader::{CsvSource, DataSource, FieldNames, ParquetSource, WebDatasetSource};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::generator;
use crate::limits::{rerun_with_little_memory, run_with_timeout};

const FILES: usize = 1_500;

/// Valid shards and tables to mutate, sorted by name.
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

/// The data source for a file, by its name.
fn source(name: &str, path: PathBuf) -> Box<dyn DataSource> {
    let fields = FieldNames { label: "label".into(), group: None, split: None };
    let flat = FieldNames { label: "class".into(), group: None, split: Some("use".into()) };
    if name.ends_with(".csv") {
        let images = path.parent().unwrap().into();
        Box::new(CsvSource {
            csv: path,
            images,
            id: "id".into(),
            extension: "jpg".into(),
            fields,
            follow_links: false,
        })
    } else if name.ends_with(".parquet") {
        let is_flat = name.starts_with("plain") || name.starts_with("dictionary");
        let (image, fields) = if is_flat { ("picture", flat) } else { ("image", fields) };
        Box::new(ParquetSource {
            shards: vec![path],
            splits: BTreeMap::new(),
            image: image.into(),
            fields,
            follow_links: false,
        })
    } else {
        Box::new(WebDatasetSource { shards: vec![path], image: None, fields })
    }
}

#[test]
fn every_mutated_shard_and_table_is_read_or_an_error_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let seeds = seeds();
    let (listed, refused) = run_with_timeout(FILES, |number| {
        let (name, mut bytes) = generator::mutated_file(&seeds, number);
        if name.ends_with(".tar") && number % 3 == 0 {
            bytes = compressed(&bytes);
        }
        let path = folder.path().join(&name);
        fs::write(&path, bytes).unwrap();
        let source = source(&name, path);
        let raw = source.list();
        if let Ok(raw) = &raw {
            for sample in raw.samples.iter().take(60) {
                assert!(
                    !sample.id.contains("..") && !sample.id.contains('\0'),
                    "{number}, {name}: {}",
                    sample.id
                );
                if let Err(error) = sample.image.read() {
                    assert!(!error.to_string().is_empty(), "{number}, {name}");
                }
            }
        }
        let unlabeled = source.unlabeled();
        if let Err(error) = &raw {
            assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{number}, {name}: {error}");
        }
        raw.is_ok() && unlabeled.is_ok()
    });
    assert!(
        listed > FILES / 10 && refused > FILES / 10,
        "{listed} listed, {refused} refused: too much alike"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn mutated_shards_take_no_more_memory_than_a_few_records() {
    rerun_with_little_memory("shards::every_mutated_shard_and_table_is_read_or_an_error_in_time");
    rerun_with_little_memory("shards::an_archive_that_unfolds_to_gigabytes_is_refused");
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn an_archive_that_unfolds_to_gigabytes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, size) in [("a.jpg", 300 << 20), ("a.cls", 2 << 20)] {
        let mut out = tar::Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (name, size) in [(name, size), (if name == "a.jpg" { "a.cls" } else { "a.jpg" }, 1)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            out.append_data(&mut header, name, std::io::Read::take(std::io::repeat(0), size)).unwrap();
        }
        let path = folder.path().join("bomb.tar.gz");
        fs::write(&path, out.into_inner().unwrap().finish().unwrap()).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 8 << 20);
        let refused = match source("bomb.tar.gz", path).list() {
            Ok(raw) => raw.samples[0].image.read().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        let expected = if name == "a.jpg" {
            "the photo has 314572800 bytes"
        } else {
            "the file `a.cls` is too large for a label"
        };
        assert!(refused.contains(expected), "{refused}");
    }
}

/// Long names and pax headers are read whole before the file they belong to.
#[test]
fn an_archive_with_a_header_of_megabytes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
        let mut out = tar::Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(8 << 20);
        out.append_data(&mut header, "name", std::io::Read::take(std::io::repeat(0), 8 << 20)).unwrap();
        let path = folder.path().join("name.tar.gz");
        fs::write(&path, out.into_inner().unwrap().finish().unwrap()).unwrap();
        let refused = source("name.tar.gz", path).list().unwrap_err().to_string();
        assert!(refused.contains("a header takes more than 1048576 bytes"), "{refused}");
    }
}

/// A record of 1 MiB that does not compress.
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
        let samples = source.list().unwrap().samples;
        assert_eq!(samples.len(), RECORDS);
        for (number, sample) in samples.iter().enumerate() {
            assert!(sample.image.read().unwrap() == record(number), "{number}");
        }
    }
}

/// Writes `records` rows in row groups of 100, as on the hub.
fn write_parquet(path: &Path, records: usize) {
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut file = parquet(path, "required", properties);
    for begin in (0..records).step_by(100) {
        let mut group = file.next_row_group().unwrap();
        let columns: [&dyn Fn(usize) -> Vec<u8>; 3] =
            [&record, &|number| vec![b'0' + (number % 3) as u8], &|_| b"train".to_vec()];
        for value_of_row in columns {
            let mut column = group.next_column().unwrap().unwrap();
            for number in begin..begin + 100 {
                let value = [ByteArray::from(value_of_row(number))];
                column.typed::<ByteArrayType>().write_batch(&value, None, None).unwrap();
            }
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    file.close().unwrap();
}

/// A writer for a file with the columns of `plain.parquet`.
fn parquet(path: &Path, repetition: &str, properties: WriterProperties) -> SerializedFileWriter<fs::File> {
    let column = |name: &str, kind: &str| format!("{repetition} binary {name} {kind};");
    let columns =
        [("picture", ""), ("class", "(UTF8)"), ("use", "(UTF8)")].map(|(name, kind)| column(name, kind));
    let schema = parse_message_type(&format!("message m {{ {} }}", columns.concat())).unwrap();
    SerializedFileWriter::new(fs::File::create(path).unwrap(), schema.into(), properties.into()).unwrap()
}

/// The error for a file whose columns hold `values`, or that many nulls, after replacing the bytes
/// `change[0]` by `change[1]`.
fn error_for_rows(values: Result<&[ByteArray], usize>, change: Option<[&[u8]; 2]>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.parquet");
    let compressed = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
    let mut file = parquet(&path, "optional", compressed.build());
    let mut group = file.next_row_group().unwrap();
    while let Some(mut column) = group.next_column().unwrap() {
        let (values, levels) = match values {
            Ok(values) => (values, vec![1; values.len()]),
            Err(rows) => (&[][..], vec![0; rows]),
        };
        column.typed::<ByteArrayType>().write_batch(values, Some(&levels), None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    file.close().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    if let Some([from, to]) = change {
        let found = bytes.windows(from.len()).enumerate().filter(|(_, window)| *window == from);
        let positions: Vec<usize> = found.map(|(position, _)| position).collect();
        assert!(!positions.is_empty());
        for position in positions {
            bytes[position..position + to.len()].copy_from_slice(to);
        }
    }
    fs::write(&path, bytes).unwrap();
    source("plain.parquet", path).list().unwrap_err().to_string()
}

#[test]
fn a_parquet_that_claims_more_than_its_bytes_can_hold_is_refused() {
    // Null rows take no space.
    let error = error_for_rows(Err(200_000), None);
    assert!(error.contains("it claims 200000 rows in "), "{error}");
    // Change the number of dictionary values from 100 to 8,191, in field 7 of the page header.
    let values: Vec<ByteArray> = (0..100u8).map(|value| ByteArray::from(vec![b'a', value])).collect();
    let error = error_for_rows(Ok(&values), Some([b"\x4C\x15\xC8\x01", b"\x4C\x15\xFE\x7F"]));
    assert!(error.contains("a dictionary of 600 bytes cannot contain 8191 values"), "{error}");
    // Change the uncompressed size of 2,000,004 bytes to 128 MiB.
    let zeros = [ByteArray::from(vec![0; 2_000_000])];
    let error = error_for_rows(Ok(&zeros), Some([b"\x15\x88\x92\xF4\x01\x15", b"\x15\xFE\xFF\xFF\x7F\x15"]));
    assert!(error.contains("compressed bytes cannot contain 134217727 bytes of data"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn shards_that_are_larger_than_memory_take_none_of_their_size() {
    rerun_with_little_memory("shards::shards_that_are_larger_than_memory_are_read_record_by_record");
}
