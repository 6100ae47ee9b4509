//! What sees to it that nothing hangs, and nothing takes more memory than it may.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How long one may take, of the watch's own ticks: a process that is stopped for a while takes no longer for it.
const TICK: Duration = Duration::from_millis(100);
const MAX_TICKS: usize = 50;

/// Has `act` read files 0 to `files`, and counts those for which it gives true and false.
pub(crate) fn run_with_timeout(files: usize, process: impl Fn(usize) -> bool + Sync) -> (usize, usize) {
    let (started, read, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            for number in 0..files {
                started.store(number + 1, Ordering::Relaxed);
                let count = if process(number) { &read } else { &refused };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (mut last_started, mut ticks) = (0, 0);
        while !worker.is_finished() {
            thread::sleep(TICK);
            let now = started.load(Ordering::Relaxed);
            (last_started, ticks) = if now == last_started { (last_started, ticks + 1) } else { (now, 0) };
            if ticks > MAX_TICKS {
                abort_with(&format!("file {} takes more than 5 s", last_started - 1));
            }
        }
    });
    let (read, refused) = (read.into_inner(), refused.into_inner());
    assert_eq!(read + refused, files);
    (read, refused)
}

/// The thread that hangs cannot be stopped, so the process is.
#[expect(clippy::print_stderr, reason = "a test that hangs can say so in no other way")]
fn abort_with(message: &str) -> ! {
    eprintln!("{message}");
    std::process::abort()
}

/// Runs a test of this program anew, in little memory.
#[cfg(target_os = "linux")]
pub(crate) fn rerun_with_little_memory(test: &str) {
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 400000 && exec \"$0\" --exact \"$1\" --test-threads 1"])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .output()
        .unwrap();
    let output_text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success() && output_text.contains("1 passed"), "{output_text}");
}
