//! Which keys there are, taken from the types that read them.

use headstock_loader::augment::{
    Affine, Augment, ColorJitter, Erasing, GaussianBlur, Perspective, Posterize, RandomResizedCrop,
    Sharpness, Solarize,
};
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
        ("augment.affine", serde_introspect::<Affine>()),
        ("augment.perspective", serde_introspect::<Perspective>()),
        ("augment.color_jitter", serde_introspect::<ColorJitter>()),
        ("augment.gaussian_blur", serde_introspect::<GaussianBlur>()),
        ("augment.sharpness", serde_introspect::<Sharpness>()),
        ("augment.posterize", serde_introspect::<Posterize>()),
        ("augment.solarize", serde_introspect::<Solarize>()),
        ("augment.erasing", serde_introspect::<Erasing>()),
    ]
}

/// Refuses a key that is not known.
pub(super) fn check(table: &Table, origin: &str) -> Result<(), ConfigError> {
    check_section(table, "", origin)
}

fn check_section(table: &Table, section: &str, origin: &str) -> Result<(), ConfigError> {
    let sections = sections();
    let Some((_, known)) = sections.iter().find(|(name, _)| *name == section) else { return Ok(()) };
    for (key, value) in table {
        let path = joined(section, key);
        if !known.contains(&key.as_str()) {
            let elsewhere = sections.iter().find(|(_, keys)| keys.contains(&key.as_str()));
            let nearest = match elsewhere {
                Some((section, _)) => joined(section, key),
                None => joined(section, nearest(key, known)),
            };
            let known = known.iter().map(|&key| key.to_owned()).collect();
            return Err(ConfigError::UnknownKey { origin: origin.into(), key: path, nearest, known });
        }
        if let Value::Table(table) = value {
            check_section(table, &path, origin)?;
        }
    }
    Ok(())
}

/// The one of `known` that is most like `key`; the first of several.
pub(super) fn nearest<'a>(key: &str, known: &[&'a str]) -> &'a str {
    known.iter().min_by_key(|known| strsim::damerau_levenshtein(key, known)).copied().unwrap_or_default()
}

fn joined(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}
