mod color;
#[cfg(feature = "heif")]
mod heif;
mod truncated;

use std::io::Cursor;

use proptest::prelude::*;

use self::color::to_srgb;
use self::truncated::accept_truncated;
use super::*;
use crate::geometry::Crop;
use crate::golden::{self, decode_files, pixel_difference};

/// More pixels than any image of `reference/decode/photos` has.
const MAX_PIXELS: u64 = 10_000;

fn extension(name: &str) -> &str {
    name.rsplit_once('.').unwrap().1
}

#[test]
fn decoded_pixels_match_pillow() {
    let expected = golden::images("decode/expected.safetensors");
    let files = decode_files("photos");
    assert!(expected.len() == files.len() && files.len() > 100);
    for (name, bytes) in files {
        let ours = decode(&bytes, MAX_PIXELS).unwrap_or_else(|error| panic!("{name}: {error}"));
        let difference = pixel_difference(&ours, &expected[&name]);
        let (max, mean) = match name.as_str() {
            // CMYK goes to the fallback decoder.
            name if name.starts_with("cmyk") && extension(name) == "jpg" => (4, 0.4),
            "ycck.jpg" => (4, 0.4),
            // `image` truncates where Pillow rounds.
            "cmyk.tif" => (1, 0.5),
            // Pillow rounds halves to the next even number.
            "values_to_100.ppm" | "rgb_16_bits_to_1023.ppm" => (1, 0.1),
            _ => (0, 0.0),
        };
        assert!(difference.max <= max && difference.mean <= mean, "{name}: {difference:?}");
    }
}

#[test]
fn reduced_jpegs_match_pillow_draft() {
    let files = decode_files("photos");
    let expected = golden::images("decode/reduced.safetensors");
    assert!(expected.len() > 90);
    for (key, expected) in expected {
        let (name, scale) = key.rsplit_once('/').unwrap();
        let scale = scale.parse().unwrap();
        let mut image = LazyImage::open(&files[name], MAX_PIXELS).unwrap();
        let (width, height) = image.size();
        let whole = Crop { top: 0, left: 0, height: height.div_ceil(scale), width: width.div_ceil(scale) };
        let (ours, region) = image.decode_region(scale, whole).unwrap();
        assert_eq!((region.scale, region.origin), (scale, (0, 0)), "{key}");
        assert!(ours == expected, "{key}: {:?}", pixel_difference(&ours, &expected));
    }
}

/// Windows of an image of (width, height): the whole, corners, the center, a pixel, a row.
fn windows((width, height): (u32, u32)) -> Vec<Crop> {
    let (half, third) = ((width.div_ceil(2), height.div_ceil(2)), (width.div_ceil(3), height.div_ceil(3)));
    vec![
        Crop { top: 0, left: 0, height, width },
        Crop { top: 0, left: 0, height: half.1, width: half.0 },
        Crop { top: height - half.1, left: width - half.0, height: half.1, width: half.0 },
        Crop { top: height - third.1, left: third.0 / 2, height: third.1, width: third.0 },
        Crop {
            top: third.1,
            left: third.0,
            height: third.1.min(height - third.1),
            width: third.0.min(width - third.0),
        },
        Crop { top: half.1 - 1, left: half.0 - 1, height: 1, width: 1 },
        Crop { top: height - 1, left: 0, height: 1, width },
    ]
}

#[test]
fn a_window_has_the_pixels_of_the_whole_image() {
    for (name, bytes) in decode_files("photos") {
        let open = || LazyImage::open(&bytes, MAX_PIXELS).unwrap();
        let whole = decode(&bytes, MAX_PIXELS).unwrap();
        assert_eq!(open().size(), whole.dimensions(), "{name}");
        for window in windows(whole.dimensions()) {
            let Crop { top, left, height, width } = window;
            let expected = image::imageops::crop_imm(&whole, left, top, width, height).to_image();
            assert!(open().decode_window(window).unwrap() == expected, "{name}: {window:?}");
        }
        for scale in [2, 4, 8] {
            let (width, height) = open().size();
            let full = Crop { top: 0, left: 0, height: height.div_ceil(scale), width: width.div_ceil(scale) };
            let (whole, region) = open().decode_region(scale, full).unwrap();
            for window in windows((full.width, full.height)) {
                let (part, origin) = open()
                    .decode_region(scale, window)
                    .map(|(part, part_region)| (part, part_region.origin))
                    .unwrap();
                if region.scale == 1 {
                    assert!(part == whole, "{name}: neither the window nor the whole image");
                    continue;
                }
                let Crop { top, left, height, width } = window;
                let expected = image::imageops::crop_imm(&whole, left, top, width, height).to_image();
                assert!(part == expected && origin == (left, top), "{name} by {scale}: {window:?}");
            }
        }
    }
}

#[test]
fn a_window_is_clipped_to_the_image() {
    let bytes = &decode_files("photos")["baseline_420.jpg"];
    let part = |top, left, height, width| {
        let window = Crop { top, left, height, width };
        LazyImage::open(bytes, MAX_PIXELS).unwrap().decode_window(window).unwrap().dimensions()
    };
    assert_eq!(part(20, 30, u32::MAX, u32::MAX), (7, 9));
    assert_eq!(part(50, 0, 1, 1), (1, 0));
    assert_eq!(part(u32::MAX, u32::MAX, 4, 4), (0, 0));
}

/// The options with this conversion of 16-bit gray.
fn with_gray16(gray16: Gray16) -> DecodeOptions {
    DecodeOptions { gray16, ..MAX_PIXELS.into() }
}

// effect: data.gray16
#[test]
fn gray_of_16_bits_is_scaled_or_clipped_as_by_pillow_or_refused() {
    let expected = golden::images("decode/gray16.safetensors");
    assert_eq!(expected.len(), 10);
    for (key, expected) in expected {
        let (conversion, name) = key.split_once('/').unwrap();
        let bytes = std::fs::read(golden::reference_path("decode/gray16").join(name)).unwrap();
        let (gray16, change) = match conversion {
            "clip" => (Gray16::Clip, "clipped"),
            _ => (Gray16::Scale, "scaled"),
        };
        let image = LazyImage::open(&bytes, with_gray16(gray16)).unwrap();
        assert_eq!(image.pixel_changes().key(), change, "{key}");
        assert!(image.decode().unwrap() == expected, "{key}");
        for error in [probe(&bytes, MAX_PIXELS).unwrap_err(), decode(&bytes, MAX_PIXELS).unwrap_err()] {
            assert!(
                error.to_string().starts_with("the photo is 16-bit gray, and it is not clear"),
                "{error}"
            );
        }
    }
}

#[test]
fn options_for_gray_of_16_bits_do_not_change_other_images() {
    for (name, bytes) in decode_files("photos") {
        let image = LazyImage::open(&bytes, with_gray16(Gray16::Clip)).unwrap();
        assert_eq!(image.pixel_changes().key(), "", "{name}");
        assert!(image.decode().unwrap() == decode(&bytes, MAX_PIXELS).unwrap(), "{name}");
    }
}

#[test]
fn changes_of_pixels_have_different_keys() {
    let mut keys = std::collections::BTreeSet::new();
    for (truncated, srgb) in [(false, false), (true, false), (false, true), (true, true)] {
        for gray16 in [Gray16::Error, Gray16::Scale, Gray16::Clip] {
            keys.insert(PixelChanges { truncated, srgb, gray16 }.key());
        }
    }
    assert_eq!(keys.len(), 12);
    assert!(PixelChanges::default().key().is_empty());
}

#[test]
fn transparency_is_blended_over_white() {
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
fn floating_point_is_clamped() {
    let values = vec![-1.0, 0.0, 0.5, 0.25, 1.0, 7.5];
    let image = image::Rgb32FImage::from_raw(2, 1, values).unwrap();
    let mut file = Cursor::new(Vec::new());
    DynamicImage::ImageRgb32F(image).write_to(&mut file, ImageFormat::Tiff).unwrap();
    assert_eq!(decode(file.get_ref(), 2).unwrap().into_raw(), [0, 0, 128, 64, 255, 255]);
}

#[test]
fn a_truncated_image_is_an_error_or_has_all_its_pixels() {
    for (name, bytes) in decode_files("photos") {
        let whole = decode(&bytes, MAX_PIXELS).unwrap();
        for end in 0..bytes.len() {
            // Numbers that are text may end early.
            let is_within_number = name.starts_with("ascii") && bytes[end].is_ascii_digit();
            if let Ok(truncated) = decode(&bytes[..end], MAX_PIXELS)
                && !is_within_number
            {
                assert!(
                    truncated == whole,
                    "{name}: decoded differently from its first {end} of {} bytes",
                    bytes.len()
                );
            }
        }
    }
}

#[test]
fn a_truncated_jpeg_png_or_webp_is_an_error() {
    for (name, bytes) in decode_files("photos") {
        // These two files have bytes after the image.
        if matches!(extension(&name), "jpg" | "png" | "webp")
            && !["bytes_behind_the_end.jpg", "two_pictures.jpg"].contains(&&*name)
        {
            // The checksum of a PNG's end chunk may be missing.
            let needed = bytes.len() - if extension(&name) == "png" { 4 } else { 0 };
            for end in 0..needed {
                let outcome = decode(&bytes[..end], MAX_PIXELS);
                assert!(outcome.is_err(), "{name}: decoded from its first {end} of {} bytes", bytes.len());
                assert!(
                    probe(&bytes[..end], MAX_PIXELS).is_err(),
                    "{name}: probe accepts the first {end} bytes"
                );
            }
        }
    }
}

#[test]
fn probe_accepts_what_can_be_decoded() {
    for (name, bytes) in decode_files("photos") {
        probe(&bytes, MAX_PIXELS).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn every_refusal_says_why() {
    let message = |name: &str, bytes: &[u8]| decode(bytes, MAX_PIXELS).expect_err(name).to_string();
    assert_eq!(message("no bytes", b""), "the file is empty: copy or download the photo again");
    for (name, bytes) in decode_files("refused") {
        let message = message(&name, &bytes);
        let expected = match name.as_str() {
            "page.png" => {
                "the file is an HTML page, perhaps an error message that was saved as a photo: download"
            }
            "drawing.webp" => "the file is a drawing (SVG), not a photo: convert it to PNG",
            "text.jpg" | "sound.webp" | "icon.bmp" => {
                "not a photo in a supported format (JPEG, PNG, WebP, GIF, BMP, TIFF or PNM): convert the file"
            }
            "too_large.webp" => "the photo has 16384 x 16384 pixels, more than `max_pixels` = 10000",
            name if name.starts_with("too_large") => {
                "the photo has 65535 x 65535 pixels, more than `max_pixels` = 10000"
            }
            "palette.tif" => {
                "damaged or unsupported TIFF file: Photometric interpretation RGBPalette with bits per sample [8]"
            }
            "arithmetic.jpg" => "damaged or unsupported JPEG file: ",
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
    let too_large = decode_files("refused").into_iter().filter(|(name, _)| name.starts_with("too_large"));
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

/// 65,535 x 65,535 pixels take at least 12 GiB.
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
fn a_jpeg_of_a_hundred_scans_is_decoded_and_one_of_more_is_refused() {
    let bytes = &decode_files("photos")["grey_progressive.jpg"];
    let marker_offsets = |marker: u8| {
        let matches = bytes.windows(2).enumerate().filter(move |(_, two)| *two == [0xFF, marker]);
        matches.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let scans = marker_offsets(0xDA);
    // An AC scan that does not refine earlier ones can be repeated.
    let first_scan = *scans.iter().find(|&&at| bytes[at + 7] > 0 && bytes[at + 9] >> 4 == 0).unwrap();
    let length = bytes[first_scan + 2..].windows(2).position(|two| two[0] == 0xFF && two[1] > 0).unwrap() + 2;
    let with_repeated_scan = |copies: usize| {
        let copies = bytes[first_scan..first_scan + length].repeat(copies);
        decode(&[&bytes[..first_scan], &copies, &bytes[first_scan..]].concat(), MAX_PIXELS)
    };
    assert!(with_repeated_scan(100 - scans.len()).unwrap() == decode(bytes, MAX_PIXELS).unwrap());
    let error = with_repeated_scan(101 - scans.len()).unwrap_err().to_string();
    assert!(error.contains("JPEG file: the file has more than 100 scans"), "{error}");
}

// effect: data.max_pixels
#[test]
fn the_limit_counts_pixels() {
    let bytes = &decode_files("photos")["rgb.png"];
    assert!(decode(bytes, 37 * 29).is_ok());
    assert!(matches!(decode(bytes, 37 * 29 - 1), Err(DecodeError::TooLarge { width: 37, height: 29, .. })));
}

#[test]
fn a_png_with_an_incomplete_palette_is_an_error() {
    let bytes = &decode_files("photos")["palette_alpha.png"];
    let with_palette = |length: usize| {
        let mut file = bytes[..8].to_vec();
        for chunk in chunks::png_chunks(bytes) {
            let length = if chunk.kind == b"PLTE" { length } else { chunk.data.len() };
            png_completion::write_chunk(&mut file, chunk.kind, &chunk.data[..length]);
        }
        decode(&file, MAX_PIXELS)
    };
    assert!(with_palette(48).unwrap() == decode(bytes, MAX_PIXELS).unwrap());
    for length in [1, 46, 47] {
        let error = with_palette(length).unwrap_err().to_string();
        assert!(error.starts_with("damaged or unsupported PNG file: the palette is incomplete"), "{error}");
    }
}

#[test]
fn a_decoder_that_panics_gives_an_error() {
    let error =
        without_panic("PNG", || -> Result<(), _> { panic!("index {} out of bounds", 7) }).unwrap_err();
    assert!(error.to_string().contains("PNG file: the decoder panicked: index 7 out of bounds"), "{error}");
    assert_eq!(without_panic("PNG", || Ok(7)).unwrap(), 7);
}

/// A change to one byte of a file: its position (a fraction of the length), its kind, and a value.
fn byte_change() -> impl Strategy<Value = (f64, u8, u8)> {
    // Half of the changes hit the header, where they have the most effect.
    (prop_oneof![0.0..0.1, 0.0..1.0], 0u8..4, any::<u8>())
}

/// `bytes` with each change: a byte set, a bit flipped, a byte inserted or removed.
fn apply_changes(mut bytes: Vec<u8>, changes: &[(f64, u8, u8)]) -> Vec<u8> {
    for &(position, change_kind, value) in changes {
        let index = ((bytes.len() as f64 * position) as usize).min(bytes.len().saturating_sub(1));
        match change_kind {
            _ if bytes.is_empty() => {}
            0 => bytes[index] = value,
            1 => bytes[index] ^= 1 << (value % 8),
            2 => bytes.insert(index, value),
            _ => {
                bytes.remove(index);
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_images_give_errors_or_images_within_the_limit(changes in prop::collection::vec(byte_change(), 1..6)) {
        for (name, bytes) in decode_files("photos") {
            let bytes = apply_changes(bytes, &changes);
            let outcome = decode(&bytes, MAX_PIXELS);
            if let Err(error) = probe(&bytes, MAX_PIXELS) {
                prop_assert_eq!(Some(error.to_string()), outcome.as_ref().err().map(ToString::to_string), "{}", name);
            }
            let lenient = DecodeOptions { truncated: TruncatedFiles::Accept, ..to_srgb() };
            if let Ok(image) = &outcome {
                prop_assert_eq!(&decode(&bytes, accept_truncated()).unwrap(), image, "{}", name);
            }
            if let Ok(image) = decode(&bytes, lenient) {
                prop_assert!(u64::from(image.width()) * u64::from(image.height()) <= MAX_PIXELS, "{}", name);
            }
            match outcome {
                Ok(image) => prop_assert!(u64::from(image.width()) * u64::from(image.height()) <= MAX_PIXELS, "{}", name),
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
            if let Ok(image) = decode(&file, MAX_PIXELS) {
                prop_assert!(u64::from(image.width()) * u64::from(image.height()) <= MAX_PIXELS);
            }
        }
    }
}
