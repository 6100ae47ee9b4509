//! Renders the table of the README from the results of the runs.

use super::engine::Measurement;
use super::plan::{BF16, BF16_FILES, Baseline, Engine, F32, F32_FILES, F32_ONE, ROWS, Row, Run};

/// What came of a run over all rounds.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The measurement of each round.
    Measured(Vec<Measurement>),
    /// Why the engine does not support the run on this machine.
    Refused(String),
}

/// The computer and the settings of the benchmark, which the pages name.
pub(super) struct BenchSetup {
    /// Name of the processor.
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) rounds: usize,
    /// Seconds per run and round.
    pub(super) seconds: f64,
}

impl BenchSetup {
    /// Name and number of cores of the computer.
    pub(super) fn computer(&self) -> String {
        let Self { cpu, cores, .. } = self;
        format!("{cpu}, {cores} core{}", if *cores == 1 { "" } else { "s" })
    }
}

/// All runs of the plan with their outcomes.
pub(super) struct Results {
    pub(super) outcomes: Vec<(Run, Outcome)>,
}

const HEADER: &str = "\
| run | headstock | compared with | its rate | ratio | lowest to highest |
|---|---|---|---|---|---|
";

impl Results {
    /// The text of the README's section in Markdown: how the rates were measured and on what computer, the
    /// table, and sentences on the memory and the start.
    pub(super) fn render(&self, setup: &BenchSetup) -> String {
        let BenchSetup { rounds, seconds, .. } = setup;
        let computer = setup.computer();
        let rounds_noun = if *rounds == 1 { "round" } else { "rounds" };
        let rows: String = ROWS.iter().map(|row| self.format_row(row)).collect();
        let mut text = format!(
            "ResNet-50, 224 x 224, photos per second on {computer}; 2 threads unless noted.\n\
             {}\nMedians of {rounds} {rounds_noun}; in a round each runs for {seconds} s, one after the other in separate \
             processes. The ratio is\nheadstock / the other within a round: median, lowest and highest. Written by\n\
             `cargo xtask bench --rounds {rounds} --seconds {seconds}`.\n\n{HEADER}{rows}",
            self.engines_sentence()
        );
        if let Some(extra) = self.extra_sentences() {
            text.push_str(&format!("\n{extra}\n"));
        }
        text
    }

    /// The reason why a run was refused, which means that the machine does not support it; `None` if it was
    /// measured.
    pub(super) fn refusal(&self, run: Run) -> Option<&str> {
        match self.outcome(run) {
            Some(Outcome::Refused(reason)) => Some(reason),
            _ => None,
        }
    }

    /// A row in Markdown: the label, the rate of headstock in images per second, the name and rate of the
    /// baseline that it is compared with, and the median and range of the ratios. A ratio is headstock's rate
    /// divided by the baseline's in the same round. Slower baselines are in parentheses.
    fn format_row(&self, Row { label, ours, baseline }: &Row) -> String {
        let (name, baseline_cell, baseline_rates) = match baseline {
            Baseline::Fastest(baselines) => {
                let fastest = baselines
                    .iter()
                    .copied()
                    .max_by(|a, b| self.median_rate(*a).total_cmp(&self.median_rate(*b)));
                let Some(fastest) = fastest else { return String::new() };
                let slower = baselines.iter().filter(|run| **run != fastest);
                let slower = slower.map(|run| format!(" ({}: {})", run.engine, self.rate_cell(*run)));
                let name = format!("{}{}", baseline_name(fastest), slower.collect::<String>());
                (name, self.rate_cell(fastest), self.rates(fastest))
            }
            Baseline::OwnNetwork => {
                let measurements = self.measurements(*ours).iter();
                let network: Vec<f64> =
                    measurements.filter_map(|measurement| measurement.network_images_per_second).collect();
                let median = Summary::from_values(&network).map(|summary| format!("{:.1}", summary.median));
                ("headstock, network alone".into(), median.unwrap_or("-".into()), network)
            }
        };
        let ratios: Vec<f64> = self.rates(*ours).iter().zip(&baseline_rates).map(|(a, b)| a / b).collect();
        let (median, range) = Summary::from_values(&ratios).map_or(
            ("-".into(), "-".into()),
            |Summary { median, lowest, highest }| {
                (format!("{median:.2}"), format!("{lowest:.2} to {highest:.2}"))
            },
        );
        let our_cell = self.rate_cell(*ours);
        // If both were refused for the same reason, it is shown once.
        let is_repeated = baseline_rates.is_empty() && baseline_cell == our_cell;
        let baseline_cell = if is_repeated { "-" } else { &baseline_cell };
        format!("| {label} | {our_cell} | {name} | {baseline_cell} | {median} | {range} |\n")
    }

    /// The outcome of a run; `None` if it was not planned.
    fn outcome(&self, run: Run) -> Option<&Outcome> {
        self.outcomes.iter().find_map(|(known, outcome)| (*known == run).then_some(outcome))
    }

    /// The measurements of a run, one per round; none if it was refused.
    fn measurements(&self, run: Run) -> &[Measurement] {
        match self.outcome(run) {
            Some(Outcome::Measured(measurements)) => measurements,
            _ => &[],
        }
    }

    /// Images per second of a run in each round; none if it was refused.
    fn rates(&self, run: Run) -> Vec<f64> {
        self.measurements(run).iter().map(|measurement| measurement.images_per_second).collect()
    }

    /// Median images per second of a run; negative infinity without measurements, so that any measured run is
    /// faster.
    fn median_rate(&self, run: Run) -> f64 {
        Summary::from_values(&self.rates(run)).map_or(f64::NEG_INFINITY, |summary| summary.median)
    }

    /// A cell of the table: the median images per second of a run, or why it was not measured.
    fn rate_cell(&self, run: Run) -> String {
        match self.outcome(run) {
            Some(Outcome::Measured(_)) => format!("{:.1}", self.median_rate(run)),
            Some(Outcome::Refused(reason)) => format!("not measured: {}", reason.replace('|', "\\|")),
            None => "not measured".into(),
        }
    }

    /// A sentence for the text above the table: the instruction sets that headstock chose on this machine,
    /// and the versions of the other engines.
    fn engines_sentence(&self) -> String {
        let isas = [F32, BF16].into_iter().filter_map(|run| {
            let isa = self.measurements(run).first()?.isa.as_ref()?;
            Some(format!("{isa} in {}", run.precision.as_str()))
        });
        let mut parts = vec![format!("headstock with {}", isas.collect::<Vec<_>>().join(" and "))];
        for engine in [Engine::OnnxRuntime, Engine::OpenVino] {
            let version = self
                .measurements(Run { engine, ..F32 })
                .first()
                .and_then(|measurement| measurement.version.as_ref());
            parts.extend(version.map(|version| format!("{engine} {version}")));
        }
        format!("{}.", parts.join("; "))
    }

    /// Sentences for the text below the table: the peak memory of headstock and the time to its first
    /// features, as medians over the rounds. `None` if neither was measured.
    fn extra_sentences(&self) -> Option<String> {
        // The median of a field over the rounds of a run.
        let median = |run, field: fn(&Measurement) -> Option<f64>| {
            let values: Vec<f64> = self.measurements(run).iter().filter_map(field).collect();
            Summary::from_values(&values).map(|summary| summary.median)
        };
        let memory = [F32_FILES, BF16_FILES].into_iter().filter_map(|run| {
            let peak = median(run, |measurement| measurement.peak_memory_mib)?;
            Some(format!("{peak:.0} MiB in {}", run.precision.as_str()))
        });
        let memory: Vec<String> = memory.collect();
        let memory = (!memory.is_empty()).then(|| {
            let memory = memory.join(" and ");
            format!("Peak memory of headstock from files, including the measurement of the network alone: {memory}.")
        });
        let first = median(F32_ONE, |measurement| measurement.seconds_to_first).map(|s| {
            format!("The first features are computed {s:.2} s after the start of the program, in f32.")
        });
        let sentences: Vec<String> = memory.into_iter().chain(first).collect();
        (!sentences.is_empty()).then(|| sentences.join("\n"))
    }
}

/// Name of a baseline in the table, with the settings that differ from those of the run of headstock.
fn baseline_name(baseline: Run) -> String {
    match baseline.engine {
        Engine::Headstock if baseline.threads == 1 => "headstock, 1 thread".into(),
        engine if baseline.avx2 => format!("{engine}, `ONEDNN_MAX_CPU_ISA=AVX2`"),
        engine => engine.to_string(),
    }
}

/// Median and range of some numbers.
#[derive(Debug, PartialEq)]
struct Summary {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Summary {
    /// The median, lowest and highest of `values`; `None` if there are none. The median of an even number of
    /// values is the mean of the middle two.
    fn from_values(values: &[f64]) -> Option<Self> {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (*values.first()?, *values.last()?);
        // The middle two; the same one if the number of values is odd.
        let (a, b) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: f64::midpoint(a, b), lowest, highest })
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan;
    use super::*;

    const SETUP: fn() -> BenchSetup =
        || BenchSetup { cpu: "A CPU".into(), cores: 2, rounds: 3, seconds: 4.0 };

    fn measured(rates: [f64; 3]) -> Outcome {
        let measurement = |images_per_second| Measurement {
            images_per_second,
            network_images_per_second: Some(images_per_second * 1.25),
            ..Measurement::default()
        };
        Outcome::Measured(rates.map(measurement).to_vec())
    }

    /// All runs with different rates: 10 for the first, 20 for the next, and so on.
    fn all_results() -> Results {
        let rates = (1..).map(|i| f64::from(i) * 10.0);
        let outcomes = plan::all_runs().into_iter().zip(rates).map(|(run, rate)| (run, measured([rate; 3])));
        Results { outcomes: outcomes.collect() }
    }

    fn set(results: &mut Results, run: Run, outcome: Outcome) {
        results.outcomes.iter_mut().find(|(known, _)| *known == run).unwrap().1 = outcome;
    }

    fn line(results: &Results, start: &str) -> String {
        let text = results.render(&SETUP());
        text.lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("{start}: {text}"))
            .to_owned()
    }

    #[test]
    fn every_row_shows_both_sides() {
        let text = all_results().render(&SETUP());
        let table: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(
            table.join("\n"),
            "\
| run | headstock | compared with | its rate | ratio | lowest to highest |
|---|---|---|---|---|---|
| f32, batch 16 | 10.0 | OpenVINO (ONNX Runtime: 20.0) | 30.0 | 0.33 | 0.33 to 0.33 |
| f32, batch 16, 2 threads | 10.0 | headstock, 1 thread | 40.0 | 0.25 | 0.25 to 0.25 |
| f32, from JPEG files | 50.0 | headstock, network alone | 62.5 | 0.80 | 0.80 to 0.80 |
| bf16, batch 16 | 60.0 | OpenVINO | 70.0 | 0.86 | 0.86 to 0.86 |
| bf16, batch 16, 2 threads | 60.0 | headstock, 1 thread | 80.0 | 0.75 | 0.75 to 0.75 |
| bf16, from JPEG files | 90.0 | headstock, network alone | 112.5 | 0.80 | 0.80 to 0.80 |
| f32, one photo at a time | 100.0 | ONNX Runtime | 110.0 | 0.91 | 0.91 to 0.91 |
| f32, one photo at a time | 100.0 | OpenVINO, latency hint | 120.0 | 0.83 | 0.83 to 0.83 |
| f32, batch 16, AVX2 only | 130.0 | OpenVINO, `ONEDNN_MAX_CPU_ISA=AVX2` | 140.0 | 0.93 | 0.93 to 0.93 |"
        );
    }

    #[test]
    fn a_ratio_is_the_median_of_pairs_not_the_ratio_of_medians() {
        let mut results = all_results();
        // Ratios 1.5, 1 and 0.9; the ratio of the medians is 1.5.
        set(&mut results, BF16, measured([30.0, 20.0, 90.0]));
        set(&mut results, Run { engine: Engine::OpenVino, ..BF16 }, measured([20.0, 20.0, 100.0]));
        assert_eq!(
            line(&results, "| bf16, batch 16 |"),
            "| bf16, batch 16 | 30.0 | OpenVINO | 20.0 | 1.00 | 0.90 to 1.50 |"
        );
    }

    #[test]
    fn the_ratio_is_to_the_fastest_baseline() {
        let mut results = all_results();
        set(&mut results, Run { engine: Engine::OnnxRuntime, ..F32 }, measured([40.0; 3]));
        assert_eq!(
            line(&results, "| f32, batch 16 |"),
            "| f32, batch 16 | 10.0 | ONNX Runtime (OpenVINO: 30.0) | 40.0 | 0.25 | 0.25 to 0.25 |"
        );
    }

    #[test]
    fn the_reason_of_a_refused_run_is_shown() {
        let mut results = all_results();
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
    fn the_computer_the_engines_and_the_command_are_named() {
        let mut results = all_results();
        let measured_as = |isa: Option<&str>, version: Option<&str>| {
            let (isa, version) = (isa.map(str::to_owned), version.map(str::to_owned));
            Outcome::Measured(vec![Measurement {
                images_per_second: 1.0,
                isa,
                version,
                ..Measurement::default()
            }])
        };
        set(&mut results, F32, measured_as(Some("avx512"), None));
        set(&mut results, BF16, measured_as(Some("amx-bf16"), None));
        set(&mut results, Run { engine: Engine::OnnxRuntime, ..F32 }, measured_as(None, Some("1.2.3")));
        set(
            &mut results,
            Run { engine: Engine::OpenVino, ..F32 },
            measured_as(Some("brgconv"), Some("4.5.6")),
        );
        let text = results.render(&SETUP());
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
    fn memory_and_time_to_first_features_are_shown_if_known() {
        let mut results = all_results();
        assert_eq!(results.extra_sentences(), None);
        let measured_with = |peak_memory_mib, seconds_to_first| {
            let measurement = Measurement { peak_memory_mib, seconds_to_first, ..Measurement::default() };
            Outcome::Measured(vec![measurement])
        };
        set(&mut results, F32_FILES, measured_with(Some(312.4), Some(9.0)));
        let memory = "Peak memory of headstock from files, including the measurement of the network alone: 312 MiB in f32.";
        assert_eq!(results.extra_sentences().as_deref(), Some(memory));
        set(&mut results, BF16_FILES, measured_with(Some(280.0), None));
        set(&mut results, F32_ONE, measured_with(None, Some(0.875)));
        assert!(results.render(&SETUP()).ends_with(
            "
Peak memory of headstock from files, including the measurement of the network alone: 312 MiB in f32 and 280 MiB in bf16.
The first features are computed 0.88 s after the start of the program, in f32.
"
        ));
    }

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert_eq!(
            Summary::from_values(&[4.0, 1.0, 2.0, 8.0]),
            Some(Summary { median: 3.0, lowest: 1.0, highest: 8.0 })
        );
        assert_eq!(Summary::from_values(&[5.0]), Some(Summary { median: 5.0, lowest: 5.0, highest: 5.0 }));
        assert_eq!(Summary::from_values(&[]), None);
    }
}
