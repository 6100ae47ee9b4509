//! Progress of downloads.

/// Receives the progress of downloads, to display it.
///
/// Files that are already in the cache are not reported. `finish` is not called if a download fails.
pub trait DownloadProgress: Sync {
    /// Called when the download of `file` starts. It is called again if the download was damaged and
    /// restarts at 0 bytes. `bytes` is the file size, if the hub reports it.
    fn start(&self, file: &str, bytes: Option<u64>);
    /// Called about ten times a second; `bytes` is the number of bytes that arrived since the last call.
    fn advance(&self, bytes: u64);
    /// Called when the file is complete and matches the hash of the hub.
    fn finish(&self);
}

/// `()` ignores the progress, for callers that do not display it.
impl DownloadProgress for () {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}
