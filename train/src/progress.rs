//! How long work reports how far it is.

use headstock_backbone::DownloadProgress;

/// Is told how far work is. One phase runs at a time.
pub trait Progress: DownloadProgress {
    /// A phase begins: `what` is done `total` times, counted in `unit` (`photos`).
    fn begin_run(&self, what: &str, total: u64, unit: &'static str);
    /// `count` more are done.
    fn step(&self, count: u64);
    /// So many are done by now, out of so many at most.
    fn set_position(&self, done: u64, total: u64);
    /// The phase is over.
    fn train_to_end(&self);
}

/// Reports to nobody.
impl Progress for () {
    fn begin_run(&self, _what: &str, _total: u64, _unit: &'static str) {}
    fn step(&self, _count: u64) {}
    fn set_position(&self, _done: u64, _total: u64) {}
    fn train_to_end(&self) {}
}
