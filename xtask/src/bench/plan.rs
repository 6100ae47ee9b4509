//! The runs to measure, and the rows of the table in the README.

use std::{fmt, iter};

/// An engine with its settings, which is measured once in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) engine: Engine,
    pub(super) precision: Precision,
    /// Images that are computed together.
    pub(super) batch: u32,
    pub(super) threads: u32,
    /// Whether instruction sets above AVX2 are disabled.
    pub(super) avx2: bool,
}

/// The program that computes the network, and what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// The network of headstock alone.
    Headstock,
    /// headstock with reading and decoding images from files.
    HeadstockFiles,
    OnnxRuntime,
    OpenVino,
    /// OpenVINO with its latency hint: one batch at a time on all threads.
    OpenVinoLatency,
}

/// Number format of the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    F32,
    Bf16,
}

/// A row of the table: a run of headstock and what it is compared with.
pub(super) struct Row {
    pub(super) label: &'static str,
    /// The run of headstock.
    pub(super) ours: Run,
    pub(super) baseline: Baseline,
}

/// What a row compares headstock with.
pub(super) enum Baseline {
    /// The fastest of these runs.
    Fastest(&'static [Run]),
    /// The network alone, which a run from files measures before and after in the same process.
    OwnNetwork,
}

/// The run of headstock that the others are variants of.
pub(super) const F32: Run =
    Run { engine: Engine::Headstock, precision: Precision::F32, batch: 16, threads: 2, avx2: false };
pub(super) const BF16: Run = Run { precision: Precision::Bf16, ..F32 };
pub(super) const F32_ONE: Run = Run { batch: 1, ..F32 };
pub(super) const F32_FILES: Run = Run { engine: Engine::HeadstockFiles, ..F32 };
pub(super) const BF16_FILES: Run = Run { engine: Engine::HeadstockFiles, ..BF16 };

/// The rows of the table. A round measures their runs in this order, so that compared runs follow each other.
pub(super) const ROWS: [Row; 9] = [
    row_against(
        "f32, batch 16",
        F32,
        &[Run { engine: Engine::OnnxRuntime, ..F32 }, Run { engine: Engine::OpenVino, ..F32 }],
    ),
    row_against("f32, batch 16, 2 threads", F32, &[Run { threads: 1, ..F32 }]),
    Row { label: "f32, from JPEG files", ours: F32_FILES, baseline: Baseline::OwnNetwork },
    row_against("bf16, batch 16", BF16, &[Run { engine: Engine::OpenVino, ..BF16 }]),
    row_against("bf16, batch 16, 2 threads", BF16, &[Run { threads: 1, ..BF16 }]),
    Row { label: "bf16, from JPEG files", ours: BF16_FILES, baseline: Baseline::OwnNetwork },
    row_against("f32, one photo at a time", F32_ONE, &[Run { engine: Engine::OnnxRuntime, ..F32_ONE }]),
    row_against("f32, one photo at a time", F32_ONE, &[Run { engine: Engine::OpenVinoLatency, ..F32_ONE }]),
    row_against(
        "f32, batch 16, AVX2 only",
        Run { avx2: true, ..F32 },
        &[Run { engine: Engine::OpenVino, avx2: true, ..F32 }],
    ),
];

/// A row that compares `ours`, a run of headstock, with the fastest of `baselines`.
const fn row_against(label: &'static str, ours: Run, baselines: &'static [Run]) -> Row {
    Row { label, ours, baseline: Baseline::Fastest(baselines) }
}

/// The runs of all rows, each once, in the order in which a round measures them: a row's run of headstock,
/// then the runs that it is compared with.
pub(super) fn all_runs() -> Vec<Run> {
    let mut runs = Vec::new();
    for Row { ours, baseline, .. } in &ROWS {
        let baselines = match baseline {
            Baseline::Fastest(baselines) => baselines,
            Baseline::OwnNetwork => &[][..],
        };
        for run in iter::once(ours).chain(baselines) {
            if !runs.contains(run) {
                runs.push(*run);
            }
        }
    }
    runs
}

impl Run {
    /// Whether some machines do not support the run: its failure is then shown in the table. If any other run
    /// fails, the benchmark fails.
    pub(super) fn may_be_refused(self) -> bool {
        self.avx2 || self.precision == Precision::Bf16 || self.engine == Engine::HeadstockFiles
    }
}

impl Precision {
    /// The name of the precision, as the engines' option `--precision` takes it and the table shows it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Engine {
    /// Writes the name of the engine for the table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Headstock => "headstock",
            Self::HeadstockFiles => "headstock from files",
            Self::OnnxRuntime => "ONNX Runtime",
            Self::OpenVino => "OpenVINO",
            Self::OpenVinoLatency => "OpenVINO, latency hint",
        })
    }
}

impl fmt::Display for Run {
    /// Writes the run for messages: `OpenVINO, bf16, batch 16, 2 threads`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { engine, precision, batch, threads, avx2 } = self;
        let precision = precision.as_str();
        let s = if *threads == 1 { "" } else { "s" };
        let isa = if *avx2 { ", AVX2 only" } else { "" };
        write!(f, "{engine}, {precision}, batch {batch}, {threads} thread{s}{isa}")
    }
}
