//! What a head is fitted on, and what it is asked for: no photo and no group is on both sides.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::*;
use crate::recording_head::{self, registry_with_recording, take_fit_records};

/// The rows that a training gave to the head.
struct FitTrace {
    samples: SampleSet,
    train: Vec<usize>,
    test: Vec<usize>,
    n_views: ViewIndex,
    /// Of each fit the rows, in the order in which they were given, and their groups.
    fits: Vec<(Vec<usize>, Vec<u32>)>,
    /// The rows asked for after each fit.
    queried: Vec<Vec<usize>>,
    metrics: RunMetrics,
}

impl FitTrace {
    /// Trains, and sees to it that labels are those of the rows.
    fn new(folder: &TestFolder, config: &str, set: &[&str]) -> Self {
        let run =
            (0..).map(|number| folder.path(&format!("run {number}"))).find(|run| !run.exists()).unwrap();
        let tag = format!("head.tag={}", run.display());
        let set = [set, &["head.kind=recording", &tag]].concat();
        let settings = folder.resolve_with(config, &set, &registry_with_recording()).unwrap();
        let mut prepared = PreparedData::new(&settings, &()).unwrap();
        let mut rows = HashMap::new();
        for row in 0..prepared.samples.rows.len() {
            let mut values = Vec::new();
            prepared.features.append(&[row], 0, &mut values).unwrap();
            assert!(rows.insert(recording_head::row_id(&values), row).is_none(), "features tell the photo");
        }
        let (samples, views) = (prepared.samples.clone(), prepared.n_views);
        let (train, test) = (prepared.train.clone(), prepared.test.clone());
        let place = RunDir::Named(run.clone());
        let reserved = place.reserve(&settings.source).unwrap();
        let TrainOutcome { metrics, .. } = prepared.train(&settings, None, reserved, &()).unwrap();
        let there = |numbers: &[u32]| -> Vec<usize> { numbers.iter().map(|number| rows[number]).collect() };
        let (mut fits, mut asked) = (Vec::new(), Vec::new());
        for noted in take_fit_records(&run.display().to_string()) {
            let fitted = there(&noted.rows);
            assert_eq!(noted.labels, samples.labels(&fitted));
            let groups = noted.groups.expect("rows are told apart");
            assert_eq!((groups.len(), noted.queried.len()), (fitted.len(), 1));
            fits.push((fitted, groups));
            asked.push(there(&noted.queried[0]));
        }
        // The head of the run is fitted first and asked last.
        asked.rotate_left(1);
        Self { samples, train, test, n_views: views, fits, queried: asked, metrics }
    }

    /// What stays together: the group of a row, or the row itself.
    fn group_or_row(&self, row: usize) -> (bool, usize) {
        match self.samples.rows[row].group {
            Some(group) => (true, group as usize),
            None => (false, row),
        }
    }

    /// Nothing is on both sides of any fold, all is held out once, and what is tested on is fitted on nowhere.
    #[track_caller]
    fn assert_no_leak(&self, folds: usize) {
        let copies = self.n_views as usize + 1;
        assert_eq!((self.fits.len(), self.queried.len()), (folds + 1, folds + 1));
        for (rows, groups) in &self.fits {
            // The plain view of all, and then each augmented one.
            let (plain, _) = rows.split_at(rows.len() / copies);
            assert_eq!(rows, &plain.repeat(copies));
            let distinct: BTreeSet<_> = plain.iter().collect();
            assert_eq!(distinct.len(), plain.len(), "each view of a photo comes once");
            // The head is told what belongs together, and nothing else.
            let mut of_unit = BTreeMap::new();
            for (&row, &group) in rows.iter().zip(groups) {
                assert_eq!(*of_unit.entry(self.group_or_row(row)).or_insert(group), group);
            }
            let numbers: BTreeSet<_> = of_unit.values().collect();
            assert_eq!(numbers.len(), of_unit.len());
            assert!(rows.iter().all(|row| !self.test.contains(row)), "a test row is fitted on");
        }
        assert_eq!(self.fits[0].0[..self.train.len()], self.train);
        assert_eq!(self.queried.last(), Some(&self.test));
        let mut held_out: Vec<usize> = Vec::new();
        for ((fitted, _), asked) in self.fits[1..].iter().zip(&self.queried) {
            let units: BTreeSet<_> = fitted.iter().map(|&row| self.group_or_row(row)).collect();
            assert!(
                asked.iter().all(|&row| !units.contains(&self.group_or_row(row))),
                "on both sides of a fold"
            );
            assert_eq!(fitted.len() / copies + asked.len(), self.train.len());
            held_out.extend(asked);
        }
        if folds > 0 {
            held_out.sort_unstable();
            assert_eq!(held_out, self.train);
            let calibration = self.metrics.calibration.as_ref().unwrap();
            assert_eq!((calibration.folds, calibration.samples), (folds, self.train.len()));
        } else {
            assert!(self.metrics.calibration.is_none() && self.metrics.conformal.is_none());
        }
    }
}

/// Features that tell the row, of so many rows of each class; a group for each.
fn feature_folder(counts: &[usize], group: impl Fn(usize) -> u32) -> TestFolder {
    let labels: Vec<u32> =
        counts.iter().enumerate().flat_map(|(class, &n)| std::iter::repeat_n(class as u32, n)).collect();
    let rows: Vec<Vec<f32>> = (0..labels.len()).map(|row| vec![row as f32, 1.0]).collect();
    let groups: Vec<u32> = (0..labels.len()).map(group).collect();
    let folder = TestFolder::new();
    folder.write_features(&rows, &labels, Some(&groups));
    folder
}

// effect: calibration
#[test]
fn every_training_photo_is_held_out_once_and_no_test_photo_is_ever_fitted_on() {
    let folder = feature_folder(&[40, 9, 6], |row| row as u32);
    for method in ["temperature", "platt", "isotonic"] {
        // Of the smallest class 3 are trained on.
        let trace = FitTrace::new(
            &folder,
            FEATURES_CONFIG,
            &["split.test_size=0.5", &format!("calibration={method}")],
        );
        trace.assert_no_leak(3);
    }
    FitTrace::new(&folder, FEATURES_CONFIG, &["split.test_size=0.5", "calibration=none"]).assert_no_leak(0);
    // Five folds at most, and each has its share of each class.
    let trace = FitTrace::new(&folder, FEATURES_CONFIG, &["split.test_size=0.1"]);
    trace.assert_no_leak(5);
    for class in 0..3 {
        let of_class =
            |rows: &Vec<usize>| trace.samples.labels(rows).iter().filter(|&&label| label == class).count();
        let held: Vec<usize> = trace.queried[..5].iter().map(of_class).collect();
        assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "{held:?}");
    }
}

// effect: calibration x data.group
#[test]
fn groups_of_a_file_stay_together_in_every_fold() {
    // Groups of three of a class, so that of the smallest class two groups are trained on.
    let folder = feature_folder(&[60, 30, 12], |row| row as u32 / 3);
    let by_group = ["split.method=group", "split.test_size=0.3", "split.seed=2"];
    let trace = FitTrace::new(&folder, FEATURES_CONFIG, &by_group);
    let groups = |class| {
        let of = |row: &&usize| trace.samples.rows[**row].label == class;
        trace.train.iter().filter(of).map(|&row| trace.samples.rows[row].group).collect::<BTreeSet<_>>().len()
    };
    let fewest = (0..3).map(groups).min().unwrap();
    assert!((2..5).contains(&fewest), "{fewest}");
    trace.assert_no_leak(fewest);
    // Some groups are large, most are small.
    let uneven = feature_folder(&[40, 40], |row| if row % 40 < 12 { row as u32 / 40 } else { row as u32 });
    FitTrace::new(&uneven, FEATURES_CONFIG, &["split.method=group", "split.test_size=0.3"]).assert_no_leak(5);
}

#[test]
fn a_class_of_one_group_leaves_nothing_to_hold_out() {
    // The third class has six photos, all of one group, which is trained on.
    let folder = feature_folder(&[20, 20, 6], |row| if row < 40 { row as u32 } else { 40 });
    let seed = (0..50).find(|seed| {
        let set =
            ["split.method=group".to_owned(), "split.test_size=0.2".into(), format!("split.seed={seed}")];
        let samples = folder.samples(FEATURES_CONFIG, &set).0;
        samples.rows[45].subset == crate::samples::Subset::Train
    });
    let seed = format!("split.seed={}", seed.unwrap());
    FitTrace::new(&folder, FEATURES_CONFIG, &["split.method=group", "split.test_size=0.2", &seed])
        .assert_no_leak(0);
    // As one photo does.
    FitTrace::new(&feature_folder(&[20, 20, 2], |row| row as u32), FEATURES_CONFIG, &["split.test_size=0.5"])
        .assert_no_leak(0);
}

/// Greys of three classes, and a dog for each photo; copies are no more alike than others.
fn photo_folder(config: &str) -> (TestFolder, String) {
    let folder = TestFolder::new();
    let mut table = "id,label,dog\n".to_owned();
    for i in 0..24u8 {
        folder.write_gray(&format!("photos/{i:02}.png"), 10 * i + 5);
        table += &format!("{i:02}.png,{},{:02}\n", "aab".as_bytes()[usize::from(i % 3)] as char, i / 2);
    }
    folder.write("x.csv", table);
    folder.write_backbone("backbone");
    let config = format!(
        "{config}[data]\ncsv = \"x.csv\"\nimages = \"photos\"\n[backbone]\nweights = \"backbone\"\nlayer = \"stem\"\n\
         [split]\ntest_size = 0.25\n"
    );
    (folder, config)
}

// effect: features.views
#[test]
fn views_of_a_photo_are_fitted_on_and_held_out_together() {
    let (folder, config) = photo_folder("");
    let trace = FitTrace::new(&folder, &config, &["features.views=2", "augment.horizontal_flip=0.5"]);
    assert_eq!((trace.n_views, trace.train.len(), trace.metrics.counts.views), (2, 18, 2));
    trace.assert_no_leak(5);
}

// effect: calibration x split.group_duplicates
#[test]
fn copies_of_a_photo_stay_together_in_every_fold() {
    let folder = TestFolder::new();
    let mut table = "id,label\n".to_owned();
    for picture in 0..16u8 {
        for copy in 0..2 {
            // The same picture, in a file of its own and not quite as bright: its features are its own.
            let mut image = crate::fixtures::synthetic_image(picture.into(), 48, 40);
            image
                .pixels_mut()
                .for_each(|pixel| pixel.0.iter_mut().for_each(|v| *v = (*v / 8 * 7) + 6 * copy));
            folder.write(&format!("photos/{picture:02}-{copy}.png"), headstock_loader::encode::png(&image));
            table += &format!("{picture:02}-{copy}.png,{}\n", picture % 2);
        }
    }
    folder.write("x.csv", table);
    folder.write_backbone("backbone");
    let config = "[data]\ncsv = \"x.csv\"\nimages = \"photos\"\n[backbone]\nweights = \"backbone\"\nlayer = \"stem\"\n\
                  [split]\ntest_size = 0.25\ngroup_duplicates = true\n";
    let trace = FitTrace::new(&folder, config, &[]);
    assert_eq!((trace.train.len(), trace.test.len()), (24, 8));
    for pair in 0..16 {
        let [a, b] = [2 * pair, 2 * pair + 1].map(|row| &trace.samples.rows[row]);
        assert_eq!((a.group, a.subset), (b.group, b.subset), "{pair}");
    }
    let groups: BTreeSet<_> = trace.samples.rows.iter().map(|row| row.group).collect();
    assert_eq!(groups.len(), 16);
    trace.assert_no_leak(5);
}

/// Photos of which nothing can be known, four copies of each, and a head that knows by heart what it was fitted on.
fn noise_with_copies(photos: usize) -> TestFolder {
    let mut noise = noise(3);
    let (mut rows, mut labels, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    for photo in 0..photos {
        let picture: Vec<f32> = (0..300).map(|_| noise()).collect();
        for _ in 0..4 {
            rows.push(picture.iter().map(|value| value + 0.02 * noise()).collect());
            labels.push((photo % 3) as u32);
            groups.push(photo as u32);
        }
    }
    let folder = TestFolder::new();
    folder.write_features(&rows, &labels, Some(&groups));
    folder
}

// effect: calibration x data.group
#[test]
fn sets_hold_what_they_promise_where_each_photo_has_copies() {
    let folder = noise_with_copies(200);
    for set in [
        &["head.kind=linear", "head.C=100"][..],
        &["head.kind=ridge", "head.alpha=0.1"],
        &["head.kind=linear", "head.C=auto"],
        &["head.kind=ridge", "head.alpha=auto"],
    ] {
        let set = [set, &["split.method=group", "split.test_size=0.5"]].concat();
        let name = set[..2].join("-");
        let metrics = train_to(&folder, &folder.settings(FEATURES_CONFIG, &set), &name).metrics;
        let conformal = metrics.conformal.unwrap();
        assert_eq!(conformal.coverage, 0.9);
        for sets in [&conformal.lac, &conformal.aps] {
            assert!((0.85..=0.95).contains(&sets.coverage), "{set:?}: {sets:?}");
        }
        // What it says of itself is what is seen: nothing is known, whatever it was fitted on.
        let calibration = metrics.calibration.unwrap();
        let (promised, seen) = (calibration.out_of_fold.after, calibration.test.after);
        assert!((promised.log_loss - seen.log_loss).abs() < 0.02, "{set:?}: {promised:?} {seen:?}");
        assert!((seen.log_loss - 3f64.ln()).abs() < 0.02, "{set:?}: {seen:?}");
    }
}

// effect: calibration x data.group
#[test]
fn groups_of_photos_of_several_classes_stay_together_in_every_fold() {
    let mixed = feature_folder(&[40, 20, 20], |row| row as u32 % 10);
    FitTrace::new(&mixed, FEATURES_CONFIG, &["split.method=group", "split.test_size=0.3"]).assert_no_leak(5);
    let (folder, config) = photo_folder("");
    let groups = ["features.views=1", "augment.horizontal_flip=0.5", "data.group=dog", "split.method=group"];
    let trace = FitTrace::new(&folder, &config, &groups);
    assert_eq!(trace.n_views, 1);
    trace.assert_no_leak(5);
}

#[test]
fn a_group_that_no_fold_can_miss_is_fitted_on_and_calibrated_by_nowhere() {
    // One group has photos of two classes, of each of which there is one other group, a larger one; each is held out by a
    // fold of its own, so that the first can be held out by none.
    let labels: Vec<u32> = [[0; 8], [1; 8]].concat().into_iter().chain([0, 1]).collect();
    let folder = TestFolder::new();
    let rows: Vec<Vec<f32>> = (0..24).map(|row| vec![row as f32, 1.0]).collect();
    // The photos of the third class are groups of their own; some of them are tested on.
    let labels = [labels, vec![2; 6]].concat();
    let group = |row: usize| {
        if row < 16 {
            row as u32 / 8
        } else if row < 18 {
            2
        } else {
            row as u32
        }
    };
    let groups: Vec<u32> = (0..24).map(group).collect();
    folder.write_features(&rows, &labels, Some(&groups));
    let of_thirds = |seed: &u32| {
        let set = ["split.method=group".to_owned(), "split.test_size=2".into(), format!("split.seed={seed}")];
        folder
            .samples(FEATURES_CONFIG, &set)
            .0
            .rows_of(crate::samples::Subset::Test)
            .into_iter()
            .all(|row| row >= 18)
    };
    let seed = format!("split.seed={}", (0..100).find(of_thirds).unwrap());
    let trace = FitTrace::new(&folder, FEATURES_CONFIG, &["split.method=group", "split.test_size=2", &seed]);
    assert_eq!((trace.train.len(), trace.fits.len(), trace.test.len()), (22, 3, 2));
    let held_out: BTreeSet<usize> = trace.queried[..2].iter().flatten().copied().collect();
    assert_eq!(held_out.len(), 20);
    assert!(!held_out.contains(&16) && !held_out.contains(&17));
    assert!(trace.fits.iter().all(|(fitted, _)| fitted.contains(&16) && fitted.contains(&17)));
    assert_eq!(trace.metrics.calibration.unwrap().samples, 20);
}
