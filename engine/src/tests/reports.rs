//! What is told of layers, and how work is divided: nothing of it changes what comes out.

use std::sync::Arc;
use std::time::Duration;

use crate::image::PixelValues;
use crate::isa::{Isa, Precision};
use crate::layer::Method;
use crate::network::{Network, NetworkBuilder};
use crate::plan::Plan;
use crate::session::{ImageBatch, OutputLayout, Session, n_teams};
use crate::tests::{TestRng, epilogue};

const SCALE: [[f32; 256]; 3] = [[0.5; 256]; 3];

/// Portable layers of these shapes one after the other, and a tap after the last.
fn chain(shapes: &[[usize; 5]]) -> (Network, crate::Tap) {
    let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
    let mut value = builder.input();
    for (index, shape) in shapes.iter().enumerate() {
        let layer = TestRng(2).convolution(*shape);
        let end = epilogue(None, true, Precision::F32);
        value = builder.add_convolution(&format!("conv{index}"), value, layer, end).unwrap();
    }
    let tap = builder.add_tap().unwrap();
    (builder.build(), tap)
}

#[test]
fn each_layer_is_reported_with_its_method_size_and_products_and_times_add_up() {
    let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
    let end = epilogue(None, true, Precision::F32);
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
    let photos = ImageBatch { values: PixelValues::U8(&pixels), count: 2, height: 24, width: 40 };
    let mut out = vec![0.0; 2 * 33];
    session.run(photos, tap, OutputLayout::Pooled, &mut out).unwrap();
    assert!(session.layer_times().is_empty(), "nothing is timed unless asked for");
    session.set_layer_timing(true);
    assert!(session.layer_times().iter().all(|layer| layer.time == Duration::ZERO));
    session.run(photos, tap, OutputLayout::Pooled, &mut out).unwrap();
    let once = session.layer_times();
    let told: Vec<_> = once
        .iter()
        .map(|layer| {
            (layer.name.as_str(), layer.method, layer.size, layer.channels, layer.macs, layer.weight_bytes)
        })
        .collect();
    // Packed for 32 outputs (64), 16 channels of `f32` to a cell of 64 bytes: panels of 16 x segments x steps x points.
    let expected = [
        ("image", Some(Method::Image), (12, 20), 8, 3 * 7 * 7 * 8 * 12 * 20, 2 * 7 * 21 * 64),
        ("pool", None, (6, 10), 8, 0, 0),
        ("point", Some(Method::Pointwise), (6, 10), 16, 8 * 16 * 6 * 10, 2 * 16 * 64),
        ("winograd", Some(Method::Winograd), (6, 10), 16, 16 * 9 * 16 * 6 * 10, 36 * 2 * 16 * 64),
        ("direct", Some(Method::Direct), (3, 5), 33, 16 * 9 * 33 * 3 * 5, 4 * 9 * 16 * 64),
    ];
    assert_eq!(told, expected);
    assert!(once.iter().all(|layer| layer.time > Duration::ZERO));
    session.run(photos, tap, OutputLayout::Pooled, &mut out).unwrap();
    let twice = session.layer_times();
    assert!(twice.iter().zip(&once).all(|(twice, once)| twice.time > once.time));
    session.set_layer_timing(false);
    session.run(photos, tap, OutputLayout::Pooled, &mut out).unwrap();
    assert!(session.layer_times().is_empty());
}

#[test]
fn a_session_without_threads_is_the_callers_own() {
    let (network, tap) = chain(&[[3, 8, 3, 2, 1]]);
    let mut session = Session::new(Arc::new(network), 0).unwrap();
    let photos = ImageBatch { values: PixelValues::U8(&[1; 4 * 4 * 3]), count: 1, height: 4, width: 4 };
    session.run(photos, tap, OutputLayout::Pooled, &mut [0.0; 8]).unwrap();
    assert_eq!(
        format!("{session:?}"),
        r#"Session { network: Network { isa: Portable, precision: F32, nodes: ["conv0"] }, threads: 1, .. }"#
    );
}

/// As many as have four photos each, of one size each.
#[test]
fn threads_are_divided_into_teams_that_have_photos_enough() {
    for (threads, photos, expected) in [
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
        assert_eq!(n_teams(threads, photos), expected, "{threads} threads, {photos} photos");
    }
}

/// Weights of `[1024, C]` beside a value of one pixel, 64 cells.
#[test]
fn a_segment_with_many_weights_beside_its_values_takes_more_photos_at_a_time() {
    // 64 panels of C cells, C = 32 · k: 2048 · k cells, and 32 · k times the value.
    for (channels, expected) in [(32, 2), (48, 3), (112, 7), (128, 8), (256, 8)] {
        let (network, _) = chain(&[[3, channels, 3, 2, 1], [channels, 1024, 1, 1, 0]]);
        assert_eq!(Plan::new(&network, 2, 2).unwrap().stages[0].group_size, expected, "{channels}");
        // 16 times the value, one photo.
        assert_eq!(Plan::new(&network, 8, 8).unwrap().stages[0].group_size, 1, "{channels}");
    }
}

/// Two values live at a time, the one that is read and the one that is written; a copy for a product is a third.
#[test]
fn values_take_each_others_place() {
    let first = [3, 32, 3, 2, 1];
    let cells = |between: &[[usize; 5]]| {
        let shapes = [&[first][..], between, &[[32, 32, 1, 1, 0]]].concat();
        Plan::new(&chain(&shapes).0, 32, 32).unwrap().arena_lines
    };
    let point = [32, 32, 1, 1, 0];
    assert_eq!(cells(&[point; 2]), cells(&[point; 7]));
    assert!(cells(&[point; 2]) > cells(&[]));
    let direct = [32, 32, 5, 1, 2];
    assert_eq!(cells(&[direct; 2]), cells(&[direct; 7]));
    assert!(cells(&[direct; 2]) > cells(&[point; 2]));
}

/// A sum is written where what is added to it lay, if nobody reads that any more.
#[test]
fn a_sum_takes_the_place_of_what_is_added() {
    for is_read_later in [false, true] {
        let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
        let end = |residual| epilogue(residual, true, Precision::F32);
        let image = builder.input();
        let mut add = |input, shape, residual| {
            builder.add_convolution("layer", input, TestRng(2).convolution(shape), end(residual)).unwrap()
        };
        let around = add(image, [3, 32, 3, 2, 1], None);
        let inside = add(around, [32, 32, 3, 1, 1], None);
        let sum = add(inside, [32, 32, 1, 1, 0], Some(around));
        let last = add(sum, [32, 32, 1, 1, 0], None);
        add(last, [32, 32, 1, 1, 0], is_read_later.then_some(around));
        builder.add_tap().unwrap();
        let plan = Plan::new(&builder.build(), 16, 16).unwrap();
        let steps = &plan.stages[0].steps;
        assert_eq!(steps[2].output.offset != steps[0].output.offset, is_read_later);
        assert_eq!(steps[2].residual.offset, steps[0].output.offset);
    }
}

/// What is not a number is not hidden behind a ReLU, in any way that a layer is computed.
#[test]
fn what_is_not_a_number_stays_so_through_every_layer() {
    for way in super::kernel_configs() {
        for shape in [[32, 32, 1, 1, 0], [32, 32, 3, 1, 1], [32, 32, 3, 2, 1]] {
            let mut builder = NetworkBuilder::with_kernels(way.kernels, Isa::Portable, SCALE);
            let image = builder.input();
            let (kept, given) = way.precisions;
            let mut add = |input, shape, precision| {
                let layer = TestRng(2).convolution(shape);
                builder.add_convolution("layer", input, layer, epilogue(None, true, precision)).unwrap()
            };
            let first = add(image, [3, 32, 3, 2, 1], kept);
            add(first, shape, given);
            let tap = builder.add_tap().unwrap();
            let mut values = vec![0.5; 16 * 16 * 3];
            values[3 * (7 * 16 + 7)] = f32::NAN;
            let photos = ImageBatch { values: PixelValues::F32(&values), count: 1, height: 16, width: 16 };
            let mut session = Session::new(Arc::new(builder.build()), 1).unwrap();
            let mut out = vec![0.0; 32];
            session.run(photos, tap, OutputLayout::Pooled, &mut out).unwrap();
            assert!(out.iter().all(|value| value.is_nan()), "{way:?} {shape:?}: {out:?}");
        }
    }
}
