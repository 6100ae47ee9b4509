//! Tests of networks on every kernel that the CPU supports, against a naive implementation in `f64`.

mod calibration;
mod edges;
pub(crate) mod emulated;
mod naive;
mod operations;
mod plans;
mod rejections;
mod reports;

use std::sync::Arc;

use proptest::prelude::*;

use crate::dispatch::{AnyKernel, KernelSet};
use crate::executor::OutputLayout;
use crate::image::PixelValues;
use crate::isa::{DType, Isa};
use crate::kernels::{Narrowing, PortableF32};
use crate::layer::Convolution;
use crate::network::{Epilogue, Network, NetworkBuilder, Tap, ValueId};
use crate::session::{ImageBatch, Session};
use emulated::EmulatedBf16;
use naive::{FeatureMap, NaiveNetwork};

/// A generator of random numbers in -1..1.
pub(crate) struct TestRng(pub(crate) u64);

impl TestRng {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn next_many(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * scale).collect()
    }

    /// A random convolution that keeps the magnitude of values. `shape` is inputs, outputs, kernel size,
    /// stride and padding.
    pub(crate) fn convolution(&mut self, shape: [usize; 5]) -> Convolution {
        let [inputs, outputs, kernel, stride, padding] = shape;
        let count = inputs * kernel * kernel;
        let scale = (3.0 / count as f32).sqrt();
        let weights = self.next_many(outputs * count, scale);
        Convolution { inputs, outputs, kernel, stride, padding, weights, bias: self.next_many(outputs, 0.3) }
    }
}

/// Kernels and precisions to test.
#[derive(Clone, Copy, Debug)]
struct KernelConfig {
    kernels: KernelSet,
    /// Precision of the output of the first layer, and of all later layers.
    precisions: (DType, DType),
    /// Maximum error relative to [`FeatureMap::max_abs_sum`].
    tolerance: f64,
}

/// Every kernel available here, and the emulated ones.
fn kernel_configs() -> Vec<KernelConfig> {
    let narrowing = AnyKernel::EmulatedNarrowing(Narrowing { compute: PortableF32, store: EmulatedBf16 });
    let emulated =
        KernelSet { f32: AnyKernel::PortableF32, bf16: Some((narrowing, AnyKernel::EmulatedBf16)) };
    let present = Isa::ALL.into_iter().filter(|isa| isa.is_present()).map(|isa| KernelSet::new(isa).unwrap());
    let mut configs = Vec::new();
    for kernels in present.chain([emulated]) {
        use DType::{Bf16, F32};
        if kernels.bf16.is_some() {
            if !cfg!(miri) {
                configs.push(KernelConfig { kernels, precisions: (F32, Bf16), tolerance: 2e-2 });
            }
            configs.push(KernelConfig { kernels, precisions: (Bf16, Bf16), tolerance: 2e-2 });
        } else {
            configs.push(KernelConfig { kernels, precisions: (F32, F32), tolerance: 1e-5 });
        }
    }
    configs
}

fn epilogue(residual: Option<ValueId>, relu: bool, precision: DType) -> Epilogue {
    Epilogue { residual, relu, precision }
}

/// A batch of images that are not normalized yet, `[count, height, width, 3]`.
fn u8_batch(values: &[u8], count: usize, height: usize, width: usize) -> ImageBatch<'_> {
    ImageBatch { values: PixelValues::U8(values), count, height, width }
}

/// A layer after the first one, and the input of the network.
#[derive(Clone, Debug)]
struct Case {
    /// Inputs, outputs, kernel, stride, padding.
    shape: [usize; 5],
    residual: bool,
    relu: bool,
    images: usize,
    height: usize,
    width: usize,
    threads: usize,
}

impl Case {
    /// A smaller case for Miri, which is a thousand times slower.
    fn smaller(&self) -> Self {
        let [inputs, outputs, kernel, stride, padding] = self.shape;
        let shape = [inputs.min(18), outputs.min(18), kernel, stride, padding];
        let (images, height, width) = (self.images.min(2), self.height.min(10), self.width.min(10));
        Self { shape, images, height, width, ..*self }
    }
}

/// The network of a case: a first layer of stride 2, the layer, and a 1 x 1 convolution as its residual.
fn build_case(config: KernelConfig, case: &Case) -> (Network, NaiveNetwork, Tap) {
    let mut rng = TestRng(case.shape.iter().fold(7, |seed, &size| seed * 31 + size as u64));
    let normalization =
        [0, 1, 2].map(|c| std::array::from_fn(|v| (v as f32 / 255.0 - 0.4) / (0.2 + 0.1 * c as f32)));
    let mut builder = NetworkBuilder::with_kernels(config.kernels, Isa::Portable, normalization);
    let (precision, layer_precision) = config.precisions;
    let mut naive = NaiveNetwork::new(normalization);
    let [inputs, outputs, kernel, stride, padding] = case.shape;
    let first = rng.convolution([3, inputs, 3, 2, 1]);
    let layer = rng.convolution([inputs, outputs, kernel, stride, padding]);
    let shortcut = rng.convolution([inputs, outputs, 1, stride, 0]);
    let end = |relu| epilogue(None, relu, precision);
    let value = builder.add_convolution("first", builder.input(), first.clone(), end(true)).unwrap();
    let exact = naive.convolution(0, &first, None, true);
    let fits = kernel == 2 * padding + 1;
    let (residual, exact_residual) = if case.residual && fits {
        let residual = builder.add_convolution("shortcut", value, shortcut.clone(), end(false)).unwrap();
        (Some(residual), Some(naive.convolution(exact, &shortcut, None, false)))
    } else {
        (None, None)
    };
    let end = epilogue(residual, case.relu, layer_precision);
    builder.add_convolution("layer", value, layer.clone(), end).unwrap();
    naive.convolution(exact, &layer, exact_residual, case.relu);
    let tap = builder.add_tap().unwrap();
    (builder.build(), naive, tap)
}

/// Random pixel values in 1..255.
fn pixels(count: usize) -> Vec<u8> {
    let mut rng = TestRng(11);
    (0..count).map(|_| (rng.next() * 127.0 + 128.0) as u8).collect()
}

/// Checks that `max |ours - exact| <= tolerance * max |exact|`.
fn assert_close(ours: &[f32], exact: &[f64], tolerance: f64, label: &str) {
    let largest = exact.iter().fold(0.0, |max: f64, value| max.max(value.abs()));
    assert_within(ours, exact, tolerance * largest, label);
}

/// Checks that `|ours - exact| <= bound` for each value.
fn assert_within(ours: &[f32], exact: &[f64], bound: f64, label: &str) {
    assert_eq!(ours.len(), exact.len());
    for (index, (ours, value)) in ours.iter().zip(exact).enumerate() {
        let gap = (f64::from(*ours) - value).abs();
        assert!(gap <= bound, "{label}: {ours} for {value} at {index} of {}", exact.len());
    }
}

/// Converts `[N, C, pixels]` to `[N, pixels, C]`.
fn channels_last(nchw: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    nchw.chunks_exact(channels * pixels)
        .flat_map(|image| (0..pixels).flat_map(move |pixel| image[pixel..].iter().step_by(pixels)))
        .copied()
        .collect()
}

/// Checks a case on all kernels against the naive network, in all output layouts.
fn check(case: &Case) {
    let case = &if cfg!(miri) { case.smaller() } else { case.clone() };
    let Case { images, height, width, threads, .. } = *case;
    let data = pixels(images * height * width * 3);
    for config in kernel_configs() {
        let (network, naive, tap) = build_case(config, case);
        let mut session = Session::new(Arc::new(network), threads).unwrap();
        let size = session.output_size(tap, height, width).unwrap();
        let outputs = case.shape[1];
        let batch = u8_batch(&data, images, height, width);
        let label = format!("{config:?} {case:?}");
        let mut nchw = vec![f32::NAN; images * outputs * size.0 * size.1];
        session.run(batch, tap, OutputLayout::Nchw, &mut nchw).unwrap();
        let mut nhwc = vec![f32::NAN; nchw.len()];
        session.run(batch, tap, OutputLayout::Nhwc, &mut nhwc).unwrap();
        assert!(nhwc == channels_last(&nchw, outputs, size.0 * size.1), "{label}");
        if cfg!(miri) {
            // Miri checks memory accesses; the naive network would take minutes.
            assert!(nchw.iter().all(|value| value.is_finite()), "{label}");
            continue;
        }
        let exact: Vec<FeatureMap> = naive.run(&data, images, height, width);
        let all: Vec<f64> = exact.iter().flat_map(|map| map.values.clone()).collect();
        let bound = config.tolerance * exact.iter().map(|map| map.max_abs_sum).fold(0.0, f64::max);
        assert_within(&nchw, &all, bound, &label);
        let mut pooled = vec![f32::NAN; images * outputs];
        session.run(batch, tap, OutputLayout::Pooled, &mut pooled).unwrap();
        let means: Vec<f64> = exact.iter().flat_map(FeatureMap::means).collect();
        assert_within(&pooled, &means, bound, &label);
    }
}

const BASE: Case = Case {
    shape: [32, 32, 1, 1, 0],
    residual: false,
    relu: true,
    images: 1,
    height: 8,
    width: 8,
    threads: 1,
};

#[test]
fn one_by_one() {
    check(&BASE);
}

#[test]
fn winograd() {
    check(&Case { shape: [32, 32, 3, 1, 1], height: 16, width: 16, ..BASE });
}

#[test]
fn direct() {
    check(&Case { shape: [32, 32, 3, 2, 1], height: 16, width: 16, ..BASE });
}

#[test]
fn a_single_pixel() {
    for kernel in [1, 3, 5] {
        check(&Case { shape: [32, 64, kernel, 1, kernel / 2], height: 1, width: 1, residual: true, ..BASE });
    }
}

#[test]
fn a_single_channel() {
    check(&Case { shape: [1, 1, 3, 1, 1], residual: true, images: 2, ..BASE });
    check(&Case { shape: [1, 1, 3, 2, 1], residual: true, images: 2, ..BASE });
}

#[test]
fn sizes_that_are_no_multiple_of_anything() {
    check(&Case { shape: [17, 33, 3, 1, 1], height: 13, width: 29, images: 3, residual: true, ..BASE });
    check(&Case { shape: [17, 33, 3, 2, 1], height: 13, width: 29, images: 3, residual: true, ..BASE });
    check(&Case { shape: [47, 5, 1, 2, 0], height: 31, width: 7, images: 3, threads: 3, ..BASE });
}

/// A network with three stages of different group sizes, values that reuse memory, and residuals across taps.
fn deep_network(config: KernelConfig) -> (Network, NaiveNetwork, Vec<(Tap, usize)>) {
    let normalization = [0, 1, 2].map(|_| std::array::from_fn(|v| v as f32 / 128.0 - 1.0));
    let mut rng = TestRng(5);
    let mut builder = NetworkBuilder::with_kernels(config.kernels, Isa::Portable, normalization);
    let mut precision = config.precisions.0;
    let mut naive = NaiveNetwork::new(normalization);
    let first = rng.convolution([3, 16, 7, 2, 3]);
    let a = builder
        .add_convolution("first", builder.input(), first.clone(), epilogue(None, true, precision))
        .unwrap();
    let mut value = builder.add_max_pool("pool", a, 3, 2, 1).unwrap();
    let a = naive.convolution(0, &first, None, true);
    let mut exact = naive.max_pool(a, 3, 2, 1);
    let mut taps = vec![(builder.add_tap().unwrap(), exact)];
    let (stages, blocks) =
        if cfg!(miri) { ([(16, 20), (20, 20), (20, 40)], 1) } else { ([(16, 48), (48, 48), (48, 96)], 3) };
    for (inputs, outputs) in stages {
        for block in 0..blocks {
            let stride = if block == 0 && inputs != outputs { 2 } else { 1 };
            let channels = if block == 0 { inputs } else { outputs };
            let mut add = |shape, input: (_, usize), residual: Option<(_, usize)>, relu, precision| {
                let layer = rng.convolution(shape);
                let end = epilogue(residual.map(|r| r.0), relu, precision);
                let ours = builder.add_convolution("layer", input.0, layer.clone(), end);
                (ours.unwrap(), naive.convolution(input.1, &layer, residual.map(|r| r.1), relu))
            };
            let shortcut = if channels == outputs && stride == 1 {
                (value, exact)
            } else {
                add([channels, outputs, 1, stride, 0], (value, exact), None, false, precision)
            };
            let inside = add([channels, 16, 1, 1, 0], (value, exact), None, true, precision);
            let inside = add([16, 16, 3, stride, 1], inside, None, true, precision);
            // The first block switches to the precision of later layers.
            (value, exact) = add([16, outputs, 1, 1, 0], inside, Some(shortcut), true, config.precisions.1);
            precision = config.precisions.1;
        }
        taps.push((builder.add_tap().unwrap(), exact));
    }
    (builder.build(), naive, taps)
}

#[test]
fn every_tap_of_a_deep_network_is_the_same_for_any_batch_and_threads() {
    let (height, width, max_images) = if cfg!(miri) { (5, 7, 2) } else { (65, 43, 11) };
    let data = pixels(max_images * height * width * 3);
    // With Miri only one configuration and the last tap.
    let (configs, skipped) = if cfg!(miri) { (vec![kernel_configs()[0]], 3) } else { (kernel_configs(), 0) };
    for config in configs {
        let (network, naive, mut taps) = deep_network(config);
        taps.drain(..skipped);
        let network = Arc::new(network);
        let mut alone = Session::new(network.clone(), 1).unwrap();
        for (tap, value) in taps {
            let size = alone.output_size(tap, height, width).unwrap();
            let image_len = network.channels(tap) * size.0 * size.1;
            let mut single = vec![f32::NAN; max_images * image_len];
            for (image, out) in single.chunks_exact_mut(image_len).enumerate() {
                let values = &data[image * height * width * 3..][..height * width * 3];
                alone.run(u8_batch(values, 1, height, width), tap, OutputLayout::Nchw, out).unwrap();
            }
            if !cfg!(miri) {
                let exact = naive.run_to(value, &data, max_images, height, width);
                let all: Vec<f64> = exact.iter().flat_map(|map| map.values.clone()).collect();
                assert_close(&single, &all, 4.0 * config.tolerance, &format!("{config:?} {tap:?}"));
            }
            for (threads, count) in
                [(1, max_images), (2, 1), (2, max_images), (3, max_images - 1), (4, max_images)]
            {
                let mut session = Session::new(network.clone(), threads).unwrap();
                let images = u8_batch(&data[..count * height * width * 3], count, height, width);
                let mut out = vec![f32::NAN; count * image_len];
                session.run(images, tap, OutputLayout::Nchw, &mut out).unwrap();
                let label = format!("{config:?} {tap:?} {threads} threads, {count} images");
                assert!(out == single[..count * image_len], "{label}");
            }
        }
    }
}

#[test]
fn a_session_handles_changing_sizes_and_normalized_pixels() {
    let (network, naive, taps) = deep_network(kernel_configs()[0]);
    let mut session = Session::new(Arc::new(network), 2).unwrap();
    let (tap, value) = taps[3];
    let sizes = if cfg!(miri) { [(5, 7), (6, 3), (5, 7)] } else { [(32, 32), (33, 60), (32, 32)] };
    for (height, width) in sizes {
        let data = pixels(2 * height * width * 3);
        let exact: Vec<f64> =
            naive.run_to(value, &data, 2, height, width).iter().flat_map(FeatureMap::means).collect();
        let normalized: Vec<f32> = data.iter().map(|&v| f32::from(v) / 128.0 - 1.0).collect();
        for values in [PixelValues::U8(&data), PixelValues::F32(&normalized)] {
            let mut out = vec![f32::NAN; exact.len()];
            let images = ImageBatch { values, count: 2, height, width };
            session.run(images, tap, OutputLayout::Pooled, &mut out).unwrap();
            assert_close(&out, &exact, 1e-4, &format!("{height} x {width}"));
        }
    }
}

#[test]
fn invalid_layers_and_batches_are_rejected_with_the_reason() {
    let convolution = |inputs, outputs, kernel| TestRng(1).convolution([inputs, outputs, kernel, 2, 1]);
    let mut builder = NetworkBuilder::new(Isa::Portable, [[0.0; 256]; 3]).unwrap();
    let image = builder.input();
    let end = |residual| epilogue(residual, true, DType::F32);
    let mut rejected = |layer: Convolution, input, residual| {
        builder.add_convolution("conv1", input, layer, end(residual)).unwrap_err().to_string()
    };
    let mut short = convolution(3, 8, 3);
    short.weights.pop();
    assert_eq!(
        rejected(short, image, None),
        "failed to add conv1 to the network: expected weights [8, 3, 3, 3] and bias [8], got 215 and 8 values"
    );
    let input = rejected(convolution(4, 8, 3), image, None);
    assert!(input.contains("expected an input of 4 channels, got 3 channels"), "{input}");
    let residual = rejected(convolution(3, 8, 3), image, Some(image));
    assert!(residual.contains("a residual of 8 channels in f32, got 3 channels in f32"), "{residual}");
    assert!(rejected(convolution(3, 8, 1), image, None).contains("got stride 2 and padding 1"));
    let narrow = epilogue(None, true, DType::Bf16);
    let narrowed =
        builder.add_convolution("conv1", image, convolution(3, 8, 3), narrow).unwrap_err().to_string();
    assert!(narrowed.contains("portable has no kernel that reads f32 and writes bf16"), "{narrowed}");
    let a = builder.add_convolution("a", image, convolution(3, 8, 3), end(None)).unwrap();
    assert!(builder.add_max_pool("pool", a, 2, 2, 2).is_err());
    assert!(builder.add_max_pool("pool", image, 3, 2, 1).is_err());
    let tap = builder.add_tap().unwrap();
    assert!(builder.add_tap().is_err());
    builder.add_convolution("b", a, convolution(8, 8, 3), end(None)).unwrap();
    builder.add_tap().unwrap();
    let late = builder.add_convolution("c", a, convolution(8, 8, 3), end(None)).unwrap_err().to_string();
    assert!(
        late.contains("failed to add c to the network: the layer uses a value from before the last tap"),
        "{late}"
    );
    let mut session = Session::new(Arc::new(builder.build()), 1).unwrap();
    let mut run = |values: &[u8], height, width, out_len| {
        let (images, mut out) = (u8_batch(values, 1, height, width), vec![0.0; out_len]);
        session.run(images, tap, OutputLayout::Pooled, &mut out).map_err(|error| error.to_string())
    };
    assert!(run(&[0; 12], 2, 2, 8).is_ok());
    let too_few = run(&[0; 11], 2, 2, 8).unwrap_err();
    assert!(
        too_few.contains("photos of 2 x 2 pixels (batch size 1): expected 1 x 2 x 2 x 3 values, got 11"),
        "{too_few}"
    );
    assert!(run(&[0; 12], 2, 2, 7).unwrap_err().contains("the output buffer has 7 values, expected 8"));
    assert!(run(&[], 0, 2, 8).unwrap_err().contains("the input of the layer a has only 0 x 2 pixels"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 64 }, ..ProptestConfig::default() })]
    #[test]
    fn any_layer_agrees_with_the_naive_implementation(
        inputs in 1usize..70,
        outputs in 1usize..70,
        kernel in 1usize..6,
        stride in 1usize..4,
        padding in 0usize..3,
        residual: bool,
        relu: bool,
        images in 1usize..6,
        height in 10usize..40,
        width in 10usize..40,
        threads in 1usize..4,
    ) {
        let padding = padding.min(kernel - 1);
        check(&Case { shape: [inputs, outputs, kernel, stride, padding], residual, relu, images, height, width, threads });
    }
}
