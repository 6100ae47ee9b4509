//! What the commands take, and what they print.

mod support;

use std::fs;
use std::process::{Command, Stdio};

use support::{Project, done};

/// The line below "next:" that has `word` in it.
fn next(stdout: &str, word: &str) -> String {
    let lines: Vec<&str> =
        stdout.lines().skip_while(|line| *line != "next:").filter(|line| line.contains(word)).collect();
    assert_eq!(lines.len(), 1, "{stdout}");
    lines[0].to_owned()
}

#[cfg(unix)]
#[test]
fn the_commands_that_training_ends_with_run_as_they_are_printed() {
    let project = Project::new(8);
    fs::rename(project.path("photos"), project.path("it's photos")).unwrap();
    let data = "data.folder=it's photos";
    let trained = ["train", "--run", "my run", "--set", data, "--set", "split.seed=7"];
    let stdout = project.run(&trained).ok().stdout;
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        done(command.args(["-c", line]).current_dir(project.path("")).stdin(Stdio::null())).ok()
    };
    let predicted = shell(&next(&stdout, " predict "));
    assert!(predicted.stdout.starts_with("it's photos/"), "{}", predicted.stdout);
    let again = shell(&next(&stdout, " train "));
    assert!(again.stdout.contains("(0 computed)"), "{}", again.stdout);
    assert_eq!(project.read("runs/svm-1/split.csv"), project.read("my run/split.csv"), "what was set counts");
}

#[cfg(target_os = "linux")]
#[test]
fn training_whose_output_cannot_be_written_still_tells_its_run() {
    let project = Project::new(4);
    let full = fs::File::create("/dev/full").unwrap();
    let failed = done(project.command(&["train"]).stdout(full).stderr(Stdio::piped()));
    let failed = failed.fails(1, &["failed to write to stdout", "No space left", "the run is runs/linear-1"]);
    assert_eq!(failed.stderr.matches("error:").count(), 1, "{}", failed.stderr);
    project.run(&["evaluate", "runs/linear-1"]).ok();
}

#[cfg(unix)]
#[test]
fn a_folder_to_predict_is_walked_as_one_to_train_on() {
    let project = Project::new(4);
    project.run(&["train"]).ok();
    let folder = project.path("new");
    fs::create_dir_all(folder.join(".shelf")).unwrap();
    for photo in ["b.jpg", ".shelf/c.jpg"] {
        fs::copy(project.path("photos/hat/00.jpg"), folder.join(photo)).unwrap();
    }
    // What macOS leaves beside a photo on a foreign disk.
    fs::write(folder.join("._b.jpg"), "no photo").unwrap();
    std::os::unix::fs::symlink(".shelf", folder.join("a")).unwrap();
    let predicted = project.run(&["predict", "runs/linear-1", "new", "--format", "csv"]).ok();
    let paths: Vec<&str> =
        predicted.stdout.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(paths, ["new/a/c.jpg", "new/b.jpg"]);
    std::os::unix::fs::symlink("../photos", folder.join("out")).unwrap();
    project.run(&["predict", "runs/linear-1", "new"]).fails(3, &["the link new/out leads out of new"]);
}

#[cfg(unix)]
#[test]
fn a_table_has_a_line_a_photo_whatever_the_names() {
    let project = Project::new(4);
    fs::rename(project.path("photos/hat"), project.path("photos/ha\nt")).unwrap();
    project.run(&["train"]).ok();
    let photo = "\u{1b}[31mred.jpg";
    fs::copy(project.path("photos/dress/00.jpg"), project.path(photo)).unwrap();
    fs::write(project.path("\u{1b}[2Jbad.jpg"), "no photo").unwrap();
    let predicted = project.run(&["predict", "runs/linear-1", photo, "photos/ha\nt", "\u{1b}[2Jbad.jpg"]);
    let predicted = predicted.fails(3, &[r"\u{1b}[2Jbad.jpg cannot be read"]);
    assert_eq!(predicted.stdout.lines().count(), 5, "{}", predicted.stdout);
    assert!(predicted.stdout.starts_with(r"\u{1b}[31mred.jpg  dress "), "{}", predicted.stdout);
    assert!(predicted.stdout.contains(r"photos/ha\nt/00.jpg  ha\nt "), "{}", predicted.stdout);
    assert!(!(predicted.stdout + &predicted.stderr).contains('\u{1b}'));
}

#[test]
fn a_failure_is_told_once_and_in_our_words() {
    let project = Project::new(3);
    let mut train = project.command(&["train", "--set", "backbone.weights=hf://owner/name"]);
    // Nobody listens on port 1.
    train.env("HF_ENDPOINT", "http://127.0.0.1:1").env("HF_HOME", project.path("hub"));
    let failed = done(&mut train).fails(4, &["owner/name"]);
    assert!(failed.stderr.starts_with("error: "), "{}", failed.stderr);
    assert_eq!(failed.stderr.matches("error: ").count(), 1, "{}", failed.stderr);
}
