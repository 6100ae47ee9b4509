//! Names and shapes of tensors. All names are converted to torchvision's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::error::CheckpointError;
use crate::architecture::{Architecture, STAGE_WIDTHS};

/// A map from torchvision's name of every tensor to its name in the file, one of `originals`, so that the
/// other code knows only torchvision's names. The classifier and the counters of BatchNorm, which are not
/// needed, are left out. Unknown names are kept, and rejected by [`check_tensors`]. Two names of one tensor
/// are an error, which names the file `path`.
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

/// torchvision's name for a tensor name of transformers, `layer1.0.conv1.weight` for
/// `resnet.encoder.stages.0.layers.0.layer.0.convolution.weight` for example. The prefix `resnet.`, which
/// only the classification model has, may be missing. `None` for any other name.
fn from_transformers(name: &str) -> Option<String> {
    let name = name.strip_prefix("resnet.").unwrap_or(name);
    if let Some(stem_layer) = name.strip_prefix("embedder.embedder.") {
        return Some(match stem_layer.split_once('.')? {
            ("convolution", leaf) => format!("conv1.{leaf}"),
            ("normalization", leaf) => format!("bn1.{leaf}"),
            _ => return None,
        });
    }
    let (stage, block_and_layer) = name.strip_prefix("encoder.stages.")?.split_once(".layers.")?;
    let (block, layer) = block_and_layer.split_once('.')?;
    // transformers counts stages and the layers of a block from 0, torchvision from 1.
    let stage = stage.parse::<u8>().ok()?.checked_add(1)?;
    if let Some(shortcut_layer) = layer.strip_prefix("shortcut.") {
        return Some(match shortcut_layer.split_once('.')? {
            ("convolution", leaf) => format!("layer{stage}.{block}.downsample.0.{leaf}"),
            ("normalization", leaf) => format!("layer{stage}.{block}.downsample.1.{leaf}"),
            _ => return None,
        });
    }
    let (index, layer) = layer.strip_prefix("layer.")?.split_once('.')?;
    let number = index.parse::<u8>().ok()?.checked_add(1)?;
    Some(match layer.split_once('.')? {
        ("convolution", leaf) => format!("layer{stage}.{block}.conv{number}.{leaf}"),
        ("normalization", leaf) => format!("layer{stage}.{block}.bn{number}.{leaf}"),
        _ => return None,
    })
}

/// The ResNet that `tensors` (torchvision's names and shapes) belong to, from the number of blocks in each
/// stage and the kind of blocks. The error names the file `path`, and says why it is no ResNet.
pub(super) fn detect_architecture(
    path: &Path,
    tensors: &BTreeMap<&str, &[usize]>,
) -> Result<Architecture, CheckpointError> {
    let not_a_resnet = |evidence| CheckpointError::NotAResNet { path: path.into(), evidence };
    // Any tensor of a block counts the block, so that a missing tensor is reported as missing later.
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
            "no tensor is named like `layer1.0.conv1.weight`, {}",
            if examples.is_empty() {
                "as the file has no tensors".into()
            } else {
                format!("but there are {}, ...", examples.join(", "))
            }
        )));
    }
    Architecture::from_depths(depths, bottlenecks).ok_or_else(|| {
        let kind = if bottlenecks { "bottleneck" } else { "basic" };
        not_a_resnet(format!(
            "the numbers of {kind} blocks in its four stages, {depths:?}, are not those of a ResNet"
        ))
    })
}

/// The most faults that an error lists; further ones are counted.
const MAX_LISTED: usize = 8;

/// Checks that `tensors` (torchvision's names and shapes) are exactly those of `architecture`. The error
/// names the file `path`, lists the first [`MAX_LISTED`] differences and counts the others.
pub(super) fn check_tensors(
    path: &Path,
    architecture: Architecture,
    tensors: &BTreeMap<&str, &[usize]>,
) -> Result<(), CheckpointError> {
    let expected = expected_shapes(architecture);
    let mut faults = Vec::new();
    for (name, shape) in &expected {
        match tensors.get(name.as_str()) {
            None => faults.push(format!("tensor `{name}` {shape:?} is missing")),
            Some(found) if found != shape => {
                faults.push(format!("tensor `{name}` has shape {found:?} instead of {shape:?}"));
            }
            Some(_) => {}
        }
    }
    faults.extend(
        tensors
            .keys()
            .filter(|name| !expected.contains_key(**name))
            .map(|name| format!("tensor `{name}` is unexpected")),
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

/// torchvision's names and the shapes of all tensors that a checkpoint of `architecture` must have: the
/// weights of the convolutions, `[out_channels, in_channels, kernel, kernel]`, and four vectors
/// `[out_channels]` for each BatchNorm. [`check_tensors`] compares a checkpoint with them.
fn expected_shapes(architecture: Architecture) -> BTreeMap<String, Vec<usize>> {
    let mut tensors = BTreeMap::new();
    let mut add_conv_bn = |conv: &str, bn: &str, out_channels: usize, in_channels: usize, kernel: usize| {
        tensors.insert(format!("{conv}.weight"), vec![out_channels, in_channels, kernel, kernel]);
        for leaf in ["weight", "bias", "running_mean", "running_var"] {
            tensors.insert(format!("{bn}.{leaf}"), vec![out_channels]);
        }
    };
    // The stem: 64 output channels, 3 input channels (RGB), 7 x 7.
    add_conv_bn("conv1", "bn1", 64, 3, 7);
    // `input`, `inner` and `output` are the numbers of channels in front of, inside and after a block.
    let mut input = 64;
    for ((stage, inner), blocks) in (1..).zip(STAGE_WIDTHS).zip(architecture.depths()) {
        let output = inner * architecture.expansion();
        for block in 0..blocks {
            let layer_name = |leaf: &str| format!("layer{stage}.{block}.{leaf}");
            // Output channels, input channels and kernel size of each convolution in a block.
            let convolutions: &[(usize, usize, usize)] = if architecture.has_bottlenecks() {
                &[(inner, input, 1), (inner, inner, 3), (output, inner, 1)]
            } else {
                &[(inner, input, 3), (output, inner, 3)]
            };
            for (number, &(out_channels, in_channels, kernel)) in (1..).zip(convolutions) {
                let (conv, bn) = (layer_name(&format!("conv{number}")), layer_name(&format!("bn{number}")));
                add_conv_bn(&conv, &bn, out_channels, in_channels, kernel);
            }
            if input != output {
                add_conv_bn(&layer_name("downsample.0"), &layer_name("downsample.1"), output, input, 1);
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
    fn invalid_stage_numbers_are_not_names_of_transformers() {
        for name in ["encoder.stages.255.layers.0.layer.0.convolution.weight", "encoder.stages.x.layers.0.y"]
        {
            assert_eq!(from_transformers(name), None);
        }
        assert_eq!(from_transformers("conv1.weight"), None);
    }
}
