//! Names and shapes of tensors. All names are converted to torchvision's.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::path::Path;

use super::error::CheckpointError;
use crate::architecture::Architecture;
use crate::resnet_spec::{ConvBn, stage_blocks, stem_conv};

/// A map from torchvision's name of every tensor to its name in the file, one of `originals` that begins with
/// `prefix`, so that the other code knows only torchvision's names. The classifier and the counters of
/// BatchNorm, which are not needed, are left out. Unknown names are kept, and rejected by [`check_tensors`]. Two names of one tensor
/// are an error, which names the file `path`.
pub(super) fn torchvision_names<'a>(
    path: &Path,
    prefix: &str,
    originals: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, String>, CheckpointError> {
    let mut names = BTreeMap::new();
    for original in originals {
        let Some(stripped) = original.strip_prefix(prefix) else { continue };
        let is_classifier = ["fc.", "classifier."].iter().any(|begin| stripped.starts_with(begin));
        if is_classifier || stripped.ends_with(".num_batches_tracked") {
            continue;
        }
        let name = from_transformers(stripped).unwrap_or_else(|| stripped.to_owned());
        if let Some(other) = names.insert(name, original.clone()) {
            return Err(CheckpointError::invalid(
                path,
                format!(
                    "the same tensor is there twice, as `{other}` and as `{original}`: save the model again \
                     with only one of the two names"
                ),
            ));
        }
    }
    Ok(names)
}

/// torchvision's name for a tensor name of transformers, `layer1.0.conv1.weight` for
/// `resnet.encoder.stages.0.layers.0.layer.0.convolution.weight` for example. The prefix `resnet.`, which
/// only the classification model has, may be missing. `None` for any other name.
pub(super) fn from_transformers(name: &str) -> Option<String> {
    let name = name.strip_prefix("resnet.").unwrap_or(name);
    // torchvision's names of the convolution and the BatchNorm, and the rest of the name in transformers.
    let (conv, bn, rest) = if let Some(rest) = name.strip_prefix("embedder.embedder.") {
        ("conv1".into(), "bn1".into(), rest)
    } else {
        let (stage, block_and_layer) = name.strip_prefix("encoder.stages.")?.split_once(".layers.")?;
        let (block, layer) = block_and_layer.split_once('.')?;
        // transformers counts stages and the layers of a block from 0, torchvision from 1.
        let next = |index: &str| index.parse::<u8>().ok()?.checked_add(1);
        let block = format!("layer{}.{block}", next(stage)?);
        if let Some(rest) = layer.strip_prefix("shortcut.") {
            (format!("{block}.downsample.0"), format!("{block}.downsample.1"), rest)
        } else {
            let (index, rest) = layer.strip_prefix("layer.")?.split_once('.')?;
            let number = next(index)?;
            (format!("{block}.conv{number}"), format!("{block}.bn{number}"), rest)
        }
    };
    match rest.split_once('.')? {
        ("convolution", leaf) => Some(format!("{conv}.{leaf}")),
        ("normalization", leaf) => Some(format!("{bn}.{leaf}")),
        _ => None,
    }
}

/// The ResNet that `tensors` (torchvision's names and shapes) belong to, from the number of blocks in each
/// stage and the kind of blocks. The error names the file `path`, and says why it is no ResNet.
pub(super) fn detect_architecture(
    path: &Path,
    tensors: &BTreeMap<&str, &[usize]>,
) -> Result<Architecture, CheckpointError> {
    let not_a_resnet = |evidence: String| CheckpointError::not_a_resnet(path, &format!("ResNet: {evidence}"));
    // Any tensor of a block counts the block, so that a missing tensor is reported as missing later.
    let mut blocks: [BTreeSet<&str>; 4] = Default::default();
    let mut bottlenecks = false;
    for name in tensors.keys() {
        let mut parts = name.split('.');
        let (stage, block, part) = (parts.next(), parts.next(), parts.next());
        let stages = ["layer1", "layer2", "layer3", "layer4"];
        let Some(stage) = stages.iter().position(|name| stage == Some(name)) else { continue };
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
    let is_it = |a: &Architecture| a.depths() == depths && a.has_bottlenecks() == bottlenecks;
    Architecture::ALL.into_iter().find(is_it).ok_or_else(|| {
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
    let blocks = (0..4).flat_map(|stage| stage_blocks(architecture, stage));
    let convolutions = blocks.flat_map(|block| block.convolutions.into_iter().chain(block.shortcut));
    let mut tensors = BTreeMap::new();
    for ConvBn { conv, bn, shape, .. } in iter::once(stem_conv()).chain(convolutions) {
        for leaf in ["weight", "bias", "running_mean", "running_var"] {
            tensors.insert(format!("{bn}.{leaf}"), vec![shape[0]]);
        }
        tensors.insert(format!("{conv}.weight"), shape.to_vec());
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
