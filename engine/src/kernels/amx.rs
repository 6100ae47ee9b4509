//! AMX-BF16: multiplication of tile registers of 16 rows by 64 bytes.
//!
//! The intrinsics are not stable, so the instructions are inline assembly. On Linux a process must request
//! permission to use the eight tile registers.

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::{Avx512, Avx512Bf16, Job, Kernel, Simd, WithKernel};
use crate::cache_line::CacheLine;
use crate::tile::{Stride, Tile};

/// AMX-BF16 for GEMMs, AVX-512 for everything else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AmxBf16(Avx512Bf16);

impl AmxBf16 {
    pub(crate) fn new() -> Option<Self> {
        static USABLE: OnceLock<bool> = OnceLock::new();
        Avx512Bf16::new().filter(|_| *USABLE.get_or_init(|| is_supported() && request_permission())).map(Self)
    }
}

/// Whether the CPU has AMX-TILE and AMX-BF16, and the OS saves tile registers on a context switch.
fn is_supported() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const OSXSAVE: u32 = 1 << 27;
    const TILES_SAVED: u64 = 1 << 17 | 1 << 18;
    #[target_feature(enable = "xsave")]
    fn saved_state() -> u64 {
        // SAFETY: register 0 exists if XSAVE does.
        unsafe { _xgetbv(0) }
    }
    let features = AMX_BF16 | AMX_TILE;
    let (max_leaf, first, seventh) = (__cpuid(0).eax, __cpuid(1), __cpuid_count(7, 0));
    max_leaf >= 7
        && seventh.edx & features == features
        && first.ecx & OSXSAVE != 0
        // SAFETY: OSXSAVE says that XSAVE is present and enabled.
        && unsafe { saved_state() } & TILES_SAVED == TILES_SAVED
}

/// Requests permission for the tile registers, `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`; returns
/// whether it is granted. It holds for all threads of the process, including later ones.
#[cfg(target_os = "linux")]
fn request_permission() -> bool {
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

/// Not implemented for other systems.
#[cfg(not(target_os = "linux"))]
fn request_permission() -> bool {
    false
}

/// The operand of `ldtilecfg`: all eight tiles have 16 rows of 64 bytes.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

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
    const ROWS: usize = 32;
    const VECTORS: usize = 2;
    const PARTS: usize = 2;
    const WHOLE_TILES: bool = true;
    /// Direct multiplication costs less than the transforms.
    const WINOGRAD: bool = false;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0.simd()
    }

    #[inline(always)]
    fn vectorize<J: Job>(self, job: J) {
        /// Runs a job with the tile registers configured.
        struct WithTileConfig<J>(J);
        impl<J: Job> Job for WithTileConfig<J> {
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
        self.0.vectorize(WithKernel(self, WithTileConfig(job)));
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

    #[inline(always)]
    unsafe fn madd(self, sums: Self::Sums, activations: *const u8, weights: Self::Weights) -> Self::Sums {
        // SAFETY: the caller upholds the same contract.
        unsafe { self.0.madd(sums, activations, weights) }
    }

    /// Loads whole registers, and so reads up to 31 pixels past the tile; values are followed by enough
    /// slack.
    #[inline(always)]
    unsafe fn compute_tile<S: Stride>(self, rows: usize, tile: &Tile<'_>) {
        debug_assert_eq!(tile.steps, STEPS_PER_BLOCK);
        let mut sum_tile = SumTile([[0.0; 32]; 32]);
        let weights_stride = Self::VECTORS * CacheLine::BYTES;
        // SAFETY: weights and activations are valid as `Tile` requires, with the plan's slack after them;
        // `vectorize` has configured the registers; `sum_tile` holds four registers of 16 rows, 128 bytes
        // apart.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
            let mut weights = tile.weights;
            for &offset in tile.offsets {
                let activations = tile.activations.add(offset);
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
                weights = weights.add(STEPS_PER_BLOCK * Self::VECTORS);
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
                tile.store_row(self, row, &sums);
            }
        }
    }
}
