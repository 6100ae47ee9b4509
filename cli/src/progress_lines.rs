//! Progress as lines of text, for where stderr is no terminal: a log of a batch job or of CI.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration};

/// A phase that is shorter than this prints nothing.
pub(crate) const QUIET: Duration = Duration::from_secs(2);

/// The current phase, a long operation such as the computation of features, of which it says what to print: a
/// line at each tenth of its steps and one at its end.
#[derive(Debug, Default)]
pub(crate) struct ProgressLines {
    phase: Option<Phase>,
    /// A phase that has run for less than this prints nothing.
    quiet: Duration,
}

/// A long operation.
#[derive(Debug)]
struct Phase {
    name: String,
    unit: Unit,
    /// Number of steps; 0 if it is unknown.
    total: u64,
    done: u64,
    /// Tenths of the steps that have been reported or passed.
    tenths: u64,
    started: Instant,
}

/// What the steps of a phase count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Things with a name in the plural, such as `photos`.
    Named(&'static str),
    /// Bytes of a download.
    Bytes,
}

impl Unit {
    /// `count` of this unit, such as `40 photos` or `1.50 MiB`.
    fn count(self, count: u64) -> String {
        match self {
            Self::Named(name) => format!("{count} {name}"),
            Self::Bytes => HumanBytes(count).to_string(),
        }
    }
}

impl ProgressLines {
    /// No phase yet. Those that are shorter than `quiet` print nothing.
    pub(crate) fn new(quiet: Duration) -> Self {
        Self { phase: None, quiet }
    }

    /// Begins the phase `name` of `total` steps, 0 if their number is unknown.
    pub(crate) fn begin(&mut self, name: &str, total: u64, unit: Unit) {
        let (name, started) = (name.to_owned(), Instant::now());
        self.phase = Some(Phase { name, unit, total, done: 0, tenths: 0, started });
    }

    /// Moves the phase by `count` more steps; the line to print, if there is one.
    pub(crate) fn advance(&mut self, count: u64) -> Option<String> {
        let (done, total) = self.phase.as_ref().map(|phase| (phase.done + count, phase.total))?;
        self.set_position(done, total)
    }

    /// Moves the phase to `done` of `total` steps; the line to print, if there is one.
    pub(crate) fn set_position(&mut self, done: u64, total: u64) -> Option<String> {
        let phase = self.phase.as_mut()?;
        (phase.done, phase.total) = (done, total);
        let tenths = (done * 10).checked_div(total)?;
        // The end has a line of its own.
        let is_new = tenths > phase.tenths && done < total;
        phase.tenths = phase.tenths.max(tenths);
        (is_new && phase.started.elapsed() >= self.quiet).then(|| phase.line())
    }

    /// The line of an event of the phase, such as an epoch, which `text` describes.
    pub(crate) fn milestone(&self, text: &str) -> Option<String> {
        let phase = self.phase.as_ref()?;
        (phase.started.elapsed() >= self.quiet).then(|| format!("{}: {text}", phase.name))
    }

    /// Ends the phase; the line to print, if there is one.
    pub(crate) fn end(&mut self) -> Option<String> {
        let Phase { name, unit, done, started, .. } = self.phase.take()?;
        let elapsed = started.elapsed();
        let line = || format!("{name}: {} in {}", unit.count(done), HumanDuration(elapsed));
        (elapsed >= self.quiet && done > 0).then(line)
    }
}

impl Phase {
    /// The line of a tenth: how much is done, the rate, and the time that is left at this rate.
    fn line(&self) -> String {
        let Self { name, unit, total, done, started, .. } = self;
        let per_second = *done as f64 / started.elapsed().as_secs_f64().max(1e-9);
        let left = Duration::from_secs_f64((total - done) as f64 / per_second);
        let (done, rate) = match unit {
            Unit::Named(_) => (done.to_string(), format!("{per_second:.1}")),
            Unit::Bytes => (HumanBytes(*done).to_string(), HumanBytes(per_second as u64).to_string()),
        };
        format!("{name}: {done} of {}, {rate} per second, {} left", unit.count(*total), HumanDuration(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a phase of `total` steps that is moved by these counts, and its last line.
    fn lines(quiet: Duration, total: u64, counts: &[u64]) -> (Vec<String>, Option<String>) {
        let mut lines = ProgressLines::new(quiet);
        lines.begin("computing features", total, Unit::Named("photos"));
        let printed = counts.iter().filter_map(|&count| lines.advance(count)).collect();
        (printed, lines.end())
    }

    #[test]
    fn a_phase_prints_a_line_each_tenth_and_one_at_its_end() {
        let (tenths, end) = lines(Duration::ZERO, 400, &[8; 50]);
        assert_eq!(tenths.len(), 9, "{tenths:?}");
        for (line, done) in tenths.iter().zip((1..).map(|tenth| tenth * 40)) {
            let begin = format!("computing features: {done} of 400 photos, ");
            assert!(
                line.starts_with(&begin) && line.contains(" per second, ") && line.ends_with(" left"),
                "{line}"
            );
        }
        assert!(end.unwrap().starts_with("computing features: 400 photos in "));
    }

    #[test]
    fn large_steps_print_one_line_each_and_an_unknown_total_only_the_end() {
        let (tenths, _) = lines(Duration::ZERO, 3, &[1, 1, 1]);
        assert_eq!(tenths.len(), 2, "{tenths:?}");
        let (tenths, end) = lines(Duration::ZERO, 0, &[5, 5]);
        assert!(tenths.is_empty() && end.unwrap().starts_with("computing features: 10 photos in "));
        assert_eq!(lines(Duration::ZERO, 10, &[]).1, None, "nothing was done");
    }

    #[test]
    fn a_fit_learns_its_total_later_and_a_short_phase_is_quiet() {
        let mut fit = ProgressLines::new(Duration::ZERO);
        assert_eq!((fit.advance(1), fit.milestone("epoch 1"), fit.end()), (None, None, None), "no phase");
        fit.begin("fitting svm", 0, Unit::Named("steps"));
        assert!(fit.set_position(5, 20).unwrap().starts_with("fitting svm: 5 of 20 steps, "));
        assert_eq!(fit.milestone("epoch 1 of 3").unwrap(), "fitting svm: epoch 1 of 3");
        let quiet = Duration::from_secs(3600);
        assert_eq!(lines(quiet, 400, &[8; 50]), (Vec::new(), None));
        let mut short = ProgressLines::new(quiet);
        short.begin("fine-tuning", 1, Unit::Named("photos"));
        assert_eq!(short.milestone("epoch 1 of 3"), None);
    }

    #[test]
    fn a_download_counts_bytes() {
        let mut download = ProgressLines::new(Duration::ZERO);
        download.begin("downloading model.safetensors", 4 << 20, Unit::Bytes);
        let line = download.advance(1 << 20).unwrap();
        assert!(line.starts_with("downloading model.safetensors: 1.00 MiB of 4.00 MiB, "), "{line}");
    }
}
