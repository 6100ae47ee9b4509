//! Limits on the time per file and on memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Time is measured in ticks of the watching thread, so that a suspended process does not time out.
const TICK: Duration = Duration::from_millis(100);
const MAX_TICKS: usize = 50;

/// Calls `is_readable` with the numbers of `n_files` files; returns the numbers of readable and refused
/// files. Aborts the process if one call takes more than 5 s.
pub(crate) fn run_with_timeout(n_files: usize, is_readable: impl Fn(usize) -> bool + Sync) -> (usize, usize) {
    let (n_started, read, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            for number in 0..n_files {
                n_started.store(number + 1, Ordering::Relaxed);
                let count = if is_readable(number) { &read } else { &refused };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (mut last_started, mut ticks) = (0, 0);
        while !worker.is_finished() {
            thread::sleep(TICK);
            let now = n_started.load(Ordering::Relaxed);
            (last_started, ticks) = if now == last_started { (last_started, ticks + 1) } else { (now, 0) };
            if ticks > MAX_TICKS {
                abort_with(&format!("file {} takes more than 5 s", last_started - 1));
            }
        }
    });
    let (read, refused) = (read.into_inner(), refused.into_inner());
    assert_eq!(read + refused, n_files);
    (read, refused)
}

/// Aborts the process, because a hanging thread cannot be stopped.
#[expect(clippy::print_stderr, reason = "a hanging test has no other way to report")]
fn abort_with(message: &str) -> ! {
    eprintln!("{message}");
    std::process::abort()
}

/// Runs a test of this program in a new process with 400 MB of address space.
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
