//! Decoding any bytes, in full, in part or reduced, gives an image or an error but never panics.

#![no_main]

use headstock_loader::{Crop, DecodeMode, EvalTransform, LazyImage, Resampling, decode, probe, render_views};
use libfuzzer_sys::fuzz_target;

const MAX_PIXELS: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let whole = decode(bytes, MAX_PIXELS);
    if let Err(error) = &whole {
        assert!(!error.to_string().contains("panicked"), "{error}");
    }
    if let Err(error) = probe(bytes, MAX_PIXELS) {
        assert_eq!(Some(error.to_string()), whole.as_ref().err().map(ToString::to_string));
    }
    // A hash of the bytes chooses the transform and the window.
    let chosen = bytes.iter().fold(0u32, |hash, &byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let resize = 9 << (chosen % 4);
    let interpolation = Resampling::ALL[chosen as usize / 4 % 4];
    let transform = EvalTransform { resize, crop: (resize - 1, resize - 1), interpolation };
    let reduced = LazyImage::open(bytes, MAX_PIXELS)
        .and_then(|image| render_views(image, DecodeMode::Scaled, &[transform.render_spec()]));
    if let Err(error) = &reduced {
        assert!(!error.to_string().contains("panicked"), "{error}");
    }
    let Ok(image) = LazyImage::open(bytes, MAX_PIXELS) else { return };
    let (width, height) = image.size();
    let (top, left) = (chosen / 16 % height, chosen / 1024 % width);
    let window = Crop { top, left, height: (height - top).div_ceil(3), width: (width - left).div_ceil(2) };
    match (whole, image.decode_window(window)) {
        (Ok(whole), Ok(part)) => {
            let Crop { top, left, height, width } = window;
            assert!(part == image::imageops::crop_imm(&whole, left, top, width, height).to_image());
            assert!(reduced.is_ok());
        }
        (Err(whole), Err(part)) => assert_eq!(whole.to_string(), part.to_string()),
        (whole, part) => panic!("whole: {:?}, in part: {:?}", whole.err(), part.err()),
    }
});
