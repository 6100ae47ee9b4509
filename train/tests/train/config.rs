//! The corpus of configs: what is valid resolves, and what is not is refused with the key and the file.

use std::fs;
use std::path::{Path, PathBuf};

use headstock_heads::Registry;
use headstock_train::config::{Config, ConfigError, Settings};

fn corpus(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs").join(kind);
    let entries = fs::read_dir(folder).expect("the corpus");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() > 5, "{kind}");
    files
}

fn resolve(text: &str, overrides: &[&str]) -> Result<Settings, ConfigError> {
    let mut config = Config::parse(text, "headstock.toml", Path::new("/base"))?;
    config.set(overrides)?;
    config.resolve(&Registry::builtin())
}

fn message(outcome: Result<Settings, ConfigError>) -> String {
    outcome.err().expect("it is refused").to_string()
}

const MINIMAL: &str = "version = 1\n[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n";

#[test]
fn valid_configs_resolve_to_settings_that_resolve_to_themselves() {
    for file in corpus("valid") {
        let settings =
            resolve(&fs::read_to_string(&file).unwrap(), &[]).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        let again = resolve(&settings.options.to_toml(), &[]).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        assert_eq!(again.options, settings.options, "{file:?}");
        assert_eq!(again.source, settings.source, "{file:?}");
    }
}

#[test]
fn invalid_configs_are_refused_for_the_reason_in_their_first_line() {
    for file in corpus("invalid") {
        let text = fs::read_to_string(&file).unwrap();
        let reason = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap();
        let found = message(resolve(&text, &[]));
        assert!(found.contains(reason), "{file:?}\n expected: {reason}\n found:    {found}");
        assert!(found.contains("headstock.toml"), "{file:?}: the file is not named: {found}");
    }
}

#[test]
fn paths_are_relative_to_the_config() {
    let settings = resolve(MINIMAL, &["data.test_folder=more"]).unwrap();
    let options = settings.options;
    assert_eq!(options.data.folder.unwrap(), Path::new("/base/photos"));
    assert_eq!(options.data.test_folder.unwrap(), Path::new("/base/more"));
    assert_eq!(options.backbone.unwrap().weights, "/base/backbone");
    assert_eq!(options.features.cache, Path::new("/base/.headstock"));
}

#[test]
fn overrides_are_toml_values_or_strings() {
    let table = |overrides: &[&str]| resolve(MINIMAL, overrides).unwrap().head.table();
    assert_eq!(table(&["head.C=0.25"])["C"].as_float(), Some(0.25));
    assert_eq!(table(&["head.C = 3"])["C"].as_float(), Some(3.0));
    assert_eq!(table(&["head.solver=adam"])["solver"].as_str(), Some("adam"));
    assert_eq!(table(&["head.solver=\"adam\""])["solver"].as_str(), Some("adam"));
    assert_eq!(table(&["head.kind=mlp", "head.hidden=[8, 4]"])["hidden"].as_array().unwrap().len(), 2);
    assert_eq!(table(&["head.C=0.25", "head.C=0.5"])["C"].as_float(), Some(0.5));
}

#[test]
fn overrides_that_cannot_be_followed_are_named() {
    for (text, reason) in [
        ("head.C", "--set head.C: write KEY=VALUE"),
        ("head..C=1", "the key has an empty part"),
        ("version.minor=1", "`version` is a value, not a section"),
        ("version=2", "cannot be overridden"),
        ("data.folder=", "`data.folder` is empty"),
        ("split.test_size=1.0", "`split.test_size` is 1"),
        ("split.test_size=nan", "`split.test_size` is NaN"),
        ("split.test_size=0", "`split.test_size` is 0"),
        ("features.views=1001", "`features.views` is 1001"),
        ("split.sede=1", "there is no key `split.sede`; did you mean `split.seed`?"),
        ("data.folder=3", "data.folder"),
    ] {
        let found = message(resolve(MINIMAL, &[text]));
        assert!(found.contains(reason), "{text}: {found}");
    }
}

#[test]
fn another_head_drops_the_keys_of_the_one_in_the_file() {
    let text = format!("{MINIMAL}[head]\nkind = \"linear\"\nsolver = \"adam\"\nC = 3.0\n");
    // In whatever order they are given.
    for overrides in [["head.kind=svm", "head.tol=0.5"], ["head.tol=0.5", "head.kind=svm"]] {
        let settings = resolve(&text, &overrides).unwrap();
        assert_eq!(settings.head.kind(), "svm");
        assert_eq!(settings.head.table()["tol"].as_float(), Some(0.5));
        assert_ne!(settings.head.table()["C"].as_float(), Some(3.0));
    }
    // A file that names no head means the default one.
    let unnamed = format!("{MINIMAL}[head]\nC = 3.0\n");
    let kept = resolve(&unnamed, &["head.kind=linear"]).unwrap();
    assert_eq!(kept.head.table()["C"].as_float(), Some(3.0));
    let kept = resolve(&text, &["head.kind=linear"]).unwrap();
    assert_eq!(kept.head.table()["C"].as_float(), Some(3.0));
}

#[test]
fn a_config_that_is_not_there_says_how_to_make_one() {
    let error = Config::read(Path::new("/nowhere/headstock.toml")).unwrap_err().to_string();
    assert!(error.contains("headstock init"), "{error}");
}
