//! Color profiles and color modes.

use super::*;

/// The options that convert colors to sRGB.
pub(super) fn to_srgb() -> DecodeOptions {
    DecodeOptions { color: ColorProfiles::Srgb, ..MAX_PIXELS.into() }
}

// effect: data.color
#[test]
fn colors_are_converted_as_by_littlecms() {
    let expected = golden::images("color/expected.safetensors");
    assert!(expected.len() > 15);
    for (name, expected) in expected {
        let bytes = std::fs::read(golden::reference_path("color/files").join(&name)).unwrap();
        let open = || LazyImage::open(&bytes, to_srgb()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let profile = match name.as_str() {
            "srgb.jpg" | "gray_of_a_color_photo.jpg" | "no_profile.jpg" | "cut_profile.jpg" => None,
            name if name.starts_with("p3") => Some("Display P3"),
            name if name.starts_with("adobe") => Some("Adobe RGB (1998)"),
            _ => Some("Gray Gamma 1.8"),
        };
        assert_eq!(open().converted_profile(), profile, "{name}");
        assert_eq!(open().pixel_changes().key(), if profile.is_some() { "sRGB" } else { "" }, "{name}");
        let ours = open().decode().unwrap();
        let difference = pixel_difference(&ours, &expected);
        assert!(difference.max <= 2 && difference.mean < 0.4, "{name}: {difference:?}");
        let ignored = decode(&bytes, MAX_PIXELS).unwrap();
        let change = pixel_difference(&ours, &ignored);
        let changes = profile.is_some() && name != "p3_of_a_gray_photo.jpg";
        assert_eq!(change.max > 10, changes, "{name}: {change:?}");
        for window in windows(ours.dimensions()) {
            let Crop { top, left, height, width } = window;
            let part = image::imageops::crop_imm(&ours, left, top, width, height).to_image();
            assert!(open().decode_window(window).unwrap() == part, "{name}: {window:?}");
        }
    }
}

#[test]
fn images_without_a_profile_keep_their_colors() {
    for (name, bytes) in decode_files("photos") {
        let image = LazyImage::open(&bytes, to_srgb()).unwrap();
        assert!(image.converted_profile().is_none(), "{name}");
        assert!(image.decode().unwrap() == decode(&bytes, MAX_PIXELS).unwrap(), "{name}");
    }
}

#[test]
fn other_color_modes_match_pillow_or_are_refused() {
    let expected = golden::images("modes/expected.safetensors");
    assert!(expected.len() > 35);
    let mut refused = Vec::new();
    for (name, expected) in expected {
        let bytes = std::fs::read(golden::reference_path("modes/files").join(&name)).unwrap();
        match decode(&bytes, with_gray16(Gray16::Scale)) {
            Ok(ours) => {
                let difference = pixel_difference(&ours, &expected);
                let (max, mean) = match name.as_str() {
                    // Other decoders of JPEGs in TIFFs, and another table for 5 bits.
                    "jpeg_in_tiff.tif" | "grey_jpeg_in_tiff.tif" => (1, 0.02),
                    "rgb_5_bits.bmp" => (1, 0.5),
                    _ => (0, 0.0),
                };
                assert!(difference.max <= max && difference.mean <= mean, "{name}: {difference:?}");
            }
            Err(error) => {
                let message = error.to_string();
                let message = message.strip_prefix("damaged or unsupported TIFF file: ").unwrap().to_owned();
                refused.push((name, message));
            }
        }
    }
    let reasons = [
        (
            "f.tif",
            "pixels of this kind are not supported: gray values with 2 or 4 bits, with transparency or in",
        ),
        ("grey_2_bits.tif", "pixels of this kind"),
        ("grey_4_bits.tif", "pixels of this kind"),
        ("group3.tif", "compression method Fax3 is unsupported"),
        ("i.tif", "Unhandled TIFF sample format 2 for 32 bits"),
        ("i16_signed.tif", "Unhandled TIFF sample format 2 for 16 bits"),
        ("la.tif", "pixels of this kind"),
        ("lab.tif", "Photometric interpretation CIELab"),
        ("lzma.tif", "compression method Unknown(34925) is unsupported"),
        ("p.tif", "Photometric interpretation RGBPalette"),
        ("pa.tif", "Photometric interpretation RGBPalette"),
        ("ycbcr.tif", "pixels of this kind"),
        ("zstd.tif", "compression method ZSTD is unsupported"),
    ];
    let names: Vec<&str> = refused.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, reasons.map(|(name, _)| name));
    for ((name, message), (_, reason)) in refused.iter().zip(reasons) {
        assert!(message.starts_with(reason), "{name}: {message}");
    }
}
