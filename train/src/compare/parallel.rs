//! Runs jobs in parallel, each with its share of the threads.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rayon::ThreadPoolBuilder;

/// Runs `jobs`, such as the fits of different heads, in parallel on `threads` threads in total. They start in
/// order, each when enough threads are free. `run` does a job and gives its result; `threads_needed` is the
/// number of threads that a job uses, clamped to `1..=threads`. Returns the results in the order of the jobs.
///
/// Each job runs on its own rayon threads. With shared threads a waiting fit would execute work of another
/// fit, and its measured time would include both.
pub(super) fn run_parallel<J: Sync, R: Send>(
    jobs: &[J],
    threads: usize,
    threads_needed: impl Fn(&J) -> usize + Sync,
    run: impl Fn(&J) -> R + Sync,
) -> Vec<R> {
    /// The state that all workers share.
    struct ThreadSlots {
        /// The index of the next job.
        next: usize,
        /// The number of threads that no job uses.
        free: usize,
    }
    let slots = Mutex::new(ThreadSlots { next: 0, free: threads });
    let freed = Condvar::new();
    let lock = || slots.lock().unwrap_or_else(PoisonError::into_inner);
    // Waits for the threads of the next job and takes it; `None` if no jobs are left.
    let take_job = || {
        let mut slots: MutexGuard<'_, ThreadSlots> = lock();
        loop {
            let number = slots.next;
            let n_threads = threads_needed(jobs.get(number)?).clamp(1, threads);
            if n_threads <= slots.free {
                slots.next += 1;
                slots.free -= n_threads;
                return Some((number, n_threads));
            }
            slots = freed.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
    };
    // A worker takes and runs jobs until none are left; returns their numbers and results.
    let work = || {
        let mut done = Vec::new();
        while let Some((number, n_threads)) = take_job() {
            let job = &jobs[number];
            let result = match ThreadPoolBuilder::new().num_threads(n_threads).build() {
                Ok(pool) => pool.install(|| run(job)),
                // If no thread can be started, the job runs on this thread and the global pool.
                Err(_) => run(job),
            };
            done.push((number, result));
            lock().free += n_threads;
            freed.notify_all();
        }
        done
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(jobs.len())).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(thread::ScopedJoinHandle::join);
        results.flat_map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_order_and_no_more_threads_are_used_than_there_are() {
        let (used, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let jobs: Vec<usize> = (0..60).collect();
        let threads_needed = |job: &usize| job % 5;
        let results = run_parallel(&jobs, 3, threads_needed, |job| {
            let n_threads = threads_needed(job).clamp(1, 3);
            assert_eq!(rayon::current_num_threads(), n_threads);
            let now = used.fetch_add(n_threads, Ordering::SeqCst) + n_threads;
            peak.fetch_max(now, Ordering::SeqCst);
            thread::yield_now();
            used.fetch_sub(n_threads, Ordering::SeqCst);
            job * 2
        });
        assert!(results.into_iter().eq((0..60).map(|job| job * 2)));
        assert!(peak.load(Ordering::SeqCst) <= 3);
    }

    #[test]
    fn no_job_is_no_work() {
        assert!(run_parallel(&[(); 0], 2, |()| 1, |()| ()).is_empty());
    }
}
