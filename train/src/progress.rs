//! Progress reports of long operations.

use headstock_backbone::DownloadProgress;

/// Receives progress reports. One phase runs at a time.
pub trait Progress: DownloadProgress {
    /// Begins the phase `task` of `total` steps, counted in `unit` (`photos`).
    fn begin(&self, task: &str, total: u64, unit: &'static str);
    /// Advances by `count` steps.
    fn step(&self, count: u64);
    /// Sets the position to `done` of at most `total` steps.
    fn set_position(&self, done: u64, total: u64);
    /// Ends the phase.
    fn end(&self);
}

/// Ignores progress.
impl Progress for () {
    fn begin(&self, _task: &str, _total: u64, _unit: &'static str) {}
    fn step(&self, _count: u64) {}
    fn set_position(&self, _done: u64, _total: u64) {}
    fn end(&self) {}
}
