//! `cargo xtask docs`: the pages that are made from the program.
//!
//! `docs/headstock.schema.json` is written by a test of `cli` from the config types and their doc comments;
//! `docs/config.md` is the same for people. The README's first output is what the program prints.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::tidy::read_file;
use crate::{page, step};

const SCHEMA: &str = "docs/headstock.schema.json";
const PAGE: &str = "docs/config.md";

/// Renews the schema, the page, and what tests compare the program's texts with.
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
            "keys::",
            "demo::",
        ])
        .env("INSTA_UPDATE", "always"),
    )?;
    page::write_page(Path::new(PAGE), config_page()?.as_bytes())
}

/// Adds a fault where the page is not what the schema says.
pub(crate) fn check(faults: &mut Vec<String>) -> Result<()> {
    if read_file(Path::new(PAGE))? != config_page()? {
        faults.push(format!("{PAGE} is not what {SCHEMA} says: `cargo xtask docs` writes it"));
    }
    Ok(())
}

fn config_page() -> Result<String> {
    let schema: Value = serde_json::from_str(&read_file(Path::new(SCHEMA))?)
        .with_context(|| format!("{SCHEMA} is not JSON"))?;
    let mut page = format!(
        "# `headstock.toml`\n\n<!-- `cargo xtask docs` makes this page from the doc comments of the config types. -->\n\n{}\n",
        description(&schema)
    );
    write_table(&mut page, "", &schema);
    for (name, section) in properties(&schema) {
        write_section(&mut page, &[name], section);
    }
    Ok(page)
}

/// A heading, the description and the keys of a table of the config, then of the tables within it.
fn write_section(page: &mut String, path: &[&str], section: &Value) {
    let tables = variants(section);
    if properties(section).is_empty() && tables.is_empty() {
        return;
    }
    let name = path.join(".");
    *page += &format!("\n{} `[{name}]`\n\n{}\n", "#".repeat(path.len() + 1), description(section));
    if tables.is_empty() {
        write_table(page, &name, section);
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
    for (key, value) in properties(section) {
        write_section(page, &[path, &[key]].concat(), value);
    }
}

/// A row for each key that is no table.
fn write_table(page: &mut String, path: &str, section: &Value) {
    let required = section["required"].as_array().map_or(&[][..], Vec::as_slice);
    let mut rows = String::new();
    for (key, value) in properties(section).into_iter().filter(|(key, _)| *key != "kind" || path == "head") {
        let is_table = !properties(value).is_empty() || !variants(value).is_empty();
        if is_table && path.is_empty() {
            continue;
        }
        let default = match &value["default"] {
            Value::Null if required.iter().any(|name| name == key) => "required".to_owned(),
            Value::Null => String::new(),
            default => format!("`{default}`"),
        };
        let (kind, about) = if is_table {
            (String::from("table"), format!("see [`{}`](#{})", joined(path, key), anchor(&joined(path, key))))
        } else {
            (type_of(value), about(value))
        };
        rows += &format!("| `{key}` | {kind} | {default} | {about} |\n");
    }
    if !rows.is_empty() {
        *page += &format!("\n| key | type | default | |\n|---|---|---|---|\n{rows}");
    }
}

/// The description in one line, and the values that a key may have.
fn about(value: &Value) -> String {
    let mut about = one_line(&description(value));
    for choice in choices(value) {
        let name = &choice["const"];
        about += &format!("<br>`{name}`: {}", one_line(&description(choice)));
    }
    about
}

fn one_line(text: &str) -> String {
    text.replace("\n\n", "<br>").replace('\n', " ").replace('|', "\\|")
}

/// What a value is, in words.
fn type_of(value: &Value) -> String {
    if !choices(value).is_empty() {
        return "one of".into();
    }
    for alternatives in ["anyOf", "oneOf"] {
        if let Some(alternatives) = value[alternatives].as_array() {
            let mut types: Vec<String> = alternatives.iter().map(type_of).collect();
            types.dedup();
            return types.join(" or ");
        }
    }
    if let Some(only) = value.get("const") {
        return format!("`{only}`");
    }
    match value["type"].as_str().unwrap_or_default() {
        "string" => "text".into(),
        "boolean" => "`true` or `false`".into(),
        "integer" => "whole number".into(),
        "array" => match (&value["items"], value["minItems"].as_u64()) {
            (Value::Array(items), _) => {
                format!("[{}]", items.iter().map(type_of).collect::<Vec<_>>().join(", "))
            }
            (item, Some(length)) if value["maxItems"].as_u64() == Some(length) => {
                format!("[{}]", vec![type_of(item); length as usize].join(", "))
            }
            (item, _) => format!("list of {}", type_of(item)),
        },
        other => other.into(),
    }
}

fn properties(schema: &Value) -> Vec<(&str, &Value)> {
    let properties =
        schema["properties"].as_object().map_or_else(Vec::new, |keys: &Map<_, _>| keys.iter().collect());
    properties.into_iter().map(|(key, value)| (key.as_str(), value)).collect()
}

/// The tables that a key may have, told apart by their `kind`.
fn variants(schema: &Value) -> Vec<&Value> {
    alternatives(schema, |variant| variant["properties"]["kind"].is_object())
}

/// The texts that a key may be.
fn choices(schema: &Value) -> Vec<&Value> {
    alternatives(schema, |choice| choice["const"].is_string())
}

fn alternatives(schema: &Value, are: impl Fn(&Value) -> bool) -> Vec<&Value> {
    let all: Vec<&Value> = schema["oneOf"].as_array().map_or_else(Vec::new, |all| all.iter().collect());
    if all.iter().all(|alternative| are(alternative)) { all } else { Vec::new() }
}

fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().to_owned()
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// As GitHub makes anchors of headings: letters, digits, `-` and `_` stay.
fn anchor(heading: &str) -> String {
    heading.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_')).collect()
}
