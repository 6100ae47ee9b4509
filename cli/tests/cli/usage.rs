//! Arguments and output of the commands.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::{Project, run_command};
use headstock_heads::Registry;
use headstock_hub::DownloadProgress;
use headstock_inference::{Predictor, Progress};
use headstock_loader::ImageRef;
use headstock_loader::source::find_image_files;
use headstock_train::TrainError;

/// The line below "next:" that contains `word`.
fn next_command(stdout: &str, word: &str) -> String {
    let lines: Vec<&str> =
        stdout.lines().skip_while(|line| *line != "next:").filter(|line| line.contains(word)).collect();
    assert_eq!(lines.len(), 1, "{stdout}");
    lines[0].to_owned()
}

#[cfg(unix)]
#[test]
fn the_suggested_commands_run_as_printed() {
    let project = Project::new(8);
    fs::rename(project.path("photos"), project.path("it's photos")).unwrap();
    let data = "data.folder=it's photos";
    let trained = ["train", "--run", "my run", "--set", data, "--set", "split.seed=7"];
    let stdout = project.run(&trained).ok().stdout;
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        run_command(command.args(["-c", line]).current_dir(project.path("")).stdin(Stdio::null())).ok()
    };
    let predicted = shell(&next_command(&stdout, " predict "));
    assert!(predicted.stdout.starts_with("it's photos/"), "{}", predicted.stdout);
    let again = shell(&next_command(&stdout, " train "));
    assert!(again.stdout.contains("(0 computed)"), "{}", again.stdout);
    assert_eq!(project.read("runs/svm-1/split.csv"), project.read("my run/split.csv"), "overrides were used");
}

#[cfg(target_os = "linux")]
#[test]
fn training_with_a_broken_stdout_still_logs_its_run() {
    let project = Project::new(4);
    let full = fs::File::create("/dev/full").unwrap();
    let failed = run_command(project.command(&["train"]).stdout(full).stderr(Stdio::piped()));
    let failed = failed.fails(
        1,
        &["failed to write the results to stdout", "No space left", "the run was written to runs/linear-1"],
    );
    assert_eq!(failed.stderr.matches("error:").count(), 1, "{}", failed.stderr);
    project.run(&["evaluate", "runs/linear-1"]).ok();
}

#[cfg(unix)]
#[test]
fn predict_lists_a_folder_as_training_does() {
    let project = Project::new(4);
    project.run(&["train"]).ok();
    let folder = project.path("new");
    fs::create_dir_all(folder.join(".shelf")).unwrap();
    for name in ["b.jpg", ".shelf/c.jpg"] {
        fs::copy(project.path("photos/hat/00.jpg"), folder.join(name)).unwrap();
    }
    // A metadata file that macOS writes on other file systems.
    fs::write(folder.join("._b.jpg"), "no photo").unwrap();
    std::os::unix::fs::symlink(".shelf", folder.join("a")).unwrap();
    let predicted = project.run(&["predict", "runs/linear-1", "new", "--format", "csv"]).ok();
    let paths: Vec<&str> =
        predicted.stdout.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(paths, ["new/a/c.jpg", "new/b.jpg"]);
    std::os::unix::fs::symlink("../photos", folder.join("out")).unwrap();
    project.run(&["predict", "runs/linear-1", "new"]).fails(3, &["new/out points outside the folder new"]);
}

#[cfg(unix)]
#[test]
fn the_table_has_one_line_per_image_whatever_the_names() {
    let project = Project::new(4);
    fs::rename(project.path("photos/hat"), project.path("photos/ha\nt")).unwrap();
    project.run(&["train"]).ok();
    let image = "\u{1b}[31mred.jpg";
    fs::copy(project.path("photos/dress/00.jpg"), project.path(image)).unwrap();
    fs::write(project.path("\u{1b}[2Jbad.jpg"), "no photo").unwrap();
    let predicted = project.run(&["predict", "runs/linear-1", image, "photos/ha\nt", "\u{1b}[2Jbad.jpg"]);
    let predicted = predicted.fails(3, &[r"\u{1b}[2Jbad.jpg cannot be read"]);
    assert_eq!(predicted.stdout.lines().count(), 5, "{}", predicted.stdout);
    assert!(predicted.stdout.starts_with(r"\u{1b}[31mred.jpg  dress "), "{}", predicted.stdout);
    assert!(predicted.stdout.contains(r"photos/ha\nt/00.jpg  ha\nt "), "{}", predicted.stdout);
    assert!(!(predicted.stdout + &predicted.stderr).contains('\u{1b}'));
}

#[test]
fn a_failure_is_reported_once_in_our_words() {
    let project = Project::new(3);
    let mut train = project.command(&["train", "--set", "backbone.weights=hf://owner/name"]);
    // No server listens on port 1.
    train.env("HF_ENDPOINT", "http://127.0.0.1:1").env("HF_HOME", project.path("hub"));
    let failed = run_command(&mut train).fails(4, &["owner/name"]);
    assert!(failed.stderr.starts_with("error: "), "{}", failed.stderr);
    assert_eq!(failed.stderr.matches("error: ").count(), 1, "{}", failed.stderr);
}

// effect: bench --precision, bench --weights, --config
#[test]
fn bench_uses_its_arguments_and_only_the_backbone_section() {
    let project = Project::new(0);
    let bench = |more: &[&str]| {
        project.run(&[&["bench", "--json", "--batch", "1", "--seconds", "0.01"][..], more].concat())
    };
    let figures = bench(&[]).ok().json();
    assert_eq!((&figures["precision"], &figures["batch"]), (&"f32".into(), &1.into()));
    let weights = ["--weights", "backbone"];
    fs::rename(project.path("headstock.toml"), project.path("away.toml")).unwrap();
    bench(&weights).ok();
    fs::rename(project.path("away.toml"), project.path("headstock.toml")).unwrap();
    // Neither is available here; the error proves that the argument was used.
    let (bf16, cuda) = ("backbone.precision=bf16", "backbone.device=cuda");
    let portable = |more: &[&str]| {
        let arguments = [&["bench", "--json", "--batch", "1", "--seconds", "0.01"][..], more].concat();
        run_command(project.command(&arguments).env("HEADSTOCK_ISA", "portable"))
    };
    assert_eq!(portable(&[]).ok().json()["isa"], "portable");
    let no_bf16 =
        ["HEADSTOCK_ISA=portable cannot be used: this instruction set has no code for the precision bf16"];
    let on_cpu = ["--set", "backbone.device=cpu"];
    for flags in [["--set", bf16], ["--precision", "bf16"]] {
        portable(&[flags, on_cpu].concat()).fails(2, &no_bf16);
        portable(&[weights, flags, on_cpu].concat()).fails(2, &no_bf16);
    }
    let text = project.read("headstock.toml");
    project.write("headstock.toml", &format!("{text}precision = \"bf16\"\ndevice = \"cpu\"\n"));
    portable(&[]).fails(2, &no_bf16);
    portable(&["--precision", "f32"]).ok();
    portable(&["--config", "headstock.toml", "--weights", "backbone"]).fails(2, &no_bf16);
    if !cfg!(feature = "cuda") {
        bench(&[&weights[..], &["--set", cuda]].concat()).fails(2, &["--features cuda"]);
    }
    bench(&[&weights[..], &["--set", "backbone.devise=cpu"]].concat())
        .fails(2, &["bench --weights (with changed keys): unknown key `backbone.devise`"]);
}

#[test]
fn numbers_out_of_range_are_refused() {
    let project = Project::new(0);
    for (option, value) in [
        ("--seconds", "1e300"),
        ("--seconds", "NaN"),
        ("--seconds", "inf"),
        ("--seconds", "-1"),
        ("--batch", "0"),
        ("--batch", "4097"),
        ("--batch", "100000000000"),
        ("--batch", "18446744073709551615"),
        ("--threads", "1025"),
        ("--threads", "10000000"),
    ] {
        let argument = format!("{option}={value}");
        project.run(&["bench", "--weights", "backbone", &argument]).fails(2, &[option, value]);
    }
}

#[test]
fn unused_overrides_are_reported() {
    let project = Project::new(10);
    for command in [&["heads"][..], &["heads", "svm"], &["init", "photos", "--config", "new.toml"]] {
        let done = project.run(&[command, &["--set", "head.C=1"]].concat()).ok();
        assert!(done.stderr.contains("--set head.C=1 has no effect"), "{}", done.stderr);
    }
    project.run(&["heads", "--config", "absent.toml"]).ok();
}

#[test]
fn heads_are_described_in_json() {
    let project = Project::new(0);
    let described = project.run(&["heads", "--json"]).ok().json();
    let names: Vec<&str> =
        described["heads"].as_array().unwrap().iter().map(|head| head["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cosine", "knn", "lda", "linear", "mlp", "nearest-mean", "ridge", "svm"]);
    let one = project.run(&["heads", "svm", "--json"]).ok().json();
    assert_eq!(one["heads"].as_array().unwrap().len(), 1);
    assert_eq!(one["heads"][0], described["heads"][7]);
    let keys = one["heads"][0]["keys"].as_array().unwrap();
    let c = keys.iter().find(|key| key["name"] == "C").unwrap();
    assert!(c["default"].is_number() && !c["about"].as_str().unwrap().is_empty(), "{c}");
}

#[cfg(unix)]
#[test]
fn predictions_are_shown_as_they_are_made() {
    let project = Project::new(4);
    project.run(&["train"]).ok();
    // The last photo is a pipe: the program waits until something is written to it.
    assert!(Command::new("mkfifo").arg(project.path("last.jpg")).status().unwrap().success());
    let images = ["photos/hat/00.jpg"].repeat(64);
    let predict = [&["predict", "runs/linear-1"][..], &images, &["last.jpg"]].concat();
    let mut child = project.command(&predict).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (send, receive) = mpsc::channel();
    let reader = thread::spawn(move || {
        send.send(lines.next()).unwrap();
        lines.count()
    });
    let first = receive.recv_timeout(Duration::from_secs(120));
    fs::copy(project.path("photos/hat/01.jpg"), project.path("last.jpg")).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(reader.join().unwrap(), 64);
    assert!(first.unwrap().unwrap().unwrap().starts_with("photos/hat/00.jpg  "));
}

/// Records the progress of a prediction.
#[derive(Default)]
struct Recorder {
    begun: Mutex<Vec<(String, u64, &'static str)>>,
    steps: Mutex<Vec<u64>>,
    ended: Mutex<usize>,
}

impl DownloadProgress for Recorder {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}

impl Progress for Recorder {
    fn begin(&self, phase: &str, total: u64, unit: &'static str) {
        self.begun.lock().expect("no panic before").push((phase.to_owned(), total, unit));
    }
    fn step(&self, count: u64) {
        self.steps.lock().expect("no panic before").push(count);
    }
    fn set_position(&self, _: u64, _: u64) {}
    fn milestone(&self, _: &str) {}
    fn end(&self) {
        *self.ended.lock().expect("no panic before") += 1;
    }
}

#[test]
fn predict_reports_progress() {
    let project = Project::new(10);
    project.run(&["train"]).ok();
    let predictor = Predictor::open(&project.path("runs/linear-1"), &Registry::builtin()).unwrap();
    let found = find_image_files(&project.path("photos"), false).unwrap().images;
    let images: Vec<ImageRef> = found.into_iter().map(|(_, image)| image).collect();
    let (progress, mut reported) = (Recorder::default(), Vec::new());
    predictor
        .predict_images::<TrainError>(&images, &progress, &mut |batch, predicted| {
            assert!(predicted.len() == batch.len() && predicted.iter().all(Result::is_ok));
            reported.extend_from_slice(batch);
            Ok(())
        })
        .unwrap();
    assert_eq!(reported, images, "in order");
    assert_eq!(*progress.begun.lock().unwrap(), [("predicting".to_owned(), 30, "photos")]);
    let steps = progress.steps.lock().unwrap().clone();
    assert!(steps.len() > 1 && steps.iter().sum::<u64>() == 30, "{steps:?}");
    assert_eq!(*progress.ended.lock().unwrap(), 1);

    // An error of the callback stops the prediction and ends the phase.
    let stop = || TrainError::Usage("enough".into());
    let stopped = predictor.predict_images::<TrainError>(&images, &progress, &mut |_, _| Err(stop()));
    assert_eq!(stopped.unwrap_err().to_string(), "enough");
    assert_eq!(*progress.ended.lock().unwrap(), 2);
}
