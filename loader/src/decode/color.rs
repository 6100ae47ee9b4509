//! Converts colors from an embedded ICC profile to sRGB.

use std::panic::catch_unwind;
use std::sync::{Arc, Mutex, PoisonError};

use image::RgbImage;
use moxcms::{
    ColorProfile, DataColorSpace, Layout, ProfileText, RenderingIntent, Transform8BitExecutor,
    TransformOptions,
};

/// Pixels that are converted at a time. The conversion of a pixel must not depend on its place, so that a
/// region has the pixels of the whole image: the vector instructions of `moxcms` take a number of pixels at
/// once, and its plain code, which may round differently, takes the rest. There is no rest in such a block.
const BLOCK: usize = 256;

/// Conversions that are kept, because the photos of a data set have few different profiles.
const MAX_CONVERSIONS: usize = 8;

/// The conversion of colors in the color space of a profile to sRGB (relative colorimetric).
pub(super) struct ColorConversion {
    /// The name that the profile has for itself.
    pub(super) profile_name: String,
    transform: Arc<Transform8BitExecutor>,
    /// Whether the profile describes gray values and not colors.
    is_gray: bool,
}

/// A profile, whether it belongs to a gray image, and the conversion from it.
type KnownConversion = (Vec<u8>, bool, Option<Arc<ColorConversion>>);

/// The conversions that were needed last, the latest first.
static KNOWN_CONVERSIONS: Mutex<Vec<KnownConversion>> = Mutex::new(Vec::new());

/// The conversion from the ICC profile `profile` of an image, which has only gray pixels if `is_gray`. `None` if
/// the colors are already those of sRGB, or if the profile is damaged or does not fit the image.
pub(super) fn conversion_from(profile: Vec<u8>, is_gray: bool) -> Option<Arc<ColorConversion>> {
    let known = || KNOWN_CONVERSIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut conversions = known();
    if let Some(place) = conversions.iter().position(|(bytes, gray, _)| (bytes, *gray) == (&profile, is_gray))
    {
        let found = conversions.remove(place);
        let conversion = found.2.clone();
        conversions.insert(0, found);
        return conversion;
    }
    drop(conversions);
    let conversion = catch_unwind(|| ColorConversion::new(&profile, is_gray)).ok().flatten().map(Arc::new);
    let mut conversions = known();
    conversions.truncate(MAX_CONVERSIONS - 1);
    conversions.insert(0, (profile, is_gray, conversion.clone()));
    conversion
}

impl ColorConversion {
    /// As [`conversion_from`], which keeps the conversions.
    fn new(profile: &[u8], image_is_gray: bool) -> Option<Self> {
        let profile = ColorProfile::new_from_slice(profile).ok()?;
        let (layout, is_gray) = match profile.color_space {
            DataColorSpace::Rgb => (Layout::Rgb, false),
            DataColorSpace::Gray if image_is_gray => (Layout::Gray, true),
            _ => return None,
        };
        let options = TransformOptions {
            rendering_intent: RenderingIntent::RelativeColorimetric,
            // As in LittleCMS, the curves of the profile count.
            allow_use_cicp_transfer: false,
            ..TransformOptions::default()
        };
        let srgb = ColorProfile::new_srgb();
        let transform = profile.create_transform_8bit(layout, &srgb, Layout::Rgb, options).ok()?;
        let profile_name = profile_name(&profile).unwrap_or_else(|| "without a name".into());
        let conversion = Self { profile_name, transform, is_gray };
        if conversion.keeps_colors() { None } else { Some(conversion) }
    }

    /// Whether the conversion changes colors by 1 at most, as with a profile of sRGB.
    fn keeps_colors(&self) -> bool {
        // All grays, and colors over the whole space.
        const LEVELS: [u8; 6] = [0, 51, 102, 153, 204, 255];
        let grays = (0..=255).map(|value| [value; 3]);
        let colors = LEVELS.iter().flat_map(|&red| {
            LEVELS.iter().flat_map(move |&green| LEVELS.iter().map(move |&blue| [red, green, blue]))
        });
        let pixels: Vec<[u8; 3]> = if self.is_gray { grays.collect() } else { grays.chain(colors).collect() };
        let mut converted = pixels.clone();
        self.convert_pixels(&mut converted);
        pixels.iter().flatten().zip(converted.iter().flatten()).all(|(a, b)| a.abs_diff(*b) <= 1)
    }

    /// Converts the pixels of `image`.
    pub(super) fn convert(&self, image: &mut RgbImage) {
        self.convert_pixels(image.as_chunks_mut::<3>().0);
    }

    fn convert_pixels(&self, pixels: &mut [[u8; 3]]) {
        let (mut source, mut converted) = ([[0; 3]; BLOCK], [[0; 3]; BLOCK]);
        let mut gray_source = [0; BLOCK];
        for block in pixels.chunks_mut(BLOCK) {
            let source = if self.is_gray {
                for (gray, pixel) in gray_source.iter_mut().zip(&*block) {
                    *gray = pixel[0];
                }
                &gray_source[..]
            } else {
                source[..block.len()].copy_from_slice(block);
                source.as_flattened()
            };
            // An error means that the lengths do not fit, which they do.
            if self.transform.transform(source, converted.as_flattened_mut()).is_ok() {
                block.copy_from_slice(&converted[..block.len()]);
            }
        }
    }
}

/// The description of a profile; `None` if it has none.
fn profile_name(profile: &ColorProfile) -> Option<String> {
    let name = match profile.description.as_ref()? {
        ProfileText::PlainString(text) => text,
        ProfileText::Localizable(texts) => &texts.first()?.value,
        ProfileText::Description(description) => &description.ascii_string,
    };
    let name: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
    (!name.trim().is_empty()).then(|| name.trim().to_owned())
}
