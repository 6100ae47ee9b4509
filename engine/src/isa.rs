//! Instruction sets and data types.

use std::fmt;

/// Data type of values and weights in memory. Sums are always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floating point.
    F32,
    /// bfloat16, the upper half of an `f32`.
    Bf16,
}

impl DType {
    /// How many vectors of 16 channels a cache line of 64 bytes holds: 1 in `f32`, 2 in `bf16`.
    pub(crate) fn vectors_per_line(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// An instruction set that the engine has kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust for any target; `f32` only.
    Portable,
    /// AVX2 with FMA; `f32` only.
    Avx2,
    /// AVX-512 F; `f32` only.
    Avx512,
    /// AVX512-BF16 dot products; AVX-512 for layers in `f32`.
    Avx512Bf16,
    /// AMX-BF16 tile products; AVX-512 for everything else.
    AmxBf16,
}

/// Environment variable that forces an instruction set by name (see [`Isa::as_str`]), for tests and
/// benchmarks. It is an error if the CPU does not support it or it has no kernels for the requested
/// precision.
pub const ISA_VARIABLE: &str = "HEADSTOCK_ISA";

impl Isa {
    /// All instruction sets, slowest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::AmxBf16];

    /// Whether the instruction set is for networks of `precision`; each is for one of the two.
    #[must_use]
    pub fn computes(self, precision: DType) -> bool {
        let is_bf16 = matches!(self, Self::Avx512Bf16 | Self::AmxBf16);
        is_bf16 == (precision == DType::Bf16)
    }

    /// Name of the instruction set in messages and in [`ISA_VARIABLE`]: `portable`, `avx2`, `avx512`,
    /// `avx512-bf16` or `amx-bf16`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::AmxBf16 => "amx-bf16",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for DType {
    /// Writes the name of the data type, as in messages and in the config.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instruction_set_computes_in_one_precision() {
        for (isa, precision) in [
            (Isa::Portable, DType::F32),
            (Isa::Avx2, DType::F32),
            (Isa::Avx512, DType::F32),
            (Isa::Avx512Bf16, DType::Bf16),
            (Isa::AmxBf16, DType::Bf16),
        ] {
            for other in [DType::F32, DType::Bf16] {
                assert_eq!(isa.computes(other), other == precision, "{isa} {other}");
            }
        }
    }
}
