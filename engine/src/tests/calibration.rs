//! Activation statistics, and the accuracy of weights that are rounded with them.

use std::sync::Arc;

use super::naive::{FeatureMap, NaiveNetwork};
use super::{TestRng, epilogue, kernel_configs, pixels, u8_batch};
use crate::activation_stats::ActivationStats;
use crate::executor::OutputLayout;
use crate::gptq::Gram;
use crate::isa::{DType, Isa};
use crate::kernels::Portable;
use crate::layer::Convolution;
use crate::network::{Network, NetworkBuilder, Tap};
use crate::session::Session;
use crate::winograd::{InputTiles, TileTransform};

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

/// Convolutions of every method.
fn network(rng: &mut TestRng) -> (Network, Tap, NaiveNetwork) {
    let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
    let mut naive = NaiveNetwork::new(SCALE);
    let (mut ours, mut exact) = (builder.input(), 0);
    for (name, shape) in [
        ("image", [3, 18, 3, 2, 1]),
        ("point", [18, 20, 1, 1, 0]),
        ("strided", [20, 17, 1, 2, 0]),
        ("winograd", [17, 16, 3, 1, 1]),
        ("direct", [16, 16, 3, 2, 1]),
    ] {
        let layer = rng.convolution(shape);
        exact = naive.convolution(exact, &layer, None, true);
        ours = builder.add_convolution(name, ours, layer, epilogue(None, true, DType::F32)).unwrap();
    }
    let tap = builder.add_tap().unwrap();
    (builder.build(), tap, naive)
}

/// Checks that `gram` is the sum of `x x^T` over samples `x`.
fn assert_gram(gram: &Gram, samples: &[Vec<f64>], label: &str) {
    assert_eq!(gram.size, samples[0].len(), "{label}");
    let entry = |i: usize, j: usize| samples.iter().map(|x| x[i] * x[j]).sum::<f64>();
    let largest = (0..gram.size).map(|i| entry(i, i)).fold(0.0, f64::max);
    for (i, j) in (0..gram.size).flat_map(|i| (0..gram.size).map(move |j| (i, j))) {
        let (found, expected) = (gram.get(i, j), entry(i, j));
        assert!((found - expected).abs() <= 1e-4 * largest, "{label} {i} {j}: {found}, not {expected}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes; the naive network")]
fn gram_matrices_are_those_of_the_inputs_of_each_gemm() {
    let (images, height, width) = (2, 15, 22);
    let (network, tap, naive) = network(&mut TestRng(31));
    let data = pixels(images * height * width * 3);
    let batch = u8_batch(&data, images, height, width);
    let stats = ActivationStats::collect(&Arc::new(network), batch, tap).unwrap();
    let inputs = |value: usize| naive.run_to(value, &data, images, height, width);
    let pixel = |map: &FeatureMap, y: isize, x: isize| -> Vec<f64> {
        (0..map.channels).map(|channel| map.get(channel, y, x)).collect()
    };
    for (name, value, stride) in [("point", 1, 1), ("strided", 2, 2)] {
        let maps = inputs(value);
        let samples: Vec<Vec<f64>> = maps
            .iter()
            .flat_map(|map| {
                let rows = (0..map.height).step_by(stride);
                rows.flat_map(move |y| (0..map.width).step_by(stride).map(move |x| (y, x)))
                    .map(move |(y, x)| pixel(map, y as isize, x as isize))
            })
            .collect();
        let [gram] = stats.for_layer(name).unwrap() else { panic!("{name} is one GEMM") };
        assert_gram(gram, &samples, name);
    }
    // The matrix of the input transform.
    let unit_vector = |index: usize| std::array::from_fn(|i| [f32::from(u8::from(i == index)); 16]);
    let transform = |row: usize, column: usize| {
        f64::from(InputTiles::transform_row(Portable, unit_vector(column))[row][0])
    };
    let maps = inputs(3);
    let grams = stats.for_layer("winograd").unwrap();
    assert_eq!(grams.len(), 36);
    for (component, gram) in grams.iter().enumerate() {
        let mut samples = Vec::new();
        for map in &maps {
            for (top, left) in (0..map.height)
                .step_by(4)
                .flat_map(|top| (0..map.width).step_by(4).map(move |left| (top as isize, left as isize)))
            {
                let mut sample = vec![0.0; map.channels];
                for (y, x) in (0..6).flat_map(|y| (0..6).map(move |x| (y, x))) {
                    let factor = transform(component / 6, y) * transform(component % 6, x);
                    let values = pixel(map, top + y as isize - 1, left + x as isize - 1);
                    sample.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
                }
                samples.push(sample);
            }
        }
        assert_gram(gram, &samples, &format!("winograd {component}"));
    }
    for name in ["image", "direct", "point ", ""] {
        assert!(stats.for_layer(name).is_none(), "{name:?}");
    }
}

/// With activations that are all 1, the sums are the number of samples.
#[test]
#[cfg_attr(miri, ignore = "minutes; smaller images cover the same code")]
fn at_most_256_pixels_of_an_image_are_sampled() {
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
        let end = epilogue(None, true, DType::F32);
        let image = builder.input();
        let first = builder.add_convolution("first", image, ones(3, 5, 2), end).unwrap();
        builder.add_convolution("point", first, ones(5, 4, 1), end).unwrap();
        let tap = builder.add_tap().unwrap();
        let data = vec![0; 3 * height * width * 3];
        let batch = u8_batch(&data, 3, height, width);
        let stats = ActivationStats::collect(&Arc::new(builder.build()), batch, tap).unwrap();
        let [gram] = stats.for_layer("point").unwrap() else { panic!("one GEMM") };
        assert_eq!((gram.get(0, 0), gram.get(1, 4)), (3.0 * f64::from(samples), 3.0 * f64::from(samples)));
    }
}

/// Images `[count, side, side, 3]` of a noisy square on a uniform background: neighboring activations are
/// correlated.
fn noisy_squares(count: usize, side: usize) -> Vec<u8> {
    let (mut rng, inside) = (TestRng(5), side / 4..3 * side / 4);
    let mut pixels = Vec::new();
    for image in 0..count {
        let background = 250 - 40 * image as u8;
        let color = [(); 3].map(|()| 128.0 + 100.0 * rng.next());
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let noise = 20.0 * rng.next();
            let is_inside = inside.contains(&y) && inside.contains(&x);
            pixels.extend(color.map(|value| if is_inside { (value + noise) as u8 } else { background }));
        }
    }
    pixels
}

/// On every `bf16` kernel, including the emulated ones.
#[test]
#[cfg_attr(miri, ignore = "minutes; the naive network")]
fn calibrated_weights_are_more_accurate_than_rounded_ones() {
    let (count, side) = (4, 24);
    let data = noisy_squares(count, side);
    let batch = u8_batch(&data, count, side, side);
    let mut compared = 0;
    for config in kernel_configs().into_iter().filter(|config| config.precisions == (DType::F32, DType::Bf16))
    {
        let build = |precision, stats: Option<ActivationStats>| {
            let mut rng = TestRng(77);
            let mut builder = NetworkBuilder::with_kernels(config.kernels, Isa::Portable, SCALE);
            if let Some(stats) = stats {
                builder = builder.calibrate(stats);
            }
            let mut naive = NaiveNetwork::new(SCALE);
            let mut add = |builder: &mut NetworkBuilder, name: &str, (value, exact), shape, precision| {
                let layer = rng.convolution(shape);
                let end = epilogue(None, true, precision);
                let next = naive.convolution(exact, &layer, None, true);
                (builder.add_convolution(name, value, layer, end).unwrap(), next)
            };
            let image = (builder.input(), 0);
            let value = add(&mut builder, "first", image, [3, 64, 3, 2, 1], DType::F32);
            let value = add(&mut builder, "narrowing", value, [64, 64, 1, 1, 0], precision);
            add(&mut builder, "last", value, [64, 64, 1, 1, 0], precision);
            let tap = builder.add_tap().unwrap();
            (Arc::new(builder.build()), tap, naive)
        };
        let (network, tap, naive) = build(DType::F32, None);
        let exact: Vec<f64> =
            naive.run(&data, count, side, side).iter().flat_map(FeatureMap::means).collect();
        let error = |stats| {
            let (network, tap, _) = build(DType::Bf16, stats);
            let mut out = vec![f32::NAN; exact.len()];
            Session::new(network, 1).unwrap().run(batch, tap, OutputLayout::Pooled, &mut out).unwrap();
            out.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt()
        };
        let stats = ActivationStats::collect(&network, batch, tap).unwrap();
        let (calibrated, nearest) = (error(Some(stats)), error(None));
        assert!(calibrated < 0.8 * nearest, "{config:?}: {calibrated}, {nearest} by rounding to nearest");
        compared += 1;
    }
    assert!(compared >= 1);
}
