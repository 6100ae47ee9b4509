use std::collections::BTreeSet;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{crop_imm, flip_horizontal};
use image::{Rgb, RgbImage};

use super::*;
use crate::source::find_image_files;
use crate::transform::{Resampling, resize};
use crate::{ImageRef, decode, golden};

/// The demo's photos, every so many of them.
fn demo_images(step: usize) -> Vec<RgbImage> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/photos"));
    let photos = find_image_files(folder).unwrap();
    assert_eq!(photos.len(), 400);
    photos
        .par_iter()
        .step_by(step)
        .map(|path| decode(&ImageRef::from(path.clone()).read().unwrap(), 1_000_000).unwrap())
        .collect()
}

fn jpeg_round_trip(photo: &RgbImage, quality: u8) -> RgbImage {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(photo).unwrap();
    decode(&bytes, 1_000_000).unwrap()
}

fn resized(photo: &RgbImage, part: f64) -> RgbImage {
    let side = |side: u32| (f64::from(side) * part) as u32;
    resize(photo, (side(photo.width()), side(photo.height())), Resampling::Bicubic)
}

/// Without 5 % of each side, at one of the corners or around the middle.
fn cropped(photo: &RgbImage, place: usize) -> RgbImage {
    let (width, height) = (photo.width() * 95 / 100, photo.height() * 95 / 100);
    let (right, below) = (photo.width() - width, photo.height() - height);
    let (x, y) = [(0, 0), (right, 0), (0, below), (right, below), (right / 2, below / 2)][place % 5];
    crop_imm(photo, x, y, width, height).to_image()
}

fn signatures_of(photos: &[RgbImage]) -> Vec<Option<Signature>> {
    photos.par_iter().map(|photo| Some(Signature::new(photo))).collect()
}

#[test]
fn photos_are_found_again_encoded_resized_cropped_and_mirrored_and_others_are_not() {
    let mut photos = demo_images(1);
    let count = photos.len();
    let mut expected = BTreeSet::new();
    for original in 0..count {
        let photo = &photos[original];
        let (changed, mirrored) = match original % 5 {
            0 => (jpeg_round_trip(photo, 50), false),
            1 => (resized(photo, 0.4), false),
            2 => (cropped(photo, original / 5), false),
            3 => (flip_horizontal(photo), true),
            _ => (jpeg_round_trip(&resized(&cropped(&flip_horizontal(photo), original / 5), 0.6), 70), true),
        };
        expected.insert((original, photos.len(), mirrored));
        photos.push(changed);
    }
    let pairs = find_near_duplicates(&signatures_of(&photos), DEFAULT_SIMILARITY);
    assert!(pairs.is_sorted_by_key(|pair| (pair.a, pair.b)));
    let found: BTreeSet<(usize, usize, bool)> =
        pairs.iter().map(|pair| (pair.a, pair.b, pair.mirrored)).collect();
    let missed: Vec<_> = expected.difference(&found).collect();
    let false_ones: Vec<_> = found.difference(&expected).collect();
    assert!(missed.len() <= count / 40, "{missed:?}");
    assert!(false_ones.is_empty(), "{false_ones:?}");
}

#[test]
fn the_order_of_photos_and_the_number_of_threads_change_nothing() {
    let mut photos = demo_images(10);
    for at in 0..photos.len() {
        photos.push(flip_horizontal(&resized(&photos[at], 0.7)));
    }
    let signatures = signatures_of(&photos);
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
fn photos_without_contrast_are_pairs_where_they_have_one_colour() {
    let plain = |colour| RgbImage::from_pixel(70, 50, Rgb(colour));
    let photos = [
        plain([255; 3]),
        plain([0; 3]),
        golden::synthetic_image(70, 50),
        plain([255; 3]),
        plain([200, 40, 40]),
        plain([254; 3]),
        plain([40, 95, 200]),
        RgbImage::new(0, 3),
    ];
    let pairs = find_near_duplicates(&signatures_of(&photos), DEFAULT_SIMILARITY);
    let found: Vec<(usize, usize)> = pairs.iter().map(|pair| (pair.a, pair.b)).collect();
    assert_eq!(found, [(0, 3), (0, 5), (1, 7), (3, 5)]);
    assert_eq!(pairs[0].similarity, 1.0);
}

#[test]
fn plain_photos_of_colours_that_can_be_told_apart_are_no_pair_at_any_similarity() {
    let plain = |colour| RgbImage::from_pixel(70, 50, Rgb(colour));
    let pairs_of = |other, similarity| {
        find_near_duplicates(&signatures_of(&[plain([100, 100, 100]), plain(other)]), similarity)
    };
    // Brighter by 1 and by 2; then of one brightness, in other colours.
    assert_eq!(pairs_of([101; 3], 0.0)[0].similarity, 1.0 - 1.0 / 255.0);
    for other in [[102; 3], [98; 3], [110, 97, 90], [95, 100, 117], [255, 0, 0]] {
        assert_eq!(pairs_of(other, 0.0), [], "{other:?}");
    }
    // The similarity asked for is a least one.
    assert_eq!(pairs_of([101; 3], 1.0 - 1.0 / 255.0).len(), 1);
    assert_eq!(pairs_of([101; 3], 0.9962), []);
}

#[test]
fn the_similarity_asked_for_is_the_least_that_is_found() {
    let photo = &demo_images(400)[0];
    let signatures = signatures_of(&[photo.clone(), jpeg_round_trip(photo, 20)]);
    let found = find_near_duplicates(&signatures, 0.5)[0].similarity;
    assert!((0.955..0.99999).contains(&found), "{found}");
    assert_eq!(find_near_duplicates(&signatures, found).len(), 1);
    assert_eq!(find_near_duplicates(&signatures, found + 1e-6), []);
}

#[test]
fn the_same_pixels_are_wholly_similar_and_the_same_shapes_in_other_colours_no_pair() {
    let photo = &demo_images(400)[0];
    let mut other = photo.clone();
    for Rgb([red, _, blue]) in other.pixels_mut() {
        *red = red.saturating_add(60);
        *blue = blue.saturating_sub(60);
    }
    let pairs =
        find_near_duplicates(&signatures_of(&[photo.clone(), other, photo.clone()]), DEFAULT_SIMILARITY);
    assert_eq!(pairs.len(), 1);
    assert_eq!((pairs[0].a, pairs[0].b, pairs[0].mirrored), (0, 2, false));
    assert!(pairs[0].similarity > 0.9999);
}

#[test]
fn hashes_are_near_exactly_where_few_bits_differ_directly_or_mirrored() {
    let photos = demo_images(2);
    let signatures: Vec<Signature> = photos
        .iter()
        .chain(photos.iter().map(flip_horizontal).collect::<Vec<_>>().iter())
        .map(Signature::new)
        .collect();
    let indexed: Vec<(usize, &Signature)> = signatures.iter().enumerate().collect();
    let found: BTreeSet<(usize, usize, bool, bool)> =
        map_candidates(&indexed, |a, b, poses| Some((a.0, b.0, poses.direct, poses.mirrored)))
            .into_iter()
            .collect();

    let bits = |signature: &Signature, part: usize, mirrored: bool| {
        let hash = signature.hashes[part];
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
    for at in 0..photos.len() {
        assert!(found.iter().any(|pair| (pair.0, pair.1, pair.3) == (at, at + photos.len(), true)), "{at}");
    }
}
