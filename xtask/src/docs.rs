//! `cargo xtask docs`: regenerates the pages that are made from the program.
//!
//! `docs/headstock.schema.json` is written by a test of `cli` from the config types and their doc comments;
//! `docs/config.md` shows the same for people. The first output in the README is what the program prints.
//!
//! `schema` is a part of the JSON schema: that of the whole config, of a table in it, or of one key's value.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::source_files::read_file;
use crate::{page, step};

/// The JSON schema of `headstock.toml`.
const SCHEMA: &str = "docs/headstock.schema.json";
/// The reference page of the config, which is made from the schema.
const PAGE: &str = "docs/config.md";

/// Regenerates the JSON schema of the config, the list of keys and the output in the README: the tests of
/// `cli` that compare them with the program also update them. Then writes `docs/config.md` from the new
/// schema.
pub(crate) fn run() -> Result<()> {
    step::run(
        "schema, keys and output",
        step::cargo(&[
            "test",
            "--quiet",
            "--package",
            "headstock-cli",
            "--test",
            "cli",
            "--",
            // The test modules that compare and, with `INSTA_UPDATE`, rewrite the files.
            "keys::",
            "demo::",
        ])
        .env("INSTA_UPDATE", "always"),
    )?;
    page::write_page(Path::new(PAGE), config_page()?.as_bytes())
}

/// Adds a fault if `docs/config.md` is not what the JSON schema gives: someone changed the config, but did
/// not run `cargo xtask docs`.
pub(crate) fn check(faults: &mut Vec<String>) -> Result<()> {
    if read_file(Path::new(PAGE))? != config_page()? {
        faults.push(format!("{PAGE} does not match {SCHEMA}: run `cargo xtask docs`"));
    }
    Ok(())
}

/// The text of `docs/config.md` in Markdown, made from the JSON schema of the config.
fn config_page() -> Result<String> {
    let schema: Value = serde_json::from_str(&read_file(Path::new(SCHEMA))?)
        .with_context(|| format!("{SCHEMA} is not JSON"))?;
    let mut page = format!(
        "# `headstock.toml`\n\n<!-- `cargo xtask docs` makes this page from the doc comments of the config types. -->\n\n{}\n",
        description(&schema)
    );
    write_table(&mut page, "", &schema);
    for (name, key_schema) in properties(&schema) {
        write_section(&mut page, &[name], key_schema);
    }
    Ok(page)
}

/// Appends to `page` a heading, the description and the keys of a config table, then sections for the tables
/// within it. `path` are the keys that lead to the table, and `schema` is its part of the JSON schema. A
/// table with alternatives gets a heading for each `kind`. Writes nothing if the schema is not that of a
/// table.
fn write_section(page: &mut String, path: &[&str], schema: &Value) {
    let tables = variants(schema);
    if properties(schema).is_empty() && tables.is_empty() {
        return;
    }
    let name = path.join(".");
    *page += &format!("\n{} `[{name}]`\n\n{}\n", "#".repeat(path.len() + 1), description(schema));
    if tables.is_empty() {
        write_table(page, &name, schema);
    }
    for variant in tables {
        let kind = variant["properties"]["kind"]["const"].as_str().unwrap_or_default();
        *page += &format!(
            "\n{} `{name}.kind = \"{kind}\"`\n\n{}\n",
            "#".repeat(path.len() + 2),
            description(variant)
        );
        write_table(page, &name, variant);
    }
    for (key, key_schema) in properties(schema) {
        write_section(page, &[path, &[key]].concat(), key_schema);
    }
}

/// Appends to `page` a Markdown table with a row for each key of the config table at the dotted `path`: its
/// type, default and meaning. At the top level, where `path` is empty, tables have no row but a section of
/// their own. A key `kind` that is in the headings has no row, except in `[head]`, where its row describes the
/// head.
fn write_table(page: &mut String, path: &str, schema: &Value) {
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    let mut rows = String::new();
    let is_in_heading =
        |key: &str, value: &Value| key == "kind" && path != "head" && value["const"].is_string();
    for (key, value) in properties(schema).into_iter().filter(|(key, value)| !is_in_heading(key, value)) {
        let is_table = !properties(value).is_empty() || !variants(value).is_empty();
        if is_table && path.is_empty() {
            continue;
        }
        let default = match &value["default"] {
            Value::Null if required.iter().any(|name| name == key) => "required".to_owned(),
            Value::Null => String::new(),
            default => format!("`{default}`"),
        };
        let (type_text, meaning) = if is_table {
            (String::from("table"), format!("see [`{}`](#{})", join(path, key), anchor(&join(path, key))))
        } else {
            (type_of(value), describe_key(value))
        };
        rows += &format!("| `{key}` | {type_text} | {default} | {meaning} |\n");
    }
    if !rows.is_empty() {
        *page += &format!("\n| key | type | default | |\n|---|---|---|---|\n{rows}");
    }
}

/// The last cell of a key's row: the description of the key, then of each text that it may have as its value.
fn describe_key(schema: &Value) -> String {
    let mut cell = one_line(&description(schema));
    for choice in choices(schema) {
        let name = &choice["const"];
        cell += &format!("<br>`{name}`: {}", one_line(&description(choice)));
    }
    cell
}

/// Converts Markdown text to one line that fits into a cell of a Markdown table.
fn one_line(text: &str) -> String {
    text.replace("\n\n", "<br>").replace('\n', " ").replace('|', "\\|")
}

/// The type that a JSON schema gives a value, in words for the column `type` of the page: `list of text`.
fn type_of(schema: &Value) -> String {
    if !choices(schema).is_empty() {
        return "one of".into();
    }
    for alternatives in ["anyOf", "oneOf"] {
        if let Some(alternatives) = schema[alternatives].as_array() {
            let mut types: Vec<String> = alternatives.iter().map(type_of).collect();
            types.dedup();
            return types.join(" or ");
        }
    }
    if let Some(only) = schema.get("const") {
        return format!("`{only}`");
    }
    match schema["type"].as_str().unwrap_or_default() {
        "string" => "text".into(),
        "boolean" => "`true` or `false`".into(),
        "integer" => "whole number".into(),
        "array" => match (&schema["items"], schema["minItems"].as_u64()) {
            // A tuple: a type for each position.
            (Value::Array(items), _) => {
                format!("[{}]", items.iter().map(type_of).collect::<Vec<_>>().join(", "))
            }
            // An array of fixed length.
            (item, Some(length)) if schema["maxItems"].as_u64() == Some(length) => {
                format!("[{}]", vec![type_of(item); length as usize].join(", "))
            }
            (item, _) => format!("list of {}", type_of(item)),
        },
        other => other.into(),
    }
}

/// The keys of a config table, each with its schema; none if the schema is not that of a table.
fn properties(schema: &Value) -> Vec<(&str, &Value)> {
    let properties =
        schema["properties"].as_object().map_or_else(Vec::new, |keys: &Map<_, _>| keys.iter().collect());
    properties.into_iter().map(|(key, value)| (key.as_str(), value)).collect()
}

/// The schemas of the tables that a key may have as its value, which differ in `kind`, such as those of
/// `[head]`; none if the key is something else.
fn variants(schema: &Value) -> Vec<&Value> {
    alternatives(schema, |variant| variant["properties"]["kind"].is_object())
}

/// The schemas of the texts that a key may have as its value, each with its `const` and description; none if
/// other values are possible.
fn choices(schema: &Value) -> Vec<&Value> {
    alternatives(schema, |choice| choice["const"].is_string())
}

/// The alternatives in `oneOf` of a schema if `is_expected` holds for each of them, else none.
fn alternatives(schema: &Value, is_expected: impl Fn(&Value) -> bool) -> Vec<&Value> {
    let found: Vec<&Value> = schema["oneOf"].as_array().map_or_else(Vec::new, |array| array.iter().collect());
    if found.iter().all(|alternative| is_expected(alternative)) { found } else { Vec::new() }
}

/// The description in a schema, which is the doc comment of the config type; empty without one.
fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().to_owned()
}

/// The dotted name of a key in the config table at `path`.
fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The anchor that GitHub gives a heading, for links to it: its letters, digits, `-` and `_`.
fn anchor(heading: &str) -> String {
    heading.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_')).collect()
}
