use std::fs;

use proptest::prelude::*;

use super::*;
use crate::golden;
use crate::{DecodeError, ReadError, decode};

#[test]
fn inspections_match_pillow() {
    let expected = golden::json("checks/stored.json");
    let expected = expected.as_object().unwrap();
    assert!(expected.len() > 100);
    for (name, pillow) in expected {
        let bytes = fs::read(golden::reference_path("decode").join(name)).unwrap();
        let inspection = inspect(&bytes).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(inspection.format.to_uppercase(), pillow["format"].as_str().unwrap(), "{name}");
        let size = [pillow["size"][0].as_u64().unwrap(), pillow["size"][1].as_u64().unwrap()];
        assert_eq!([inspection.size.0, inspection.size.1].map(u64::from), size, "{name}");
        assert_eq!(inspection.frames as u64, pillow["frames"].as_u64().unwrap(), "{name}");
        assert_eq!(inspection.mode.transparent, pillow["transparent"].as_bool().unwrap(), "{name}");
        // An invalid orientation counts as upright.
        let orientation = pillow["orientation"].as_u64().filter(|known| (1..=8).contains(known)).unwrap_or(1);
        assert_eq!(u64::from(inspection.orientation), orientation, "{name}");
        let color_space = match pillow["mode"].as_str().unwrap() {
            // Pillow reports a gray color table as grayscale.
            "1" | "L" if matches!(inspection.format, "BMP" | "GIF") => ColorSpace::Palette,
            // Pillow opens gray with alpha in 16 bits as RGBA.
            "RGBA" if name.ends_with("/grey_alpha_16_bits.png") => ColorSpace::Gray,
            "1" | "L" | "LA" | "I" | "I;16" | "I;16B" => ColorSpace::Gray,
            "P" => ColorSpace::Palette,
            "RGB" | "RGBA" => ColorSpace::Rgb,
            "CMYK" => ColorSpace::Cmyk,
            other => panic!("{name}: {other}"),
        };
        assert_eq!(inspection.mode.color_space, color_space, "{name}");
        let has_16_bits = name.contains("16_bits") || name.starts_with("gray16/");
        assert_eq!(inspection.mode.bits == 16, has_16_bits, "{name}: {}", inspection.mode);
    }
}

#[test]
fn floating_point_is_recognized() {
    let mut file = std::io::Cursor::new(Vec::new());
    let image = image::DynamicImage::ImageRgb32F(image::Rgb32FImage::new(5, 4));
    image.write_to(&mut file, image::ImageFormat::Tiff).unwrap();
    assert_eq!(inspect(file.get_ref()).unwrap().mode.to_string(), "floating-point RGB");
}

/// Decoders report truncated images as truncated or as damaged.
#[test]
fn truncated_images_are_distinguished_from_damaged_ones() {
    for name in [
        "baseline_420.jpg",
        "progressive_420.jpg",
        "rgb.png",
        "lossy.webp",
        "plain.gif",
        "rgb.bmp",
        "rgb.tif",
        "rgb.ppm",
        "ascii.ppm",
    ] {
        let bytes = fs::read(golden::reference_path("decode/photos").join(name)).unwrap();
        for share in [30, 50, 80, 95] {
            let truncated = &bytes[..bytes.len() * share / 100];
            let error = decode(truncated, 10_000).unwrap_err();
            assert!(error.is_truncated(), "{name} at {share} %: {error}");
        }
    }
    let text = decode(b"This is a text.", 10_000).unwrap_err();
    assert!(!text.is_truncated() && !DecodeError::from(ReadError::Empty).is_truncated());
}

proptest! {
    #[test]
    fn inspecting_any_bytes_does_not_panic(
        name in prop::sample::select(vec!["animated.gif", "animated.png", "animated.webp", "two_pages.tif", "big.tif",
            "rgb.bmp", "orientation_6.jpg", "ascii.ppm"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        truncated in any::<prop::sample::Index>(),
    ) {
        let mut bytes = fs::read(golden::reference_path("decode/photos").join(name)).unwrap();
        for (position, value) in changes {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        let _ = inspect(&bytes);
        let _ = inspect(&bytes[..truncated.index(bytes.len())]);
    }

    #[test]
    fn similar_names_equal_a_comparison_of_all_pairs(names in prop::collection::vec("[aAb1 s]{0,6}", 0..14)) {
        let found = similar_names(&names);
        for a in 0..names.len() {
            for b in a + 1..names.len() {
                let pair_alone = similar_names(&[&names[a], &names[b]]);
                let in_all = found.iter().find(|pair| (pair.a, pair.b) == (a, b));
                prop_assert_eq!(pair_alone.first().map(|pair| pair.difference), in_all.map(|pair| pair.difference));
                let far = strsim::osa_distance(&names[a].to_lowercase(), &names[b].to_lowercase()) > 7;
                prop_assert!(!far || in_all.is_none());
            }
        }
    }
}

#[test]
fn sizes_at_the_limits_are_not_extreme() {
    let sizes = SizeStats { median_pixels: 10_000 };
    for (size, extreme) in [
        ((32, 400), false),
        ((31, 400), true),
        ((400, 31), true),
        ((500, 500), false),
        ((500, 501), true),
        ((20, 20), true),
    ] {
        assert_eq!(sizes.is_extreme(size), extreme, "{size:?}");
    }
    // 25 times below the median.
    let large = SizeStats { median_pixels: 100_000 };
    assert_eq!([(64, 62), (63, 63), (50, 80)].map(|size| large.is_extreme(size)), [true, true, false]);
    assert_eq!(
        [(300, 100), (301, 100), (100, 300), (100, 301), (1, 1)].map(SizeStats::is_elongated),
        [false, true, false, true, false]
    );
}

#[test]
fn names_that_differ_by_case_punctuation_or_a_typo_are_similar() {
    let pairs = [
        ("Dress", "dress", Some(NameDifference::Case)),
        ("T-Shirt", "t shirt", Some(NameDifference::Punctuation)),
        ("long_sleeve", "longsleeve", Some(NameDifference::Punctuation)),
        ("labrador", "labardor", Some(NameDifference::Letter)),
        ("Größe", "größen", Some(NameDifference::Letter)),
        ("cat", "cats", Some(NameDifference::Letter)),
        ("cat", "car", None),
        ("cat", "cast", None),
        ("cast", "cat", None),
        ("cat1", "cat2", None),
        ("cat", "cat2", None),
        ("???", "!!!", None),
        ("skirt", "shorts", None),
    ];
    for (a, b, difference) in pairs {
        assert_eq!(similar_names(&[a, b]).first().map(|pair| pair.difference), difference, "{a} {b}");
    }
    let differences = [NameDifference::Case, NameDifference::Punctuation, NameDifference::Letter]
        .map(NameDifference::description);
    assert_eq!(differences, ["case", "spaces or punctuation", "one letter"]);
}
