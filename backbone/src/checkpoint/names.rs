//! Names of tensors: torchvision's, to which all others are brought.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::CheckpointError;
use crate::architecture::{Architecture, STAGE_WIDTHS};

/// torchvision's name of every tensor that computes features, with its name in the file. The classifier and BatchNorm's
/// counters are left out; a name that is not understood is kept as it is, to be refused later.
pub(super) fn torchvision_names<'a>(
    path: &Path,
    originals: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, String>, CheckpointError> {
    let mut names = BTreeMap::new();
    for original in originals {
        let is_classifier = ["fc.", "classifier."].iter().any(|prefix| original.starts_with(prefix));
        if is_classifier || original.ends_with(".num_batches_tracked") {
            continue;
        }
        let name = from_transformers(original).unwrap_or_else(|| original.clone());
        if let Some(other) = names.insert(name, original.clone()) {
            return Err(CheckpointError::DuplicateTensor {
                path: path.into(),
                names: [other, original.clone()],
            });
        }
    }
    Ok(names)
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
    let stage = stage.parse::<u8>().ok()?.checked_add(1)?;
    if let Some(rest) = rest.strip_prefix("shortcut.") {
        return Some(match rest.split_once('.')? {
            ("convolution", leaf) => format!("layer{stage}.{block}.downsample.0.{leaf}"),
            ("normalization", leaf) => format!("layer{stage}.{block}.downsample.1.{leaf}"),
            _ => return None,
        });
    }
    let (part, rest) = rest.strip_prefix("layer.")?.split_once('.')?;
    let part = part.parse::<u8>().ok()?.checked_add(1)?;
    Some(match rest.split_once('.')? {
        ("convolution", leaf) => format!("layer{stage}.{block}.conv{part}.{leaf}"),
        ("normalization", leaf) => format!("layer{stage}.{block}.bn{part}.{leaf}"),
        _ => return None,
    })
}

/// Which ResNet the names are those of, by the number of blocks in each stage and by their kind.
pub(super) fn detect_architecture(
    path: &Path,
    tensors: &BTreeMap<&str, &[usize]>,
) -> Result<Architecture, CheckpointError> {
    let not_a_resnet = |evidence| CheckpointError::NotAResNet { path: path.into(), evidence };
    // From any tensor of a block, so that one which lacks is named later and does not change the count.
    let mut blocks: [BTreeSet<&str>; 4] = Default::default();
    let mut bottlenecks = false;
    for name in tensors.keys() {
        let mut parts = name.split('.');
        let (stage, block, part) = (parts.next(), parts.next(), parts.next());
        let stage = match stage {
            Some("layer1") => 0,
            Some("layer2") => 1,
            Some("layer3") => 2,
            Some("layer4") => 3,
            _ => continue,
        };
        blocks[stage].extend(block);
        bottlenecks |= matches!(part, Some("conv3" | "bn3"));
    }
    let depths = blocks.map(|blocks| blocks.len());
    if depths == [0; 4] {
        let examples: Vec<&str> = tensors.keys().take(3).copied().collect();
        return Err(not_a_resnet(format!(
            "no tensor is named like `layer1.0.conv1.weight`; {}",
            if examples.is_empty() {
                "there are none".into()
            } else {
                format!("they are {} ..", examples.join(", "))
            }
        )));
    }
    Architecture::from_depths(depths, bottlenecks).ok_or_else(|| {
        let kind = if bottlenecks { "bottleneck" } else { "basic" };
        not_a_resnet(format!(
            "its stages have {depths:?} {kind} blocks, as none of {}",
            Architecture::ALL.map(Architecture::as_str).join(", ")
        ))
    })
}

/// The faults that are listed; more are counted.
const MAX_LISTED: usize = 8;

/// Checks every tensor against `architecture`.
pub(super) fn check_tensors(
    path: &Path,
    architecture: Architecture,
    tensors: &BTreeMap<&str, &[usize]>,
) -> Result<(), CheckpointError> {
    let expected = expected_shapes(architecture);
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
    let more = faults.len().saturating_sub(MAX_LISTED);
    faults.truncate(MAX_LISTED);
    if more > 0 {
        faults.push(format!("and {more} more"));
    }
    Err(CheckpointError::TensorMismatch { path: path.into(), architecture, faults })
}

/// Every tensor of the trunk and its shape.
fn expected_shapes(architecture: Architecture) -> BTreeMap<String, Vec<usize>> {
    let mut tensors = BTreeMap::new();
    let mut add_conv_bn = |conv: &str, bn: &str, output: usize, input: usize, kernel: usize| {
        tensors.insert(format!("{conv}.weight"), vec![output, input, kernel, kernel]);
        for leaf in ["weight", "bias", "running_mean", "running_var"] {
            tensors.insert(format!("{bn}.{leaf}"), vec![output]);
        }
    };
    add_conv_bn("conv1", "bn1", 64, 3, 7);
    let mut input = 64;
    for ((stage, inner_channels), blocks) in (1..).zip(STAGE_WIDTHS).zip(architecture.depths()) {
        let output = inner_channels * architecture.expansion();
        for block in 0..blocks {
            let tensor_name = |part: &str| format!("layer{stage}.{block}.{part}");
            let kernels: &[(usize, usize, usize)] = if architecture.has_bottlenecks() {
                &[
                    (inner_channels, input, 1),
                    (inner_channels, inner_channels, 3),
                    (output, inner_channels, 1),
                ]
            } else {
                &[(inner_channels, input, 3), (output, inner_channels, 3)]
            };
            for (part, &(to, from, kernel)) in (1..).zip(kernels) {
                add_conv_bn(
                    &tensor_name(&format!("conv{part}")),
                    &tensor_name(&format!("bn{part}")),
                    to,
                    from,
                    kernel,
                );
            }
            if input != output {
                add_conv_bn(&tensor_name("downsample.0"), &tensor_name("downsample.1"), output, input, 1);
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
    fn numbers_that_no_stage_has_are_no_names_of_transformers() {
        for name in ["encoder.stages.255.layers.0.layer.0.convolution.weight", "encoder.stages.x.layers.0.y"]
        {
            assert_eq!(from_transformers(name), None);
        }
        assert_eq!(from_transformers("conv1.weight"), None);
    }
}
