//! Parameters that are a number or a list of numbers, as in torchvision.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number, or a list of numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Of a range around a middle, how far it reaches; of several values, what all of them are.
    One(f64),
    /// The ends of one or several ranges, or one value each.
    List(Vec<f64>),
}

impl From<f64> for Numbers {
    fn from(number: f64) -> Self {
        Self::One(number)
    }
}

impl<const N: usize> From<[f64; N]> for Numbers {
    fn from(numbers: [f64; N]) -> Self {
        Self::List(numbers.to_vec())
    }
}

impl Numbers {
    /// `middle` plus and minus the number, or the range.
    pub(super) fn around(&self, middle: f64) -> Option<[f64; 2]> {
        match self {
            Self::One(reach) => Some([middle - reach, middle + reach]),
            Self::List(ends) => ends.as_slice().try_into().ok(),
        }
    }

    /// The number `N` times, or the list of `N` numbers.
    pub(super) fn each<const N: usize>(&self) -> Option<[f64; N]> {
        match self {
            Self::One(number) => Some([*number; N]),
            Self::List(numbers) => numbers.as_slice().try_into().ok(),
        }
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(number) => number.fmt(f),
            Self::List(numbers) => write!(f, "{numbers:?}"),
        }
    }
}

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(number) => number.serialize(serializer),
            Self::List(numbers) => numbers.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumbersVisitor)
    }
}

struct NumbersVisitor;

impl<'de> Visitor<'de> for NumbersVisitor {
    type Value = Numbers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a list of numbers")
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Numbers, E> {
        Ok(Numbers::One(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Numbers, E> {
        Ok(Numbers::One(number as f64))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Numbers, E> {
        Ok(Numbers::One(number as f64))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Numbers, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element()? {
            numbers.push(number);
        }
        Ok(Numbers::List(numbers))
    }
}

/// What is painted over what is erased: numbers, or noise.
#[derive(Clone, Debug, PartialEq)]
pub enum ErasingValue {
    /// A value for all channels, or one each for red, green and blue; from 0 to 255.
    Colour(Numbers),
    /// `"random"`: normal noise with ImageNet's mean and deviation.
    Random,
}

impl Serialize for ErasingValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Colour(numbers) => numbers.serialize(serializer),
            Self::Random => "random".serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ErasingValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ErasingValueVisitor)
    }
}

struct ErasingValueVisitor;

impl<'de> Visitor<'de> for ErasingValueVisitor {
    type Value = ErasingValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a list of numbers or \"random\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ErasingValue, E> {
        match text {
            "random" => Ok(ErasingValue::Random),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<ErasingValue, E> {
        NumbersVisitor.visit_f64(number).map(ErasingValue::Colour)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<ErasingValue, E> {
        NumbersVisitor.visit_i64(number).map(ErasingValue::Colour)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<ErasingValue, E> {
        NumbersVisitor.visit_u64(number).map(ErasingValue::Colour)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<ErasingValue, A::Error> {
        NumbersVisitor.visit_seq(list).map(ErasingValue::Colour)
    }
}
