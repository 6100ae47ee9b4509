//! Run-time dispatch to the kernels of an instruction set.

use crate::error::EngineError;
use crate::isa::{DType, Isa};
#[cfg(all(test, not(target_arch = "x86_64")))]
use crate::kernels::Narrowing;
#[cfg(target_arch = "x86_64")]
use crate::kernels::{AmxBf16, Avx2, Avx512, Avx512Bf16, Narrowing};
use crate::kernels::{Job, Kernel, PortableF32};
#[cfg(test)]
use crate::tests::emulated::EmulatedBf16;

/// The problem in the error about an instruction set that the CPU lacks.
pub(crate) const NOT_SUPPORTED: &str = "this CPU does not have these instructions";

/// A kernel that this CPU supports, chosen at run time. Each variant is a type that implements [`Kernel`];
/// [`run`](Self::run) passes it to a [`Job`]. *Narrowing* kernels read `f32` and write `bf16`.
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
    /// `f32` to `bf16`, and `bf16` to `bf16`; `None` for an instruction set without `bf16`.
    pub(crate) bf16: Option<(AnyKernel, AnyKernel)>,
}

/// The constants of a [`Kernel`] as values, for packing and planning, which run before a kernel is
/// dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelLayout {
    /// Maximum number of pixels in a tile.
    pub(crate) max_rows: usize,
    /// Vectors of 16 output channels in a panel of weights.
    pub(crate) vectors_per_panel: usize,
    /// Vectors of 16 channels in a cache line of the input: 1 for `f32`, 2 for `bf16`.
    pub(crate) vectors_per_line: usize,
    /// Whether Winograd's algorithm is faster than a direct convolution.
    pub(crate) prefers_winograd: bool,
}

impl KernelSet {
    /// The kernels for a network that runs with the instruction set `isa`: one for layers in `f32`, and two
    /// for layers that write `bf16` if `isa` has that.
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

    /// The kernels of an instruction set with `bf16`: layers that read `bf16` use `bf16_to_bf16`; layers that
    /// read `f32` compute with AVX-512, and those that write `bf16` round with AVX512-BF16. `None` if this
    /// CPU lacks AVX-512 or AVX512-BF16.
    #[cfg(target_arch = "x86_64")]
    fn with_bf16(bf16_to_bf16: AnyKernel) -> Option<Self> {
        let avx512 = Avx512::new()?;
        let narrowing = Narrowing { compute: avx512, store: Avx512Bf16::new()? };
        let bf16 = Some((AnyKernel::Avx512Narrowing(narrowing), bf16_to_bf16));
        Some(Self { f32: AnyKernel::Avx512(avx512), bf16 })
    }

    /// The kernel for a layer that reads values in the precision `input` and writes them in the precision
    /// `output`. `None` from `bf16` to `f32`, which no network needs, and for `bf16` if the instruction set
    /// lacks it.
    pub(crate) fn for_precisions(&self, input: DType, output: DType) -> Option<AnyKernel> {
        match (input, output) {
            (DType::F32, DType::F32) => Some(self.f32),
            (DType::F32, DType::Bf16) => self.bf16.map(|(f32_to_bf16, _)| f32_to_bf16),
            (DType::Bf16, DType::Bf16) => self.bf16.map(|(_, bf16_to_bf16)| bf16_to_bf16),
            (DType::Bf16, DType::F32) => None,
        }
    }
}

/// Evaluates `$body` with the concrete kernel type in the [`AnyKernel`] `$any` as `$kernel`, so that generic
/// code is compiled once per kernel.
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
    /// Runs `job` with this kernel: picks the copy of the job's code that is compiled for it.
    pub(crate) fn run<J: Job>(self, job: J) {
        with_kernel!(self, kernel => kernel.vectorize(job));
    }

    /// Runs `job` with this kernel (an instruction set with a number format), which must be one for `f32`;
    /// panics otherwise. Training uses this instead of [`run`](Self::run): training computes in `f32` only,
    /// so its jobs need not be compiled for the other kernels.
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

    /// The constants of this kernel as values: the pixels of a tile, and the vectors (of 16 channels) of a
    /// panel of weights and of a cache line. Code that packs weights and plans memory needs them, but is not
    /// compiled per kernel.
    pub(crate) fn layout(self) -> KernelLayout {
        /// Reads the constants of the type `K`. The argument only selects the type; its value is not used.
        fn kernel_layout<K: Kernel>(_: K) -> KernelLayout {
            KernelLayout {
                max_rows: K::MAX_ROWS,
                vectors_per_panel: K::VECTORS_PER_PANEL,
                vectors_per_line: K::VECTORS_PER_LINE,
                prefers_winograd: K::PREFERS_WINOGRAD,
            }
        }
        with_kernel!(self, kernel => kernel_layout(kernel))
    }
}
