//! The README's table, from what was measured.

use super::engine::Figures;
use super::plan::{BF16, BF16_FILES, Beside, F32, F32_FILES, F32_ONE, ROWS, Row, Run, Who};

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

impl Circumstances {
    /// The machine's name and size.
    pub(super) fn machine(&self) -> String {
        let Self { cpu, cores, .. } = self;
        format!("{cpu}, {cores} core{}", if *cores == 1 { "" } else { "s" })
    }
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
        let (Circumstances { rounds, seconds, .. }, machine) = (circumstances, circumstances.machine());
        let times = if *rounds == 1 { "round" } else { "rounds" };
        let rows: String = ROWS.iter().map(|row| self.row(row)).collect();
        let mut text = format!(
            "ResNet-50, 224 x 224, photos a second on {machine}; 2 threads, where nothing else is said.\n\
             {}\nMedians of {rounds} {times}; in a round each runs for {seconds} s, in turn and in a process of its own. The \
             ratio is\nours / theirs within a round: its median, its lowest and its highest. Made by\n\
             `cargo xtask bench --rounds {rounds} --seconds {seconds}`.\n\n{HEADER}{rows}",
            self.engines()
        );
        if let Some(besides) = self.besides() {
            text.push_str(&format!("\n{besides}\n"));
        }
        text
    }

    /// Why a run was not made, if so.
    pub(super) fn refusal(&self, run: Run) -> Option<&str> {
        match self.outcome(run) {
            Some(Outcome::Refused(reason)) => Some(reason),
            _ => None,
        }
    }

    fn row(&self, Row { what, ours, beside }: &Row) -> String {
        let (name, cell, theirs) = match beside {
            Beside::Fastest(rivals) => {
                let fastest = rivals.iter().copied().max_by(|a, b| self.rate(*a).total_cmp(&self.rate(*b)));
                let Some(fastest) = fastest else { return String::new() };
                let slower = rivals.iter().filter(|run| **run != fastest);
                let slower = slower.map(|run| format!(" ({}: {})", run.who, self.cell(*run)));
                let name = format!("{}{}", counterpart(fastest), slower.collect::<String>());
                (name, self.cell(fastest), self.rates(fastest))
            }
            Beside::ItsNetwork => {
                let figures = self.figures(*ours).iter();
                let network: Vec<f64> =
                    figures.filter_map(|figures| figures.network_images_per_second).collect();
                let median = Spread::of(&network).map(|spread| format!("{:.1}", spread.median));
                ("headstock, network alone".into(), median.unwrap_or("-".into()), network)
            }
        };
        let ratios: Vec<f64> = self.rates(*ours).iter().zip(&theirs).map(|(a, b)| a / b).collect();
        let (median, range) =
            Spread::of(&ratios).map_or(("-".into(), "-".into()), |Spread { median, lowest, highest }| {
                (format!("{median:.2}"), format!("{lowest:.2} to {highest:.2}"))
            });
        let ours = self.cell(*ours);
        // The same reason is told once.
        let cell = if theirs.is_empty() && cell == ours { "-" } else { &cell };
        format!("| {what} | {ours} | {name} | {cell} | {median} | {range} |\n")
    }

    fn outcome(&self, run: Run) -> Option<&Outcome> {
        self.0.iter().find_map(|(known, outcome)| (*known == run).then_some(outcome))
    }

    fn figures(&self, run: Run) -> &[Figures] {
        match self.outcome(run) {
            Some(Outcome::Measured(figures)) => figures,
            _ => &[],
        }
    }

    /// Photos a second of each round.
    fn rates(&self, run: Run) -> Vec<f64> {
        self.figures(run).iter().map(|figures| figures.images_per_second).collect()
    }

    /// Median photos a second; below every rate where there is none.
    fn rate(&self, run: Run) -> f64 {
        Spread::of(&self.rates(run)).map_or(f64::NEG_INFINITY, |spread| spread.median)
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
            let isa = self.figures(run).first()?.isa.as_ref()?;
            Some(format!("{isa} in {}", run.precision.as_str()))
        });
        let mut parts = vec![format!("headstock with {}", isas.collect::<Vec<_>>().join(" and "))];
        for who in [Who::OnnxRuntime, Who::OpenVino] {
            let version =
                self.figures(Run { who, ..F32 }).first().and_then(|figures| figures.version.as_ref());
            parts.extend(version.map(|version| format!("{who} {version}")));
        }
        format!("{}.", parts.join("; "))
    }

    /// What else the runs tell of headstock, where they do.
    fn besides(&self) -> Option<String> {
        let median = |run, of: fn(&Figures) -> Option<f64>| {
            let values: Vec<f64> = self.figures(run).iter().filter_map(of).collect();
            Spread::of(&values).map(|spread| spread.median)
        };
        let memory = [F32_FILES, BF16_FILES].into_iter().filter_map(|run| {
            let peak = median(run, |figures| figures.peak_memory_mib)?;
            Some(format!("{peak:.0} MiB in {}", run.precision.as_str()))
        });
        let memory: Vec<String> = memory.collect();
        let memory = (!memory.is_empty()).then(|| {
            format!("The most memory that headstock takes on the way from files, the network alone measured beside it: {}.", memory.join(" and "))
        });
        let first = median(F32_ONE, |figures| figures.seconds_to_first)
            .map(|s| format!("The features of a first photo are there {s:.2} s after its start, in f32."));
        let sentences: Vec<String> = memory.into_iter().chain(first).collect();
        (!sentences.is_empty()).then(|| sentences.join("\n"))
    }
}

/// Whom the row is beside, as far as it is not the same as ours.
fn counterpart(theirs: Run) -> String {
    match theirs.who {
        Who::Headstock if theirs.threads == 1 => "headstock, 1 thread".into(),
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
    fn of(values: &[f64]) -> Option<Self> {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let (a, b) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: f64::midpoint(a, b), lowest, highest })
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan;
    use super::*;

    const HERE: fn() -> Circumstances =
        || Circumstances { cpu: "A CPU".into(), cores: 2, rounds: 3, seconds: 4.0 };

    fn figures(rates: [f64; 3]) -> Outcome {
        let figure = |images_per_second| Figures {
            images_per_second,
            network_images_per_second: Some(images_per_second * 1.25),
            ..Figures::default()
        };
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
| f32, from JPEG files | 50.0 | headstock, network alone | 62.5 | 0.80 | 0.80 to 0.80 |
| bf16, batch 16 | 60.0 | OpenVINO | 70.0 | 0.86 | 0.86 to 0.86 |
| bf16, batch 16, 2 threads | 60.0 | headstock, 1 thread | 80.0 | 0.75 | 0.75 to 0.75 |
| bf16, from JPEG files | 90.0 | headstock, network alone | 112.5 | 0.80 | 0.80 to 0.80 |
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
        set(&mut results, BF16_FILES, refused());
        let files = "at all | headstock, network alone | - | - | - |";
        assert!(line(&results, "| bf16, from JPEG files").ends_with(files));
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
        assert_eq!(results.besides(), None);
        let known = |peak_memory_mib, seconds_to_first| {
            let figures = Figures { peak_memory_mib, seconds_to_first, ..Figures::default() };
            Outcome::Measured(vec![figures])
        };
        set(&mut results, F32_FILES, known(Some(312.4), Some(9.0)));
        let memory = "The most memory that headstock takes on the way from files, the network alone measured beside it: 312 MiB in f32.";
        assert_eq!(results.besides().as_deref(), Some(memory));
        set(&mut results, BF16_FILES, known(Some(280.0), None));
        set(&mut results, F32_ONE, known(None, Some(0.875)));
        assert!(results.render(&HERE()).ends_with(
            "
The most memory that headstock takes on the way from files, the network alone measured beside it: 312 MiB in f32 and 280 MiB in bf16.
The features of a first photo are there 0.88 s after its start, in f32.
"
        ));
    }

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert_eq!(
            Spread::of(&[4.0, 1.0, 2.0, 8.0]),
            Some(Spread { median: 3.0, lowest: 1.0, highest: 8.0 })
        );
        assert_eq!(Spread::of(&[5.0]), Some(Spread { median: 5.0, lowest: 5.0, highest: 5.0 }));
        assert_eq!(Spread::of(&[]), None);
    }
}
