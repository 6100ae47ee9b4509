//! Threads that go through a network side by side.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Turns of a waiting thread before it lets others have the core. Members arrive within microseconds of each other unless
/// something else runs on their core.
const SPINS: usize = 2_000;

/// Where the members of a team wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    arrived: AtomicUsize,
    round: AtomicUsize,
    /// A member will never come.
    broken: AtomicBool,
}

/// Breaks a barrier when its thread panics, so that nobody waits there for ever.
pub(crate) struct Breaking<'a>(pub(crate) &'a Barrier);

impl Drop for Breaking<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
        }
    }
}

/// One thread of a team.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) index: usize,
    /// Members in the team.
    pub(crate) of: usize,
    pub(crate) barrier: &'a Barrier,
}

impl Member<'_> {
    /// Waits until all members are here; what they wrote before can then be read. Panics when one of them has.
    pub(crate) fn wait(&self) {
        if self.of == 1 {
            return;
        }
        let Barrier { arrived, round, broken } = self.barrier;
        let now = round.load(Ordering::Relaxed);
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.of {
            arrived.store(0, Ordering::Relaxed);
            round.store(now.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut turns = 0;
        while round.load(Ordering::Acquire) == now {
            assert!(!broken.load(Ordering::Acquire), "another thread of the team has panicked");
            turns += 1;
            if turns < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// This member's share of `0..count`.
    pub(crate) fn share(&self, count: usize) -> Range<usize> {
        share(self.index, self.of, count)
    }
}

/// Part `index` of `of` nearly equal parts of `0..count`.
pub(crate) fn share(index: usize, of: usize, count: usize) -> Range<usize> {
    index * count / of..(index + 1) * count / of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_a_partition() {
        for of in 1..6 {
            for count in 0..20 {
                let all: Vec<usize> = (0..of).flat_map(|index| share(index, of, count)).collect();
                assert_eq!(all, (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn nobody_waits_for_one_that_has_panicked() {
        let barrier = Barrier::default();
        let member = |index| {
            let barrier = &barrier;
            move || {
                let _breaking = Breaking(barrier);
                assert_eq!(index, 0, "on purpose");
                Member { index, of: 2, barrier }.wait();
            }
        };
        std::thread::scope(|scope| {
            let threads = [scope.spawn(member(0)), scope.spawn(member(1))];
            assert!(threads.into_iter().all(|thread| thread.join().is_err()));
        });
    }

    #[test]
    fn nobody_passes_before_the_last_has_come() {
        let (barrier, arrived) = (Barrier::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for index in 0..3 {
                let (barrier, arrived) = (&barrier, &arrived);
                scope.spawn(move || {
                    let member = Member { index, of: 3, barrier };
                    for round in 1..50 {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        member.wait();
                        assert_eq!(arrived.load(Ordering::SeqCst), 3 * round);
                        member.wait();
                    }
                });
            }
        });
    }
}
