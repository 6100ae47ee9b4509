//! Progress bars, on stderr and only where it is a terminal.

use std::sync::{Mutex, PoisonError};

use headstock_backbone::DownloadProgress;
use headstock_train::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Shown;

/// The bar of the phase that runs, if any. Where stderr is no terminal nothing is drawn.
pub(crate) struct Bars {
    screen: MultiProgress,
    current: Mutex<Option<ProgressBar>>,
}

const COUNTED: &str = "{prefix} {wide_bar} {pos}/{len} {msg}  {per_sec}  {eta} left";
const STEPPED: &str = "{prefix} {wide_bar} {pos}/{len} {msg}  {elapsed}";
const UNSIZED: &str = "{prefix} {spinner} {pos} {msg}  {elapsed}";
const BYTES: &str = "{prefix} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
const UNSIZED_BYTES: &str = "{prefix} {spinner} {bytes}  {bytes_per_sec}";

impl Bars {
    pub(crate) fn new() -> Self {
        // indicatif draws nothing where stderr is no terminal.
        Self {
            screen: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            current: Mutex::default(),
        }
    }

    /// Writes lines to stderr without tearing a bar.
    pub(crate) fn print(&self, lines: &str) {
        self.aside(|| lines.split('\n').for_each(|line| messages_line(&Shown(line))));
    }

    /// Takes the bar away while `act` writes to the terminal. `act` must not come back here.
    pub(crate) fn aside<R>(&self, act: impl FnOnce() -> R) -> R {
        self.screen.suspend(act)
    }

    fn show(&self, bar: ProgressBar, style: &str, prefix: &str, unit: &'static str) {
        let style = ProgressStyle::with_template(style).expect("the templates are constants");
        let bar = self.screen.add(bar.with_style(style).with_prefix(prefix.to_owned()).with_message(unit));
        if let Some(old) = self.slot().replace(bar) {
            old.finish_and_clear();
        }
    }

    fn with(&self, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.slot().as_ref() {
            act(bar);
        }
    }

    fn clear(&self) {
        if let Some(bar) = self.slot().take() {
            bar.finish_and_clear();
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::print_stderr, reason = "this is where messages go")]
fn messages_line(line: &Shown<&str>) {
    eprintln!("{line}");
}

impl DownloadProgress for Bars {
    fn start(&self, file: &str, bytes: Option<u64>) {
        let (bar, style) = match bytes {
            Some(bytes) => (ProgressBar::new(bytes), BYTES),
            None => (ProgressBar::no_length(), UNSIZED_BYTES),
        };
        self.show(bar, style, &format!("downloading {file}"), "");
    }

    fn advance(&self, bytes: u64) {
        self.with(|bar| bar.inc(bytes));
    }

    fn finish(&self) {
        self.clear();
    }
}

impl Progress for Bars {
    fn begin_run(&self, what: &str, total: u64, unit: &'static str) {
        let (bar, style) =
            if total > 0 { (ProgressBar::new(total), COUNTED) } else { (ProgressBar::no_length(), UNSIZED) };
        self.show(bar, style, what, unit);
    }

    fn step(&self, count: u64) {
        self.with(|bar| bar.inc(count));
    }

    fn set_position(&self, done: u64, total: u64) {
        self.with(|bar| {
            if bar.length() != Some(total) {
                bar.set_style(ProgressStyle::with_template(STEPPED).expect("the templates are constants"));
                bar.set_length(total);
            }
            bar.set_position(done);
        });
    }

    fn train_to_end(&self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the bar is, how far it goes, and what it is called.
    fn shown(bars: &Bars) -> Option<(u64, Option<u64>, String, String)> {
        bars.slot().as_ref().map(|bar| (bar.position(), bar.length(), bar.prefix(), bar.message()))
    }

    fn at(
        position: u64,
        length: Option<u64>,
        prefix: &str,
        unit: &str,
    ) -> Option<(u64, Option<u64>, String, String)> {
        Some((position, length, prefix.to_owned(), unit.to_owned()))
    }

    #[test]
    fn a_phase_has_a_bar_that_goes_on_by_steps_until_it_ends() {
        let bars = Bars::new();
        assert_eq!(shown(&bars), None);
        // Without a phase there is nothing to move.
        bars.step(1);
        bars.begin_run("computing features", 10, "photos");
        assert_eq!(shown(&bars), at(0, Some(10), "computing features", "photos"));
        bars.step(3);
        bars.step(4);
        assert_eq!(shown(&bars), at(7, Some(10), "computing features", "photos"));
        bars.begin_run("fitting", 0, "steps");
        assert_eq!(shown(&bars), at(0, None, "fitting", "steps"), "of an unknown length");
        bars.set_position(5, 20);
        assert_eq!(shown(&bars), at(5, Some(20), "fitting", "steps"), "where a fit says how far it is");
        bars.set_position(6, 20);
        bars.set_position(7, 30);
        assert_eq!(shown(&bars), at(7, Some(30), "fitting", "steps"));
        Progress::train_to_end(&bars);
        assert_eq!(shown(&bars), None);
    }

    #[test]
    fn a_download_has_a_bar_of_its_bytes() {
        let bars = Bars::new();
        bars.start("model.safetensors", Some(1000));
        bars.advance(300);
        bars.advance(200);
        assert_eq!(shown(&bars), at(500, Some(1000), "downloading model.safetensors", ""));
        bars.finish();
        assert_eq!(shown(&bars), None);
        bars.start("config.json", None);
        assert_eq!(shown(&bars), at(0, None, "downloading config.json", ""));
    }
}
