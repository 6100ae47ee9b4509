use std::collections::BTreeSet;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{crop_imm, flip_horizontal};
use image::{Rgb, RgbImage};

use super::*;
use crate::source::find_image_files;
use crate::transform::{Resampling, resize};
use crate::{decode, golden};

/// Every `step`-th image of the demo.
fn demo_images(step: usize) -> Vec<RgbImage> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/photos"));
    let images = find_image_files(folder, false).unwrap().images;
    assert_eq!(images.len(), 400);
    images
        .par_iter()
        .step_by(step)
        .map(|(_, image)| decode(&image.read().unwrap(), 1_000_000).unwrap())
        .collect()
}

fn jpeg_round_trip(image: &RgbImage, quality: u8) -> RgbImage {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(image).unwrap();
    decode(&bytes, 1_000_000).unwrap()
}

fn resized(image: &RgbImage, factor: f64) -> RgbImage {
    let side = |side: u32| (f64::from(side) * factor) as u32;
    resize(image, (side(image.width()), side(image.height())), Resampling::Bicubic)
}

/// Crops 5 % of each side, at one of the corners or in the center.
fn cropped(image: &RgbImage, position: usize) -> RgbImage {
    let (width, height) = (image.width() * 95 / 100, image.height() * 95 / 100);
    let (right, below) = (image.width() - width, image.height() - height);
    let (x, y) = [(0, 0), (right, 0), (0, below), (right, below), (right / 2, below / 2)][position % 5];
    crop_imm(image, x, y, width, height).to_image()
}

fn signatures_of(images: &[RgbImage]) -> Vec<Option<Signature>> {
    images.par_iter().map(|image| Some(Signature::new(image))).collect()
}

#[test]
fn recompressed_resized_cropped_and_mirrored_copies_are_found_and_others_are_not() {
    let mut images = demo_images(1);
    let count = images.len();
    let mut expected = BTreeSet::new();
    for original in 0..count {
        let image = &images[original];
        let (changed, mirrored) = match original % 5 {
            0 => (jpeg_round_trip(image, 50), false),
            1 => (resized(image, 0.4), false),
            2 => (cropped(image, original / 5), false),
            3 => (flip_horizontal(image), true),
            _ => (jpeg_round_trip(&resized(&cropped(&flip_horizontal(image), original / 5), 0.6), 70), true),
        };
        expected.insert((original, images.len(), mirrored));
        images.push(changed);
    }
    let pairs = find_near_duplicates(&signatures_of(&images), DEFAULT_SIMILARITY);
    assert!(pairs.is_sorted_by_key(|pair| (pair.a, pair.b)));
    let found: BTreeSet<(usize, usize, bool)> =
        pairs.iter().map(|pair| (pair.a, pair.b, pair.mirrored)).collect();
    let missed: Vec<_> = expected.difference(&found).collect();
    let false_ones: Vec<_> = found.difference(&expected).collect();
    assert!(missed.len() <= count / 40, "{missed:?}");
    assert!(false_ones.is_empty(), "{false_ones:?}");
}

#[test]
fn image_order_and_number_of_threads_do_not_change_the_pairs() {
    let mut images = demo_images(10);
    for i in 0..images.len() {
        images.push(flip_horizontal(&resized(&images[i], 0.7)));
    }
    let signatures = signatures_of(&images);
    let pairs_with_threads = |count| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
        pool.install(|| find_near_duplicates(&signatures, 0.5))
    };
    let pairs = pairs_with_threads(1);
    assert!(pairs.len() >= 40);
    assert_eq!(pairs, pairs_with_threads(3));

    let backwards: Vec<_> = signatures.iter().rev().cloned().collect();
    let last = signatures.len() - 1;
    let found = |pairs: Vec<DuplicatePair>| -> BTreeSet<(usize, usize)> {
        pairs.into_iter().map(|pair| (pair.a, pair.b)).collect()
    };
    let found_backwards = find_near_duplicates(&backwards, DEFAULT_SIMILARITY)
        .into_iter()
        .map(|p| (last - p.b, last - p.a))
        .collect();
    assert_eq!(found(find_near_duplicates(&signatures, DEFAULT_SIMILARITY)), found_backwards);
}

#[test]
fn flat_images_are_pairs_if_they_have_the_same_color() {
    let solid = |color| RgbImage::from_pixel(70, 50, Rgb(color));
    let images = [
        solid([255; 3]),
        solid([0; 3]),
        golden::synthetic_image(70, 50),
        solid([255; 3]),
        solid([200, 40, 40]),
        solid([254; 3]),
        solid([40, 95, 200]),
        RgbImage::new(0, 3),
    ];
    let pairs = find_near_duplicates(&signatures_of(&images), DEFAULT_SIMILARITY);
    let found: Vec<(usize, usize)> = pairs.iter().map(|pair| (pair.a, pair.b)).collect();
    assert_eq!(found, [(0, 3), (0, 5), (1, 7), (3, 5)]);
    assert_eq!(pairs[0].similarity, 1.0);
}

#[test]
fn flat_images_of_distinguishable_colors_are_not_a_pair_at_any_similarity() {
    let solid = |color| RgbImage::from_pixel(70, 50, Rgb(color));
    let pairs_of = |other, similarity| {
        find_near_duplicates(&signatures_of(&[solid([100, 100, 100]), solid(other)]), similarity)
    };
    // Brighter by 1 and by 2; then equal brightness in other colors.
    assert_eq!(pairs_of([101; 3], 0.0)[0].similarity, 1.0 - 1.0 / 255.0);
    for other in [[102; 3], [98; 3], [110, 97, 90], [95, 100, 117], [255, 0, 0]] {
        assert_eq!(pairs_of(other, 0.0), [], "{other:?}");
    }
    // The minimum similarity is inclusive.
    assert_eq!(pairs_of([101; 3], 1.0 - 1.0 / 255.0).len(), 1);
    assert_eq!(pairs_of([101; 3], 0.9962), []);
}

#[test]
fn pairs_have_at_least_the_minimum_similarity() {
    let image = &demo_images(400)[0];
    let signatures = signatures_of(&[image.clone(), jpeg_round_trip(image, 20)]);
    let found = find_near_duplicates(&signatures, 0.5)[0].similarity;
    assert!((0.955..0.99999).contains(&found), "{found}");
    assert_eq!(find_near_duplicates(&signatures, found).len(), 1);
    assert_eq!(find_near_duplicates(&signatures, found + 1e-6), []);
}

#[test]
fn equal_images_have_similarity_1_and_equal_shapes_in_other_colors_are_not_a_pair() {
    let image = &demo_images(400)[0];
    let mut other = image.clone();
    for Rgb([red, _, blue]) in other.pixels_mut() {
        *red = red.saturating_add(60);
        *blue = blue.saturating_sub(60);
    }
    let pairs =
        find_near_duplicates(&signatures_of(&[image.clone(), other, image.clone()]), DEFAULT_SIMILARITY);
    assert_eq!(pairs.len(), 1);
    assert_eq!((pairs[0].a, pairs[0].b, pairs[0].mirrored), (0, 2, false));
    assert!(pairs[0].similarity > 0.9999);
}

#[test]
fn candidates_are_exactly_the_pairs_with_few_differing_bits_direct_or_mirrored() {
    let images = demo_images(2);
    let signatures: Vec<Signature> = images
        .iter()
        .chain(images.iter().map(flip_horizontal).collect::<Vec<_>>().iter())
        .map(Signature::new)
        .collect();
    let indexed: Vec<(usize, &Signature)> = signatures.iter().enumerate().collect();
    let found: BTreeSet<(usize, usize, bool, bool)> =
        map_candidates(&indexed, |a, b, poses| Some((a.0, b.0, poses.direct, poses.mirrored)))
            .into_iter()
            .collect();

    let bits = |signature: &Signature, crop: usize, mirrored: bool| {
        let hash = signature.hashes[crop];
        u128::from(hash.even) << 64 | u128::from(if mirrored { !hash.odd } else { hash.odd })
    };
    let near = |a: &Signature, b: &Signature, mirrored| {
        [(0, 0), (0, 1), (1, 0)].iter().any(|&(i, j)| {
            (bits(a, i, mirrored) ^ bits(b, j, false)).count_ones() <= candidates::MAX_DISTANCE.into()
        })
    };
    let mut expected = BTreeSet::new();
    for a in 0..signatures.len() {
        for b in a + 1..signatures.len() {
            let (direct, mirrored) =
                (near(&signatures[a], &signatures[b], false), near(&signatures[a], &signatures[b], true));
            if direct || mirrored {
                expected.insert((a, b, direct, mirrored));
            }
        }
    }
    assert_eq!(found, expected);
    for i in 0..images.len() {
        assert!(found.iter().any(|pair| (pair.0, pair.1, pair.3) == (i, i + images.len(), true)), "{i}");
    }
}
