//! No sample and no group is on both sides of a fit: the rows that heads are fitted on and queried for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::*;
use crate::metrics::LogLoss;
use crate::tests::recording_head::{self, registry_with_recording, take_fit_records};

/// The rows that a training passed to the head.
struct FitTrace {
    samples: SampleSet,
    train: Vec<usize>,
    test: Vec<usize>,
    n_augmented: u32,
    /// Rows and groups of each fit, in order.
    fits: Vec<(Vec<usize>, Vec<u32>)>,
    /// The rows queried after each fit.
    queried: Vec<Vec<usize>>,
    metrics: RunMetrics,
}

impl FitTrace {
    /// Trains, and checks that the labels belong to the rows.
    fn new(folder: &TestFolder, config: &str, set: &[&str]) -> Self {
        let run =
            (0..).map(|number| folder.path(&format!("run {number}"))).find(|run| !run.exists()).unwrap();
        let tag = format!("head.tag={}", run.display());
        let set = [set, &["head.kind=recording", &tag]].concat();
        let settings = folder.resolve_with(config, &set, registry_with_recording()).unwrap();
        let mut prepared = PreparedData::prepare(&settings, &()).unwrap();
        let mut rows = HashMap::new();
        for row in 0..prepared.samples.rows.len() {
            let mut values = Vec::new();
            prepared.features.append(&[row], 0, &mut values).unwrap();
            assert!(
                rows.insert(recording_head::row_id(&values), row).is_none(),
                "features identify the image"
            );
        }
        let (samples, n_augmented) = (prepared.samples.clone(), prepared.n_augmented);
        let (train, test) = (prepared.train.clone(), prepared.test.clone());
        let run_dir = RunDir::Named(run.clone());
        let reservation = run_dir.reserve(&settings.source).unwrap();
        let TrainOutcome { metrics, .. } = prepared.train(&settings, None, reservation, &()).unwrap();
        let to_rows = |ids: &[u32]| -> Vec<usize> { ids.iter().map(|id| rows[id]).collect() };
        let (mut fits, mut queried) = (Vec::new(), Vec::new());
        for record in take_fit_records(&run.display().to_string()) {
            let fitted = to_rows(&record.rows);
            assert_eq!(record.labels, samples.labels(&fitted));
            let groups = record.groups.expect("the training set has groups");
            assert_eq!((groups.len(), record.queried.len()), (fitted.len(), 1));
            fits.push((fitted, groups));
            queried.push(to_rows(&record.queried[0]));
        }
        // The head of the run is fitted first and queried last.
        queried.rotate_left(1);
        Self { samples, train, test, n_augmented, fits, queried, metrics }
    }

    /// What must stay together: the group of a row, or the row itself.
    fn group_or_row(&self, row: usize) -> (bool, usize) {
        match self.samples.rows[row].group {
            Some(group) => (true, group as usize),
            None => (false, row),
        }
    }

    /// Asserts that nothing is on both sides of a fold, every training row is held out once, and no test row
    /// is fitted on.
    #[track_caller]
    fn assert_no_leak(&self, n_folds: usize) {
        let n_views = self.n_augmented as usize + 1;
        assert_eq!((self.fits.len(), self.queried.len()), (n_folds + 1, n_folds + 1));
        for (rows, groups) in &self.fits {
            // View 0 of all rows, then each augmented view.
            let (first_view, _) = rows.split_at(rows.len() / n_views);
            assert_eq!(rows, &first_view.repeat(n_views));
            let distinct: BTreeSet<_> = first_view.iter().collect();
            assert_eq!(distinct.len(), first_view.len(), "each view of a sample comes once");
            // The head's groups are exactly the units.
            let mut group_of_unit = BTreeMap::new();
            for (&row, &group) in rows.iter().zip(groups) {
                assert_eq!(*group_of_unit.entry(self.group_or_row(row)).or_insert(group), group);
            }
            let groups: BTreeSet<_> = group_of_unit.values().collect();
            assert_eq!(groups.len(), group_of_unit.len());
            assert!(rows.iter().all(|row| !self.test.contains(row)), "a test row is fitted on");
        }
        assert_eq!(self.fits[0].0[..self.train.len()], self.train);
        assert_eq!(self.queried.last(), Some(&self.test));
        let mut held_out: Vec<usize> = Vec::new();
        for ((fitted, _), queried) in self.fits[1..].iter().zip(&self.queried) {
            let units: BTreeSet<_> = fitted.iter().map(|&row| self.group_or_row(row)).collect();
            assert!(
                queried.iter().all(|&row| !units.contains(&self.group_or_row(row))),
                "on both sides of a fold"
            );
            assert_eq!(fitted.len() / n_views + queried.len(), self.train.len());
            held_out.extend(queried);
        }
        if n_folds > 0 {
            held_out.sort_unstable();
            assert_eq!(held_out, self.train);
            let calibration = self.metrics.calibration.as_ref().unwrap();
            assert_eq!((calibration.folds, calibration.samples), (n_folds, self.train.len()));
        } else {
            assert!(self.metrics.calibration.is_none() && self.metrics.conformal.is_none());
        }
    }
}

/// Features that identify the row, with `counts` rows per class and a group for each row.
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
fn every_training_row_is_held_out_once_and_no_test_row_is_fitted_on() {
    let folder = feature_folder(&[40, 9, 6], |row| row as u32);
    for method in ["temperature", "platt", "isotonic"] {
        // The smallest class has 3 training rows.
        let trace = FitTrace::new(
            &folder,
            FEATURES_CONFIG,
            &["split.test_size=0.5", &format!("calibration={method}")],
        );
        trace.assert_no_leak(3);
    }
    FitTrace::new(&folder, FEATURES_CONFIG, &["split.test_size=0.5", "calibration=none"]).assert_no_leak(0);
    // At most five folds, stratified by class.
    let trace = FitTrace::new(&folder, FEATURES_CONFIG, &["split.test_size=0.1"]);
    trace.assert_no_leak(5);
    for class in 0..3 {
        let count_in_class =
            |rows: &Vec<usize>| trace.samples.labels(rows).iter().filter(|&&label| label == class).count();
        let counts: Vec<usize> = trace.queried[..5].iter().map(count_in_class).collect();
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }
}

// effect: calibration x data.group
#[test]
fn groups_of_a_file_stay_together_in_every_fold() {
    // Groups of three rows of a class, so that two groups of the smallest class are trained on.
    let folder = feature_folder(&[60, 30, 12], |row| row as u32 / 3);
    let by_group = ["split.method=group", "split.test_size=0.3", "split.seed=2"];
    let trace = FitTrace::new(&folder, FEATURES_CONFIG, &by_group);
    let n_groups = |class| {
        let is_in_class = |row: &&usize| trace.samples.rows[**row].label == class;
        let rows = trace.train.iter().filter(is_in_class);
        rows.map(|&row| trace.samples.rows[row].group).collect::<BTreeSet<_>>().len()
    };
    let fewest = (0..3).map(n_groups).min().unwrap();
    assert!((2..5).contains(&fewest), "{fewest}");
    trace.assert_no_leak(fewest);
    // A few large groups, many small ones.
    let uneven = feature_folder(&[40, 40], |row| if row % 40 < 12 { row as u32 / 40 } else { row as u32 });
    FitTrace::new(&uneven, FEATURES_CONFIG, &["split.method=group", "split.test_size=0.3"]).assert_no_leak(5);
}

#[test]
fn a_class_with_a_single_group_disables_calibration() {
    // The third class has six rows in one group, which is in the training set.
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
    // A class with a single training row has the same effect.
    FitTrace::new(&feature_folder(&[20, 20, 2], |row| row as u32), FEATURES_CONFIG, &["split.test_size=0.5"])
        .assert_no_leak(0);
}

/// Gray images of two classes, with a group `dog` per pair. Neighbors are no more alike than others.
fn image_folder(config: &str) -> (TestFolder, String) {
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
fn views_of_an_image_stay_together_in_every_fold() {
    let (folder, config) = image_folder("");
    let trace = FitTrace::new(&folder, &config, &["features.views=2", "augment.horizontal_flip=0.5"]);
    assert_eq!((trace.n_augmented, trace.train.len(), trace.metrics.counts.views), (2, 18, 2));
    trace.assert_no_leak(5);
}

// effect: calibration x split.group_duplicates
#[test]
fn near_duplicates_stay_together_in_every_fold() {
    let folder = TestFolder::new();
    let mut table = "id,label\n".to_owned();
    for number in 0..16u8 {
        for copy in 0..2 {
            // The same picture at another brightness: its features differ.
            let mut image = headstock_testing::synthetic_image(number.into(), 48, 40);
            image
                .pixels_mut()
                .for_each(|pixel| pixel.0.iter_mut().for_each(|v| *v = (*v / 8 * 7) + 6 * copy));
            folder.write(&format!("photos/{number:02}-{copy}.png"), headstock_loader::encode::png(&image));
            table += &format!("{number:02}-{copy}.png,{}\n", number % 2);
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

/// Four noisy copies of each of `n_vectors` random vectors with unlearnable labels, which a head can
/// memorize.
fn noise_with_copies(n_vectors: usize) -> TestFolder {
    let mut noise = noise(3);
    let (mut rows, mut labels, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..n_vectors {
        let vector: Vec<f32> = (0..300).map(|_| noise()).collect();
        for _ in 0..4 {
            rows.push(vector.iter().map(|value| value + 0.02 * noise()).collect());
            labels.push((index % 3) as u32);
            groups.push(index as u32);
        }
    }
    let folder = TestFolder::new();
    folder.write_features(&rows, &labels, Some(&groups));
    folder
}

// effect: calibration x data.group
#[test]
fn conformal_sets_reach_their_coverage_when_samples_have_copies() {
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
        // The out-of-fold metrics agree with the test metrics: nothing can be learned.
        let calibration = metrics.calibration.unwrap();
        let (expected, found) = (calibration.out_of_fold.after, calibration.test.after);
        assert!((expected[&LogLoss] - found[&LogLoss]).abs() < 0.02, "{set:?}: {expected:?} {found:?}");
        assert!((found[&LogLoss] - 3f64.ln()).abs() < 0.02, "{set:?}: {found:?}");
    }
}

// effect: calibration x data.group
#[test]
fn groups_with_several_classes_stay_together_in_every_fold() {
    let mixed = feature_folder(&[40, 20, 20], |row| row as u32 % 10);
    FitTrace::new(&mixed, FEATURES_CONFIG, &["split.method=group", "split.test_size=0.3"]).assert_no_leak(5);
    let (folder, config) = image_folder("");
    let groups = ["features.views=1", "augment.horizontal_flip=0.5", "data.group=dog", "split.method=group"];
    let trace = FitTrace::new(&folder, &config, &groups);
    assert_eq!(trace.n_augmented, 1);
    trace.assert_no_leak(5);
}

#[test]
fn a_group_that_no_fold_can_hold_out_does_not_calibrate() {
    // Group 2 has rows of two classes, each of which has one other, larger group. Each larger group is held
    // out by one fold, so no fold can hold out group 2.
    let labels: Vec<u32> = [[0; 8], [1; 8]].concat().into_iter().chain([0, 1]).collect();
    let folder = TestFolder::new();
    let rows: Vec<Vec<f32>> = (0..24).map(|row| vec![row as f32, 1.0]).collect();
    // Rows of the third class are groups of one; some of them are in the test set.
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
    let tests_third_class = |seed: &u32| {
        let set = ["split.method=group".to_owned(), "split.test_size=2".into(), format!("split.seed={seed}")];
        folder
            .samples(FEATURES_CONFIG, &set)
            .0
            .rows_of(crate::samples::Subset::Test)
            .into_iter()
            .all(|row| row >= 18)
    };
    let seed = format!("split.seed={}", (0..100).find(tests_third_class).unwrap());
    let trace = FitTrace::new(&folder, FEATURES_CONFIG, &["split.method=group", "split.test_size=2", &seed]);
    assert_eq!((trace.train.len(), trace.fits.len(), trace.test.len()), (22, 3, 2));
    let held_out: BTreeSet<usize> = trace.queried[..2].iter().flatten().copied().collect();
    assert_eq!(held_out.len(), 20);
    assert!(!held_out.contains(&16) && !held_out.contains(&17));
    assert!(trace.fits.iter().all(|(fitted, _)| fitted.contains(&16) && fitted.contains(&17)));
    assert_eq!(trace.metrics.calibration.unwrap().samples, 20);
}
