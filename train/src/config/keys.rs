//! Which keys there are, taken from the types that read them.

use std::fmt;

use headstock_loader::augment::{
    Augment, ColorJitter, GaussianBlur, Policy, RandomAdjustSharpness, RandomAffine, RandomErasing,
    RandomPerspective, RandomPosterize, RandomResizedCrop, RandomSolarize,
};
use serde::Deserialize;
use serde::de::value::MapDeserializer;
use serde_aux::serde_introspection::serde_introspect;
use toml::{Table, Value};

use super::ConfigError;
use super::options::{BackboneOptions, DataOptions, FeatureOptions, Options, SplitOptions};
use super::tune::TuneOptions;

/// The sections and their keys; `[head]` has keys of its own, which the head checks, and those of `augment.policy` depend on its
/// kind.
fn sections() -> [(&'static str, &'static [&'static str]); 16] {
    [
        ("", serde_introspect::<Options>()),
        ("data", serde_introspect::<DataOptions>()),
        ("split", serde_introspect::<SplitOptions>()),
        ("backbone", serde_introspect::<BackboneOptions>()),
        ("features", serde_introspect::<FeatureOptions>()),
        ("augment", serde_introspect::<Augment>()),
        ("augment.random_resized_crop", serde_introspect::<RandomResizedCrop>()),
        ("tune", serde_introspect::<TuneOptions>()),
        ("augment.affine", serde_introspect::<RandomAffine>()),
        ("augment.perspective", serde_introspect::<RandomPerspective>()),
        ("augment.color_jitter", serde_introspect::<ColorJitter>()),
        ("augment.gaussian_blur", serde_introspect::<GaussianBlur>()),
        ("augment.sharpness", serde_introspect::<RandomAdjustSharpness>()),
        ("augment.posterize", serde_introspect::<RandomPosterize>()),
        ("augment.solarize", serde_introspect::<RandomSolarize>()),
        ("augment.erasing", serde_introspect::<RandomErasing>()),
    ]
}

/// The path of every key, as `data.folder`, but those of `[head]`, which each head has of its own. The keys of a policy stand
/// below its kind, as `augment.policy.rand-augment.magnitude`.
#[must_use]
pub fn known_keys() -> Vec<String> {
    const POLICY: &str = "augment.policy";
    let sections = sections();
    let is_section = |path: &str| path == "head" || sections.iter().any(|(section, _)| *section == path);
    let mut paths = Vec::new();
    for (section, keys) in sections {
        for path in keys.iter().map(|key| join_key(section, key)).filter(|path| !is_section(path)) {
            if path == POLICY {
                paths.push(join_key(POLICY, "kind"));
                for kind in expected_names::<Policy>(&[("kind", "")]) {
                    let keys = expected_names::<Policy>(&[("kind", kind), ("", "")]);
                    paths.extend(keys.iter().map(|key| join_key(&join_key(POLICY, kind), key)));
                }
            } else {
                paths.push(path);
            }
        }
    }
    paths
}

/// What may stand where `table` has a name that a tagged enum does not know: serde names all that it expects there.
fn expected_names<'de, T: Deserialize<'de>>(
    table: &[(&'static str, &'static str)],
) -> &'static [&'static str] {
    match T::deserialize(MapDeserializer::new(table.iter().copied())) {
        Err(ExpectedNames(expected)) => expected,
        Ok(_) => &[],
    }
}

/// An error of reading that keeps what was expected.
#[derive(Debug)]
struct ExpectedNames(&'static [&'static str]);

impl fmt::Display for ExpectedNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of {} is expected", self.0.join(", "))
    }
}

impl std::error::Error for ExpectedNames {}

impl serde::de::Error for ExpectedNames {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self(expected)
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self(expected)
    }
}

/// Refuses a key that is not known.
pub(super) fn check(table: &Table, origin: &str) -> Result<(), ConfigError> {
    check_section(table, "", origin)
}

fn check_section(table: &Table, section: &str, origin: &str) -> Result<(), ConfigError> {
    let sections = sections();
    let Some((_, known)) = sections.iter().find(|(name, _)| *name == section) else { return Ok(()) };
    for (key, value) in table {
        let path = join_key(section, key);
        if !known.contains(&key.as_str()) {
            let other_section = sections.iter().find(|(_, keys)| keys.contains(&key.as_str()));
            let suggestion = match other_section {
                Some((section, _)) => join_key(section, key),
                None => join_key(section, nearest_key(key, known)),
            };
            let known = known.iter().map(|&key| key.to_owned()).collect();
            return Err(ConfigError::UnknownKey {
                origin: origin.into(),
                key: path,
                nearest: suggestion,
                known,
            });
        }
        if let Value::Table(table) = value {
            check_section(table, &path, origin)?;
        }
    }
    Ok(())
}

/// The one of `known` that is most like `key`; the first of several.
pub(super) fn nearest_key<'a>(key: &str, known: &[&'a str]) -> &'a str {
    known.iter().min_by_key(|known| strsim::damerau_levenshtein(key, known)).copied().unwrap_or_default()
}

fn join_key(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}
