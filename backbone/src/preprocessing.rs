//! How photos are prepared for some weights: a record that travels with them.

use serde::{Deserialize, Serialize};

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
    fn checked(self) -> Result<Self, String> {
        let sizes = [self.resize, self.crop[0], self.crop[1]];
        if sizes.iter().any(|size| !(1..=8192).contains(size)) {
            return Err(format!(
                "a resize to {} and a crop of {:?} pixels cannot be meant",
                self.resize, self.crop
            ));
        }
        if self.std.iter().any(|std| *std <= 0.0 || !std.is_finite())
            || self.mean.iter().any(|mean| !mean.is_finite())
        {
            return Err(format!("mean {:?} and std {:?} cannot be meant", self.mean, self.std));
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
        .checked()
    }

    /// Says so where the licence forbids commercial use.
    pub(crate) fn warn_of_licence(&self, origin: &str) {
        let tagged = |part: &str| self.tag.as_ref().is_some_and(|tag| tag.contains(part));
        let licence = self.license.as_deref().unwrap_or_default();
        if tagged("ssl_") || tagged("swsl_") || licence.contains("-nc") {
            let licence = if licence.is_empty() { "cc-by-nc-4.0" } else { licence };
            tracing::warn!("the weights {origin} are for non-commercial use only ({licence})");
        }
    }
}

/// transformers' `preprocessor_config.json`, of `ConvNextImageProcessor` (ResNet's) and those that crop.
#[derive(Debug, Deserialize)]
pub(crate) struct TransformersProcessor {
    size: Option<Size>,
    crop_size: Option<Size>,
    crop_pct: Option<f64>,
    do_resize: Option<bool>,
    do_center_crop: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    resample: Option<u32>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
}

/// `224`, `{"shortest_edge": 224}` or `{"height": 224, "width": 224}`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(from = "serde_json::Value")]
struct Size {
    shortest_edge: Option<u32>,
    height: Option<u32>,
    width: Option<u32>,
}

impl From<serde_json::Value> for Size {
    fn from(value: serde_json::Value) -> Self {
        let number = |value: &serde_json::Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let key = |key: &str| value.get(key).and_then(number);
        Self {
            shortest_edge: number(&value).or_else(|| key("shortest_edge")),
            height: key("height"),
            width: key("width"),
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
        let short = self.size.and_then(|size| size.shortest_edge).ok_or("`size` gives no shortest edge")?;
        let (resize, crop) = match self.crop_size {
            Some(crop) if self.do_center_crop != Some(false) => {
                let height = crop.height.or(crop.shortest_edge).ok_or("`crop_size` gives no height")?;
                (short, [height, crop.width.unwrap_or(height)])
            }
            // ConvNextImageProcessor: below 384 it resizes to size / crop_pct and crops, from 384 on it distorts.
            _ if short < 384 => {
                ((f64::from(short) / self.crop_pct.unwrap_or(224.0 / 256.0)) as u32, [short, short])
            }
            _ => {
                return Err(format!(
                    "`size` is {short}: from 384 on the processor squeezes photos into a square, which is not known"
                ));
            }
        };
        let interpolation = match self.resample.unwrap_or(2) {
            0 => Interpolation::Nearest,
            1 => Interpolation::Lanczos,
            2 => Interpolation::Bilinear,
            3 => Interpolation::Bicubic,
            other => return Err(format!("`resample` {other} is not known")),
        };
        let (mean, std) = if self.do_normalize == Some(false) {
            ([0.0; 3], [1.0; 3])
        } else {
            (self.image_mean.unwrap_or(IMAGENET_MEAN), self.image_std.unwrap_or(IMAGENET_STD))
        };
        Preprocessing { resize, crop, interpolation, mean, std }.checked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timm(json: &str) -> Result<Preprocessing, String> {
        serde_json::from_str::<TimmConfig>(json).unwrap().preprocessing()
    }

    fn transformers(json: &str) -> Result<Preprocessing, String> {
        serde_json::from_str::<TransformersProcessor>(json).unwrap().preprocessing()
    }

    #[test]
    fn timms_record_is_followed() {
        // timm/resnet50.a1_in1k, timm/resnet34.ra4_e3600_r224_in1k
        let a1 =
            timm(r#"{"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic"}"#).unwrap();
        assert_eq!((a1.resize, a1.interpolation, a1.mean), (235, Interpolation::Bicubic, IMAGENET_MEAN));
        let half = timm(r#"{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9}"#).unwrap();
        assert_eq!((half.resize, half.mean, half.std), (248, [0.5; 3], [0.5; 3]));
    }

    #[test]
    fn transformers_record_is_followed() {
        // microsoft/resnet-50
        let record = transformers(
            r#"{"crop_pct": 0.875, "do_normalize": true, "do_resize": true, "resample": 3, "size": 224,
                "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}"#,
        );
        let expected = Preprocessing { interpolation: Interpolation::Bicubic, ..Preprocessing::default() };
        assert_eq!(record, Ok(expected));
        let cropped =
            transformers(r#"{"size": {"shortest_edge": 232}, "crop_size": {"height": 224, "width": 200}}"#)
                .unwrap();
        assert_eq!((cropped.resize, cropped.crop), (232, [224, 200]));
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        assert!(timm(r#"{"crop_mode": "squash"}"#).unwrap_err().contains("squash"));
        assert!(timm(r#"{"interpolation": "random"}"#).unwrap_err().contains("random"));
        assert!(timm(r#"{"std": [0.0, 1.0, 1.0]}"#).unwrap_err().contains("std"));
        assert!(timm(r#"{"crop_pct": 0.0}"#).unwrap_err().contains("crop_pct"));
        assert!(transformers(r#"{"size": 384}"#).unwrap_err().contains("384"));
        assert!(transformers(r#"{"size": 224, "do_rescale": false}"#).unwrap_err().contains("do_rescale"));
    }
}
