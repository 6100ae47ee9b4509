//! Which kernel runs, chosen once.

use crate::error::EngineError;
use crate::isa::{Isa, Precision};
#[cfg(test)]
use crate::kernels::EmulatedBf16;
#[cfg(target_arch = "x86_64")]
use crate::kernels::{AmxBf16, Avx2, Avx512, Avx512Bf16};
use crate::kernels::{Job, Kernel, PortableF32};

/// A kernel that this machine has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Machine {
    PortableF32,
    #[cfg(test)]
    EmulatedBf16,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
    #[cfg(target_arch = "x86_64")]
    AmxBf16(AmxBf16),
}

/// What packing and planning need to know of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Pixels in the tallest tile.
    pub(crate) rows: usize,
    /// Vectors of 16 output channels in a panel of weights.
    pub(crate) vectors: usize,
    /// Vectors of 16 channels in a cell.
    pub(crate) parts: usize,
    /// The fewest steps in a segment.
    pub(crate) least_steps: usize,
    /// Whether Winograd's transforms pay.
    pub(crate) winograd: bool,
}

impl Machine {
    /// The kernel of `isa` for `precision`.
    ///
    /// # Errors
    /// [`EngineError::Isa`] when this machine has it not, or it has none for `precision`.
    pub(crate) fn new(isa: Isa, precision: Precision) -> Result<Self, EngineError> {
        let absent = |problem: &str| EngineError::Isa { name: isa.to_string(), problem: problem.to_owned() };
        if !isa.computes(precision) {
            return Err(absent(&format!("it has no kernels for {precision}")));
        }
        let machine = match isa {
            Isa::Portable => Some(Self::PortableF32),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::new().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::new().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Avx512Bf16::new().map(Self::Avx512Bf16),
            #[cfg(target_arch = "x86_64")]
            Isa::AmxBf16 => AmxBf16::new().map(Self::AmxBf16),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        };
        machine.ok_or_else(|| absent("this machine does not have it"))
    }

    /// Runs `job` on it.
    pub(crate) fn run<J: Job>(self, job: J) {
        match self {
            Self::PortableF32 => PortableF32.vectorize(job),
            #[cfg(test)]
            Self::EmulatedBf16 => EmulatedBf16.vectorize(job),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(kernel) => kernel.vectorize(job),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(kernel) => kernel.vectorize(job),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(kernel) => kernel.vectorize(job),
            #[cfg(target_arch = "x86_64")]
            Self::AmxBf16(kernel) => kernel.vectorize(job),
        }
    }

    pub(crate) fn form(self) -> Form {
        fn of<K: Kernel>(_: K) -> Form {
            Form {
                rows: K::ROWS,
                vectors: K::VECTORS,
                parts: K::PARTS,
                least_steps: K::LEAST_STEPS,
                winograd: K::WINOGRAD,
            }
        }
        match self {
            Self::PortableF32 => of(PortableF32),
            #[cfg(test)]
            Self::EmulatedBf16 => of(EmulatedBf16),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(kernel) => of(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(kernel) => of(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(kernel) => of(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::AmxBf16(kernel) => of(kernel),
        }
    }
}
