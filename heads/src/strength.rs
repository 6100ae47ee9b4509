//! How strongly a head is regularised: a number, or left to the head.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::auto;
use crate::check::positive;
use crate::error::HeadError;

/// The value of a key such as `C` or `alpha`: a number greater than 0, or `"auto"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strength {
    /// The fit chooses it by how well held-out samples are predicted.
    Auto,
    /// This one.
    Given(f64),
}

impl Strength {
    /// The number, where one is given.
    #[must_use]
    pub fn given(self) -> Option<f64> {
        match self {
            Self::Auto => None,
            Self::Given(value) => Some(value),
        }
    }

    /// Whether a number that is given is greater than 0.
    pub(crate) fn check(self, parameter: &'static str) -> Result<(), HeadError> {
        self.given().map_or(Ok(()), |value| positive(parameter, value))
    }
}

impl From<f64> for Strength {
    fn from(value: f64) -> Self {
        Self::Given(value)
    }
}

impl Serialize for Strength {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        auto::serialize(self.given(), serializer)
    }
}

impl<'de> Deserialize<'de> for Strength {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(auto::deserialize(deserializer, "a number")?.map_or(Self::Auto, Self::Given))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Table {
        alpha: Strength,
    }

    fn read(text: &str) -> Result<Strength, String> {
        toml::from_str(text).map(|table: Table| table.alpha).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn it_is_a_number_or_auto_and_nothing_else() {
        assert_eq!(read("alpha = 0.5"), Ok(Strength::Given(0.5)));
        assert_eq!(read("alpha = 10"), Ok(Strength::Given(10.0)));
        assert_eq!(read("alpha = \"auto\""), Ok(Strength::Auto));
        let error = read("alpha = \"high\"").unwrap_err();
        assert_eq!(error, "invalid value: string \"high\", expected a number or \"auto\"");
        assert!(read("alpha = true").is_err());
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        for alpha in [Strength::Auto, Strength::Given(0.1), Strength::Given(100.0)] {
            let text = toml::to_string(&Table { alpha }).unwrap();
            assert_eq!(toml::from_str(&text), Ok(Table { alpha }), "{text}");
        }
    }
}
