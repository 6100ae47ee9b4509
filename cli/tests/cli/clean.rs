//! `headstock doctor --write-clean` and `--review`: from a messy folder to a run.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::support::{CLASSES, Project, demo_image, parse_csv};

/// Twelve photos of each class; a class of another case, a copy in two classes each, a damaged file, a class with
/// one photo, a photo without a class, and a wrong label that only a person sees.
fn messy_project() -> Project {
    let project = Project::new(12);
    let put = |name: &str, class: &str, number: usize| {
        let path = project.path("photos").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(demo_image(class, number), path).unwrap();
    };
    put("Dress/00.jpg", "dress", 20);
    put("dress/twin.jpg", "dress", 1);
    put("hat/copy.jpg", "hat", 0);
    put("hat/wrong.jpg", "shoes", 20);
    put("scarf/only.jpg", "hat", 20);
    put("lost.jpg", "dress", 21);
    project.write("photos/shoes/text.jpg", "<html>404 Not Found</html>");
    let config = Project::config("folder = \"photos\"").replace("test_size = 0.25", "test_size = 4");
    project.write("headstock.toml", &config);
    project
}

/// The reason, the suggestion and the action by path.
fn review_rows(project: &Project) -> BTreeMap<String, [String; 3]> {
    let rows = parse_csv(&project.read("clean.review.csv")).into_iter();
    rows.map(|row| {
        let values = ["reason", "suggestion", "action"].map(|column| row[column].clone());
        (row["path"].clone(), values)
    })
    .collect()
}

/// The rows of a table `id,label` by id.
fn labels(text: &str) -> BTreeMap<String, String> {
    parse_csv(text).into_iter().map(|row| (row["id"].clone(), row["label"].clone())).collect()
}

// effect: doctor --write-clean, doctor --review, doctor --strict
#[test]
fn a_messy_folder_is_cleaned_reviewed_checked_and_trained_on() {
    let project = messy_project();
    let done = project.run(&["doctor", "--quick", "--write-clean", "clean.csv", "--json"]).ok();
    let expected = [
        ("Dress/00.jpg", ["class-names", "dress", "relabel"]),
        ("dress/twin.jpg", ["exact-duplicate within a class", "", "drop"]),
        ("hat/copy.jpg", ["exact-duplicate within a class", "", "drop"]),
        ("lost.jpg", ["unlabelled-photo", "", "drop"]),
        ("scarf/only.jpg", ["small-class", "", "drop"]),
        ("shoes/text.jpg", ["unreadable", "", "drop"]),
    ];
    let expected: BTreeMap<String, [String; 3]> =
        expected.into_iter().map(|(path, values)| (path.to_owned(), values.map(str::to_owned))).collect();
    assert_eq!(review_rows(&project), expected);
    let mut clean = BTreeMap::from([("Dress/00.jpg".to_owned(), "dress".to_owned())]);
    clean.insert("hat/wrong.jpg".into(), "hat".into());
    for class in CLASSES {
        clean.extend((0..12).map(|number| (format!("{class}/{number:02}.jpg"), class.to_owned())));
    }
    assert_eq!(labels(&project.read("clean.csv")), clean);
    let summary = &done.json()["clean"];
    assert_eq!((&summary["kept"], &summary["relabeled"]), (&38.into(), &1.into()));
    assert_eq!((&summary["config"], &summary["review"]), (&"clean.toml".into(), &"clean.review.csv".into()));

    // A person keeps a copy, and adds a line for a wrong label.
    let edited = project.read("clean.review.csv").replace("a class,,,drop\nhat", "a class,,,keep\nhat")
        + "hat/wrong.jpg,hat,seen by eye,shoes,,relabel\n";
    assert!(edited.contains(",keep\n"), "{edited}");
    project.write("clean.review.csv", &edited);
    let write_again = ["doctor", "--quick", "--write-clean", "clean.csv"];
    project.run(&write_again).fails(2, &["clean.review.csv has 2 decisions that would be lost", "--review"]);
    assert_eq!(project.read("clean.review.csv"), edited);
    project.run(&[&write_again[..], &["--review", "clean.review.csv"]].concat()).ok();
    clean.insert("dress/twin.jpg".into(), "dress".into());
    clean.insert("hat/wrong.jpg".into(), "shoes".into());
    assert_eq!(labels(&project.read("clean.csv")), clean);
    // Giving it back again changes nothing.
    let written = ["clean.csv", "clean.review.csv", "clean.toml"].map(|name| project.read(name));
    project.run(&[&write_again[..], &["--review", "clean.review.csv"]].concat()).ok();
    assert_eq!(["clean.csv", "clean.review.csv", "clean.toml"].map(|name| project.read(name)), written);

    // The original is not clean, the result is.
    project.run(&["doctor", "--quick", "--strict"]).fails(3, &["--strict: "]);
    let strict =
        project.run(&["doctor", "--quick", "--strict", "--config", "clean.toml", "--json"]).ok().json();
    // The copy, and the four photos that were left out.
    assert_eq!(strict["decided"], 5);
    // A second pass takes over the classes and the decisions.
    project.run(&["doctor", "--quick", "--config", "clean.toml", "--write-clean", "second.csv"]).ok();
    assert_eq!(project.read("second.csv"), written[0]);
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    // The labels in the second review are those of the table.
    let expected = written[1].replace("hat/wrong.jpg,hat,", "hat/wrong.jpg,shoes,");
    let expected = expected.replace("Dress/00.jpg,Dress,", "Dress/00.jpg,dress,");
    assert_eq!(sorted(&project.read("second.review.csv")), sorted(&expected));
    // A new photo in the folder is not known.
    fs::copy(demo_image("hat", 22), project.path("photos/hat/new.jpg")).unwrap();
    project
        .run(&["doctor", "--quick", "--strict", "--config", "clean.toml"])
        .fails(3, &["0 errors and 1 warning"]);
    let run = project.run(&["train", "--config", "clean.toml", "--run", "run", "--json"]).ok().json();
    assert_eq!((&run["counts"]["classes"], &run["counts"]["train"]), (&3.into(), &35.into()));
    assert_eq!(run["counts"]["test"], 4);
}

// effect: doctor --write-clean
#[test]
fn the_config_of_a_clean_table_differs_only_in_the_source() {
    let project = messy_project();
    let keys = "[features]\ncache = \"my cache\"\n[head]\nkind = \"ridge\"\nalpha = 0.5\n";
    let first = "version = 1\ncalibration = \"platt\"\n";
    let config = project.read("headstock.toml").replace("version = 1\n", first) + keys;
    project.write("headstock.toml", &config);
    let settings = ["doctor", "--quick", "--config", "headstock.toml", "--set", "head.alpha=0.25"];
    let done = project.run(&[&settings[..], &["--write-clean", "clean.csv"]].concat()).ok();
    let next = " doctor --quick --config headstock.toml --set 'head.alpha=0.25' --write-clean clean.csv --review \
                clean.review.csv ";
    assert!(done.stdout.contains(next), "{next} is not in {}", done.stdout);
    let clean: toml::Table = project.read("clean.toml").parse().unwrap();
    assert_eq!(clean["calibration"].as_str(), Some("platt"));
    assert_eq!(clean["split"]["test_size"].as_integer(), Some(4));
    assert_eq!(clean["head"]["alpha"].as_float(), Some(0.25));
    assert!(clean["features"]["cache"].as_str().unwrap().ends_with("my cache"));
    assert!(clean["backbone"]["weights"].as_str().unwrap().ends_with("backbone"));
    let data = clean["data"].as_table().unwrap();
    assert!(!data.contains_key("folder") && data["csv"].as_str().unwrap().ends_with("clean.csv"));
    // A config of one's own is not overwritten.
    project.write("mine.toml", &config);
    project
        .run(&["doctor", "--quick", "--write-clean", "mine.csv"])
        .fails(2, &["mine.toml exists and is not"]);
    assert_eq!(project.read("mine.toml"), config);
}

// effect: doctor --write-clean, doctor --review
#[test]
fn a_table_gets_the_new_classes_and_keeps_its_other_columns_and_its_config_its_keys() {
    let project = Project::new(12);
    let mut table = "file;kind;animal\n".to_owned();
    for class in CLASSES {
        for number in 0..12 {
            let name = if number == 3 { class.to_uppercase() } else { class.to_owned() };
            table += &format!("{class}/{number:02};{name};{class}-{}\n", number / 2);
        }
    }
    project.write("labels.csv", &table);
    let data = "csv = \"labels.csv\"\nimages = \"photos\"\nid = \"file\"\nlabel = \"kind\"\nextension = \"jpg\"\n\
                group = \"animal\"";
    project.write("table.toml", &Project::config(data));
    project.run(&["doctor", "--quick", "--config", "table.toml", "--write-clean", "clean.csv"]).ok();
    assert_eq!(
        project.read("clean.csv"),
        table.replace("DRESS", "dress").replace("HAT", "hat").replace("SHOES", "shoes")
    );
    let clean: toml::Table = project.read("clean.toml").parse().unwrap();
    let value = |key: &str| clean["data"][key].as_str().unwrap().to_owned();
    assert_eq!(
        ["id", "label", "extension", "group"].map(value),
        ["file", "kind", "jpg", "animal"].map(str::to_owned)
    );
    project.run(&["split", "--config", "clean.toml", "--out", "split.csv"]).ok();
    // A row that is kept as it is stays a class of its own.
    let edited = project.read("clean.review.csv").replace("hat,,relabel", "hat,,keep");
    project.write("clean.review.csv", &edited);
    let again = ["doctor", "--quick", "--config", "table.toml", "--write-clean", "clean.csv", "--review"];
    project.run(&[&again[..], &["clean.review.csv"]].concat()).ok();
    assert_eq!(project.read("clean.csv"), table.replace("DRESS", "dress").replace("SHOES", "shoes"));
}

// effect: doctor --write-clean
#[test]
fn groups_and_a_given_split_are_columns_and_a_class_without_training_images_is_left_out() {
    let project = Project::new(3);
    let mut expected = BTreeMap::new();
    for (subset, classes, numbers) in [("train", &CLASSES[..2], 0..2), ("test", &CLASSES[..], 2..3)] {
        let mut table = "file_name,label,animal\n".to_owned();
        for class in classes {
            for number in numbers.clone() {
                let name = format!("{class}-{number}.jpg");
                table += &format!("{name},{class},{class} {number}\n");
                fs::create_dir_all(project.path("data").join(subset)).unwrap();
                fs::copy(demo_image(class, number), project.path("data").join(subset).join(&name)).unwrap();
                let row = [(*class).to_owned(), format!("{class} {number}"), subset.to_owned()];
                expected.insert(format!("{subset}/{name}"), row);
            }
        }
        project.write(&format!("data/{subset}/metadata.csv"), &table);
    }
    expected.remove("test/shoes-2.jpg").unwrap();
    let source = "metadata = \"data\"\ngroup = \"animal\"";
    project.write("headstock.toml", &Project::config(source).replace("[split]\ntest_size = 0.25\n", ""));
    project.run(&["doctor", "--quick", "--write-clean", "clean.csv"]).ok();
    let text = project.read("clean.csv");
    assert!(text.starts_with("id,label,group,split\n"), "{text}");
    let rows = parse_csv(&text).into_iter();
    let rows = rows.map(|row| (row["id"].clone(), ["label", "group", "split"].map(|name| row[name].clone())));
    assert_eq!(rows.collect::<BTreeMap<_, _>>(), expected);
    let left_out = BTreeMap::from([(
        "test/shoes-2.jpg".to_owned(),
        ["small-class".to_owned(), String::new(), "drop".to_owned()],
    )]);
    assert_eq!(review_rows(&project), left_out);
    // The config reads both columns.
    project.run(&["split", "--config", "clean.toml", "--out", "split.csv"]).ok();
    let subsets = parse_csv(&project.read("split.csv")).into_iter();
    let subsets: BTreeMap<String, String> =
        subsets.map(|row| (row["path"].clone(), row["split"].clone())).collect();
    let given: BTreeMap<String, String> =
        expected.iter().map(|(id, row)| (id.clone(), row[2].clone())).collect();
    assert_eq!(subsets, given);
    let clean: toml::Table = project.read("clean.toml").parse().unwrap();
    assert_eq!(clean["data"]["group"].as_str(), Some("group"));
    assert!(clean["data"].get("metadata").is_none());
}

// effect: doctor --review
#[test]
fn a_review_of_other_data_is_refused() {
    let project = messy_project();
    let header = "path,label,reason,suggestion,probability,action\n";
    let review = |row: &str| {
        project.write("other.csv", &format!("{header}{row}\n"));
        project.run(&["doctor", "--quick", "--write-clean", "clean.csv", "--review", "other.csv"])
    };
    review("hat/99.jpg,hat,,,,keep").fails(3, &["photos that are not in the data: hat/99.jpg"]);
    review("hat/01.jpg,cap,,,,keep").fails(3, &["has the class cap for hat/01.jpg", "it is hat"]);
    review("lost.jpg,,,hat,,relabel").fails(3, &["relabel for lost.jpg, which has no class"]);
    review("hat/01.jpg,hat,,,,remove").fails(3, &["line 2: the action is `remove`"]);
    assert!(!project.path("clean.csv").exists() && !project.path("clean.toml").exists());
    project.run(&["doctor", "--review", "other.csv"]).fails(2, &["--write-clean"]);
}
