//! Detection of the CPU's instruction sets at run time, and the choice of one.

use crate::dispatch::{KernelSet, NOT_SUPPORTED};
use crate::error::EngineError;
use crate::isa::{DType, ISA_VARIABLE, Isa};

impl Isa {
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

    /// Whether this CPU supports the instruction set: whether its kernels can be constructed.
    #[must_use]
    pub fn is_present(self) -> bool {
        KernelSet::new(self).is_ok()
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
                    "this CPU has no bf16 arithmetic (AVX512-BF16 or AMX-BF16): use the precision f32"
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
