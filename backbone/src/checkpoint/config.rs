//! The config files next to the weights: `config.json` of timm or transformers, and
//! `preprocessor_config.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use headstock_hub::WeightFiles;
use serde::Deserialize;

use super::error::CheckpointError;
use crate::architecture::Architecture;
use crate::preprocessing::transformers::TransformersProcessor;
use crate::preprocessing::{Preprocessing, TimmConfig};

/// The keys of `config.json` that are used, of timm and of transformers; `None` for keys that the file lacks.
#[derive(Debug, Default, Deserialize)]
struct ConfigJson {
    architecture: Option<String>,
    pretrained_cfg: Option<TimmConfig>,
    /// Arguments of timm's model constructor.
    model_args: Option<BTreeMap<String, serde_json::Value>>,
    model_type: Option<String>,
    depths: Option<Vec<usize>>,
    layer_type: Option<String>,
    downsample_in_bottleneck: Option<bool>,
    downsample_in_first_stage: Option<bool>,
    hidden_act: Option<String>,
}

/// Arguments of timm's model constructor that do not affect inference up to `avgpool`.
const IGNORED_MODEL_ARGS: [&str; 7] = [
    "drop_block_rate",
    "drop_path_rate",
    "drop_rate",
    "global_pool",
    "in_chans",
    "num_classes",
    "zero_init_last",
];

/// What to do about a config file that contradicts the weights.
const WRONG_CONFIG_HINT: &str = "replace this config.json with the one that belongs to the weights";

/// Reads the config files of `files`, which say what preprocessing the weights need, and checks that they
/// describe the architecture `detected` from the names of the tensors. Returns the preprocessing, the first
/// that exists: the `explicit` one, timm's, that of transformers, ImageNet's. If it is timm's, a license that
/// forbids commercial use is logged.
pub(super) fn read_preprocessing(
    files: &WeightFiles,
    explicit: Option<&Preprocessing>,
    detected: Architecture,
) -> Result<Preprocessing, CheckpointError> {
    let path = files.config.clone().unwrap_or_default();
    let mut config = ConfigJson::default();
    if let Some(file) = &files.config {
        config = parse_json(file)?;
        // timm's format of 2021 and 2022 has no `pretrained_cfg`: its keys are at the top level.
        if config.pretrained_cfg.is_none() && config.architecture.is_some() {
            config.pretrained_cfg =
                Some(parse_json::<TimmConfig>(file)?).filter(TimmConfig::has_preprocessing);
        }
    }
    let preprocessing_error = |path: &Path, problem| {
        let advice = "choose different weights, or change this file if you know that the weights work with a \
                      supported value";
        CheckpointError::invalid(path, format!("{problem}; {advice}"))
    };
    let preprocessing = if let Some(explicit) = explicit {
        explicit.clone()
    } else if let Some(timm) = &config.pretrained_cfg {
        timm.warn_if_noncommercial(config.architecture.as_deref(), &files.origin);
        timm.preprocessing().map_err(|problem| preprocessing_error(&path, problem))?
    } else if let Some(file) = &files.preprocessor {
        let processor = parse_json::<TransformersProcessor>(file)?;
        processor.preprocessing().map_err(|problem| preprocessing_error(file, problem))?
    } else {
        tracing::info!(
            "no config file of the weights {} says how to prepare photos: preparing photos as is usual for \
             ImageNet (short side resized to 256 pixels, bilinear; then the central 224 x 224 pixels)",
            files.origin
        );
        Preprocessing::default()
    };
    config.check_architecture(detected, &path, &files.weights)?;
    Ok(preprocessing)
}

/// Reads the JSON file `path`, a config file next to the weights, as a `T`; the error names the file.
fn parse_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, CheckpointError> {
    let json =
        fs::read_to_string(path).map_err(|source| CheckpointError::Read { path: path.into(), source })?;
    serde_json::from_str(&json).map_err(|error| {
        let problem = "the file is not a valid model config";
        CheckpointError::invalid(path, format!("{problem} ({error}): download or copy the file again"))
    })
}

impl ConfigJson {
    /// Checks that the file `path` describes the architecture `detected` from the names of the tensors in the
    /// file `weights`. Some other networks have the tensors of a plain ResNet but compute something else, and
    /// only this file tells them apart. Keys that the file lacks are not checked.
    fn check_architecture(
        &self,
        detected: Architecture,
        path: &Path,
        weights: &Path,
    ) -> Result<(), CheckpointError> {
        // The error that the file names something else than the weights.
        let contradiction = |found: String| {
            CheckpointError::invalid(
                path,
                format!("{found}, but the weights are those of {detected}: {WRONG_CONFIG_HINT}"),
            )
        };
        let look_alike = |network: &str, evidence: String| {
            let evidence = format!("{} says that {evidence}", path.display());
            CheckpointError::not_a_resnet(weights, &format!("plain ResNet but {network}: {evidence}"))
        };
        if let Some(name) = &self.architecture {
            let base_name = base_architecture_name(name);
            match Architecture::ALL.into_iter().find(|architecture| architecture.as_str() == base_name) {
                Some(named) if named == detected => {}
                Some(named) => return Err(contradiction(format!("`architecture` is {named}"))),
                None => return Err(look_alike(name, format!("`architecture` is \"{name}\""))),
            }
        }
        let mut model_args = self.model_args.iter().flat_map(BTreeMap::keys);
        if let Some(name) = model_args.find(|name| !IGNORED_MODEL_ARGS.contains(&name.as_str())) {
            let network = "a ResNet with non-default arguments";
            return Err(look_alike(network, format!("`model_args` has `{name}`")));
        }
        if let Some(kind) = self.model_type.as_ref().filter(|kind| *kind != "resnet") {
            return Err(look_alike(kind, format!("`model_type` is \"{kind}\"")));
        }
        for (value, key, network) in [
            (
                self.downsample_in_bottleneck,
                "downsample_in_bottleneck",
                "a ResNet V1 of 2015 (stride in the first 1 x 1 convolution of a block)",
            ),
            (
                self.downsample_in_first_stage,
                "downsample_in_first_stage",
                "a ResNet with a stride in its first stage",
            ),
        ] {
            if value == Some(true) {
                return Err(look_alike(network, format!("`{key}` is true")));
            }
        }
        if let Some(name) = self.hidden_act.as_ref().filter(|name| *name != "relu") {
            let network = "a ResNet with a different activation";
            return Err(look_alike(network, format!("`hidden_act` is \"{name}\"")));
        }
        if let Some(depths) = self.depths.as_ref().filter(|depths| depths[..] != detected.depths()) {
            return Err(contradiction(format!("`depths` is {depths:?}")));
        }
        let layer_type = if detected.has_bottlenecks() { "bottleneck" } else { "basic" };
        if let Some(found) = self.layer_type.as_ref().filter(|found| *found != layer_type) {
            return Err(contradiction(format!("`layer_type` is \"{found}\"")));
        }
        Ok(())
    }
}

/// The architecture in a model name of timm, `resnet50` in `resnet50.a1_in1k` for example, to compare it with
/// the architecture of the weights: without the tag after the dot, which names the training, and without the
/// prefixes and suffixes of older names (`tv_resnet50`, `ssl_resnet18`, `gluon_resnet50_v1b`).
fn base_architecture_name(name: &str) -> &str {
    let name = name.split('.').next().unwrap_or(name);
    let name = ["tv_", "ssl_", "swsl_", "gluon_"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    name.strip_suffix("_v1b").unwrap_or(name)
}
