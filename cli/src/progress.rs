//! Progress on stderr: bars if it is a terminal, lines otherwise.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use headstock_hub::DownloadProgress;
use headstock_inference::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Escaped;
use crate::progress_lines::{ProgressLines, QUIET, Unit};

/// The progress bar of the current phase, if one runs. A phase is a long operation, such as a download or the
/// computation of features. If stderr is not a terminal, nothing is drawn; lines tell the progress.
pub(crate) struct ProgressBars {
    screen: MultiProgress,
    current: Mutex<Option<ProgressBar>>,
    /// `None` on a terminal.
    lines: Option<Mutex<ProgressLines>>,
}

/// The look of a bar, as a template of indicatif: a phase with a known number of steps, such as photos.
const COUNT_TEMPLATE: &str = "{prefix} {wide_bar} {pos}/{len} {msg}  {per_sec}  {eta} left";
/// The steps of a fit, which may end early, so that no time left is shown.
const STEP_TEMPLATE: &str = "{prefix} {wide_bar} {pos}/{len} {msg}  {elapsed}";
/// A phase whose number of steps is unknown.
const SPINNER_TEMPLATE: &str = "{prefix} {spinner} {pos} {msg}  {elapsed}";
/// A download of known size.
const BYTES_TEMPLATE: &str = "{prefix} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
/// A download of unknown size.
const BYTES_SPINNER_TEMPLATE: &str = "{prefix} {spinner} {bytes}  {bytes_per_sec}";

impl ProgressBars {
    /// An empty screen on stderr; a bar appears when a phase begins.
    pub(crate) fn new() -> Self {
        // indicatif draws nothing if stderr is not a terminal.
        Self {
            screen: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            current: Mutex::default(),
            lines: (!io::stderr().is_terminal()).then(|| Mutex::new(ProgressLines::new(QUIET))),
        }
    }

    /// Calls `action` with the progress as lines, unless there is a bar, and prints the line that it returns.
    fn with_lines(&self, action: impl FnOnce(&mut ProgressLines) -> Option<String>) {
        let Some(lines) = &self.lines else { return };
        let line = action(&mut lines.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(line) = line {
            self.print(&line);
        }
    }

    /// Writes a message of one or more lines to stderr above the bar, with control characters escaped.
    pub(crate) fn print(&self, lines: &str) {
        self.suspend(|| lines.split('\n').for_each(|line| print_stderr_line(&Escaped(line))));
    }

    /// Hides the bar while `action` writes to the terminal. `action` must not use the bar.
    pub(crate) fn suspend<R>(&self, action: impl FnOnce() -> R) -> R {
        self.screen.suspend(action)
    }

    /// Shows `bar` with the look of `template`, one of the constants `..._TEMPLATE`, and removes the bar of
    /// the previous phase. `prefix` names the phase; `unit` is what its steps count, such as `photos`.
    fn start_bar(&self, bar: ProgressBar, template: &str, prefix: &str, unit: &'static str) {
        let style = ProgressStyle::with_template(template).expect("the templates are constants");
        let bar = self.screen.add(bar.with_style(style).with_prefix(prefix.to_owned()).with_message(unit));
        if let Some(previous) = self.lock_bar().replace(bar) {
            previous.finish_and_clear();
        }
    }

    /// Calls `action` with the current bar, to move it. Does nothing if no phase runs.
    fn with_bar(&self, action: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.lock_bar().as_ref() {
            action(bar);
        }
    }

    /// Removes the current bar from the screen.
    fn clear_bar(&self) {
        if let Some(bar) = self.lock_bar().take() {
            bar.finish_and_clear();
        }
    }

    /// Locks the current bar to read or replace it, also if another thread panicked while it held the lock.
    fn lock_bar(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a line to stderr.
#[expect(clippy::print_stderr, reason = "messages are written to stderr here")]
fn print_stderr_line(line: &Escaped<&str>) {
    eprintln!("{line}");
}

impl DownloadProgress for ProgressBars {
    /// Shows a bar for the download of `file`, which has `bytes` bytes, or a spinner if its size is unknown.
    fn start(&self, file: &str, bytes: Option<u64>) {
        let (bar, template) = match bytes {
            Some(bytes) => (ProgressBar::new(bytes), BYTES_TEMPLATE),
            None => (ProgressBar::no_length(), BYTES_SPINNER_TEMPLATE),
        };
        let name = format!("downloading {file}");
        // No unit: the templates of downloads show bytes.
        self.start_bar(bar, template, &name, "");
        self.with_lines(|lines| {
            lines.begin(&name, bytes.unwrap_or(0), Unit::Bytes);
            None
        });
    }

    /// Moves the bar by `bytes` more bytes.
    fn advance(&self, bytes: u64) {
        self.with_bar(|bar| bar.inc(bytes));
        self.with_lines(|lines| lines.advance(bytes));
    }

    /// Removes the bar when the download is complete.
    fn finish(&self) {
        self.clear_bar();
        self.with_lines(ProgressLines::end);
    }
}

impl Progress for ProgressBars {
    /// Shows a bar for a phase of `total` steps, counted in `unit` (a plural such as `photos`), or a spinner
    /// if `total` is 0 because their number is unknown.
    fn begin(&self, phase: &str, total: u64, unit: &'static str) {
        let (bar, template) = if total > 0 {
            (ProgressBar::new(total), COUNT_TEMPLATE)
        } else {
            (ProgressBar::no_length(), SPINNER_TEMPLATE)
        };
        self.start_bar(bar, template, phase, unit);
        self.with_lines(|lines| {
            lines.begin(phase, total, Unit::Named(unit));
            None
        });
    }

    /// Moves the bar by `count` more steps.
    fn step(&self, count: u64) {
        self.with_bar(|bar| bar.inc(count));
        self.with_lines(|lines| lines.advance(count));
    }

    /// Moves the bar to `done` of `total` steps. A fit begins with an unknown total and thus a spinner: the
    /// first call turns it into a bar.
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
        self.with_lines(|lines| lines.set_position(done, total));
    }

    /// Prints a line about the phase, unless there is a bar.
    fn milestone(&self, text: &str) {
        self.with_lines(|lines| lines.milestone(text));
    }

    /// Removes the bar when the phase ends.
    fn end(&self) {
        self.clear_bar();
        self.with_lines(ProgressLines::end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Position, length, prefix and unit of the bar.
    fn bar_state(bars: &ProgressBars) -> Option<(u64, Option<u64>, String, String)> {
        bars.lock_bar().as_ref().map(|bar| (bar.position(), bar.length(), bar.prefix(), bar.message()))
    }

    /// What [`bar_state`] returns for a bar with these properties.
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
