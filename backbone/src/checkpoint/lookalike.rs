//! Networks that share a ResNet's names but compute something else.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::CheckpointError;

/// Rejects other networks that can be recognized by their `tensors` (torchvision's names and shapes), so that
/// the error names the network instead of many missing tensors, and the file `path`. `resnetaa`, `resnetblur`
/// and transformers' `downsample_in_bottleneck` have the tensors of a plain ResNet, so they pass here; only
/// their `config.json` tells them apart.
pub(super) fn reject_lookalikes(
    path: &Path,
    tensors: &BTreeMap<&str, &[usize]>,
) -> Result<(), CheckpointError> {
    identify_lookalike(tensors).map_or(Ok(()), |(network, evidence)| {
        Err(CheckpointError::not_a_resnet(path, &format!("plain ResNet but {network}: {evidence}")))
    })
}

/// Parts of tensor names, and the network that each identifies, with an article. The first match counts.
const NAME_MARKERS: [(&str, &str); 7] = [
    (".se.conv.", "an ECA-ResNet (efficient channel attention)"),
    ("maxpool.", "a ResNet-RS"),
    (".se.", "an SE-ResNet (squeeze and excitation)"),
    (".attn.", "a ResNet with attention in its blocks"),
    (".convs.", "a Res2Net"),
    (".conv2.fc1.", "a ResNeSt (split attention)"),
    ("stages.0.blocks.0.norm1.", "a ResNetV2 (pre-activation)"),
];

/// The network that `tensors` (torchvision's names and shapes) belong to, if it is known not to be a plain
/// ResNet. Returns its description with an article ("a Wide ResNet") and the evidence, a clause for the error
/// message; `None` for a plain or an unknown network.
fn identify_lookalike(tensors: &BTreeMap<&str, &[usize]>) -> Option<(&'static str, String)> {
    // The evidence that a tensor has `part` in its name; `None` if there is no such tensor.
    let evidence_for = |part: &str| {
        tensors.keys().find(|name| name.contains(part)).map(|name| format!("it has tensor `{name}`"))
    };
    if let Some(identified) =
        NAME_MARKERS.iter().find_map(|(part, network)| Some((*network, evidence_for(part)?)))
    {
        return Some(identified);
    }
    if let Some(name) = tensors.keys().find(|name| name.starts_with("stages.") || name.starts_with("stem.")) {
        return Some(("a timm network with named stages", format!("it has tensor `{name}`")));
    }
    // `downsample.1` of a plain ResNet is a BatchNorm, whose weight is a vector.
    let pooled_shortcut =
        tensors.iter().find(|(name, shape)| name.ends_with("downsample.1.weight") && shape.len() == 4);
    if let Some(stem) = tensors.get("conv1.0.weight") {
        // The output channels of the first of several stem convolutions tell the variants apart.
        let network = match (stem.first(), pooled_shortcut) {
            (Some(24), _) => "a ResNet-T (a stem of three convolutions, tiered)",
            (Some(32), None) => "a ResNet-C (a stem of three convolutions)",
            (Some(32), Some(_)) => {
                "a ResNet-D (a stem of three convolutions, average pools in its shortcuts)"
            }
            (Some(64), _) => "a ResNet-S (a stem of three convolutions)",
            _ => "a ResNet with a stem of several convolutions",
        };
        return Some((network, format!("it has tensor `conv1.0.weight` {stem:?}")));
    }
    if let Some((name, _)) = pooled_shortcut {
        let evidence = format!("`{name}` is a convolution, after an average pool");
        return Some(("a ResNet with average pools in its shortcuts", evidence));
    }
    if tensors.contains_key("bn1.weight") && evidence_for("running_mean").is_none() {
        return Some(("a ResNet with GroupNorm", "no layer has a `running_mean`".into()));
    }
    // A grouped convolution has weights for the input channels of one group only.
    if let Some(&&[outputs, inputs, 3, 3]) = tensors.get("layer1.0.conv2.weight")
        && (1..outputs).contains(&inputs)
    {
        let groups = outputs / inputs;
        let evidence = format!("`layer1.0.conv2.weight` is [{outputs}, {inputs}, 3, 3]: {groups} groups");
        return Some(("a ResNeXt (grouped convolutions)", evidence));
    }
    match tensors.get("layer1.0.conv1.weight") {
        Some(&&[outputs, 64, 1, 1]) if outputs > 64 => Some((
            "a Wide ResNet",
            format!("`layer1.0.conv1.weight` is [{outputs}, 64, 1, 1], not [64, 64, 1, 1]"),
        )),
        _ => None,
    }
}
