//! The size of a test set.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Size of the test set: a fraction between 0 and 1 of the photos, or a whole number of photos. If the split
/// is drawn by group, it is a fraction or a number of groups instead.
#[derive(Clone, Copy, Debug, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum TestSize {
    /// A fraction between 0 and 1 (both excluded); the number of test photos is rounded up.
    Fraction(f64),
    /// A number of photos.
    Count(usize),
}

impl fmt::Display for TestSize {
    /// Writes a fraction as `1.0` and a count as `1`, so that the two can be told apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fraction(fraction) => write!(f, "{fraction:?}"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

impl Serialize for TestSize {
    /// Writes a fraction as a float and a count as an integer, so that they can be told apart when read.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Fraction(fraction) => serializer.serialize_f64(fraction),
            Self::Count(count) => serializer.serialize_u64(count as u64),
        }
    }
}

impl<'de> Deserialize<'de> for TestSize {
    /// Reads a test size from the config: a float as a fraction and an integer as a count. A negative integer
    /// is an error; whether a fraction is between 0 and 1 is checked when the split is made.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TestSizeVisitor;
        impl Visitor<'_> for TestSizeVisitor {
            type Value = TestSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a fraction between 0 and 1, or a whole number of photos")
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<TestSize, E> {
                Ok(TestSize::Fraction(value))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<TestSize, E> {
                let count = usize::try_from(value);
                count.map(TestSize::Count).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<TestSize, E> {
                let count = usize::try_from(value);
                count.map(TestSize::Count).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
            }
        }
        deserializer.deserialize_any(TestSizeVisitor)
    }
}
