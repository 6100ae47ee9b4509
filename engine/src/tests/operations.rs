//! The operations of each instruction set against scalar ones.

use half::bf16;

use crate::cache_line::CacheLine;
use crate::dispatch::AnyKernel;
use crate::kernels::{Job, Kernel, Simd, Vector};
use crate::tests::{TestRng, kernel_configs};

/// Every kernel available here, and the emulated ones.
fn kernels() -> Vec<AnyKernel> {
    let all_kernels = |config: super::KernelConfig| {
        let bf16 = config.kernels.bf16.map(|(narrowing, bf16)| [narrowing, bf16]);
        [config.kernels.f32].into_iter().chain(bf16.into_iter().flatten())
    };
    kernel_configs().into_iter().flat_map(all_kernels).collect()
}

/// Zeros of both signs, numbers near them, infinities and NaN.
const EDGES: [f32; 14] = [
    0.0,
    -0.0,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    1e-40,
    -1e-40,
    1.5,
    -1.5,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    3.0,
];

/// Equal to the bit, or both NaN.
fn assert_same(found: f32, expected: f32, label: &str) {
    let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
    assert!(same, "{label}: {found} for {expected}");
}

/// Operations of two vectors.
struct BinaryOps<'a> {
    a: [f32; 16],
    b: [f32; 16],
    /// Sum, difference, maximum, and `select_positive`.
    out: &'a mut [[f32; 16]; 4],
}

impl Job for BinaryOps<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        // SAFETY: 16 values each.
        unsafe {
            let (a, b) = (simd.load(self.a.as_ptr()), simd.load(self.b.as_ptr()));
            let found = [simd.add(a, b), simd.sub(a, b), simd.max(a, b), simd.select_positive(a, b)];
            for (out, vector) in self.out.iter_mut().zip(found) {
                simd.store(out.as_mut_ptr(), vector);
            }
        }
    }
}

/// `select_positive` gives 0 for a sign of 0 and -0: PyTorch's gradient of a ReLU there is 0.
#[test]
fn binary_operations_are_the_scalar_ones_for_edge_cases() {
    for kernel in kernels() {
        for a in EDGES {
            for some_edges in EDGES.chunks(7) {
                // The two halves differ.
                let b: [f32; 16] = std::array::from_fn(|lane| some_edges[lane % some_edges.len()]);
                let mut out = [[f32::NAN; 16]; 4];
                kernel.run(BinaryOps { a: [a; 16], b, out: &mut out });
                for lane in 0..16 {
                    let b = b[lane];
                    let label = format!("{kernel:?}, {a} and {b}");
                    assert_same(out[0][lane], a + b, &format!("sum on {label}"));
                    assert_same(out[1][lane], a - b, &format!("difference on {label}"));
                    assert_same(out[2][lane], if a > b { a } else { b }, &format!("max on {label}"));
                    assert_same(out[3][lane], if b > 0.0 { a } else { 0.0 }, &format!("select on {label}"));
                }
            }
        }
    }
}

/// Transposition of 16 vectors, fused multiply-add and splat.
struct VectorOps<'a> {
    vectors: [[f32; 16]; 16],
    transposed: &'a mut [[f32; 16]; 16],
    /// `mul_add` of the first three vectors.
    product: &'a mut [f32; 16],
    splatted: &'a mut [f32; 16],
}

impl Job for VectorOps<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        // SAFETY: 16 values each.
        unsafe {
            let vectors: [Vector<K>; 16] = std::array::from_fn(|i| simd.load(self.vectors[i].as_ptr()));
            for (out, vector) in self.transposed.iter_mut().zip(simd.transpose(vectors)) {
                simd.store(out.as_mut_ptr(), vector);
            }
            let product = simd.mul_add(vectors[0], vectors[1], vectors[2]);
            simd.store(self.product.as_mut_ptr(), product);
            simd.store(self.splatted.as_mut_ptr(), simd.splat(self.vectors[3][4]));
        }
    }
}

#[test]
fn vectors_are_transposed_multiplied_and_splatted() {
    // Small integers, so that products are exact.
    let vectors: [[f32; 16]; 16] =
        std::array::from_fn(|i| std::array::from_fn(|lane| (i * 16 + lane) as f32 - 40.0));
    for kernel in kernels() {
        let (transposed, product) = (&mut [[f32::NAN; 16]; 16], &mut [f32::NAN; 16]);
        let splatted = &mut [f32::NAN; 16];
        kernel.run(VectorOps { vectors, transposed, product, splatted });
        for lane in 0..16 {
            assert!((0..16).all(|i| transposed[lane][i] == vectors[i][lane]), "{kernel:?}");
            let expected = vectors[0][lane] * vectors[1][lane] + vectors[2][lane];
            assert_eq!(product[lane], expected, "{kernel:?}");
        }
        assert_eq!(*splatted, [vectors[3][4]; 16], "{kernel:?}");
    }
}

/// Stores a vector to each part of a cache line and loads it, and stores it to an output line.
struct RoundTrip<'a> {
    values: [f32; 16],
    /// For each part: the bytes of the line, and the values loaded from it.
    stored: &'a mut Vec<([u8; 64], [f32; 16])>,
    layer_output: &'a mut Vec<[u8; 64]>,
}

impl Job for RoundTrip<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        // SAFETY: the line is valid and has these parts.
        unsafe {
            let vector = simd.load(self.values.as_ptr());
            for part in 0..K::VECTORS_PER_LINE {
                let mut line = CacheLine::zeros(1);
                kernel.store_part(line.as_mut_ptr(), part, vector);
                let mut loaded = [f32::NAN; 16];
                simd.store(loaded.as_mut_ptr(), kernel.load_part(line.as_ptr(), part));
                self.stored.push((bytemuck::cast(line[0]), loaded));
            }
            for part in 0..K::OUT_VECTORS_PER_LINE {
                let mut line = CacheLine::zeros(1);
                kernel.store_out_part(line.as_mut_ptr(), part, vector);
                self.layer_output.push(bytemuck::cast(line[0]));
            }
        }
    }
}

/// The bytes of a cache line with `values` in one of its parts, and the values loaded from it.
fn expected_line(values: [f32; 16], part: usize, parts: usize) -> ([u8; 64], [f32; 16]) {
    let mut bytes = [0; 64];
    if parts == 1 {
        bytes.copy_from_slice(bytemuck::cast_slice(&values));
        return (bytes, values);
    }
    let narrow = values.map(bf16::from_f32);
    bytes[32 * part..][..32].copy_from_slice(bytemuck::cast_slice(&narrow));
    (bytes, narrow.map(bf16::to_f32))
}

/// Ties are rounded to even. Subnormal numbers are left out: the instruction flushes them to 0.
#[test]
fn cache_lines_hold_values_rounded_to_nearest() {
    let mut rng = TestRng(21);
    let mut cases: Vec<[f32; 16]> =
        (0..20).map(|i| [(); 16].map(|()| rng.next() * 2f32.powi(7 * i - 70))).collect();
    // Half a unit in the last place above even and odd values, a little more, a little less; and the largest
    // values.
    let halves =
        [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x3f81_7fff, 0xbf80_8000, 0x7f7f_7fff, 0x7f7f_ffff, 0];
    cases.push(std::array::from_fn(|lane| f32::from_bits(halves[lane % 8])));
    cases.push(std::array::from_fn(|lane| [f32::INFINITY, f32::NEG_INFINITY, -0.0][lane % 3]));
    for kernel in kernels() {
        let parts = kernel.layout().vectors_per_line;
        for &values in &cases {
            let (mut stored, mut layer_output) = (Vec::new(), Vec::new());
            kernel.run(RoundTrip { values, stored: &mut stored, layer_output: &mut layer_output });
            let expected: Vec<_> = (0..parts).map(|part| expected_line(values, part, parts)).collect();
            assert!(stored == expected, "{kernel:?}: {values:?}");
            let narrows = parts == 2 || format!("{kernel:?}").contains("Narrowing");
            let parts = if narrows { 2 } else { 1 };
            let expected: Vec<_> = (0..parts).map(|part| expected_line(values, part, parts).0).collect();
            assert!(layer_output == expected, "{kernel:?}: {values:?}");
        }
        let mut stored = Vec::new();
        kernel.run(RoundTrip { values: [f32::NAN; 16], stored: &mut stored, layer_output: &mut Vec::new() });
        assert!(stored.iter().flat_map(|(_, loaded)| loaded).all(|value| value.is_nan()), "{kernel:?}");
    }
}

/// Two steps of a GEMM.
struct TwoSteps<'a> {
    /// 4 bytes per step.
    activations: [[u8; 4]; 2],
    /// The weights of the first step, then those of the second.
    weights: &'a [CacheLine],
    sums: &'a mut Vec<[f32; 16]>,
}

impl Job for TwoSteps<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let mut sums = kernel.zero_sums();
        for (step, activations) in self.activations.iter().enumerate() {
            // SAFETY: 4 bytes, and weights of two steps.
            unsafe {
                let weights = kernel.load_weights(self.weights.as_ptr().add(step * K::VECTORS_PER_PANEL));
                sums = kernel.multiply_accumulate(sums, activations.as_ptr(), weights);
            }
        }
        for vector in sums.as_ref() {
            let mut values = [f32::NAN; 16];
            // SAFETY: 16 values.
            unsafe { kernel.simd().store(values.as_mut_ptr(), *vector) };
            self.sums.push(values);
        }
    }
}

#[test]
fn a_step_adds_the_products_of_each_lane() {
    for kernel in kernels() {
        let layout = kernel.layout();
        // Distinct integers that are exact in `bf16`.
        let weight = |step: usize, vector: usize, lane: usize, part: usize| {
            (step * 90 + vector * 40 + lane * 2 + part) as f32 - 60.0
        };
        let inputs = [[3.0f32, -5.0], [7.0, 2.0]];
        let mut weights = Vec::new();
        for (step, vector) in
            [0, 1].into_iter().flat_map(|s| (0..layout.vectors_per_panel).map(move |v| (s, v)))
        {
            let line: [u8; 64] = if layout.vectors_per_line == 1 {
                bytemuck::cast::<[f32; 16], _>(std::array::from_fn(|lane| weight(step, vector, lane, 0)))
            } else {
                let value = |index: usize| bf16::from_f32(weight(step, vector, index / 2, index % 2));
                bytemuck::cast::<[bf16; 32], _>(std::array::from_fn(value))
            };
            weights.push(bytemuck::cast::<_, CacheLine>(line));
        }
        let activations = inputs.map(|pair| {
            if layout.vectors_per_line == 1 {
                pair[0].to_ne_bytes()
            } else {
                bytemuck::cast(pair.map(bf16::from_f32))
            }
        });
        let mut sums = Vec::new();
        kernel.run(TwoSteps { activations, weights: &weights, sums: &mut sums });
        let expected: Vec<[f32; 16]> = (0..layout.vectors_per_panel)
            .map(|vector| {
                std::array::from_fn(|lane| {
                    let product =
                        |step: usize, part: usize| inputs[step][part] * weight(step, vector, lane, part);
                    (0..2)
                        .map(|step| (0..layout.vectors_per_line).map(|part| product(step, part)).sum::<f32>())
                        .sum()
                })
            })
            .collect();
        assert_eq!(sums, expected, "{kernel:?}");
    }
}
