//! Files that end too early and are accepted.

use super::*;

/// The options that accept truncated files.
pub(super) fn accept_truncated() -> DecodeOptions {
    DecodeOptions { truncated: TruncatedFiles::Accept, ..MAX_PIXELS.into() }
}

// effect: data.truncated
#[test]
fn accepted_truncated_files_match_pillow() {
    let files = decode_files("photos");
    let expected = golden::images("truncated/expected.safetensors");
    assert!(expected.len() > 200);
    for (key, expected) in expected {
        let [name, length, zeros] = key.split('/').collect::<Vec<_>>()[..] else { panic!("{key}") };
        let mut bytes = files[name][..length.parse().unwrap()].to_vec();
        bytes.extend(vec![0; zeros.parse().unwrap()]);
        assert!(probe(&bytes, MAX_PIXELS).unwrap_err().is_truncated(), "{key}");
        assert!(decode(&bytes, MAX_PIXELS).unwrap_err().is_truncated(), "{key}");
        let image =
            LazyImage::open(&bytes, accept_truncated()).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert!(image.is_truncated() && image.pixel_changes().key() == "truncated", "{key}");
        let ours = image.decode().unwrap_or_else(|error| panic!("{key}: {error}"));
        let difference = pixel_difference(&ours, &expected);
        // Where scans of a progressive JPEG are missing, libjpeg also smooths the blocks.
        let (max, mean) = if name.contains("progressive") { (50, 10.0) } else { (0, 0.0) };
        assert!(difference.max <= max && difference.mean <= mean, "{key}: {difference:?}");
    }
}

#[test]
fn options_for_truncated_files_do_not_change_complete_ones() {
    for (name, bytes) in decode_files("photos") {
        let image = LazyImage::open(&bytes, accept_truncated()).unwrap();
        assert!(!image.is_truncated() && image.pixel_changes() == PixelChanges::default(), "{name}");
        assert!(image.decode().unwrap() == decode(&bytes, MAX_PIXELS).unwrap(), "{name}");
    }
}

#[test]
fn accepted_truncated_files_are_images_or_errors_and_windows_have_their_pixels() {
    for (name, bytes) in decode_files("photos") {
        for end in (0..bytes.len()).step_by(7) {
            let Ok(whole) = decode(&bytes[..end], accept_truncated()) else { continue };
            let window = windows(whole.dimensions())[2];
            let part =
                LazyImage::open(&bytes[..end], accept_truncated()).unwrap().decode_window(window).unwrap();
            let Crop { top, left, height, width } = window;
            let expected = image::imageops::crop_imm(&whole, left, top, width, height).to_image();
            assert!(part == expected, "{name} to {end}");
        }
        for end in 0..20 {
            decode(&bytes[..end], accept_truncated()).unwrap_err();
        }
    }
    // The limit holds before rows are made for a header.
    for (name, bytes) in decode_files("refused") {
        if name.starts_with("too_large") {
            assert!(decode(&bytes[..bytes.len() / 2], accept_truncated()).is_err(), "{name}");
        }
    }
}
