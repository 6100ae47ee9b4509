//! What `--json` prints: all fields of each command, none more, and what stands in them.

use std::fs;

use headstock_heads::{ConformalMethod, Registry};
use headstock_train::Run;
use serde_json::{Value, json};

use crate::support::{CLASSES, Project, fields, table};

/// Rows of a run's `predictions.csv`: the label's number, and the probability of each class.
struct Predicted {
    labels: Vec<usize>,
    predicted: Vec<usize>,
    probabilities: Vec<Vec<f32>>,
}

impl Predicted {
    fn read(project: &Project, run: &str) -> Self {
        let text = project.read(&format!("{run}/predictions.csv"));
        let header: Vec<&str> = text.lines().next().expect("a header").split(',').collect();
        assert_eq!(header[..4], ["path", "label", "predicted", "probability"]);
        let number = |class: &String| header[4..].iter().position(|name| name == class).expect("a class");
        let mut all = Self { labels: Vec::new(), predicted: Vec::new(), probabilities: Vec::new() };
        for row in table(&text) {
            all.labels.push(number(&row["label"]));
            all.predicted.push(number(&row["predicted"]));
            let of = |class: &&str| row[*class].parse().expect("a probability");
            all.probabilities.push(header[4..].iter().map(of).collect());
        }
        all
    }

    fn mean(&self, of: impl Fn(usize) -> f64) -> f64 {
        (0..self.labels.len()).map(of).sum::<f64>() / self.labels.len() as f64
    }

    fn top1(&self) -> f64 {
        self.mean(|row| f64::from(self.predicted[row] == self.labels[row]))
    }

    fn log_loss(&self) -> f64 {
        self.mean(|row| -f64::from(self.probabilities[row][self.labels[row]]).ln())
    }

    /// `2 tp / (2 tp + fp + fn)`, averaged over the classes.
    fn macro_f1(&self) -> f64 {
        let classes = self.probabilities[0].len();
        let f1 = |class: usize| {
            let count = |of: &dyn Fn(usize) -> bool| (0..self.labels.len()).filter(|&row| of(row)).count();
            let both = count(&|row| self.labels[row] == class && self.predicted[row] == class);
            let labelled = count(&|row| self.labels[row] == class);
            let said = count(&|row| self.predicted[row] == class);
            2.0 * both as f64 / (labelled + said) as f64
        };
        (0..classes).map(f1).sum::<f64>() / classes as f64
    }

    /// Guo et al. 2017, in 15 bins of the confidence.
    fn ece(&self) -> f64 {
        let confidence = |row: usize| f64::from(self.probabilities[row][self.predicted[row]]);
        let gaps = (0..15).map(|bin| {
            // A bin holds its upper edge, as `f32`.
            let edge = |bin: u32| f64::from((f64::from(bin) / 15.0) as f32);
            let (low, high) = (edge(bin), edge(bin + 1));
            let inside =
                (0..self.labels.len()).filter(|&row| confidence(row) > low && confidence(row) <= high);
            let gap = |row| confidence(row) - f64::from(self.predicted[row] == self.labels[row]);
            inside.map(gap).sum::<f64>().abs()
        });
        gaps.sum::<f64>() / self.labels.len() as f64
    }

    /// Of sets with these classes: how many hold the label, their mean size, how many are empty.
    fn of_sets(&self, set: impl Fn(&[f32]) -> Vec<usize>) -> Value {
        let sets: Vec<Vec<usize>> = self.probabilities.iter().map(|row| set(row)).collect();
        json!({
            "coverage": self.mean(|row| f64::from(sets[row].contains(&self.labels[row]))),
            "mean_size": self.mean(|row| sets[row].len() as f64),
            "empty": self.mean(|row| f64::from(sets[row].is_empty())),
        })
    }
}

/// Fails unless the numbers of two objects are as near as the rounding of `f32` lets them be.
#[track_caller]
fn near(found: &Value, expected: &Value) {
    assert_eq!(fields(found), fields(expected));
    for (name, expected) in expected.as_object().expect("an object") {
        let number = |value: &Value| value.as_f64().expect("a number");
        let (found, expected) = (number(&found[name]), number(expected));
        assert!((found - expected).abs() < 1e-6, "{name}: {found}, not {expected}");
    }
}

fn without(value: &Value, names: &[&str]) -> Value {
    let mut value = value.clone();
    value.as_object_mut().expect("an object").retain(|name, _| !names.contains(&name.as_str()));
    value
}

const FIGURES: [&str; 5] = ["ece", "log_loss", "macro_f1", "top1", "top5"];

// effect: --json, calibration
#[test]
fn training_tells_these_figures_and_they_are_those_of_its_predictions() {
    let project = Project::given("compare/overlapping");
    let train = |run: &str, more: &[&str]| {
        project.run(&[&["train", "--head", "svm", "--run", run, "--json"], more].concat()).ok().json()
    };
    let told = train("svm", &[]);
    let expected = [
        "calibration.after.ece",
        "calibration.after.log_loss",
        "calibration.before.ece",
        "calibration.before.log_loss",
        "calibration.folds",
        "calibration.method",
        "calibration.out_of_fold.after.ece",
        "calibration.out_of_fold.after.log_loss",
        "calibration.out_of_fold.before.ece",
        "calibration.out_of_fold.before.log_loss",
        "calibration.samples",
        "calibration.temperature",
        "conformal.aps.coverage",
        "conformal.aps.empty",
        "conformal.aps.mean_size",
        "conformal.coverage",
        "conformal.lac.coverage",
        "conformal.lac.empty",
        "conformal.lac.mean_size",
        "counts.classes",
        "counts.computed",
        "counts.skipped",
        "counts.test",
        "counts.train",
        "counts.views",
        "ece",
        "head",
        "log_loss",
        "macro_f1",
        "run",
        "seconds.calibration",
        "seconds.features",
        "seconds.fit",
        "seconds.test",
        "top1",
        "top5",
    ];
    assert_eq!(fields(&told), expected);
    assert_eq!((&told["run"], &told["head"]), (&"svm".into(), &"svm".into()));
    let counts = json!({ "classes": 3, "train": 135, "test": 15, "views": 0, "skipped": 0, "computed": 0 });
    assert_eq!(told["counts"], counts);
    // It is what the run keeps.
    let kept: Value = serde_json::from_str(&project.read("svm/metrics.json")).unwrap();
    assert_eq!(without(&told, &["run", "head"]), kept);

    let predicted = Predicted::read(&project, "svm");
    assert_eq!(predicted.labels.len(), 15);
    let figures = |predicted: &Predicted| {
        json!({
            "top1": predicted.top1(), "top5": 1.0, "macro_f1": predicted.macro_f1(),
            "log_loss": predicted.log_loss(), "ece": predicted.ece(),
        })
    };
    let mut of_test = told.clone();
    of_test.as_object_mut().unwrap().retain(|name, _| FIGURES.contains(&name.as_str()));
    near(&of_test, &figures(&predicted));

    // Before calibration it is the same head without one, and after it the figures are those of the test.
    let calibration = &told["calibration"];
    let plain = train("plain", &["--set", "calibration=none"]);
    let uncalibrated = figures(&Predicted::read(&project, "plain"));
    near(&calibration["before"], &without(&uncalibrated, &["top1", "top5", "macro_f1"]));
    near(&calibration["after"], &without(&of_test, &["top1", "top5", "macro_f1"]));
    let mut fewer: Vec<&str> = expected.to_vec();
    fewer.retain(|name| !name.starts_with("calibration") && !name.starts_with("conformal"));
    assert_eq!(fields(&plain), fewer);
    assert_eq!((&calibration["method"], &calibration["folds"]), (&"temperature".into(), &5.into()));
    assert_eq!(calibration["samples"], 135, "each training sample once");
    // The probabilities are those of the run without calibration, with logits divided by the temperature: `p^(1/T)`, normed.
    let temperature = calibration["temperature"].as_f64().unwrap();
    let plain = Predicted::read(&project, "plain");
    for (row, calibrated) in plain.probabilities.iter().zip(&predicted.probabilities) {
        let powers: Vec<f64> = row.iter().map(|&p| f64::from(p).powf(1.0 / temperature)).collect();
        let sum: f64 = powers.iter().sum();
        for (power, &calibrated) in powers.iter().zip(calibrated) {
            assert!((power / sum - f64::from(calibrated)).abs() < 1e-5, "{row:?}: {calibrated}");
        }
    }
    // What is kept lowers the log loss of what was held out and raises no error of calibration.
    let held_out = |when: &str, name: &str| calibration["out_of_fold"][when][name].as_f64().unwrap();
    assert!(held_out("after", "log_loss") < held_out("before", "log_loss"));
    assert!(held_out("after", "ece") <= held_out("before", "ece"));

    // Sets of the classes whose score is at most the 123rd of 135, for (135 + 1) 0.9 is 122.4.
    let run = Run::open(&project.path("svm"), &Registry::builtin()).unwrap();
    let scores = run.model.conformal.as_ref().unwrap().scores(ConformalMethod::Lac);
    assert!(scores.len() == 135 && scores.is_sorted());
    let lac = |row: &[f32]| (0..3).filter(|&class| -row[class] <= scores[122]).collect();
    near(&told["conformal"]["lac"], &predicted.of_sets(lac));
    let sets = run.model.sets(0.9, ConformalMethod::Aps).unwrap();
    let aps = |row: &[f32]| sets.predict(row).into_iter().map(|class| class as usize).collect();
    near(&told["conformal"]["aps"], &predicted.of_sets(aps));
    assert_eq!(told["conformal"]["coverage"], 0.9);
    assert_ne!(told["conformal"]["aps"], told["conformal"]["lac"], "on this data they are not the same");

    // What a command says is what it said when it trained.
    let again = project.run(&["evaluate", "svm", "--json"]).ok().json();
    let mut expected = without(&told, &["run", "head", "counts", "seconds", "calibration"]);
    expected["samples"] = 15.into();
    expected["skipped"] = 0.into();
    expected["same_samples"] = true.into();
    // No test row is one that the run was trained on: the figures of those that it has not seen are the same.
    let mut unseen = without(&expected, &["skipped", "same_samples"]);
    unseen["samples"] = 15.into();
    expected["trained_on"] = json!({"samples": 0, "unseen": unseen});
    assert_eq!(again, expected);
}

#[test]
fn a_calibration_that_does_not_help_is_named_as_dropped_and_a_parameter_that_was_chosen_is_told() {
    let project = Project::given("compare/overlapping");
    let told = project.run(&["train", "--json", "--set", "head.C=auto"]).ok();
    let json = told.json();
    let chosen = json["chosen"].as_object().unwrap();
    assert_eq!(chosen.keys().collect::<Vec<_>>(), ["C"]);
    assert!(
        told.stdout.contains(&format!("\nchosen: C = {}\n", chosen["C"].as_f64().unwrap())),
        "{}",
        told.stdout
    );
    let plain = project.run(&["train", "--json"]).ok();
    let calibration = &plain.json()["calibration"];
    assert_eq!((&calibration["method"], &calibration["dropped"]), (&"none".into(), &"temperature".into()));
    assert!(calibration.get("temperature").is_none() && plain.json().get("chosen").is_none());
    assert_eq!(calibration["before"], calibration["after"], "nothing was done");
    assert!(plain.stderr.contains("note: probabilities stay as they are"), "{}", plain.stderr);
    assert!(!plain.stdout.contains("calibrated:") && !plain.stdout.contains("chosen:"), "{}", plain.stdout);
}

// effect: predict --format, predict PHOTO, predict RUN
#[test]
fn each_format_of_predict_tells_what_the_run_tells_of_its_test_photos() {
    let project = Project::new(8);
    let trained = project.run(&["train", "--run", "r", "--json"]).ok().json();
    assert_eq!(
        trained["counts"],
        json!({ "classes": 3, "train": 18, "test": 6, "views": 0, "skipped": 0, "computed": 24 })
    );
    fs::write(project.path("bad.jpg"), "no photo").unwrap();
    let known = table(&project.read("r/predictions.csv"));
    let photos: Vec<String> = known.iter().map(|row| format!("photos/{}", row["path"])).collect();
    let mut named: Vec<&str> = photos.iter().map(String::as_str).collect();
    named.insert(3, "bad.jpg");
    let predict = |format: &[&str]| {
        project
            .run(&[&["predict", "r"], &named[..], format].concat())
            .fails(3, &["1 of 7 photos cannot be read"])
    };
    let jsonl = predict(&["--format", "jsonl", "--coverage", "0.6"]).stdout;
    let lines: Vec<Value> = jsonl.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let csv = table(&predict(&["--format", "csv"]).stdout);
    // The table is what is printed where no format is named.
    let shown = predict(&[]).stdout;
    assert_eq!(shown, predict(&["--format", "table"]).stdout);
    let mut shown = shown.lines();
    let mut known = known.iter();
    for (number, photo) in named.iter().enumerate() {
        let (line, row) = (&lines[number], &csv[number]);
        assert_eq!((&line["path"], &row["path"]), (&(*photo).into(), &(*photo).to_owned()));
        if *photo == "bad.jpg" {
            assert_eq!(fields(line), ["error", "path"]);
            assert!(line["error"].as_str().unwrap().starts_with("not a photo of a known format"), "{line}");
            assert!(row.iter().all(|(name, field)| name == "path" || field.is_empty()), "{row:?}");
            continue;
        }
        let known = known.next().unwrap();
        let of_classes = CLASSES.map(|class| format!("probabilities.{class}"));
        let all = ["path", "predicted", "probability"].map(str::to_owned);
        let expected = [&all[..2], &of_classes, &all[2..], &["set".to_owned()]].concat();
        let mut expected = expected;
        expected.sort();
        assert_eq!(fields(line), expected);
        assert_eq!(line["predicted"], known["predicted"].as_str());
        for name in ["predicted", "probability"].iter().chain(&CLASSES) {
            assert_eq!(row[*name], known[*name], "{photo}: {name}");
        }
        let exact =
            |value: &Value, known: &str| value.as_f64().unwrap() as f32 == known.parse::<f32>().unwrap();
        assert!(exact(&line["probability"], &known["probability"]), "{line}");
        assert!(CLASSES.iter().all(|class| exact(&line["probabilities"][class], &known[*class])), "{line}");
        // The table has the three most probable classes, the best first.
        let mut order = CLASSES.map(|class| (known[class].parse::<f32>().unwrap(), class));
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let classes = order.map(|(p, class)| format!("{class} {p:.3}")).join("  ");
        assert_eq!(shown.next(), Some(format!("{photo}  {classes}").as_str()));
    }
    assert_eq!((shown.next(), known.next(), csv.len(), lines.len()), (None, None, 7, 7));
}

// effect: extract --out, extract --run, extract --layer
#[test]
fn extract_tells_what_it_wrote_and_how_much_of_it_was_new() {
    let project = Project::new(3);
    let extract =
        |out: &str, more: &[&str]| project.run(&[&["extract", "--out", out, "--json"], more].concat()).ok();
    let figures = |out: &str, features: u64, computed: u64| json!({ "out": out, "rows": 9, "features": features, "computed": computed, "skipped": 0 });
    let first = extract("x.npz", &[]);
    assert_eq!(first.json(), figures("x.npz", 2048, 9));
    assert_eq!(first.stdout.lines().next(), Some("x.npz: 9 x 2048 features"));
    assert_eq!(extract("y.parquet", &[]).json(), figures("y.parquet", 2048, 0));
    // A run's own config is used, wherever it is called; --config goes before it.
    project
        .run(&["train", "--set", "backbone.layer=layer1", "--set", "split.test_size=3", "--run", "r"])
        .ok();
    fs::rename(project.path("headstock.toml"), project.path("moved.toml")).unwrap();
    assert_eq!(extract("r.npy", &["--run", "r"]).json(), figures("r.npy", 256, 0));
    let other = extract("c.npy", &["--run", "r", "--config", "moved.toml"]).json();
    assert_eq!(other, figures("c.npy", 2048, 0));
    let layer = extract("l.npy", &["--run", "r", "--layer", "stem"]).json();
    assert_eq!(layer, figures("l.npy", 64, 9));
    // What is set goes before both.
    let set = extract("s.npy", &["--run", "r", "--layer", "stem", "--set", "backbone.layer=layer1"]).json();
    assert_eq!(set, figures("s.npy", 256, 0));
}

// effect: train --find-lr
#[test]
fn the_range_test_tells_every_rate_that_it_tried_and_suggests_two_of_them() {
    let project = Project::new(2);
    let try_rates =
        ["train", "--find-lr", "--json", "--set", "tune.from=layer4", "--set", "tune.start=random"];
    let few = ["--set", "split.test_size=3", "--set", "tune.backbone_lr=0.002"];
    let done = project.run(&[&try_rates[..], &few].concat()).ok();
    let curve = done.json();
    let expected = [
        "a_tenth_of_lowest",
        "backbone_share",
        "points[].loss",
        "points[].lr",
        "points[].smoothed",
        "steepest",
    ];
    assert_eq!(fields(&curve), expected);
    let points: Vec<[f64; 3]> = curve["points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| ["lr", "loss", "smoothed"].map(|name| point[name].as_f64().unwrap()))
        .collect();
    // fastai's `lr_find`: rates from 1e-6 to 10 in a hundred steps, each the same multiple of the one before.
    assert!((20..=100).contains(&points.len()), "{}", points.len());
    for (step, [lr, ..]) in points.iter().enumerate() {
        assert!((lr / (1e-6 * 1e7_f64.powf(step as f64 / 99.0)) - 1.0).abs() < 1e-9, "{step}: {lr}");
    }
    // A head that knows nothing has a loss of about ln 3, and the average is that of the losses so far.
    assert!((points[0][1] - 3.0_f64.ln()).abs() < 0.4, "{:?}", points[0]);
    let (mut sum, mut weight) = (0.0, 0.0);
    for [_, loss, smoothed] in &points {
        (sum, weight) = (0.9 * sum + 0.1 * loss, 0.9 * weight + 0.1);
        assert!((sum / weight - smoothed).abs() < 1e-6 * smoothed, "{smoothed}");
    }
    let steepest =
        points.windows(2).min_by(|a, b| (a[1][2] - a[0][2]).total_cmp(&(b[1][2] - b[0][2]))).unwrap();
    let lowest = points.iter().min_by(|a, b| a[2].total_cmp(&b[2])).unwrap();
    assert!(lowest[2] < points[0][2], "the loss falls: {points:?}");
    assert_eq!(curve["steepest"], steepest[0][0]);
    assert_eq!(curve["a_tenth_of_lowest"], lowest[0] / 10.0);
    assert_eq!(curve["backbone_share"], 0.2, "0.002 of SGD's default of 0.01");
    let text = &done.stdout;
    assert!(
        text.contains(&format!("the loss falls most steeply at tune.lr = {:.1e}\n", steepest[0][0])),
        "{text}"
    );
    assert!(
        text.contains(&format!("a tenth of where it is lowest:  tune.lr = {:.1e}\n", lowest[0] / 10.0)),
        "{text}"
    );
    assert!(text.contains("(of the head; the last stage of the backbone has 0.2 of it)\n"), "{text}");
    assert!(!project.path("runs").exists(), "nothing is trained");
}

// effect: bench --tune, bench --batch, bench --seconds, --threads
#[test]
fn a_bench_of_tuning_tells_its_steps_and_what_they_were_made_with() {
    let project = Project::new(0);
    let bench = ["bench", "--weights", "backbone", "--tune", "layer4", "--batch", "3", "--seconds", "0.2"];
    let done = project.run(&[&bench[..], &["--threads", "3", "--json"]].concat()).ok();
    let figures = done.json();
    let number = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("{name}: {figures}"));
    let (steps, seconds) = (number("steps"), number("seconds"));
    assert!(steps >= 1.0 && seconds >= 0.2, "{figures}");
    assert!((number("images_per_second") / (3.0 * steps / seconds) - 1.0).abs() < 1e-9, "{figures}");
    assert!(cfg!(not(target_os = "linux")) || (90.0..10_000.0).contains(&number("peak_memory_mib")));
    let measured = ["images_per_second", "peak_memory_mib", "seconds", "steps"];
    let expected = json!({ "architecture": "resnet50", "batch": 3, "threads": 3 });
    assert_eq!(without(&figures, &measured), expected);
    let rate = number("images_per_second");
    let line = format!("resnet50, tuned, batch 3, 3 threads: {rate:.1} photos/s\n");
    assert!(done.stdout.starts_with(&line), "{}", done.stdout);
    project.run(&["bench", "--weights", "backbone", "--tune", "head"]).fails(2, &["tune"]);
}

// effect: heads NAME
#[test]
fn each_head_tells_its_keys_with_the_defaults_that_a_config_has() {
    let project = Project::given("feature_file/separable");
    let heads = project.run(&["heads", "--json"]).ok().json();
    let expected = ["about", "differentiable", "keys[].about", "keys[].default", "keys[].name", "name"]
        .map(|name| format!("heads[].{name}"));
    assert_eq!(fields(&heads), expected);
    let mut differentiable = Vec::new();
    for head in heads["heads"].as_array().unwrap() {
        let name = head["name"].as_str().unwrap();
        let about = head["about"].as_str().unwrap();
        if head["differentiable"] == true {
            differentiable.push(name);
        }
        let shown = project.run(&["heads", name]).ok().stdout;
        assert!(shown.starts_with(&format!("# {name}: {about}\n")), "{shown}");
        // What is written of a head that is told nothing.
        project.run(&["train", "--head", name, "--run", name]).ok();
        let config: toml::Table = project.read(&format!("{name}/headstock.toml")).parse().unwrap();
        let mut written = config["head"].as_table().unwrap().clone();
        assert_eq!(written.remove("kind").unwrap().as_str(), Some(name));
        for key in head["keys"].as_array().unwrap() {
            let key_name = key["name"].as_str().unwrap();
            let default =
                written.remove(key_name).map_or(Value::Null, |value| serde_json::to_value(value).unwrap());
            assert_eq!(key["default"], default, "{name}: {key_name}");
            let line = format!("# {}\n", key["about"].as_str().unwrap());
            assert!(shown.contains(&line), "{line} is not in {shown}");
        }
        assert!(written.is_empty(), "{name} does not tell {written}");
    }
    assert_eq!(differentiable, ["cosine", "linear", "mlp"]);
}
