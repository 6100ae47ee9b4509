//! The preprocessing in transformers' `preprocessor_config.json`.

use headstock_split::{Resampling, Resize};
use serde::Deserialize;

use super::Preprocessing;

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

/// A size in pixels in transformers' `preprocessor_config.json`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(from = "serde_json::Value")]
struct ProcessorSize {
    /// Of `224`, whose meaning depends on the processor.
    number: Option<u32>,
    shortest_edge: Option<u32>,
    /// Of `{"height": 224, "width": 224}` or `[224, 224]`.
    sides: Option<[u32; 2]>,
    has_longest_edge: bool,
}

impl From<serde_json::Value> for ProcessorSize {
    /// Converts the JSON value of `size` or `crop_size` in transformers' `preprocessor_config.json`. Keys that
    /// are missing or not a size are `None`.
    fn from(value: serde_json::Value) -> Self {
        let as_u32 = |value: &serde_json::Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let key = |key: &str| value.get(key).and_then(as_u32);
        let list = value.as_array().filter(|sides| sides.len() == 2);
        let of_list = list.and_then(|sides| Some([as_u32(&sides[0])?, as_u32(&sides[1])?]));
        Self {
            number: as_u32(&value),
            shortest_edge: key("shortest_edge"),
            sides: key("height").zip(key("width")).map(<[u32; 2]>::from).or(of_list),
            has_longest_edge: key("longest_edge").is_some(),
        }
    }
}

/// The processors to which a `size` of one number is the short side (`default_to_square = False` in
/// transformers).
const SHORT_SIDE_PROCESSORS: [&str; 7] =
    ["Bit", "CLIP", "ChineseCLIP", "ConvNext", "MobileNetV1", "MobileNetV2", "MobileViT"];

/// The processors that resize in a way of their own.
const UNSUPPORTED_PROCESSORS: [&str; 2] = ["Levit", "PoolFormer"];

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

    /// The size to which an image is resized, and height and width of the center crop that follows. Both are
    /// computed as the processor of this config computes them in transformers. The error is a message that
    /// names the missing or unsupported key.
    fn resize_and_crop(&self) -> Result<(Resize, [u32; 2]), String> {
        let name = self.image_processor_type.as_deref().or(self.feature_extractor_type.as_deref());
        let is_one_of = |beginnings: &[&str]| {
            name.is_some_and(|name| beginnings.iter().any(|begin| name.starts_with(begin)))
        };
        if let Some(name) = name.filter(|_| is_one_of(&UNSUPPORTED_PROCESSORS)) {
            return Err(format!("the image processor {name} resizes photos in a way that is not supported"));
        }
        let size = self.size.unwrap_or_default();
        if size.has_longest_edge {
            return Err("`size` has a `longest_edge`: a limit of the long side is not supported".into());
        }
        let number_is_short_side = name.is_none() || is_one_of(&SHORT_SIDE_PROCESSORS);
        let short_side = size.shortest_edge.or(size.number.filter(|_| number_is_short_side));
        let sides = size.sides.or(size.number.map(|side| [side; 2]));
        let resize = match (short_side, sides) {
            (Some(side), _) => Resize::ShortSide(side),
            (None, Some(sides)) => Resize::BothSides(sides),
            (None, None) => {
                return Err("`size` has neither a `shortest_edge` nor `height` and `width` in pixels".into());
            }
        };
        let is_convnext = is_one_of(&["ConvNext"]);
        let crop_size = self.crop_size.filter(|_| match self.do_center_crop {
            Some(does_crop) => does_crop,
            // A processor that crops by `size` alone.
            None => !is_convnext,
        });
        if let Some(crop) = crop_size {
            if is_convnext {
                return Err(
                    "`do_center_crop` is true: ConvNextImageProcessor then crops twice, which is not \
                            supported"
                        .into(),
                );
            }
            let side = crop.number.or(crop.shortest_edge).map(|side| [side; 2]);
            let crop = crop.sides.or(side).ok_or("`crop_size` has no `height` and `width` in pixels")?;
            return Ok((resize, crop));
        }
        match (resize, name) {
            (Resize::BothSides(_), Some(name)) if is_convnext => {
                Err(format!("`size` has no `shortest_edge`, which the image processor {name} needs"))
            }
            (Resize::BothSides(sides), _) => Ok((resize, sides)),
            (Resize::ShortSide(_), Some(name)) if !is_convnext => Err(format!(
                "there is no `crop_size`: the image processor {name} is only supported with one if `size` is the \
                 short side, because all photos must have one size in the end"
            )),
            (Resize::ShortSide(side), _) => self.resize_and_crop_by_size(side),
        }
    }

    /// What ConvNextImageProcessor does: for a `size` below 384 it resizes the short side to `size / crop_pct`
    /// and crops to `size`; from 384 on it resizes both sides to `size` and does not crop.
    fn resize_and_crop_by_size(&self, size: u32) -> Result<(Resize, [u32; 2]), String> {
        let sides = [size; 2];
        if size >= 384 {
            return Ok((Resize::BothSides(sides), sides));
        }
        // The default of ConvNextImageProcessor.
        let crop_pct = self.crop_pct.unwrap_or(224.0 / 256.0);
        if !(crop_pct > 0.0 && crop_pct <= 1.0) {
            return Err(format!("`crop_pct` is {crop_pct}: the value must be above 0 and at most 1"));
        }
        Ok((Resize::ShortSide((f64::from(size) / crop_pct) as u32), sides))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_transformers(json: &str) -> Result<Preprocessing, String> {
        let keys = format!(r#"{json}, "resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]"#);
        serde_json::from_str::<TransformersProcessor>(&format!("{{{keys}}}")).unwrap().preprocessing()
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
                resize: 256.into(),
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
                r#""size": {"shortest_edge": 224}, "feature_extractor_type": "ViTFeatureExtractor""#,
                Err(
                    "there is no `crop_size`: the image processor ViTFeatureExtractor is only supported with one",
                ),
            ),
            (
                r#""size": 224, "image_processor_type": "BitImageProcessor", "feature_extractor_type": "ConvNextFeatureExtractor""#,
                Err(
                    "there is no `crop_size`: the image processor BitImageProcessor is only supported with one",
                ),
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
            (
                r#""size": {"height": 224, "width": 224}, "image_processor_type": "ConvNextImageProcessor""#,
                Err("`size` has no `shortest_edge`, which the image processor ConvNextImageProcessor needs"),
            ),
            (
                r#""size": 224, "crop_size": 200, "do_center_crop": true, "image_processor_type": "ConvNextImageProcessor""#,
                Err("`do_center_crop` is true: ConvNextImageProcessor then crops twice"),
            ),
            (
                r#""size": {"shortest_edge": 224, "longest_edge": 400}, "crop_size": 224"#,
                Err("`size` has a `longest_edge`"),
            ),
            (
                r#""size": 224, "image_processor_type": "LevitImageProcessor""#,
                Err("the image processor Levit"),
            ),
            (
                r#""size": 224, "crop_pct": 0"#,
                Err("`crop_pct` is 0: the value must be above 0 and at most 1"),
            ),
            (r#""size": 224, "crop_pct": 1.01"#, Err("`crop_pct` is 1.01")),
            (r#""size": -1"#, Err("`size` has neither a `shortest_edge`")),
            (r#""size": {"height": 224}"#, Err("`size` has neither a `shortest_edge`")),
            (r#""size": 224, "do_resize": false"#, Err("`do_resize` or `do_rescale` is false")),
            (
                r#""size": 224, "do_resize": true, "do_rescale": true, "rescale_factor": 0.00392156862745098"#,
                Ok((256, [224; 2])),
            ),
            (r#""size": 224, "rescale_factor": 0.0039"#, Err("`rescale_factor` is 0.0039: only 1/255")),
        ] {
            let expected = expected.map(|(side, crop): (u32, [u32; 2])| (side.into(), crop));
            match (from_transformers(json).map(|found| (found.resize, found.crop)), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{json}"),
                (Err(error), Err(expected)) => assert!(error.starts_with(expected), "{json}: {error}"),
                (found, _) => panic!("{json}: {found:?}"),
            }
        }
    }

    #[test]
    fn both_sides_are_resized_if_the_size_has_both() {
        let (short, both) = (Resize::ShortSide, Resize::BothSides);
        for (json, resize, crop) in [
            (r#""size": {"height": 224, "width": 256}"#, both([224, 256]), [224, 256]),
            (r#""size": [224, 256]"#, both([224, 256]), [224, 256]),
            (r#""size": 224, "image_processor_type": "ViTImageProcessor""#, both([224; 2]), [224; 2]),
            (r#""size": {"height": 256, "width": 256}, "crop_size": 224"#, both([256; 2]), [224; 2]),
            (
                r#""size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": false"#,
                both([256; 2]),
                [256; 2],
            ),
            // From 384 on, ConvNextImageProcessor crops no more.
            (r#""size": 384"#, both([384; 2]), [384; 2]),
            (r#""size": 383"#, short(437), [383; 2]),
            // The short side has precedence.
            (
                r#""size": {"shortest_edge": 256, "height": 9, "width": 9}, "crop_size": 224"#,
                short(256),
                [224; 2],
            ),
        ] {
            let found = from_transformers(json).unwrap_or_else(|error| panic!("{json}: {error}"));
            assert_eq!((found.resize, found.crop), (resize, crop), "{json}");
        }
        let error =
            from_transformers(r#""size": {"height": 224, "width": 200}, "crop_size": 224"#).unwrap_err();
        assert!(error.contains("resized to 224 x 200 and cropped to 224 x 224 pixels"), "{error}");
        assert!(error.ends_with("the crop must not exceed the resized photo"), "{error}");
        assert!(from_transformers(r#""size": {"height": 31, "width": 224}"#).is_err());
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
            "`size` has neither a `shortest_edge` nor `height` and `width` in pixels",
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
        assert_eq!((cropped.resize, cropped.crop), (232.into(), [224, 200]));
        let unnormalized =
            from_transformers(r#""size": {"shortest_edge": 256}, "crop_size": 224, "do_normalize": false"#)
                .unwrap();
        assert_eq!((unnormalized.resize, unnormalized.crop), (256.into(), [224, 224]));
        assert_eq!((unnormalized.mean, unnormalized.std), ([0.0; 3], [1.0; 3]));
    }

    #[test]
    fn unsupported_settings_are_named() {
        for (json, key) in [
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
