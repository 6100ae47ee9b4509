use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use headstock_backbone::BackboneError;
use headstock_heads::HeadError;
use headstock_inference::FileError;
use headstock_loader::ReadError;
use headstock_train::UnreadableImages;
use headstock_train::config::ConfigError;

use super::*;

fn exit_code(error: impl Into<anyhow::Error>) -> ExitCode {
    report_error(&error.into(), &ProgressBars::new())
}

#[test]
fn a_broken_pipe_is_ignored_only_on_stdout() {
    let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
    assert_eq!(exit_code(StdoutError::from(broken())), ExitCode::SUCCESS);
    let socket = FileError::Io { action: "read", path: "x.npz".into(), source: broken() };
    assert_eq!(exit_code(socket), ExitCode::from(1));
    let full = io::Error::from(io::ErrorKind::StorageFull);
    assert_eq!(exit_code(StdoutError::from(full)), ExitCode::from(1));
}

#[test]
fn each_kind_of_error_has_the_exit_status_that_help_names() {
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    let io = FileError::Io { action: "write", path: "x".into(), source: denied() };
    let cache = redb::Error::Io(denied());
    let failed = vec![
        io.into(),
        FileError::Format { path: "x".into(), problem: "cut off".into() }.into(),
        TrainError::Cache { path: "x".into(), source: Box::new(cache) },
        HeadError::Diverged("the loss is NaN".into()).into(),
        HeadError::Tensor { name: "weight".into(), problem: "is missing".into() }.into(),
        BackboneError::Pixels("too few".into()).into(),
    ];
    let value = || "0".to_owned();
    let usage = vec![
        ConfigError::Missing("headstock.toml".into()).into(),
        TrainError::Usage("give another".into()),
        HeadError::Parameter { parameter: "C", value: value(), expected: "must be above 0" }.into(),
        HeadError::Config { kind: "svm", message: "unknown key".into() }.into(),
    ];
    let unreadable = UnreadableImages(vec![(PathBuf::from("a.jpg").into(), ReadError::Io(denied()).into())]);
    let data = vec![
        TrainError::Unreadable(unreadable),
        TrainError::Data("one class only".into()),
        HeadError::Data("no row".into()).into(),
        HeadError::Width { expected: 4, found: 3 }.into(),
    ];
    for (code, errors) in [(1, failed), (2, usage), (3, data)] {
        for error in errors {
            let message = error.to_string();
            assert_eq!(exit_code(error), ExitCode::from(code), "{message}");
        }
    }
    assert_eq!(exit_code(anyhow::anyhow!("something else")), ExitCode::from(1));
    // Context around an error does not change its exit status.
    let wrapped = anyhow::Error::from(TrainError::Data("no photos".into())).context("failed to begin");
    assert_eq!(exit_code(wrapped), ExitCode::from(3));
}

#[test]
fn an_error_lists_its_causes_and_repeats_nothing() {
    let source = || io::Error::other("the disk is gone");
    let error = FileError::Io { action: "read", path: "x.npz".into(), source: source() };
    assert_eq!(format_error(&error.into()), "error: failed to read x.npz\n  because: the disk is gone");
    // A transparent error prints as its source.
    let transparent = TrainError::from(HeadError::Data("no row".into()));
    assert_eq!(format_error(&transparent.into()), "error: no row");
    let repeated: Result<(), _> = Err(source());
    let repeated = repeated.context("failed: the disk is gone").context("failed to begin").unwrap_err();
    assert_eq!(format_error(&repeated), "error: failed to begin\n  because: failed: the disk is gone");
}

#[test]
fn a_hint_names_the_flag_that_helps_whichever_crate_reports_the_error() {
    let hint = "\n  hint: `--weights PATH` names the weights";
    let error = || InferenceError::OtherWeights {
        weights: "here".into(),
        original: "there".into(),
        found: "1".into(),
        expected: "2".into(),
    };
    assert!(format_error(&error().into()).ends_with(hint));
    assert!(format_error(&TrainError::from(error()).into()).ends_with(hint));
    let other = InferenceError::Head(HeadError::Data("no row".into()));
    assert_eq!(format_error(&other.into()), "error: no row");
}

#[test]
fn only_events_of_our_crates_are_shown_with_their_level() {
    let target = "headstock_train::fit";
    let labels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE]
        .map(|level| level_label(level, target));
    assert_eq!(labels, [Some("error"), Some("warning"), Some("note"), None, None]);
    assert_eq!(level_label(Level::ERROR, "hyper::client"), None);
}
