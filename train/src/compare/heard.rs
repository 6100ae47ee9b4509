//! What fits warn of, kept beside their figures: five folds of twenty candidates would say the same a hundred times.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// Runs `act`; what is warned of on this thread meanwhile goes nowhere else.
pub(super) fn hearing<R>(act: impl FnOnce() -> R) -> (R, Vec<String>) {
    hearing_up_to(Level::WARN, act)
}

/// As [`hearing`], of all events up to `level`.
pub(crate) fn hearing_up_to<R>(level: Level, act: impl FnOnce() -> R) -> (R, Vec<String>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Ear { level, heard: Arc::clone(&heard) };
    let result = tracing::dispatcher::with_default(&Dispatch::new(ear), act);
    let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
    (result, heard)
}

struct Ear {
    level: Level,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(message.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").expect("a string takes every byte");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_kept_and_notes_are_not() {
        let (result, heard) = hearing(|| {
            tracing::warn!("after {} steps", 3);
            tracing::info!("by the way");
            7
        });
        assert_eq!((result, heard), (7, vec!["after 3 steps".to_owned()]));
    }
}
