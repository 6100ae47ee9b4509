//! Progress bars on stderr, if it is a terminal.

use std::sync::{Mutex, PoisonError};

use headstock_backbone::DownloadProgress;
use headstock_train::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Escaped;

/// The progress bar of the current phase, if any. Nothing is drawn if stderr is not a terminal.
pub(crate) struct ProgressBars {
    screen: MultiProgress,
    current: Mutex<Option<ProgressBar>>,
}

const COUNT_TEMPLATE: &str = "{prefix} {wide_bar} {pos}/{len} {msg}  {per_sec}  {eta} left";
const STEP_TEMPLATE: &str = "{prefix} {wide_bar} {pos}/{len} {msg}  {elapsed}";
const SPINNER_TEMPLATE: &str = "{prefix} {spinner} {pos} {msg}  {elapsed}";
const BYTES_TEMPLATE: &str = "{prefix} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
const BYTES_SPINNER_TEMPLATE: &str = "{prefix} {spinner} {bytes}  {bytes_per_sec}";

impl ProgressBars {
    pub(crate) fn new() -> Self {
        // indicatif draws nothing if stderr is not a terminal.
        Self {
            screen: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            current: Mutex::default(),
        }
    }

    /// Writes lines to stderr above the bar.
    pub(crate) fn print(&self, lines: &str) {
        self.suspend(|| lines.split('\n').for_each(|line| print_stderr_line(&Escaped(line))));
    }

    /// Hides the bar while `action` writes to the terminal. `action` must not use the bar.
    pub(crate) fn suspend<R>(&self, action: impl FnOnce() -> R) -> R {
        self.screen.suspend(action)
    }

    /// Shows a bar; a previous one is cleared.
    fn start_bar(&self, bar: ProgressBar, style: &str, prefix: &str, unit: &'static str) {
        let style = ProgressStyle::with_template(style).expect("the templates are constants");
        let bar = self.screen.add(bar.with_style(style).with_prefix(prefix.to_owned()).with_message(unit));
        if let Some(previous) = self.lock_bar().replace(bar) {
            previous.finish_and_clear();
        }
    }

    fn with_bar(&self, action: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.lock_bar().as_ref() {
            action(bar);
        }
    }

    fn clear_bar(&self) {
        if let Some(bar) = self.lock_bar().take() {
            bar.finish_and_clear();
        }
    }

    fn lock_bar(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::print_stderr, reason = "messages are written to stderr here")]
fn print_stderr_line(line: &Escaped<&str>) {
    eprintln!("{line}");
}

impl DownloadProgress for ProgressBars {
    fn start(&self, file: &str, bytes: Option<u64>) {
        let (bar, style) = match bytes {
            Some(bytes) => (ProgressBar::new(bytes), BYTES_TEMPLATE),
            None => (ProgressBar::no_length(), BYTES_SPINNER_TEMPLATE),
        };
        self.start_bar(bar, style, &format!("downloading {file}"), "");
    }

    fn advance(&self, bytes: u64) {
        self.with_bar(|bar| bar.inc(bytes));
    }

    fn finish(&self) {
        self.clear_bar();
    }
}

impl Progress for ProgressBars {
    fn begin(&self, phase: &str, total: u64, unit: &'static str) {
        let (bar, style) = if total > 0 {
            (ProgressBar::new(total), COUNT_TEMPLATE)
        } else {
            (ProgressBar::no_length(), SPINNER_TEMPLATE)
        };
        self.start_bar(bar, style, phase, unit);
    }

    fn step(&self, count: u64) {
        self.with_bar(|bar| bar.inc(count));
    }

    fn set_position(&self, done: u64, total: u64) {
        self.with_bar(|bar| {
            if bar.length() != Some(total) {
                bar.set_style(
                    ProgressStyle::with_template(STEP_TEMPLATE).expect("the templates are constants"),
                );
                bar.set_length(total);
            }
            bar.set_position(done);
        });
    }

    fn end(&self) {
        self.clear_bar();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Position, length, prefix and unit of the bar.
    fn bar_state(bars: &ProgressBars) -> Option<(u64, Option<u64>, String, String)> {
        bars.lock_bar().as_ref().map(|bar| (bar.position(), bar.length(), bar.prefix(), bar.message()))
    }

    fn state(
        position: u64,
        length: Option<u64>,
        prefix: &str,
        unit: &str,
    ) -> Option<(u64, Option<u64>, String, String)> {
        Some((position, length, prefix.to_owned(), unit.to_owned()))
    }

    #[test]
    fn a_phase_has_a_bar_that_advances_until_it_ends() {
        let bars = ProgressBars::new();
        assert_eq!(bar_state(&bars), None);
        // Without a phase, steps are ignored.
        bars.step(1);
        bars.begin("computing features", 10, "photos");
        assert_eq!(bar_state(&bars), state(0, Some(10), "computing features", "photos"));
        bars.step(3);
        bars.step(4);
        assert_eq!(bar_state(&bars), state(7, Some(10), "computing features", "photos"));
        bars.begin("fitting", 0, "steps");
        assert_eq!(bar_state(&bars), state(0, None, "fitting", "steps"), "unknown length");
        bars.set_position(5, 20);
        assert_eq!(bar_state(&bars), state(5, Some(20), "fitting", "steps"), "a fit reports its progress");
        bars.set_position(6, 20);
        bars.set_position(7, 30);
        assert_eq!(bar_state(&bars), state(7, Some(30), "fitting", "steps"));
        Progress::end(&bars);
        assert_eq!(bar_state(&bars), None);
    }

    #[test]
    fn a_download_has_a_bar_of_its_bytes() {
        let bars = ProgressBars::new();
        bars.start("model.safetensors", Some(1000));
        bars.advance(300);
        bars.advance(200);
        assert_eq!(bar_state(&bars), state(500, Some(1000), "downloading model.safetensors", ""));
        bars.finish();
        assert_eq!(bar_state(&bars), None);
        bars.start("config.json", None);
        assert_eq!(bar_state(&bars), state(0, None, "downloading config.json", ""));
    }
}
