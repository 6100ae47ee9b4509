//! Weights and pixels from a formula that is the same, to the bit, in `reference/backbone/make.py`.

/// Random 64-bit numbers for `name`: SplitMix64 seeded with the FNV-1a hash of the name.
pub(crate) fn draws(name: &str) -> impl Iterator<Item = u64> {
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    (1..).map(move |index: u64| {
        let z = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// Random numbers in [-1, 1) for `name`.
pub(crate) fn uniform(name: &str) -> impl Iterator<Item = f32> {
    draws(name).map(|z| (z >> 40) as f32 / (1 << 23) as f32 - 1.0)
}

/// The values of tensor `name`. The scales of the last BatchNorm of a block (`is_last_norm`) are small.
pub(crate) fn tensor(name: &str, shape: &[usize], is_last_norm: bool) -> Vec<f32> {
    let uniform = uniform(name).take(shape.iter().product());
    if let &[_, inputs, height, width] = shape {
        let bound = (6.0 / (inputs * height * width) as f64).sqrt() as f32;
        uniform.map(|u| u * bound).collect()
    } else if name.ends_with(".weight") {
        let scale = if is_last_norm { 0.125 } else { 1.0 };
        uniform.map(|u| (1.0 + 0.25 * u) * scale).collect()
    } else if name.ends_with(".running_var") {
        uniform.map(|u| 1.0 + 0.5 * u).collect()
    } else {
        uniform.map(|u| 0.125 * u).collect()
    }
}

/// Pixels `[N, H, W, 3]`.
pub(crate) fn pixels(images: usize, height: usize, width: usize) -> Vec<u8> {
    draws("pixels").map(|z| (z >> 56) as u8).take(images * height * width * 3).collect()
}
