//! What a run says of samples that it was trained on.

use headstock_heads::Registry;

use super::*;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::recording::{Made, backbone, photo, write};
use crate::run::{Run, RunMetrics, RunPlace, TrainedOn};
use crate::{Evaluation, evaluate, train};

/// Rows of two classes that overlap, of which no two are the same.
fn rows(count: usize) -> Vec<Made> {
    (0..count)
        .map(|row| {
            let (class, noise) = (row % 2, (row as f32 * 2.3).sin());
            let values = vec![class as f32 + noise, (row as f32 * 1.7).cos(), row as f32 / 100.0];
            Made { values, class: ["a", "b"][class].into(), group: None }
        })
        .collect()
}

fn settings(folder: &Path, overrides: &[&str]) -> Settings {
    let text = "version = 1\n[data]\nfeatures = \"x.npy\"\n[split]\ntest_size = 0.25\n";
    let mut config = Config::parse(text, "test", folder).unwrap();
    config.set(overrides).unwrap();
    config.resolve(&Registry::builtin()).unwrap()
}

/// Trains as the run `name` in `folder`.
fn trained(folder: &Path, name: &str, start: Option<&Run>, overrides: &[&str]) -> (RunMetrics, Run) {
    let place = folder.join(name);
    train(&settings(folder, overrides), start, &RunPlace::Named(place.clone()), &()).unwrap();
    let metrics = serde_json::from_slice(&fs::read(place.join("metrics.json")).unwrap()).unwrap();
    (metrics, Run::open(&place, &Registry::builtin()).unwrap())
}

fn evaluated(run: &Run, settings: &Settings) -> Evaluation {
    evaluate(run, settings, &Registry::builtin(), &()).unwrap()
}

fn ids(run: &Run, part: &str) -> BTreeSet<usize> {
    let split = run.split().unwrap();
    split.iter().filter(|row| row.split == part).map(|row| row.path.parse().unwrap()).collect()
}

/// The figures of some rows, by the run's head alone.
fn figures(run: &Run, all: &[Made], rows: &BTreeSet<usize>) -> Metrics {
    let values: Vec<f32> = rows.iter().flat_map(|&row| all[row].values.clone()).collect();
    let features = headstock_heads::FeatureMatrix::new(&values, 3).unwrap();
    let logits = run.model.head.logits(features).unwrap();
    let labels: Vec<u32> = rows.iter().map(|&row| u32::from(all[row].class == "b")).collect();
    run.model.predictions(&logits).unwrap().metrics(&labels)
}

/// Sums of the same numbers in another order may differ in their last digit.
fn close(a: Metrics, b: Metrics) -> bool {
    let pairs = [(a.top1, b.top1), (a.macro_f1, b.macro_f1), (a.log_loss, b.log_loss), (a.ece, b.ece)];
    pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-12)
}

/// That of `tested` those in `known` are counted, and the others have figures of their own.
fn tells(found: &TrainedOn, run: &Run, all: &[Made], tested: &BTreeSet<usize>, known: &BTreeSet<usize>) {
    let unseen: BTreeSet<usize> = tested.difference(known).copied().collect();
    assert!(!unseen.is_empty() && unseen.len() < tested.len(), "{unseen:?}");
    assert_eq!(found.samples, tested.len() - unseen.len());
    let told = found.unseen.unwrap();
    assert_eq!(told.samples, unseen.len());
    assert!(close(told.test, figures(run, all, &unseen)), "{told:?}");
    assert!(!close(told.test, figures(run, all, tested)), "both figures are told");
    assert!(told.conformal.is_some());
}

// effect: evaluate RUN
#[test]
fn a_run_tested_on_another_draw_counts_what_it_was_trained_on_and_tells_how_the_others_do() {
    let folder = tempfile::tempdir().unwrap();
    let all = rows(60);
    write(folder.path(), "x", &all);
    let (metrics, run) = trained(folder.path(), "run", None, &[]);
    assert_eq!(metrics.trained_on, None, "nothing was trained on before");

    // Its own test part is all unseen.
    let own = evaluated(&run, &settings(folder.path(), &[]));
    let told = own.trained_on.unwrap();
    assert_eq!((told.samples, told.unseen.unwrap().samples, own.samples), (0, 15, 15));
    assert_eq!(told.unseen.unwrap().test, own.metrics);
    assert_eq!(told.unseen.unwrap().conformal, own.conformal);
    assert_eq!(own.metrics, metrics.test);

    let other = settings(folder.path(), &["split.seed=5"]);
    let found = evaluated(&run, &other);
    let (_, drawn) = trained(folder.path(), "drawn", None, &["split.seed=5"]);
    let tested = ids(&drawn, "test");
    assert_eq!(found.metrics, figures(&run, &all, &tested));
    tells(&found.trained_on.unwrap(), &run, &all, &tested, &ids(&run, "train"));
}

#[test]
fn rows_are_known_by_their_values_wherever_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let all = rows(60);
    write(folder.path(), "x", &all);
    let (_, run) = trained(folder.path(), "run", None, &[]);
    let known = ids(&run, "train");

    // Another file, in another order, with more rows.
    let there = tempfile::tempdir().unwrap();
    let mut turned: Vec<Made> = rows(90);
    turned.reverse();
    write(there.path(), "x", &turned);
    let found = evaluated(&run, &settings(there.path(), &[]));
    let (_, drawn) = trained(there.path(), "drawn", None, &[]);
    let tested: BTreeSet<usize> = ids(&drawn, "test").into_iter().map(|row| 89 - row).collect();
    tells(&found.trained_on.unwrap(), &run, &rows(90), &tested, &known);

    // All of them, and none of them.
    let of = |rows: Vec<Made>| {
        write(there.path(), "x", &rows);
        evaluated(&run, &settings(there.path(), &[])).trained_on.unwrap()
    };
    let trained_on: Vec<Made> = known.iter().map(|&row| all[row].clone()).collect();
    let told = of(trained_on);
    assert!(told.samples > 5 && told.unseen.is_none(), "{told:?}");
    let told = of(rows(60)
        .into_iter()
        .map(|mut row| {
            row.values[0] += 0.5;
            row
        })
        .collect());
    assert_eq!((told.samples, told.unseen.unwrap().samples), (0, 15));
}

/// The file came later: an earlier headstock wrote runs without it.
#[test]
fn a_run_that_does_not_say_what_it_was_trained_on_is_asked_by_its_split() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "x", &rows(60));
    let (_, run) = trained(folder.path(), "run", None, &[]);
    let other = settings(folder.path(), &["split.seed=5"]);
    let told = evaluated(&run, &other).trained_on.unwrap();
    assert!(told.samples > 0);
    fs::remove_file(folder.path().join("run/trained_on.csv")).unwrap();
    assert_eq!(evaluated(&run, &other).trained_on, Some(told));

    // What it was trained on is gone: nothing is claimed.
    let there = tempfile::tempdir().unwrap();
    write(there.path(), "x", &rows(60));
    fs::remove_file(folder.path().join("x.npy")).unwrap();
    assert_eq!(evaluated(&run, &settings(there.path(), &[])).trained_on, None);
}

// effect: train --warm
#[test]
fn a_run_that_starts_from_another_tells_how_it_does_on_what_that_one_has_not_seen() {
    let folder = tempfile::tempdir().unwrap();
    let all = rows(60);
    write(folder.path(), "x", &all);
    let (_, first) = trained(folder.path(), "first", None, &[]);
    let (metrics, second) = trained(folder.path(), "second", Some(&first), &["split.seed=5"]);
    tells(&metrics.trained_on.unwrap(), &second, &all, &ids(&second, "test"), &ids(&first, "train"));

    // Whatever comes of the first has seen what it was trained on.
    let own = evaluated(&second, &settings(folder.path(), &["split.seed=5"]));
    assert_eq!(own.trained_on, metrics.trained_on);
    let (metrics, third) = trained(folder.path(), "third", Some(&second), &["split.seed=8"]);
    let seen: BTreeSet<usize> = &ids(&first, "train") | &ids(&second, "train");
    let told = metrics.trained_on.unwrap();
    assert_eq!(told.samples, ids(&third, "test").intersection(&seen).count());

    // On the same split nothing that is tested was trained on.
    let (metrics, _) = trained(folder.path(), "again", Some(&first), &[]);
    let told = metrics.trained_on.unwrap();
    assert_eq!((told.samples, told.unseen.unwrap().test), (0, metrics.test));

    // A head that is fitted from nothing has learned nothing of it.
    let (_, ridge) = trained(folder.path(), "ridge", None, &["head.kind=ridge"]);
    let (metrics, _) = trained(folder.path(), "cold", Some(&ridge), &["head.kind=ridge", "split.seed=5"]);
    assert_eq!(metrics.trained_on, None);
}

/// A folder of photos under other names, and a table of them, are known as well.
#[test]
fn photos_are_known_by_their_bytes_whatever_they_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let lay = |root: &str, name: &dyn Fn(usize) -> String, count: usize| {
        for number in 0..count {
            let path = folder.path().join(root).join(name(number));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, photo(number)).unwrap();
        }
    };
    let class = |number: usize| ["a", "b"][number % 2];
    lay("photos", &|number| format!("{}/{number:02}.png", class(number)), 16);
    lay("renamed", &|number| format!("{}/other{:02}.png", class(number), 40 - number), 20);
    lay("heap", &|number| format!("{number:02}.png"), 20);
    let table: String = (0..20).map(|number| format!("{number:02}.png,{}\n", class(number))).collect();
    fs::write(folder.path().join("heap.csv"), format!("id,label\n{table}")).unwrap();
    backbone(folder.path());
    let of = |data: &str| {
        let text = format!(
            "version = 1\n[data]\n{data}\n[split]\ntest_size = 0.25\n[backbone]\nweights = \"backbone\"\nlayer = \"layer1\"\n"
        );
        Config::parse(&text, "test", folder.path()).unwrap().resolve(&Registry::builtin()).unwrap()
    };
    let run = folder.path().join("run");
    train(&of("folder = \"photos\""), None, &RunPlace::Named(run.clone()), &()).unwrap();
    let run = Run::open(&run, &Registry::builtin()).unwrap();
    let split = run.split().unwrap();
    let known: BTreeSet<usize> = (split.iter().filter(|row| row.split == "train"))
        .map(|row| row.path[2..4].parse().unwrap())
        .collect();
    assert_eq!(known.len(), 12);
    for (data, number) in [
        (
            "test_folder = \"renamed\"\nfolder = \"photos\"",
            &(|id: &str| 40 - id[id.len() - 6..id.len() - 4].parse::<usize>().unwrap())
                as &dyn Fn(&str) -> usize,
        ),
        ("csv = \"heap.csv\"\nimages = \"heap\"", &|id: &str| id[..2].parse().unwrap()),
    ] {
        let settings = of(data);
        let found = evaluated(&run, &settings);
        let samples = crate::samples::Samples::read(&settings, &()).unwrap().0;
        let tested: Vec<usize> =
            samples.of(Part::Test).into_iter().map(|row| number(&samples.rows[row].id)).collect();
        let seen = tested.iter().filter(|&photo| known.contains(photo)).count();
        let told = found.trained_on.unwrap();
        assert!(seen > 0 && seen < tested.len(), "{tested:?}");
        assert_eq!((told.samples, told.unseen.unwrap().samples), (seen, tested.len() - seen), "{data}");
        if data.starts_with("csv") {
            continue;
        }
        // As from the photos themselves, where the run does not say it.
        let file = run.folder.join(crate::run::TRAINED_ON);
        let kept = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(evaluated(&run, &settings).trained_on, Some(told));
        fs::write(&file, kept).unwrap();
    }
}
