//! What is measured, and beside what.

use std::{fmt, iter};

/// One measurement: who computes what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) who: Who,
    pub(super) precision: Precision,
    pub(super) batch: u32,
    pub(super) threads: u32,
    /// Kept from using more than AVX2.
    pub(super) avx2: bool,
}

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// headstock's network alone.
    Headstock,
    /// headstock, from photos in files.
    HeadstockFiles,
    OnnxRuntime,
    OpenVino,
    /// OpenVINO with its hint for latency: one batch at a time on all threads.
    OpenVinoLatency,
}

/// What is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    F32,
    Bf16,
}

/// A line of the table.
pub(super) struct Row {
    pub(super) what: &'static str,
    pub(super) ours: Run,
    pub(super) beside: Beside,
}

/// What a line compares ours with.
pub(super) enum Beside {
    /// The fastest of these.
    Fastest(&'static [Run]),
    /// The network alone, as a run from files measures it before and after: closer together than two runs can be.
    ItsNetwork,
}

pub(super) const F32: Run =
    Run { who: Who::Headstock, precision: Precision::F32, batch: 16, threads: 2, avx2: false };
pub(super) const BF16: Run = Run { precision: Precision::Bf16, ..F32 };
pub(super) const F32_ONE: Run = Run { batch: 1, ..F32 };
pub(super) const F32_FILES: Run = Run { who: Who::HeadstockFiles, ..F32 };
pub(super) const BF16_FILES: Run = Run { who: Who::HeadstockFiles, ..BF16 };

/// What is compared stands close together, and so runs close together.
pub(super) const ROWS: [Row; 9] = [
    row("f32, batch 16", F32, &[Run { who: Who::OnnxRuntime, ..F32 }, Run { who: Who::OpenVino, ..F32 }]),
    row("f32, batch 16, 2 threads", F32, &[Run { threads: 1, ..F32 }]),
    Row { what: "f32, from JPEG files", ours: F32_FILES, beside: Beside::ItsNetwork },
    row("bf16, batch 16", BF16, &[Run { who: Who::OpenVino, ..BF16 }]),
    row("bf16, batch 16, 2 threads", BF16, &[Run { threads: 1, ..BF16 }]),
    Row { what: "bf16, from JPEG files", ours: BF16_FILES, beside: Beside::ItsNetwork },
    row("f32, one photo at a time", F32_ONE, &[Run { who: Who::OnnxRuntime, ..F32_ONE }]),
    row("f32, one photo at a time", F32_ONE, &[Run { who: Who::OpenVinoLatency, ..F32_ONE }]),
    row(
        "f32, batch 16, AVX2 alone",
        Run { avx2: true, ..F32 },
        &[Run { who: Who::OpenVino, avx2: true, ..F32 }],
    ),
];

/// A line beside the fastest of some rivals.
const fn row(what: &'static str, ours: Run, rivals: &'static [Run]) -> Row {
    Row { what, ours, beside: Beside::Fastest(rivals) }
}

/// Every run of the table once, in the order of a round.
pub(super) fn runs() -> Vec<Run> {
    let mut runs = Vec::new();
    for Row { ours, beside, .. } in &ROWS {
        let rivals = match beside {
            Beside::Fastest(rivals) => rivals,
            Beside::ItsNetwork => &[][..],
        };
        for run in iter::once(ours).chain(rivals) {
            if !runs.contains(run) {
                runs.push(*run);
            }
        }
    }
    runs
}

impl Run {
    /// Whether a machine may be unable to do it. What all can do and does not work is a fault.
    pub(super) fn may_be_refused(self) -> bool {
        self.avx2 || self.precision == Precision::Bf16 || self.who == Who::HeadstockFiles
    }
}

impl Precision {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Headstock => "headstock",
            Self::HeadstockFiles => "headstock from files",
            Self::OnnxRuntime => "ONNX Runtime",
            Self::OpenVino => "OpenVINO",
            Self::OpenVinoLatency => "OpenVINO for latency",
        })
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, precision, batch, threads, avx2 } = self;
        let (precision, s) = (precision.as_str(), if *threads == 1 { "" } else { "s" });
        let isa = if *avx2 { ", AVX2 alone" } else { "" };
        write!(f, "{who}, {precision}, batch {batch}, {threads} thread{s}{isa}")
    }
}
