//! `predict` and the feature cache of the run.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

use std::fs;

use redb::{ConcurrencyMode, Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::support::{CommandOutput, Project, demo_image};

const FEATURES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("features");

/// Photos that the run knows, one of them under another name, and one that it does not know.
const IMAGES: [&str; 3] = ["photos", "copy.jpg", "new.jpg"];

fn project_with_run() -> Project {
    let project = Project::new(6);
    project.run(&["train"]).ok();
    fs::copy(project.path("photos/hat/00.jpg"), project.path("copy.jpg")).unwrap();
    fs::copy(demo_image("hat", 20), project.path("new.jpg")).unwrap();
    project
}

/// The predictions of [`IMAGES`] as CSV.
fn predict(project: &Project, more: &[&str]) -> CommandOutput {
    project.run(&[&["predict", "runs/linear-1"], &IMAGES[..], &["--format", "csv"], more].concat()).ok()
}

#[test]
fn known_images_are_not_computed_and_the_predictions_are_the_same_bytes() {
    let project = project_with_run();
    let n_cached = project.n_cached(".headstock");
    let known = predict(&project, &[]);
    let line = "the features of 19 of 20 photos come from the cache";
    assert!(known.stderr.contains(line), "{}", known.stderr);
    assert_eq!(project.n_cached(".headstock"), n_cached, "nothing is written");
    assert_eq!(predict(&project, &["--json"]).json()["cached"], 19);

    let computed = predict(&project, &["--set", "features.cache=absent"]);
    assert_eq!(computed.stdout, known.stdout);
    assert!(!computed.stderr.contains("cache"), "{}", computed.stderr);
    assert!(!project.path("absent").exists());

    // The network does not run for known photos: their predictions follow what the cache has.
    let mut builder = Database::builder();
    let file = project.path(".headstock/features.redb");
    let database = builder.set_concurrency_mode(ConcurrencyMode::MultiWriter).create(file).unwrap();
    let rows: Vec<([u8; 32], Vec<u8>)> = {
        let table = database.begin_read().unwrap().open_table(FEATURES).unwrap();
        let rows = table.iter().unwrap().map(Result::unwrap);
        rows.map(|(key, value)| (*key.value(), vec![0; value.value().len()])).collect()
    };
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(FEATURES).unwrap();
        rows.iter().for_each(|(key, zeros)| drop(table.insert(key, zeros.as_slice()).unwrap()));
    }
    transaction.commit().unwrap();
    drop(database);
    let zeroed = predict(&project, &[]).stdout;
    let probabilities = |line: &str| line.split_once(',').unwrap().1.to_owned();
    let rows: Vec<String> = zeroed.lines().skip(1).map(probabilities).collect();
    assert!(rows[..19].iter().all(|row| *row == rows[0]) && rows[19] != rows[0], "{zeroed}");
    assert_eq!(rows[19], probabilities(known.stdout.lines().last().unwrap()), "the new photo is computed");
}

#[test]
fn a_cache_that_cannot_be_used_is_no_error() {
    let project = project_with_run();
    let expected = predict(&project, &[]);
    let file = project.path(".headstock/features.redb");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let set_mode = |path: &std::path::Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set_mode(&file, 0o444);
        set_mode(&project.path(".headstock"), 0o555);
        let read_only = predict(&project, &[]);
        assert_eq!(read_only.stdout, expected.stdout);
        assert!(read_only.stderr.contains("19 of 20 photos"), "{}", read_only.stderr);
        set_mode(&project.path(".headstock"), 0o755);
        set_mode(&file, 0o644);
    }
    let mut builder = Database::builder();
    let lock = builder.set_concurrency_mode(ConcurrencyMode::ExclusiveWriter).create(&file).unwrap();
    let unused = |output: CommandOutput| {
        assert_eq!(output.stdout, expected.stdout);
        assert!(output.stderr.contains("the feature cache is not used: "), "{}", output.stderr);
    };
    unused(predict(&project, &[]));
    drop(lock);
    fs::write(&file, "not a database, but long enough to be probed").unwrap();
    unused(predict(&project, &[]));
}
