//! Preprocessing of images: read from the config files of the weights, and stored in every run.

pub(crate) mod transformers;

use headstock_split::{Resampling, Resize};
use serde::{Deserialize, Serialize};

use crate::architecture::MIN_SIDE;

/// The steps from an image to the network input: resize, center crop, scale to `[0, 1]`, subtract the mean,
/// divide by std.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// The size after resizing.
    pub resize: Resize,
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
            resize: Resize::ShortSide(256),
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
        let (description, resized, bound) = match resize {
            Resize::ShortSide(side) => (format!("a short side of {side}"), [side; 2], "short side"),
            Resize::BothSides([height, width]) => {
                (format!("{height} x {width}"), [height, width], "resized photo")
            }
        };
        let valid_sizes = MIN_SIDE as u32..=8192;
        if resized.iter().chain(&[height, width]).any(|size| !valid_sizes.contains(size))
            || resized[0] < height
            || resized[1] < width
        {
            return Err(format!(
                "photos cannot be resized to {description} and cropped to {height} x {width} pixels: all sizes \
                 must be from 32 to 8192, and the crop must not exceed the {bound}"
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
            resize: Resize::ShortSide((f64::from(height) / crop_pct).floor() as u32),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn from_timm(json: &str) -> Result<Preprocessing, String> {
        serde_json::from_str::<TimmConfig>(json).unwrap().preprocessing()
    }

    fn validated(resize: u32, crop: [u32; 2], mean: f32, std: f32) -> Result<Preprocessing, String> {
        let preprocessing = Preprocessing {
            resize: resize.into(),
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
            assert_eq!(found, if is_valid { Ok((resize.into(), crop)) } else { Err(error) });
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
            assert_eq!((record.resize, record.crop), (resize.into(), [size, size]));
        }
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
    }
}
