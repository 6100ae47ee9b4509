//! Instruction sets, told at run time.

use std::fmt;

use crate::error::EngineError;

/// What values and weights are kept in between layers. Sums are always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floating point.
    F32,
    /// bfloat16, the upper half of an `f32`.
    Bf16,
}

impl Precision {
    /// Vectors of 16 channels in a cell.
    pub(crate) fn parts(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// An instruction set for which there are kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Whatever the target has; `f32` only.
    Portable,
    /// AVX2 with FMA; `f32` only.
    Avx2,
    /// AVX-512 F; `f32` only.
    Avx512,
    /// AVX-512 with dot products of `bf16`; `f32` as with AVX-512 where a network asks for it.
    Avx512Bf16,
    /// Tiles of AMX for products of `bf16`; AVX-512 for the rest.
    AmxBf16,
}

/// The variable that forces an instruction set: a name from [`Isa::ALL`]. For tests and comparisons; what the machine lacks
/// is an error, and so is one that cannot compute in the precision asked for.
pub const ISA_VARIABLE: &str = "HEADSTOCK_ISA";

impl Isa {
    /// All there are, slowest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::AmxBf16];

    /// The one [`ISA_VARIABLE`] names, or the fastest that this machine has for `precision`.
    ///
    /// # Errors
    /// [`EngineError::Forced`] when the variable names none or one that is not to be had here,
    /// [`EngineError::NoBf16`] when nothing here computes in `bf16`.
    pub fn choose(precision: Precision) -> Result<Self, EngineError> {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the engine's variable")]
        let forced = std::env::var_os(ISA_VARIABLE).filter(|name| !name.is_empty());
        match forced {
            Some(name) => Self::parse_forced(&name.to_string_lossy(), precision, Self::is_present),
            None => Self::fastest(precision),
        }
    }

    /// The fastest that this machine has for `precision`.
    ///
    /// # Errors
    /// [`EngineError::NoBf16`] when nothing here computes in `bf16`.
    pub fn fastest(precision: Precision) -> Result<Self, EngineError> {
        Self::fastest_where(precision, Self::is_present)
    }

    fn fastest_where(precision: Precision, is_present: impl Fn(Self) -> bool) -> Result<Self, EngineError> {
        let fits = |isa: &Self| isa.computes(precision) && is_present(*isa);
        Self::ALL.into_iter().rev().find(fits).ok_or(EngineError::NoBf16)
    }

    fn parse_forced(
        name: &str,
        precision: Precision,
        is_present: impl Fn(Self) -> bool,
    ) -> Result<Self, EngineError> {
        let reject = |problem: String| EngineError::ForcedIsa { name: name.to_owned(), problem };
        let isa = Self::ALL.into_iter().find(|isa| isa.as_str() == name).ok_or_else(|| {
            reject(format!("there is none of this name; known: {}", Self::ALL.map(Self::as_str).join(", ")))
        })?;
        if !is_present(isa) {
            return Err(reject("this machine does not have it".to_owned()));
        }
        if !isa.computes(precision) {
            return Err(reject(format!("it has no kernels for {precision}")));
        }
        Ok(isa)
    }

    /// Whether this machine has it.
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

    /// Whether it has kernels for `precision`.
    #[must_use]
    pub fn computes(self, precision: Precision) -> bool {
        let bf16 = matches!(self, Self::Avx512Bf16 | Self::AmxBf16);
        bf16 == (precision == Precision::Bf16)
    }

    /// Its name: `portable`, `avx2`, `avx512`, `avx512-bf16`, `amx-bf16`.
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

impl fmt::Display for Precision {
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
    #[cfg_attr(miri, ignore = "Miri has not the machine's instructions")]
    fn agrees_with_the_kernel() {
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
    fn each_computes_in_one_precision() {
        for (isa, precision) in [
            (Isa::Portable, Precision::F32),
            (Isa::Avx2, Precision::F32),
            (Isa::Avx512, Precision::F32),
            (Isa::Avx512Bf16, Precision::Bf16),
            (Isa::AmxBf16, Precision::Bf16),
        ] {
            for other in [Precision::F32, Precision::Bf16] {
                assert_eq!(isa.computes(other), other == precision, "{isa} {other}");
            }
        }
    }

    /// Of machines with each of these, whatever this one has.
    #[test]
    fn the_fastest_is_the_last_of_its_precision_that_a_machine_has() {
        use Isa::{AmxBf16, Avx2, Avx512, Avx512Bf16, Portable};
        for (here, f32, bf16) in [
            (&[Portable][..], Portable, None),
            (&[Portable, Avx2], Avx2, None),
            (&[Portable, Avx2, Avx512], Avx512, None),
            (&[Portable, Avx512], Avx512, None),
            (&[Portable, Avx2, Avx512, Avx512Bf16], Avx512, Some(Avx512Bf16)),
            (&[Portable, Avx2, Avx512, Avx512Bf16, AmxBf16], Avx512, Some(AmxBf16)),
        ] {
            let fastest = |precision| Isa::fastest_where(precision, |isa| here.contains(&isa));
            assert_eq!(fastest(Precision::F32).unwrap(), f32, "{here:?}");
            match (fastest(Precision::Bf16), bf16) {
                (Ok(found), Some(expected)) => assert_eq!(found, expected, "{here:?}"),
                (Err(error), None) => assert_eq!(
                    error.to_string(),
                    "this CPU has no bf16 arithmetic (AVX512-BF16 or AMX-BF16): use f32"
                ),
                (found, _) => panic!("{here:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_forced_one_is_taken_or_refused_with_the_reason() {
        for isa in Isa::ALL {
            let (name, precision) = (isa.as_str(), [Precision::F32, Precision::Bf16]);
            let [fits, other] =
                if isa.computes(precision[0]) { precision } else { [precision[1], precision[0]] };
            let forced = |precision, here: bool| {
                Isa::parse_forced(name, precision, |asked| {
                    assert_eq!(asked, isa);
                    here
                })
                .map_err(|error| error.to_string())
            };
            let refused = |problem: &str| Err(format!("HEADSTOCK_ISA={name} cannot be used: {problem}"));
            assert_eq!(forced(fits, true), Ok(isa));
            assert_eq!(forced(fits, false), refused("this machine does not have it"));
            assert_eq!(forced(other, true), refused(&format!("it has no kernels for {other}")));
        }
        for name in ["neon", "AVX2", "avx", " avx2"] {
            let error = Isa::parse_forced(name, Precision::F32, |_| true).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "HEADSTOCK_ISA={name} cannot be used: there is none of this name; known: portable, avx2, \
                     avx512, avx512-bf16, amx-bf16"
                )
            );
        }
    }
}
