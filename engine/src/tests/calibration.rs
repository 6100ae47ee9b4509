//! What is summed of a network's inputs, and that weights rounded by it err less.

use std::sync::Arc;

use super::naive::{FeatureMap, NaiveNetwork};
use super::{TestRng, epilogue, kernel_configs, pixels};
use crate::calibration::{ActivationStats, synthetic_calibration_images};
use crate::dispatch::KernelSet;
use crate::gptq::Gram;
use crate::image::PixelValues;
use crate::isa::{Isa, Precision};
use crate::kernels::Portable;
use crate::layer::Convolution;
use crate::network::{Network, NetworkBuilder, Tap};
use crate::session::{ImageBatch, OutputLayout, Session};
use crate::winograd::transform_input_row;

const SCALE: [[f32; 256]; 3] = {
    let mut scale = [[0.0; 256]; 3];
    let mut value = 0;
    while value < 256 {
        scale[0][value] = value as f32 / 128.0 - 1.0;
        scale[1][value] = value as f32 / 256.0;
        scale[2][value] = 0.5 - value as f32 / 512.0;
        value += 1;
    }
    scale
};

/// A product of 1 x 1, one of stride 2, one at Winograd's points, and a direct one.
fn network(numbers: &mut TestRng) -> (Network, Tap, NaiveNetwork) {
    let mut builder =
        NetworkBuilder::with_kernels(KernelSet::new(Isa::Portable).unwrap(), Isa::Portable, SCALE);
    let mut naive = NaiveNetwork::new(SCALE);
    let (mut ours, mut exact) = (builder.input(), 0);
    for (name, shape) in [
        ("image", [3, 18, 3, 2, 1]),
        ("point", [18, 20, 1, 1, 0]),
        ("strided", [20, 17, 1, 2, 0]),
        ("winograd", [17, 16, 3, 1, 1]),
        ("direct", [16, 16, 3, 2, 1]),
    ] {
        let layer = numbers.convolution(shape);
        exact = naive.convolution(exact, &layer, None, true);
        ours = builder.add_convolution(name, ours, layer, epilogue(None, true, Precision::F32)).unwrap();
    }
    let tap = builder.add_tap().unwrap();
    (builder.build(), tap, naive)
}

/// The sum of `x x^T` over some samples.
fn assert_gram(gram: &Gram, samples: &[Vec<f64>], what: &str) {
    assert_eq!(gram.size(), samples[0].len(), "{what}");
    let of = |i: usize, j: usize| samples.iter().map(|x| x[i] * x[j]).sum::<f64>();
    let largest = (0..gram.size()).map(|i| of(i, i)).fold(0.0, f64::max);
    for (i, j) in (0..gram.size()).flat_map(|i| (0..gram.size()).map(move |j| (i, j))) {
        let (found, expected) = (gram.get(i, j), of(i, j));
        assert!((found - expected).abs() <= 1e-4 * largest, "{what} {i} {j}: {found}, not {expected}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes; the naive network")]
fn what_is_summed_of_each_layer_is_what_its_products_read() {
    let (photos, height, width) = (2, 15, 22);
    let (network, tap, naive) = network(&mut TestRng(31));
    let data = pixels(photos * height * width * 3);
    let batch = ImageBatch { values: PixelValues::U8(&data), count: photos, height, width };
    let calibration = ActivationStats::collect(&Arc::new(network), batch, tap).unwrap();
    let inputs = |value: usize| naive.run_to(value, &data, photos, height, width);
    let at = |map: &FeatureMap, y: isize, x: isize| -> Vec<f64> {
        (0..map.channels).map(|channel| map.get(channel, y, x)).collect()
    };
    for (name, value, stride) in [("point", 1, 1), ("strided", 2, 2)] {
        let maps = inputs(value);
        let samples: Vec<Vec<f64>> = maps
            .iter()
            .flat_map(|map| {
                let rows = (0..map.height).step_by(stride);
                rows.flat_map(move |y| (0..map.width).step_by(stride).map(move |x| (y, x)))
                    .map(move |(y, x)| at(map, y as isize, x as isize))
            })
            .collect();
        let [gram] = calibration.for_layer(name).unwrap() else { panic!("{name} is one product") };
        assert_gram(gram, &samples, name);
    }
    // Rows of the matrix by which a line of a tile is taken to the points.
    let unit = |at: usize| {
        transform_input_row(Portable, std::array::from_fn(|i| [f32::from(u8::from(i == at)); 16]))
    };
    let transform = |point: usize, at: usize| f64::from(unit(at)[point][0]);
    let maps = inputs(3);
    let grams = calibration.for_layer("winograd").unwrap();
    assert_eq!(grams.len(), 36);
    for (point, gram) in grams.iter().enumerate() {
        let mut samples = Vec::new();
        for map in &maps {
            for (top, left) in (0..map.height)
                .step_by(4)
                .flat_map(|top| (0..map.width).step_by(4).map(move |left| (top as isize, left as isize)))
            {
                let mut sample = vec![0.0; map.channels];
                for (y, x) in (0..6).flat_map(|y| (0..6).map(move |x| (y, x))) {
                    let factor = transform(point / 6, y) * transform(point % 6, x);
                    let values = at(map, top + y as isize - 1, left + x as isize - 1);
                    sample.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
                }
                samples.push(sample);
            }
        }
        assert_gram(gram, &samples, &format!("winograd {point}"));
    }
    for name in ["image", "direct", "point ", ""] {
        assert!(calibration.for_layer(name).is_none(), "{name:?}");
    }
}

/// Of a photo with many positions every third or so is taken: with values that are all 1 the sums are how many there were.
#[test]
#[cfg_attr(miri, ignore = "minutes; nothing that smaller photos do not do")]
fn of_each_photo_256_samples_are_taken_at_most() {
    for (height, width, samples) in [(32, 32, 256), (32, 34, 136), (40, 60, 200), (2, 2, 1)] {
        let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
        let ones = |inputs, outputs, stride| Convolution {
            inputs,
            outputs,
            kernel: 1,
            stride,
            padding: 0,
            weights: vec![0.0; outputs * inputs],
            bias: vec![1.0; outputs],
        };
        let end = epilogue(None, true, Precision::F32);
        let image = builder.input();
        let first = builder.add_convolution("first", image, ones(3, 5, 2), end).unwrap();
        builder.add_convolution("point", first, ones(5, 4, 1), end).unwrap();
        let tap = builder.add_tap().unwrap();
        let data = vec![0; 3 * height * width * 3];
        let batch = ImageBatch { values: PixelValues::U8(&data), count: 3, height, width };
        let calibration = ActivationStats::collect(&Arc::new(builder.build()), batch, tap).unwrap();
        let [gram] = calibration.for_layer("point").unwrap() else { panic!("one product") };
        assert_eq!((gram.get(0, 0), gram.get(1, 4)), (3.0 * f64::from(samples), 3.0 * f64::from(samples)));
    }
}

/// On every kernel of `bf16`, those that imitate it too: weights rounded by what a network reads of some photos err less on these than
/// weights rounded to nearest.
#[test]
#[cfg_attr(miri, ignore = "minutes; the naive network")]
fn weights_that_are_calibrated_err_less_than_rounded_ones() {
    let (count, side) = (4, 24);
    let data = synthetic_calibration_images(count, side);
    let batch = ImageBatch { values: PixelValues::U8(&data), count, height: side, width: side };
    let mut compared = 0;
    for way in kernel_configs().into_iter().filter(|way| way.precisions == (Precision::F32, Precision::Bf16))
    {
        let build = |precision, calibration: Option<ActivationStats>| {
            let mut numbers = TestRng(77);
            let mut builder = NetworkBuilder::with_kernels(way.kernels, Isa::Portable, SCALE);
            if let Some(calibration) = calibration {
                builder = builder.calibrate(calibration);
            }
            let mut naive = NaiveNetwork::new(SCALE);
            let mut add = |builder: &mut NetworkBuilder, name: &str, (value, exact), shape, precision| {
                let layer = numbers.convolution(shape);
                let end = epilogue(None, true, precision);
                let next = naive.convolution(exact, &layer, None, true);
                (builder.add_convolution(name, value, layer, end).unwrap(), next)
            };
            let image = (builder.input(), 0);
            let value = add(&mut builder, "first", image, [3, 64, 3, 2, 1], Precision::F32);
            let value = add(&mut builder, "narrowing", value, [64, 64, 1, 1, 0], precision);
            add(&mut builder, "last", value, [64, 64, 1, 1, 0], precision);
            let tap = builder.add_tap().unwrap();
            (Arc::new(builder.build()), tap, naive)
        };
        let (wide, tap, naive) = build(Precision::F32, None);
        let exact: Vec<f64> =
            naive.run(&data, count, side, side).iter().flat_map(FeatureMap::means).collect();
        let error = |calibration| {
            let (network, tap, _) = build(Precision::Bf16, calibration);
            let mut out = vec![f32::NAN; exact.len()];
            Session::new(network, 1).unwrap().run(batch, tap, OutputLayout::Pooled, &mut out).unwrap();
            out.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt()
        };
        let calibration = ActivationStats::collect(&wide, batch, tap).unwrap();
        let (calibrated, nearest) = (error(Some(calibration)), error(None));
        assert!(calibrated < 0.8 * nearest, "{way:?}: {calibrated}, and {nearest} by rounding to nearest");
        compared += 1;
    }
    assert!(compared >= 1);
}

/// Plain colours, half of them greys, with a rectangle half as wide before them, grainy.
#[test]
fn plain_photos_are_a_colour_and_a_grainy_rectangle() {
    let (count, side) = (12, 48);
    let data = synthetic_calibration_images(count, side);
    assert_eq!(data.len(), count * side * side * 3);
    assert_eq!(synthetic_calibration_images(3, side), data[..3 * side * side * 3]);
    let mut places = std::collections::BTreeSet::new();
    for (number, photo) in data.chunks_exact(side * side * 3).enumerate() {
        let pixel = |y: usize, x: usize| <[u8; 3]>::try_from(&photo[3 * (y * side + x)..][..3]).unwrap();
        let around = pixel(0, 0);
        let is_grey = around[0] == around[1] && around[1] == around[2];
        assert_eq!(is_grey, number % 2 == 0, "{number}: {around:?}");
        if is_grey {
            assert_eq!(usize::from(around[0]), 255 - 3 * number);
        }
        // The rectangle starts between a twelfth and five twelfths of the side from each edge.
        let inside = |y: usize, x: usize| pixel(y, x) != around;
        let rows: Vec<usize> =
            (0..side).filter(|&y| (0..side).filter(|&x| inside(y, x)).count() > side / 4).collect();
        let columns: Vec<usize> =
            (0..side).filter(|&x| (0..side).filter(|&y| inside(y, x)).count() > side / 4).collect();
        for lines in [&rows, &columns] {
            assert_eq!((lines.len(), lines[side / 2 - 1] - lines[0]), (side / 2, side / 2 - 1), "{number}");
            assert!((side / 12..side / 12 + side / 3).contains(&lines[0]), "{number}");
        }
        places.insert((rows[0], columns[0]));
        for channel in 0..3 {
            let values: Vec<f64> = rows
                .iter()
                .flat_map(|&y| columns.iter().map(move |&x| (y, x)))
                .map(|(y, x)| f64::from(pixel(y, x)[channel]))
                .collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let deviation =
                (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
            // Four draws of 22 values: 4 * (22^2 - 1) / 12 = 12.7^2, less where they are clamped.
            let is_clamped = !(50.0..205.0).contains(&mean);
            assert!(
                deviation < 14.0 && (is_clamped || deviation > 11.0),
                "{number} {channel}: {mean} {deviation}"
            );
        }
    }
    assert!(places.len() > count / 2, "{places:?}");
}
