//! Layer times, and the division of work and memory, which do not affect results.

use std::sync::Arc;
use std::time::Duration;

use crate::executor::OutputLayout;
use crate::image::PixelValues;
use crate::isa::{DType, Isa};
use crate::layer::Method;
use crate::network::{Network, NetworkBuilder};
use crate::plan::Plan;
use crate::session::{ImageBatch, LayerTime, Session, n_teams};
use crate::tests::{TestRng, epilogue, u8_batch};

const SCALE: [[f32; 256]; 3] = [[0.5; 256]; 3];

/// A network of portable layers of these shapes, with a tap after the last.
fn chain(shapes: &[[usize; 5]]) -> (Network, crate::Tap) {
    let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
    let mut value = builder.input();
    for (index, shape) in shapes.iter().enumerate() {
        let layer = TestRng(2).convolution(*shape);
        let end = epilogue(None, true, DType::F32);
        value = builder.add_convolution(&format!("conv{index}"), value, layer, end).unwrap();
    }
    let tap = builder.add_tap().unwrap();
    (builder.build(), tap)
}

#[test]
fn layers_are_reported_with_method_size_and_macs_and_times_add_up() {
    let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
    let end = epilogue(None, true, DType::F32);
    let add = |builder: &mut NetworkBuilder, name: &str, input, shape| {
        builder.add_convolution(name, input, TestRng(2).convolution(shape), end).unwrap()
    };
    let image = builder.input();
    let value = add(&mut builder, "image", image, [3, 8, 7, 2, 3]);
    let value = builder.add_max_pool("pool", value, 3, 2, 1).unwrap();
    let value = add(&mut builder, "point", value, [8, 16, 1, 1, 0]);
    let value = add(&mut builder, "winograd", value, [16, 16, 3, 1, 1]);
    add(&mut builder, "direct", value, [16, 33, 3, 2, 1]);
    let tap = builder.add_tap().unwrap();
    let mut session = Session::new(Arc::new(builder.build()), 1).unwrap();
    let pixels = vec![7; 2 * 24 * 40 * 3];
    let images = u8_batch(&pixels, 2, 24, 40);
    let mut out = vec![0.0; 2 * 33];
    session.run(images, tap, OutputLayout::Pooled, &mut out).unwrap();
    assert!(session.layer_times().is_empty(), "nothing is timed unless asked for");
    session.set_layer_timing(true);
    assert!(session.layer_times().iter().all(|layer| layer.time == Duration::ZERO));
    session.run(images, tap, OutputLayout::Pooled, &mut out).unwrap();
    let once = session.layer_times();
    let fields = |layer: &'_ LayerTime| {
        (layer.name.clone(), layer.method, layer.size, layer.channels, layer.macs, layer.weight_bytes)
    };
    let found: Vec<_> = once.iter().map(fields).collect();
    // Outputs are padded to 32 (64): panels of 16 outputs x k-blocks x steps x components, in lines of 64
    // bytes.
    let expected = [
        ("image", Some(Method::FirstLayer), (12, 20), 8, 3 * 7 * 7 * 8 * 12 * 20, 2 * 7 * 21 * 64),
        ("pool", None, (6, 10), 8, 0, 0),
        ("point", Some(Method::Pointwise), (6, 10), 16, 8 * 16 * 6 * 10, 2 * 16 * 64),
        ("winograd", Some(Method::Winograd), (6, 10), 16, 16 * 9 * 16 * 6 * 10, 36 * 2 * 16 * 64),
        ("direct", Some(Method::Direct), (3, 5), 33, 16 * 9 * 33 * 3 * 5, 4 * 9 * 16 * 64),
    ];
    assert_eq!(found, expected.map(|(name, a, b, c, d, e)| (name.to_owned(), a, b, c, d, e)));
    assert!(once.iter().all(|layer| layer.time > Duration::ZERO));
    session.run(images, tap, OutputLayout::Pooled, &mut out).unwrap();
    let twice = session.layer_times();
    assert!(twice.iter().zip(&once).all(|(twice, once)| twice.time > once.time));
    session.set_layer_timing(false);
    session.run(images, tap, OutputLayout::Pooled, &mut out).unwrap();
    assert!(session.layer_times().is_empty());
}

#[test]
fn a_session_with_0_threads_runs_on_the_calling_thread() {
    let (network, tap) = chain(&[[3, 8, 3, 2, 1]]);
    let mut session = Session::new(Arc::new(network), 0).unwrap();
    session.run(u8_batch(&[1; 4 * 4 * 3], 1, 4, 4), tap, OutputLayout::Pooled, &mut [0.0; 8]).unwrap();
    assert_eq!(
        format!("{session:?}"),
        r#"Session { network: Network { isa: Portable, precision: F32, nodes: ["conv0"] }, threads: 1, .. }"#
    );
}

/// At least four images per team, and teams of one size.
#[test]
fn threads_are_divided_into_teams_with_enough_images() {
    for (threads, images, expected) in [
        (1, 100, 1),
        (8, 0, 1),
        (8, 3, 1),
        (8, 4, 1),
        (8, 8, 2),
        (8, 31, 4),
        (8, 32, 8),
        (8, 1000, 8),
        (6, 20, 3),
        (7, 24, 1),
        (7, 28, 7),
    ] {
        assert_eq!(n_teams(threads, images), expected, "{threads} threads, {images} images");
    }
}

/// Weights of `[1024, C]`, and a value of one pixel, 64 lines.
#[test]
fn a_stage_with_many_weights_takes_larger_groups() {
    // 64 panels of C lines, C = 32 · k: 2048 · k lines, 32 · k times the value.
    for (channels, expected) in [(32, 2), (48, 3), (112, 7), (128, 8), (256, 8)] {
        let (network, _) = chain(&[[3, channels, 3, 2, 1], [channels, 1024, 1, 1, 0]]);
        assert_eq!(Plan::new(&network, 2, 2).unwrap().stages[0].group_size, expected, "{channels}");
        // 16 pixels, one image.
        assert_eq!(Plan::new(&network, 8, 8).unwrap().stages[0].group_size, 1, "{channels}");
    }
}

/// Two values live at a time, the input and the output of a layer; a direct convolution also needs a copy.
#[test]
fn values_share_memory() {
    let first = [3, 32, 3, 2, 1];
    let arena_lines = |between: &[[usize; 5]]| {
        let shapes = [&[first][..], between, &[[32, 32, 1, 1, 0]]].concat();
        Plan::new(&chain(&shapes).0, 32, 32).unwrap().arena_lines
    };
    let point = [32, 32, 1, 1, 0];
    assert_eq!(arena_lines(&[point; 2]), arena_lines(&[point; 7]));
    assert!(arena_lines(&[point; 2]) > arena_lines(&[]));
    let direct = [32, 32, 5, 1, 2];
    assert_eq!(arena_lines(&[direct; 2]), arena_lines(&[direct; 7]));
    assert!(arena_lines(&[direct; 2]) > arena_lines(&[point; 2]));
}

/// Unless a later layer reads the residual.
#[test]
fn a_sum_overwrites_its_residual() {
    for is_read_later in [false, true] {
        let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
        let end = |residual| epilogue(residual, true, DType::F32);
        let image = builder.input();
        let mut add = |input, shape, residual| {
            builder.add_convolution("layer", input, TestRng(2).convolution(shape), end(residual)).unwrap()
        };
        let shortcut = add(image, [3, 32, 3, 2, 1], None);
        let inside = add(shortcut, [32, 32, 3, 1, 1], None);
        let sum = add(inside, [32, 32, 1, 1, 0], Some(shortcut));
        let last = add(sum, [32, 32, 1, 1, 0], None);
        add(last, [32, 32, 1, 1, 0], is_read_later.then_some(shortcut));
        builder.add_tap().unwrap();
        let plan = Plan::new(&builder.build(), 16, 16).unwrap();
        let planned = &plan.stages[0].planned_nodes;
        assert_eq!(planned[2].output.offset != planned[0].output.offset, is_read_later);
        assert_eq!(planned[2].residual.offset, planned[0].output.offset);
    }
}

/// A ReLU does not hide NaN, with any method of computing a layer.
#[test]
fn nan_propagates_through_every_layer() {
    for config in super::kernel_configs() {
        for shape in [[32, 32, 1, 1, 0], [32, 32, 3, 1, 1], [32, 32, 3, 2, 1]] {
            let mut builder = NetworkBuilder::with_kernels(config.kernels, Isa::Portable, SCALE);
            let image = builder.input();
            let (first_precision, layer_precision) = config.precisions;
            let mut add = |input, shape, precision| {
                let layer = TestRng(2).convolution(shape);
                builder.add_convolution("layer", input, layer, epilogue(None, true, precision)).unwrap()
            };
            let first = add(image, [3, 32, 3, 2, 1], first_precision);
            add(first, shape, layer_precision);
            let tap = builder.add_tap().unwrap();
            let mut values = vec![0.5; 16 * 16 * 3];
            values[3 * (7 * 16 + 7)] = f32::NAN;
            let images = ImageBatch { values: PixelValues::F32(&values), count: 1, height: 16, width: 16 };
            let mut session = Session::new(Arc::new(builder.build()), 1).unwrap();
            let mut out = vec![0.0; 32];
            session.run(images, tap, OutputLayout::Pooled, &mut out).unwrap();
            assert!(out.iter().all(|value| value.is_nan()), "{config:?} {shape:?}: {out:?}");
        }
    }
}
