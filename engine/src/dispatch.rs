//! Run-time dispatch to the kernels of an instruction set.

use crate::error::EngineError;
use crate::isa::{DType, Isa, NOT_SUPPORTED};
#[cfg(test)]
use crate::kernels::EmulatedBf16;
#[cfg(all(test, not(target_arch = "x86_64")))]
use crate::kernels::Narrowing;
#[cfg(target_arch = "x86_64")]
use crate::kernels::{AmxBf16, Avx2, Avx512, Avx512Bf16, Narrowing};
use crate::kernels::{Job, Kernel, PortableF32};

/// A kernel that this CPU supports.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AnyKernel {
    PortableF32,
    #[cfg(test)]
    EmulatedNarrowing(Narrowing<PortableF32, EmulatedBf16>),
    #[cfg(test)]
    EmulatedBf16,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx512Narrowing(Narrowing<Avx512, Avx512Bf16>),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
    #[cfg(target_arch = "x86_64")]
    AmxBf16(AmxBf16),
}

/// The kernels that an instruction set uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelSet {
    /// `f32` to `f32`.
    pub(crate) f32: AnyKernel,
    /// `f32` to `bf16`, and `bf16` to `bf16`.
    pub(crate) bf16: Option<(AnyKernel, AnyKernel)>,
}

/// The constants of a kernel that packing and planning need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelLayout {
    /// Maximum number of pixels in a tile.
    pub(crate) rows: usize,
    /// Vectors of 16 output channels in a panel of weights.
    pub(crate) vectors: usize,
    /// Vectors of 16 channels in a cache line of the input.
    pub(crate) parts: usize,
    /// Whether Winograd's algorithm is faster than a direct convolution.
    pub(crate) winograd: bool,
}

impl KernelSet {
    /// The kernels of `isa`.
    ///
    /// # Errors
    /// [`EngineError::UnavailableIsa`] if this CPU does not support `isa`.
    pub(crate) fn new(isa: Isa) -> Result<Self, EngineError> {
        let kernels = match isa {
            Isa::Portable => Some(Self { f32: AnyKernel::PortableF32, bf16: None }),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::new().map(|kernel| Self { f32: AnyKernel::Avx2(kernel), bf16: None }),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::new().map(|kernel| Self { f32: AnyKernel::Avx512(kernel), bf16: None }),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Avx512Bf16::new().map(AnyKernel::Avx512Bf16).and_then(Self::with_bf16),
            #[cfg(target_arch = "x86_64")]
            Isa::AmxBf16 => AmxBf16::new().map(AnyKernel::AmxBf16).and_then(Self::with_bf16),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        };
        kernels.ok_or_else(|| EngineError::UnavailableIsa { isa, problem: NOT_SUPPORTED.to_owned() })
    }

    /// The kernels of an instruction set whose `bf16` kernel is `bf16`: `f32` kernels use AVX-512.
    #[cfg(target_arch = "x86_64")]
    fn with_bf16(bf16: AnyKernel) -> Option<Self> {
        let f32 = Avx512::new()?;
        let f32_to_bf16 = AnyKernel::Avx512Narrowing(Narrowing(f32, Avx512Bf16::new()?));
        Some(Self { f32: AnyKernel::Avx512(f32), bf16: Some((f32_to_bf16, bf16)) })
    }

    /// The kernel for this input and output precision; `bf16` to `f32` is not supported.
    pub(crate) fn for_precisions(&self, input: DType, output: DType) -> Option<AnyKernel> {
        match (input, output) {
            (DType::F32, DType::F32) => Some(self.f32),
            (DType::F32, DType::Bf16) => Some(self.bf16?.0),
            (DType::Bf16, DType::Bf16) => Some(self.bf16?.1),
            (DType::Bf16, DType::F32) => None,
        }
    }
}

/// Evaluates `$body` with the concrete kernel of `$any` as `$kernel`.
macro_rules! with_kernel {
    ($any:expr, $kernel:ident => $body:expr) => {
        match $any {
            AnyKernel::PortableF32 => {
                let $kernel = PortableF32;
                $body
            }
            #[cfg(test)]
            AnyKernel::EmulatedNarrowing($kernel) => $body,
            #[cfg(test)]
            AnyKernel::EmulatedBf16 => {
                let $kernel = EmulatedBf16;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            AnyKernel::Avx2($kernel) => $body,
            #[cfg(target_arch = "x86_64")]
            AnyKernel::Avx512($kernel) => $body,
            #[cfg(target_arch = "x86_64")]
            AnyKernel::Avx512Narrowing($kernel) => $body,
            #[cfg(target_arch = "x86_64")]
            AnyKernel::Avx512Bf16($kernel) => $body,
            #[cfg(target_arch = "x86_64")]
            AnyKernel::AmxBf16($kernel) => $body,
        }
    };
}

impl AnyKernel {
    /// Runs `job` with this kernel.
    pub(crate) fn run<J: Job>(self, job: J) {
        with_kernel!(self, kernel => kernel.vectorize(job));
    }

    /// Runs `job` with this kernel, which must be an `f32` to `f32` kernel. The job is compiled for no other
    /// kernel.
    pub(crate) fn run_f32<J: Job>(self, job: J) {
        match self {
            Self::PortableF32 => PortableF32.vectorize(job),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(kernel) => kernel.vectorize(job),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(kernel) => kernel.vectorize(job),
            #[cfg(any(test, target_arch = "x86_64"))]
            _ => unreachable!("{self:?} is not an f32 kernel"),
        }
    }

    /// The constants of this kernel.
    pub(crate) fn layout(self) -> KernelLayout {
        fn kernel_layout<K: Kernel>(_: K) -> KernelLayout {
            KernelLayout { rows: K::ROWS, vectors: K::VECTORS, parts: K::PARTS, winograd: K::WINOGRAD }
        }
        with_kernel!(self, kernel => kernel_layout(kernel))
    }
}
