//! Training convolutions on every kernel that the CPU supports, against naive sums in `f64`.

use crate::isa::{DType, Isa};
use crate::tests::TestRng;
use crate::training::winograd::BlockSizes;
use crate::training::{ConvOps, ConvShape, ScaledWeights, TrainEpilogue, WeightGrad};

/// Calls `visit` with the indices of output, input and weight for each product of the definition.
fn for_each_product(shape: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let ConvShape { batch, height, width, inputs, outputs, kernel, stride, padding } = *shape;
    let [out_height, out_width] = shape.output_size();
    for (image, y, x) in
        (0..batch).flat_map(|n| (0..out_height).flat_map(move |y| (0..out_width).map(move |x| (n, y, x))))
    {
        for (tap_y, tap_x) in (0..kernel).flat_map(|y| (0..kernel).map(move |x| (y, x))) {
            let (row, column) =
                ((y * stride + tap_y).wrapping_sub(padding), (x * stride + tap_x).wrapping_sub(padding));
            if row >= height || column >= width {
                continue;
            }
            for (c, o) in (0..inputs).flat_map(|c| (0..outputs).map(move |o| (c, o))) {
                let output = ((image * out_height + y) * out_width + x) * outputs + o;
                let input = ((image * height + row) * width + column) * inputs + c;
                visit(output, input, ((tap_y * kernel + tap_x) * inputs + c) * outputs + o);
            }
        }
    }
}

/// Checks that the largest error is at most 1e-5 of the largest expected value.
fn assert_near(ours: &[f32], expected: &[f64], label: &str) {
    assert_eq!(ours.len(), expected.len());
    let largest = expected.iter().fold(0f64, |top, x| top.max(x.abs()));
    let gap = ours
        .iter()
        .zip(expected)
        .map(|(a, b)| (f64::from(*a) - b).abs())
        .fold(0f64, |top, gap| if gap.is_nan() { f64::INFINITY } else { top.max(gap) });
    assert!(gap <= 1e-5 * largest.max(1e-3), "{label}: off by {gap:e} of {largest:e}");
}

const SHAPES: [[usize; 8]; 15] = [
    // batch, height, width, inputs, outputs, kernel, stride, padding
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
    // By Winograd's algorithm.
    [2, 7, 7, 32, 48, 3, 1, 1],
    [5, 9, 14, 80, 16, 3, 1, 1],
    [40, 4, 3, 16, 32, 3, 1, 1],
];

fn shape([batch, height, width, inputs, outputs, kernel, stride, padding]: [usize; 8]) -> ConvShape {
    ConvShape { batch, height, width, inputs, outputs, kernel, stride, padding }
}

fn shapes() -> impl Iterator<Item = ConvShape> {
    let sizes = SHAPES.into_iter();
    sizes.filter(|sizes| !cfg!(miri) || sizes.iter().product::<usize>() < 20_000).map(shape)
}

/// Convolutions on each instruction set, with the default and with small blocks.
fn conv_ops() -> impl Iterator<Item = (Isa, ConvOps)> {
    let present = Isa::ALL.into_iter().filter(|isa| isa.is_present() && isa.computes(DType::F32));
    let small =
        BlockSizes { kernel_bytes: 1, thread_bytes: 1, thread_tiles: [3, 3], set_bytes: 1, set_tiles: 5 };
    present.flat_map(move |isa| {
        [BlockSizes::default(), small]
            .map(|block_sizes| (isa, ConvOps { block_sizes, ..ConvOps::new(isa).unwrap() }))
    })
}

fn random(rng: &mut TestRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.next()).collect()
}

/// Number of values of input, output and weights.
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
    for (isa, mut ops) in conv_ops() {
        for (number, shape) in shapes().enumerate() {
            let mut rng = TestRng(number as u64);
            let (input_len, output_len, weights_len) = lengths(&shape);
            let (input, grad_output) = (random(&mut rng, input_len), random(&mut rng, output_len));
            let (values, scale) = (random(&mut rng, weights_len), random(&mut rng, shape.outputs));
            let mut forward = vec![0f64; output_len];
            let mut grad_input = vec![0f64; input_len];
            let mut grad_weight = vec![0f64; weights_len];
            let (mut scale_grad, mut bias_grad) = (vec![0f64; shape.outputs], vec![0f64; shape.outputs]);
            for_each_product(&shape, |i, j, k| {
                let (x, w, g) = (f64::from(input[j]), f64::from(values[k]), f64::from(grad_output[i]));
                let s = f64::from(scale[i % shape.outputs]);
                forward[i] += x * w * s;
                grad_input[j] += g * w * s;
                grad_weight[k] += g * x * s;
                scale_grad[i % shape.outputs] += g * x * w;
            });
            grad_output.iter().enumerate().for_each(|(i, g)| bias_grad[i % shape.outputs] += f64::from(*g));
            let weights = ScaledWeights { values: &values, scale: Some(&scale) };
            let label = |part: &str| format!("{isa}, {shape:?}, {part}");

            let mut out = vec![f32::NAN; output_len];
            ops.forward(&shape, &input, weights, TrainEpilogue::default(), &mut out).unwrap();
            assert_near(&out, &forward, &label("forward"));
            let mut out = vec![f32::NAN; input_len];
            ops.backward_input(&shape, &grad_output, weights, TrainEpilogue::default(), &mut out).unwrap();
            assert_near(&out, &grad_input, &label("input gradient"));
            let mut out = vec![f32::NAN; weights_len];
            let grad = WeightGrad { values: &mut out, accumulate: false };
            let found = ops.backward_weights(&shape, &input, &grad_output, weights, grad).unwrap();
            assert_near(&out, &grad_weight, &label("weight gradient"));
            assert_near(&found.scale, &scale_grad, &label("scale gradient"));
            assert_near(&found.bias, &bias_grad, &label("bias gradient"));
            let grad = WeightGrad { values: &mut out, accumulate: true };
            ops.backward_weights(&shape, &input, &grad_output, weights, grad).unwrap();
            grad_weight.iter_mut().for_each(|x| *x *= 2.0);
            assert_near(&out, &grad_weight, &label("accumulated weight gradient"));
        }
    }
}

#[test]
fn the_epilogue_is_applied_in_order() {
    for (isa, mut ops) in conv_ops() {
        for (number, shape) in shapes().enumerate() {
            let mut rng = TestRng(number as u64);
            let (input_len, output_len, weights_len) = lengths(&shape);
            let (input, grad_output) = (random(&mut rng, input_len), random(&mut rng, output_len));
            let values = random(&mut rng, weights_len);
            let weights = ScaledWeights { values: &values, scale: None };
            let (mut forward, mut backward) = (vec![0.0; output_len], vec![0.0; input_len]);
            ops.forward(&shape, &input, weights, TrainEpilogue::default(), &mut forward).unwrap();
            ops.backward_input(&shape, &grad_output, weights, TrainEpilogue::default(), &mut backward)
                .unwrap();
            for (is_backward, sums) in [(false, &forward), (true, &backward)] {
                let channels = if is_backward { shape.inputs } else { shape.outputs };
                let (addend, mut mask) = (random(&mut rng, sums.len()), random(&mut rng, sums.len()));
                // The gradient of a ReLU whose output is 0 is 0, for both signs of that 0.
                mask.iter_mut().skip(1).step_by(5).for_each(|value| *value = 0.0);
                mask.iter_mut().skip(3).step_by(7).for_each(|value| *value = -0.0);
                let (bias, initial) = (random(&mut rng, channels), random(&mut rng, sums.len()));
                let initial: Vec<f32> =
                    initial.iter().zip(&mask).map(|(x, m)| if *m > 0.0 { *x } else { 0.0 }).collect();
                for combination in 0..32 {
                    let has = |bit: u32| combination >> bit & 1 == 1;
                    let epilogue = TrainEpilogue {
                        accumulate: has(0),
                        bias: has(1).then_some(&bias),
                        addend: has(2).then_some(&addend),
                        relu: has(3),
                        mask: has(4).then_some(&mask),
                    };
                    let mut out = initial.clone();
                    if is_backward {
                        ops.backward_input(&shape, &grad_output, weights, epilogue, &mut out).unwrap();
                    } else {
                        ops.forward(&shape, &input, weights, epilogue, &mut out).unwrap();
                    }
                    let expected: Vec<f64> = (0..sums.len())
                        .map(|i| {
                            let mut sum = f64::from(sums[i]);
                            sum += if has(0) { f64::from(initial[i]) } else { 0.0 };
                            sum += if has(1) { f64::from(bias[i % channels]) } else { 0.0 };
                            sum += if has(2) { f64::from(addend[i]) } else { 0.0 };
                            let sum = if has(3) { sum.max(0.0) } else { sum };
                            if has(4) && mask[i] <= 0.0 { 0.0 } else { sum }
                        })
                        .collect();
                    assert_near(&out, &expected, &format!("{isa}, {shape:?}, {epilogue:?}"));
                }
            }
        }
    }
}

#[test]
fn results_are_bit_identical_on_any_number_of_threads() {
    let direct = shape([3, 40, 37, 24, 40, 3, 2, 1]);
    let winograd = shape([5, 11, 7, 48, 32, 3, 1, 1]);
    // Several slices of positions, with few weights: the number of chunks of outputs depends on the threads.
    let sliced = shape([1, 60, 61, 4, 150, 1, 1, 0]);
    for (shape, (_, mut ops)) in
        [direct, winograd, sliced].into_iter().flat_map(|shape| conv_ops().map(move |ops| (shape, ops)))
    {
        let mut on_threads = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut rng = TestRng(7);
            let (input_len, output_len, weights_len) = lengths(&shape);
            let (input, grad_output) = (random(&mut rng, input_len), random(&mut rng, output_len));
            let values = random(&mut rng, weights_len);
            let (weights, epilogue) =
                (ScaledWeights { values: &values, scale: None }, TrainEpilogue::default());
            let mut outs = [vec![0.0; output_len], vec![0.0; input_len], vec![0.0; weights_len]];
            let grads = pool.install(|| {
                ops.forward(&shape, &input, weights, epilogue, &mut outs[0]).unwrap();
                ops.backward_input(&shape, &grad_output, weights, epilogue, &mut outs[1]).unwrap();
                let grad = WeightGrad { values: &mut outs[2], accumulate: false };
                ops.backward_weights(&shape, &input, &grad_output, weights, grad).unwrap()
            });
            (outs, grads)
        };
        let expected = on_threads(1);
        assert!(on_threads(2) == expected && on_threads(5) == expected);
    }
}

#[test]
fn slices_of_the_wrong_length_are_rejected() {
    let shape = shape([1, 4, 4, 2, 3, 3, 1, 1]);
    let mut ops = ConvOps::new(Isa::fastest(DType::F32).unwrap()).unwrap();
    let weights = ScaledWeights { values: &[0.0; 54], scale: None };
    let mut out = [0.0; 48];
    let default = TrainEpilogue::default();
    for (input, epilogue, reason) in [
        (&[0.0; 31][..], default, "input has 31 values, expected 32"),
        (&[0.0; 32], TrainEpilogue { bias: Some(&[1.0; 2]), ..default }, "bias has 2 values, expected 3"),
    ] {
        let error = ops.forward(&shape, input, weights, epilogue, &mut out).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let too_large = ConvShape { kernel: 7, ..shape };
    let error = ops.forward(&too_large, &[0.0; 32], weights, default, &mut out).unwrap_err();
    assert!(error.to_string().contains("the kernel does not fit the input"), "{error}");
}
