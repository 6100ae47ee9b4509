//! Every data source and every split of docs/data.md.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

#[allow(dead_code, reason = "the tests of the hub use more of it")]
#[path = "../../../hub/tests/hub/server.rs"]
mod hub;

use std::fs;
use std::path::Path;

use self::hub::{HubFile, TestHub};

use crate::support::{CLASSES, Project, demo_image, run_command};

/// A file of `reference`.
fn reference_file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference").join(name)
}

fn copy(project: &Project, from: &Path, to: &str) {
    let to = project.path(to);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}

/// A project with the files that the configs of `docs/data.md` use.
fn docs_project() -> Project {
    let project = Project::new(8);
    let (mut csv, mut tsv) = ("id,breed\n".to_owned(), "file\tbreed\tdog\tuse\n".to_owned());
    for class in CLASSES {
        for number in 0..8 {
            let image = demo_image(class, number);
            let part = if number < 6 { "train" } else { "test" };
            copy(&project, &image, &format!("parts/{part}/{class}/{number}.jpg"));
            copy(&project, &image, &format!("train/{class}-{number}.jpg"));
            copy(&project, &image, &format!("named/{class}_{number}.jpg"));
            csv += &format!("{class}-{number},{class}\n");
            tsv += &format!("{class}-{number}.jpg\t{class}\tdog {}\t{part}\n", number % 5);
        }
    }
    add_annotated_data(&project);
    project.write("labels.csv", &csv);
    project.write("labels.tsv", &tsv);
    for shard in ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"] {
        copy(&project, &reference_file(&format!("source/{shard}.parquet")), &format!("data/{shard}.parquet"));
    }
    for shard in ["numbers-000.tar", "numbers-001.tar"] {
        copy(&project, &reference_file(&format!("source/{shard}")), &format!("shards/{shard}"));
    }
    copy(&project, &reference_file("feature_file/separable.npz"), "x.npz");
    project
}

/// Adds photos with metadata, with files in COCO's format, and in an archive beside other pictures.
fn add_annotated_data(project: &Project) {
    let mut members = Vec::new();
    for (part, numbers, coco) in [("train", 0..6, "train2019.json"), ("test", 6..8, "val2019.json")] {
        let (mut rows, mut images, mut annotations) = (String::new(), Vec::new(), Vec::new());
        for (category, class) in CLASSES.iter().enumerate() {
            for number in numbers.clone() {
                let (name, id) = (format!("{class}-{number}.jpg"), 10 * category + number);
                let image = demo_image(class, number);
                copy(project, &image, &format!("shop/{part}/{name}"));
                rows += &format!("{}\n", serde_json::json!({ "file_name": name, "breed": class }));
                images.push(serde_json::json!({ "id": id, "file_name": name }));
                annotations.push(serde_json::json!({ "image_id": id, "category_id": category }));
                let image = fs::read(image).unwrap();
                members.push((format!("{id}.input.jpg"), image.clone()));
                members.push((format!("{id}.mask.jpg"), image));
                members.push((format!("{id}.cls"), class.as_bytes().to_vec()));
            }
        }
        project.write(&format!("shop/{part}/metadata.jsonl"), &rows);
        let categories: Vec<_> = CLASSES
            .iter()
            .enumerate()
            .map(|(id, name)| serde_json::json!({ "id": id, "name": name }))
            .collect();
        let json =
            serde_json::json!({ "images": images, "annotations": annotations, "categories": categories });
        project.write(coco, &json.to_string());
    }
    fs::write(project.path("masks.tar"), tar_archive(&members)).unwrap();
}

/// A hub with the data set that `docs/data.md` uses.
fn docs_hub() -> TestHub {
    let hub = TestHub::new("datasets/acme/dogs");
    let files = ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"].map(|shard| {
        let bytes = fs::read(reference_file(&format!("source/{shard}.parquet"))).unwrap();
        (format!("data/{shard}.parquet"), HubFile { bytes, large: true, etag: None })
    });
    let files = files.each_ref().map(|(name, content)| (name.as_str(), content.clone()));
    hub.add_commit("main", "00112233445566778899aabbccddeeff00112233", &files);
    hub
}

#[test]
fn every_config_of_docs_data_runs() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/data.md")).unwrap();
    let configs: Vec<&str> =
        page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(configs.len() > 10);
    let project = docs_project();
    let hub = docs_hub();
    for (number, config) in configs.into_iter().enumerate() {
        let (file, run) = (format!("{number}.toml"), format!("runs/{number}"));
        project.write(&file, config);
        let mut train = project.command(&["train", "--config", &file, "--run", &run, "--json"]);
        let trained =
            run_command(train.env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", project.path("hub")));
        assert_eq!(trained.code, 0, "{config}\n{}", trained.stderr);
        let trained = trained.json();
        // A run records the commit of its data, so the hub is not asked again.
        let mut evaluate = project.command(&["evaluate", &run, "--json"]);
        let evaluated = run_command(
            evaluate.env("HF_ENDPOINT", "http://127.0.0.1:9").env("HF_HOME", project.path("hub")),
        );
        let evaluated = evaluated.ok().json();
        assert_eq!(evaluated["same_samples"], true, "{config}");
        assert_eq!(evaluated["top1"], trained["top1"], "{config}");
    }
}

#[test]
fn the_readme_of_a_hub_data_set_says_which_files_are_for_testing() {
    let project = Project::new(1);
    let hub = TestHub::new("datasets/acme/dogs");
    let shard = |name: &str| HubFile {
        bytes: fs::read(reference_file(&format!("source/{name}.parquet"))).unwrap(),
        large: true,
        etag: None,
    };
    let card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: x/*\n  - split: \
                train\n    path: y/*\n---\n";
    let card = HubFile { bytes: card.into(), large: false, etag: None };
    let files = [
        ("README.md", card),
        ("x/0.parquet", shard("test-00000-of-00001")),
        ("y/0.parquet", shard("train-00000-of-00002")),
    ];
    hub.add_commit("main", "00112233445566778899aabbccddeeff00112233", &files);
    project.write("hub.toml", &Project::config("parquet = \"hf://datasets/acme/dogs\""));
    let mut train = project.command(&["train", "--config", "hub.toml", "--run", "runs/hub"]);
    run_command(train.env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", project.path("hub"))).ok();
    let predictions = project.read("runs/hub/predictions.csv");
    let tested: Vec<&str> = predictions.lines().skip(1).collect();
    assert_eq!(tested.len(), 6, "{predictions}");
    assert!(tested.iter().all(|row| row.starts_with("x/0.parquet/")), "{predictions}");
}

/// A tar archive of these files.
fn tar_archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        out.append_data(&mut header, name, data.as_slice()).unwrap();
    }
    out.into_inner().unwrap()
}

#[test]
fn images_in_shards_equal_those_in_folders() {
    let project = Project::new(6);
    let files: Vec<(String, Vec<u8>)> = CLASSES
        .iter()
        .flat_map(|class| (0..6).map(move |number| (*class, number)))
        .flat_map(|(class, number)| {
            let image = fs::read(demo_image(class, number)).unwrap();
            let key = format!("{class}/{number:02}");
            [(format!("{key}.jpg"), image), (format!("{key}.cls"), class.into())]
        })
        .collect();
    fs::write(project.path("all.tar"), tar_archive(&files)).unwrap();
    project.write("tar.toml", &Project::config("webdataset = \"all.tar\""));
    project.run(&["train", "--run", "runs/folder"]).ok();
    let stored = project.n_cached(".headstock");
    project.run(&["train", "--run", "runs/tar", "--config", "tar.toml"]).ok();
    assert_eq!(project.n_cached(".headstock"), stored);
    let table = |run: &str| project.read(&format!("runs/{run}/predictions.csv"));
    assert_eq!(table("folder"), table("tar").replace("all.tar/", ""));
    assert!(table("tar").contains("all.tar/"));
    // Training photos are recognized by their bytes, in folders and in shards.
    let [folder, tar] = ["folder", "tar"].map(|run| {
        let done = project.run(&["evaluate", &format!("runs/{run}"), "--set", "split.seed=1", "--json"]);
        done.ok().json()["trained_on"].clone()
    });
    assert!(folder["samples"].as_u64().is_some_and(|seen| seen > 0) && folder == tar, "{folder} {tar}");

    project.run(&["extract", "--config", "tar.toml", "--out", "x.npy"]).ok();
    fs::write(project.path("all.tar"), tar_archive(&files[..4])).unwrap();
    project.run(&["evaluate", "runs/tar"]).fails(3, &["test photos of the run are missing"]);
    fs::remove_file(project.path("all.tar")).unwrap();
    project.run(&["evaluate", "runs/tar"]).fails(3, &["all.tar"]);
}

#[test]
fn init_writes_a_config_for_every_kind_of_data() {
    let project = docs_project();
    for (location, counts) in [
        ("data", (29, 6)),
        ("data/train-00000-of-00002.parquet", (22, 3)),
        ("shards", (14, 2)),
        ("labels.tsv", (18, 6)),
        ("parts", (18, 6)),
    ] {
        let config = format!("{}.toml", location.replace('/', "-"));
        let made = project.run(&["init", location, "--config", &config, "--json"]).ok().json();
        assert_eq!(
            (made["train"].as_u64(), made["test"].as_u64()),
            (Some(counts.0), Some(counts.1)),
            "{location}"
        );
        let split =
            project.run(&["split", "--config", &config, "--out", &format!("{config}.csv"), "--json"]).ok();
        assert_eq!(split.json()["test"], made["test"], "{location}");
    }
    project
        .run(&["init", "data", "--id", "x", "--config", "y.toml"])
        .fails(2, &["--images and --id are only for a table"]);
    project.run(&["init", "nothing", "--config", "y.toml"]).fails(2, &["there is no file or folder nothing"]);
}

#[test]
fn a_predefined_split_needs_a_split_in_the_data() {
    let project = docs_project();
    project
        .run(&["split", "--out", "x.csv", "--set", "split.method=predefined"])
        .fails(3, &["the split method is \"predefined\", but the data does not mark any photo for testing"]);
    project.run(&["split", "--out", "x.csv", "--set", "split.method=group"]).fails(2, &["data.group"]);
}
