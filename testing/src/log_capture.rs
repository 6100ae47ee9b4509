//! Captures log output.

use std::io::{self, Write};
use std::sync::{Arc, LazyLock, Mutex};

use tracing::Dispatch;
use tracing::subscriber::{NoSubscriber, with_default};

/// Extra dispatchers, registered because `tracing` caches an event as disabled for all threads if only one
/// subscriber exists and a thread without it reaches the event first.
static EXTRA_DISPATCHERS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));

/// Calls `run` and returns the text that this thread logs meanwhile, so that a test can check it.
pub fn capture_log(run: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct LogBuffer(Arc<Mutex<Vec<u8>>>);
    impl Write for LogBuffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    LazyLock::force(&EXTRA_DISPATCHERS); // or `tracing` may drop the events
    let log = LogBuffer::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    with_default(subscriber, run);
    String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
}
