//! Products on every kernel that the machine has, beside naive sums in `f64`.

use crate::isa::{Isa, Precision};
use crate::tests::TestRng;
use crate::training::winograd::BlockSizes;
use crate::training::{ConvOps, ConvShape, ScaledWeights, TrainEpilogue};

/// Calls `act` with the number of an output, an input and a weight for each product of the definition.
fn for_each_product(shape: &ConvShape, mut act: impl FnMut(usize, usize, usize)) {
    let ConvShape { batch: photos, height, width, inputs, outputs, kernel, stride, padding } = *shape;
    let [out_height, out_width] = shape.output_size();
    for (photo, y, x) in
        (0..photos).flat_map(|n| (0..out_height).flat_map(move |y| (0..out_width).map(move |x| (n, y, x))))
    {
        for (tap_y, tap_x) in (0..kernel).flat_map(|y| (0..kernel).map(move |x| (y, x))) {
            let (row, column) =
                ((y * stride + tap_y).wrapping_sub(padding), (x * stride + tap_x).wrapping_sub(padding));
            if row >= height || column >= width {
                continue;
            }
            for (c, o) in (0..inputs).flat_map(|c| (0..outputs).map(move |o| (c, o))) {
                let output = ((photo * out_height + y) * out_width + x) * outputs + o;
                let input = ((photo * height + row) * width + column) * inputs + c;
                act(output, input, ((tap_y * kernel + tap_x) * inputs + c) * outputs + o);
            }
        }
    }
}

fn assert_near(ours: &[f32], expected: &[f64], what: &str) {
    assert_eq!(ours.len(), expected.len());
    let largest = expected.iter().fold(0f64, |top, x| top.max(x.abs()));
    let gap = ours
        .iter()
        .zip(expected)
        .map(|(a, b)| (f64::from(*a) - b).abs())
        .fold(0f64, |top, gap| if gap.is_nan() { f64::INFINITY } else { top.max(gap) });
    assert!(gap <= 1e-5 * largest.max(1e-3), "{what}: off by {gap:e} of {largest:e}");
}

const SHAPES: [[usize; 8]; 15] = [
    // photos, height, width, inputs, outputs, kernel, stride, padding
    [2, 5, 4, 16, 32, 1, 1, 0],
    [1, 1, 1, 7, 3, 1, 1, 0],
    [2, 7, 6, 20, 37, 3, 1, 1],
    [1, 9, 8, 33, 18, 3, 2, 1],
    [2, 8, 8, 64, 64, 3, 2, 1],
    [2, 7, 9, 16, 48, 1, 2, 0],
    [1, 21, 18, 3, 10, 7, 2, 3],
    [3, 2, 2, 128, 96, 3, 1, 1],
    [1, 1, 5, 17, 16, 3, 2, 1],
    [2, 6, 7, 5, 4, 5, 3, 2],
    [1, 60, 61, 8, 16, 3, 1, 1],
    [1, 4, 4, 2, 550, 3, 1, 0],
    // At Winograd's points.
    [2, 7, 7, 32, 48, 3, 1, 1],
    [5, 9, 14, 80, 16, 3, 1, 1],
    [40, 4, 3, 16, 32, 3, 1, 1],
];

fn shapes() -> impl Iterator<Item = ConvShape> {
    SHAPES.into_iter().filter(|shape| !cfg!(miri) || shape.iter().product::<usize>() < 20_000).map(
        |[photos, height, width, inputs, outputs, kernel, stride, padding]| ConvShape {
            batch: photos,
            height,
            width,
            inputs,
            outputs,
            kernel,
            stride,
            padding,
        },
    )
}

/// On each, with much and with little done at a time; the portable one is always there.
fn conv_ops() -> impl Iterator<Item = (Isa, ConvOps)> {
    let here = Isa::ALL.into_iter().filter(|isa| isa.is_present() && isa.computes(Precision::F32));
    let little =
        BlockSizes { kernel_bytes: 1, thread_bytes: 1, thread_tiles: [3, 3], set_bytes: 1, set_tiles: 5 };
    here.flat_map(move |isa| {
        [BlockSizes::default(), little]
            .map(|limits| (isa, ConvOps { block_sizes: limits, ..ConvOps::new(isa).unwrap() }))
    })
}

fn many(numbers: &mut TestRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| numbers.next()).collect()
}

fn lengths(shape: &ConvShape) -> (usize, usize, usize) {
    let [height, width] = shape.output_size();
    (
        shape.batch * shape.height * shape.width * shape.inputs,
        shape.batch * height * width * shape.outputs,
        shape.kernel * shape.kernel * shape.inputs * shape.outputs,
    )
}

#[test]
fn convolutions_match_their_definition() {
    for (isa, mut products) in conv_ops() {
        for (number, shape) in shapes().enumerate() {
            let mut numbers = TestRng(number as u64);
            let (of_input, of_output, of_weights) = lengths(&shape);
            let (input, gradient) = (many(&mut numbers, of_input), many(&mut numbers, of_output));
            let (values, scale) = (many(&mut numbers, of_weights), many(&mut numbers, shape.outputs));
            let mut forward = vec![0f64; of_output];
            let mut by_input = vec![0f64; of_input];
            let mut by_weights = vec![0f64; of_weights];
            let mut sums = [vec![0f64; shape.outputs], vec![0f64; shape.outputs]];
            let of = |values: &[f32], at: usize| f64::from(values[at]);
            for_each_product(&shape, |output, at, weight| {
                let (x, w, g) = (of(&input, at), of(&values, weight), of(&gradient, output));
                let s = of(&scale, output % shape.outputs);
                forward[output] += x * w * s;
                by_input[at] += g * w * s;
                by_weights[weight] += g * x * s;
                sums[0][output % shape.outputs] += g * x * w;
            });
            gradient.iter().enumerate().for_each(|(at, g)| sums[1][at % shape.outputs] += f64::from(*g));
            let weights = ScaledWeights { values: &values, scale: Some(&scale) };
            let what = |part: &str| format!("{isa}, {shape:?}, {part}");

            let mut out = vec![f32::NAN; of_output];
            products.forward(&shape, &input, weights, TrainEpilogue::default(), &mut out).unwrap();
            assert_near(&out, &forward, &what("forward"));
            let mut out = vec![f32::NAN; of_input];
            products.backward_input(&shape, &gradient, weights, TrainEpilogue::default(), &mut out).unwrap();
            assert_near(&out, &by_input, &what("by input"));
            let mut out = vec![f32::NAN; of_weights];
            let found =
                products.backward_weights(&shape, &input, &gradient, weights, false, &mut out).unwrap();
            assert_near(&out, &by_weights, &what("by weights"));
            assert_near(&found.scale, &sums[0], &what("products"));
            assert_near(&found.bias, &sums[1], &what("gradients"));
            products.backward_weights(&shape, &input, &gradient, weights, true, &mut out).unwrap();
            by_weights.iter_mut().for_each(|x| *x *= 2.0);
            assert_near(&out, &by_weights, &what("by weights, twice"));
        }
    }
}

#[test]
fn the_epilogue_is_applied_in_order() {
    for (isa, mut products) in conv_ops() {
        for (number, shape) in shapes().enumerate() {
            let mut numbers = TestRng(number as u64);
            let (of_input, of_output, of_weights) = lengths(&shape);
            let (input, gradient) = (many(&mut numbers, of_input), many(&mut numbers, of_output));
            let values = many(&mut numbers, of_weights);
            let weights = ScaledWeights { values: &values, scale: None };
            let (mut forward, mut by_input) = (vec![0.0; of_output], vec![0.0; of_input]);
            products.forward(&shape, &input, weights, TrainEpilogue::default(), &mut forward).unwrap();
            products
                .backward_input(&shape, &gradient, weights, TrainEpilogue::default(), &mut by_input)
                .unwrap();
            for (backward, plain) in [(false, &forward), (true, &by_input)] {
                let channels = if backward { shape.inputs } else { shape.outputs };
                let (other, mut mask) = (many(&mut numbers, plain.len()), many(&mut numbers, plain.len()));
                // A ReLU that gave 0 passes nothing on, whatever the sign of that 0.
                mask.iter_mut().skip(1).step_by(5).for_each(|value| *value = 0.0);
                mask.iter_mut().skip(3).step_by(7).for_each(|value| *value = -0.0);
                let (bias, there) = (many(&mut numbers, channels), many(&mut numbers, plain.len()));
                let there: Vec<f32> =
                    there.iter().zip(&mask).map(|(x, m)| if *m > 0.0 { *x } else { 0.0 }).collect();
                for combination in 0..32 {
                    let has = |bit: u32| combination >> bit & 1 == 1;
                    let finish = TrainEpilogue {
                        accumulate: has(0),
                        bias: has(1).then_some(&bias),
                        addend: has(2).then_some(&other),
                        relu: has(3),
                        mask: has(4).then_some(&mask),
                    };
                    let mut out = there.clone();
                    if backward {
                        products.backward_input(&shape, &gradient, weights, finish, &mut out).unwrap();
                    } else {
                        products.forward(&shape, &input, weights, finish, &mut out).unwrap();
                    }
                    let expected: Vec<f64> = (0..plain.len())
                        .map(|at| {
                            let mut sum = f64::from(plain[at]);
                            sum += if has(0) { f64::from(there[at]) } else { 0.0 };
                            sum += if has(1) { f64::from(bias[at % channels]) } else { 0.0 };
                            sum += if has(2) { f64::from(other[at]) } else { 0.0 };
                            let sum = if has(3) { sum.max(0.0) } else { sum };
                            if has(4) && mask[at] <= 0.0 { 0.0 } else { sum }
                        })
                        .collect();
                    assert_near(&out, &expected, &format!("{isa}, {shape:?}, {finish:?}"));
                }
            }
        }
    }
}

/// Sums are cut where sizes say.
#[test]
fn results_are_bit_identical_on_any_number_of_threads() {
    let shape = ConvShape {
        batch: 3,
        height: 40,
        width: 37,
        inputs: 24,
        outputs: 40,
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    let at_points = ConvShape { batch: 5, inputs: 48, outputs: 32, height: 11, width: 7, stride: 1, ..shape };
    // More positions than a slice has, of few weights: with more threads there are more chunks of outputs.
    let in_slices = ConvShape {
        batch: 1,
        height: 60,
        width: 61,
        inputs: 4,
        outputs: 150,
        kernel: 1,
        stride: 1,
        padding: 0,
    };
    for (shape, (_, mut products)) in
        [shape, at_points, in_slices].into_iter().flat_map(|s| conv_ops().map(move |k| (s, k)))
    {
        let mut on_threads = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut numbers = TestRng(7);
            let (of_input, of_output, of_weights) = lengths(&shape);
            let (input, gradient) = (many(&mut numbers, of_input), many(&mut numbers, of_output));
            let values = many(&mut numbers, of_weights);
            let weights = ScaledWeights { values: &values, scale: None };
            let mut outs = [vec![0.0; of_output], vec![0.0; of_input], vec![0.0; of_weights]];
            let sums = pool.install(|| {
                products.forward(&shape, &input, weights, TrainEpilogue::default(), &mut outs[0]).unwrap();
                products
                    .backward_input(&shape, &gradient, weights, TrainEpilogue::default(), &mut outs[1])
                    .unwrap();
                products.backward_weights(&shape, &input, &gradient, weights, false, &mut outs[2]).unwrap()
            });
            (outs, sums)
        };
        let one = on_threads(1);
        assert!(on_threads(2) == one && on_threads(5) == one);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let shape =
        ConvShape { batch: 1, height: 4, width: 4, inputs: 2, outputs: 3, kernel: 3, stride: 1, padding: 1 };
    let mut products = ConvOps::new(Isa::fastest(Precision::F32).unwrap()).unwrap();
    let weights = ScaledWeights { values: &[0.0; 54], scale: None };
    let mut out = [0.0; 48];
    let finish = TrainEpilogue { bias: Some(&[1.0; 2]), ..TrainEpilogue::default() };
    for (input, finish, reason) in [
        (&[0.0; 31][..], TrainEpilogue::default(), "input has 31 values, not 32"),
        (&[0.0; 32], finish, "bias has 2 values, not 3"),
    ] {
        let error = products.forward(&shape, input, weights, finish, &mut out).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let nothing = ConvShape { kernel: 7, ..shape };
    let error =
        products.forward(&nothing, &[0.0; 32], weights, TrainEpilogue::default(), &mut out).unwrap_err();
    assert!(error.to_string().contains("no position"), "{error}");
}
