//! Files of features: numpy's are read, and what is written is what was given.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use headstock_train::feature_file::{Described, FeatureArchive, FeatureTable, Target, read_npz};
use parquet::file::reader::SerializedFileReader;
use parquet::record::RowAccessor;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/feature_file").join(name)
}

#[test]
fn archives_of_numpy_are_read_whatever_their_types() {
    let values: Vec<f32> = (0..24).map(|i| (i as f32 - 10.0) / 4.0).collect();
    for name in ["plain.npz", "compressed.npz", "double.npz"] {
        let archive = read_npz(&golden(name)).unwrap();
        assert_eq!(archive.table, FeatureTable { values: values.clone(), width: 4 }, "{name}");
        assert_eq!(archive.labels, [7, -1, 7, 300, -1, 300], "{name}");
        assert_eq!(archive.groups, None, "{name}");
    }
    let grouped = read_npz(&golden("grouped.npz")).unwrap();
    assert_eq!(grouped.groups.unwrap(), [3, 3, -5, 0, 0, -5]);
}

#[test]
fn archives_that_cannot_be_used_are_refused_by_file_and_array() {
    for (name, reason) in [
        ("fortran.npz", "`features`: it is in Fortran order"),
        ("text.npz", "`labels`: it holds"),
        ("flat.npz", "`features` is [24], not [samples, features]"),
        ("short.npz", "`labels` is [5], but `features` has 6 rows"),
        ("short_groups.npz", "`groups` is [4], but `features` has 6 rows"),
        ("text_groups.npz", "`groups`: it holds"),
        ("unnamed.npz", "there is no array `features`; it has: arr_0, arr_1"),
        ("nan.npz", "feature 1 of row 2 is NaN"),
        ("make.py", "make.py"),
        ("absent.npz", "absent.npz"),
    ] {
        let error = read_npz(&golden(name)).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(name), "{name}: {error}");
    }
}

const WIDTH: usize = 3;

/// More rows than are in memory at a time.
fn rows() -> Vec<Described> {
    (0..1300)
        .map(|i| Described {
            path: format!("a, \"b\"/{i}.jpg"),
            class: format!("class {}", i % 3),
            label: i % 3,
        })
        .collect()
}

fn value(row: usize, column: usize) -> f32 {
    (row * WIDTH + column) as f32 * 0.5 - 7.0
}

fn written(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    let read = &mut |range: std::ops::Range<usize>| {
        Ok(range.flat_map(|row| (0..WIDTH).map(move |column| value(row, column))).collect())
    };
    Target::open(&path).and_then(|target| target.write(&rows(), WIDTH, read)).expect("it can be written");
    (folder, path)
}

fn all_values() -> Vec<f32> {
    (0..rows().len()).flat_map(|row| (0..WIDTH).map(move |column| value(row, column))).collect()
}

/// numpy's format by its specification: magic, version, length of the header, header, values.
#[test]
fn npy_is_as_numpy_specifies_it_with_a_table_beside() {
    let (_folder, path) = written("x.npy");
    let bytes = fs::read(&path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
    for part in ["'descr': '<f4'", "'fortran_order': False", "'shape': (1300, 3"] {
        assert!(header.contains(part), "{header}");
    }
    let values: Vec<f32> =
        bytes[10 + length..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values, all_values());

    let table = fs::read_to_string(path.with_extension("csv")).unwrap();
    assert!(
        table.starts_with("row,path,class,label\n0,\"a, \"\"b\"\"/0.jpg\",class 0,0\n"),
        "{}",
        &table[..80]
    );
    assert_eq!(table.lines().count(), 1301);
}

#[test]
fn npz_comes_back_as_it_was() {
    let (_folder, path) = written("x.npz");
    let FeatureArchive { table, labels, .. } = read_npz(&path).unwrap();
    assert_eq!(table, FeatureTable { values: all_values(), width: WIDTH });
    assert_eq!(labels, rows().iter().map(|row| i64::from(row.label)).collect::<Vec<_>>());
    assert!(path.with_extension("csv").is_file());
}

#[test]
fn safetensors_are_read_by_their_own_library() {
    let (_folder, path) = written("x.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let features = tensors.tensor("features").unwrap();
    assert_eq!((features.shape(), features.dtype()), ([1300, WIDTH].as_slice(), safetensors::Dtype::F32));
    let values: Vec<f32> =
        features.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values, all_values());
    let labels = tensors.tensor("labels").unwrap();
    assert_eq!((labels.shape(), labels.dtype()), ([1300].as_slice(), safetensors::Dtype::I64));
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let described: serde_json::Value =
        serde_json::from_str(&header.metadata().as_ref().unwrap()["headstock"]).unwrap();
    assert_eq!(described["path"][1299], "a, \"b\"/1299.jpg");
}

#[test]
fn parquet_has_a_row_per_sample() {
    let (_folder, path) = written("x.parquet");
    let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    let mut count = 0;
    for (i, row) in reader.into_iter().enumerate() {
        let row = row.unwrap();
        assert_eq!(row.get_string(0).unwrap(), &format!("a, \"b\"/{i}.jpg"));
        assert_eq!(row.get_string(1).unwrap(), &format!("class {}", i % 3));
        assert_eq!(row.get_long(2).unwrap(), (i % 3) as i64);
        use parquet::record::ListAccessor;
        let list = row.get_list(3).unwrap();
        let values: Vec<f32> = (0..list.len()).map(|column| list.get_float(column).unwrap()).collect();
        assert_eq!(values, (0..WIDTH).map(|column| value(i, column)).collect::<Vec<_>>());
        count += 1;
    }
    assert_eq!(count, 1300);
}

#[test]
fn an_unknown_ending_lists_the_known_ones() {
    let error = Target::open(Path::new("x.h5")).err().unwrap().to_string();
    assert!(error.contains(".npy, .npz, .safetensors, .parquet"), "{error}");
}

#[test]
fn what_cannot_be_finished_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    fs::write(&path, "old").unwrap();
    let failing = &mut |range: std::ops::Range<usize>| match range.start {
        0 => Ok(vec![0.0; range.len() * WIDTH]),
        _ => Err(headstock_train::TrainError::Data("the disk is on fire".into())),
    };
    let error = Target::open(&path).unwrap().write(&rows(), WIDTH, failing).unwrap_err();
    assert_eq!(error.to_string(), "the disk is on fire");
    let mut text = String::new();
    File::open(&path).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_table_of_the_users_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let labels = folder.path().join("labels.csv");
    fs::write(&labels, "id,breed\n1,pug\n").unwrap();
    let error = Target::open(&folder.path().join("labels.npz")).err().unwrap().to_string();
    assert!(error.contains("labels.csv is there already"), "{error}");
    assert_eq!(fs::read_to_string(&labels).unwrap(), "id,breed\n1,pug\n");
    // Our own is.
    fs::write(&labels, "row,path,class,label\n0,a,b,0\n").unwrap();
    Target::open(&folder.path().join("labels.npz")).unwrap();
}

#[test]
fn a_header_that_promises_more_than_the_file_holds_is_not_believed() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.npz");
    for shape in ["(4611686018427387904, 8)", "(1000000000, 2048)"] {
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        archive.start_file("features.npy", zip::write::SimpleFileOptions::default()).unwrap();
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        archive.write_all(b"\x93NUMPY\x01\x00").unwrap();
        archive.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        archive.write_all(header.as_bytes()).unwrap();
        archive.finish().unwrap();
        let error = read_npz(&path).unwrap_err().to_string();
        assert!(error.contains("huge.npz: `features`: it says that it is"), "{error}");
    }
}
