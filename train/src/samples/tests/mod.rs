use std::fs;

use serde::Deserialize;

use super::*;
use headstock_testing::reference_path;

use crate::config::Registries;
use crate::tests::fixtures::TestFolder;

mod data;
mod splits;

#[test]
fn classes_of_a_run_keep_their_numbers_and_new_ones_follow() {
    let names = |names: &[&str]| ClassMap::new(names.iter().copied(), ClassOrder::Appearance);
    let row = |label: u32| SampleRow { id: label.to_string(), label, subset: Subset::Train, group: None };
    let rows = (0..4).map(row).collect();
    let samples =
        SampleSet { classes: names(&["a", "b", "c", "d"]), rows, passed_over: PassedOver::default() };
    let samples = samples.renumber_classes(&["d", "b"].map(String::from));
    assert_eq!(samples.classes.names(), ["d", "b", "a", "c"]);
    assert_eq!(samples.labels(&[0, 1, 2, 3]), [2, 1, 3, 0]);
}

#[test]
fn labels_of_features_are_numbered_by_value_or_by_appearance() {
    let (classes, labels) = number_labels(&[10, -2, 10, 9], ClassOrder::Sorted);
    assert_eq!((classes.names(), labels), (["-2", "9", "10"].map(String::from).as_slice(), vec![2, 0, 2, 1]));
    let (classes, labels) = number_labels(&[10, -2, 10, 9], ClassOrder::Appearance);
    assert_eq!((classes.names(), labels), (["10", "-2", "9"].map(String::from).as_slice(), vec![0, 1, 0, 2]));
}

// effect: data.features, data.class_order
#[test]
fn class_names_of_features_come_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, table) = (folder.path().join("x.npy"), folder.path().join("x.csv"));
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/feature_file/plain.npy");
    fs::copy(reference, &path).unwrap();
    fs::write(&table, "label,class,group\n5,pug,b\n9,akita,a\n5,pug,b\n7,boxer,a\n9,akita,c\n7,boxer,b\n")
        .unwrap();
    let read = |more: &str| {
        let config = format!("version = 1\n[data]\nfeatures = \"x.npy\"\n{more}");
        let config = crate::config::Config::parse(&config, "test", folder.path()).unwrap();
        let settings = config.resolve(&Registries::builtin()).unwrap();
        SampleSet::read_unsplit(&settings, &()).unwrap().0
    };
    let samples = read("");
    assert_eq!(samples.classes.names(), ["akita", "boxer", "pug"]);
    assert_eq!(samples.labels(&[0, 1, 2, 3, 4, 5]), [2, 0, 2, 1, 0, 1]);
    assert_eq!(samples.groups(&[0, 1, 2, 3, 4, 5]).unwrap(), [1, 0, 1, 0, 2, 1]);
    let samples = read("class_order = \"appearance\"");
    assert_eq!(samples.classes.names(), ["pug", "akita", "boxer"]);
    assert_eq!(samples.labels(&[0, 1, 2, 3, 4, 5]), [0, 1, 0, 2, 1, 2]);
}
