//! The table of everything that a user can set: each name in it must be proven by a test of its effect, which tidy checks.

use std::fs;
use std::path::Path;

use headstock_cli::App;
use headstock_heads::Registry;

/// Keys of the config, keys of each head, and flags of each command, a name a line below the headings.
fn table() -> String {
    let heads = Registry::builtin();
    let of_heads = heads.iter().flat_map(|head| {
        head.parameters().iter().map(move |(name, _)| format!("head.{}.{name}", head.name()))
    });
    let program = App::command();
    let flags = program.get_subcommands().flat_map(|command| {
        arguments(command).map(move |argument| format!("{} {argument}", command.get_name()))
    });
    let parts = [
        ("keys of the config", headstock_train::config::known_keys()),
        ("keys of the heads", std::iter::once("head.kind".to_owned()).chain(of_heads).collect()),
        ("flags of every command", arguments(&program).collect()),
        ("flags and arguments of one command", flags.collect()),
    ];
    let mut text =
        String::from("# Made by cli/tests/cli/keys.rs from the types; anew with INSTA_UPDATE=always.\n");
    for (heading, mut names) in parts {
        names.sort();
        text += &format!("\n# {heading}\n{}\n", names.join("\n"));
    }
    text
}

/// `--by`, `PHOTO`
fn arguments(command: &clap::Command) -> impl Iterator<Item = String> {
    command.get_arguments().map(|argument| match argument.get_long() {
        Some(long) => format!("--{long}"),
        None => argument.get_value_names().expect("a positional argument has a name")[0].to_string(),
    })
}

#[test]
fn the_table_of_keys_holds_every_key_and_every_flag() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys.txt");
    let now = table();
    #[expect(clippy::disallowed_methods, reason = "this table is renewed as insta's snapshots are")]
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        fs::write(&file, &now).unwrap();
    }
    let committed = fs::read_to_string(&file).unwrap();
    assert_eq!(committed, now, "INSTA_UPDATE=always cargo test -p headstock-cli keys writes it anew");
}

/// Keys that only act together stand in a list of their own, by hand.
#[test]
fn keys_that_act_together_are_keys_of_the_table() {
    let table = table();
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
