//! Results of `split`, `bench`, `extract` and `predict`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::Stdio;

use crate::support::{CLASSES, Project, demo_image};

/// The rows of a CSV of the project, header first.
fn read_rows(project: &Project, name: &str) -> Vec<Vec<String>> {
    parse_rows(&project.read(name))
}

fn parse_rows(text: &str) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    reader.records().map(|row| row.expect("a table").iter().map(str::to_owned).collect()).collect()
}

/// The header of a `.npy` file.
fn npy_header(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[10..128]).into_owned()
}

// effect: split --out
#[test]
fn split_writes_what_training_then_uses() {
    let project = Project::new(6);
    let done = project.run(&["split", "--out", "tables/split.csv", "--json"]).ok();
    let figures = serde_json::json!({ "out": "tables/split.csv", "classes": 3, "train": 13, "test": 5 });
    assert_eq!(done.json(), figures);
    assert!(!project.path("runs").exists() && !project.path(".headstock").exists(), "it trained");
    project.run(&["train"]).ok();
    let split = project.read("tables/split.csv");
    assert_eq!(split, project.read("runs/linear-1/split.csv"));
    project.run(&["split", "--out", "other.csv", "--set", "split.seed=1"]).ok();
    assert_ne!(split, project.read("other.csv"));
}

// effect: bench --weights, bench --batch, bench --seconds, --threads
#[test]
fn bench_reports_the_rate_and_its_settings() {
    let project = Project::new(0);
    let arguments = ["bench", "--weights", "backbone", "--batch", "2", "--seconds", "0.3", "--threads", "1"];
    let done = project.run(&[&arguments[..], &["--json"]].concat()).ok();
    let mut figures = done.json();
    let measured = figures.as_object_mut().unwrap();
    let (rate, seconds) =
        (measured.remove("images_per_second").unwrap(), measured.remove("seconds").unwrap());
    let batches = measured.remove("batches").unwrap();
    let (seconds, batches) = (seconds.as_f64().unwrap(), batches.as_u64().unwrap());
    // A batch of two such photos takes less time.
    assert!(seconds >= 0.3 && batches > 1, "{}", done.stdout);
    assert!((rate.as_f64().unwrap() - 2.0 * batches as f64 / seconds).abs() < 1e-6, "{}", done.stdout);
    assert!(!measured.remove("isa").unwrap().as_str().unwrap().is_empty());
    assert!(measured.remove("seconds_to_first").unwrap().as_f64().unwrap() > 0.0);
    // The weights alone need about 90 MiB.
    let memory = measured.remove("peak_memory_mib").map(|memory| memory.as_f64().unwrap());
    assert_eq!(memory.is_some(), cfg!(target_os = "linux"));
    assert!(memory.is_none_or(|memory| (90.0..10_000.0).contains(&memory)), "{memory:?}");
    let expected = serde_json::json!({
        "precision": "f32", "device": "cpu", "architecture": "resnet50",
        "batch": 2, "threads": 1, "height": 64, "width": 64,
    });
    assert_eq!(figures, expected);
    let plain = project.run(&arguments).ok().stdout;
    assert!(plain.lines().count() == 1 && plain.contains("photos/s"), "{plain}");
}

// effect: extract --layer, backbone.layer
#[test]
fn a_layer_has_as_many_features_as_channels() {
    let project = Project::new(2);
    // He et al. 2015, table 1: the stem of ResNet-50 has 64 channels, and blocks expand their channels by 4.
    for (layer, width) in [("stem", 64), ("layer1", 256), ("layer2", 512), ("layer3", 1024), ("layer4", 2048)]
    {
        let out = format!("{layer}.npy");
        let figures = project.run(&["extract", "--out", &out, "--layer", layer, "--json"]).ok().json();
        assert_eq!((&figures["rows"], &figures["features"]), (&6.into(), &width.into()), "{layer}");
        let bytes = fs::read(project.path(&out)).unwrap();
        assert!(npy_header(&bytes).contains(&format!("'shape': (6, {width},")), "{}", npy_header(&bytes));
        assert_eq!(bytes.len(), 128 + 6 * width * 4, "{layer}");
    }
    let layer4 = fs::read(project.path("layer4.npy")).unwrap();
    project.run(&["extract", "--out", "avgpool.npy"]).ok();
    assert!(layer4 == fs::read(project.path("avgpool.npy")).unwrap(), "averaged over its positions");
}

// effect: extract --out, data.class_order, data.extension
#[test]
fn feature_rows_are_sorted_by_path_and_named_in_the_table() {
    let project = Project::new(2);
    // A table that is not sorted by path, and classes in the order of appearance.
    project.write(
        "labels.csv",
        "id,label\nshoes/01,S\nhat/01,H\ndress/00,D\nhat/00,H\nshoes/00,S\ndress/01,D\n",
    );
    let data = "csv = \"labels.csv\"\nimages = \"photos\"\nextension = \"jpg\"\nclass_order = \"appearance\"";
    project.write("csv.toml", &Project::config(data));
    project.run(&["extract", "--config", "csv.toml", "--out", "x.npz"]).ok();
    let expected = "row,path,class,label\n\
        0,dress/00.jpg,D,2\n1,dress/01.jpg,D,2\n2,hat/00.jpg,H,1\n3,hat/01.jpg,H,1\n4,shoes/00.jpg,S,0\n5,shoes/01.jpg,S,0\n";
    assert_eq!(project.read("x.csv"), expected);

    // Each row belongs to the photo in the table: extracted alone, the photo has the same features.
    project.run(&["extract", "--config", "csv.toml", "--out", "all.npy"]).ok();
    assert_eq!(project.read("all.csv"), expected);
    let all = fs::read(project.path("all.npy")).unwrap();
    let width = (all.len() - 128) / 6;
    for row in read_rows(&project, "x.csv").iter().skip(1) {
        let (class, file) = row[1].split_once('/').unwrap();
        fs::create_dir_all(project.path(&format!("alone/{class}"))).unwrap();
        let from = project.path(&format!("photos/{}", row[1]));
        fs::copy(from, project.path(&format!("alone/{class}/{file}"))).unwrap();
        // A data set needs two classes; this path sorts last.
        fs::create_dir_all(project.path("alone/zebra")).unwrap();
        fs::copy(demo_image("hat", 9), project.path("alone/zebra/x.jpg")).unwrap();
        project.run(&["extract", "--out", "alone.npy", "--set", "data.folder=alone"]).ok();
        let alone = fs::read(project.path("alone.npy")).unwrap();
        let number: usize = row[0].parse().unwrap();
        assert!(alone[128..][..width] == all[128 + number * width..][..width], "{row:?}");
        fs::remove_dir_all(project.path("alone")).unwrap();
    }
}

// effect: data.on_error
#[test]
fn extract_skips_unreadable_files_if_configured() {
    let project = Project::new(3);
    project.write("photos/hat/01.jpg", "no photo");
    project.run(&["extract", "--out", "x.npz"]).fails(3, &["hat", "01.jpg", "data.on_error = \"skip\""]);
    assert!(!project.path("x.npz").exists() && !project.path("x.csv").exists());

    let done = project.run(&["extract", "--out", "x.npz", "--set", "data.on_error=skip", "--json"]).ok();
    assert_eq!((&done.json()["rows"], &done.json()["skipped"]), (&8.into(), &1.into()));
    assert!(
        done.stderr.contains("1 photo cannot be read") && done.stderr.contains("01.jpg"),
        "{}",
        done.stderr
    );
    let paths: Vec<String> =
        read_rows(&project, "x.csv").into_iter().skip(1).map(|row| row[1].clone()).collect();
    let expected =
        ["dress/00", "dress/01", "dress/02", "hat/00", "hat/02", "shoes/00", "shoes/01", "shoes/02"];
    assert_eq!(paths, expected.map(|path| format!("{path}.jpg")));
}

// effect: bench --data
#[test]
fn bench_measures_from_files_and_caches_nothing() {
    let project = Project::new(8);
    project.run(&["extract", "--out", "x.npz", "--set", "features.cache=kept"]).ok();
    let arguments =
        ["bench", "--data", "--set", "features.cache=kept", "--seconds", "0.01", "--threads", "1"];
    let before: BTreeSet<_> = names_in(&project.path(""));
    let done = project.run(&[&arguments[..], &["--json"]].concat()).ok();
    // The user's cache was neither used nor changed.
    let (figures, n_images) = (done.json(), done.json()["photos"].as_u64().unwrap());
    assert!((8..=24).contains(&n_images), "{figures}");
    assert_eq!(names_in(&project.path("")), before);
    assert_eq!(project.n_cached("kept"), 24);
    let figure = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("{name}: {figures}"));
    let rate = n_images as f64 / figure("seconds");
    assert!((figure("images_per_second") / rate - 1.0).abs() < 1e-9, "{figures}");
    let ratio = figure("images_per_second") / figure("network_images_per_second");
    assert!((figure("ratio") / ratio - 1.0).abs() < 1e-9, "{figures}");
    let plain = project.run(&arguments).ok().stdout;
    assert!(plain.lines().count() == 1 && plain.contains("photos/s from files"), "{plain}");

    // --data needs the photos of a config, also with --weights; the default config is headstock.toml.
    let no_config = run_in_empty_folder(&project, &[&arguments[..], &["--weights", "../backbone"]].concat());
    no_config.fails(2, &["there is no config file headstock.toml"]);
    fs::remove_dir(project.path("empty")).unwrap();
    let away = ["--config", "away.toml"];
    project.run(&[&arguments[..], &["--weights", "backbone"], &away].concat()).fails(2, &["away.toml"]);
    project.write("photos/hat/00.jpg", "no photo");
    project.run(&arguments).fails(3, &["1 photo cannot be read", "00.jpg"]);
    assert_eq!(names_in(&project.path("")), before);
}

/// The command in an empty folder of the project.
fn run_in_empty_folder(project: &Project, arguments: &[&str]) -> crate::support::CommandOutput {
    fs::create_dir(project.path("empty")).expect("a folder");
    crate::support::run_command(project.command(arguments).current_dir(project.path("empty")))
}

fn names_in(folder: &Path) -> BTreeSet<OsString> {
    fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect()
}

// effect: --threads
#[test]
fn features_are_the_same_to_the_bit_on_one_thread_and_on_three() {
    let project = Project::new(9);
    let text = project.read("headstock.toml");
    let views = "[features]\nviews = 2\n[augment]\nhorizontal_flip = 0.5\nrotation = 30\n";
    project.write("headstock.toml", &(text + views));
    for threads in ["1", "3"] {
        let cache = format!("features.cache=cache{threads}");
        let extract = ["extract", "--out", &format!("{threads}.npz"), "--threads", threads, "--set", &cache];
        project.run(&extract).ok();
        let train = ["train", "--run", &format!("run{threads}"), "--threads", threads, "--set", &cache];
        project.run(&train).ok();
    }
    let read = |name: &str| fs::read(project.path(name)).unwrap();
    assert!(read("1.npz") == read("3.npz"), "unaugmented views differ");
    // The head was fitted on the augmented views too.
    assert!(read("run1/model.safetensors") == read("run3/model.safetensors"), "augmented views differ");
}

#[test]
fn a_corrupt_image_stops_or_is_skipped_and_computed_features_are_cached() {
    let project = Project::new(10);
    // Header and end are valid: only decoding finds the damage.
    let mut png = Vec::new();
    let noise =
        image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * y) as u8, (x + y) as u8, (x ^ y) as u8]));
    noise.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    let middle = png.len() / 2;
    png[middle] ^= 0xFF;
    // Two files with the same bytes, and another one.
    fs::write(project.path("photos/shoes/04.png"), &png).unwrap();
    fs::write(project.path("photos/shoes/05.png"), &png).unwrap();
    png[middle + 1] ^= 0xFF;
    fs::write(project.path("photos/shoes/99.png"), &png).unwrap();

    let all = ["04.png", "05.png", "99.png"];
    let extract = ["extract", "--out", "x.npz", "--threads", "1"];
    let stopped = project.run(&extract).fails(3, &[&["3 photos cannot be read"][..], &all].concat());
    assert!(all.iter().all(|name| stopped.stderr.matches(name).count() == 1), "{}", stopped.stderr);
    assert!(!project.path("x.npz").exists());
    // 24 of the 30 valid photos come before the first damaged one. The other six may be computed before the
    // work stops, because the network continues while features are stored.
    let stored = project.n_cached(".headstock");
    assert!((16..=30).contains(&stored), "{stored} were cached");

    let skip = [&extract[..], &["--set", "data.on_error=skip", "--json"]].concat();
    let done = project.run(&skip).ok();
    let figures = done.json();
    let counts = (&figures["rows"], &figures["skipped"], &figures["computed"]);
    assert_eq!(counts, (&30.into(), &3.into(), &(30 - stored).into()));
    assert!(done.stderr.contains("3 photos cannot be read and are skipped"), "{}", done.stderr);
    assert!(all.iter().all(|name| done.stderr.matches(name).count() == 1), "{}", done.stderr);
    // With a file that the first check finds, all are reported and nothing is computed.
    project.write("photos/dress/00.jpg", "no photo");
    let other_cache = [&extract[..], &["--set", "features.cache=other"]].concat();
    project.run(&other_cache).fails(3, &[&["4 photos cannot be read", "00.jpg"][..], &all].concat());
    assert_eq!(project.n_cached("other"), 0);
}

// effect: --json, predict --format
#[test]
fn predict_prints_json_last_in_every_format() {
    let project = Project::new(4);
    project.run(&["train"]).ok();
    project.write("bad.jpg", "no photo");
    for (format, lines) in [("table", 12), ("csv", 14), ("jsonl", 13)] {
        let arguments = ["predict", "runs/linear-1", "photos", "bad.jpg", "--format", format];
        let plain = project.run(&arguments).fails(3, &["1 of 13 photos"]).stdout;
        assert_eq!(plain.lines().count(), lines, "{plain}");
        let done = project.run(&[&arguments[..], &["--json"]].concat()).fails(3, &["1 of 13 photos"]);
        let expected =
            serde_json::json!({ "predicted": 12, "cached": 12, "unreadable": 1, "passed_over": {} });
        assert_eq!(done.json(), expected);
        let before = done.stdout.trim_end().rsplit_once('\n').unwrap().0;
        assert_eq!(before, plain.trim_end(), "{format}");
    }
}

#[test]
fn processes_share_a_cache_at_the_same_time() {
    let project = Project::new(12);
    let tasks = [("one.npz", "avgpool"), ("other.npz", "avgpool"), ("third.npz", "layer3")];
    let mut alone = BTreeMap::new();
    for layer in ["avgpool", "layer3"] {
        let arguments = ["extract", "--out", "alone.npz", "--layer", layer, "--set", "features.cache=alone"];
        project.run(&arguments).ok();
        alone.insert(layer, fs::read(project.path("alone.npz")).unwrap());
    }
    let started = tasks.map(|(out, layer)| {
        let mut command = project.command(&["extract", "--out", out, "--layer", layer, "--threads", "1"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for (process, (out, layer)) in started.into_iter().zip(tasks) {
        let ended = process.wait_with_output().unwrap();
        assert!(ended.status.success(), "{out}: {}", String::from_utf8_lossy(&ended.stderr));
        assert!(fs::read(project.path(out)).unwrap() == alone[layer], "{out}: {layer}");
    }
    assert_eq!(project.n_cached(".headstock"), 2 * 36, "each vector once");
}

#[test]
fn class_names_may_contain_quotes_commas_and_newlines() {
    let project = Project::new(4);
    let names = ["say \"hat\"", "a, b", "two\nlines"];
    let mut labels = csv::Writer::from_writer(Vec::new());
    labels.write_record(["id", "label"]).unwrap();
    for (class, name) in CLASSES.iter().zip(names) {
        for number in 0..4 {
            labels.write_record([&format!("{class}/{number:02}.jpg"), name]).unwrap();
        }
    }
    project.write("labels.csv", &String::from_utf8(labels.into_inner().unwrap()).unwrap());
    project.write("headstock.toml", &Project::config("csv = \"labels.csv\"\nimages = \"photos\""));
    project.run(&["train"]).ok();

    let sorted = ["a, b", "say \"hat\"", "two\nlines"];
    let label_of: BTreeMap<String, String> =
        read_rows(&project, "labels.csv").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let predictions = read_rows(&project, "runs/linear-1/predictions.csv");
    assert_eq!(predictions[0][..4], ["path", "label", "predicted", "probability"]);
    assert_eq!(predictions[0][4..], sorted);
    assert_eq!(predictions.len(), 1 + 3);
    for row in &predictions[1..] {
        assert_eq!(row[1], label_of[&row[0]]);
        let best = sorted.iter().position(|name| *name == row[2]).unwrap();
        assert_eq!(row[3], row[4 + best], "{row:?}");
        let image = format!("photos/{}", row[0]);
        let shown = project.run(&["predict", "runs/linear-1", &image, "--format", "csv"]).ok().stdout;
        let shown = parse_rows(&shown);
        assert_eq!(shown[0][3..], sorted);
        assert_eq!(shown[1][1..], row[2..], "{image}");
    }
}

#[test]
fn a_run_that_was_moved_still_predicts_and_evaluates() {
    let project = Project::new(4);
    project.run(&["train"]).ok();
    let image = project.path("photos/hat/00.jpg");
    let predict = |run: &str| {
        let arguments = ["predict", run, image.to_str().unwrap(), "--format", "csv"];
        crate::support::run_command(project.command(&arguments).current_dir(project.path("elsewhere")))
            .ok()
            .stdout
    };
    fs::create_dir(project.path("elsewhere")).unwrap();
    let before = predict("../runs/linear-1");
    fs::rename(project.path("runs/linear-1"), project.path("elsewhere/moved")).unwrap();
    // A run does not depend on the folder where it was made.
    fs::remove_file(project.path("headstock.toml")).unwrap();
    assert_eq!(predict("moved"), before);
    let evaluate = project.run(&["evaluate", "elsewhere/moved", "--json"]).ok().json();
    assert_eq!(evaluate["same_samples"], true);
}
