//! Mutated image files: each is decoded or gives an error.

use std::fs;
use std::path::Path;

use headstock_loader::{
    Crop, DecodeError, DecodeMode, EvalTransform, LazyImage, Resampling, decode, probe, render_views,
};

use crate::generator;
use crate::limits::{rerun_with_little_memory, run_with_timeout};

const FILES: usize = 2_000;
const MAX_PIXELS: u64 = 1 << 20;

/// The files of `reference/decode`, by name.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/decode");
    let mut seeds = Vec::new();
    for part in ["photos", "refused", "larger"] {
        for entry in fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            seeds.push((format!("{part}/{name}"), fs::read(path).unwrap()));
        }
    }
    seeds.sort();
    seeds
}

/// Whether file `number` can be decoded. Checks that decoding in full, in part and reduced agree with each
/// other.
fn check_decoding(name: &str, number: usize, bytes: &[u8]) -> bool {
    let message_of = |error: DecodeError| {
        let message = error.to_string();
        assert!(!message.is_empty() && !message.contains("panicked"), "{number}, {name}: {message}");
        message
    };
    let whole = decode(bytes, MAX_PIXELS).map_err(message_of);
    if let Err(message) = probe(bytes, MAX_PIXELS).map_err(message_of) {
        assert_eq!(Some(&message), whole.as_ref().err(), "{number}, {name}");
    }
    let eval = EvalTransform { resize: 9.into(), crop: (8, 8), interpolation: Resampling::Bilinear };
    let reduced = LazyImage::open(bytes, MAX_PIXELS)
        .and_then(|image| render_views(image, DecodeMode::Scaled, &[eval.render_spec()]))
        .map_err(message_of);
    let part = LazyImage::open(bytes, MAX_PIXELS).and_then(|image| {
        let (width, height) = image.size();
        let crop =
            Crop { top: height / 3, left: width / 4, height: height.div_ceil(3), width: width.div_ceil(2) };
        image.decode_window(crop).map(|part| (part, crop))
    });
    match (&whole, part.map_err(message_of)) {
        (Ok(image), Ok((part, Crop { top, left, height, width }))) => {
            assert!(u64::from(image.width()) * u64::from(image.height()) <= MAX_PIXELS, "{number}, {name}");
            let expected = image::imageops::crop_imm(image, left, top, width, height).to_image();
            assert!(part == expected, "{number}, {name}: the window differs from the whole image");
            // Reducing may skip damaged scans, but must not find more errors.
            assert!(reduced.is_ok(), "{number}, {name}: decoded only at full size");
        }
        (Err(whole), Err(part)) => assert_eq!(*whole, part, "{number}, {name}"),
        _ => panic!("{number}, {name}: only one of the whole image and the window is an error"),
    }
    whole.is_ok()
}

#[test]
fn every_mutated_image_is_decoded_or_an_error_in_time() {
    let seeds = seeds();
    let (decoded, refused) = run_with_timeout(FILES, |number| {
        let (name, bytes) = generator::mutated_file(&seeds, number);
        check_decoding(&name, number, &bytes)
    });
    assert!(
        decoded > FILES / 10 && refused > FILES / 4,
        "{decoded} decoded, {refused} refused: the mutations are too uniform"
    );
}

/// The largest image may take 32 MiB plus 16 MiB; the process itself takes the rest.
#[cfg(target_os = "linux")]
#[test]
fn mutated_images_take_no_more_memory_than_the_limit_allows_for() {
    rerun_with_little_memory("images::every_mutated_image_is_decoded_or_an_error_in_time");
}
