use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::*;
use crate::golden::{self, apart};

/// More than any photo of the corpus has.
const MAX_PIXELS: u64 = 10_000;

/// The files of a folder of `reference/decode`, by name.
fn files(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(golden::path("decode").join(folder)).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').unwrap().1
}

#[test]
fn photos_of_every_kind_are_pillows() {
    let expected = golden::photos("decode/expected.safetensors");
    let files = files("photos");
    assert!(expected.len() == files.len() && files.len() > 100);
    for (name, bytes) in files {
        let ours = decode(&bytes, MAX_PIXELS).unwrap_or_else(|error| panic!("{name}: {error}"));
        let apart = apart(&ours, &expected[&name]);
        let (most, mean) = match name.as_str() {
            // A block for the whole photo, or one column of it: libjpeg smooths colours over the edge differently.
            "size_8x8.jpg" | "size_1x33.jpg" => (10, 2.0),
            name if extension(name) == "jpg" => (4, 0.4),
            // `image` cuts where Pillow rounds.
            "cmyk.tif" => (1, 0.5),
            _ => (0, 0.0),
        };
        assert!(apart.most <= most && apart.mean <= mean, "{name}: {apart:?}");
    }
}

#[test]
fn sixteen_bits_become_eight_by_rounding() {
    let deep: Vec<u16> = (0..=u16::MAX).collect();
    let deep = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(256, 256, deep).unwrap();
    let mut file = Cursor::new(Vec::new());
    DynamicImage::ImageLuma16(deep).write_to(&mut file, ImageFormat::Png).unwrap();
    let photo = decode(file.get_ref(), 1 << 16).unwrap();
    for (value, pixel) in (0..=u16::MAX).zip(photo.pixels()) {
        let exact = (f64::from(value) / 257.0).round() as u8;
        assert_eq!(pixel.0, [exact; 3], "{value}");
    }
}

#[test]
fn transparency_lies_over_white() {
    let file = |pixel| {
        let mut file = Cursor::new(Vec::new());
        image::RgbaImage::from_pixel(1, 1, image::Rgba(pixel)).write_to(&mut file, ImageFormat::Png).unwrap();
        decode(file.get_ref(), 1).unwrap().get_pixel(0, 0).0
    };
    assert_eq!(file([10, 20, 30, 255]), [10, 20, 30]);
    assert_eq!(file([10, 20, 30, 0]), [255, 255, 255]);
    assert_eq!(file([0, 100, 255, 128]), [127, 177, 255]); // 127, 177.2, 255
}

#[test]
fn floating_point_is_cut_to_its_range() {
    let values = vec![-1.0, 0.0, 0.5, 0.25, 1.0, 7.5];
    let photo = image::Rgb32FImage::from_raw(2, 1, values).unwrap();
    let mut file = Cursor::new(Vec::new());
    DynamicImage::ImageRgb32F(photo).write_to(&mut file, ImageFormat::Tiff).unwrap();
    assert_eq!(decode(file.get_ref(), 2).unwrap().into_raw(), [0, 0, 128, 64, 255, 255]);
}

#[test]
fn a_cut_photo_is_an_error_or_has_all_its_pixels() {
    for (name, bytes) in files("photos") {
        let whole = decode(&bytes, MAX_PIXELS).unwrap();
        for end in 0..bytes.len() {
            if let Ok(cut) = decode(&bytes[..end], MAX_PIXELS) {
                assert!(
                    cut == whole,
                    "{name}: decoded differently from its first {end} of {} bytes",
                    bytes.len()
                );
            }
        }
    }
}

#[test]
fn a_jpeg_png_or_webp_that_is_cut_is_an_error() {
    for (name, bytes) in files("photos") {
        // These two have more behind the photo.
        if matches!(extension(&name), "jpg" | "png" | "webp")
            && !["bytes_behind_the_end.jpg", "two_pictures.jpg"].contains(&&*name)
        {
            // The checksum of a PNG's end mark says nothing.
            let needed = bytes.len() - if extension(&name) == "png" { 4 } else { 0 };
            for end in 0..needed {
                let outcome = decode(&bytes[..end], MAX_PIXELS);
                assert!(outcome.is_err(), "{name}: decoded from its first {end} of {} bytes", bytes.len());
                assert!(glance(&bytes[..end], MAX_PIXELS).is_err(), "{name}: {end} bytes look whole");
            }
        }
    }
}

#[test]
fn a_glance_finds_no_fault_with_what_can_be_decoded() {
    for (name, bytes) in files("photos") {
        glance(&bytes, MAX_PIXELS).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn what_is_no_photo_says_why() {
    let message = |name: &str, bytes: &[u8]| decode(bytes, MAX_PIXELS).expect_err(name).to_string();
    assert_eq!(message("no bytes", b""), "the file is empty");
    for (name, bytes) in files("refused") {
        let message = message(&name, &bytes);
        let expected = match name.as_str() {
            "text.jpg" | "page.png" | "drawing.webp" | "sound.webp" | "icon.bmp" => {
                "not a photo of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF)"
            }
            "too_large.webp" => "16384 x 16384 pixels are more than `data.max_pixels` = 10000",
            name if name.starts_with("too_large") => {
                "65535 x 65535 pixels are more than `data.max_pixels` = 10000"
            }
            "palette.tif" => {
                "TIFF: Photometric interpretation RGBPalette with bits per sample [8] is unsupported"
            }
            "arithmetic.jpg" => "JPEG: ",
            _ => "",
        };
        assert!(message.starts_with(expected), "{name}: {message}");
    }
    for length in [1, 2, 3, 4, 8, 12, 100] {
        for byte in [0, 0x42, 0xFF] {
            decode(&vec![byte; length], MAX_PIXELS).unwrap_err();
        }
    }
}

#[test]
fn a_header_with_too_many_pixels_is_refused_in_every_format() {
    let too_large = files("refused").into_iter().filter(|(name, _)| name.starts_with("too_large"));
    let mut formats = Vec::new();
    for (name, bytes) in too_large {
        let side = if name == "too_large.webp" { 16_384 } else { 65_535 };
        let error = decode(&bytes, side * side - 1).unwrap_err();
        assert!(
            matches!(error, DecodeError::TooLarge { width, height, .. } if (width, height) == (side, side)),
            "{name}"
        );
        formats.push(extension(&name).to_owned());
    }
    assert_eq!(formats, ["bmp", "gif", "jpg", "png", "tif", "webp"]);
}

/// 65,535 x 65,535 pixels are 12 GiB and more.
#[cfg(target_os = "linux")]
#[test]
fn a_header_with_too_many_pixels_allocates_nothing_for_them() {
    let test = "decode::tests::a_header_with_too_many_pixels_is_refused_in_every_format";
    let status = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 1000000 && exec \"$0\" --exact \"$1\" --test-threads 1"])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && output.contains("1 passed"), "{output}");
}

#[test]
fn the_limit_counts_pixels() {
    let bytes = &files("photos")["rgb.png"];
    assert!(decode(bytes, 37 * 29).is_ok());
    assert!(matches!(decode(bytes, 37 * 29 - 1), Err(DecodeError::TooLarge { width: 37, height: 29, .. })));
}

#[test]
fn a_decoder_that_panics_gives_an_error() {
    let error =
        without_panic("PNG", || -> Result<(), _> { panic!("index {} out of bounds", 7) }).unwrap_err();
    assert_eq!(error.to_string(), "PNG: the decoder panicked: index 7 out of bounds");
    assert_eq!(without_panic("PNG", || Ok(7)).unwrap(), 7);
}

/// A change to one byte of a file: where (a share of its length), what, and to what.
fn change() -> impl Strategy<Value = (f64, u8, u8)> {
    // Headers decide most: half of the changes fall on them.
    (prop_oneof![0.0..0.1, 0.0..1.0], 0u8..4, any::<u8>())
}

fn changed(mut bytes: Vec<u8>, changes: &[(f64, u8, u8)]) -> Vec<u8> {
    for &(place, kind, value) in changes {
        let at = ((bytes.len() as f64 * place) as usize).min(bytes.len().saturating_sub(1));
        match kind {
            _ if bytes.is_empty() => {}
            0 => bytes[at] = value,
            1 => bytes[at] ^= 1 << (value % 8),
            2 => bytes.insert(at, value),
            _ => {
                bytes.remove(at);
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_photos_give_errors_or_photos_within_the_limit(changes in prop::collection::vec(change(), 1..6)) {
        for (name, bytes) in files("photos") {
            let bytes = changed(bytes, &changes);
            let outcome = decode(&bytes, MAX_PIXELS);
            if let Err(error) = glance(&bytes, MAX_PIXELS) {
                prop_assert_eq!(Some(error.to_string()), outcome.as_ref().err().map(ToString::to_string), "{}", name);
            }
            match outcome {
                Ok(photo) => prop_assert!(u64::from(photo.width()) * u64::from(photo.height()) <= MAX_PIXELS, "{}", name),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn any_bytes_behind_a_signature_give_errors(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let signatures: [&[u8]; 8] = [
            b"", b"\xFF\xD8\xFF\xE0", b"\x89PNG\r\n\x1A\n", b"RIFF\x40\0\0\0WEBPVP8 ", b"GIF89a", b"BM", b"II*\0", b"MM\0*",
        ];
        for signature in signatures {
            let file = [signature, &bytes].concat();
            if let Ok(photo) = decode(&file, MAX_PIXELS) {
                prop_assert!(u64::from(photo.width()) * u64::from(photo.height()) <= MAX_PIXELS);
            }
        }
    }
}
