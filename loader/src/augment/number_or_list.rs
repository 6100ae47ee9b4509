//! Parameters that are a number or a list of numbers, as in torchvision.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number, or a list of numbers.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum NumberOrList {
    /// One number: the distance from the center of a range to its ends, or the value of all elements.
    Number(f64),
    /// Several numbers: the ends of one or two ranges, or one value per element.
    List(Vec<f64>),
}

impl From<f64> for NumberOrList {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl<const N: usize> From<[f64; N]> for NumberOrList {
    fn from(numbers: [f64; N]) -> Self {
        Self::List(numbers.to_vec())
    }
}

impl NumberOrList {
    /// The range `[low, high]` from which a parameter is drawn: `center` minus and plus the number, or the
    /// list of two numbers; `None` for a list of a different length.
    pub(super) fn range_around(&self, center: f64) -> Option<[f64; 2]> {
        match self {
            Self::Number(radius) => Some([center - radius, center + radius]),
            Self::List(ends) => ends.as_slice().try_into().ok(),
        }
    }

    /// One number for each of `N` elements, such as color channels: the number repeated, or the list of `N`
    /// numbers; `None` for a list of a different length.
    pub(super) fn to_array<const N: usize>(&self) -> Option<[f64; N]> {
        match self {
            Self::Number(number) => Some([*number; N]),
            Self::List(numbers) => numbers.as_slice().try_into().ok(),
        }
    }
}

impl fmt::Display for NumberOrList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::List(numbers) => write!(f, "{numbers:?}"),
        }
    }
}

impl Serialize for NumberOrList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => number.serialize(serializer),
            Self::List(numbers) => numbers.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for NumberOrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrListVisitor)
    }
}

/// Deserializes a [`NumberOrList`]; accepts integers as well as floating-point numbers, alone or in a list.
struct NumberOrListVisitor;

impl<'de> Visitor<'de> for NumberOrListVisitor {
    type Value = NumberOrList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a list of numbers")
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<NumberOrList, E> {
        Ok(NumberOrList::Number(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<NumberOrList, E> {
        Ok(NumberOrList::Number(number as f64))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<NumberOrList, E> {
        Ok(NumberOrList::Number(number as f64))
    }

    /// Reads a list of numbers of any length, such as the range `[0.8, 1.2]` of a parameter in the config.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<NumberOrList, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element()? {
            numbers.push(number);
        }
        Ok(NumberOrList::List(numbers))
    }
}

/// What fills an erased rectangle: one number or a list of three from 0 to 255, or `"random"`.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum ErasingValue {
    /// One value for all channels, or a list of three for red, green and blue; from 0 to 255.
    Color(NumberOrList),
    /// `"random"`: normal noise with ImageNet's mean and standard deviation.
    #[schemars(schema_with = "random_schema")]
    Random,
}

/// The JSON schema of the string `"random"`.
fn random_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "const": "random" })
}

impl Serialize for ErasingValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Color(numbers) => numbers.serialize(serializer),
            Self::Random => "random".serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ErasingValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ErasingValueVisitor)
    }
}

/// Deserializes an [`ErasingValue`]; accepts what [`NumberOrListVisitor`] accepts, and the string `"random"`.
struct ErasingValueVisitor;

impl<'de> Visitor<'de> for ErasingValueVisitor {
    type Value = ErasingValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a list of numbers or \"random\"")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<ErasingValue, E> {
        match value {
            "random" => Ok(ErasingValue::Random),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(value), &self)),
        }
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<ErasingValue, E> {
        NumberOrListVisitor.visit_f64(number).map(ErasingValue::Color)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<ErasingValue, E> {
        NumberOrListVisitor.visit_i64(number).map(ErasingValue::Color)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<ErasingValue, E> {
        NumberOrListVisitor.visit_u64(number).map(ErasingValue::Color)
    }

    /// Reads a list of numbers, such as the color `[255, 0, 0]` in the config.
    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<ErasingValue, A::Error> {
        NumberOrListVisitor.visit_seq(list).map(ErasingValue::Color)
    }
}
