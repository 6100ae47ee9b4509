//! Preprocessing of images: read from the config files of the weights, and stored in every run.

use headstock_split::Resampling;
use serde::{Deserialize, Serialize};

use crate::architecture::MIN_SIDE;

/// The steps from an image to the network input: resize, center crop, scale to `[0, 1]`, subtract the mean,
/// divide by std.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// Length of the short side after resizing, in pixels.
    pub resize: u32,
    /// Height and width of the center crop, in pixels.
    pub crop: [u32; 2],
    /// The filter for resizing.
    pub interpolation: Resampling,
    /// Mean of each channel, RGB, for pixels in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of each channel, RGB, for pixels in `[0, 1]`.
    pub std: [f32; 3],
}

const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

impl Default for Preprocessing {
    /// ImageNet's preprocessing, as for torchvision's `IMAGENET1K_V1` weights.
    fn default() -> Self {
        Self {
            resize: 256,
            crop: [224, 224],
            interpolation: Resampling::Bilinear,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }
}

impl Preprocessing {
    /// Returns the preprocessing unchanged if its values are valid: sizes in the valid range, a crop that is
    /// not larger than the resized image, finite mean and std, and a positive std. The error is a message
    /// that names the problem. The values come from config files, so they can be anything.
    fn validated(self) -> Result<Self, String> {
        let Self { resize, crop: [height, width], mean, std, .. } = self;
        let valid_sizes = MIN_SIDE as u32..=8192;
        if [resize, height, width].iter().any(|size| !valid_sizes.contains(size))
            || resize < height.max(width)
        {
            return Err(format!(
                "photos cannot be resized to a short side of {resize} and cropped to {height} x {width} \
                 pixels: all sizes must be from 32 to 8192, and the crop must not exceed the short side"
            ));
        }
        if std.iter().any(|std| *std <= 0.0 || !std.is_finite()) || mean.iter().any(|mean| !mean.is_finite())
        {
            return Err(format!(
                "mean {mean:?} and std {std:?} cannot be used to normalize colors: all values must be \
                 finite, and those of std above 0"
            ));
        }
        Ok(self)
    }
}

/// timm's `pretrained_cfg`, with the keys of timm's default transform (`input_size` and `crop_pct`, not
/// `test_input_size`).
#[derive(Debug, Default, Deserialize)]
pub(crate) struct TimmConfig {
    tag: Option<String>,
    input_size: Option<[u32; 3]>,
    crop_pct: Option<f64>,
    crop_mode: Option<String>,
    interpolation: Option<String>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    license: Option<String>,
}

impl TimmConfig {
    /// Whether any key about the preprocessing is present. If not, the `config.json` from which this was read
    /// is not timm's, and the preprocessing is read from another file.
    pub(crate) fn has_preprocessing(&self) -> bool {
        let Self { input_size, crop_pct, interpolation, mean, std, .. } = self;
        let has_size = input_size.is_some() || crop_pct.is_some();
        has_size || interpolation.is_some() || mean.is_some() || std.is_some()
    }

    /// Converts timm's config to the preprocessing, with timm's defaults for missing keys. The error is a
    /// message that names an invalid or unsupported key.
    pub(crate) fn preprocessing(&self) -> Result<Preprocessing, String> {
        let [channels, height, width] = self.input_size.unwrap_or([3, 224, 224]);
        if channels != 3 {
            return Err(format!(
                "the number of color channels in `pretrained_cfg.input_size` is {channels}: only 3 are \
                 supported"
            ));
        }
        if height != width {
            return Err(format!(
                "`pretrained_cfg.input_size` is {height} x {width}: only square crops are supported"
            ));
        }
        if let Some(mode) = self.crop_mode.as_ref().filter(|mode| *mode != "center") {
            return Err(format!("`pretrained_cfg.crop_mode` is \"{mode}\": only \"center\" is supported"));
        }
        let crop_pct = self.crop_pct.unwrap_or(0.875);
        if !(crop_pct > 0.0 && crop_pct <= 1.0) {
            return Err(format!(
                "`pretrained_cfg.crop_pct` is {crop_pct}: the value must be above 0 and at most 1"
            ));
        }
        let interpolation = self.interpolation.as_deref().unwrap_or("bicubic");
        let interpolation = serde_json::from_value(interpolation.into()).map_err(|_| {
            format!(
                "`pretrained_cfg.interpolation` is \"{interpolation}\": only \"nearest\", \"bilinear\", \
                 \"bicubic\" and \"lanczos\" are supported"
            )
        })?;
        Preprocessing {
            resize: (f64::from(height) / crop_pct).floor() as u32,
            crop: [height, width],
            interpolation,
            mean: self.mean.unwrap_or(IMAGENET_MEAN),
            std: self.std.unwrap_or(IMAGENET_STD),
        }
        .validated()
    }

    /// Logs a warning if the license of the weights forbids commercial use. `origin` is the name of the
    /// weights in the warning; `architecture` is the model name in their config. Facebook's semi-supervised
    /// weights are recognized by name, because their configs may state another license or none.
    pub(crate) fn warn_if_noncommercial(&self, architecture: Option<&str>, origin: &str) {
        let license = self.license.as_deref().unwrap_or_default();
        // `ssl_` and `swsl_` in the name: (weakly) semi-supervised.
        let semi_supervised = [self.tag.as_deref(), architecture]
            .into_iter()
            .flatten()
            .any(|name| ["ssl_", "swsl_"].iter().any(|marker| name.contains(marker)));
        if semi_supervised || license.contains("-nc") {
            let license = if license.is_empty() { "cc-by-nc-4.0" } else { license };
            tracing::warn!("the weights {origin} are for non-commercial use only ({license})");
        }
    }
}

/// The supported values of `resample`, Pillow's numbers of resampling filters, for messages.
const RESAMPLE_FILTERS: &str = "0 (nearest), 1 (lanczos), 2 (bilinear) or 3 (bicubic)";

/// transformers' `preprocessor_config.json` of `ConvNextImageProcessor` (used for ResNets) or of a processor
/// that crops.
#[derive(Debug, Deserialize)]
pub(crate) struct TransformersProcessor {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    size: Option<ProcessorSize>,
    crop_size: Option<ProcessorSize>,
    crop_pct: Option<f64>,
    do_resize: Option<bool>,
    do_center_crop: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    rescale_factor: Option<f64>,
    resample: Option<u32>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
}

/// A size in pixels in transformers' `preprocessor_config.json`, written as `224`, `{"shortest_edge": 224}`
/// or `{"height": 224, "width": 224}`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(from = "serde_json::Value")]
struct ProcessorSize {
    shortest_edge: Option<u32>,
    height: Option<u32>,
    width: Option<u32>,
}

impl From<serde_json::Value> for ProcessorSize {
    /// Converts the JSON value of `size` or `crop_size` in transformers' `preprocessor_config.json`. A bare
    /// number is the shortest edge in pixels; keys that are missing or not a size are `None`.
    fn from(value: serde_json::Value) -> Self {
        let as_u32 = |value: &serde_json::Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let side = |key: &str| value.get(key).and_then(as_u32);
        Self {
            shortest_edge: as_u32(&value).or_else(|| side("shortest_edge")),
            height: side("height"),
            width: side("width"),
        }
    }
}

impl TransformersProcessor {
    /// Converts transformers' config to the preprocessing. The error is a message that names the missing or
    /// unsupported key. Keys whose defaults differ between versions of transformers must be present.
    pub(crate) fn preprocessing(&self) -> Result<Preprocessing, String> {
        if self.do_resize == Some(false) || self.do_rescale == Some(false) {
            return Err(
                "`do_resize` or `do_rescale` is false: only image processors that resize and rescale photos \
                 are supported"
                    .into(),
            );
        }
        if let Some(factor) = self.rescale_factor.filter(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
            return Err(format!(
                "`rescale_factor` is {factor}: only 1/255 (0.00392156862745098) is supported, which scales \
                 pixel values to the range 0 to 1"
            ));
        }
        let (resize, crop) = self.resize_and_crop()?;
        // transformers' defaults for these keys differ between its versions and processors.
        let no_filter = || format!("`resample` is missing: add the number of the filter, {RESAMPLE_FILTERS}");
        let resample = self.resample.ok_or_else(no_filter)?;
        let filters = [Resampling::Nearest, Resampling::Lanczos, Resampling::Bilinear, Resampling::Bicubic];
        let interpolation = *filters
            .get(resample as usize)
            .ok_or_else(|| format!("`resample` is {resample}: only {RESAMPLE_FILTERS} are supported"))?;
        let (mean, std) = if self.do_normalize == Some(false) {
            ([0.0; 3], [1.0; 3])
        } else {
            (
                self.image_mean.ok_or("`image_mean` is missing: add the mean of each color channel")?,
                self.image_std.ok_or("`image_std` is missing: add the std of each color channel")?,
            )
        };
        Preprocessing { resize, crop, interpolation, mean, std }.validated()
    }

    /// The first value is the length in pixels to which the short side of an image is resized; the second is
    /// height and width of the center crop that follows. Both are computed as the processor of this config
    /// computes them in transformers. The error is a message that names the missing or unsupported key.
    fn resize_and_crop(&self) -> Result<(u32, [u32; 2]), String> {
        let short_side =
            self.size.and_then(|size| size.shortest_edge).ok_or("`size` has no `shortest_edge` in pixels")?;
        if let Some(crop) = self.crop_size.filter(|_| self.do_center_crop != Some(false)) {
            let height = crop.height.or(crop.shortest_edge).ok_or("`crop_size` has no `height` in pixels")?;
            return Ok((short_side, [height, crop.width.unwrap_or(height)]));
        }
        let processor_type = self.image_processor_type.as_deref().or(self.feature_extractor_type.as_deref());
        if let Some(name) = processor_type.filter(|name| !name.starts_with("ConvNext")) {
            return Err(format!(
                "there is no `crop_size`: the image processor {name} is only supported with one, because \
                 photos are always resized by their short side and then cropped"
            ));
        }
        // For a `size` below 384, ConvNextImageProcessor resizes the short side to `size / crop_pct` and
        // crops to `size`. From 384 on, it resizes both sides to `size` and does not crop.
        if short_side >= 384 {
            return Err(format!(
                "`size` is {short_side}: with a size of 384 or more, ConvNextImageProcessor stretches photos \
                 to a square, which is not supported"
            ));
        }
        // The default of ConvNextImageProcessor.
        let crop_pct = self.crop_pct.unwrap_or(224.0 / 256.0);
        if !(crop_pct > 0.0 && crop_pct <= 1.0) {
            return Err(format!("`crop_pct` is {crop_pct}: the value must be above 0 and at most 1"));
        }
        Ok(((f64::from(short_side) / crop_pct) as u32, [short_side, short_side]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_timm(json: &str) -> Result<Preprocessing, String> {
        serde_json::from_str::<TimmConfig>(json).unwrap().preprocessing()
    }

    fn from_transformers(json: &str) -> Result<Preprocessing, String> {
        let keys = format!(r#"{json}, "resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]"#);
        serde_json::from_str::<TransformersProcessor>(&format!("{{{keys}}}")).unwrap().preprocessing()
    }

    fn validated(resize: u32, crop: [u32; 2], mean: f32, std: f32) -> Result<Preprocessing, String> {
        let preprocessing = Preprocessing {
            resize,
            crop,
            mean: [0.5, mean, 0.5],
            std: [0.5, 0.5, std],
            ..Preprocessing::default()
        };
        preprocessing.validated()
    }

    #[test]
    fn sizes_are_valid_from_32_to_8192_and_the_crop_must_fit() {
        for (resize, crop, is_valid) in [
            (32, [32, 32], true),
            (8192, [8192, 32], true),
            (256, [224, 256], true),
            (31, [31, 31], false),
            (256, [31, 224], false),
            (256, [224, 31], false),
            (8193, [224, 224], false),
            (255, [224, 256], false),
            (255, [256, 224], false),
        ] {
            let error = format!(
                "photos cannot be resized to a short side of {resize} and cropped to {} x {} pixels: all \
                 sizes must be from 32 to 8192, and the crop must not exceed the short side",
                crop[0], crop[1]
            );
            let found = validated(resize, crop, 0.5, 0.5).map(|valid| (valid.resize, valid.crop));
            assert_eq!(found, if is_valid { Ok((resize, crop)) } else { Err(error) });
        }
    }

    #[test]
    fn mean_and_std_must_be_finite_and_std_positive() {
        for (mean, std, is_valid) in [
            (-2.0, 1e-6, true),
            (0.0, 255.0, true),
            (f32::NAN, 0.5, false),
            (f32::INFINITY, 0.5, false),
            (0.5, 0.0, false),
            (0.5, -0.5, false),
            (0.5, f32::NAN, false),
            (0.5, f32::INFINITY, false),
        ] {
            let found = validated(256, [224, 224], mean, std).map(|_| ());
            let error = format!(
                "mean {:?} and std {:?} cannot be used to normalize colors: all values must be finite, and \
                 those of std above 0",
                [0.5, mean, 0.5],
                [0.5, 0.5, std]
            );
            assert_eq!(found, if is_valid { Ok(()) } else { Err(error) });
        }
    }

    #[test]
    fn a_timm_config_has_preprocessing_with_any_of_its_keys() {
        for (json, has) in [
            (r#"{"input_size": [3, 224, 224]}"#, true),
            (r#"{"crop_pct": 0.9}"#, true),
            (r#"{"interpolation": "bicubic"}"#, true),
            (r#"{"mean": [0.5, 0.5, 0.5]}"#, true),
            (r#"{"std": [0.5, 0.5, 0.5]}"#, true),
            (r#"{"license": "mit", "tag": "a1_in1k", "crop_mode": "center"}"#, false),
        ] {
            assert_eq!(serde_json::from_str::<TimmConfig>(json).unwrap().has_preprocessing(), has, "{json}");
        }
    }

    #[test]
    fn resize_is_the_crop_size_divided_by_crop_pct_rounded_down() {
        for (size, crop_pct, resize) in
            [(224, 0.875, 256), (224, 0.95, 235), (224, 1.0, 224), (288, 0.97, 296)]
        {
            let record =
                from_timm(&format!(r#"{{"input_size": [3, {size}, {size}], "crop_pct": {crop_pct}}}"#))
                    .unwrap();
            assert_eq!((record.resize, record.crop), (resize, [size, size]));
        }
    }

    #[test]
    fn resample_is_the_number_of_a_pillow_filter() {
        for (number, filter) in [
            (0, Resampling::Nearest),
            (1, Resampling::Lanczos),
            (2, Resampling::Bilinear),
            (3, Resampling::Bicubic),
        ] {
            let json = format!(
                r#"{{"size": 224, "resample": {number}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}}"#
            );
            let record =
                serde_json::from_str::<TransformersProcessor>(&json).unwrap().preprocessing().unwrap();
            let expected = Preprocessing {
                // transformers' default `crop_pct` is 224 / 256.
                resize: 256,
                crop: [224, 224],
                interpolation: filter,
                mean: [0.1, 0.2, 0.3],
                std: [0.4, 0.5, 0.6],
            };
            assert_eq!(record, expected);
        }
    }

    /// Also tests both keys for the type of the processor, and which of them has precedence.
    #[test]
    fn only_convnext_processors_may_lack_a_crop_size() {
        for (json, expected) in [
            (r#""size": 383, "crop_pct": 1.0"#, Ok((383, [383, 383]))),
            (r#""size": 320, "crop_pct": 0.9"#, Ok((355, [320, 320]))),
            (
                r#""size": {"shortest_edge": 224}, "image_processor_type": "ConvNextImageProcessorFast""#,
                Ok((256, [224; 2])),
            ),
            (r#""size": 224, "feature_extractor_type": "ConvNextFeatureExtractor""#, Ok((256, [224; 2]))),
            (
                r#""size": 224, "feature_extractor_type": "ViTFeatureExtractor""#,
                Err(
                    "there is no `crop_size`: the image processor ViTFeatureExtractor is only supported with \
                     one",
                ),
            ),
            (
                r#""size": 224, "image_processor_type": "ViTImageProcessor", "feature_extractor_type": "ConvNextFeatureExtractor""#,
                Err("there is no `crop_size`: the image processor ViTImageProcessor is only supported with \
                     one"),
            ),
            (r#""size": 256, "crop_size": 224, "do_center_crop": true"#, Ok((256, [224; 2]))),
            (r#""size": 224, "crop_size": 200, "do_center_crop": false"#, Ok((256, [224; 2]))),
            (r#""size": 256, "crop_size": {"shortest_edge": 224}"#, Ok((256, [224; 2]))),
            (r#""size": 256, "crop_size": {"width": 224}"#, Err("`crop_size` has no `height`")),
            (
                r#""size": 256, "crop_size": {"height": 224, "width": 192}, "image_processor_type": "BitImageProcessor""#,
                Ok((256, [224, 192])),
            ),
            (r#""size": 384, "crop_size": 384"#, Ok((384, [384; 2]))),
            (r#""size": 384"#, Err("`size` is 384: with a size of 384 or more")),
            (
                r#""size": 224, "crop_pct": 0"#,
                Err("`crop_pct` is 0: the value must be above 0 and at most 1"),
            ),
            (r#""size": 224, "crop_pct": 1.01"#, Err("`crop_pct` is 1.01")),
            (r#""size": -1"#, Err("`size` has no `shortest_edge`")),
            (r#""size": 224, "do_resize": false"#, Err("`do_resize` or `do_rescale` is false")),
            (
                r#""size": 224, "do_resize": true, "do_rescale": true, "rescale_factor": 0.00392156862745098"#,
                Ok((256, [224; 2])),
            ),
            (r#""size": 224, "rescale_factor": 0.0039"#, Err("`rescale_factor` is 0.0039: only 1/255")),
        ] {
            match (from_transformers(json).map(|found| (found.resize, found.crop)), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{json}"),
                (Err(error), Err(expected)) => assert!(error.starts_with(expected), "{json}: {error}"),
                (found, _) => panic!("{json}: {found:?}"),
            }
        }
    }

    #[test]
    fn missing_required_keys_of_a_processor_are_named() {
        let required =
            [r#""size": 224"#, r#""resample": 2"#, r#""image_mean": [0, 0, 0]"#, r#""image_std": [1, 1, 1]"#];
        let parsed = |keys: &[&str]| {
            let json = format!("{{{}}}", keys.join(", "));
            serde_json::from_str::<TransformersProcessor>(&json).unwrap().preprocessing().map(|_| ())
        };
        assert_eq!(parsed(&required), Ok(()));
        for (missing, expected) in [
            "`size` has no `shortest_edge` in pixels",
            "`resample` is missing: add the number of the filter, 0 (nearest), 1 (lanczos), 2 (bilinear) or \
             3 (bicubic)",
            "`image_mean` is missing: add the mean of each color channel",
            "`image_std` is missing: add the std of each color channel",
        ]
        .into_iter()
        .enumerate()
        {
            let keys: Vec<&str> = (0..4).filter(|&i| i != missing).map(|i| required[i]).collect();
            assert_eq!(parsed(&keys), Err(expected.to_owned()));
        }
        let unsupported = [required[0], r#""resample": 4"#, required[2], required[3]];
        let message =
            "`resample` is 4: only 0 (nearest), 1 (lanczos), 2 (bilinear) or 3 (bicubic) are supported";
        assert_eq!(parsed(&unsupported), Err(message.to_owned()));
    }

    #[test]
    fn an_explicit_crop_size_is_used() {
        let cropped = from_transformers(
            r#""size": {"shortest_edge": 232}, "crop_size": {"height": 224, "width": 200}"#,
        )
        .unwrap();
        assert_eq!((cropped.resize, cropped.crop), (232, [224, 200]));
        let unnormalized =
            from_transformers(r#""size": {"shortest_edge": 256}, "crop_size": 224, "do_normalize": false"#)
                .unwrap();
        assert_eq!((unnormalized.resize, unnormalized.crop), (256, [224, 224]));
        assert_eq!((unnormalized.mean, unnormalized.std), ([0.0; 3], [1.0; 3]));
    }

    #[test]
    fn unsupported_settings_are_named() {
        for (json, key) in [
            (r#"{"crop_mode": "squash"}"#, "squash"),
            (r#"{"interpolation": "random"}"#, "random"),
            (r#"{"std": [0.0, 1.0, 1.0]}"#, "std"),
            (r#"{"crop_pct": 0.0}"#, "crop_pct"),
            (r#"{"input_size": [3, 224, 192]}"#, "224 x 192"),
        ] {
            assert!(from_timm(json).unwrap_err().contains(key), "{json}");
        }
        for (json, key) in [
            (r#""size": 384"#, "384"),
            (r#""size": 224, "do_rescale": false"#, "do_rescale"),
            (r#""size": 224, "rescale_factor": 1.0"#, "rescale_factor"),
            (r#""size": 224, "crop_pct": -1"#, "crop_pct"),
            (r#""size": 224, "crop_size": 256"#, "cropped to 256 x 256"),
            (r#""size": 224, "image_processor_type": "BitImageProcessor""#, "BitImageProcessor"),
        ] {
            assert!(from_transformers(json).unwrap_err().contains(key), "{json}");
        }
    }
}
