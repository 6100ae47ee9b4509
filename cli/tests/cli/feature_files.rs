//! Features that `extract` writes and other commands read.

use crate::support::{Project, parse_csv};

const FORMATS: [&str; 4] = ["npz", "npy", "safetensors", "parquet"];

/// The run on photos is the reference for runs on the files of their features.
#[test]
fn names_classes_and_parts_come_along_both_ways() {
    let project = Project::new(8);
    project.run(&["train", "--head", "ridge", "--run", "photos-run"]).ok();
    let mut expected = parse_csv(&project.read("photos-run/split.csv"));
    expected.sort();
    for format in FORMATS {
        project.run(&["extract", "--out", &format!("x.{format}")]).ok();
        let config = format!("{format}.toml");
        // The split of the file counts, not this one.
        let text = format!("version = 1\n[data]\nfeatures = \"x.{format}\"\n[split]\nseed = 5\n");
        project.write(&config, &text);
        let train = ["train", "--config", &config, "--head", "ridge", "--run", format, "--json"];
        let trained = project.run(&train).ok().json();
        let mut found = parse_csv(&project.read(&format!("{format}/split.csv")));
        found.sort();
        assert_eq!(found, expected, "{format}");
        let header = project.read(&format!("{format}/predictions.csv"));
        assert!(header.starts_with("path,label,predicted,probability,dress,hat,shoes\n"), "{header}");
        // The test samples are found again by their paths.
        let again = project.run(&["evaluate", format, "--json"]).ok().json();
        assert_eq!(again["top1"], trained["top1"], "{format}");
        assert_eq!((&again["same_samples"], &again["trained_on"]["samples"]), (&true.into(), &0.into()));
    }
}

#[test]
fn whether_a_run_on_images_was_trained_on_features_is_said_to_be_unknown() {
    let project = Project::new(6);
    project.run(&["train", "--run", "run"]).ok();
    project.run(&["extract", "--out", "x.npz"]).ok();
    project.write("x.toml", "version = 1\n[data]\nfeatures = \"x.npz\"\n[split]\ntest_size = 0.5\n");
    let done = project.run(&["evaluate", "run", "--config", "x.toml", "--json"]).ok();
    assert!(done.stdout.contains("test photos that were in the training data: unknown"), "{}", done.stdout);
    assert!(done.stderr.contains("is tested on precomputed features"), "{}", done.stderr);
    assert!(done.json().get("trained_on").is_none(), "{}", done.stdout);
    project
        .run(&["compare", "run", "run", "--config", "x.toml"])
        .fails(3, &["it is not known which photos it was trained on"]);
}

#[test]
fn rows_of_an_unused_split_are_passed_over_with_a_message() {
    let project = Project::with_features("feature_file/described");
    let done = project.run(&["split", "--out", "split.csv"]).ok();
    let expected = "path,label,split\nphotos/0.jpg,pug,train\nphotos/1.jpg,akita,train\n\
                    photos/3.jpg,Šarplaninac,test\nphotos/4.jpg,akita,train\nphotos/5.jpg,Šarplaninac,test\n";
    assert_eq!(project.read("split.csv"), expected);
    assert!(done.stderr.contains("the validation split is used neither"), "{}", done.stderr);
}

#[test]
fn data_that_cannot_be_split_is_extracted_without_a_split() {
    let project = Project::new(1);
    let done = project.run(&["extract", "--out", "x.npy"]).ok();
    assert!(done.stderr.contains("does not say which photos are for testing"), "{}", done.stderr);
    let table = project.read("x.csv");
    assert!(table.starts_with("row,path,class,label\n0,dress/00.jpg,dress,0\n"), "{table}");
}
