//! Teams of threads that run a network together.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Iterations of the spin loop before a waiting thread yields the core. Threads arrive within microseconds of
/// each other unless something else runs on their cores.
const SPINS: usize = 2_000;

/// A spinning barrier for the threads of a team, which synchronize after each layer: too often to sleep.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// Threads that wait in this round.
    arrived: AtomicUsize,
    /// Number of times that all threads have arrived.
    round: AtomicUsize,
    /// A thread has panicked and will never arrive.
    poisoned: AtomicBool,
}

/// Poisons a barrier when its thread panics, so that the other threads panic too instead of waiting forever.
pub(crate) struct PoisonOnPanic<'a>(pub(crate) &'a Barrier);

impl Drop for PoisonOnPanic<'_> {
    /// Poisons the barrier if this thread unwinds from a panic, so that the other threads of the team do not
    /// wait for it forever; does nothing at an ordinary end of the scope.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poisoned.store(true, Ordering::Release);
        }
    }
}

/// One thread of a team.
#[derive(Clone, Copy)]
pub(crate) struct Worker<'a> {
    /// Index of the thread in the team.
    pub(crate) rank: usize,
    /// Threads in the team.
    pub(crate) team_size: usize,
    pub(crate) barrier: &'a Barrier,
}

impl Worker<'_> {
    /// Waits until all threads of the team have called this; the values that they wrote before are then
    /// visible. They call it for example at the end of a layer, since the next layer reads the output of all
    /// threads. Panics if one of them has panicked.
    pub(crate) fn wait(&self) {
        if self.team_size == 1 {
            return;
        }
        let Barrier { arrived, round, poisoned } = self.barrier;
        let current = round.load(Ordering::Relaxed);
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.team_size {
            // The last thread to arrive ends the round, for which the others wait.
            arrived.store(0, Ordering::Relaxed);
            round.store(current.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0;
        while round.load(Ordering::Acquire) == current {
            assert!(!poisoned.load(Ordering::Acquire), "another thread of the team has panicked");
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// The range of the units of work `0..count` that this thread computes: its equal share among the team.
    pub(crate) fn own_range(&self, count: usize) -> Range<usize> {
        part_range(self.rank, self.team_size, count)
    }
}

/// Range `index` of the `parts` ranges into which `0..count` is split; their lengths differ by at most one.
/// Threads and teams share work by it.
pub(crate) fn part_range(index: usize, parts: usize, count: usize) -> Range<usize> {
    index * count / parts..(index + 1) * count / parts
}

/// Splits `0..count` into `parts` ranges whose lengths differ by at most one, in order.
pub(crate) fn split_evenly(count: usize, parts: usize) -> Vec<Range<usize>> {
    (0..parts).map(|index| part_range(index, parts, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_ranges_are_a_partition() {
        for parts in 1..6 {
            for count in 0..20 {
                let all: Vec<usize> = (0..parts).flat_map(|index| part_range(index, parts, count)).collect();
                assert_eq!(all, (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_panic_ends_the_wait_of_the_other_threads() {
        let barrier = Barrier::default();
        let worker = |index| {
            let barrier = &barrier;
            move || {
                let _poison = PoisonOnPanic(barrier);
                assert_eq!(index, 0, "on purpose");
                Worker { rank: index, team_size: 2, barrier }.wait();
            }
        };
        std::thread::scope(|scope| {
            let threads = [scope.spawn(worker(0)), scope.spawn(worker(1))];
            assert!(threads.into_iter().all(|thread| thread.join().is_err()));
        });
    }

    #[test]
    fn no_thread_passes_before_the_last_arrives() {
        let (barrier, arrived) = (Barrier::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for index in 0..3 {
                let (barrier, arrived) = (&barrier, &arrived);
                scope.spawn(move || {
                    let worker = Worker { rank: index, team_size: 3, barrier };
                    for round in 1..50 {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        worker.wait();
                        assert_eq!(arrived.load(Ordering::SeqCst), 3 * round);
                        worker.wait();
                    }
                });
            }
        });
    }
}
