//! The keys of a head's table, as its configuration type documents them.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

/// A key of `[head]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hyperparameter {
    /// The key.
    pub name: String,
    /// One line: the first paragraph of the field's doc comment, then the values of an enum with theirs.
    pub about: String,
}

/// The keys of the configuration type `C`, in the order of its fields, for `headstock heads NAME`.
pub(crate) fn hyperparameters<C: JsonSchema>() -> Vec<Hyperparameter> {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    keys_in(&settings.into_generator().into_root_schema_for::<C>())
}

/// The keys of a table from its JSON schema.
fn keys_in(schema: &Schema) -> Vec<Hyperparameter> {
    let keys = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    keys.map(|(name, key)| Hyperparameter { name: name.clone(), about: about(key) }).collect()
}

/// Describes a key in one line for `headstock heads NAME`, from its JSON schema `key`: its description, and
/// for an enum each value with its own description.
fn about(key: &Value) -> String {
    let mut about = first_paragraph(key);
    for choice in key["oneOf"].as_array().into_iter().flatten() {
        about += &format!("; {}: {}", choice["const"], first_paragraph(choice).trim_end_matches('.'));
    }
    about
}

/// The first paragraph of a description, on one line and without the final period; empty if there is none.
fn first_paragraph(schema: &Value) -> String {
    let description = schema["description"].as_str().unwrap_or_default();
    description.split("\n\n").next().unwrap_or_default().replace('\n', " ").trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use schemars::json_schema;

    use super::*;

    #[test]
    fn a_key_has_its_first_paragraph_and_the_values_of_an_enum_on_one_line() {
        let schema = json_schema!({ "properties": {
            "tol": { "description": "When to\nstop.\n\nMore about it.", "type": "number" },
            "solver": { "description": "The solver.", "oneOf": [
                { "const": "lbfgs", "description": "All samples at once." },
                { "const": "adam", "description": "Minibatches." },
            ] },
            "undocumented": { "type": "number" },
        } });
        let expected = [
            ("tol", "When to stop"),
            ("solver", "The solver; \"lbfgs\": All samples at once; \"adam\": Minibatches"),
            ("undocumented", ""),
        ];
        let expected =
            expected.map(|(name, about)| Hyperparameter { name: name.into(), about: about.into() });
        assert_eq!(keys_in(&schema), expected);
    }
}
