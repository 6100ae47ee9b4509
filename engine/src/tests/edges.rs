//! Edge cases of sizes and values.

use std::sync::Arc;

use super::{
    BASE, Case, NaiveNetwork, TestRng, assert_close, check, epilogue, kernel_configs, pixels, u8_batch,
};
use crate::executor::OutputLayout;
use crate::isa::Isa;
use crate::layer::Convolution;
use crate::network::NetworkBuilder;
use crate::session::Session;

#[test]
fn tiles_of_every_height() {
    // The first layer halves the width: a span of each number of rows that a tile can have.
    let widths = if cfg!(miri) { 1..=2 } else { 1..=33 };
    for width in widths {
        check(&Case { height: 1, width: 2 * width, residual: true, ..BASE });
        check(&Case { shape: [16, 32, 3, 2, 1], height: 5, width: 4 * width, ..BASE });
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes; smaller layers cover the same code")]
fn panels_that_do_not_fit_the_cache() {
    check(&Case { shape: [1100, 130, 1, 1, 0], height: 6, width: 10, residual: true, threads: 2, ..BASE });
    check(&Case { shape: [160, 70, 3, 2, 1], height: 6, width: 10, threads: 2, ..BASE });
    check(&Case { shape: [200, 130, 3, 1, 1], height: 6, width: 10, threads: 2, ..BASE });
}

/// The residual of a layer may be its input, which must not be overwritten before it is read.
#[test]
#[cfg_attr(miri, ignore = "minutes; smaller layers cover the same code")]
fn a_layer_added_to_its_own_input() {
    for config in kernel_configs() {
        for (kernel, height, width) in [(1, 6, 11), (3, 6, 11), (5, 6, 11), (3, 2, 1)] {
            let mut rng = TestRng(3);
            let (first, layer) =
                (rng.convolution([3, 96, 3, 2, 1]), rng.convolution([96, 96, kernel, 1, kernel / 2]));
            let scale = [std::array::from_fn(|value| value as f32 / 128.0 - 1.0); 3];
            let mut builder = NetworkBuilder::with_kernels(config.kernels, Isa::Portable, scale);
            let mut naive = NaiveNetwork::new(scale);
            let precision = config.precisions.0;
            let end = |residual| epilogue(residual, true, precision);
            let a = builder.add_convolution("first", builder.input(), first.clone(), end(None)).unwrap();
            let b = builder.add_convolution("layer", a, layer.clone(), end(Some(a))).unwrap();
            builder.add_convolution("again", b, layer.clone(), end(Some(b))).unwrap();
            let tap = builder.add_tap().unwrap();
            let a = naive.convolution(0, &first, None, true);
            let b = naive.convolution(a, &layer, Some(a), true);
            naive.convolution(b, &layer, Some(b), true);
            let data = pixels(2 * height * width * 3);
            let exact: Vec<f64> =
                naive.run(&data, 2, height, width).into_iter().flat_map(|map| map.values).collect();
            let images = u8_batch(&data, 2, height, width);
            let network = Arc::new(builder.build());
            for threads in [1, 2] {
                let mut out = vec![f32::NAN; exact.len()];
                let mut session = Session::new(network.clone(), threads).unwrap();
                session.run(images, tap, OutputLayout::Nchw, &mut out).unwrap();
                let label = format!("{config:?} {kernel} {height} x {width}");
                assert_close(&out, &exact, 2.0 * config.tolerance, &label);
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes; smaller layers cover the same code")]
fn max_pools_of_odd_sizes_and_of_a_single_pixel() {
    for config in kernel_configs() {
        for (kernel, stride, padding) in [(3, 2, 1), (2, 2, 0), (3, 1, 1), (5, 3, 2), (1, 1, 0)] {
            for (height, width) in [(1, 1), (1, 9), (13, 1), (15, 27), (22, 18)] {
                let (rows, columns) = (usize::div_ceil(height, 2), usize::div_ceil(width, 2));
                if rows.min(columns) + 2 * padding < kernel {
                    continue;
                }
                // All values are negative, so that zero padding would change the maximum.
                let mut first = TestRng(9).convolution([3, 20, 3, 2, 1]);
                first.bias.fill(-20.0);
                let scale = [std::array::from_fn(|value| value as f32 / 128.0 - 1.0); 3];
                let mut builder = NetworkBuilder::with_kernels(config.kernels, Isa::Portable, scale);
                let mut naive = NaiveNetwork::new(scale);
                let end = epilogue(None, false, config.precisions.0);
                let a = builder.add_convolution("first", builder.input(), first.clone(), end).unwrap();
                builder.add_max_pool("pool", a, kernel, stride, padding).unwrap();
                let tap = builder.add_tap().unwrap();
                let a = naive.convolution(0, &first, None, false);
                naive.max_pool(a, kernel, stride, padding);
                let data = pixels(2 * height * width * 3);
                let exact: Vec<f64> =
                    naive.run(&data, 2, height, width).into_iter().flat_map(|map| map.values).collect();
                assert!(exact.iter().all(|&value| value < 0.0));
                let images = u8_batch(&data, 2, height, width);
                let mut out = vec![f32::NAN; exact.len()];
                let mut session = Session::new(Arc::new(builder.build()), 1).unwrap();
                session.run(images, tap, OutputLayout::Nchw, &mut out).unwrap();
                let label = format!("{config:?} {kernel} {stride} {padding} {height} x {width}");
                assert_close(&out, &exact, config.tolerance, &label);
            }
        }
    }
}

/// Runs a layer whose weights are all `weight`, after a first layer; returns the tolerance and the output per
/// kernel.
fn run_constant_weights(weight: f32, kernel: usize, bytes: &[u8]) -> Vec<(f64, Vec<f32>)> {
    let constant = |inputs: usize, outputs: usize, kernel: usize, stride, weight: f32| Convolution {
        inputs,
        outputs,
        kernel,
        stride,
        padding: kernel / 2,
        weights: vec![weight; outputs * inputs * kernel * kernel],
        bias: (0..outputs).map(|output| output as f32 - 3.0).collect(),
    };
    let run = |config: super::KernelConfig| {
        let scale = [std::array::from_fn(|value| value as f32 / 255.0); 3];
        let mut builder = NetworkBuilder::with_kernels(config.kernels, Isa::Portable, scale);
        let first = constant(3, 24, 3, 2, 1.0 / 16.0);
        let end = |precision| epilogue(None, false, precision);
        let a = builder.add_convolution("first", builder.input(), first, end(config.precisions.0)).unwrap();
        let layer = constant(24, 8, kernel, 1, weight);
        builder.add_convolution("layer", a, layer, end(config.precisions.1)).unwrap();
        let tap = builder.add_tap().unwrap();
        let mut out = vec![f32::NAN; 8 * 4 * 5];
        let mut session = Session::new(Arc::new(builder.build()), 1).unwrap();
        session.run(u8_batch(bytes, 1, 8, 10), tap, OutputLayout::Nchw, &mut out).unwrap();
        (config.tolerance, out)
    };
    kernel_configs().into_iter().map(run).collect()
}

#[test]
#[cfg_attr(miri, ignore = "minutes; smaller layers cover the same code")]
fn weights_of_zero_leave_the_bias() {
    for kernel in [1, 3, 5] {
        for (_, out) in run_constant_weights(0.0, kernel, &pixels(8 * 10 * 3)) {
            for (channel, plane) in out.chunks_exact(4 * 5).enumerate() {
                assert!(plane.iter().all(|&value| value == channel as f32 - 3.0), "{kernel} {plane:?}");
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "minutes; smaller layers cover the same code")]
fn saturated_images_give_the_expected_values() {
    for (byte, value) in [(0, 0.0), (255, 1.0)] {
        for (tolerance, out) in run_constant_weights(0.5, 1, &[byte; 8 * 10 * 3]) {
            // Output (1, 1) of the first layer has all of its 27 inputs inside the image.
            let first: f64 = (0..24).map(|output| 27.0 * value / 16.0 + f64::from(output) - 3.0).sum();
            for (channel, plane) in out.chunks_exact(4 * 5).enumerate() {
                assert!(plane.iter().all(|value| value.is_finite()));
                let expected = 0.5 * first + channel as f64 - 3.0;
                let found = f64::from(plane[5 + 1]);
                let gap = (found - expected).abs();
                assert!(gap <= tolerance * expected.abs(), "{byte} {channel}: {found} for {expected}");
            }
        }
    }
}
