//! The config for Kaggle's Dog Breed Identification, on the demo's photos in the same layout.

use std::fs;
use std::path::Path;

use crate::support::{CLASSES, Project, demo_image};

#[test]
fn the_tutorial_config_trains_in_kaggles_folder() {
    let project = Project::new(0);
    fs::create_dir(project.path("train")).unwrap();
    let mut table = String::from("id,breed\n");
    for class in CLASSES {
        for number in 0..10 {
            fs::copy(demo_image(class, number), project.path(&format!("train/{class}{number}.jpg"))).unwrap();
            table += &format!("{class}{number},{class}\n");
        }
    }
    project.write("labels.csv", &table);
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/dog-breed.toml");
    fs::copy(config, project.path("dog-breed.toml")).unwrap();
    let arguments = ["train", "--config", "dog-breed.toml", "--set", "backbone.weights=backbone", "--json"];
    let figures = project.run(&arguments).ok().json();
    assert_eq!((&figures["counts"]["train"], &figures["counts"]["test"]), (&27.into(), &3.into()));
    // scikit-learn: StratifiedShuffleSplit(n_splits=1, test_size=0.1, random_state=0) on these 30 labels.
    let split = project.read("runs/linear-1/split.csv");
    let tested: Vec<&str> = split.lines().filter_map(|line| line.strip_suffix(",test")).collect();
    assert_eq!(tested, ["dress5.jpg,dress", "hat4.jpg,hat", "shoes7.jpg,shoes"]);
}
