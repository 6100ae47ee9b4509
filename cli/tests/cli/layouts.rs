//! The layouts of public data sets, rebuilt with a few photos: what docs/data.md says to type trains on them.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::support::{CLASSES, Project, demo_image};

/// Number of photos of each class.
const IMAGES_PER_CLASS: usize = 6;

/// A project with only the bundled weights.
fn project() -> Project {
    let project = Project::empty();
    project.add_weights("backbone");
    project
}

/// Copies photo `number` of the class with the index `class` to `path`.
fn place(project: &Project, class: usize, number: usize, path: &str) {
    let to = project.path(path);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(demo_image(CLASSES[class], number), to).unwrap();
}

/// Copies photos of all classes to the paths that `path_of` gives for the index of the class and the number.
fn place_all(project: &Project, numbers: std::ops::Range<usize>, path_of: impl Fn(usize, usize) -> String) {
    for class in 0..CLASSES.len() {
        for number in numbers.clone() {
            place(project, class, number, &path_of(class, number));
        }
    }
}

/// Packs the files of the folder `from` of the project into the zip archive `to`, and removes the folder.
fn pack(project: &Project, from: &str, to: &str) {
    fn add(archive: &mut ZipWriter<fs::File>, folder: &Path, root: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(archive, &path, root);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            archive.start_file(name, SimpleFileOptions::default()).unwrap();
            archive.write_all(&fs::read(path).unwrap()).unwrap();
        }
    }
    let mut archive = ZipWriter::new(fs::File::create(project.path(to)).unwrap());
    add(&mut archive, &project.path(from), &project.path(from));
    archive.finish().unwrap();
    fs::remove_dir_all(project.path(from)).unwrap();
}

/// Runs what `docs/data.md` says to type for the data set `name`, and trains with the config of each `init`; checks
/// the numbers of classes, training and test photos. Returns what the commands printed to stderr.
#[track_caller]
fn assert_trains(project: &Project, name: &str, counts: (u64, u64, u64)) -> String {
    if let Some(script) = docs_script(name) {
        run_shell(project, &script);
    }
    let mut notes = String::new();
    for command in docs_commands(name) {
        let Some(arguments) = command.strip_prefix("headstock ") else {
            run_shell(project, &command);
            continue;
        };
        let config = project.path("headstock.toml");
        if config.exists() {
            fs::remove_file(&config).unwrap();
        }
        let arguments: Vec<&str> = arguments.split(' ').chain(["--json"]).collect();
        let init = project.run(&arguments).ok();
        assert_counts(&init.json(), counts, &init.stderr);
        notes += &init.stderr;
        let train = project.run(&["train", "--set", "backbone.weights=backbone", "--json"]).ok();
        assert_counts(&train.json()["counts"], counts, &train.stderr);
    }
    notes
}

#[track_caller]
fn assert_counts(found: &serde_json::Value, counts: (u64, u64, u64), notes: &str) {
    let number = |key: &str| found[key].as_u64().unwrap();
    assert_eq!((number("classes"), number("train"), number("test")), counts, "{notes}");
}

fn run_shell(project: &Project, script: &str) {
    let status = Command::new("sh").args(["-ec", script]).current_dir(project.path(".")).status();
    assert!(status.unwrap().success(), "{script}");
}

/// The section of `docs/data.md` about public data sets.
fn docs_section() -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/data.md")).unwrap();
    let (_, section) = page.split_once("\n## Public data sets\n").unwrap();
    section.split("\n## ").next().unwrap().to_owned()
}

/// The commands in the row of the data set `name`.
fn docs_commands(name: &str) -> Vec<String> {
    let section = docs_section();
    let row = section.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap();
    let cell = row.split('|').nth(3).unwrap();
    let commands: Vec<String> = cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(!commands.is_empty(), "{row}");
    commands
}

/// The script that makes a table for the data set `name`, if it needs one.
fn docs_script(name: &str) -> Option<String> {
    let section = docs_section();
    let (_, after) = section.split_once(&format!("\n**{name}**"))?;
    Some(after.split("```sh\n").nth(1).unwrap().split("```").next().unwrap().to_owned())
}

/// The tests of this file are all data sets of the page.
#[test]
fn every_data_set_of_the_docs_is_tested() {
    let section = docs_section();
    let names: Vec<&str> = section
        .lines()
        .filter(|line| line.contains("`headstock init "))
        .map(|line| line.split(" | ").next().unwrap().trim_start_matches("| "))
        .collect();
    assert_eq!(names.len(), 14);
    for name in names {
        assert!(include_str!("layouts.rs").contains(&format!("&project, \"{name}\"")), "{name}");
    }
}

#[test]
fn kaggles_cats_and_dogs() {
    let project = project();
    place_all(&project, 0..4, |class, n| {
        format!("cats-and-dogs/training_set/training_set/{}/{n}.jpg", CLASSES[class])
    });
    place_all(&project, 4..6, |class, n| {
        format!("cats-and-dogs/test_set/test_set/{}/{n}.jpg", CLASSES[class])
    });
    project.write("cats-and-dogs/training_set/training_set/hat/_DS_Store", "x");
    assert_trains(&project, "Cats and dogs (Kaggle)", (3, 12, 6));
}

#[test]
fn dogs_vs_cats_as_zips_in_a_zip() {
    let project = project();
    place_all(&project, 0..IMAGES_PER_CLASS, |class, n| format!("inner/train/{}.{n}.jpg", CLASSES[class]));
    fs::create_dir(project.path("outer")).unwrap();
    pack(&project, "inner", "outer/train.zip");
    place_all(&project, 6..7, |class, _| format!("inner/test1/{class}.jpg"));
    pack(&project, "inner", "outer/test1.zip");
    project.write("outer/sampleSubmission.csv", "id,label\n1,0\n");
    pack(&project, "outer", "dogs-vs-cats.zip");
    assert_trains(&project, "Dogs vs. cats (Kaggle)", (3, 13, 5));
}

#[test]
fn intel_scenes() {
    let project = project();
    place_all(&project, 0..4, |class, n| format!("intel/seg_train/seg_train/{}/{n}.jpg", CLASSES[class]));
    place_all(&project, 4..5, |class, n| format!("intel/seg_test/seg_test/{}/{n}.jpg", CLASSES[class]));
    place_all(&project, 5..6, |class, n| format!("intel/seg_pred/seg_pred/{class}{n}.jpg"));
    let notes = assert_trains(&project, "Intel scenes", (3, 12, 3));
    assert!(notes.contains("skipped 3 photos in intel: the folder `seg_pred`"), "{notes}");
}

#[test]
fn dog_breeds() {
    let project = project();
    let mut table = "id,breed\n".to_owned();
    for (class, name) in CLASSES.iter().enumerate() {
        for number in 0..IMAGES_PER_CLASS {
            place(&project, class, number, &format!("dog-breed-identification/train/{class}e{number}.jpg"));
            table += &format!("{class}e{number},{name}\n");
        }
    }
    place_all(&project, 6..7, |class, _| format!("dog-breed-identification/test/{class}f.jpg"));
    project.write("dog-breed-identification/labels.csv", &table);
    project.write("dog-breed-identification/sample_submission.csv", "id,dress,hat,shoes\n0f,0.3,0.3,0.4\n");
    assert_trains(&project, "Dog breeds (Kaggle)", (3, 13, 5));
}

#[test]
fn plant_seedlings_with_spaces_in_their_names() {
    let project = project();
    place_all(&project, 0..IMAGES_PER_CLASS, |class, n| {
        format!("plant-seedlings/train/Small-flowered {}/{n}.png", CLASSES[class])
    });
    place_all(&project, 6..7, |class, _| format!("plant-seedlings/test/{class}.png"));
    project.write("plant-seedlings/sample_submission.csv", "file,species\n0.png,Sugar beet\n");
    assert_trains(&project, "Plant seedlings", (3, 13, 5));
}

#[test]
fn ham10000_with_a_lesion_as_group() {
    let project = project();
    let mut table = "lesion_id,image_id,dx,dx_type,age,sex,localization\n".to_owned();
    for (class, name) in CLASSES.iter().enumerate() {
        for number in 0..IMAGES_PER_CLASS {
            let part = 1 + number % 2;
            place(
                &project,
                class,
                number,
                &format!("ham10000/HAM10000_images_part_{part}/ISIC_{class}{number}.jpg"),
            );
            table +=
                &format!("HAM_{class}{},ISIC_{class}{number},{name},histo,80.0,male,scalp\n", number / 2);
        }
    }
    project.write("ham10000/HAM10000_metadata.csv", &table);
    assert_trains(&project, "HAM10000", (3, 13, 5));
    assert!(project.read("headstock.toml").contains("# group = \"lesion_id\""));
    let grouped = [
        "train",
        "--set",
        "backbone.weights=backbone",
        "--set",
        "data.group=lesion_id",
        "--set",
        "split.method=group",
        "--set",
        "split.test_size=2",
        "--set",
        "split.seed=1",
    ];
    project.run(&grouped).ok();
}

#[test]
fn stanford_dogs_and_oxford_pets() {
    let project = project();
    place_all(&project, 0..IMAGES_PER_CLASS, |class, n| {
        format!("stanford-dogs/Images/n0208562{class}-{}/n0208562{class}_{n}.jpg", CLASSES[class])
    });
    project.write("stanford-dogs/Annotation/n02085620-x/n02085620_1", "<annotation/>");
    assert_trains(&project, "Stanford Dogs", (3, 13, 5));
    place_all(&project, 0..IMAGES_PER_CLASS, |class, n| {
        format!("oxford-pets/images/great_{}_{n}.jpg", CLASSES[class])
    });
    project.write("oxford-pets/annotations/list.txt", "great_hat_1 1 1 1\n");
    assert_trains(&project, "Oxford Pets", (3, 13, 5));
}

#[test]
fn eurosat_and_cifar10_as_folders() {
    let project = project();
    place_all(&project, 0..IMAGES_PER_CLASS, |class, n| {
        format!("EuroSAT/2750/{0}/{0}_{n}.jpg", CLASSES[class])
    });
    assert_trains(&project, "EuroSAT", (3, 13, 5));
    place_all(&project, 0..4, |class, n| format!("cifar10/train/{}/{n:04}.png", CLASSES[class]));
    place_all(&project, 4..6, |class, n| format!("cifar10/test/{}/{n:04}.png", CLASSES[class]));
    assert_trains(&project, "CIFAR-10 as PNG", (3, 12, 6));
}

/// A file in iNaturalist's format about the photos `numbers` of all classes.
fn inaturalist_json(numbers: std::ops::Range<usize>) -> String {
    let mut images = Vec::new();
    let mut annotations = Vec::new();
    for (class, _) in CLASSES.iter().enumerate() {
        for number in numbers.clone() {
            let id = 100 * class + number;
            let name = format!("train_val2019/Plants/{}/{id:06}.jpg", 700 + class);
            images.push(serde_json::json!({"id": id, "file_name": name, "license": 1, "rights_holder": "x"}));
            annotations.push(serde_json::json!({"id": id, "image_id": id, "category_id": 700 + class}));
        }
    }
    let category =
        |(class, name)| serde_json::json!({"id": 700 + class, "name": name, "supercategory": "Plants"});
    let categories: Vec<_> = CLASSES.iter().enumerate().map(category).collect();
    serde_json::json!({"info": {}, "images": images, "annotations": annotations, "categories": categories})
        .to_string()
}

#[test]
fn inaturalists_json() {
    let project = project();
    let path = |class: usize, n| {
        format!("inaturalist/train_val2019/Plants/{}/{:06}.jpg", 700 + class, 100 * class + n)
    };
    place_all(&project, 0..IMAGES_PER_CLASS, path);
    project.write("inaturalist/train2019.json", &inaturalist_json(0..4));
    project.write("inaturalist/val2019.json", &inaturalist_json(4..6));
    project
        .write("inaturalist/test2019.json", "{\"images\": [{\"id\": 1, \"file_name\": \"test2019/1.jpg\"}]}");
    let notes = assert_trains(&project, "iNaturalist", (3, 12, 6));
    assert!(notes.contains("the photos for testing are those of inaturalist/val2019.json"), "{notes}");
}

#[test]
fn cub_200_and_food_101_by_their_recipes() {
    let project = project();
    let (mut images, mut labels, mut split) = (String::new(), String::new(), String::new());
    let (mut train, mut test) = (String::new(), String::new());
    let mut id = 0;
    for (class, name) in CLASSES.iter().enumerate() {
        for number in 0..IMAGES_PER_CLASS {
            id += 1;
            let folder = format!("{:03}.Black_footed_{name}", class + 1);
            place(&project, class, number, &format!("CUB_200_2011/images/{folder}/{name}_{number}.jpg"));
            place(&project, class, number, &format!("food-101/images/{name}/{number}.jpg"));
            images += &format!("{id} {folder}/{name}_{number}.jpg\n");
            labels += &format!("{id} {}\n", class + 1);
            split += &format!("{id} {}\n", i32::from(number < 4));
            *if number < 4 { &mut train } else { &mut test } += &format!("{name}/{number}\n");
        }
    }
    for (name, text) in [("images", images), ("image_class_labels", labels), ("train_test_split", split)] {
        project.write(&format!("CUB_200_2011/{name}.txt"), &text);
    }
    fs::create_dir_all(project.path("food-101/meta")).unwrap();
    project.write("food-101/meta/train.txt", &train);
    project.write("food-101/meta/test.txt", &test);
    assert_trains(&project, "CUB-200", (3, 12, 6));
    assert_trains(&project, "Food-101", (3, 12, 6));
}

#[test]
fn gtsrb_as_folders_of_ppm_and_a_table_with_semicolons() {
    let project = project();
    let mut table = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n".to_owned();
    for (class, name) in CLASSES.iter().enumerate() {
        for number in 0..IMAGES_PER_CLASS {
            let picture = image::open(demo_image(name, number)).unwrap().thumbnail(60, 60).to_rgb8();
            let header = format!("P6\n{} {}\n255\n", picture.width(), picture.height());
            let bytes = [header.as_bytes(), picture.as_raw()].concat();
            let to = |path: String| {
                let path = project.path(&path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, &bytes).unwrap();
            };
            to(format!("GTSRB/Final_Training/Images/{class:05}/00000_{number:05}.ppm"));
            let name = format!("{:05}.ppm", 10 * class + number);
            to(format!("GTSRB/Final_Test/Images/{name}"));
            table += &format!("{name};53;54;6;5;48;49;{class}\n");
        }
        project.write(
            &format!("GTSRB/Final_Training/Images/{class:05}/GT-{class:05}.csv"),
            "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n00000_00000.ppm;29;30;5;6;24;25;0\n",
        );
    }
    project.write("GTSRB/Final_Test/Images/GT-final_test.csv", &table);
    assert_trains(&project, "GTSRB", (3, 13, 5));
}
