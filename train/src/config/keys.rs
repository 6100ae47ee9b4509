//! The known keys, derived from the schema of the config.

use headstock_heads::Registry;
use headstock_loader::SourceRegistry;
use serde_json::Value as Schema;
use toml::{Table, Value};

use super::schema::json_schema;
use super::{ConfigError, Options};

/// A table of the config and its keys.
struct Section {
    /// The name with those of the outer sections, as `augment.policy`; empty for the root.
    path: String,
    keys: Vec<String>,
}

/// All sections with their keys, those of `sources` in `[data]` too. Without the keys of `[head]`, which the
/// head checks, and those of `augment.policy`, which depend on its kind.
fn sections(sources: &SourceRegistry) -> Vec<Section> {
    let mut sections = Vec::new();
    add_sections("", &json_schema(&Registry::empty(), sources), &mut sections);
    sections
}

/// Appends the config section `path` with the names of its keys, and all sections in it, to `sections`, to
/// find misspelled keys of a config. `schema` is the JSON schema of the section. A `schema` without
/// properties belongs to a single value instead of a section, and nothing is appended.
fn add_sections(path: &str, schema: &Schema, sections: &mut Vec<Section>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    sections.push(Section { path: path.to_owned(), keys: properties.keys().cloned().collect() });
    for (key, property) in properties {
        add_sections(&join_key(path, key), property, sections);
    }
}

/// The paths of all config keys, as `data.folder`, except those of `[head]`, which depend on the head. The
/// path of a key of a policy contains its kind, as `augment.policy.rand-augment.magnitude`. Tests use this
/// list to check that each key is covered, for example by a test of its effect.
#[must_use]
pub fn known_keys() -> Vec<String> {
    let mut paths = Vec::new();
    add_paths("", &json_schema(&Registry::empty(), &SourceRegistry::builtin()), &mut paths);
    paths.retain(|path| path != "head");
    paths
}

/// Appends the config key `path`, or if its value is a table, all keys in it, to `paths`, the list of keys
/// that [`known_keys`] makes. Keys are written as `data.folder`. `schema` is the JSON schema of the value.
/// The value may be one of several tables, which their key `kind` tells apart: then `kind` is appended, and
/// the keys of each table with its kind in the path, because the same name means different things in
/// different tables. For example, `augment.policy.kind` and `augment.policy.rand-augment.magnitude`.
fn add_paths(path: &str, schema: &Schema, paths: &mut Vec<String>) {
    let variants = schema["oneOf"].as_array().into_iter().flatten();
    let tables: Vec<&Schema> = variants.filter(|variant| variant.get("properties").is_some()).collect();
    if !tables.is_empty() {
        paths.push(join_key(path, "kind"));
    }
    for table in &tables {
        let kind = table["properties"]["kind"]["const"].as_str().unwrap_or_default();
        let keys = table["properties"].as_object().into_iter().flatten().filter(|(key, _)| *key != "kind");
        paths.extend(keys.map(|(key, _)| join_key(&join_key(path, kind), key)));
    }
    match schema["properties"].as_object() {
        Some(properties) => {
            for (key, property) in properties {
                add_paths(&join_key(path, key), property, paths);
            }
        }
        None if tables.is_empty() => paths.push(path.to_owned()),
        None => {}
    }
}

/// The section with the keys of the data source.
const DATA: &str = "data";

impl Options {
    /// The options in the `table` of a config. The keys of the data source are not checked yet.
    ///
    /// # Errors
    /// For an unknown key or a value of the wrong type.
    pub(crate) fn from_table(mut table: Table) -> Result<Self, toml::de::Error> {
        let source = take_source_keys(&mut table);
        let mut options: Self = table.try_into()?;
        options.data.source = source;
        Ok(options)
    }
}

/// Removes the keys of `[data]` that belong to a data source from the config `table`, and returns them.
fn take_source_keys(table: &mut Table) -> Table {
    let Some(Value::Table(data)) = table.get_mut(DATA) else { return Table::new() };
    let sections = sections(&SourceRegistry::empty());
    let common = sections.iter().find(|section| section.path == DATA).expect("[data] is a section");
    let (common, source) = std::mem::take(data).into_iter().partition(|(key, _)| common.keys.contains(key));
    *data = common;
    source
}

/// Refuses unknown keys of the config `table`, so that a misspelled key is not silently ignored. `sources`
/// are the known data sources, which have keys in `[data]`.
pub(super) fn check(table: &Table, origin: &str, sources: &SourceRegistry) -> Result<(), ConfigError> {
    check_section(table, "", origin, &sections(sources))
}

/// Checks that all keys in the config section `section`, and in the sections in it, are known. Otherwise the
/// error suggests a similar key. `table` has the contents of the section, `origin` is the name of the config
/// file for the message; `sections` are all known sections.
fn check_section(
    table: &Table,
    section: &str,
    origin: &str,
    sections: &[Section],
) -> Result<(), ConfigError> {
    let Some(Section { keys: known, .. }) = sections.iter().find(|known| known.path == section) else {
        // The keys of `[head]` and `augment.policy` are checked elsewhere.
        return Ok(());
    };
    for (key, value) in table {
        let path = join_key(section, key);
        if !known.contains(key) {
            // A key with this name in a different section is a more likely intention than a similar name.
            let other_section = sections.iter().find(|section| section.keys.contains(key));
            let nearest = match other_section {
                Some(Section { path, .. }) => join_key(path, key),
                None => join_key(section, nearest_key(key, known)),
            };
            return Err(ConfigError::UnknownKey {
                origin: origin.into(),
                key: path,
                nearest,
                known: known.clone(),
            });
        }
        if let Value::Table(table) = value {
            check_section(table, &path, origin, sections)?;
        }
    }
    Ok(())
}

/// Whether the value of the key `path` is a text and nothing else, such as a path, by the JSON `schema` of the
/// config. A table that has several forms, such as that of a head, wants a text if one of them does.
pub(super) fn wants_text(schema: &Schema, path: &[String]) -> bool {
    let Some((key, rest)) = path.split_first() else { return schema["type"] == "string" };
    let forms = schema["oneOf"].as_array().into_iter().flatten().chain([schema]);
    forms.filter_map(|form| form["properties"].get(key)).any(|property| wants_text(property, rest))
}

/// The known key with the smallest edit distance to `key`; the first of several.
pub(super) fn nearest_key<'a>(key: &str, known: &'a [String]) -> &'a str {
    known.iter().min_by_key(|known| strsim::damerau_levenshtein(key, known)).map_or("", String::as_str)
}

/// The path of `key` in `section`; the root section has an empty name.
fn join_key(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}
