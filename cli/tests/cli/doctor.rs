//! What is wrong with photos is told before they are trained on.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::{CLASSES, Project, demo_photo};
use serde_json::Value;

/// Photos of each class.
const PHOTOS: usize = 12;

/// Each finding by its name, and the paths or texts of its items.
fn findings(figures: &Value) -> BTreeMap<String, Vec<String>> {
    let name = |finding: &Value| match finding["scope"].as_str() {
        Some(scope) => format!("{} {scope}", finding["kind"].as_str().unwrap()),
        None => finding["kind"].as_str().unwrap().to_owned(),
    };
    let item = |item: &Value| {
        let photos = item["photos"].as_array().unwrap();
        let paths: Vec<&str> = photos.iter().map(|photo| photo["path"].as_str().unwrap()).collect();
        if paths.is_empty() { item["detail"].as_str().unwrap().to_owned() } else { paths.join(" ") }
    };
    let findings = figures["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|finding| {
            let items: Vec<String> = finding["items"].as_array().unwrap().iter().map(item).collect();
            assert_eq!(finding["count"], items.len());
            (name(finding), items)
        })
        .collect()
}

fn reference(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/decode/photos").join(name)).unwrap()
}

/// Photos with everything that can be wrong with single ones.
fn ill() -> Project {
    let project = Project::new(PHOTOS);
    let put = |name: &str, bytes: &[u8]| {
        let path = project.path("photos").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let photo = |class: &str, number: usize| fs::read(demo_photo(class, number)).unwrap();
    put("dress/copy.jpg", &photo("dress", 0));
    put("hat/contradicts.jpg", &photo("shoes", 1));
    put("hat/mislabelled.jpg", &photo("shoes", PHOTOS + 1));
    let mirrored = image::imageops::flip_horizontal(&image::open(demo_photo("hat", 2)).unwrap().into_rgb8());
    mirrored.save(project.path("photos/hat/mirrored.jpg")).unwrap();
    let cut = photo("shoes", PHOTOS);
    put("shoes/cut.jpg", &cut[..cut.len() / 2]);
    put("shoes/text.jpg", b"<html>404 Not Found</html>");
    put("shoes/moves.gif", &reference("animated.gif"));
    put("shoes/tiny.png", &reference("grey.png"));
    put("shoes/turned.jpg", &reference("orientation_6.jpg"));
    image::RgbImage::from_fn(800, 200, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]))
        .save(project.path("photos/shoes/long.jpg"))
        .unwrap();
    put("Shoes/00.jpg", &photo("shoes", PHOTOS + 2));
    put("lost.jpg", &photo("dress", PHOTOS));
    fs::create_dir(project.path("photos/empty")).unwrap();
    project
}

#[test]
fn every_ill_is_found_without_features_and_without_a_backbone() {
    let project = ill();
    project.write("quick.toml", "version = 1\n[data]\nfolder = \"photos\"\n[split]\ntest_size = 0.25\n");
    let run = |more: &[&str]| project.run(&[&["doctor", "--config", "quick.toml", "--json"], more].concat());
    let done = run(&[]).ok();
    let found = findings(&done.json());
    let is = |kind: &str, items: &[&str]| {
        assert_eq!(found.get(kind).map(Vec::as_slice).unwrap_or_default(), items, "{kind} in {found:#?}");
    };
    is("unreadable", &["shoes/text.jpg"]);
    is("truncated", &["shoes/cut.jpg"]);
    is("animated", &["shoes/moves.gif"]);
    is("rotated", &["shoes/turned.jpg"]);
    is("odd-mode", &["shoes/moves.gif", "shoes/tiny.png"]);
    is("extreme-aspect", &["shoes/long.jpg"]);
    is("exact-duplicate across-classes", &["hat/contradicts.jpg shoes/01.jpg"]);
    is("unlabelled-photo", &["lost.jpg"]);
    is("empty-class", &["empty"]);
    is("class-names", &["\"Shoes\" (1) and \"shoes\" (18) differ by case"]);
    assert!(found["extreme-size"].contains(&"shoes/tiny.png".to_owned()));
    assert!(
        found["small-class"][0].starts_with("Shoes (1 to train on")
            || found["small-class"][0].starts_with("Shoes (0")
    );
    let copies = |kind: &str| {
        ["within-class", "across-parts"].into_iter().find_map(|scope| found.get(&format!("{kind} {scope}")))
    };
    assert_eq!(copies("exact-duplicate").unwrap(), &["dress/00.jpg dress/copy.jpg"]);
    assert_eq!(copies("near-duplicate").unwrap(), &["hat/02.jpg hat/mirrored.jpg"]);
    assert!(
        !found.contains_key("suspicious-label") && done.stdout.contains("not looked at: suspicious labels")
    );
    assert!(done.stdout.lines().any(|line| line.starts_with("error    truncated ")), "{}", done.stdout);

    run(&["--strict"]).fails(3, &["--strict: ", "errors", "warnings"]);
    let plain = run(&["--threads", "1"]).ok().stdout;
    assert_eq!(plain, run(&["--threads", "2"]).ok().stdout);
}

#[test]
fn a_wrong_label_is_found_by_features_and_what_is_found_leaves_the_clean_table() {
    let project = ill();
    let done = project.run(&["doctor", "--json", "--html", "doctor.html", "--write-clean", "clean.csv"]).ok();
    let figures = done.json();
    let found = findings(&figures);
    assert!(found["suspicious-label"].contains(&"hat/mislabelled.jpg".to_owned()), "{found:#?}");
    let suspicious =
        figures["findings"].as_array().unwrap().iter().find(|f| f["kind"] == "suspicious-label").unwrap();
    let doubts: Vec<f64> = suspicious["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["doubt"]["score"].as_f64().unwrap())
        .collect();
    assert!(doubts.is_sorted(), "{doubts:?}");

    let page = project.read("doctor.html");
    assert!(page.contains("data:image/jpeg;base64,") && page.contains("hat/mislabelled.jpg"));
    assert!(!page.contains("<script") && !page.contains("http"), "it needs nothing else");

    let clean = project.read("clean.csv");
    let rows: Vec<&str> = clean.lines().collect();
    assert_eq!(rows[0], "id,label");
    for gone in
        ["shoes/text.jpg", "shoes/cut.jpg", "hat/contradicts.jpg", "shoes/01.jpg", "hat/mislabelled.jpg"]
    {
        assert!(!clean.contains(gone), "{gone}");
    }
    for (one, other) in [("dress/00.jpg", "dress/copy.jpg"), ("hat/02.jpg", "hat/mirrored.jpg")] {
        assert!(!clean.contains(one) || !clean.contains(other), "{one} {other}");
    }
    assert_eq!(figures["clean"]["kept"], rows.len() - 1);

    // It trains, and is written anew; the user's own tables are not replaced.
    let data = Project::config("csv = \"clean.csv\"\nimages = \"photos\"");
    project.write("clean.toml", &data.replace("test_size = 0.25", "test_size = 6"));
    let trained = project.run(&["split", "--config", "clean.toml", "--out", "split.csv"]);
    assert!(trained.code == 0 || trained.stderr.contains("Shoes"), "{}", trained.stderr);
    project.run(&["doctor", "--quick", "--write-clean", "clean.csv"]).ok();
    project
        .run(&["doctor", "--quick", "--config", "clean.toml", "--write-clean", "clean.csv"])
        .fails(2, &["own table"]);
    project.write("mine.csv", "photo,class\n1,2\n");
    project.run(&["doctor", "--quick", "--write-clean", "mine.csv"]).fails(2, &["mine.csv is there already"]);
    assert_eq!(project.read("mine.csv"), "photo,class\n1,2\n");
}

#[test]
fn a_table_loses_the_rows_that_are_ill_and_keeps_its_columns() {
    let project = Project::new(PHOTOS);
    let mut table = "file;kind;taken\n".to_owned();
    for class in CLASSES {
        for number in 0..PHOTOS {
            table += &format!("{class}/{number:02};{class};2024\n");
        }
    }
    table += "dress/00;hat;2025\nhat/99;hat;2025\n;hat;2025\n";
    project.write("labels.csv", &table);
    let data =
        "csv = \"labels.csv\"\nimages = \"photos\"\nid = \"file\"\nlabel = \"kind\"\nextension = \"jpg\"";
    project.write("table.toml", &Project::config(data));
    let done = project
        .run(&["doctor", "--quick", "--config", "table.toml", "--write-clean", "clean.csv", "--json"])
        .ok();
    let found = findings(&done.json());
    assert_eq!(found["missing-photo"], ["hat/99.jpg"]);
    assert_eq!(found["bad-entry"].len(), 2, "{found:?}");
    let kept = table.lines().take(1 + 3 * PHOTOS).collect::<Vec<_>>().join("\n") + "\n";
    assert_eq!(project.read("clean.csv"), kept);
}

#[test]
fn hopeless_data_is_examined_as_far_as_it_goes() {
    let project = Project::new(0);
    project.run(&["doctor"]).fails(3, &["there is no folder"]);
    fs::create_dir_all(project.path("photos")).unwrap();
    let found = findings(&project.run(&["doctor", "--json"]).ok().json());
    assert_eq!(found.keys().collect::<Vec<_>>(), ["too-few-classes"]);
    project.write("photos/dress/a.jpg", "no photo");
    project.write("photos/dress/b.jpg", "none either");
    let done = project.run(&["doctor", "--json", "--html", "page.html"]).ok();
    let found = findings(&done.json());
    assert_eq!(found["unreadable"], ["dress/a.jpg", "dress/b.jpg"]);
    assert!(
        found.contains_key("too-few-classes") && done.stdout.contains("no photo can be read"),
        "{}",
        done.stdout
    );
    project.run(&["doctor", "--strict"]).fails(3, &["--strict"]);
}

#[test]
fn augmented_views_are_shown_on_a_sheet() {
    let project = Project::new(2);
    project.run(&["doctor", "--show-augment", "views.png"]).fails(2, &["[augment] is empty"]);
    let flip = ["--set", "augment.horizontal_flip=0.5"];
    let show = |name: &str| project.run(&[&["doctor", "--show-augment", name], &flip[..]].concat());
    show("views.jpg").fails(2, &["ends in .png"]);
    show("views.png").ok();
    let sheet = image::open(project.path("views.png")).unwrap();
    // Six photos, a plain view and seven others of 64 pixels, and 4 between.
    assert_eq!((sheet.width(), sheet.height()), (8 * 68 - 4, 6 * 68 - 4));
}
