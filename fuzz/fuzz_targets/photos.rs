//! Decoding any bytes, in full, in part or reduced, gives an image or an error but never panics.

#![no_main]

use headstock_loader::{
    ColorProfiles, Crop, DecodeMode, DecodeOptions, EvalTransform, LazyImage, Resampling, TruncatedFiles, decode,
    probe, render_views,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let strict = DecodeOptions::from(1 << 16);
    let whole = check(bytes, strict);
    let lenient =
        DecodeOptions { truncated: TruncatedFiles::Accept, color: ColorProfiles::Srgb, ..strict };
    check(bytes, lenient);
    // Files that are no truncated ones have the same pixels, or the same error.
    let accepting = DecodeOptions { color: ColorProfiles::Ignore, ..lenient };
    if let Some(whole) = whole {
        assert!(decode(bytes, accepting).is_ok_and(|image| image == whole));
    }
});

/// Decodes `bytes` in all ways with these options; returns the whole image.
fn check(bytes: &[u8], options: DecodeOptions) -> Option<image::RgbImage> {
    let whole = decode(bytes, options);
    if let Err(error) = &whole {
        assert!(!error.to_string().contains("panicked"), "{error}");
    }
    if let Err(error) = probe(bytes, options) {
        assert_eq!(Some(error.to_string()), whole.as_ref().err().map(ToString::to_string));
    }
    // A hash of the bytes chooses the transform and the window.
    let chosen = bytes.iter().fold(0u32, |hash, &byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let resize = 9 << (chosen % 4);
    let interpolation = Resampling::ALL[chosen as usize / 4 % 4];
    let transform = EvalTransform { resize: resize.into(), crop: (resize - 1, resize - 1), interpolation };
    let reduced = LazyImage::open(bytes, options)
        .and_then(|image| render_views(image, DecodeMode::Scaled, &[transform.render_spec()]));
    if let Err(error) = &reduced {
        assert!(!error.to_string().contains("panicked"), "{error}");
    }
    let Ok(image) = LazyImage::open(bytes, options) else { return None };
    let (width, height) = image.size();
    let (top, left) = (chosen / 16 % height, chosen / 1024 % width);
    let window = Crop { top, left, height: (height - top).div_ceil(3), width: (width - left).div_ceil(2) };
    match (&whole, image.decode_window(window)) {
        (Ok(whole), Ok(part)) => {
            let Crop { top, left, height, width } = window;
            assert!(part == image::imageops::crop_imm(whole, left, top, width, height).to_image());
            assert!(reduced.is_ok());
        }
        (Err(whole), Err(part)) => assert_eq!(whole.to_string(), part.to_string()),
        (whole, part) => panic!("whole: {:?}, in part: {:?}", whole.as_ref().err(), part.err()),
    }
    whole.ok()
}
