//! Each finding, and cases that are just not one.

use std::fs;
use std::path::Path;

use headstock_loader::duplicates::{DEFAULT_SIMILARITY, find_near_duplicates};
use headstock_loader::encode::png;
use headstock_split::KeyedRng;
use image::{DynamicImage, RgbImage};
use tempfile::TempDir;

use super::*;
use crate::config::Config;
use crate::tests::recording_head::{registry_with_recording, write_backbone};

/// An image of 8 x 8 squares in random colors, `side` pixels wide.
fn random_squares(seed: u64, side: u32) -> RgbImage {
    let color = |x: u32, y: u32, channel: u64| {
        (256.0 * KeyedRng::new(&[seed, u64::from(x), u64::from(y), channel]).uniform()) as u8
    };
    RgbImage::from_fn(side, side, |x, y| image::Rgb([0, 1, 2].map(|c| color(x * 8 / side, y * 8 / side, c))))
}

/// Writes a folder with `count` different images of each class, and returns it with its settings.
fn project(classes: &[(&str, usize)], options: &str) -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let mut seed = 0;
    for (class, count) in classes {
        for number in 0..*count {
            seed += 1;
            write_image(folder.path(), &format!("{class}/{number:02}.png"), &png(&random_squares(seed, 64)));
        }
    }
    let config = format!("version = 1\n[data]\nfolder = \"photos\"\n[split]\ntest_size = 0.25\n{options}");
    let config = Config::parse(&config, "test", folder.path()).unwrap();
    let settings = config.resolve_images_only(&registry_with_recording().into()).unwrap();
    (folder, settings)
}

fn write_image(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join("photos").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn finding_paths(diagnosis: &Diagnosis, name: &str) -> Vec<Vec<String>> {
    let found = diagnosis.findings.iter().filter(|finding| finding.name() == name);
    let paths = |item: &FindingItem| item.images.iter().map(|image| image.path.clone()).collect();
    found.flat_map(|finding| finding.items.iter().map(paths)).collect()
}

fn finding_details(diagnosis: &Diagnosis, kind: FindingKind) -> Vec<(Severity, String)> {
    let found = diagnosis.findings.iter().filter(|finding| finding.kind == kind);
    found
        .flat_map(|finding| finding.items.iter().map(|item| (finding.severity, item.detail.clone())))
        .collect()
}

fn examine_quick(settings: &Settings) -> Diagnosis {
    examine(settings, DoctorChecks::Quick, &()).unwrap()
}

// effect: doctor --quick
#[test]
fn good_data_has_nothing_wrong_with_it() {
    let (_folder, settings) = project(&[("cat", 14), ("dog", 14)], "");
    let diagnosis = examine_quick(&settings);
    assert_eq!(diagnosis.findings, []);
    assert_eq!(diagnosis.images, 28);
    let counts: Vec<_> =
        diagnosis.classes.iter().map(|count| (count.class.as_str(), count.train + count.test)).collect();
    assert_eq!(counts, [("cat", 14), ("dog", 14)]);
    assert_eq!(diagnosis.classes.iter().map(|count| count.test).sum::<usize>(), 7);
    assert_eq!(
        diagnosis.left_out,
        [
            "suspicious labels, outliers, and duplicates found by features: only the quick checks were requested"
        ]
    );
    assert!(diagnosis.labels.is_empty() && diagnosis.probabilities.is_none());
}

#[test]
fn a_class_is_small_with_nine_training_images_and_not_with_ten() {
    // A quarter is the test set: 3 of 13 and 3 of 12.
    let (_folder, settings) = project(&[("cat", 13), ("dog", 12), ("owl", 40)], "");
    let diagnosis = examine_quick(&settings);
    let train: Vec<usize> = diagnosis.classes.iter().map(|count| count.train).collect();
    assert_eq!(train, [10, 9, 29]);
    let small = (Severity::Warning, "dog (9 training photos, 3 test photos)".to_owned());
    assert_eq!(finding_details(&diagnosis, FindingKind::SmallClass), [small]);
    assert_eq!(diagnosis.count(Severity::Warning), 1);
    assert_eq!((diagnosis.count(Severity::Error), diagnosis.count(Severity::Note)), (0, 0));
}

#[test]
fn names_that_differ_by_a_letter_are_a_warning_only_if_one_class_is_rare() {
    for (rare, severity) in [(9, Severity::Warning), (10, Severity::Note)] {
        let (_folder, settings) = project(&[("shirt", 20), ("skirt", rare)], "");
        let found = finding_details(&examine_quick(&settings), FindingKind::ClassNames);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, severity);
        assert!(
            found[0].1.starts_with(&format!("\"shirt\" (20) and \"skirt\" ({rare}) differ by ")),
            "{found:?}"
        );
    }
    // Names that differ only in case and spaces are a warning, however frequent they are.
    let (_folder, settings) = project(&[("t-shirt", 12), ("T Shirt", 12)], "");
    let found = finding_details(&examine_quick(&settings), FindingKind::ClassNames);
    assert!(found.len() == 1 && found[0].0 == Severity::Warning, "{found:?}");
    let (_folder, settings) = project(&[("cat1", 12), ("cat2", 12), ("hat", 12), ("shoes", 12)], "");
    let found = finding_details(&examine_quick(&settings), FindingKind::ClassNames);
    assert!(
        found
            .iter()
            .all(|(_, detail)| !detail.contains("shoes") && !detail.contains("\"cat1\" (12) and \"cat2\"")),
        "{found:?}"
    );
}

// effect: data.max_pixels
#[test]
fn images_of_more_pixels_than_the_limit_are_unreadable_and_those_of_as_many_are_not() {
    let (folder, mut settings) = project(&[("cat", 14), ("dog", 14)], "");
    write_image(folder.path(), "cat/large.png", &png(&random_squares(100, 65)));
    assert_eq!(examine_quick(&settings).findings, []);
    settings.decode.max_pixels = 64 * 64;
    let diagnosis = examine_quick(&settings);
    assert_eq!(finding_paths(&diagnosis, "unreadable"), [["cat/large.png"]]);
    assert_eq!(diagnosis.findings.len(), 1, "{:?}", diagnosis.findings);
}

// effect: data.truncated
#[test]
fn truncated_images_are_errors_or_incomplete() {
    let (folder, mut settings) = project(&[("cat", 14), ("dog", 14)], "");
    let whole = png(&random_squares(100, 64));
    write_image(folder.path(), "cat/cut.png", &whole[..whole.len() - 12]);
    assert_eq!(finding_paths(&examine_quick(&settings), "truncated"), [["cat/cut.png"]]);
    settings.decode.truncated = headstock_loader::TruncatedFiles::Accept;
    let diagnosis = examine_quick(&settings);
    assert_eq!(finding_paths(&diagnosis, "incomplete"), [["cat/cut.png"]]);
    assert_eq!(diagnosis.findings.len(), 1, "{:?}", diagnosis.findings);
    // It is compared with other photos by what is there.
    write_image(folder.path(), "dog/whole.png", &whole);
    assert_eq!(
        finding_paths(&examine_quick(&settings), "near-duplicate across classes"),
        [["cat/cut.png", "dog/whole.png"]]
    );
}

#[test]
fn images_with_other_colors_than_srgb_are_noted() {
    let (folder, settings) = project(&[("cat", 14), ("dog", 14)], "");
    for name in ["p3.jpg", "gray.png", "srgb.jpg", "no_profile.jpg"] {
        let file = headstock_testing::reference_path("color/files").join(name);
        write_image(folder.path(), &format!("cat/{name}"), &fs::read(file).unwrap());
    }
    let diagnosis = examine_quick(&settings);
    assert_eq!(finding_paths(&diagnosis, "color-profile"), [["cat/gray.png"], ["cat/p3.jpg"]]);
    assert_eq!(
        finding_details(&diagnosis, FindingKind::ColorProfile),
        [(Severity::Note, "Gray Gamma 1.8".to_owned()), (Severity::Note, "Display P3".to_owned())]
    );
}

// effect: doctor --write-clean
#[test]
fn the_clean_table_keeps_one_of_each_duplicate_and_no_unreadable_file() {
    let (folder, settings) = project(&[("cat", 16), ("dog", 16)], "");
    let read = |name: &str| fs::read(folder.path().join("photos").join(name)).unwrap();
    write_image(folder.path(), "cat/zz.png", &read("cat/03.png"));
    write_image(folder.path(), "dog/cat.png", &read("cat/05.png"));
    write_image(folder.path(), "dog/cut.png", &read("dog/04.png")[..400]);
    write_image(folder.path(), "dog/text.png", b"no photo");
    let diagnosis = examine_quick(&settings);
    let within = [
        finding_paths(&diagnosis, "exact-duplicate within a class"),
        finding_paths(&diagnosis, "exact-duplicate across training and test set"),
    ];
    assert_eq!(within.concat(), [["cat/03.png", "cat/zz.png"]]);
    assert_eq!(finding_paths(&diagnosis, "exact-duplicate across classes"), [["cat/05.png", "dog/cat.png"]]);
    assert_eq!(finding_paths(&diagnosis, "unreadable"), [["dog/text.png"]]);
    assert_eq!(finding_paths(&diagnosis, "truncated"), [["dog/cut.png"]]);
    assert_eq!(diagnosis.findings.len(), 4, "{:?}", diagnosis.findings);
    assert_eq!((diagnosis.count(Severity::Error), diagnosis.count(Severity::Warning)), (3, 1));
    // The most severe findings come first.
    assert!(diagnosis.findings.is_sorted_by(|a, b| a.severity >= b.severity));

    let path = folder.path().join("clean.csv");
    let cleaned = CleanTable::new(&path, None, &settings).unwrap().write(&diagnosis).unwrap();
    let expected: Vec<String> = (0..16)
        .filter(|&number| number != 5)
        .map(|number| format!("cat/{number:02}.png,cat"))
        .chain((0..16).map(|number| format!("dog/{number:02}.png,dog")))
        .collect();
    let table = fs::read_to_string(&path).unwrap();
    assert_eq!(
        table.lines().collect::<Vec<_>>(),
        [vec!["id,label"], expected.iter().map(String::as_str).collect()].concat()
    );
    assert_eq!((cleaned.n_rows, cleaned.left_out, cleaned.split), (31, 5, false));
}

// effect: split.group_duplicates x split.method
#[test]
fn copies_are_across_subsets_unless_duplicates_are_grouped() {
    let copies = |more: &str| {
        let (folder, settings) = project(&[("cat", 12), ("dog", 12)], more);
        let mut number = 0;
        for class in ["cat", "dog"] {
            for image in 0..12 {
                let bytes = fs::read(folder.path().join(format!("photos/{class}/{image:02}.png"))).unwrap();
                write_image(folder.path(), &format!("{class}/copy{image:02}.png"), &bytes);
                number += 1;
            }
        }
        let diagnosis = examine_quick(&settings);
        let n_items = |name: &str| finding_paths(&diagnosis, name).len();
        let n_across = n_items("exact-duplicate across training and test set");
        assert_eq!(n_across + n_items("exact-duplicate within a class"), number);
        n_across
    };
    assert!(copies("") > 3);
    assert_eq!(copies("group_duplicates = true"), 0);
}

#[test]
fn the_most_frequent_color_mode_is_not_odd() {
    let to_gray = |folder: &Path, class: &str, count: usize| {
        for number in 0..count {
            let path = folder.join(format!("photos/{class}/{number:02}.png"));
            let image = image::open(&path).unwrap().to_luma8();
            DynamicImage::ImageLuma8(image).save(path).unwrap();
        }
    };
    // Half of 24 images are gray: gray is odd. More than half: gray is usual, and RGB is never odd.
    for (second, odd) in [(0, 12), (1, 0)] {
        let (folder, settings) = project(&[("cat", 12), ("dog", 12)], "");
        to_gray(folder.path(), "cat", 12);
        to_gray(folder.path(), "dog", second);
        let found = finding_details(&examine_quick(&settings), FindingKind::OddMode);
        assert_eq!(found.len(), odd, "{found:?}");
        assert!(found.iter().all(|(severity, _)| *severity == Severity::Note));
    }
}

#[test]
fn sizes_are_extreme_beyond_their_limits() {
    let (folder, settings) = project(&[("cat", 14), ("dog", 14)], "");
    // The median is 64 x 64, and 25 times as many pixels are 320 x 320.
    write_image(folder.path(), "cat/large.png", &png(&random_squares(90, 320)));
    write_image(folder.path(), "cat/larger.png", &png(&random_squares(91, 328)));
    write_image(folder.path(), "cat/small.png", &png(&random_squares(92, 32)));
    write_image(folder.path(), "cat/tiny.png", &png(&random_squares(93, 31)));
    let diagnosis = examine_quick(&settings);
    assert_eq!(finding_paths(&diagnosis, "extreme-size"), [["cat/larger.png"], ["cat/tiny.png"]]);
    assert_eq!(
        finding_details(&diagnosis, FindingKind::ExtremeSize)[0],
        (Severity::Note, "328 x 328".to_owned())
    );
}

fn inspection_of(image: &RgbImage) -> ImageInspection {
    let hash = <sha2::Sha256 as sha2::Digest>::digest(image.as_raw()).into();
    ImageInspection {
        hash: Some(hash),
        signature: Some(headstock_loader::duplicates::Signature::new(image)),
        ..ImageInspection::default()
    }
}

/// Images that are similar, but not enough for their pixels alone.
#[test]
fn features_confirm_copies_that_pixels_alone_do_not() {
    let original = random_squares(1, 64);
    // More noise makes images less similar.
    let noisy = |seed: u64, amplitude: f64| {
        RgbImage::from_fn(64, 64, |x, y| {
            let noise = amplitude * (KeyedRng::new(&[seed, u64::from(x), u64::from(y)]).uniform() - 0.5);
            image::Rgb(original.get_pixel(x, y).0.map(|value| (f64::from(value) + noise) as u8))
        })
    };
    let similarity = |image: &RgbImage| {
        let pair = [&original, image].map(|image| inspection_of(image).signature);
        find_near_duplicates(&pair, 0.0).first().map_or(0.0, |pair| pair.similarity)
    };
    let (near, between, apart) = (noisy(1, 60.0), noisy(2, 150.0), noisy(3, 260.0));
    assert!(similarity(&near) > DEFAULT_SIMILARITY);
    assert!((0.86..DEFAULT_SIMILARITY - 0.01).contains(&similarity(&between)), "{}", similarity(&between));
    assert!((0.5..0.84).contains(&similarity(&apart)), "{}", similarity(&apart));
    let inspections = [&original, &between, &apart, &near, &original].map(inspection_of);
    let mut duplicates = DuplicateGroups::find(&inspections);
    let mut links = duplicates.links();
    links.sort_unstable();
    assert_eq!(links, [(0, 3), (0, 4)], "the same bytes, and nearly the same pixels");
    // Exact duplicates are represented by the first one, and known pairs are not added again.
    duplicates.add_confirmed(&inspections, &[(1, 4), (0, 1), (2, 4), (0, 3), (0, 4)]);
    let mut links = duplicates.links();
    links.sort_unstable();
    assert_eq!(links, [(0, 1), (0, 3), (0, 4)]);
}

#[test]
fn a_suggestion_names_the_most_probable_other_class_and_both_probabilities() {
    let (_folder, settings) = project(&[("cat", 4), ("dog", 4), ("eel", 1), ("fox", 4)], "");
    let listing = DatasetListing::read(&settings, &()).unwrap();
    // Class eel has one image, sample 8, which is not scored. Sample 5, a dog, is predicted as a fox.
    let samples: Vec<usize> = (0..13).filter(|&sample| sample != 8).collect();
    let labels: Vec<u32> =
        samples.iter().map(|&sample| [0, 1, 9, 2][listing.samples.rows[sample].label as usize]).collect();
    let row = |(&sample, &label): (&usize, &u32)| {
        let mut row = [0.1, 0.1, 0.1];
        row[label as usize] = 0.8;
        if sample == 5 { [0.1, 0.05, 0.85] } else { row }
    };
    let probabilities = samples.iter().zip(&labels).flat_map(row).collect();
    let found = OutOfFoldProbabilities { samples, classes: vec![0, 1, 3], labels, probabilities };
    let finding = suspicious_labels(&listing.samples, &found).unwrap();
    assert_eq!((finding.count, finding.severity), (1, Severity::Warning));
    let item = &finding.items[0];
    assert_eq!((item.images[0].path.as_str(), item.images[0].label.as_str()), ("dog/01.png", "dog"));
    assert_eq!(item.detail, "probability 0.85 for fox, 0.05 for its label");
    let suggestion = item.suggestion.as_ref().unwrap();
    assert_eq!(suggestion.suggested, "fox");
    for (found, expected) in
        [(suggestion.probability, 0.05), (suggestion.suggested_probability, 0.85), (suggestion.score, 0.05)]
    {
        assert!((found - expected).abs() < 1e-7);
    }
    let ranked = rank_labels(&listing.samples, &found);
    assert_eq!(ranked.len(), 12);
    assert_eq!(ranked[0], RankedLabel { path: "dog/01.png".into(), score: f64::from(0.05f32) });
    assert_eq!(ranked[1].path, "cat/00.png", "ties are in the order of the data");
}

/// Cats are red and dogs are blue, except for two duplicates labeled as dogs, which are red.
#[test]
fn an_image_with_a_wrong_label_and_its_copy_are_both_suspicious() {
    let tinted = |seed: u64, red: bool| {
        let mut image = random_squares(seed, 64);
        for pixel in image.pixels_mut() {
            let strong = 120 + pixel[1] / 4;
            let weak = pixel[1] / 4;
            *pixel = image::Rgb(if red { [strong, weak, weak] } else { [weak, weak, strong] });
        }
        png(&image)
    };
    let more = "[backbone]\nweights = \"backbone\"\nlayer = \"layer1\"\n[head]\nkind = \"knn\"\nk = 1";
    let (folder, settings) = project(&[], more);
    write_backbone(folder.path());
    for number in 0..12 {
        write_image(folder.path(), &format!("cat/{number:02}.png"), &tinted(number, true));
        write_image(folder.path(), &format!("dog/{number:02}.png"), &tinted(100 + number, false));
    }
    write_image(folder.path(), "dog/one.png", &tinted(50, true));
    write_image(folder.path(), "dog/two.png", &tinted(50, true));
    let diagnosis = examine(&settings, DoctorChecks::All, &()).unwrap();
    let mut suspicious = finding_paths(&diagnosis, "suspicious-label").concat();
    suspicious.sort_unstable();
    // A cat may be suspicious, too, if its nearest neighbor is the image with the wrong label.
    assert!(
        suspicious.len() <= 3 && suspicious.ends_with(&["dog/one.png".into(), "dog/two.png".into()]),
        "{suspicious:?}"
    );
    let finding =
        diagnosis.findings.iter().find(|finding| finding.kind == FindingKind::SuspiciousLabel).unwrap();
    let dogs = finding.items.iter().filter(|item| item.images[0].label == "dog");
    assert!(dogs.map(|item| item.suggestion.as_ref().unwrap().suggested.as_str()).eq(["cat", "cat"]));
    assert_eq!(diagnosis.labels.len(), 26);
    assert!(diagnosis.left_out.is_empty(), "{:?}", diagnosis.left_out);

    // A slow head is replaced.
    let table = toml::Table::from_iter([("batch_size".to_owned(), toml::Value::Integer(8))]);
    let settings = settings.with_head("mlp", &table, &registry_with_recording()).unwrap();
    let diagnosis = examine(&settings, DoctorChecks::All, &()).unwrap();
    let mut suspicious = finding_paths(&diagnosis, "suspicious-label").concat();
    suspicious.sort_unstable();
    assert_eq!(suspicious, ["dog/one.png", "dog/two.png"]);
    assert_eq!(
        diagnosis.left_out,
        ["the head `mlp` for checking labels: it is slow to fit; `linear` is used instead"]
    );
}
