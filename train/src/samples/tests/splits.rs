//! The samples of the test set.

use super::*;
use crate::config::{ConfigError, SplitOptions};

/// Images with classes, groups and pictures, and scikit-learn's test sets of them.
#[derive(Deserialize)]
struct SplitReference {
    class: Vec<u32>,
    group: Vec<u32>,
    picture: Vec<u64>,
    cases: Vec<SplitCase>,
}

#[derive(Deserialize)]
struct SplitCase {
    set: Vec<String>,
    grouped: bool,
    test: Vec<usize>,
}

impl SplitReference {
    fn load() -> Self {
        let mut reference: Self =
            serde_json::from_str(&fs::read_to_string(reference_path("split/settings.json")).unwrap())
                .unwrap();
        reference.cases.iter_mut().for_each(|case| case.test.sort_unstable());
        assert!(reference.cases.len() > 30);
        reference
    }

    /// Writes the images into a folder, and a table of them.
    fn write_images(&self) -> TestFolder {
        let folder = TestFolder::new();
        let mut table = "id,label,dog\n".to_owned();
        for (i, ((class, group), &picture)) in
            self.class.iter().zip(&self.group).zip(&self.picture).enumerate()
        {
            folder.write_image(&format!("photos/{i:02}.png"), picture);
            table += &format!("{i:02}.png,class {class},dog {group:02}\n");
        }
        folder.write("labels.csv", table);
        folder
    }
}

const CSV: &str = "[data]\ncsv = \"labels.csv\"\nimages = \"photos\"\n[backbone]\nweights = \"backbone\"\n";

fn joins_duplicates(case: &SplitCase) -> bool {
    case.set.iter().any(|set| set.starts_with("split.group_duplicates"))
}

// effect: split.method, split.test_size, split.seed, split.folds, split.fold, split.group_duplicates
// effect: data.group
// effect: split.fold x split.folds, data.group x split.group_duplicates
#[test]
fn images_are_split_as_scikit_learn_splits_them() {
    let reference = SplitReference::load();
    let folder = reference.write_images();
    for case in &reference.cases {
        let mut set = case.set.clone();
        set.extend(case.grouped.then(|| "data.group=dog".to_owned()));
        let (samples, _) = folder.samples(CSV, &set);
        assert_eq!(samples.rows_of(Subset::Test), case.test, "{set:?}");
        // Groups and duplicates are on one side, if the settings say so.
        if joins_duplicates(case) || set.iter().any(|set| set == "split.method=group") {
            assert_eq!(samples.count_split_groups().0, 0, "{set:?}");
        }
        let groups = samples.groups(&(0..40).collect::<Vec<_>>());
        assert_eq!(groups.is_some(), case.grouped || joins_duplicates(case), "{set:?}");
        if joins_duplicates(case) {
            let groups = groups.unwrap();
            for (a, b) in (0..40).flat_map(|a| (0..40).map(move |b| (a, b))) {
                if reference.picture[a] == reference.picture[b]
                    || case.grouped && reference.group[a] == reference.group[b]
                {
                    assert_eq!(groups[a], groups[b], "{set:?}");
                } else if !case.grouped {
                    assert_ne!(groups[a], groups[b], "{set:?}");
                }
            }
        }
    }
}

#[test]
fn doctor_splits_samples_as_training_does() {
    let reference = SplitReference::load();
    let folder = reference.write_images();
    let duplicates: Vec<(usize, usize)> = (0..40)
        .flat_map(|b| (0..b).map(move |a| (a, b)))
        .filter(|&(a, b)| reference.picture[a] == reference.picture[b])
        .collect();
    for case in &reference.cases {
        let mut set = case.set.clone();
        set.extend(case.grouped.then(|| "data.group=dog".to_owned()));
        let settings = folder.settings(CSV, &set);
        let mut listing = DatasetListing::read(&settings, &()).unwrap();
        listing.draw_split(&settings.split, &duplicates).unwrap();
        let tested: Vec<usize> =
            (0..40).filter(|&i| listing.samples.rows[i].subset == Subset::Test).collect();
        assert_eq!(tested, case.test, "{set:?}");
        assert!(listing.errors.is_empty() && listing.unlabeled.is_empty() && !listing.has_given_splits);
    }
}

// effect: data.features
#[test]
fn features_are_split_as_scikit_learn_splits_them() {
    let reference = SplitReference::load();
    let folder = TestFolder::new();
    let rows: Vec<Vec<f32>> = (0..40).map(|i| vec![i as f32, 0.5]).collect();
    let labels: Vec<u32> = reference.class.iter().map(|class| 10 + class).collect();
    folder.write_features(&rows, &labels, Some(&reference.group));
    const FEATURES: &str = "[data]\nfeatures = \"x.npy\"\n";
    let uses_hash = |case: &SplitCase| case.set.iter().any(|set| set == "split.method=hash");
    let cases: Vec<_> =
        reference.cases.iter().filter(|case| !joins_duplicates(case) && !uses_hash(case)).collect();
    assert!(cases.len() > 15);
    for case in cases {
        let (samples, inputs) = folder.samples(FEATURES, &case.set);
        assert_eq!(samples.rows_of(Subset::Test), case.test, "{:?}", case.set);
        assert_eq!(samples.classes.names(), ["10", "11", "12"]);
        let SampleInputs::Features(table) = inputs else { panic!("these are features") };
        assert_eq!((table.values[2 * 7], table.width), (7.0, 2));
    }
    // The rows of a group are hashed by the group's first row in the order of text.
    let (samples, _) = folder.samples(FEATURES, &["split.method=hash", "split.test_size=0.3"]);
    let keys: Vec<String> = (0..40)
        .map(|i| {
            let rows = (0..40).filter(|&j| reference.group[i] == reference.group[j]);
            rows.map(|j: usize| j.to_string()).min().unwrap()
        })
        .collect();
    let expected = headstock_split::hash_split(&keys, headstock_split::TestSize::Fraction(0.3), 0).unwrap();
    assert_eq!(samples.rows_of(Subset::Test), expected.test);
    assert_eq!(samples.count_split_groups().0, 0);
}

// effect: split.folds, split.fold x split.folds
#[test]
fn every_fold_is_tested_on_once() {
    let reference = SplitReference::load();
    let folder = reference.write_images();
    for (overrides, folds) in [
        (&["split.method=stratified-k-fold"][..], 5),
        (&["split.method=stratified-k-fold", "split.folds=4", "split.group_duplicates=true"], 4),
        (&["split.method=group", "data.group=dog", "split.folds=3"], 3),
    ] {
        let mut n_tested = vec![0; 40];
        for fold in 0..folds {
            let fold = format!("split.fold={fold}");
            let (samples, _) = folder.samples(CSV, &[overrides, &[fold.as_str()]].concat());
            samples.rows_of(Subset::Test).into_iter().for_each(|row| n_tested[row] += 1);
        }
        assert_eq!(n_tested, [1; 40], "{overrides:?}");
        let beyond = format!("split.fold={folds}");
        let beyond = folder.resolve(CSV, &[overrides, &[beyond.as_str()]].concat());
        let error = beyond.err().expect("the fold does not exist").to_string();
        assert!(error.contains(&format!("`split.fold` is {folds}: the {folds} folds")), "{error}");
    }
}

/// A table of images with two split columns, `split` and `use`.
fn table_with_splits(split_column: &str, use_column: &str) -> TestFolder {
    let folder = TestFolder::new();
    let mut table = "id,label,split,use\n".to_owned();
    for (i, (split, used)) in split_column.split(' ').zip(use_column.split(' ')).enumerate() {
        folder.write(&format!("photos/{i}.png"), [i as u8]);
        table += &format!("{i}.png,{},{split},{used}\n", i % 2);
    }
    folder.write("labels.csv", table);
    folder
}

// effect: split.column, split.method
#[test]
fn the_column_defines_the_test_set_and_the_validation_split_is_left_out() {
    let predefined = ["split.method=predefined"];
    let folder = table_with_splits(
        "train train val test val test train train",
        "test test train train train train train dev",
    );
    let (samples, inputs) = folder.samples(CSV, &predefined);
    assert_eq!(samples.ids(Subset::Train), ["0.png", "1.png", "6.png", "7.png"]);
    assert_eq!(samples.ids(Subset::Test), ["3.png", "5.png"]);
    assert_eq!(inputs.images().unwrap().len(), 6);
    for (row, image) in samples.rows.iter().zip(inputs.images().unwrap()) {
        assert_eq!(image.file_path().unwrap(), folder.path("photos").join(&row.id));
    }
    let (samples, _) = folder.samples(CSV, &["split.method=predefined", "split.column=use"]);
    assert_eq!(samples.ids(Subset::Train), ["2.png", "3.png", "4.png", "5.png", "6.png"]);
    assert_eq!(samples.ids(Subset::Test), ["0.png", "1.png"]);
    // Without a test split, the validation split is the test set.
    let (samples, _) = table_with_splits("train train val val train", "- - - - -").samples(CSV, &predefined);
    assert_eq!(samples.ids(Subset::Train), ["0.png", "1.png", "4.png"]);
    assert_eq!(samples.ids(Subset::Test), ["2.png", "3.png"]);
    // Other methods ignore the column.
    let (samples, _) = folder.samples(CSV, &["split.test_size=2"]);
    assert_eq!((samples.rows_of(Subset::Train).len(), samples.rows_of(Subset::Test).len()), (6, 2));
    for (splits, problem) in [
        ("train train train train", "the data does not mark any photo for testing"),
        ("test test test test", "marks all photos for testing or validation and none for training"),
        ("val val val val", "marks all photos for testing or validation and none for training"),
    ] {
        let refusal = table_with_splits(splits, "- - - -").read_error(CSV, &predefined);
        assert!(refusal.contains(problem), "{refusal}");
    }
    let refusal = table_with_splits("train test train train test", "- - - - -")
        .read_error(CSV, &["split.column=use", predefined[0]]);
    assert!(refusal.contains("`use` is `-`: write train, validation or test"), "{refusal}");
}

#[test]
fn read_unsplit_ignores_the_split_settings() {
    let folder = table_with_splits("train train val test val test", "- - - - - -");
    for set in ["split.method=predefined", "split.method=hash", "split.group_duplicates=true"] {
        let (samples, inputs) = SampleSet::read_unsplit(&folder.settings(CSV, &[set]), &()).unwrap();
        assert_eq!((samples.rows_of(Subset::Train).len(), inputs.images().unwrap().len()), (6, 6), "{set}");
        assert!(samples.rows.iter().all(|row| row.group.is_none()));
    }
}

#[test]
fn data_that_cannot_be_split_is_refused_with_the_reason() {
    let reference = SplitReference::load();
    let folder = reference.write_images();
    for (set, reason) in [
        (&["split.test_size=40"][..], "40"),
        (&["split.test_size=40", "split.group_duplicates=true"], "40"),
        (&["split.test_size=0.001", "split.method=hash"], "0.001"),
        (&["split.test_size=0.99"], "class"),
        (&["split.method=group", "data.group=dog", "split.folds=15"], "15"),
        (&["data.group=cat"], "there is no column `cat`: set `group` to"),
    ] {
        let refusal = folder.read_error(CSV, set);
        assert!(refusal.contains(reason), "{set:?}: {refusal}");
    }
    let features_folder = TestFolder::new();
    features_folder.copy_reference("feature_file/separable.npz", "x.npz");
    let refusal = features_folder.read_error("[data]\nfeatures = \"x.npz\"\n", &["split.method=group"]);
    assert!(
        refusal.contains("the split method is \"group\", but") && refusal.contains("has no groups"),
        "{refusal}"
    );
    // The settings are valid: whether there are groups depends on the file.
    SampleSet::read_unsplit(
        &features_folder.settings("[data]\nfeatures = \"x.npz\"\n", &["split.method=group"]),
        &(),
    )
    .unwrap();
}

#[test]
fn invalid_split_settings_are_refused_and_boundary_values_are_not() -> Result<(), ConfigError> {
    let folder = TestFolder::new();
    for (set, reason) in [
        ("split.test_size=1.0", "`split.test_size` is 1: a fraction must be between 0 and 1"),
        ("split.folds=1", "needs `split.method"),
        ("split.fold=1", "`split.fold` needs folds"),
        ("split.column=use", "`split.column` needs `split.method = \"predefined\"`"),
    ] {
        let error = folder.resolve(CSV, &[set]).err().expect(set).to_string();
        assert!(error.contains(reason), "{set}: {error}");
    }
    folder.resolve(CSV, &["split.test_size=1"])?;
    folder.resolve(CSV, &["split.test_size=0", "split.folds=3"])?;
    folder.resolve(CSV, &["split.test_size=0.0", "split.method=hash"])?;
    folder.resolve(CSV, &["split.test_size=0.999"])?;
    folder.resolve(CSV, &["split.method=stratified-k-fold", "split.folds=2", "split.fold=1"])?;
    folder.resolve(CSV, &["split.method=stratified-k-fold", "split.fold=4"])?;
    let SplitOptions { fold, folds, .. } = folder.resolve(CSV, &[] as &[&str])?.split;
    assert_eq!((fold, folds), (0, None));
    Ok(())
}
