//! AMX-BF16: multiplication of tile registers of 16 rows by 64 bytes.
//!
//! The intrinsics are not stable, so the instructions are inline assembly. On Linux a process must request
//! permission to use the eight tile registers.

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::{Avx512, Avx512Bf16, Job, Kernel, Simd, Stride, Tile, TileOperands, TileSink, WithKernel};
use crate::cache_line::CacheLine;

/// The kernel for AMX-BF16 in `bf16`: AMX for GEMMs, AVX-512 for everything else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AmxBf16(Avx512Bf16);

impl AmxBf16 {
    /// The kernel if this CPU has AMX-BF16 and the OS permits its use; both are checked once per process.
    pub(crate) fn new() -> Option<Self> {
        static USABLE: OnceLock<bool> = OnceLock::new();
        Avx512Bf16::new().filter(|_| *USABLE.get_or_init(|| is_supported() && request_permission())).map(Self)
    }
}

/// Whether the CPU has AMX-TILE and AMX-BF16, and the OS saves tile registers on a context switch. Reads the
/// feature bits of the instruction CPUID, because the standard library's detection of AMX is not stable.
fn is_supported() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const OSXSAVE: u32 = 1 << 27;
    // Bits 17 and 18 of XCR0: the configuration and the contents of the tile registers.
    const TILES_SAVED: u64 = 1 << 17 | 1 << 18;
    /// The register XCR0: a bit for each part of the CPU state that the OS saves.
    #[target_feature(enable = "xsave")]
    fn read_saved_state() -> u64 {
        // SAFETY: register 0 exists if XSAVE does.
        unsafe { _xgetbv(0) }
    }
    let features = AMX_BF16 | AMX_TILE;
    // CPUID returns its feature bits in numbered leaves.
    let (max_leaf, leaf_1, leaf_7) = (__cpuid(0).eax, __cpuid(1), __cpuid_count(7, 0));
    max_leaf >= 7
        && leaf_7.edx & features == features
        && leaf_1.ecx & OSXSAVE != 0
        // SAFETY: OSXSAVE says that XSAVE is present and enabled.
        && unsafe { read_saved_state() } & TILES_SAVED == TILES_SAVED
}

/// Requests permission for the tile registers, without which their use ends the process:
/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`. Returns whether Linux grants the permission, which
/// holds for all threads of the process, including later ones.
#[cfg(target_os = "linux")]
fn request_permission() -> bool {
    // The number of the system call, and its two arguments.
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the system call touches no memory of the process; it changes rax, rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Not implemented for other systems: AMX counts as absent there.
#[cfg(not(target_os = "linux"))]
fn request_permission() -> bool {
    false
}

/// The operand of the instruction `ldtilecfg`, which sets the sizes of the tile registers. All eight have 16
/// rows of 64 bytes.
#[repr(C, align(64))]
struct TileConfig {
    /// 1: eight tile registers of up to 16 rows of 64 bytes.
    palette: u8,
    /// Where an interrupted load resumes; 0 for a new one.
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each register.
    row_bytes: [u16; 16],
    /// Rows of each register.
    rows: [u8; 16],
}

/// The configuration that all jobs use.
static CONFIG: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Steps in a k-block: a tile register holds the weights of 16 steps.
const STEPS_PER_BLOCK: usize = 16;

/// The sums of a tile of 32 pixels by 32 channels.
#[repr(C, align(64))]
struct SumTile([[f32; 32]; 32]);

impl Kernel for AmxBf16 {
    type Simd = Avx512;
    type Sums = <Avx512Bf16 as Kernel>::Sums;
    type Weights = <Avx512Bf16 as Kernel>::Weights;
    /// 2 x 2 tile registers of sums, two of activations, two of weights: all eight.
    const MAX_ROWS: usize = 32;
    const VECTORS_PER_PANEL: usize = 2;
    const VECTORS_PER_LINE: usize = 2;
    const MULTIPLIES_WHOLE_TILES: bool = true;
    /// Direct multiplication costs less than the transforms.
    const PREFERS_WINOGRAD: bool = false;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0.simd()
    }

    /// Runs `job` with this kernel, with the tile registers configured, inside a function that is compiled
    /// for AVX512-BF16. No target feature for AMX is needed: its instructions are inline assembly.
    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) {
        /// Runs a job with the tile registers configured, and releases them afterwards.
        struct WithTileConfig<J>(J);
        impl<J: Job> Job for WithTileConfig<J> {
            /// Sets the sizes of this thread's tile registers, runs the job, and releases the registers.
            #[inline(always)]
            fn run<K: Kernel>(self, kernel: K) {
                // SAFETY: only an `AmxBf16` runs this, which exists only if AMX is present and permitted.
                unsafe {
                    asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly));
                    self.0.run(kernel);
                    asm!("tilerelease", options(nostack, nomem));
                }
            }
        }
        self.0.vectorize(WithKernel { kernel: self, job: WithTileConfig(job) });
    }

    #[inline(always)]
    unsafe fn load_part(self, src: *const CacheLine, part: usize) -> __m512 {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.0.load_part(src, part) }
    }

    #[inline(always)]
    unsafe fn store_part(self, dst: *mut CacheLine, part: usize, vector: __m512) {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.0.store_part(dst, part, vector) }
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        self.0.zero_sums()
    }

    #[inline(always)]
    unsafe fn load_weights(self, src: *const CacheLine) -> Self::Weights {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.0.load_weights(src) }
    }

    /// One step of a GEMM for one pixel, with AVX512-BF16. The trait requires it, but the GEMMs of this
    /// kernel do not take single steps: they call [`compute_tile`](Self::compute_tile).
    #[inline(always)]
    unsafe fn multiply_accumulate(
        self,
        sums: Self::Sums,
        activations: *const u8,
        weights: Self::Weights,
    ) -> Self::Sums {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.0.multiply_accumulate(sums, activations, weights) }
    }

    /// Computes and stores a tile of a GEMM, `rows` (up to 32) pixels by 32 output channels: accumulates the
    /// sums in 2 x 2 tile registers of 16 pixels by 16 channels, then stores them pixel by pixel. It loads
    /// whole registers, and so reads up to 31 pixels past the tile: for this the arena has
    /// [`READ_SLACK`](crate::plan::READ_SLACK) lines at its end.
    #[inline(always)]
    unsafe fn compute_tile<S: Stride>(self, rows: usize, tile: &Tile<'_>) {
        let &TileOperands { activations, offsets, steps, mut weights } = &tile.operands;
        debug_assert_eq!(steps, STEPS_PER_BLOCK);
        // Activations are addressed in bytes, weights in cache lines.
        let mut sum_tile = SumTile([[0.0; 32]; 32]);
        let weights_stride = Self::VECTORS_PER_PANEL * CacheLine::BYTES;
        // SAFETY: weights and activations are valid as `Tile` requires, with the plan's slack after them;
        // `vectorize` has configured the registers; `sum_tile` holds four registers of 16 rows, 128 bytes
        // apart.
        unsafe {
            // Sums: `tmm0` and `tmm1` of the first 16 pixels, `tmm2` and `tmm3` of the others. Activations:
            // `tmm4` and `tmm5`. Weights of the first and last 16 channels: `tmm6` and `tmm7`.
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
            // A k-block at a time: 16 steps, of two `bf16` activations of each pixel and their weights.
            for &offset in offsets {
                let activations = activations.add(offset);
                asm!(
                    "tileloadd tmm4, [{activations} + {stride} * 1]",
                    "tileloadd tmm6, [{weights} + {weights_stride} * 1]",
                    "tileloadd tmm7, [{weights} + {weights_stride} * 1 + 64]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    activations = in(reg) activations,
                    stride = in(reg) S::BYTES,
                    weights = in(reg) weights,
                    weights_stride = in(reg) weights_stride,
                    options(nostack, readonly),
                );
                if rows > 16 {
                    asm!(
                        "tileloadd tmm5, [{activations} + {stride} * 1]",
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tdpbf16ps tmm3, tmm5, tmm7",
                        activations = in(reg) activations.add(16 * S::BYTES),
                        stride = in(reg) S::BYTES,
                        options(nostack, readonly),
                    );
                }
                weights = weights.add(STEPS_PER_BLOCK * Self::VECTORS_PER_PANEL);
            }
            asm!(
                "tilestored [{upper} + {stride} * 1], tmm0",
                "tilestored [{upper} + {stride} * 1 + 64], tmm1",
                "tilestored [{lower} + {stride} * 1], tmm2",
                "tilestored [{lower} + {stride} * 1 + 64], tmm3",
                upper = in(reg) &raw mut sum_tile,
                lower = in(reg) &raw mut sum_tile.0[16],
                stride = in(reg) size_of::<[f32; 32]>(),
                options(nostack),
            );
            for (row, sums) in sum_tile.0.iter().enumerate().take(rows) {
                let sums = [self.simd().load(sums.as_ptr()), self.simd().load(sums.as_ptr().add(16))];
                tile.write_row(self, row, &sums);
            }
        }
    }
}
