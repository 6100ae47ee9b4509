//! Any bytes are a photo, whole, in part and reduced, or an error; never a panic.

#![no_main]

use headstock_loader::{Crop, DecodeMode, EvalTransform, Interpolation, PhotoDecoder, decode, glance};
use libfuzzer_sys::fuzz_target;

const MAX_PIXELS: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let whole = decode(bytes, MAX_PIXELS);
    if let Err(error) = &whole {
        assert!(!error.to_string().contains("panicked"), "{error}");
    }
    if let Err(error) = glance(bytes, MAX_PIXELS) {
        assert_eq!(Some(error.to_string()), whole.as_ref().err().map(ToString::to_string));
    }
    let chosen = bytes.iter().fold(0u32, |hash, &byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let resize = 9 << (chosen % 4);
    let interpolation = Interpolation::ALL[chosen as usize / 4 % 4];
    let plain = EvalTransform { resize, crop: (resize - 1, resize - 1), interpolation };
    let reduced = PhotoDecoder::open(bytes, MAX_PIXELS)
        .and_then(|photo| photo.render(DecodeMode::Scaled, &[plain.rendering()]));
    if let Err(error) = &reduced {
        assert!(!error.to_string().contains("panicked"), "{error}");
    }
    let Ok(photo) = PhotoDecoder::open(bytes, MAX_PIXELS) else { return };
    let (width, height) = photo.size();
    let (top, left) = (chosen / 16 % height, chosen / 1024 % width);
    let window = Crop { top, left, height: (height - top).div_ceil(3), width: (width - left).div_ceil(2) };
    match (whole, photo.decode_window(window)) {
        (Ok(whole), Ok(part)) => {
            let Crop { top, left, height, width } = window;
            assert!(part == image::imageops::crop_imm(&whole, left, top, width, height).to_image());
            assert!(reduced.is_ok());
        }
        (Err(whole), Err(part)) => assert_eq!(whole.to_string(), part.to_string()),
        (whole, part) => panic!("whole: {:?}, in part: {:?}", whole.err(), part.err()),
    }
});
