//! A pretrained backbone before it is loaded onto a device.

use std::path::{Path, PathBuf};

use headstock_backbone::{
    Backbone, BackboneError, Checkpoint, DeviceChoice, FeatureLayer, Precision, Preprocessing, WeightsSource,
};
use headstock_heads::Tensors;
use headstock_loader::EvalTransform;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::InferenceError;
use crate::progress::Progress;

/// The pretrained network that computes features from photos.
///
/// How photos are preprocessed (size, crop, filter, mean, std) is read from `config.json` or
/// `preprocessor_config.json` beside the weights, as timm and transformers write them. Without either,
/// ImageNet's defaults are used, with a message.
///
/// Files of the hub are stored in the cache of Python's `huggingface_hub`, whose environment variables are
/// followed (`HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`), and
/// checked against their hashes. The config of a run names the commit that was used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackboneOptions {
    /// The weights: a folder with a `.safetensors` file, such a file, or a repository of the Hugging Face hub
    /// as `hf://owner/name`, `hf://owner/name@REVISION` or `hf://owner/name/FILE`.
    pub weights: String,
    /// The layer whose output is used as features: `"stem"`, `"layer1"` to `"layer4"` or `"avgpool"`. Layers
    /// before the last are averaged over their positions.
    #[serde(default)]
    pub layer: FeatureLayer,
    /// The device that the network runs on: `"cpu"`, `"cuda"`, `"cuda:1"`, or `"auto"`, the first GPU of a
    /// CUDA build if there is one, otherwise the CPU.
    #[serde(default)]
    pub device: DeviceChoice,
    /// Number format of the computation: `"f32"`, or `"bf16"` on CUDA and on CPUs with AVX512-BF16 or
    /// AMX-BF16; on other CPUs it is an error. With `"bf16"` the stem and the first block are still computed
    /// in `f32`. Features are `f32` numbers with both formats; they are cached separately.
    #[serde(default)]
    pub precision: Precision,
    /// Folders in which the weights of a model are looked for by their hash if `weights` are not there or are not
    /// those of the model; the cache of the Hugging Face hub is searched as well. If empty, nothing is searched.
    #[serde(skip)]
    pub search: Vec<PathBuf>,
}

impl BackboneOptions {
    /// The weights `weights` with the defaults of the other options.
    #[must_use]
    pub fn new(weights: String) -> Self {
        let (layer, device, precision, search) = Default::default();
        Self { weights, layer, device, precision, search }
    }
}

/// A pretrained checkpoint and the options to load it with, opened but not loaded onto a device yet.
///
/// It is the backbone of the given weights. The backbone of a trained model, which may be fine-tuned, is
/// opened by [`Model::open_backbone`](crate::Model::open_backbone).
pub struct PretrainedBackbone {
    checkpoint: Checkpoint,
    /// The options to load the checkpoint with.
    pub options: BackboneOptions,
}

impl PretrainedBackbone {
    /// Finds the weights that `options` name, downloads them if necessary, and checks them.
    ///
    /// # Errors
    /// [`InferenceError::Backbone`].
    pub fn open(options: &BackboneOptions, progress: &dyn Progress) -> Result<Self, InferenceError> {
        Self::open_with_preprocessing(options, None, progress)
    }

    /// Finds the weights that `options` name, downloads them if necessary, and checks them. A
    /// `preprocessing` replaces the preprocessing config next to the weights: a trained run passes the one
    /// that it has stored, so that it always renders images as in its training.
    ///
    /// # Errors
    /// [`InferenceError::Backbone`].
    pub fn open_with_preprocessing(
        options: &BackboneOptions,
        preprocessing: Option<&Preprocessing>,
        progress: &dyn Progress,
    ) -> Result<Self, InferenceError> {
        let source = WeightsSource::parse(&options.weights, Path::new("")).map_err(BackboneError::from)?;
        let files = source.fetch(progress).map_err(BackboneError::from)?;
        let checkpoint = Checkpoint::open_with(&files, preprocessing).map_err(BackboneError::from)?;
        Ok(Self { checkpoint, options: options.clone() })
    }

    /// The backbone of an open checkpoint; `options.weights` is its name in messages.
    #[must_use]
    pub fn from_checkpoint(checkpoint: Checkpoint, options: BackboneOptions) -> Self {
        Self { checkpoint, options }
    }

    /// The same checkpoint with fine-tuned `tensors` in place of the original ones.
    ///
    /// # Errors
    /// [`InferenceError::Backbone`] for tensors that do not belong to this architecture.
    pub fn with_tensors(self, tensors: &Tensors) -> Result<Self, InferenceError> {
        let checkpoint = self.checkpoint.with_tensors(tensors).map_err(BackboneError::from)?;
        Ok(Self { checkpoint, ..self })
    }

    /// The opened checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Number of features at the configured layer, `F`.
    #[must_use]
    pub fn width(&self) -> usize {
        self.options.layer.channels(self.checkpoint.architecture())
    }

    /// Loads the backbone onto its device.
    ///
    /// # Errors
    /// [`InferenceError::Backbone`].
    pub fn load(&self) -> Result<Backbone, InferenceError> {
        Ok(Backbone::new(&self.checkpoint, self.options.device, self.options.precision)?)
    }

    /// How the loader renders an image for the backbone without augmentation: the resize, center crop and
    /// interpolation of the preprocessing that belongs to the weights, in the types of the loader.
    #[must_use]
    pub fn transform(&self) -> EvalTransform {
        eval_transform(self.checkpoint.preprocessing())
    }
}

/// How the loader renders an image for weights with this preprocessing.
fn eval_transform(preprocessing: &Preprocessing) -> EvalTransform {
    let Preprocessing { resize, crop: [height, width], interpolation, .. } = *preprocessing;
    EvalTransform { resize, crop: (height, width), interpolation }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use headstock_hub::WeightFiles;
    use headstock_testing::bundled_weights;
    use image::{Rgb, RgbImage};
    use sha2::{Digest, Sha256};

    use super::*;

    /// A case of `reference/preprocessing/cases.json`: the config file of an image processor of transformers,
    /// and what the processor makes of images.
    #[derive(Deserialize)]
    struct Case {
        name: String,
        config: serde_json::Value,
        views: Vec<View>,
    }

    /// Sizes are height and width; the hash is that of the pixels `[H, W, 3]`.
    #[derive(Deserialize)]
    struct View {
        image: [u32; 2],
        view: [u32; 2],
        sha256: String,
    }

    #[test]
    fn views_are_those_of_the_image_processors_of_transformers() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../reference/preprocessing/cases.json")).unwrap();
        assert_eq!(cases.len(), 15);
        let folder = tempfile::tempdir().unwrap();
        for Case { name, config, views } in cases {
            let file = folder.path().join("preprocessor_config.json");
            fs::write(&file, config.to_string()).unwrap();
            let files = WeightFiles { config: None, preprocessor: Some(file), ..bundled_weights() };
            let checkpoint = Checkpoint::open(&files).unwrap_or_else(|error| panic!("{name}: {error}"));
            let transform = eval_transform(checkpoint.preprocessing());
            for View { image: [height, width], view: [view_height, view_width], sha256 } in views {
                let image = RgbImage::from_fn(width, height, |x, y| {
                    Rgb([0, 1, 2].map(|c| ((x * 7 + y * 13 + c * 29 + (x * y) % 17 * 5) % 256) as u8))
                });
                let view = transform.apply(&image);
                assert_eq!(view.dimensions(), (view_width, view_height), "{name}");
                assert_eq!(
                    hex::encode(Sha256::digest(view.as_raw())),
                    sha256,
                    "{name} of {height} x {width}"
                );
            }
        }
    }
}
