//! `headstock doctor`.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::support::{CLASSES, Project, demo_image};
use headstock_loader::source::find_image_files;
use serde_json::Value;

/// Images per class.
const IMAGES_PER_CLASS: usize = 12;

/// Paths or texts of the items of each finding, by name of the finding.
fn items_by_finding(figures: &Value) -> BTreeMap<String, Vec<String>> {
    let name = |finding: &Value| match finding["scope"].as_str() {
        Some(scope) => format!("{} {scope}", finding["kind"].as_str().unwrap()),
        None => finding["kind"].as_str().unwrap().to_owned(),
    };
    let item = |item: &Value| {
        let images = item["photos"].as_array().unwrap();
        let paths: Vec<&str> = images.iter().map(|image| image["path"].as_str().unwrap()).collect();
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

/// The images that a clean table leaves out even if they have no duplicate.
fn removed_images(figures: &Value) -> BTreeSet<String> {
    let mut leaving = BTreeSet::new();
    for (name, items) in items_by_finding(figures) {
        let is_removed = ["unreadable", "truncated", "suspicious-label", "outlier"].contains(&name.as_str());
        if is_removed || name.ends_with(" across-classes") {
            leaving.extend(items.iter().flat_map(|item| item.split(' ').map(str::to_owned)));
        }
    }
    leaving
}

/// Sorted ids of the clean table that the help of `doctor` describes: no unreadable images, suspicious
/// labels, outliers or duplicates; of duplicates with one class the first, of those with several none.
fn expected_clean_ids(project: &Project, figures: &Value) -> Vec<String> {
    let mut leaving = removed_images(figures);
    let mut copies = Vec::new();
    for (name, items) in items_by_finding(figures) {
        if name.contains("-duplicate ") && !name.ends_with(" across-classes") {
            copies.extend(items);
        }
    }
    for item in copies {
        let left: Vec<String> =
            item.split(' ').filter(|path| !leaving.contains(*path)).map(str::to_owned).collect();
        leaving.extend(left.into_iter().skip(1));
    }
    let images = find_image_files(&project.path("photos"), false).unwrap().images;
    let ids = images.into_iter().map(|(id, _)| id);
    // Images next to the class folders have no class.
    let mut ids: Vec<String> = ids.filter(|id| id.contains('/') && !leaving.contains(id)).collect();
    ids.sort();
    ids
}

fn reference_image(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/decode/photos").join(name)).unwrap()
}

/// A project with every problem that doctor finds without features.
fn project_with_every_problem() -> Project {
    let project = Project::new(IMAGES_PER_CLASS);
    let put = |name: &str, bytes: &[u8]| {
        let path = project.path("photos").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let demo_bytes = |class: &str, number: usize| fs::read(demo_image(class, number)).unwrap();
    put("dress/copy.jpg", &demo_bytes("dress", 0));
    put("hat/contradicts.jpg", &demo_bytes("shoes", 1));
    put("hat/mislabelled.jpg", &demo_bytes("shoes", IMAGES_PER_CLASS + 1));
    let mirrored = image::imageops::flip_horizontal(&image::open(demo_image("hat", 2)).unwrap().into_rgb8());
    mirrored.save(project.path("photos/hat/mirrored.jpg")).unwrap();
    let truncated = demo_bytes("shoes", IMAGES_PER_CLASS);
    put("shoes/cut.jpg", &truncated[..truncated.len() / 2]);
    put("shoes/text.jpg", b"<html>404 Not Found</html>");
    put("shoes/moves.gif", &reference_image("animated.gif"));
    put("shoes/tiny.png", &reference_image("grey.png"));
    put("shoes/turned.jpg", &reference_image("orientation_6.jpg"));
    image::RgbImage::from_fn(800, 200, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]))
        .save(project.path("photos/shoes/long.jpg"))
        .unwrap();
    put("Shoes/00.jpg", &demo_bytes("shoes", IMAGES_PER_CLASS + 2));
    put("lost.jpg", &demo_bytes("dress", IMAGES_PER_CLASS));
    fs::create_dir(project.path("photos/empty")).unwrap();
    project
}

// effect: doctor --quick, doctor --strict
#[test]
fn every_file_problem_is_found_without_features_or_backbone() {
    let project = project_with_every_problem();
    project.write("quick.toml", "version = 1\n[data]\nfolder = \"photos\"\n[split]\ntest_size = 0.25\n");
    let run = |more: &[&str]| project.run(&[&["doctor", "--config", "quick.toml", "--json"], more].concat());
    let done = run(&[]).ok();
    let found = items_by_finding(&done.json());
    let assert_items = |kind: &str, items: &[&str]| {
        assert_eq!(found.get(kind).map(Vec::as_slice).unwrap_or_default(), items, "{kind} in {found:#?}");
    };
    assert_items("unreadable", &["shoes/text.jpg"]);
    assert_items("truncated", &["shoes/cut.jpg"]);
    assert_items("animated", &["shoes/moves.gif"]);
    assert_items("rotated", &["shoes/turned.jpg"]);
    assert_items("odd-mode", &["shoes/moves.gif", "shoes/tiny.png"]);
    assert_items("extreme-aspect", &["shoes/long.jpg"]);
    assert_items("exact-duplicate across-classes", &["hat/contradicts.jpg shoes/01.jpg"]);
    assert_items("unlabelled-photo", &["lost.jpg"]);
    assert_items("empty-class", &["empty"]);
    assert_items("class-names", &["\"Shoes\" (1) and \"shoes\" (18) differ by case"]);
    assert!(found["extreme-size"].contains(&"shoes/tiny.png".to_owned()));
    assert!(
        found["small-class"][0].starts_with("Shoes (1 training photos")
            || found["small-class"][0].starts_with("Shoes (0 training photos")
    );
    let copies = |kind: &str| {
        ["within-class", "across-parts"].into_iter().find_map(|scope| found.get(&format!("{kind} {scope}")))
    };
    assert_eq!(copies("exact-duplicate").unwrap(), &["dress/00.jpg dress/copy.jpg"]);
    assert_eq!(copies("near-duplicate").unwrap(), &["hat/02.jpg hat/mirrored.jpg"]);
    assert!(
        !found.contains_key("suspicious-label") && done.stdout.contains("not checked: suspicious labels")
    );
    assert!(done.stdout.lines().any(|line| line.starts_with("error    truncated ")), "{}", done.stdout);

    run(&["--strict"]).fails(3, &["--strict: ", "errors", "warnings"]);
    let plain = run(&["--threads", "1"]).ok().stdout;
    assert_eq!(plain, run(&["--threads", "2"]).ok().stdout);
}

// effect: doctor --html, doctor --write-clean
#[test]
fn wrong_labels_are_found_and_removed_from_the_clean_table() {
    let project = project_with_every_problem();
    let done = project.run(&["doctor", "--json", "--html", "doctor.html", "--write-clean", "clean.csv"]).ok();
    let figures = done.json();
    let found = items_by_finding(&figures);
    assert!(found["suspicious-label"].contains(&"hat/mislabelled.jpg".to_owned()), "{found:#?}");
    let suspicious =
        figures["findings"].as_array().unwrap().iter().find(|f| f["kind"] == "suspicious-label").unwrap();
    let scores: Vec<f64> = suspicious["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["doubt"]["score"].as_f64().unwrap())
        .collect();
    assert!(scores.is_sorted(), "{scores:?}");

    let page = project.read("doctor.html");
    assert!(page.contains("data:image/jpeg;base64,") && page.contains("hat/mislabelled.jpg"));
    assert!(!page.contains("<script") && !page.contains("http"), "the page is self-contained");

    let clean = project.read("clean.csv");
    let rows: Vec<&str> = clean.lines().collect();
    assert_eq!(rows[0], "id,label");
    assert_eq!(
        rows[1..].iter().map(|row| row.split(',').next().unwrap()).collect::<Vec<_>>(),
        expected_clean_ids(&project, &figures)
    );
    // Of two duplicates in one class the first is in the table, unless it has another problem.
    for (first, second) in [("dress/00.jpg", "dress/copy.jpg"), ("hat/02.jpg", "hat/mirrored.jpg")] {
        let is_in_table = |path: &str| rows.iter().any(|row| row.starts_with(&format!("{path},")));
        let is_clean = |path: &str| !removed_images(&figures).contains(path);
        assert_eq!(
            (is_in_table(first), is_in_table(second)),
            (is_clean(first), !is_clean(first) && is_clean(second)),
            "{first} {second}"
        );
    }
    for gone in
        ["shoes/text.jpg", "shoes/cut.jpg", "hat/contradicts.jpg", "shoes/01.jpg", "hat/mislabelled.jpg"]
    {
        assert!(!rows.iter().any(|row| row.starts_with(&format!("{gone},"))), "{gone}");
    }
    assert!(
        rows.contains(&"shoes/turned.jpg,shoes") && rows.contains(&"shoes/long.jpg,shoes"),
        "notes do not remove photos"
    );
    let n_images = figures["photos"].as_u64().unwrap();
    let clean = serde_json::json!({
        "csv": "clean.csv",
        "config": "clean.toml",
        "review": "clean.review.csv",
        "relabeled": 1,
        "images": project.path("photos").canonicalize().unwrap().to_str().unwrap(),
        "kept": rows.len() - 1,
        "left_out": n_images as usize - (rows.len() - 1),
        "split": false,
    });
    assert_eq!(figures["clean"], clean);
    assert_eq!(figures["html"], "doctor.html");
    assert!(
        done.stdout.contains("\ndoctor.html: web page with thumbnails of the photos that have problems\n"),
        "{}",
        done.stdout
    );
    let lines = format!(
        "\nclean.csv: table of {} without problems ({} left out, 1 with another class)\n",
        format_args!("{} photos", clean["kept"]),
        clean["left_out"]
    );
    assert!(done.stdout.contains(&lines), "{lines} is not in {}", done.stdout);
    assert!(done.stdout.contains(" train --config clean.toml\n"), "{}", done.stdout);
    // `Shoes` has become one class with `shoes`.
    assert!(rows.contains(&"Shoes/00.jpg,shoes"));

    // Each photo that is not in the table, or has another class, has a row in the review, and no other has.
    let review = crate::support::parse_csv(&project.read("clean.review.csv"));
    let reviewed: BTreeSet<&str> = review.iter().map(|row| row["path"].as_str()).collect();
    let is_unchanged = |id: &str| rows.contains(&format!("{id},{}", id.split('/').next().unwrap()).as_str());
    let listed = find_image_files(&project.path("photos"), false).unwrap().images;
    let changed: BTreeSet<&str> =
        listed.iter().map(|(id, _)| id.as_str()).filter(|id| !is_unchanged(id)).collect();
    assert_eq!(reviewed, changed);
    let wrong = review.iter().find(|row| row["path"] == "hat/mislabelled.jpg").unwrap();
    let suggested = suspicious["items"].as_array().unwrap().iter();
    let mut suggested = suggested.filter(|item| item["photos"][0]["path"] == "hat/mislabelled.jpg");
    let suggested = &suggested.next().unwrap()["doubt"];
    assert_eq!(wrong["suggestion"], suggested["suggested"]);
    assert_eq!(wrong["probability"], format!("{:.2}", suggested["suggested_probability"].as_f64().unwrap()));

    // It can be trained on and overwritten; tables of the user are not overwritten.
    project.run(&["split", "--config", "clean.toml", "--out", "split.csv"]).ok();
    assert_eq!(project.read("split.csv").lines().count(), rows.len());
    project.run(&["doctor", "--quick", "--write-clean", "clean.csv"]).ok();
    project
        .run(&["doctor", "--quick", "--config", "clean.toml", "--write-clean", "clean.csv"])
        .fails(2, &["own table"]);
    project.write("mine.csv", "photo,class\n1,2\n");
    project
        .run(&["doctor", "--quick", "--write-clean", "mine.csv"])
        .fails(2, &["mine.csv exists and is not"]);
    assert_eq!(project.read("mine.csv"), "photo,class\n1,2\n");
}

#[test]
fn a_clean_table_drops_bad_rows_and_preserves_columns() {
    let project = Project::new(IMAGES_PER_CLASS);
    let mut table = "file;kind;taken\n".to_owned();
    for class in CLASSES {
        for number in 0..IMAGES_PER_CLASS {
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
    let found = items_by_finding(&done.json());
    assert_eq!(found["missing-photo"], ["hat/99.jpg"]);
    // A row without a file, and both rows of the photo with two classes.
    assert_eq!(found["bad-entry"].len(), 3, "{found:?}");
    let lines = table.lines().take(1 + 3 * IMAGES_PER_CLASS).filter(|line| !line.starts_with("dress/00;"));
    let expected = lines.collect::<Vec<_>>().join("\n") + "\n";
    assert_eq!(project.read("clean.csv"), expected);
    assert_eq!(done.json()["clean"]["left_out"], 4);
}

#[test]
fn unusable_data_is_examined_as_far_as_possible() {
    let project = Project::new(0);
    project.run(&["doctor"]).fails(3, &["there is no folder"]);
    fs::create_dir_all(project.path("photos")).unwrap();
    let found = items_by_finding(&project.run(&["doctor", "--json"]).ok().json());
    assert_eq!(found.keys().collect::<Vec<_>>(), ["too-few-classes"]);
    project.write("photos/dress/a.jpg", "no photo");
    project.write("photos/dress/b.jpg", "none either");
    let done = project.run(&["doctor", "--json", "--html", "page.html"]).ok();
    let found = items_by_finding(&done.json());
    assert_eq!(found["unreadable"], ["dress/a.jpg", "dress/b.jpg"]);
    assert!(
        found.contains_key("too-few-classes") && done.stdout.contains("no photo can be read"),
        "{}",
        done.stdout
    );
    project.run(&["doctor", "--strict"]).fails(3, &["--strict"]);
}

// effect: doctor --show-augment
#[test]
fn augmented_views_are_shown_on_a_sheet() {
    let project = Project::new(2);
    project
        .run(&["doctor", "--show-augment", "views.png"])
        .fails(2, &["there is no augmentation", "add an augmentation to [augment]"]);
    let flip = ["--set", "augment.horizontal_flip=0.5"];
    let show = |name: &str| project.run(&[&["doctor", "--show-augment", name], &flip[..]].concat());
    show("views.jpg").fails(2, &["must end in .png"]);
    let done = project.run(&[&["doctor", "--show-augment", "views.png", "--json"], &flip[..]].concat()).ok();
    let figures = serde_json::json!({ "out": "views.png", "photos": 6, "views": 7 });
    assert_eq!(done.json(), figures);
    let line = "views.png: 6 photos, each unchanged and in 7 randomly changed (augmented) versions";
    assert_eq!(done.stdout.lines().next(), Some(line));
    let sheet = image::open(project.path("views.png")).unwrap();
    // Six rows of eight views of 64 pixels with gaps of 4.
    assert_eq!((sheet.width(), sheet.height()), (8 * 68 - 4, 6 * 68 - 4));
}

/// A project with `each` noise images in each of two classes, `photos/a/00.png` and so on, and a config
/// without backbone.
fn noise_project(each: u32) -> Project {
    let project = Project::empty();
    for class in ["a", "b"] {
        for number in 0..each {
            write_noise_image(
                &project,
                &format!("photos/{class}/{number:02}.png"),
                number * 2 + u32::from(class == "b"),
            );
        }
    }
    project.write("headstock.toml", "version = 1\n[data]\nfolder = \"photos\"\n[split]\ntest_size = 2\n");
    project
}

/// Writes an image of 64 x 64 pixels that depends on the seed.
fn write_noise_image(project: &Project, name: &str, seed: u32) {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    // Blocks of 8 pixels: perceptual hashes of pixel noise are too similar.
    let blocks = image::RgbImage::from_fn(8, 8, |_, _| image::Rgb([next(), next(), next()]));
    let picture = image::imageops::resize(&blocks, 64, 64, image::imageops::FilterType::Triangle);
    fs::create_dir_all(project.path(name).parent().unwrap()).unwrap();
    picture.save(project.path(name)).unwrap();
}

// effect: doctor --strict, doctor --quick
#[test]
fn strict_ends_with_3_for_warnings_alone_and_for_errors_alone_and_with_0_for_notes() {
    let project = noise_project(12);
    let strict = || project.run(&["doctor", "--quick", "--strict"]);
    let clean = strict().ok();
    assert!(clean.stdout.contains("\nno problems found\n"), "{}", clean.stdout);
    assert!(
        clean.stdout.starts_with(
            "24 photos in 2 classes: 22 for training, 2 for testing; 12 to 12 photos per class\n"
        )
    );

    // A note: a grayscale image.
    image::open(project.path("photos/a/03.png"))
        .unwrap()
        .into_luma8()
        .save(project.path("photos/a/03.png"))
        .unwrap();
    let noted = strict().ok();
    assert!(noted.stdout.contains("\nnote     odd-mode      1  a/03.png "), "{}", noted.stdout);
    assert_eq!(noted.stderr, "");

    // And a warning: a class with fewer than ten training photos.
    write_noise_image(&project, "photos/c/00.png", 100);
    write_noise_image(&project, "photos/c/01.png", 101);
    project.write("headstock.toml", &project.read("headstock.toml").replace("= 2", "= 3"));
    strict().fails(3, &["error: --strict: 0 errors and 1 warning were found: "]);
    let warned = project.run(&["doctor", "--quick"]).ok();
    assert!(warned.stdout.contains("\nwarning  small-class  "), "{}", warned.stdout);
    assert!(warned.stdout.contains("; 2 to 12 photos per class\n"), "{}", warned.stdout);

    // Another warning, and an error.
    fs::write(project.path("photos/a/anim.gif"), reference_image("animated.gif")).unwrap();
    project.write("photos/b/text.png", "no photo");
    strict().fails(3, &["error: --strict: 1 error and 2 warnings were found: "]);

    // Only an error.
    let project = noise_project(12);
    project.write("photos/b/text.png", "no photo");
    project
        .run(&["doctor", "--quick", "--strict"])
        .fails(3, &["error: --strict: 1 error and 0 warnings were found: "]);
}

// effect: --json, doctor --quick
#[test]
fn the_json_of_doctor_has_these_fields() {
    let project = noise_project(12);
    fs::copy(project.path("photos/a/00.png"), project.path("photos/b/copy.png")).unwrap();
    project.write("photos/b/text.png", "no photo");
    let done = project.run(&["doctor", "--quick", "--json"]).ok();
    let figures = done.json();
    let split = project.run(&[
        "split",
        "--out",
        "s.csv",
        "--set",
        "data.on_error=skip",
        "--set",
        "backbone.weights=x",
    ]);
    split.ok();
    let parts: BTreeMap<String, String> = crate::support::parse_csv(&project.read("s.csv"))
        .into_iter()
        .map(|row| (row["path"].clone(), row["split"].clone()))
        .collect();
    let item_image = |path: &str| serde_json::json!({ "path": path, "label": &path[..1], "part": parts.get(path).map_or("train", String::as_str) });
    let n_samples = |class: &str, part: &str| {
        parts.iter().filter(|(path, split)| path.starts_with(class) && *split == part).count()
    };
    let expected = serde_json::json!({
        "doctor": 1,
        "photos": 26,
        "classes": [
            { "class": "a", "train": n_samples("a", "train"), "test": n_samples("a", "test") },
            { "class": "b", "train": n_samples("b", "train"), "test": n_samples("b", "test") },
        ],
        "findings": [
            {
                "kind": "unreadable", "severity": "error", "count": 1,
                "advice": "replace or remove them, or skip them with `on_error = \"skip\"`",
                "items": [{ "photos": [item_image("b/text.png")], "detail": figures["findings"][0]["items"][0]["detail"] }],
            },
            {
                "kind": "exact-duplicate", "scope": "across-classes", "severity": "error", "count": 1,
                "advice": "the same picture has two labels: remove the photo with the wrong label",
                "items": [{ "photos": [item_image("a/00.png"), item_image("b/copy.png")], "detail": "" }],
            },
        ],
        "labels": [],
        "passed_over": {},
        "left_out": figures["left_out"],
        "decided": 0,
    });
    assert_eq!(figures, expected);
    let left_out = figures["left_out"].as_array().unwrap();
    assert!(
        left_out.len() == 1 && left_out[0].as_str().unwrap().starts_with("suspicious labels"),
        "{figures}"
    );
    let detail = figures["findings"][0]["items"][0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("not a photo in a supported format"), "{detail}");
    assert!(done.stdout.contains(&format!("  b/text.png ({detail})\n")), "{}", done.stdout);
    assert!(done.stdout.contains("  a/00.png = b/copy.png\n"), "{}", done.stdout);
    // The text has at most three examples.
    for number in 1..4 {
        project.write(&format!("photos/b/text{number}.png"), "no photo");
    }
    let many = project.run(&["doctor", "--quick"]).ok().stdout;
    let line = many.lines().find(|line| line.starts_with("error    unreadable")).unwrap();
    assert_eq!(line.matches("b/text").count(), 3, "{line}");
    assert!(line.contains("      4  b/text.png (") && line.ends_with("; ..."), "{line}");
    fs::remove_file(project.path("photos/b/text3.png")).unwrap();
    let three = project.run(&["doctor", "--quick"]).ok().stdout;
    let line = three.lines().find(|line| line.starts_with("error    unreadable")).unwrap();
    assert!(line.matches("b/text").count() == 3 && !line.ends_with("..."), "{line}");
}

// effect: doctor --html, doctor --write-clean
#[test]
fn html_page_and_clean_table_are_written_only_if_requested() {
    let project = noise_project(12);
    fs::copy(project.path("photos/a/00.png"), project.path("photos/a/copy.png")).unwrap();
    fs::copy(project.path("photos/a/00.png"), project.path("photos/a/copy2.png")).unwrap();
    let plain = project.run(&["doctor", "--quick", "--json"]).ok();
    assert!(plain.json().get("html").is_none() && plain.json().get("clean").is_none());
    assert!(plain.stdout.contains("  a/00.png = a/copy.png and 1 more\n"), "{}", plain.stdout);
    let written = ["doctor", "--quick", "--json", "--html", "p.html", "--write-clean", "c.csv"];
    let figures = project.run(&written).ok().json();
    assert_eq!((&figures["html"], &figures["clean"]["csv"]), (&"p.html".into(), &"c.csv".into()));
    let page = project.read("p.html");
    assert!(page.contains("a/copy2.png") && page.contains("data:image/jpeg;base64,"), "{}", page.len());
    assert_eq!((&figures["clean"]["kept"], &figures["clean"]["left_out"]), (&24.into(), &2.into()));
    assert_eq!(expected_clean_ids(&project, &figures).len(), 24);
    let rows: Vec<String> =
        expected_clean_ids(&project, &figures).iter().map(|id| format!("{id},{}\n", &id[..1])).collect();
    assert_eq!(project.read("c.csv"), format!("id,label\n{}", rows.concat()));
}

#[test]
fn a_clean_table_of_two_folders_has_a_split_column() {
    let project = noise_project(12);
    for (number, class) in ["a", "b"].into_iter().enumerate() {
        write_noise_image(&project, &format!("later/{class}/x.png"), 200 + number as u32);
    }
    project.write("headstock.toml", "version = 1\n[data]\nfolder = \"photos\"\ntest_folder = \"later\"\n");
    let done = project.run(&["doctor", "--quick", "--write-clean", "c.csv", "--json"]).ok();
    assert_eq!(done.json()["clean"]["split"], true);
    let config = |name: &str| project.read(name).parse::<toml::Table>().unwrap();
    assert_eq!(config("c.toml")["split"]["method"].as_str(), Some("predefined"));
    assert_eq!(config("c.toml")["split"]["column"].as_str(), Some("split"));
    let rows = crate::support::parse_csv(&project.read("c.csv"));
    let tested = rows.iter().filter(|row| row["split"] == "test").map(|row| row["id"].as_str());
    assert_eq!(tested.collect::<Vec<_>>(), ["later/a/x.png", "later/b/x.png"]);
    assert_eq!(rows.iter().filter(|row| row["split"] == "train").count(), 24);
    // Without a test folder there is no split column.
    project.write("headstock.toml", "version = 1\n[data]\nfolder = \"photos\"\n");
    project.run(&["doctor", "--quick", "--write-clean", "d.csv"]).ok();
    assert!(project.read("d.csv").starts_with("id,label\n"));
    assert_eq!(config("d.toml")["split"]["method"].as_str(), Some("stratified-shuffle"));
}
