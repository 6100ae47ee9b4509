//! The JSON schema of `headstock.toml`, made from the types that deserialize it and their doc comments.

use headstock_heads::Registry;
use headstock_loader::SourceRegistry;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::data_source::join_words;
use super::options::Options;

/// The JSON schema (draft 7) of `headstock.toml`, with the tables of `heads` under `head` and the keys of
/// `sources` under `data`. Editors check a config with it, `docs/config.md` is made from it, and misspelled
/// keys of a config are found with it.
///
/// It has no references: the schema of a type is repeated wherever the type is used. The description of a
/// table is the doc comment of its type, and the description of any other key is the doc comment of the
/// field, both without code examples.
#[must_use]
pub fn json_schema(heads: &Registry, sources: &SourceRegistry) -> Value {
    let mut generator = SchemaSettings::draft07().into_generator();
    let mut schema = generator.root_schema_for::<Options>().to_value();
    let tables: Vec<Value> = heads
        .iter()
        .map(|head| {
            let mut table = head.json_schema(&mut generator).to_value();
            let kind = json!({ "description": head.about(), "const": head.name() });
            let keys = table["properties"].take();
            table["properties"] = json!({ "kind": kind });
            table["properties"].as_object_mut().expect("an object").extend(object(keys));
            table
        })
        .collect();
    // `[head]` is the table of one of the heads.
    schema["properties"]["head"]["oneOf"] = tables.into();
    let mut source_tables: Vec<(&str, Value)> =
        sources.iter().map(|source| (source.name(), source.json_schema(&mut generator).to_value())).collect();
    schema.as_object_mut().expect("an object").remove("definitions");
    let definitions = generator.take_definitions(true);
    simplify(&mut schema, &definitions);
    for (_, table) in &mut source_tables {
        simplify(table, &definitions);
    }
    add_source_keys(&mut schema["properties"]["data"]["properties"], source_tables);
    schema
}

/// Puts the keys of the data sources before the other keys of `[data]`. `sources` are the names of the sources
/// and the schemas of their tables. The description of a key says to which sources it belongs, except for the
/// key that names its source.
fn add_source_keys(data_keys: &mut Value, sources: Vec<(&str, Value)>) {
    let mut keys = Map::new();
    let mut meanings: Vec<(String, String, Vec<String>)> = Vec::new();
    for (source, mut table) in sources {
        for (key, schema) in object(table["properties"].take()) {
            let text = schema["description"].as_str().unwrap_or_default().to_owned();
            match meanings.iter_mut().find(|meaning| (&meaning.0, &meaning.1) == (&key, &text)) {
                Some((_, _, owners)) => owners.push(format!("`{source}`")),
                None => meanings.push((key.clone(), text, vec![format!("`{source}`")])),
            }
            keys.entry(key).or_insert(schema);
        }
    }
    for (key, schema) in &mut keys {
        let describe = |(_, text, owners): &(String, String, Vec<String>)| {
            if *owners == [format!("`{key}`")] {
                return text.clone();
            }
            let mut letters = text.chars();
            let first: String = letters.next().into_iter().flat_map(char::to_lowercase).collect();
            format!("With {}: {first}{}", join_words(owners, "and"), letters.as_str())
        };
        let own = meanings.iter().filter(|meaning| meaning.0 == *key);
        schema["description"] = own.map(describe).collect::<Vec<_>>().join(" ").into();
    }
    keys.extend(object(data_keys.take()));
    *data_keys = Value::Object(keys);
}

/// Makes the JSON schema `value`, and all schemas in it, easy to read, as [`json_schema`] promises: puts a
/// copy of a definition in place of each reference to it, removes `null`, which TOML does not have, and
/// removes code examples from descriptions. `definitions` has the schemas of types by name.
fn simplify(value: &mut Value, definitions: &Map<String, Value>) {
    if let Some(reference) = take_reference(value) {
        let mut definition = definitions[reference.rsplit('/').next().unwrap_or_default()].clone();
        let is_table =
            definition.get("properties").is_some() || definition["oneOf"][0].get("properties").is_some();
        for (key, outer) in object(value.take()) {
            // A table keeps the description of its type.
            if !(is_table && key == "description") {
                definition[key] = outer;
            }
        }
        *value = definition;
        return simplify(value, definitions);
    }
    match value {
        Value::Object(schema) => {
            schema.retain(|key, value| !(key == "default" && value.is_null()));
            if let Some(Value::Array(types)) = schema.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    schema["type"] = only;
                }
            }
            if let Some(Value::String(description)) = schema.get_mut("description") {
                *description = without_examples(description);
            }
            schema.values_mut().for_each(|value| simplify(value, definitions));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| simplify(value, definitions)),
        _ => {}
    }
}

/// The doc comment `text` without its code examples. They are in Rust, for those who use the type.
fn without_examples(text: &str) -> String {
    text.split("```").step_by(2).collect::<String>().trim_end().to_owned()
}

/// Removes the reference from a JSON schema that only refers to a definition, and returns it, as
/// `#/definitions/NAME`, for [`simplify`], which puts the definition in its place. `schemars` writes the
/// reference as a `$ref`: alone, as the only element of `allOf`, or for an `Option` in `anyOf` beside `null`.
/// `None` for any other schema.
fn take_reference(schema: &mut Value) -> Option<String> {
    let schema = schema.as_object_mut()?;
    for combination in ["allOf", "anyOf"] {
        let Some(Value::Array(schemas)) = schema.get(combination) else { continue };
        let schemas: Vec<&Value> = schemas.iter().filter(|schema| schema["type"] != "null").collect();
        if let [Value::Object(only)] = schemas.as_slice() {
            let only = only.clone();
            schema.remove(combination);
            schema.extend(only);
        }
    }
    schema.remove("$ref")?.as_str().map(str::to_owned)
}

/// The keys and values of the JSON object `value`; no keys if it is not an object, for example a missing
/// schema.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_plain(schema: &Value) {
        match schema {
            Value::Object(keys) => {
                assert!(!keys.contains_key("$ref") && !keys.contains_key("allOf"), "{schema}");
                let description = keys.get("description").and_then(Value::as_str).unwrap_or_default();
                assert!(!description.contains("```"), "{description}");
                assert!(
                    keys.get("type") != Some(&json!("null")) && keys.get("default") != Some(&Value::Null)
                );
                keys.values().for_each(assert_plain);
            }
            Value::Array(values) => values.iter().for_each(assert_plain),
            _ => {}
        }
    }

    fn assert_described(path: &str, schema: &Value) {
        let keys = schema["properties"].as_object().into_iter().flatten();
        for (key, value) in keys.filter(|(key, _)| *key != "kind") {
            assert!(value["description"].as_str().is_some_and(|text| !text.is_empty()), "{path}.{key}");
            assert_described(&format!("{path}.{key}"), value);
        }
        for variant in schema["oneOf"].as_array().into_iter().flatten() {
            assert!(variant["description"].is_string(), "{path}: {variant}");
            assert_described(path, variant);
        }
    }

    #[test]
    fn the_schema_is_plain_and_describes_every_key() {
        let schema = json_schema(&Registry::builtin(), &SourceRegistry::builtin());
        assert_plain(&schema);
        assert_described("", &schema);
    }

    #[test]
    fn keys_have_their_types_values_and_defaults() {
        let schema = json_schema(&Registry::builtin(), &SourceRegistry::builtin());
        let key = |path: &str| path.split('.').fold(&schema, |schema, key| &schema["properties"][key]);
        assert_eq!(
            (&key("tune.epochs")["type"], &key("tune.epochs")["default"]),
            (&json!("integer"), &json!(6))
        );
        assert_eq!(
            (&key("tune.patience")["type"], key("tune.patience").get("default")),
            (&json!("integer"), None)
        );
        let from = key("tune.from")["oneOf"].as_array().unwrap();
        assert_eq!(from.iter().map(|choice| &choice["const"]).collect::<Vec<_>>()[..2], ["head", "layer4"]);
        assert_eq!(key("augment.affine.degrees")["anyOf"].as_array().unwrap().len(), 2);
        let kinds = |tables: &Value| -> Vec<String> {
            let kind = |table: &Value| table["properties"]["kind"]["const"].as_str().unwrap().to_owned();
            tables["oneOf"].as_array().unwrap().iter().map(kind).collect()
        };
        assert_eq!(kinds(key("augment.policy")).len(), 4);
        let names: Vec<String> = Registry::builtin().iter().map(|head| head.name().to_owned()).collect();
        assert_eq!(kinds(key("head")), names);
        assert_eq!(key("head")["oneOf"][3]["properties"]["C"]["default"], 1.0);
        assert_eq!(schema["additionalProperties"], false);
    }
}
