//! Prefixes that other programs put before the names of all tensors of a network: `module.` of
//! DataParallel, `_orig_mod.` of a compiled model, `model.`, `backbone.` or `encoder.` of a model around it.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::CheckpointError;
use super::names::from_transformers;

/// The first convolution: of transformers' classification model and of its network alone, of torchvision, and
/// of torchvision's networks with several.
const STEMS: [&str; 4] = [
    "resnet.embedder.embedder.convolution.weight",
    "embedder.embedder.convolution.weight",
    "conv1.weight",
    "conv1.0.weight",
];

/// The beginnings of the first block, likewise.
const FIRST_BLOCKS: [&str; 3] =
    ["resnet.encoder.stages.0.layers.0.", "encoder.stages.0.layers.0.", "layer1.0."];

/// Parts of the network in torchvision's names.
const PARTS: [&str; 6] = ["conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4."];

/// The most prefixes that an error lists.
const MAX_LISTED: usize = 4;

/// The prefix of the names of the network's tensors among `names`, the names in the file `path`, with the dot
/// at its end; empty if there is none, or no network. It is logged, with the number of tensors that do not
/// belong to the network. Several networks, and a network of which only some tensors have the prefix, are
/// errors.
pub(super) fn find_prefix<'a>(
    path: &Path,
    names: impl Iterator<Item = &'a String> + Clone,
) -> Result<&'a str, CheckpointError> {
    let has_block =
        |prefix: &str| names.clone().any(|name| begins_with_one_of(name.strip_prefix(prefix), &FIRST_BLOCKS));
    let stem_prefix = |name: &'a String| {
        let is_prefix = |text: &&str| text.is_empty() || text.ends_with('.');
        STEMS.iter().filter_map(|stem| name.strip_suffix(stem)).find(is_prefix)
    };
    let prefixes: BTreeSet<&str> = names.clone().filter_map(stem_prefix).filter(|it| has_block(it)).collect();
    if prefixes.contains("") {
        return Ok("");
    }
    let prefix = match prefixes.iter().copied().collect::<Vec<_>>().as_slice() {
        [] => return Ok(""),
        [only] => *only,
        several => {
            let listed = several[..several.len().min(MAX_LISTED)].join("`, `");
            return Err(CheckpointError::invalid(
                path,
                format!(
                    "there are {} networks in the file, whose tensors begin with `{listed}`: save the one that is \
                     to be used in a file of its own",
                    several.len()
                ),
            ));
        }
    };
    let others: Vec<&String> = names.filter(|name| !name.starts_with(prefix)).collect();
    let is_part =
        |name: &&&String| begins_with_one_of(Some(name), &PARTS) || from_transformers(name).is_some();
    if let Some(part) = others.iter().find(is_part) {
        return Err(CheckpointError::invalid(
            path,
            format!(
                "only some of the tensors of the network begin with `{prefix}`, and `{part}` does not: save the \
                 model again with one prefix for all of them, or none"
            ),
        ));
    }
    let unused = match others.as_slice() {
        [] => String::new(),
        [only] => format!("; the tensor `{only}` does not, and is not used"),
        [first, ..] => format!("; {} other tensors, such as `{first}`, are not used", others.len()),
    };
    tracing::info!("{}: the tensors of the network begin with `{prefix}`{unused}", path.display());
    Ok(prefix)
}

/// Whether `name` begins with one of `beginnings`.
fn begins_with_one_of(name: Option<&str>, beginnings: &[&str]) -> bool {
    name.is_some_and(|name| beginnings.iter().any(|beginning| name.starts_with(beginning)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(names: &[&str]) -> Result<String, String> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        find_prefix(Path::new("x"), names.iter()).map(str::to_owned).map_err(|error| error.to_string())
    }

    #[test]
    fn a_prefix_is_what_precedes_the_first_convolution_and_the_first_block() {
        for (names, expected) in [
            (&["conv1.weight", "layer1.0.conv1.weight"][..], ""),
            (&["module.conv1.weight", "module.layer1.0.conv1.weight"], "module."),
            (
                &["module.model.conv1.weight", "module.model.layer1.0.bn1.bias", "module.fc.bias"],
                "module.model.",
            ),
            (&["a.conv1.0.weight", "a.layer1.0.conv1.weight"], "a."),
            (&["resnet.embedder.embedder.convolution.weight", "resnet.encoder.stages.0.layers.0.x"], ""),
            (&["resnet.conv1.weight", "resnet.layer1.0.conv1.weight"], "resnet."),
            (
                &["m.resnet.embedder.embedder.convolution.weight", "m.resnet.encoder.stages.0.layers.0.x"],
                "m.",
            ),
            // No network.
            (&["module.conv1.weight", "module.fc1.weight"], ""),
            (&["module.layer1.0.conv1.weight"], ""),
            (&["a_conv1.weight", "a_layer1.0.conv1.weight"], ""),
            (&[], ""),
        ] {
            assert_eq!(find(names).as_deref(), Ok(expected), "{names:?}");
        }
    }

    #[test]
    fn two_networks_and_half_of_one_are_errors() {
        let network =
            |prefix: &str| ["conv1.weight", "layer1.0.bn1.bias"].map(|name| format!("{prefix}{name}"));
        let names = [network("student."), network("teacher.")].concat();
        let error = find(&names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_err();
        assert!(
            error.contains(
                "there are 2 networks in the file, whose tensors begin with `student.`, `teacher.`"
            )
        );
        let half = ["module.conv1.weight", "module.layer1.0.bn1.bias", "layer4.0.bn1.bias"];
        let error = find(&half).unwrap_err();
        assert!(error.contains("begin with `module.`, and `layer4.0.bn1.bias` does not"), "{error}");
    }
}
