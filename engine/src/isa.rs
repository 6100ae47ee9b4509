//! Instruction sets, told at run time.

use std::fmt;

/// The widest instruction set for `f32` arithmetic that kernels may use on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Whatever the target has.
    Portable,
    /// AVX2 with FMA, 8 lanes.
    Avx2,
    /// AVX-512 F, 16 lanes.
    Avx512,
}

impl Isa {
    /// What this machine has.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Its name: `portable`, `avx2`, `avx512`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Isa;

    #[test]
    #[cfg(target_os = "linux")]
    fn agrees_with_the_kernel() {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let has = |flag: &str| cpu.split_whitespace().any(|word| word == flag);
        let expected = match () {
            () if has("avx512f") => Isa::Avx512,
            () if has("avx2") && has("fma") => Isa::Avx2,
            () => Isa::Portable,
        };
        assert_eq!(Isa::detect(), expected);
    }
}
