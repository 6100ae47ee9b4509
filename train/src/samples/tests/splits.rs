//! Which samples are tested on.

use super::*;
use crate::config::{ConfigError, SplitOptions};

/// Photos of known classes, groups and pictures, and what scikit-learn tests on of them.
#[derive(Deserialize)]
struct Golden {
    class: Vec<u32>,
    group: Vec<u32>,
    picture: Vec<u64>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    set: Vec<String>,
    grouped: bool,
    test: Vec<usize>,
}

impl Golden {
    fn read() -> Self {
        let mut read: Self =
            serde_json::from_str(&fs::read_to_string(golden("split/settings.json")).unwrap()).unwrap();
        read.cases.iter_mut().for_each(|case| case.test.sort_unstable());
        assert!(read.cases.len() > 30);
        read
    }

    /// The photos in a folder, with a table of them.
    fn photos(&self) -> Folder {
        let folder = Folder::new();
        let mut table = "id,label,dog\n".to_owned();
        for (i, ((class, group), &picture)) in
            self.class.iter().zip(&self.group).zip(&self.picture).enumerate()
        {
            folder.picture(&format!("photos/{i:02}.png"), picture);
            table += &format!("{i:02}.png,class {class},dog {group:02}\n");
        }
        folder.write("labels.csv", table);
        folder
    }
}

const CSV: &str = "[data]\ncsv = \"labels.csv\"\nimages = \"photos\"\n[backbone]\nweights = \"backbone\"\n";

fn joins(case: &Case) -> bool {
    case.set.iter().any(|set| set.starts_with("split.group_duplicates"))
}

// effect: split.method, split.test_size, split.seed, split.folds, split.fold, split.group_duplicates, data.group
// effect: split.fold x split.folds, data.group x split.group_duplicates
#[test]
fn photos_are_tested_on_as_scikit_learn_draws_them() {
    let golden = Golden::read();
    let folder = golden.photos();
    for case in &golden.cases {
        let mut set = case.set.clone();
        set.extend(case.grouped.then(|| "data.group=dog".to_owned()));
        let (samples, _) = folder.samples(CSV, &set);
        assert_eq!(samples.of(Part::Test), case.test, "{set:?}");
        // Groups and copies lie on one side, where they are to.
        if joins(case) || set.iter().any(|set| set == "split.method=group") {
            assert_eq!(samples.divided_groups().0, 0, "{set:?}");
        }
        let groups = samples.groups(&(0..40).collect::<Vec<_>>());
        assert_eq!(groups.is_some(), case.grouped || joins(case), "{set:?}");
        if joins(case) {
            let groups = groups.unwrap();
            for (a, b) in (0..40).flat_map(|a| (0..40).map(move |b| (a, b))) {
                if golden.picture[a] == golden.picture[b]
                    || case.grouped && golden.group[a] == golden.group[b]
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
fn what_doctor_looks_at_is_divided_as_training_divides_it() {
    let golden = Golden::read();
    let folder = golden.photos();
    let copies: Vec<(usize, usize)> = (0..40)
        .flat_map(|b| (0..b).map(move |a| (a, b)))
        .filter(|&(a, b)| golden.picture[a] == golden.picture[b])
        .collect();
    for case in &golden.cases {
        let mut set = case.set.clone();
        set.extend(case.grouped.then(|| "data.group=dog".to_owned()));
        let settings = folder.settings(CSV, &set);
        let Source::Photos { main, test } = &settings.source else { panic!("these are photos") };
        let mut collected = Collected::read(&settings, main, test.as_ref(), &()).unwrap();
        collected.draw(&settings, &copies).unwrap();
        let tested: Vec<usize> = (0..40).filter(|&i| collected.samples[i].part == Part::Test).collect();
        assert_eq!(tested, case.test, "{set:?}");
        assert!(collected.faults.is_empty() && collected.unlabelled.is_empty() && !collected.given);
    }
}

// effect: data.features
#[test]
fn features_made_elsewhere_are_tested_on_as_scikit_learn_draws_them() {
    let golden = Golden::read();
    let folder = Folder::new();
    let rows: Vec<Vec<f32>> = (0..40).map(|i| vec![i as f32, 0.5]).collect();
    let labels: Vec<u32> = golden.class.iter().map(|class| 10 + class).collect();
    folder.features(&rows, &labels, Some(&golden.group));
    const GIVEN: &str = "[data]\nfeatures = \"x.npy\"\n";
    let hashes = |case: &Case| case.set.iter().any(|set| set == "split.method=hash");
    let cases: Vec<_> = golden.cases.iter().filter(|case| !joins(case) && !hashes(case)).collect();
    assert!(cases.len() > 15);
    for case in cases {
        let (samples, inputs) = folder.samples(GIVEN, &case.set);
        assert_eq!(samples.of(Part::Test), case.test, "{:?}", case.set);
        assert_eq!(samples.classes.names(), ["10", "11", "12"]);
        let Inputs::Features(table) = inputs else { panic!("these are features") };
        assert_eq!((table.values[2 * 7], table.width), (7.0, 2));
    }
    // The rows of a group hash to one place: that of the group's first row in the order of text.
    let (samples, _) = folder.samples(GIVEN, &["split.method=hash", "split.test_size=0.3"]);
    let first: Vec<String> = (0..40)
        .map(|i| {
            let rows = (0..40).filter(|&j| golden.group[i] == golden.group[j]);
            rows.map(|j: usize| j.to_string()).min().unwrap()
        })
        .collect();
    let expected =
        headstock_loader::hash_split(&first, headstock_loader::TestSize::Fraction(0.3), 0).unwrap();
    assert_eq!(samples.of(Part::Test), expected.test);
    assert_eq!(samples.divided_groups().0, 0);
}

// effect: split.folds, split.fold x split.folds
#[test]
fn every_fold_is_tested_on_once() {
    let golden = Golden::read();
    let folder = golden.photos();
    for (more, folds) in [
        (&["split.method=stratified-k-fold"][..], 5),
        (&["split.method=stratified-k-fold", "split.folds=4", "split.group_duplicates=true"], 4),
        (&["split.method=group", "data.group=dog", "split.folds=3"], 3),
    ] {
        let mut times = vec![0; 40];
        for fold in 0..folds {
            let fold = format!("split.fold={fold}");
            let (samples, _) = folder.samples(CSV, &[more, &[fold.as_str()]].concat());
            samples.of(Part::Test).into_iter().for_each(|row| times[row] += 1);
        }
        assert_eq!(times, [1; 40], "{more:?}");
        let beyond = format!("split.fold={folds}");
        let beyond = folder.resolve(CSV, &[more, &[beyond.as_str()]].concat());
        let error = beyond.err().expect("there is no such fold").to_string();
        assert!(error.contains(&format!("`split.fold` is {folds}: with {folds} folds")), "{error}");
    }
}

/// A table of photos that says which part each is in, in the column `use`, and otherwise in the column `split`.
fn with_parts(parts: &str, others: &str) -> Folder {
    let folder = Folder::new();
    let mut table = "id,label,split,use\n".to_owned();
    for (i, (part, other)) in parts.split(' ').zip(others.split(' ')).enumerate() {
        folder.write(&format!("photos/{i}.png"), [i as u8]);
        table += &format!("{i}.png,{},{part},{other}\n", i % 2);
    }
    folder.write("labels.csv", table);
    folder
}

// effect: split.column, split.method
#[test]
fn the_column_says_what_is_tested_on_and_the_validation_part_is_left_out() {
    let predefined = ["split.method=predefined"];
    let folder = with_parts(
        "train train val test val test train train",
        "test test train train train train train dev",
    );
    let (samples, inputs) = folder.samples(CSV, &predefined);
    assert_eq!(samples.ids(Part::Train), ["0.png", "1.png", "6.png", "7.png"]);
    assert_eq!(samples.ids(Part::Test), ["3.png", "5.png"]);
    assert_eq!(inputs.photos().unwrap().len(), 6);
    for (row, photo) in samples.rows.iter().zip(inputs.photos().unwrap()) {
        assert_eq!(photo.file_path().unwrap(), folder.path("photos").join(&row.id));
    }
    let (samples, _) = folder.samples(CSV, &["split.method=predefined", "split.column=use"]);
    assert_eq!(samples.ids(Part::Train), ["2.png", "3.png", "4.png", "5.png", "6.png"]);
    assert_eq!(samples.ids(Part::Test), ["0.png", "1.png"]);
    // Without a test part, what is there to choose between models by is tested on.
    let (samples, _) = with_parts("train train val val train", "- - - - -").samples(CSV, &predefined);
    assert_eq!(samples.ids(Part::Train), ["0.png", "1.png", "4.png"]);
    assert_eq!(samples.ids(Part::Test), ["2.png", "3.png"]);
    // Whether a row is said to be of a part matters to this method alone.
    let (samples, _) = folder.samples(CSV, &["split.test_size=2"]);
    assert_eq!((samples.of(Part::Train).len(), samples.of(Part::Test).len()), (6, 2));
    for parts in ["train train train train", "test test test test", "val val val val"] {
        let refusal = with_parts(parts, "- - - -").refusal(CSV, &predefined);
        assert!(refusal.contains("the data says of no sample that it is to be tested on"), "{refusal}");
    }
    let refusal = with_parts("train test train train test", "- - - - -")
        .refusal(CSV, &["split.column=use", predefined[0]]);
    assert!(refusal.contains("`use` is `-`: it must be train, validation or test"), "{refusal}");
}

#[test]
fn nothing_is_split_where_all_samples_are_one_part() {
    let folder = with_parts("train train val test val test", "- - - - - -");
    for set in ["split.method=predefined", "split.method=hash", "split.group_duplicates=true"] {
        let (samples, inputs) = Samples::unsplit(&folder.settings(CSV, &[set]), &()).unwrap();
        assert_eq!((samples.of(Part::Train).len(), inputs.photos().unwrap().len()), (6, 6), "{set}");
        assert!(samples.rows.iter().all(|row| row.group.is_none()));
    }
}

#[test]
fn data_that_cannot_be_split_so_is_refused_with_the_reason() {
    let golden = Golden::read();
    let folder = golden.photos();
    for (set, reason) in [
        (&["split.test_size=40"][..], "40"),
        (&["split.test_size=40", "split.group_duplicates=true"], "40"),
        (&["split.test_size=0.001", "split.method=hash"], "0.001"),
        (&["split.test_size=0.99"], "class"),
        (&["split.method=group", "data.group=dog", "split.folds=15"], "15"),
        (&["data.group=cat"], "has no column `cat` (`data.group`)"),
    ] {
        let refusal = folder.refusal(CSV, set);
        assert!(refusal.contains(reason), "{set:?}: {refusal}");
    }
    let given = Folder::new();
    given.golden("feature_file/separable.npz", "x.npz");
    let refusal = given.refusal("[data]\nfeatures = \"x.npz\"\n", &["split.method=group"]);
    assert!(
        refusal.contains("`split.method` is \"group\", but") && refusal.contains("names no groups"),
        "{refusal}"
    );
    // The settings alone cannot say what the file holds.
    Samples::unsplit(&given.settings("[data]\nfeatures = \"x.npz\"\n", &["split.method=group"]), &())
        .unwrap();
}

#[test]
fn a_test_size_that_cannot_be_meant_is_refused_and_the_edges_are_not() -> Result<(), ConfigError> {
    let folder = Folder::new();
    for (set, reason) in [
        ("split.test_size=0", "`split.test_size` is 0: nothing"),
        ("split.test_size=0.0", "`split.test_size` is 0: a share lies between 0 and 1"),
        ("split.test_size=1.0", "`split.test_size` is 1: a share lies between 0 and 1"),
        ("split.folds=1", "goes with `split.method"),
        ("split.fold=1", "`split.fold` goes with folds"),
        ("split.column=use", "`split.column` goes with `split.method = \"predefined\"`"),
    ] {
        let error = folder.resolve(CSV, &[set]).err().expect(set).to_string();
        assert!(error.contains(reason), "{set}: {error}");
    }
    folder.resolve(CSV, &["split.test_size=1"])?;
    folder.resolve(CSV, &["split.test_size=0.999"])?;
    folder.resolve(CSV, &["split.method=stratified-k-fold", "split.folds=2", "split.fold=1"])?;
    folder.resolve(CSV, &["split.method=stratified-k-fold", "split.fold=4"])?;
    let SplitOptions { fold, folds, .. } = folder.resolve(CSV, &[] as &[&str])?.options.split;
    assert_eq!((fold, folds), (0, None));
    Ok(())
}
