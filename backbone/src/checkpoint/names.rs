//! Names of tensors: torchvision's, to which all others are brought.

use std::collections::BTreeMap;
use std::path::Path;

use super::CheckpointError;
use crate::architecture::{Architecture, STAGE_WIDTHS};

/// torchvision's name of every tensor that computes features, with its name in the file. The classifier and BatchNorm's
/// counters are left out; a name that is not understood is kept as it is, to be refused later.
pub(super) fn to_torchvision<'a>(originals: impl Iterator<Item = &'a String>) -> BTreeMap<String, String> {
    originals
        .filter(|name| {
            let classifier = ["fc.", "classifier."].iter().any(|prefix| name.starts_with(prefix));
            !classifier && !name.ends_with(".num_batches_tracked")
        })
        .map(|name| (from_transformers(name).unwrap_or_else(|| name.clone()), name.clone()))
        .collect()
}

/// transformers' names, with or without the prefix of its classification model.
fn from_transformers(name: &str) -> Option<String> {
    let name = name.strip_prefix("resnet.").unwrap_or(name);
    if let Some(rest) = name.strip_prefix("embedder.embedder.") {
        return Some(match rest.split_once('.')? {
            ("convolution", leaf) => format!("conv1.{leaf}"),
            ("normalization", leaf) => format!("bn1.{leaf}"),
            _ => return None,
        });
    }
    let (stage, rest) = name.strip_prefix("encoder.stages.")?.split_once(".layers.")?;
    let (block, rest) = rest.split_once('.')?;
    let stage = stage.parse::<usize>().ok()? + 1;
    if let Some(rest) = rest.strip_prefix("shortcut.") {
        return Some(match rest.split_once('.')? {
            ("convolution", leaf) => format!("layer{stage}.{block}.downsample.0.{leaf}"),
            ("normalization", leaf) => format!("layer{stage}.{block}.downsample.1.{leaf}"),
            _ => return None,
        });
    }
    let (part, rest) = rest.strip_prefix("layer.")?.split_once('.')?;
    let part = part.parse::<usize>().ok()? + 1;
    Some(match rest.split_once('.')? {
        ("convolution", leaf) => format!("layer{stage}.{block}.conv{part}.{leaf}"),
        ("normalization", leaf) => format!("layer{stage}.{block}.bn{part}.{leaf}"),
        _ => return None,
    })
}

/// Which ResNet the names and shapes are those of, by the number of blocks and the kind of the first.
pub(super) fn architecture(
    path: &Path,
    tensors: &BTreeMap<&str, &[usize]>,
) -> Result<Architecture, CheckpointError> {
    let not_a_resnet = |evidence| CheckpointError::NotAResNet { path: path.into(), evidence };
    if !tensors.contains_key("conv1.weight") || !tensors.contains_key("layer1.0.conv1.weight") {
        let some: Vec<&str> = tensors.keys().take(3).copied().collect();
        return Err(not_a_resnet(format!(
            "it lacks `conv1.weight` or `layer1.0.conv1.weight`; its tensors begin with {}",
            if some.is_empty() { "nothing".into() } else { some.join(", ") }
        )));
    }
    let depths = [1, 2, 3, 4].map(|stage| {
        (0..)
            .take_while(|block| tensors.contains_key(format!("layer{stage}.{block}.conv1.weight").as_str()))
            .count()
    });
    let bottlenecks = tensors.contains_key("layer1.0.conv3.weight");
    Architecture::from_shape(depths, bottlenecks).ok_or_else(|| {
        let kind = if bottlenecks { "bottleneck" } else { "basic" };
        not_a_resnet(format!(
            "stages of {depths:?} {kind} blocks are none of {}",
            Architecture::ALL.map(Architecture::as_str).join(", ")
        ))
    })
}

/// The faults that are listed; more are counted.
const SHOWN: usize = 8;

/// Checks every tensor against `architecture`.
pub(super) fn check(
    path: &Path,
    architecture: Architecture,
    tensors: &BTreeMap<&str, &[usize]>,
) -> Result<(), CheckpointError> {
    let expected = expected(architecture);
    let mut faults = Vec::new();
    for (name, shape) in &expected {
        match tensors.get(name.as_str()) {
            None => faults.push(format!("`{name}` {shape:?} is missing")),
            Some(found) if found != shape => faults.push(format!("`{name}` is {found:?}, not {shape:?}")),
            Some(_) => {}
        }
    }
    faults.extend(
        tensors
            .keys()
            .filter(|name| !expected.contains_key(**name))
            .map(|name| format!("`{name}` is not part of it")),
    );
    if faults.is_empty() {
        return Ok(());
    }
    let more = faults.len().saturating_sub(SHOWN);
    faults.truncate(SHOWN);
    if more > 0 {
        faults.push(format!("and {more} more"));
    }
    Err(CheckpointError::Tensors { path: path.into(), architecture, faults })
}

/// Every tensor of the trunk and its shape.
fn expected(architecture: Architecture) -> BTreeMap<String, Vec<usize>> {
    let mut tensors = BTreeMap::new();
    let mut add = |conv: &str, bn: &str, output: usize, input: usize, kernel: usize| {
        tensors.insert(format!("{conv}.weight"), vec![output, input, kernel, kernel]);
        for leaf in ["weight", "bias", "running_mean", "running_var"] {
            tensors.insert(format!("{bn}.{leaf}"), vec![output]);
        }
    };
    add("conv1", "bn1", 64, 3, 7);
    let mut input = 64;
    for ((stage, inside), blocks) in (1..).zip(STAGE_WIDTHS).zip(architecture.depths()) {
        let output = inside * architecture.expansion();
        for block in 0..blocks {
            let name = |part: &str| format!("layer{stage}.{block}.{part}");
            let kernels: &[(usize, usize, usize)] = if architecture.has_bottlenecks() {
                &[(inside, input, 1), (inside, inside, 3), (output, inside, 1)]
            } else {
                &[(inside, input, 3), (output, inside, 3)]
            };
            for (part, &(to, from, kernel)) in (1..).zip(kernels) {
                add(&name(&format!("conv{part}")), &name(&format!("bn{part}")), to, from, kernel);
            }
            if input != output {
                add(&name("downsample.0"), &name("downsample.1"), output, input, 1);
            }
            input = output;
        }
    }
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_tensors_is_torchvisions() {
        // len(torchvision.models.NAME().state_dict()) without fc and num_batches_tracked
        let counts = Architecture::ALL.map(|architecture| expected(architecture).len());
        assert_eq!(counts, [100, 180, 265, 520, 775]);
    }

    #[test]
    fn transformers_names_are_renamed() {
        for (theirs, ours) in [
            ("resnet.embedder.embedder.convolution.weight", "conv1.weight"),
            ("embedder.embedder.normalization.running_var", "bn1.running_var"),
            ("resnet.encoder.stages.2.layers.5.layer.1.convolution.weight", "layer3.5.conv2.weight"),
            ("resnet.encoder.stages.0.layers.0.shortcut.normalization.bias", "layer1.0.downsample.1.bias"),
        ] {
            assert_eq!(from_transformers(theirs).as_deref(), Some(ours));
        }
        assert_eq!(from_transformers("conv1.weight"), None);
    }
}
