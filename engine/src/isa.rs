//! Instruction sets, detected at run time.

use std::fmt;

use crate::error::EngineError;

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

/// The problem in the error about an instruction set that the CPU lacks.
pub(crate) const NOT_SUPPORTED: &str = "this CPU does not have these instructions";

impl Isa {
    /// All instruction sets, slowest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::AmxBf16];

    /// The instruction set that [`ISA_VARIABLE`] names, or else the fastest that this CPU supports for
    /// `precision`.
    ///
    /// # Errors
    /// [`EngineError::ForcedIsa`] if the variable is invalid or names an instruction set that cannot be used,
    /// [`EngineError::NoBf16`] if this CPU has no `bf16` instructions.
    pub fn choose(precision: DType) -> Result<Self, EngineError> {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the engine's variable")]
        let forced = std::env::var_os(ISA_VARIABLE).filter(|name| !name.is_empty());
        match forced {
            Some(name) => Self::parse_forced(&name.to_string_lossy(), precision, Self::is_present),
            None => Self::fastest(precision),
        }
    }

    /// The fastest instruction set that this CPU supports for `precision`.
    ///
    /// # Errors
    /// [`EngineError::NoBf16`] if this CPU has no `bf16` instructions.
    pub fn fastest(precision: DType) -> Result<Self, EngineError> {
        Self::fastest_where(precision, Self::is_present)
    }

    /// The fastest instruction set for `precision` among those for which `is_present` is true. Tests simulate
    /// CPUs with this argument.
    ///
    /// # Errors
    /// [`EngineError::NoBf16`] if none of them computes in `precision`.
    fn fastest_where(precision: DType, is_present: impl Fn(Self) -> bool) -> Result<Self, EngineError> {
        let fits = |isa: &Self| isa.computes(precision) && is_present(*isa);
        Self::ALL.into_iter().rev().find(fits).ok_or(EngineError::NoBf16)
    }

    /// The instruction set called `name`, the value of [`ISA_VARIABLE`], after checks that the CPU has it and
    /// that it computes in `precision`. The CPU has those for which `is_present` is true; tests simulate CPUs
    /// with this argument.
    ///
    /// # Errors
    /// [`EngineError::ForcedIsa`] if the name is unknown or the instruction set cannot be used for
    /// `precision`.
    fn parse_forced(
        name: &str,
        precision: DType,
        is_present: impl Fn(Self) -> bool,
    ) -> Result<Self, EngineError> {
        let reject = |problem: String| EngineError::ForcedIsa { name: name.to_owned(), problem };
        let isa = Self::ALL.into_iter().find(|isa| isa.as_str() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            reject(format!("unknown instruction set, expected one of: {known}"))
        })?;
        if !is_present(isa) {
            return Err(reject(NOT_SUPPORTED.to_owned()));
        }
        if !isa.computes(precision) {
            return Err(reject(format!("this instruction set has no code for the precision {precision}")));
        }
        Ok(isa)
    }

    /// Whether this CPU supports the instruction set: whether its kernel can be constructed.
    #[must_use]
    pub fn is_present(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use crate::kernels::{AmxBf16, Avx2, Avx512, Avx512Bf16};
            match self {
                Self::Portable => true,
                Self::Avx2 => Avx2::new().is_some(),
                Self::Avx512 => Avx512::new().is_some(),
                Self::Avx512Bf16 => Avx512Bf16::new().is_some(),
                Self::AmxBf16 => AmxBf16::new().is_some(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }

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
    #[cfg(target_os = "linux")]
    #[cfg_attr(miri, ignore = "Miri lacks the CPU's instructions")]
    fn detection_agrees_with_linux() {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let has = |flags: &[&str]| flags.iter().all(|flag| cpu.split_whitespace().any(|word| word == *flag));
        let bf16 = has(&["avx512f", "avx512bw", "avx512_bf16"]);
        for (isa, expected) in [
            (Isa::Portable, true),
            (Isa::Avx2, has(&["avx2", "fma"])),
            (Isa::Avx512, has(&["avx512f"])),
            (Isa::Avx512Bf16, bf16),
            (Isa::AmxBf16, bf16 && has(&["amx_tile", "amx_bf16"])),
        ] {
            assert_eq!(isa.is_present(), expected, "{isa}");
        }
    }

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

    /// On simulated CPUs with the given instruction sets.
    #[test]
    fn the_fastest_is_the_last_supported_one_of_its_precision() {
        use Isa::{AmxBf16, Avx2, Avx512, Avx512Bf16, Portable};
        for (supported, f32, bf16) in [
            (&[Portable][..], Portable, None),
            (&[Portable, Avx2], Avx2, None),
            (&[Portable, Avx2, Avx512], Avx512, None),
            (&[Portable, Avx512], Avx512, None),
            (&[Portable, Avx2, Avx512, Avx512Bf16], Avx512, Some(Avx512Bf16)),
            (&[Portable, Avx2, Avx512, Avx512Bf16, AmxBf16], Avx512, Some(AmxBf16)),
        ] {
            let fastest = |precision| Isa::fastest_where(precision, |isa| supported.contains(&isa));
            assert_eq!(fastest(DType::F32).unwrap(), f32, "{supported:?}");
            match (fastest(DType::Bf16), bf16) {
                (Ok(found), Some(expected)) => assert_eq!(found, expected, "{supported:?}"),
                (Err(error), None) => assert_eq!(
                    error.to_string(),
                    "this CPU has no bf16 arithmetic (AVX512-BF16 or AMX-BF16): set `backbone.precision` to \
                     \"f32\""
                ),
                (found, _) => panic!("{supported:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_forced_instruction_set_is_accepted_or_rejected_with_the_reason() {
        for isa in Isa::ALL {
            let (name, precision) = (isa.as_str(), [DType::F32, DType::Bf16]);
            let [fits, other] =
                if isa.computes(precision[0]) { precision } else { [precision[1], precision[0]] };
            let forced = |precision, is_present: bool| {
                Isa::parse_forced(name, precision, |probed| {
                    assert_eq!(probed, isa);
                    is_present
                })
                .map_err(|error| error.to_string())
            };
            let rejected = |problem: &str| {
                Err(format!(
                    "the environment variable HEADSTOCK_ISA={name} cannot be used: {problem}; unset the \
                     variable to use the fastest instruction set"
                ))
            };
            assert_eq!(forced(fits, true), Ok(isa));
            assert_eq!(forced(fits, false), rejected("this CPU does not have these instructions"));
            let no_code = format!("this instruction set has no code for the precision {other}");
            assert_eq!(forced(other, true), rejected(&no_code));
        }
        for name in ["neon", "AVX2", "avx", " avx2"] {
            let error = Isa::parse_forced(name, DType::F32, |_| true).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "the environment variable HEADSTOCK_ISA={name} cannot be used: unknown instruction set, \
                     expected one of: portable, avx2, avx512, avx512-bf16, amx-bf16; unset the variable to \
                     use the fastest instruction set"
                )
            );
        }
    }
}
