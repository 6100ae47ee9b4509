use std::fs;

use proptest::prelude::*;

use super::*;
use crate::golden;
use crate::{DecodeError, decode};

#[test]
fn photos_are_stored_as_pillow_says() {
    let expected = golden::json("checks/stored.json");
    let expected = expected.as_object().unwrap();
    assert!(expected.len() > 100);
    for (name, pillow) in expected {
        let bytes = fs::read(golden::reference_path("decode/photos").join(name)).unwrap();
        let photo = inspect(&bytes).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(photo.format.to_uppercase(), pillow["format"].as_str().unwrap(), "{name}");
        let size = [pillow["size"][0].as_u64().unwrap(), pillow["size"][1].as_u64().unwrap()];
        assert_eq!([photo.size.0, photo.size.1].map(u64::from), size, "{name}");
        assert_eq!(photo.frames as u64, pillow["frames"].as_u64().unwrap(), "{name}");
        assert_eq!(photo.mode.transparent, pillow["transparent"].as_bool().unwrap(), "{name}");
        // What is no orientation is taken for upright.
        let orientation = pillow["orientation"].as_u64().filter(|known| (1..=8).contains(known)).unwrap_or(1);
        assert_eq!(u64::from(photo.orientation), orientation, "{name}");
        let color_space = match pillow["mode"].as_str().unwrap() {
            // Pillow looks into the table: one of greys is none.
            "1" | "L" if matches!(photo.format, "BMP" | "GIF") => ColorSpace::Palette,
            "1" | "L" | "LA" | "I;16" | "I;16B" => ColorSpace::Gray,
            "P" => ColorSpace::Palette,
            "RGB" | "RGBA" => ColorSpace::Rgb,
            "CMYK" => ColorSpace::Cmyk,
            other => panic!("{name}: {other}"),
        };
        assert_eq!(photo.mode.color_space, color_space, "{name}");
        assert_eq!(photo.mode.bits == 16, name.contains("16_bits"), "{name}: {}", photo.mode);
    }
}

#[test]
fn floating_point_is_recognized() {
    let mut file = std::io::Cursor::new(Vec::new());
    let photo = image::DynamicImage::ImageRgb32F(image::Rgb32FImage::new(5, 4));
    photo.write_to(&mut file, image::ImageFormat::Tiff).unwrap();
    assert_eq!(inspect(file.get_ref()).unwrap().mode.to_string(), "floating-point RGB");
}

/// Where a photo is cut, decoders say so or find it damaged.
#[test]
fn truncated_photos_are_distinguished_from_damaged_ones() {
    for name in [
        "baseline_420.jpg",
        "progressive_420.jpg",
        "rgb.png",
        "lossy.webp",
        "plain.gif",
        "rgb.bmp",
        "rgb.tif",
    ] {
        let bytes = fs::read(golden::reference_path("decode/photos").join(name)).unwrap();
        for share in [30, 50, 80, 95] {
            let cut = &bytes[..bytes.len() * share / 100];
            let error = decode(cut, 10_000).unwrap_err();
            assert!(error.is_truncated(), "{name} at {share} %: {error}");
        }
    }
    let text = decode(b"This is a text.", 10_000).unwrap_err();
    assert!(!text.is_truncated() && !DecodeError::Empty.is_truncated());
}

proptest! {
    #[test]
    fn no_bytes_make_an_inspection_panic(
        name in prop::sample::select(vec!["animated.gif", "animated.png", "animated.webp", "two_pages.tif", "big.tif",
            "rgb.bmp", "orientation_6.jpg"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = fs::read(golden::reference_path("decode/photos").join(name)).unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = inspect(&bytes);
        let _ = inspect(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn similar_names_are_those_that_every_pair_compared_gives(names in prop::collection::vec("[aAb1 s]{0,6}", 0..14)) {
        let found = similar_names(&names);
        for a in 0..names.len() {
            for b in a + 1..names.len() {
                let alone = similar_names(&[&names[a], &names[b]]);
                let together = found.iter().find(|pair| (pair.a, pair.b) == (a, b));
                prop_assert_eq!(alone.first().map(|pair| pair.difference), together.map(|pair| pair.difference));
                let far = strsim::osa_distance(&names[a].to_lowercase(), &names[b].to_lowercase()) > 7;
                prop_assert!(!far || together.is_none());
            }
        }
    }
}

#[test]
fn sizes_at_a_limit_are_usual_ones() {
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
    // 25 times fewer than the median.
    let large = SizeStats { median_pixels: 100_000 };
    assert_eq!([(64, 62), (63, 63), (50, 80)].map(|size| large.is_extreme(size)), [true, true, false]);
    assert_eq!(
        [(300, 100), (301, 100), (100, 300), (100, 301), (1, 1)].map(SizeStats::is_elongated),
        [false, true, false, true, false]
    );
}

#[test]
fn names_are_similar_by_case_signs_and_slips() {
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
    for (a, b, likeness) in pairs {
        assert_eq!(similar_names(&[a, b]).first().map(|pair| pair.difference), likeness, "{a} {b}");
    }
    let differences = [NameDifference::Case, NameDifference::Punctuation, NameDifference::Letter]
        .map(NameDifference::description);
    assert_eq!(differences, ["case", "spaces or signs", "one letter"]);
}
