//! Files of features: those of other tools are read, and written files are read by their own libraries.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use headstock_loader::Split;
use headstock_train::feature_file::{
    FeatureArchive, FeatureFileWriter, FeatureTable, SampleInfo, read_features,
};
use parquet::file::reader::SerializedFileReader;
use parquet::record::RowAccessor;

fn reference_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/feature_file").join(name)
}

const LABELS: [i64; 6] = [7, -1, 7, 300, -1, 300];
const CLASSES: [&str; 6] = ["pug", "akita, \"big\"", "pug", "Šarplaninac", "akita, \"big\"", "Šarplaninac"];

#[test]
fn files_of_numpy_safetensors_and_pyarrow_are_read_whatever_their_types() {
    let values: Vec<f32> = (0..24).map(|i| (i as f32 - 10.0) / 4.0).collect();
    // The labels in the order of the class names.
    let numbers = [1, 0, 1, 2, 0, 2];
    let bytes = LABELS.map(|label| label.rem_euclid(256));
    let groups = Some([2, 2, 0, 1, 1, 0]);
    // The groups in the order of the names: P10, P7, P8.
    let patients = Some([1, 1, 0, 2, 2, 0]);
    for (name, labels, named, groups) in [
        ("plain.npz", LABELS, false, None),
        ("compressed.npz", LABELS, false, None),
        ("double.npz", LABELS, false, None),
        ("grouped.npz", LABELS, false, groups),
        ("plain.npy", LABELS, false, None),
        ("double.npy", numbers, true, patients),
        ("plain.safetensors", LABELS, false, groups),
        ("double.safetensors", LABELS, false, None),
        ("f16.safetensors", bytes, false, None),
        ("bf16.safetensors", bytes, false, None),
        ("plain.parquet", LABELS, false, groups),
        ("double.parquet", LABELS, true, patients),
        ("fixed.parquet", LABELS, false, None),
        ("named.parquet", numbers, true, None),
    ] {
        let archive = read_features(&reference_path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(archive.table, FeatureTable { values: values.clone(), width: 4 }, "{name}");
        assert_eq!(archive.labels, labels, "{name}");
        assert_eq!(archive.classes, named.then(|| CLASSES.map(String::from).to_vec()), "{name}");
        assert_eq!(archive.groups, groups.map(Vec::from), "{name}");
    }
}

#[test]
fn files_that_cannot_be_used_are_refused_by_file_and_array() {
    for (name, reason) in [
        ("fortran.npz", "`features`: the array is in Fortran order"),
        ("text.npz", "`labels`: the array holds"),
        ("flat.npz", "`features` has shape [24], but needs two dimensions: [samples, features]"),
        ("short.npz", "`labels` has shape [5], but `features` has 6 rows"),
        ("short_groups.npz", "`groups` has shape [4], but `features` has 6 rows"),
        ("text_groups.npz", "`groups`: the array holds"),
        (
            "unnamed.npz",
            "there is no array `features`: rename an array to `features`, or add it; the file has the \
             arrays: arr_0, arr_1",
        ),
        ("nan.npz", "feature 1 of row 2 is NaN"),
        ("absent.npz", "No such file"),
        ("whole.npy", "the array holds"),
        ("absent.npy", "No such file"),
        (
            "unlabelled.safetensors",
            "there is no tensor `labels`: rename a tensor to `labels`, or add it; the file has the tensors: \
             features",
        ),
        ("float_labels.safetensors", "`labels`: the tensor has the data type F32: save it as I64"),
        ("short.safetensors", "`labels` has shape [5], but `features` has 6 rows"),
        ("flat.safetensors", "`features` has shape [24], but needs two dimensions: [samples, features]"),
        ("nan.safetensors", "feature 1 of row 2 is NaN"),
        ("absent.safetensors", "No such file"),
        ("ragged.parquet", "`features`: row 3 has 3 values, but the rows before it have 4"),
        ("null_value.parquet", "`features`: number 1 in the list of row 2 is null"),
        ("null_list.parquet", "`features`: row 5 has no list"),
        ("empty_list.parquet", "`features`: row 1 has no list"),
        ("no_list.parquet", "`features` does not hold a list of numbers"),
        ("nested.parquet", "`features` does not hold a list of numbers"),
        ("whole.parquet", "`features` holds lists of INT64: save the numbers in the lists as float32"),
        ("nan.parquet", "feature 1 of row 2 is NaN"),
        ("unlabelled.parquet", "there is no column `label` (whole numbers) or `class` (names)"),
        ("text.parquet", "`label` of row 0 is `pug`, not a whole number"),
        ("null_label.parquet", "`label` of row 1 is null"),
        (
            "two_names.parquet",
            "the label 300 is the class `pug` in row 5, but `Šarplaninac` in an earlier row",
        ),
        ("two_labels.parquet", "the class `Šarplaninac` has the label 3 in row 5, but 2 in an earlier row"),
        ("none.parquet", "`features` has shape [0, 0]: at least one sample and one feature"),
        (
            "unnamed.parquet",
            "there is no column `features`: rename a column or add one; the columns are feature, label; did \
             you mean `feature`?",
        ),
        ("absent.parquet", "No such file"),
        ("make.py", "unknown file extension"),
    ] {
        let error = read_features(&reference_path(name)).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(name), "{name}: {error}");
    }
}

#[test]
fn a_table_beside_an_array_that_does_not_describe_it_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    fs::copy(reference_path("plain.npy"), &path).unwrap();
    let assert_refused = |table: Option<&str>, reason: &str| {
        if let Some(table) = table {
            fs::write(path.with_extension("csv"), table).unwrap();
        }
        let error = read_features(&path).unwrap_err().to_string();
        assert!(error.contains("x.csv: ") && error.contains(reason), "{table:?}: {error}");
    };
    assert_refused(
        None,
        "this table does not exist: the .npy file with the same name needs a table with one row per sample",
    );
    assert_refused(Some(""), "the number of rows is 0, but the features have 6");
    assert_refused(
        Some("row,breed\n0,pug\n1,pug\n2,pug\n3,pug\n4,pug\n5,pug\n"),
        "there is no column `label`",
    );
    assert_refused(Some("label\n0\n1\n0\n1\n0\n"), "the number of rows is 5, but the features have 6");
    assert_refused(Some("label\n0\n1\n0\n1\n0\n1\n0\n"), "the number of rows is 7, but the features have 6");
    assert_refused(Some("label\n0\npug\n"), "line 3: the column `label` is `pug`, not a whole number");
    assert_refused(Some("label,class\n0,pug\n1,\n"), "line 3: the column `class` is empty");
    assert_refused(Some("label,group\n0,a\n1, \n"), "line 3: the column `group` is empty");
    assert_refused(Some("row,label\n0,1\n2,1\n"), "line 3: the column `row` is `2`, but must be 1");
    assert_refused(Some("label,label\n0,1\n"), "two columns are called `label`");
    assert_refused(Some("label,class\n0,pug\n0\n"), "line: 3");
    assert_refused(
        Some("label,class\n0,a\n1,b\n0,a\n1,b\n0,a\n1,a\n"),
        "the label 1 is the class `a` in row 5, but `b` in an earlier row",
    );
}

#[test]
fn names_paths_and_splits_of_numpy_are_read() {
    let archive = read_features(&reference_path("described.npz")).unwrap();
    let classes = ["pug", "akita", "pug", "Šarplaninac", "akita", "Šarplaninac"].map(str::to_owned);
    assert_eq!(archive.classes.unwrap(), classes);
    let paths: Vec<String> = (0..6).map(|row| format!("photos/{row}.jpg")).collect();
    assert_eq!(archive.paths.unwrap(), paths);
    use Split::{Test, Train, Validation};
    assert_eq!(archive.splits.unwrap(), [Train, Train, Validation, Test, Train, Test]);
    for (name, problem) in [
        ("too_few_classes.npz", "there is a label 2, but `classes` has 2 names"),
        ("no_split.npz", "the split of row 0 is `fold 1`: write `train`, `validation` or `test`"),
    ] {
        let error = read_features(&reference_path(name)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(problem), "{error}");
    }
}

#[test]
fn written_files_read_back_identically() {
    for name in ["x.npy", "x.npz", "x.safetensors", "x.parquet"] {
        let (_folder, path) = write_file(name);
        let archive = read_features(&path).unwrap();
        let FeatureArchive { table, labels, classes, groups, paths, splits } = archive;
        assert_eq!(table, FeatureTable { values: all_values(), width: WIDTH }, "{name}");
        assert_eq!(
            labels,
            sample_infos().iter().map(|row| i64::from(row.label)).collect::<Vec<_>>(),
            "{name}"
        );
        let named: Vec<String> = sample_infos().into_iter().map(|row| row.class).collect();
        assert_eq!(classes, Some(named), "{name}");
        let expected: Vec<String> = sample_infos().into_iter().map(|row| row.path).collect();
        assert_eq!(paths, Some(expected), "{name}");
        let expected: Vec<Split> = sample_infos().into_iter().filter_map(|row| row.split).collect();
        assert_eq!(splits, Some(expected), "{name}");
        assert_eq!(groups, None, "{name}");
    }
}

/// Every third byte is changed, and the file is truncated at every third byte.
#[test]
fn a_damaged_file_is_an_error_or_read_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(reference_path("double.csv"), folder.path().join("double.csv")).unwrap();
    for name in ["plain.npz", "double.npy", "plain.safetensors", "double.parquet", "named.parquet"] {
        let path = folder.path().join(name);
        let whole = fs::read(reference_path(name)).unwrap();
        for position in (0..whole.len()).step_by(3) {
            let mut damaged = whole.clone();
            damaged[position] ^= [0xff, 0x01, 0x80, 0x10][position % 4];
            for bytes in [&damaged, &whole[..position]] {
                fs::write(&path, bytes).unwrap();
                if let Ok(archive) = read_features(&path) {
                    let (values, rows) = (archive.table.values.len(), archive.labels.len());
                    assert_eq!(values, rows * archive.table.width, "{name}, byte {position}");
                }
            }
        }
    }
}

const WIDTH: usize = 3;
const SPLITS: [Split; 4] = [Split::Train, Split::Train, Split::Test, Split::Validation];

/// More rows than a chunk has.
fn sample_infos() -> Vec<SampleInfo> {
    (0..1300)
        .map(|i| SampleInfo {
            path: format!("a, \"b\"/{i}.jpg"),
            class: format!("class {}", i % 3),
            label: i % 3,
            split: Some(SPLITS[i as usize % 4]),
        })
        .collect()
}

fn value(row: usize, column: usize) -> f32 {
    (row * WIDTH + column) as f32 * 0.5 - 7.0
}

fn write_file(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    let read = &mut |range: std::ops::Range<usize>| {
        Ok(range.flat_map(|row| (0..WIDTH).map(move |column| value(row, column))).collect())
    };
    FeatureFileWriter::create(&path)
        .and_then(|target| target.write(&sample_infos(), WIDTH, read))
        .expect("it can be written");
    (folder, path)
}

fn all_values() -> Vec<f32> {
    (0..sample_infos().len()).flat_map(|row| (0..WIDTH).map(move |column| value(row, column))).collect()
}

/// NumPy's format: magic, version, length of the header, header, values.
#[test]
fn npy_is_as_numpy_specifies_it_with_a_table_beside() {
    let (_folder, path) = write_file("x.npy");
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
        table.starts_with("row,path,class,label,split\n0,\"a, \"\"b\"\"/0.jpg\",class 0,0,train\n"),
        "{}",
        &table[..80]
    );
    assert_eq!(table.lines().count(), 1301);
}

#[test]
fn safetensors_are_read_by_their_own_library() {
    let (_folder, path) = write_file("x.safetensors");
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
    let (_folder, path) = write_file("x.parquet");
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
        assert_eq!(row.get_string(4).unwrap(), SPLITS[i % 4].as_str());
        count += 1;
    }
    assert_eq!(count, 1300);
}

#[test]
fn an_unknown_ending_lists_the_known_ones() {
    let error = FeatureFileWriter::create(Path::new("x.h5")).err().unwrap().to_string();
    assert!(error.contains("ends in .npy, .npz, .safetensors or .parquet"), "{error}");
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    fs::write(&path, "old").unwrap();
    let failing = &mut |range: std::ops::Range<usize>| match range.start {
        0 => Ok(vec![0.0; range.len() * WIDTH]),
        _ => Err(headstock_train::TrainError::Data("the disk is on fire".into())),
    };
    let error = FeatureFileWriter::create(&path).unwrap().write(&sample_infos(), WIDTH, failing).unwrap_err();
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
    let error = FeatureFileWriter::create(&folder.path().join("labels.npz")).err().unwrap().to_string();
    assert!(error.contains("labels.csv exists and is not"), "{error}");
    assert_eq!(fs::read_to_string(&labels).unwrap(), "id,breed\n1,pug\n");
    // A table of headstock's format is replaced.
    fs::write(&labels, "row,path,class,label\n0,a,b,0\n").unwrap();
    FeatureFileWriter::create(&folder.path().join("labels.npz")).unwrap();
}

#[test]
fn a_header_that_claims_more_than_the_file_holds_is_refused() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let assert_refused = |name: &str, bytes: &[u8], reason: &str| {
        fs::write(folder.path().join(name), bytes).unwrap();
        let error = read_features(&folder.path().join(name)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(reason), "{error}");
    };
    for shape in ["(4611686018427387904, 8)", "(1000000000, 2048)"] {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut array = b"\x93NUMPY\x01\x00".to_vec();
        array.extend((header.len() as u16).to_le_bytes());
        array.extend(header.as_bytes());
        assert_refused("huge.npy", &array, "the header of the array has");
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        archive.start_file("features.npy", zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(&array).unwrap();
        assert_refused(
            "huge.npz",
            &archive.finish().unwrap().into_inner(),
            "`features`: the header of the array has",
        );
    }
    let header = r#"{"features":{"dtype":"F32","shape":[1000000000,2048],"data_offsets":[0,8192000000000]}}"#;
    let mut tensors = (header.len() as u64).to_le_bytes().to_vec();
    tensors.extend(header.as_bytes());
    assert_refused(
        "huge.safetensors",
        &tensors,
        "the header lists 8192000000000 bytes of tensors, but 0 bytes follow it in the file",
    );
    assert_refused(
        "huge.safetensors",
        &[0xff; 9],
        "the file should begin with a header of 18446744073709551615 bytes",
    );
}
