//! Regularization strength: a number or chosen by the head.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::auto;
use crate::check::require_positive;
use crate::error::HeadError;

/// The value of a key such as `C` or `alpha`: a number greater than 0, or `"auto"`.
#[derive(Clone, Copy, Debug, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum Regularization {
    /// The fit chooses the value by its predictions on held-out samples.
    #[schemars(schema_with = "auto::schema")]
    Auto,
    /// A fixed value.
    Fixed(f64),
}

impl Regularization {
    /// The value if it is a fixed number; `None` for `"auto"`, which the fit must choose first.
    #[must_use]
    pub fn fixed(self) -> Option<f64> {
        match self {
            Self::Auto => None,
            Self::Fixed(value) => Some(value),
        }
    }

    /// Checks that a fixed value is greater than 0.
    pub(crate) fn check(self, parameter: &'static str) -> Result<(), HeadError> {
        self.fixed().map_or(Ok(()), |value| require_positive(parameter, value))
    }
}

impl From<f64> for Regularization {
    fn from(value: f64) -> Self {
        Self::Fixed(value)
    }
}

impl Serialize for Regularization {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        auto::serialize(self.fixed(), serializer)
    }
}

impl<'de> Deserialize<'de> for Regularization {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(auto::deserialize(deserializer, "a number")?.map_or(Self::Auto, Self::Fixed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Table {
        alpha: Regularization,
    }

    fn parse(text: &str) -> Result<Regularization, String> {
        toml::from_str(text).map(|table: Table| table.alpha).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn only_a_number_or_auto_is_accepted() {
        assert_eq!(parse("alpha = 0.5"), Ok(Regularization::Fixed(0.5)));
        assert_eq!(parse("alpha = 10"), Ok(Regularization::Fixed(10.0)));
        assert_eq!(parse("alpha = \"auto\""), Ok(Regularization::Auto));
        let error = parse("alpha = \"high\"").unwrap_err();
        assert_eq!(error, "invalid value: string \"high\", expected a number or \"auto\"");
        assert!(parse("alpha = true").is_err());
    }

    #[test]
    fn serialization_round_trips() {
        for alpha in [Regularization::Auto, Regularization::Fixed(0.1), Regularization::Fixed(100.0)] {
            let text = toml::to_string(&Table { alpha }).unwrap();
            assert_eq!(toml::from_str(&text), Ok(Table { alpha }), "{text}");
        }
    }
}
