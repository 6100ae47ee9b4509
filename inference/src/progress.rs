//! Progress reports of long operations.

use headstock_hub::DownloadProgress;

/// Receives reports of the progress of long operations, for example to show a progress bar. One phase, such
/// as reading images, runs at a time.
pub trait Progress: DownloadProgress {
    /// Begins the phase `task` of `total` steps (0 if their number is not known yet), counted in `unit`, a
    /// noun in the plural such as `photos`.
    fn begin(&self, task: &str, total: u64, unit: &'static str);
    /// Advances the current phase by `count` more steps.
    fn step(&self, count: u64);
    /// Sets the position of the current phase: `done` of at most `total` steps. For phases that report their
    /// position and not each step.
    fn set_position(&self, done: u64, total: u64);
    /// Reports an event of the current phase, such as an epoch with its loss, for logs.
    fn milestone(&self, text: &str);
    /// Ends the current phase.
    fn end(&self);
}

/// Ignores progress.
impl Progress for () {
    fn begin(&self, _task: &str, _total: u64, _unit: &'static str) {}
    fn step(&self, _count: u64) {}
    fn set_position(&self, _done: u64, _total: u64) {}
    fn milestone(&self, _text: &str) {}
    fn end(&self) {}
}
