//! Networks on every kernel that the machine has, beside a naive one in `f64`.

mod calibration;
mod edges;
mod naive;
mod operations;
mod plans;
mod refusals;
mod reports;

use std::sync::Arc;

use proptest::prelude::*;

use crate::image::Values;
use crate::isa::{Isa, Precision};
use crate::kernels::{EmulatedBf16, Narrowing, PortableF32};
use crate::layer::Convolution;
use crate::machine::{Machine, Machines};
use crate::network::{Builder, Epilogue, Network, Tap, Value};
use crate::session::{Form, Photos, Session};
use naive::{Map, Naive};

/// Numbers in -1..1 from a seed.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn many(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * scale).collect()
    }

    /// A convolution that keeps the size of numbers.
    pub(crate) fn convolution(&mut self, shape: [usize; 5]) -> Convolution {
        let [inputs, outputs, kernel, stride, padding] = shape;
        let count = inputs * kernel * kernel;
        let scale = (3.0 / count as f32).sqrt();
        let weights = self.many(outputs * count, scale);
        Convolution { inputs, outputs, kernel, stride, padding, weights, bias: self.many(outputs, 0.3) }
    }
}

/// A way through the kernels that are here.
#[derive(Clone, Copy, Debug)]
struct Way {
    machines: Machines,
    /// What the first layer's values are kept in, and all later ones'.
    precisions: (Precision, Precision),
    /// What a result may be off by, in parts of what it could be at most.
    tolerance: f64,
}

/// Every kernel there is here.
fn ways() -> Vec<Way> {
    let emulated = Machines {
        wide: Machine::PortableF32,
        narrow: Some((
            Machine::EmulatedNarrowing(Narrowing(PortableF32, EmulatedBf16)),
            Machine::EmulatedBf16,
        )),
    };
    let here = Isa::ALL.into_iter().filter(|isa| isa.is_present()).map(|isa| Machines::new(isa).unwrap());
    let mut ways = Vec::new();
    for machines in here.chain([emulated]) {
        use Precision::{Bf16, F32};
        if machines.narrow.is_some() {
            if !cfg!(miri) {
                ways.push(Way { machines, precisions: (F32, Bf16), tolerance: 2e-2 });
            }
            ways.push(Way { machines, precisions: (Bf16, Bf16), tolerance: 2e-2 });
        } else {
            ways.push(Way { machines, precisions: (F32, F32), tolerance: 1e-5 });
        }
    }
    ways
}

fn epilogue(residual: Option<Value>, relu: bool, precision: Precision) -> Epilogue {
    Epilogue { residual, relu, precision }
}

/// One layer after the first, and what surrounds it.
#[derive(Clone, Debug)]
struct Case {
    /// Inputs, outputs, kernel, stride, padding.
    shape: [usize; 5],
    residual: bool,
    relu: bool,
    photos: usize,
    height: usize,
    width: usize,
    threads: usize,
}

impl Case {
    /// For Miri, which takes a thousandfold.
    fn smaller(&self) -> Self {
        let [inputs, outputs, kernel, stride, padding] = self.shape;
        let shape = [inputs.min(18), outputs.min(18), kernel, stride, padding];
        let (photos, height, width) = (self.photos.min(2), self.height.min(10), self.width.min(10));
        Self { shape, photos, height, width, ..*self }
    }
}

/// The network of a case: a first layer that halves the photo, the layer, and a 1 x 1 convolution to add to it.
fn build(way: Way, case: &Case) -> (Network, Naive, Tap) {
    let mut numbers = Numbers(case.shape.iter().fold(7, |seed, &size| seed * 31 + size as u64));
    let normalisation =
        [0, 1, 2].map(|c| std::array::from_fn(|v| (v as f32 / 255.0 - 0.4) / (0.2 + 0.1 * c as f32)));
    let mut builder = Builder::on(way.machines, Isa::Portable, normalisation);
    let (kept, given) = way.precisions;
    let mut naive = Naive::new(normalisation);
    let [inputs, outputs, kernel, stride, padding] = case.shape;
    let first = numbers.convolution([3, inputs, 3, 2, 1]);
    let layer = numbers.convolution([inputs, outputs, kernel, stride, padding]);
    let around = numbers.convolution([inputs, outputs, 1, stride, 0]);
    let a = builder.convolution("first", builder.image(), first.clone(), epilogue(None, true, kept)).unwrap();
    let na = naive.convolution(0, &first, None, true);
    let fits = kernel == 2 * padding + 1;
    let (b, nb) = if case.residual && fits {
        let b = builder.convolution("around", a, around.clone(), epilogue(None, false, kept)).unwrap();
        (Some(b), Some(naive.convolution(na, &around, None, false)))
    } else {
        (None, None)
    };
    builder.convolution("layer", a, layer.clone(), epilogue(b, case.relu, given)).unwrap();
    naive.convolution(na, &layer, nb, case.relu);
    let tap = builder.tap().unwrap();
    (builder.build(), naive, tap)
}

fn pixels(count: usize) -> Vec<u8> {
    let mut numbers = Numbers(11);
    (0..count).map(|_| (numbers.next() * 127.0 + 128.0) as u8).collect()
}

/// `max |a - b| <= tolerance * max |b|`.
fn assert_close(ours: &[f32], exact: &[f64], tolerance: f64, what: &str) {
    let largest = exact.iter().fold(0.0, |max: f64, value| max.max(value.abs()));
    assert_within(ours, exact, tolerance * largest, what);
}

fn assert_within(ours: &[f32], exact: &[f64], bound: f64, what: &str) {
    assert_eq!(ours.len(), exact.len());
    for (index, (ours, value)) in ours.iter().zip(exact).enumerate() {
        let gap = (f64::from(*ours) - value).abs();
        assert!(gap <= bound, "{what}: {ours} for {value} at {index} of {}", exact.len());
    }
}

/// `[N, C, pixels]` as `[N, pixels, C]`.
fn channels_last(planes: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let photos = planes.chunks_exact(channels * pixels);
    photos
        .flat_map(|photo| (0..pixels).flat_map(move |pixel| photo[pixel..].iter().step_by(pixels)))
        .copied()
        .collect()
}

fn check(case: &Case) {
    let case = &if cfg!(miri) { case.smaller() } else { case.clone() };
    let Case { photos, height, width, threads, .. } = *case;
    let data = pixels(photos * height * width * 3);
    for way in ways() {
        let (network, naive, tap) = build(way, case);
        let mut session = Session::new(Arc::new(network), threads).unwrap();
        let size = session.size(tap, height, width).unwrap();
        let outputs = case.shape[1];
        let batch = Photos { values: Values::U8(&data), count: photos, height, width };
        let what = format!("{way:?} {case:?}");
        let mut planes = vec![f32::NAN; photos * outputs * size.0 * size.1];
        session.run(batch, tap, Form::Planes, &mut planes).unwrap();
        let mut last = vec![f32::NAN; planes.len()];
        session.run(batch, tap, Form::ChannelsLast, &mut last).unwrap();
        assert!(last == channels_last(&planes, outputs, size.0 * size.1), "{what}");
        if cfg!(miri) {
            // It looks at memory; the naive network would take it minutes.
            assert!(planes.iter().all(|value| value.is_finite()), "{what}");
            continue;
        }
        let exact: Vec<Map> = naive.run(&data, photos, height, width);
        let all: Vec<f64> = exact.iter().flat_map(|map| map.values.clone()).collect();
        let bound = way.tolerance * exact.iter().map(|map| map.reach).fold(0.0, f64::max);
        assert_within(&planes, &all, bound, &what);
        let mut pooled = vec![f32::NAN; photos * outputs];
        session.run(batch, tap, Form::Pooled, &mut pooled).unwrap();
        let means: Vec<f64> = exact.iter().flat_map(Map::means).collect();
        assert_within(&pooled, &means, bound, &what);
    }
}

const ONE: Case = Case {
    shape: [32, 32, 1, 1, 0],
    residual: false,
    relu: true,
    photos: 1,
    height: 8,
    width: 8,
    threads: 1,
};

#[test]
fn one_by_one() {
    check(&ONE);
}

#[test]
fn winograd() {
    check(&Case { shape: [32, 32, 3, 1, 1], height: 16, width: 16, ..ONE });
}

#[test]
fn direct() {
    check(&Case { shape: [32, 32, 3, 2, 1], height: 16, width: 16, ..ONE });
}

#[test]
fn a_single_pixel() {
    for kernel in [1, 3, 5] {
        check(&Case { shape: [32, 64, kernel, 1, kernel / 2], height: 1, width: 1, residual: true, ..ONE });
    }
}

#[test]
fn a_single_channel() {
    check(&Case { shape: [1, 1, 3, 1, 1], residual: true, photos: 2, ..ONE });
    check(&Case { shape: [1, 1, 3, 2, 1], residual: true, photos: 2, ..ONE });
}

#[test]
fn sizes_that_are_no_multiple_of_anything() {
    check(&Case { shape: [17, 33, 3, 1, 1], height: 13, width: 29, photos: 3, residual: true, ..ONE });
    check(&Case { shape: [17, 33, 3, 2, 1], height: 13, width: 29, photos: 3, residual: true, ..ONE });
    check(&Case { shape: [47, 5, 1, 2, 0], height: 31, width: 7, photos: 3, threads: 3, ..ONE });
}

/// Three segments whose groups differ, values that take each other's place, sums across taps.
fn deep(way: Way) -> (Network, Naive, Vec<(Tap, usize)>) {
    let normalisation = [0, 1, 2].map(|_| std::array::from_fn(|v| v as f32 / 128.0 - 1.0));
    let mut numbers = Numbers(5);
    let mut builder = Builder::on(way.machines, Isa::Portable, normalisation);
    let mut kept = way.precisions.0;
    let mut naive = Naive::new(normalisation);
    let first = numbers.convolution([3, 16, 7, 2, 3]);
    let a = builder.convolution("first", builder.image(), first.clone(), epilogue(None, true, kept)).unwrap();
    let mut value = builder.max_pool("pool", a, 3, 2, 1).unwrap();
    let a = naive.convolution(0, &first, None, true);
    let mut exact = naive.max_pool(a, 3, 2, 1);
    let mut taps = vec![(builder.tap().unwrap(), exact)];
    let (stages, blocks) =
        if cfg!(miri) { ([(16, 20), (20, 20), (20, 40)], 1) } else { ([(16, 48), (48, 48), (48, 96)], 3) };
    for (inputs, outputs) in stages {
        for block in 0..blocks {
            let stride = if block == 0 && inputs != outputs { 2 } else { 1 };
            let from = if block == 0 { inputs } else { outputs };
            let mut add = |shape, input: (_, usize), residual: Option<(_, usize)>, relu, precision| {
                let layer = numbers.convolution(shape);
                let end = epilogue(residual.map(|r| r.0), relu, precision);
                let ours = builder.convolution("layer", input.0, layer.clone(), end);
                (ours.unwrap(), naive.convolution(input.1, &layer, residual.map(|r| r.1), relu))
            };
            let around = if from == outputs && stride == 1 {
                (value, exact)
            } else {
                add([from, outputs, 1, stride, 0], (value, exact), None, false, kept)
            };
            let inside = add([from, 16, 1, 1, 0], (value, exact), None, true, kept);
            let inside = add([16, 16, 3, stride, 1], inside, None, true, kept);
            // The first block goes over to what the rest is kept in.
            (value, exact) = add([16, outputs, 1, 1, 0], inside, Some(around), true, way.precisions.1);
            kept = way.precisions.1;
        }
        taps.push((builder.tap().unwrap(), exact));
    }
    (builder.build(), naive, taps)
}

#[test]
fn every_tap_of_a_deep_network_for_any_batch_and_threads() {
    let (height, width, most) = if cfg!(miri) { (5, 7, 2) } else { (65, 43, 11) };
    let data = pixels(most * height * width * 3);
    // Miri goes one way, to the end.
    let (ways, skipped) = if cfg!(miri) { (vec![ways()[0]], 3) } else { (ways(), 0) };
    for way in ways {
        let (network, naive, mut taps) = deep(way);
        taps.drain(..skipped);
        let network = Arc::new(network);
        let mut alone = Session::new(network.clone(), 1).unwrap();
        for (tap, value) in taps {
            let size = alone.size(tap, height, width).unwrap();
            let each = network.channels(tap) * size.0 * size.1;
            let mut single = vec![f32::NAN; most * each];
            for (photo, out) in single.chunks_exact_mut(each).enumerate() {
                let values = Values::U8(&data[photo * height * width * 3..][..height * width * 3]);
                alone.run(Photos { values, count: 1, height, width }, tap, Form::Planes, out).unwrap();
            }
            if !cfg!(miri) {
                let exact = naive.run_to(value, &data, most, height, width);
                let all: Vec<f64> = exact.iter().flat_map(|map| map.values.clone()).collect();
                assert_close(&single, &all, 4.0 * way.tolerance, &format!("{way:?} {tap:?}"));
            }
            for (threads, count) in [(1, most), (2, 1), (2, most), (3, most - 1), (4, most)] {
                let mut session = Session::new(network.clone(), threads).unwrap();
                let values = Values::U8(&data[..count * height * width * 3]);
                let mut together = vec![f32::NAN; count * each];
                let photos = Photos { values, count, height, width };
                session.run(photos, tap, Form::Planes, &mut together).unwrap();
                assert!(
                    together == single[..count * each],
                    "{way:?} {tap:?} {threads} threads, {count} photos"
                );
            }
        }
    }
}

#[test]
fn photos_of_one_size_after_another_and_pixels_normalised_before() {
    let (network, naive, taps) = deep(ways()[0]);
    let mut session = Session::new(Arc::new(network), 2).unwrap();
    let (tap, value) = taps[3];
    let sizes = if cfg!(miri) { [(5, 7), (6, 3), (5, 7)] } else { [(32, 32), (33, 60), (32, 32)] };
    for (height, width) in sizes {
        let data = pixels(2 * height * width * 3);
        let exact: Vec<f64> =
            naive.run_to(value, &data, 2, height, width).iter().flat_map(Map::means).collect();
        let normalised: Vec<f32> = data.iter().map(|&v| f32::from(v) / 128.0 - 1.0).collect();
        for values in [Values::U8(&data), Values::F32(&normalised)] {
            let mut out = vec![f32::NAN; exact.len()];
            session.run(Photos { values, count: 2, height, width }, tap, Form::Pooled, &mut out).unwrap();
            assert_close(&out, &exact, 1e-4, &format!("{height} x {width}"));
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let convolution = |inputs, outputs, kernel| Numbers(1).convolution([inputs, outputs, kernel, 2, 1]);
    let mut builder = Builder::new(Isa::Portable, [[0.0; 256]; 3]).unwrap();
    let image = builder.image();
    let end = |residual| epilogue(residual, true, Precision::F32);
    let mut refused = |layer: Convolution, input, residual| {
        builder.convolution("conv1", input, layer, end(residual)).unwrap_err().to_string()
    };
    let mut short = convolution(3, 8, 3);
    short.weights.pop();
    assert!(
        refused(short, image, None)
            .contains("failed to add conv1: 215 weights and 8 biases are not [8, 3, 3, 3]")
    );
    assert!(refused(convolution(4, 8, 3), image, None).contains("it takes 4 channels and is given 3"));
    assert!(
        refused(convolution(3, 8, 3), image, Some(image))
            .contains("8 channels in f32 cannot be added to 3 in f32")
    );
    assert!(refused(convolution(3, 8, 1), image, None).contains("padding 1 do not go with a kernel of 1"));
    let narrow = epilogue(None, true, Precision::Bf16);
    let narrowed = builder.convolution("conv1", image, convolution(3, 8, 3), narrow).unwrap_err().to_string();
    assert!(narrowed.contains("portable has no kernel from f32 to bf16"), "{narrowed}");
    let a = builder.convolution("a", image, convolution(3, 8, 3), end(None)).unwrap();
    assert!(
        builder.max_pool("pool", a, 2, 2, 2).is_err() && builder.max_pool("pool", image, 3, 2, 1).is_err()
    );
    let tap = builder.tap().unwrap();
    assert!(builder.tap().is_err());
    builder.convolution("b", a, convolution(8, 8, 3), end(None)).unwrap();
    builder.tap().unwrap();
    let late = builder.convolution("c", a, convolution(8, 8, 3), end(None)).unwrap_err().to_string();
    assert!(late.contains("failed to add c: it uses a value from before the last tap"), "{late}");
    let mut session = Session::new(Arc::new(builder.build()), 1).unwrap();
    let mut run = |values: &[u8], height, width, room| {
        let photos = Photos { values: Values::U8(values), count: 1, height, width };
        session.run(photos, tap, Form::Pooled, &mut vec![0.0; room]).map_err(|error| error.to_string())
    };
    assert!(run(&[0; 12], 2, 2, 8).is_ok());
    assert!(run(&[0; 11], 2, 2, 8).unwrap_err().contains("on 1 photos of 2 x 2 pixels: there are 11 values"));
    assert!(run(&[0; 12], 2, 2, 7).unwrap_err().contains("room for 7 values of 8"));
    assert!(run(&[], 0, 2, 8).unwrap_err().contains("a has only 0 x 2 pixels left"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 64 }, ..ProptestConfig::default() })]
    #[test]
    fn any_layer_is_what_the_naive_one_is(
        inputs in 1usize..70,
        outputs in 1usize..70,
        kernel in 1usize..6,
        stride in 1usize..4,
        padding in 0usize..3,
        residual: bool,
        relu: bool,
        photos in 1usize..6,
        height in 10usize..40,
        width in 10usize..40,
        threads in 1usize..4,
    ) {
        let padding = padding.min(kernel - 1);
        check(&Case { shape: [inputs, outputs, kernel, stride, padding], residual, relu, photos, height, width, threads });
    }
}
