//! The README's table, from what was measured.

use super::engine::Figures;
use super::plan::{BF16, BF16_FILES, F32, F32_FILES, ROWS, Row, Run, Who};

/// What came of a run.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Its figures of each round.
    Measured(Vec<Figures>),
    /// Why this machine, or the engine on it, would not.
    Refused(String),
}

/// How and where it was measured.
pub(super) struct Circumstances {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) rounds: usize,
    pub(super) seconds: f64,
}

/// All runs and what came of them.
pub(super) struct Results(pub(super) Vec<(Run, Outcome)>);

const HEADER: &str = "\
| what | headstock | beside | theirs | ratio | lowest to highest |
|---|---|---|---|---|---|
";

impl Results {
    /// The table, and what one must know to read it.
    pub(super) fn render(&self, circumstances: &Circumstances) -> String {
        let Circumstances { cpu, cores, rounds, seconds } = circumstances;
        let (s, times) = (if *cores == 1 { "" } else { "s" }, if *rounds == 1 { "round" } else { "rounds" });
        let rows: String = ROWS.iter().map(|row| self.row(row)).collect();
        let mut text = format!(
            "ResNet-50, 224 x 224, photos a second on {cpu}, {cores} core{s}; 2 threads, where nothing else is said.\n\
             {}\nMedians of {rounds} {times}; in a round each runs for {seconds} s, in turn and in a process of its own. The \
             ratio is\nours / theirs within a round: its median, its lowest and its highest. Made by\n\
             `cargo xtask bench --rounds {rounds} --seconds {seconds}`.\n\n{HEADER}{rows}",
            self.engines()
        );
        if let Some(files) = self.files() {
            text.push_str(&format!("\n{files}\n"));
        }
        text
    }

    fn row(&self, Row { what, ours, beside }: &Row) -> String {
        let fastest = beside.iter().copied().max_by(|a, b| self.rate(*a).total_cmp(&self.rate(*b)));
        let Some(theirs) = fastest else { return String::new() };
        let slower: String = (beside.iter().filter(|run| **run != theirs))
            .map(|run| format!(" ({}: {})", run.who, self.cell(*run)))
            .collect();
        let pairs = self.measured(*ours).iter().zip(self.measured(theirs));
        let ratios = pairs.map(|(a, b)| a.images_per_second / b.images_per_second).collect();
        let (median, range) =
            Spread::of(ratios).map_or(("-".into(), "-".into()), |Spread { median, lowest, highest }| {
                (format!("{median:.2}"), format!("{lowest:.2} to {highest:.2}"))
            });
        let (name, known) = (counterpart(*ours, theirs), !self.measured(theirs).is_empty());
        let (ours, cell) = (self.cell(*ours), self.cell(theirs));
        // The same reason is told once.
        let cell = if known || cell != ours { &cell } else { "-" };
        format!("| {what} | {ours} | {name}{slower} | {cell} | {median} | {range} |\n")
    }

    fn outcome(&self, run: Run) -> Option<&Outcome> {
        self.0.iter().find_map(|(known, outcome)| (*known == run).then_some(outcome))
    }

    fn measured(&self, run: Run) -> &[Figures] {
        match self.outcome(run) {
            Some(Outcome::Measured(figures)) => figures,
            _ => &[],
        }
    }

    /// Median photos a second; below every rate where there is none.
    fn rate(&self, run: Run) -> f64 {
        let rates = self.measured(run).iter().map(|figures| figures.images_per_second).collect();
        Spread::of(rates).map_or(f64::NEG_INFINITY, |spread| spread.median)
    }

    fn cell(&self, run: Run) -> String {
        match self.outcome(run) {
            Some(Outcome::Measured(_)) => format!("{:.1}", self.rate(run)),
            Some(Outcome::Refused(reason)) => format!("not measured: {}", reason.replace('|', "\\|")),
            None => "not measured".into(),
        }
    }

    /// Which instructions ours chose, and whom it is beside.
    fn engines(&self) -> String {
        let isas = [F32, BF16].into_iter().filter_map(|run| {
            let isa = self.measured(run).first()?.isa.as_ref()?;
            Some(format!("{isa} in {}", run.precision.as_str()))
        });
        let mut parts = vec![format!("headstock with {}", isas.collect::<Vec<_>>().join(" and "))];
        for who in [Who::OnnxRuntime, Who::OpenVino] {
            let version =
                self.measured(Run { who, ..F32 }).first().and_then(|figures| figures.version.as_ref());
            parts.extend(version.map(|version| format!("{who} {version}")));
        }
        format!("{}.", parts.join("; "))
    }

    /// The way from files in other figures, where it tells them.
    fn files(&self) -> Option<String> {
        let lines = [F32_FILES, BF16_FILES].into_iter().filter_map(|run| {
            let figures = self.measured(run);
            let median = |of: fn(&Figures) -> Option<f64>| {
                Spread::of(figures.iter().filter_map(of).collect()).map(|spread| spread.median)
            };
            let memory = median(|figures| figures.peak_memory_mib).map(|mib| format!("at most {mib:.0} MiB"));
            let first =
                median(|figures| figures.seconds_to_first).map(|s| format!("the first photo after {s:.2} s"));
            let parts: Vec<String> = memory.into_iter().chain(first).collect();
            (!parts.is_empty()).then(|| format!("in {} {}", run.precision.as_str(), parts.join(" and ")))
        });
        let lines: Vec<String> = lines.collect();
        (!lines.is_empty()).then(|| format!("From files, headstock takes {}.", lines.join(", ")))
    }
}

/// Whom the row is beside, as far as it is not the same as ours.
fn counterpart(ours: Run, theirs: Run) -> String {
    match theirs.who {
        Who::Headstock | Who::HeadstockFiles if ours.who != theirs.who => "headstock, network alone".into(),
        Who::Headstock | Who::HeadstockFiles => format!("headstock, {} thread", theirs.threads),
        who if theirs.avx2 => format!("{who}, `ONEDNN_MAX_CPU_ISA=AVX2`"),
        who => who.to_string(),
    }
}

/// Where some numbers lie.
#[derive(Debug, PartialEq)]
struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let (a, b) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: f64::midpoint(a, b), lowest, highest })
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{self, Precision};
    use super::*;

    const HERE: fn() -> Circumstances =
        || Circumstances { cpu: "A CPU".into(), cores: 2, rounds: 3, seconds: 4.0 };

    fn figures(rates: [f64; 3]) -> Outcome {
        let figure = |images_per_second| Figures { images_per_second, ..Figures::default() };
        Outcome::Measured(rates.map(figure).to_vec())
    }

    /// Every run measured, at a rate of its own: the first 10, the next 20, and so on.
    fn all() -> Results {
        let rates = (1..).map(|i| f64::from(i) * 10.0);
        Results(plan::runs().into_iter().zip(rates).map(|(run, rate)| (run, figures([rate; 3]))).collect())
    }

    fn set(results: &mut Results, run: Run, outcome: Outcome) {
        results.0.iter_mut().find(|(known, _)| *known == run).unwrap().1 = outcome;
    }

    fn line(results: &Results, start: &str) -> String {
        let text = results.render(&HERE());
        text.lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("{start}: {text}"))
            .to_owned()
    }

    #[test]
    fn every_row_shows_both_sides() {
        let text = all().render(&HERE());
        let table: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(
            table.join("\n"),
            "\
| what | headstock | beside | theirs | ratio | lowest to highest |
|---|---|---|---|---|---|
| f32, batch 16 | 10.0 | OpenVINO (ONNX Runtime: 20.0) | 30.0 | 0.33 | 0.33 to 0.33 |
| f32, batch 16, 2 threads | 10.0 | headstock, 1 thread | 40.0 | 0.25 | 0.25 to 0.25 |
| f32, from JPEG files | 50.0 | headstock, network alone | 10.0 | 5.00 | 5.00 to 5.00 |
| bf16, batch 16 | 60.0 | OpenVINO | 70.0 | 0.86 | 0.86 to 0.86 |
| bf16, batch 16, 2 threads | 60.0 | headstock, 1 thread | 80.0 | 0.75 | 0.75 to 0.75 |
| bf16, from JPEG files | 90.0 | headstock, network alone | 60.0 | 1.50 | 1.50 to 1.50 |
| f32, one photo at a time | 100.0 | ONNX Runtime | 110.0 | 0.91 | 0.91 to 0.91 |
| f32, one photo at a time | 100.0 | OpenVINO for latency | 120.0 | 0.83 | 0.83 to 0.83 |
| f32, batch 16, AVX2 alone | 130.0 | OpenVINO, `ONEDNN_MAX_CPU_ISA=AVX2` | 140.0 | 0.93 | 0.93 to 0.93 |"
        );
    }

    #[test]
    fn a_ratio_is_the_median_of_pairs_not_the_ratio_of_medians() {
        let mut results = all();
        // Ratios 1.5, 1 and 0.9; that of the medians would be 1.5.
        set(&mut results, BF16, figures([30.0, 20.0, 90.0]));
        set(&mut results, Run { who: Who::OpenVino, ..BF16 }, figures([20.0, 20.0, 100.0]));
        assert_eq!(
            line(&results, "| bf16, batch 16 |"),
            "| bf16, batch 16 | 30.0 | OpenVINO | 20.0 | 1.00 | 0.90 to 1.50 |"
        );
    }

    #[test]
    fn the_faster_of_two_rivals_is_the_one_that_counts() {
        let mut results = all();
        set(&mut results, Run { who: Who::OnnxRuntime, ..F32 }, figures([40.0; 3]));
        assert_eq!(
            line(&results, "| f32, batch 16 |"),
            "| f32, batch 16 | 10.0 | ONNX Runtime (OpenVINO: 30.0) | 40.0 | 0.25 | 0.25 to 0.25 |"
        );
    }

    #[test]
    fn what_could_not_be_measured_says_why() {
        let mut results = all();
        let refused = || Outcome::Refused("this machine has no bf16 | at all".into());
        set(&mut results, BF16, refused());
        set(&mut results, Run { threads: 1, ..BF16 }, refused());
        assert_eq!(
            line(&results, "| bf16, batch 16 |"),
            "| bf16, batch 16 | not measured: this machine has no bf16 \\| at all | OpenVINO | 70.0 | - | - |"
        );
        let once = "at all | headstock, 1 thread | - | - | - |";
        assert!(line(&results, "| bf16, batch 16, 2").ends_with(once));
        let files =
            "| bf16, from JPEG files | 90.0 | headstock, network alone | not measured: this machine has no";
        assert!(line(&results, "| bf16, from").starts_with(files));
    }

    #[test]
    fn the_machine_the_engines_and_the_command_are_named() {
        let mut results = all();
        let says = |isa: Option<&str>, version: Option<&str>| {
            let (isa, version) = (isa.map(str::to_owned), version.map(str::to_owned));
            Outcome::Measured(vec![Figures { images_per_second: 1.0, isa, version, ..Figures::default() }])
        };
        set(&mut results, F32, says(Some("avx512"), None));
        set(&mut results, BF16, says(Some("amx-bf16"), None));
        set(&mut results, Run { who: Who::OnnxRuntime, ..F32 }, says(None, Some("1.2.3")));
        set(&mut results, Run { who: Who::OpenVino, ..F32 }, says(Some("brgconv"), Some("4.5.6")));
        let text = results.render(&HERE());
        for part in [
            "on A CPU, 2 cores;",
            "headstock with avx512 in f32 and amx-bf16 in bf16; ONNX Runtime 1.2.3; OpenVINO 4.5.6.\n",
            "Medians of 3 rounds; in a round each runs for 4 s,",
            "`cargo xtask bench --rounds 3 --seconds 4`",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn memory_and_the_first_photo_are_told_where_they_are_known() {
        let mut results = all();
        assert!(!results.render(&HERE()).contains("From files, headstock"));
        let known = |peak_memory_mib, seconds_to_first| {
            let figures =
                Figures { images_per_second: 1.0, peak_memory_mib, seconds_to_first, ..Figures::default() };
            Outcome::Measured(vec![figures])
        };
        set(&mut results, F32_FILES, known(Some(312.4), Some(0.875)));
        set(&mut results, Run { precision: Precision::Bf16, ..F32_FILES }, known(None, Some(0.5)));
        let line = line(&results, "From files");
        assert_eq!(
            line,
            "From files, headstock takes in f32 at most 312 MiB and the first photo after 0.88 s, in bf16 the first photo after 0.50 s."
        );
    }

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[4.0, 1.0, 2.0, 8.0]), Some(Spread { median: 3.0, lowest: 1.0, highest: 8.0 }));
        assert_eq!(spread(&[5.0]), Some(Spread { median: 5.0, lowest: 5.0, highest: 5.0 }));
        assert_eq!(spread(&[]), None);
    }
}
