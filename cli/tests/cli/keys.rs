//! `keys.txt` lists everything that a user can set. tidy checks that a test shows the effect of each.

use std::fs;
use std::path::Path;

use headstock_cli::App;
use headstock_heads::Registry;
use headstock_loader::SourceRegistry;

/// The text of `keys.txt`: keys of the config, hyperparameters of each head and flags of each command, one
/// per line.
fn key_table() -> String {
    let heads = Registry::builtin();
    let head_keys = heads.iter().flat_map(|head| {
        head.hyperparameters().into_iter().map(move |key| format!("head.{}.{}", head.name(), key.name))
    });
    let program = App::command();
    let flags = program.get_subcommands().flat_map(|command| {
        argument_names(command).map(move |argument| format!("{} {argument}", command.get_name()))
    });
    let parts = [
        ("keys of the config", headstock_train::config::known_keys()),
        ("keys of the heads", std::iter::once("head.kind".to_owned()).chain(head_keys).collect()),
        ("flags of every command", argument_names(&program).collect()),
        ("flags and arguments of one command", flags.collect()),
    ];
    let mut text =
        String::from("# Written by cli/tests/cli/keys.rs from the types; INSTA_UPDATE=always updates it.\n");
    for (heading, mut names) in parts {
        names.sort();
        text += &format!("\n# {heading}\n{}\n", names.join("\n"));
    }
    text
}

/// Names of the arguments of a command, such as `--metric` and `PHOTO`.
fn argument_names(command: &clap::Command) -> impl Iterator<Item = String> {
    command.get_arguments().map(|argument| match argument.get_long() {
        Some(long) => format!("--{long}"),
        None => argument.get_value_names().expect("a positional argument has a name")[0].to_string(),
    })
}

/// Compares a generated file with `expected`; with `INSTA_UPDATE=always` writes it, as insta does its
/// snapshots.
pub(crate) fn assert_generated(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    #[expect(clippy::disallowed_methods, reason = "this file is updated like the snapshots of insta")]
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        fs::write(&file, expected).expect("the file can be written");
    }
    let committed = fs::read_to_string(&file).expect("the file is there");
    assert!(committed == expected, "{path} is out of date: `cargo xtask docs` updates it");
}

/// For editors, and for `docs/config.md`.
#[test]
fn the_committed_json_schema_is_that_of_the_config_types() {
    let schema = headstock_train::config::json_schema(&Registry::builtin(), &SourceRegistry::builtin());
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    assert_generated("../docs/headstock.schema.json", &text);
}

#[test]
fn the_table_of_keys_holds_every_key_and_every_flag() {
    assert_generated("tests/keys.txt", &key_table());
}

/// Checks `keys_together.txt`, a list of keys that only act together.
#[test]
fn keys_that_act_together_are_keys_of_the_table() {
    let table = key_table();
    let together = include_str!("../keys_together.txt");
    let rows: Vec<&str> =
        together.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert!(rows.is_sorted() && rows.len() > 10, "{rows:?}");
    for row in rows {
        let parts: Vec<&str> = row.split(" x ").collect();
        assert!(parts.len() > 1 && parts.is_sorted(), "{row}");
        for part in parts {
            assert!(table.lines().any(|name| name == part), "{row}: there is no `{part}`");
        }
    }
}
