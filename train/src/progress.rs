//! How long work reports how far it is.

use headstock_backbone::DownloadProgress;

/// Is told how far work is. One phase runs at a time.
pub trait Progress: DownloadProgress {
    /// A phase begins: `what` is done `total` times, counted in `unit` (`photos`).
    fn begin(&self, what: &str, total: u64, unit: &'static str);
    /// `count` more are done.
    fn step(&self, count: u64);
    /// So many are done by now, out of so many at most.
    fn reach(&self, done: u64, total: u64);
    /// The phase is over.
    fn end(&self);
}

/// Reports to nobody.
impl Progress for () {
    fn begin(&self, _what: &str, _total: u64, _unit: &'static str) {}
    fn step(&self, _count: u64) {}
    fn reach(&self, _done: u64, _total: u64) {}
    fn end(&self) {}
}
