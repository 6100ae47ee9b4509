//! How photos are prepared for some weights: a record that travels with them.

use serde::{Deserialize, Serialize};

use crate::backbone::MIN_SIDE;

/// A resampling filter, by Pillow's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// Triangle.
    Bilinear,
    /// Cubic.
    Bicubic,
    /// Windowed sinc.
    Lanczos,
}

/// What is done to a photo before the network: resize, centre crop, scale to `[0, 1]`, subtract the mean, divide by std.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// What the short side becomes, in pixels.
    pub resize: u32,
    /// Height and width of the centre crop, in pixels.
    pub crop: [u32; 2],
    /// The filter of the resize.
    pub interpolation: Interpolation,
    /// Subtracted from each channel, RGB, in units of full scale.
    pub mean: [f32; 3],
    /// Divided by, RGB.
    pub std: [f32; 3],
}

const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

impl Default for Preprocessing {
    /// ImageNet's, as torchvision's first weights have it.
    fn default() -> Self {
        Self {
            resize: 256,
            crop: [224, 224],
            interpolation: Interpolation::Bilinear,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }
}

impl Preprocessing {
    fn validated(self) -> Result<Self, String> {
        let Self { resize, crop: [height, width], mean, std, .. } = self;
        let valid_sizes = MIN_SIDE as u32..=8192;
        if [resize, height, width].iter().any(|size| !valid_sizes.contains(size))
            || resize < height.max(width)
        {
            return Err(format!(
                "a short side of {resize} and a crop of {height} x {width} pixels cannot be meant"
            ));
        }
        if std.iter().any(|std| *std <= 0.0 || !std.is_finite()) || mean.iter().any(|mean| !mean.is_finite())
        {
            return Err(format!("mean {mean:?} and std {std:?} cannot be meant"));
        }
        Ok(self)
    }
}

/// timm's `pretrained_cfg`. What a default-built timm transform reads: `input_size` and `crop_pct`, not the `test_` ones.
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
    /// Whether it says anything of the preprocessing.
    pub(crate) fn has_preprocessing(&self) -> bool {
        let Self { input_size, crop_pct, interpolation, mean, std, .. } = self;
        input_size.is_some()
            || crop_pct.is_some()
            || interpolation.is_some()
            || mean.is_some()
            || std.is_some()
    }

    pub(crate) fn preprocessing(&self) -> Result<Preprocessing, String> {
        let [channels, height, width] = self.input_size.unwrap_or([3, 224, 224]);
        if channels != 3 {
            return Err(format!("`pretrained_cfg.input_size` has {channels} channels; photos have 3"));
        }
        if height != width {
            return Err(format!(
                "`pretrained_cfg.input_size` is {height} x {width}: only square crops are known"
            ));
        }
        if let Some(mode) = self.crop_mode.as_ref().filter(|mode| *mode != "center") {
            return Err(format!("`pretrained_cfg.crop_mode` is \"{mode}\": only \"center\" is known"));
        }
        let crop_pct = self.crop_pct.unwrap_or(0.875);
        if !(crop_pct > 0.0 && crop_pct <= 1.0) {
            return Err(format!("`pretrained_cfg.crop_pct` is {crop_pct}: it must lie between 0 and 1"));
        }
        let interpolation = match self.interpolation.as_deref().unwrap_or("bicubic") {
            "nearest" => Interpolation::Nearest,
            "bilinear" => Interpolation::Bilinear,
            "bicubic" => Interpolation::Bicubic,
            "lanczos" => Interpolation::Lanczos,
            other => return Err(format!("`pretrained_cfg.interpolation` \"{other}\" is not known")),
        };
        Preprocessing {
            resize: (f64::from(height) / crop_pct).floor() as u32,
            crop: [height, width],
            interpolation,
            mean: self.mean.unwrap_or(IMAGENET_MEAN),
            std: self.std.unwrap_or(IMAGENET_STD),
        }
        .validated()
    }

    /// Says so where the licence forbids commercial use. Facebook's semi-supervised weights do, whatever the record says.
    pub(crate) fn warn_if_noncommercial(&self, architecture: Option<&str>, origin: &str) {
        let licence = self.license.as_deref().unwrap_or_default();
        let semi_supervised = [self.tag.as_deref(), architecture]
            .into_iter()
            .flatten()
            .any(|name| ["ssl_", "swsl_"].iter().any(|marker| name.contains(marker)));
        if semi_supervised || licence.contains("-nc") {
            let licence = if licence.is_empty() { "cc-by-nc-4.0" } else { licence };
            tracing::warn!("the weights {origin} are for non-commercial use only ({licence})");
        }
    }
}

/// transformers' `preprocessor_config.json`, of `ConvNextImageProcessor` (ResNet's) and those that crop.
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

/// `224`, `{"shortest_edge": 224}` or `{"height": 224, "width": 224}`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(from = "serde_json::Value")]
struct ProcessorSize {
    shortest_edge: Option<u32>,
    height: Option<u32>,
    width: Option<u32>,
}

impl From<serde_json::Value> for ProcessorSize {
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
    pub(crate) fn preprocessing(&self) -> Result<Preprocessing, String> {
        if self.do_resize == Some(false) || self.do_rescale == Some(false) {
            return Err(
                "`do_resize` or `do_rescale` is false: photos of any size cannot be prepared so".into()
            );
        }
        if self.rescale_factor.is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
            return Err("`rescale_factor` is not 1/255: only full scale to [0, 1] is known".into());
        }
        let (resize, crop) = self.resize_and_crop()?;
        // transformers' own defaults for these have changed between its versions and processors.
        let interpolation = match self.resample.ok_or("`resample` is missing")? {
            0 => Interpolation::Nearest,
            1 => Interpolation::Lanczos,
            2 => Interpolation::Bilinear,
            3 => Interpolation::Bicubic,
            other => return Err(format!("`resample` {other} is not known")),
        };
        let (mean, std) = if self.do_normalize == Some(false) {
            ([0.0; 3], [1.0; 3])
        } else {
            (
                self.image_mean.ok_or("`image_mean` is missing")?,
                self.image_std.ok_or("`image_std` is missing")?,
            )
        };
        Preprocessing { resize, crop, interpolation, mean, std }.validated()
    }

    /// The short side after the resize, and the crop.
    fn resize_and_crop(&self) -> Result<(u32, [u32; 2]), String> {
        let short = self.size.and_then(|size| size.shortest_edge).ok_or("`size` gives no shortest edge")?;
        if let Some(crop) = self.crop_size.filter(|_| self.do_center_crop != Some(false)) {
            let height = crop.height.or(crop.shortest_edge).ok_or("`crop_size` gives no height")?;
            return Ok((short, [height, crop.width.unwrap_or(height)]));
        }
        let processor_type = self.image_processor_type.as_deref().or(self.feature_extractor_type.as_deref());
        if let Some(kind) = processor_type.filter(|kind| !kind.starts_with("ConvNext")) {
            return Err(format!(
                "a {kind} without `crop_size` leaves photos of different sizes, or is not known"
            ));
        }
        // ConvNextImageProcessor: below 384 it resizes to size / crop_pct and crops, from 384 on it squeezes.
        if short >= 384 {
            return Err(format!(
                "`size` is {short}: from 384 on the processor squeezes photos into a square, which is not known"
            ));
        }
        let crop_pct = self.crop_pct.unwrap_or(224.0 / 256.0);
        if !(crop_pct > 0.0 && crop_pct <= 1.0) {
            return Err(format!("`crop_pct` is {crop_pct}: it must lie between 0 and 1"));
        }
        Ok(((f64::from(short) / crop_pct) as u32, [short, short]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timm(json: &str) -> Result<Preprocessing, String> {
        serde_json::from_str::<TimmConfig>(json).unwrap().preprocessing()
    }

    fn transformers(json: &str) -> Result<Preprocessing, String> {
        let rest = r#""resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]"#;
        serde_json::from_str::<TransformersProcessor>(&format!("{{{json}, {rest}}}")).unwrap().preprocessing()
    }

    /// A record with these sizes, mean and std.
    fn validated_record(resize: u32, crop: [u32; 2], mean: f32, std: f32) -> Result<Preprocessing, String> {
        let record = Preprocessing {
            resize,
            crop,
            mean: [0.5, mean, 0.5],
            std: [0.5, 0.5, std],
            ..Preprocessing::default()
        };
        record.validated()
    }

    #[test]
    fn sizes_from_32_to_8192_with_a_crop_inside_are_meant_and_no_others() {
        for (resize, crop, is_meant) in [
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
            let sizes = format!(
                "a short side of {resize} and a crop of {} x {} pixels cannot be meant",
                crop[0], crop[1]
            );
            let found = validated_record(resize, crop, 0.5, 0.5).map(|record| (record.resize, record.crop));
            assert_eq!(found, if is_meant { Ok((resize, crop)) } else { Err(sizes) });
        }
    }

    #[test]
    fn a_mean_and_a_std_are_numbers_and_the_std_is_above_0() {
        for (mean, std, is_meant) in [
            (-2.0, 1e-6, true),
            (0.0, 255.0, true),
            (f32::NAN, 0.5, false),
            (f32::INFINITY, 0.5, false),
            (0.5, 0.0, false),
            (0.5, -0.5, false),
            (0.5, f32::NAN, false),
            (0.5, f32::INFINITY, false),
        ] {
            let found = validated_record(256, [224, 224], mean, std).map(|_| ());
            let refused =
                format!("mean {:?} and std {:?} cannot be meant", [0.5, mean, 0.5], [0.5, 0.5, std]);
            assert_eq!(found, if is_meant { Ok(()) } else { Err(refused) });
        }
    }

    /// Each alone says something of the preprocessing, and what else timm writes does not.
    #[test]
    fn a_record_of_timms_is_there_with_any_of_its_keys() {
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
    fn the_resize_is_the_crops_share_rounded_down_as_timm_does() {
        for (size, crop_pct, resize) in
            [(224, 0.875, 256), (224, 0.95, 235), (224, 1.0, 224), (288, 0.97, 296)]
        {
            let record =
                timm(&format!(r#"{{"input_size": [3, {size}, {size}], "crop_pct": {crop_pct}}}"#)).unwrap();
            assert_eq!((record.resize, record.crop), (resize, [size, size]));
        }
    }

    /// Pillow's numbers of the filters.
    #[test]
    fn the_filter_of_a_processor_is_pillows_of_that_number() {
        for (number, filter) in [
            (0, Interpolation::Nearest),
            (1, Interpolation::Lanczos),
            (2, Interpolation::Bilinear),
            (3, Interpolation::Bicubic),
        ] {
            let json = format!(
                r#"{{"size": 224, "resample": {number}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}}"#
            );
            let record =
                serde_json::from_str::<TransformersProcessor>(&json).unwrap().preprocessing().unwrap();
            let expected = Preprocessing {
                // Without `crop_pct`, transformers' default: 224 / 256.
                resize: 256,
                crop: [224, 224],
                interpolation: filter,
                mean: [0.1, 0.2, 0.3],
                std: [0.4, 0.5, 0.6],
            };
            assert_eq!(record, expected);
        }
    }

    /// The name of transformers' processor, the older key for it, and which of the two counts.
    #[test]
    fn a_size_without_a_crop_is_convnexts_alone() {
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
                Err("a ViTFeatureExtractor without `crop_size`"),
            ),
            (
                r#""size": 224, "image_processor_type": "ViTImageProcessor", "feature_extractor_type": "ConvNextFeatureExtractor""#,
                Err("a ViTImageProcessor without `crop_size`"),
            ),
            (r#""size": 256, "crop_size": 224, "do_center_crop": true"#, Ok((256, [224; 2]))),
            (r#""size": 224, "crop_size": 200, "do_center_crop": false"#, Ok((256, [224; 2]))),
            (r#""size": 256, "crop_size": {"shortest_edge": 224}"#, Ok((256, [224; 2]))),
            (r#""size": 256, "crop_size": {"width": 224}"#, Err("`crop_size` gives no height")),
            (
                r#""size": 256, "crop_size": {"height": 224, "width": 192}, "image_processor_type": "BitImageProcessor""#,
                Ok((256, [224, 192])),
            ),
            (r#""size": 384, "crop_size": 384"#, Ok((384, [384; 2]))),
            (r#""size": 384"#, Err("`size` is 384: from 384 on")),
            (r#""size": 224, "crop_pct": 0"#, Err("`crop_pct` is 0: it must lie between 0 and 1")),
            (r#""size": 224, "crop_pct": 1.01"#, Err("`crop_pct` is 1.01")),
            (r#""size": -1"#, Err("`size` gives no shortest edge")),
            (r#""size": 224, "do_resize": false"#, Err("`do_resize` or `do_rescale` is false")),
            (
                r#""size": 224, "do_resize": true, "do_rescale": true, "rescale_factor": 0.00392156862745098"#,
                Ok((256, [224; 2])),
            ),
            (r#""size": 224, "rescale_factor": 0.0039"#, Err("`rescale_factor` is not 1/255")),
        ] {
            match (transformers(json).map(|record| (record.resize, record.crop)), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{json}"),
                (Err(error), Err(expected)) => assert!(error.starts_with(expected), "{json}: {error}"),
                (found, _) => panic!("{json}: {found:?}"),
            }
        }
    }

    #[test]
    fn what_a_processor_must_say_is_named_where_it_is_missing() {
        let rest =
            [r#""size": 224"#, r#""resample": 2"#, r#""image_mean": [0, 0, 0]"#, r#""image_std": [1, 1, 1]"#];
        let parsed = |keys: &[&str]| {
            let json = format!("{{{}}}", keys.join(", "));
            serde_json::from_str::<TransformersProcessor>(&json).unwrap().preprocessing().map(|_| ())
        };
        assert_eq!(parsed(&rest), Ok(()));
        for (number, expected) in [
            "`size` gives no shortest edge",
            "`resample` is missing",
            "`image_mean` is missing",
            "`image_std` is missing",
        ]
        .into_iter()
        .enumerate()
        {
            let keys: Vec<&str> = (0..4).filter(|&at| at != number).map(|at| rest[at]).collect();
            assert_eq!(parsed(&keys), Err(expected.to_owned()));
        }
        let other = [rest[0], r#""resample": 4"#, rest[2], rest[3]];
        assert_eq!(parsed(&other), Err("`resample` 4 is not known".to_owned()));
    }

    #[test]
    fn a_processors_own_crop_is_followed() {
        let record =
            transformers(r#""size": {"shortest_edge": 232}, "crop_size": {"height": 224, "width": 200}"#);
        let record = record.unwrap();
        assert_eq!((record.resize, record.crop), (232, [224, 200]));
        let record =
            transformers(r#""size": {"shortest_edge": 256}, "crop_size": 224, "do_normalize": false"#);
        let record = record.unwrap();
        assert_eq!((record.resize, record.crop), (256, [224, 224]));
        assert_eq!((record.mean, record.std), ([0.0; 3], [1.0; 3]));
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        for (json, key) in [
            (r#"{"crop_mode": "squash"}"#, "squash"),
            (r#"{"interpolation": "random"}"#, "random"),
            (r#"{"std": [0.0, 1.0, 1.0]}"#, "std"),
            (r#"{"crop_pct": 0.0}"#, "crop_pct"),
            (r#"{"input_size": [3, 224, 192]}"#, "224 x 192"),
        ] {
            assert!(timm(json).unwrap_err().contains(key), "{json}");
        }
        for (json, key) in [
            (r#""size": 384"#, "384"),
            (r#""size": 224, "do_rescale": false"#, "do_rescale"),
            (r#""size": 224, "rescale_factor": 1.0"#, "rescale_factor"),
            (r#""size": 224, "crop_pct": -1"#, "crop_pct"),
            (r#""size": 224, "crop_size": 256"#, "crop of 256 x 256"),
            (r#""size": 224, "image_processor_type": "BitImageProcessor""#, "BitImageProcessor"),
        ] {
            assert!(transformers(json).unwrap_err().contains(key), "{json}");
        }
    }
}
