//! Fields and values of the output of `--json` of each command.

use std::fs;

use headstock_heads::ConformalMethod;
use headstock_train::Run;
use headstock_train::config::Registries;
use serde_json::{Value, json};

use crate::support::{CLASSES, Project, field_paths, parse_csv};

/// The `predictions.csv` of a run: labels, predicted labels, probabilities `[N, C]`.
struct PredictionsTable {
    labels: Vec<usize>,
    predicted: Vec<usize>,
    probabilities: Vec<Vec<f32>>,
}

impl PredictionsTable {
    fn read(project: &Project, run: &str) -> Self {
        let text = project.read(&format!("{run}/predictions.csv"));
        let header: Vec<&str> = text.lines().next().expect("a header").split(',').collect();
        assert_eq!(header[..4], ["path", "label", "predicted", "probability"]);
        let number = |class: &String| header[4..].iter().position(|name| name == class).expect("a class");
        let mut table = Self { labels: Vec::new(), predicted: Vec::new(), probabilities: Vec::new() };
        for row in parse_csv(&text) {
            table.labels.push(number(&row["label"]));
            table.predicted.push(number(&row["predicted"]));
            let probability = |class: &&str| row[*class].parse().expect("a probability");
            table.probabilities.push(header[4..].iter().map(probability).collect());
        }
        table
    }

    fn mean(&self, value: impl Fn(usize) -> f64) -> f64 {
        (0..self.labels.len()).map(value).sum::<f64>() / self.labels.len() as f64
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
            let count = |predicate: &dyn Fn(usize) -> bool| {
                (0..self.labels.len()).filter(|&row| predicate(row)).count()
            };
            let both = count(&|row| self.labels[row] == class && self.predicted[row] == class);
            let labelled = count(&|row| self.labels[row] == class);
            let predicted = count(&|row| self.predicted[row] == class);
            2.0 * both as f64 / (labelled + predicted) as f64
        };
        (0..classes).map(f1).sum::<f64>() / classes as f64
    }

    /// Expected calibration error with 15 bins of the confidence (Guo et al. 2017).
    fn ece(&self) -> f64 {
        let confidence = |row: usize| f64::from(self.probabilities[row][self.predicted[row]]);
        let gaps = (0..15).map(|bin| {
            // Bins include their upper edge, as `f32`.
            let edge = |bin: u32| f64::from((f64::from(bin) / 15.0) as f32);
            let (low, high) = (edge(bin), edge(bin + 1));
            let inside =
                (0..self.labels.len()).filter(|&row| confidence(row) > low && confidence(row) <= high);
            let gap = |row| confidence(row) - f64::from(self.predicted[row] == self.labels[row]);
            inside.map(gap).sum::<f64>().abs()
        });
        gaps.sum::<f64>() / self.labels.len() as f64
    }

    /// Coverage, mean size and fraction of empty sets.
    fn set_metrics(&self, set: impl Fn(&[f32]) -> Vec<usize>) -> Value {
        let sets: Vec<Vec<usize>> = self.probabilities.iter().map(|row| set(row)).collect();
        json!({
            "coverage": self.mean(|row| f64::from(sets[row].contains(&self.labels[row]))),
            "mean_size": self.mean(|row| sets[row].len() as f64),
            "empty": self.mean(|row| f64::from(sets[row].is_empty())),
        })
    }
}

/// Fails unless two objects have the same fields with equal numbers up to the rounding of `f32`.
#[track_caller]
fn assert_near(found: &Value, expected: &Value) {
    assert_eq!(field_paths(found), field_paths(expected));
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

const METRICS: [&str; 5] = ["ece", "log_loss", "macro_f1", "top1", "top5"];

// effect: --json, calibration
#[test]
fn train_reports_the_metrics_of_its_predictions() {
    let project = Project::with_features("compare/overlapping");
    let train = |run: &str, more: &[&str]| {
        project.run(&[&["train", "--head", "svm", "--run", run, "--json"], more].concat()).ok().json()
    };
    let trained = train("svm", &[]);
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
    assert_eq!(field_paths(&trained), expected);
    assert_eq!((&trained["run"], &trained["head"]), (&"svm".into(), &"svm".into()));
    let counts = json!({ "classes": 3, "train": 135, "test": 15, "views": 0, "skipped": 0, "passed_over": {}, "computed": 0 });
    assert_eq!(trained["counts"], counts);
    // metrics.json has the same.
    let saved: Value = serde_json::from_str(&project.read("svm/metrics.json")).unwrap();
    assert_eq!(without(&trained, &["run", "head"]), saved);

    let predicted = PredictionsTable::read(&project, "svm");
    assert_eq!(predicted.labels.len(), 15);
    let metrics = |predicted: &PredictionsTable| {
        json!({
            "top1": predicted.top1(), "top5": 1.0, "macro_f1": predicted.macro_f1(),
            "log_loss": predicted.log_loss(), "ece": predicted.ece(),
        })
    };
    let mut test_metrics = trained.clone();
    test_metrics.as_object_mut().unwrap().retain(|name, _| METRICS.contains(&name.as_str()));
    assert_near(&test_metrics, &metrics(&predicted));

    // `before` equals the metrics of an uncalibrated run, and `after` those of this run.
    let calibration = &trained["calibration"];
    let plain = train("plain", &["--set", "calibration=none"]);
    let uncalibrated = metrics(&PredictionsTable::read(&project, "plain"));
    assert_near(&calibration["before"], &without(&uncalibrated, &["top1", "top5", "macro_f1"]));
    assert_near(&calibration["after"], &without(&test_metrics, &["top1", "top5", "macro_f1"]));
    let mut fewer: Vec<&str> = expected.to_vec();
    fewer.retain(|name| !name.starts_with("calibration") && !name.starts_with("conformal"));
    assert_eq!(field_paths(&plain), fewer);
    assert_eq!((&calibration["method"], &calibration["folds"]), (&"temperature".into(), &5.into()));
    assert_eq!(calibration["samples"], 135, "each training sample once");
    // Temperature scaling of the uncalibrated probabilities: `p^(1/T)`, normalized.
    let temperature = calibration["temperature"].as_f64().unwrap();
    let plain = PredictionsTable::read(&project, "plain");
    for (row, calibrated) in plain.probabilities.iter().zip(&predicted.probabilities) {
        let powers: Vec<f64> = row.iter().map(|&p| f64::from(p).powf(1.0 / temperature)).collect();
        let sum: f64 = powers.iter().sum();
        for (power, &calibrated) in powers.iter().zip(calibrated) {
            assert!((power / sum - f64::from(calibrated)).abs() < 1e-5, "{row:?}: {calibrated}");
        }
    }
    // A calibration that is used lowers the held-out log-loss and does not raise the calibration error.
    let held_out = |when: &str, name: &str| calibration["out_of_fold"][when][name].as_f64().unwrap();
    assert!(held_out("after", "log_loss") < held_out("before", "log_loss"));
    assert!(held_out("after", "ece") <= held_out("before", "ece"));

    // Sets of the classes whose score is at most the 123rd of 135: (135 + 1) 0.9 = 122.4, rounded up.
    let run = Run::open(&project.path("svm"), &Registries::builtin()).unwrap();
    let scores = run.model.conformal.as_ref().unwrap().scores(ConformalMethod::Lac);
    assert!(scores.len() == 135 && scores.is_sorted());
    let lac = |row: &[f32]| (0..3).filter(|&class| -row[class] <= scores[122]).collect();
    assert_near(&trained["conformal"]["lac"], &predicted.set_metrics(lac));
    let sets = run.model.sets(0.9, ConformalMethod::Aps).unwrap();
    let aps = |row: &[f32]| sets.predict(row).into_iter().map(|class| class as usize).collect();
    assert_near(&trained["conformal"]["aps"], &predicted.set_metrics(aps));
    assert_eq!(trained["conformal"]["coverage"], 0.9);
    assert_ne!(trained["conformal"]["aps"], trained["conformal"]["lac"], "the methods differ on this data");

    // `evaluate` prints the metrics of the training run.
    let again = project.run(&["evaluate", "svm", "--json"]).ok().json();
    let mut expected = without(&trained, &["run", "head", "counts", "seconds", "calibration"]);
    expected["samples"] = 15.into();
    expected["skipped"] = 0.into();
    expected["passed_over"] = json!({});
    expected["same_samples"] = true.into();
    // The run was trained on none of the test rows: the metrics on unseen rows are the same.
    let mut unseen = without(&expected, &["skipped", "passed_over", "same_samples"]);
    unseen["samples"] = 15.into();
    expected["trained_on"] = json!({"samples": 0, "unseen": unseen});
    assert_eq!(again, expected);
}

#[test]
fn dropped_calibrations_and_chosen_parameters_are_reported() {
    let project = Project::with_features("compare/overlapping");
    let output = project.run(&["train", "--json", "--set", "head.C=auto"]).ok();
    let json = output.json();
    let chosen = json["chosen"].as_object().unwrap();
    assert_eq!(chosen.keys().collect::<Vec<_>>(), ["C"]);
    assert!(
        output.stdout.contains(&format!("\nchosen hyperparameters: C = {}\n", chosen["C"].as_f64().unwrap())),
        "{}",
        output.stdout
    );
    let plain = project.run(&["train", "--json"]).ok();
    let calibration = &plain.json()["calibration"];
    assert_eq!((&calibration["method"], &calibration["dropped"]), (&"none".into(), &"temperature".into()));
    assert!(calibration.get("temperature").is_none() && plain.json().get("chosen").is_none());
    assert_eq!(calibration["before"], calibration["after"], "a dropped calibration changes nothing");
    assert!(
        plain.stderr.contains(
            "note: the probabilities are used as the head gives them: calibration (temperature), which"
        ),
        "{}",
        plain.stderr
    );
    assert!(!plain.stdout.contains("calibration (") && !plain.stdout.contains("chosen"), "{}", plain.stdout);
}

// effect: predict --format, predict PHOTO, predict RUN
#[test]
fn each_format_of_predict_agrees_with_the_predictions_of_the_run() {
    let project = Project::new(8);
    let trained = project.run(&["train", "--run", "r", "--json"]).ok().json();
    assert_eq!(
        trained["counts"],
        json!({ "classes": 3, "train": 18, "test": 6, "views": 0, "skipped": 0, "passed_over": {}, "computed": 24 })
    );
    fs::write(project.path("bad.jpg"), "no photo").unwrap();
    let known = parse_csv(&project.read("r/predictions.csv"));
    let images: Vec<String> = known.iter().map(|row| format!("photos/{}", row["path"])).collect();
    let mut named: Vec<&str> = images.iter().map(String::as_str).collect();
    named.insert(3, "bad.jpg");
    let predict = |format: &[&str]| {
        project
            .run(&[&["predict", "r"], &named[..], format].concat())
            .fails(3, &["1 of 7 photos cannot be read"])
    };
    let jsonl = predict(&["--format", "jsonl", "--coverage", "0.6"]).stdout;
    let lines: Vec<Value> = jsonl.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let csv = parse_csv(&predict(&["--format", "csv"]).stdout);
    // The table is the default format.
    let shown = predict(&[]).stdout;
    assert_eq!(shown, predict(&["--format", "table"]).stdout);
    let mut shown = shown.lines();
    let mut known = known.iter();
    for (number, image) in named.iter().enumerate() {
        let (line, row) = (&lines[number], &csv[number]);
        assert_eq!((&line["path"], &row["path"]), (&(*image).into(), &(*image).to_owned()));
        if *image == "bad.jpg" {
            assert_eq!(field_paths(line), ["error", "path"]);
            assert!(
                line["error"].as_str().unwrap().starts_with("not a photo in a supported format"),
                "{line}"
            );
            assert!(row.iter().all(|(name, field)| name == "path" || field.is_empty()), "{row:?}");
            continue;
        }
        let known = known.next().unwrap();
        let class_fields = CLASSES.map(|class| format!("probabilities.{class}"));
        let all = ["path", "predicted", "probability"].map(str::to_owned);
        let expected = [&all[..2], &class_fields, &all[2..], &["set".to_owned()]].concat();
        let mut expected = expected;
        expected.sort();
        assert_eq!(field_paths(line), expected);
        assert_eq!(line["predicted"], known["predicted"].as_str());
        for name in ["predicted", "probability"].iter().chain(&CLASSES) {
            assert_eq!(row[*name], known[*name], "{image}: {name}");
        }
        let exact =
            |value: &Value, known: &str| value.as_f64().unwrap() as f32 == known.parse::<f32>().unwrap();
        assert!(exact(&line["probability"], &known["probability"]), "{line}");
        assert!(CLASSES.iter().all(|class| exact(&line["probabilities"][class], &known[*class])), "{line}");
        // The table has the three most probable classes in order.
        let mut order = CLASSES.map(|class| (known[class].parse::<f32>().unwrap(), class));
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let classes = order.map(|(p, class)| format!("{class} {p:.3}")).join("  ");
        assert_eq!(shown.next(), Some(format!("{image}  {classes}").as_str()));
    }
    assert_eq!((shown.next(), known.next(), csv.len(), lines.len()), (None, None, 7, 7));
}

// effect: extract --out, extract --run, extract --layer
#[test]
fn extract_reports_rows_and_computed_features() {
    let project = Project::new(3);
    let extract =
        |out: &str, more: &[&str]| project.run(&[&["extract", "--out", out, "--json"], more].concat()).ok();
    let figures = |out: &str, features: u64, computed: u64| json!({ "out": out, "rows": 9, "features": features, "computed": computed, "skipped": 0, "passed_over": {} });
    let first = extract("x.npz", &[]);
    assert_eq!(first.json(), figures("x.npz", 2048, 9));
    assert_eq!(first.stdout.lines().next(), Some("x.npz: 9 photos, 2048 features per photo"));
    assert_eq!(extract("y.parquet", &[]).json(), figures("y.parquet", 2048, 0));
    // The config of the run is used in any folder; --config has precedence.
    project
        .run(&["train", "--set", "backbone.layer=layer1", "--set", "split.test_size=3", "--run", "r"])
        .ok();
    fs::rename(project.path("headstock.toml"), project.path("moved.toml")).unwrap();
    assert_eq!(extract("r.npy", &["--run", "r"]).json(), figures("r.npy", 256, 0));
    let other = extract("c.npy", &["--run", "r", "--config", "moved.toml"]).json();
    assert_eq!(other, figures("c.npy", 2048, 0));
    let layer = extract("l.npy", &["--run", "r", "--layer", "stem"]).json();
    assert_eq!(layer, figures("l.npy", 64, 9));
    // --set has precedence over both.
    let set = extract("s.npy", &["--run", "r", "--layer", "stem", "--set", "backbone.layer=layer1"]).json();
    assert_eq!(set, figures("s.npy", 256, 0));
}

// effect: train --find-lr
#[test]
fn find_lr_reports_the_whole_curve_and_two_suggestions() {
    let project = Project::new(2);
    let try_rates =
        ["train", "--find-lr", "--json", "--set", "tune.from=layer4", "--set", "tune.head_init=random"];
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
    assert_eq!(field_paths(&curve), expected);
    let samples: Vec<[f64; 3]> = curve["points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| ["lr", "loss", "smoothed"].map(|name| point[name].as_f64().unwrap()))
        .collect();
    // As fastai's `lr_find`: 100 rates from 1e-6 to 10 in geometric progression.
    assert!((20..=100).contains(&samples.len()), "{}", samples.len());
    for (step, [lr, ..]) in samples.iter().enumerate() {
        assert!((lr / (1e-6 * 1e7_f64.powf(step as f64 / 99.0)) - 1.0).abs() < 1e-9, "{step}: {lr}");
    }
    // An untrained head has a loss of about ln 3; `smoothed` is an exponential moving average with bias
    // correction.
    assert!((samples[0][1] - 3.0_f64.ln()).abs() < 0.4, "{:?}", samples[0]);
    let (mut sum, mut weight) = (0.0, 0.0);
    for [_, loss, smoothed] in &samples {
        (sum, weight) = (0.9 * sum + 0.1 * loss, 0.9 * weight + 0.1);
        assert!((sum / weight - smoothed).abs() < 1e-6 * smoothed, "{smoothed}");
    }
    let steepest =
        samples.windows(2).min_by(|a, b| (a[1][2] - a[0][2]).total_cmp(&(b[1][2] - b[0][2]))).unwrap();
    let lowest = samples.iter().min_by(|a, b| a[2].total_cmp(&b[2])).unwrap();
    assert!(lowest[2] < samples[0][2], "the loss falls: {samples:?}");
    assert_eq!(curve["steepest"], steepest[0][0]);
    assert_eq!(curve["a_tenth_of_lowest"], lowest[0] / 10.0);
    assert_eq!(curve["backbone_share"], 0.2, "0.002 / 0.01, the default rate of SGD");
    let text = &done.stdout;
    assert!(
        text.contains(&format!("try tune.lr = {:.1e}, where the loss falls fastest\n", steepest[0][0])),
        "{text}"
    );
    assert!(
        text.contains(&format!(
            "or tune.lr = {:.1e}, a tenth of the learning rate with the lowest loss\n",
            lowest[0] / 10.0
        )),
        "{text}"
    );
    assert!(
        text.contains(
            "(tune.lr is the learning rate of the head; the last stage of the backbone is trained with 0.2 \
             times that rate)\n"
        ),
        "{text}"
    );
    assert!(!project.path("runs").exists(), "nothing is trained");
}

// effect: bench --tune, bench --batch, bench --seconds, --threads
#[test]
fn bench_tune_reports_steps_and_settings() {
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
    let line = format!("resnet50, fine-tuning, batches of 3, 3 threads: {rate:.1} photos/s\n");
    assert!(done.stdout.starts_with(&line), "{}", done.stdout);
    project
        .run(&["bench", "--weights", "backbone", "--tune", "head"])
        .fails(2, &["`head` is no stage of the backbone"]);
}

// effect: heads NAME
#[test]
fn heads_lists_the_keys_and_defaults_of_each_head() {
    let project = Project::with_features("feature_file/separable");
    let heads = project.run(&["heads", "--json"]).ok().json();
    let expected = ["about", "differentiable", "keys[].about", "keys[].default", "keys[].name", "name"]
        .map(|name| format!("heads[].{name}"));
    assert_eq!(field_paths(&heads), expected);
    let mut differentiable = Vec::new();
    for head in heads["heads"].as_array().unwrap() {
        let name = head["name"].as_str().unwrap();
        let about = head["about"].as_str().unwrap();
        if head["differentiable"] == true {
            differentiable.push(name);
        }
        let shown = project.run(&["heads", name]).ok().stdout;
        assert!(shown.starts_with(&format!("# {name}: {about}\n")), "{shown}");
        // The resolved config of a run has the defaults.
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
        assert!(written.is_empty(), "{name} does not list {written}");
    }
    assert_eq!(differentiable, ["cosine", "linear", "mlp"]);
}
