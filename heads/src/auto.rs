//! Serde for config keys that are a number or `"auto"`; `"auto"` is `None`.

use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserializer, Serializer};

/// The string in the config that lets the program choose the value.
const AUTO: &str = "auto";

/// The JSON schema of `"auto"`.
pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "const": AUTO })
}

/// Writes the value of a config key that is a number, or `"auto"` for `None` (the program chooses).
pub(crate) fn serialize<S: Serializer>(value: Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        None => serializer.serialize_str(AUTO),
        Some(value) => serializer.serialize_f64(value),
    }
}

/// Reads the value of a config key that is a number, or `"auto"` as `None` (the program chooses). `expected`
/// describes the number in the error message, for example "a number from 0 to 1".
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
) -> Result<Option<f64>, D::Error> {
    deserializer.deserialize_any(NumberOrAuto { expected })
}

/// The serde visitor of [`deserialize`].
struct NumberOrAuto {
    /// Description of the number for error messages.
    expected: &'static str,
}

impl Visitor<'_> for NumberOrAuto {
    type Value = Option<f64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or \"{AUTO}\"", self.expected)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Option<f64>, E> {
        Ok(Some(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Option<f64>, E> {
        Ok(Some(value as f64))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Option<f64>, E> {
        Ok(Some(value as f64))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<f64>, E> {
        if text == AUTO { Ok(None) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::Error as ValueError;

    use super::*;

    fn parse<'de>(value: impl IntoDeserializer<'de, ValueError>) -> Result<Option<f64>, String> {
        deserialize(value.into_deserializer(), "a number").map_err(|error| error.to_string())
    }

    /// TOML integers are signed, JSON integers are unsigned.
    #[test]
    fn whole_numbers_of_every_format_are_numbers() {
        assert_eq!(
            [parse(3u64), parse(-3i64), parse(0.5f64)],
            [Ok(Some(3.0)), Ok(Some(-3.0)), Ok(Some(0.5))]
        );
        assert_eq!(parse(AUTO), Ok(None));
        assert_eq!(
            parse("none"),
            Err("invalid value: string \"none\", expected a number or \"auto\"".into())
        );
    }
}
