//! Networks that share a ResNet's names but compute something else.

use std::collections::BTreeMap;
use std::path::Path;

use super::CheckpointError;

/// Refuses look-alikes that their tensors give away. `resnetaa`, `resnetblur` and transformers'
/// `downsample_in_bottleneck` differ in no tensor; the config beside the weights tells those.
pub(super) fn refuse(path: &Path, tensors: &BTreeMap<&str, &[usize]>) -> Result<(), CheckpointError> {
    match recognise(tensors) {
        None => Ok(()),
        Some((network, evidence)) => {
            Err(CheckpointError::LookAlike { path: path.into(), network: network.into(), evidence })
        }
    }
}

fn recognise(tensors: &BTreeMap<&str, &[usize]>) -> Option<(&'static str, String)> {
    let with =
        |part: &str| tensors.keys().find(|name| name.contains(part)).map(|name| format!("it has `{name}`"));
    let shape = |name: &str| tensors.get(name).map(|shape| shape.to_vec());

    if let Some(name) = tensors.keys().find(|name| name.starts_with("stages.") || name.starts_with("stem.")) {
        return Some(("ResNetV2 or another network of timm's with named stages", format!("it has `{name}`")));
    }
    if let Some(evidence) = with(".se.conv.") {
        return Some(("ECA-ResNet (efficient channel attention)", evidence));
    }
    if let Some(evidence) = with(".se.fc").or_else(|| with(".se.")) {
        return Some(("SE-ResNet (squeeze and excitation) or ResNet-RS", evidence));
    }
    if let Some(evidence) = with("conv1.0.weight").filter(|_| tensors.contains_key("conv1.0.weight")) {
        return Some(("ResNet-C, -D, -S or -T (a stem of three convolutions)", evidence));
    }
    let pooled =
        |(name, shape): (&&str, &&[usize])| name.ends_with("downsample.1.weight") && shape.len() == 4;
    if let Some((name, _)) = tensors.iter().find(|&(name, shape)| pooled((name, shape))) {
        return Some((
            "ResNet-D (an average pool before the shortcut's convolution)",
            format!("`{name}` is a convolution"),
        ));
    }
    if tensors.contains_key("bn1.weight")
        && !tensors.contains_key("bn1.running_mean")
        && with("running_mean").is_none()
    {
        return Some(("ResNet with GroupNorm", "no layer has a `running_mean`".into()));
    }
    if let Some([outputs, inputs, 3, 3]) = shape("layer1.0.conv2.weight").as_deref()
        && inputs < outputs
    {
        let evidence =
            format!("`layer1.0.conv2.weight` is [{outputs}, {inputs}, 3, 3]: {} groups", outputs / inputs);
        return Some(("ResNeXt (grouped convolutions)", evidence));
    }
    match shape("layer1.0.conv1.weight").as_deref() {
        Some(&[outputs, 64, 1, 1]) if outputs > 64 => Some((
            "Wide ResNet",
            format!("`layer1.0.conv1.weight` is [{outputs}, 64, 1, 1], not [64, 64, 1, 1]"),
        )),
        _ => None,
    }
}
