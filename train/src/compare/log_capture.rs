//! Captures the warnings of fits for the results: 5 folds of 20 candidates would log the same warning 100
//! times.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// Runs `action`. Returns its result, and the messages that it logs on this thread with `level` or a more
/// severe one. These messages are not logged elsewhere: the caller puts them in its result.
pub(crate) fn capture_events<R>(level: Level, action: impl FnOnce() -> R) -> (R, Vec<String>) {
    let messages = Arc::new(Mutex::new(Vec::new()));
    let subscriber = CaptureSubscriber { level, messages: Arc::clone(&messages) };
    let result = tracing::dispatcher::with_default(&Dispatch::new(subscriber), action);
    let messages = std::mem::take(&mut *messages.lock().unwrap_or_else(PoisonError::into_inner));
    (result, messages)
}

/// A `tracing` subscriber that collects the messages of log events with `level` or a more severe one.
struct CaptureSubscriber {
    level: Level,
    messages: Arc<Mutex<Vec<String>>>,
}

impl Subscriber for CaptureSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    /// Adds the message of a log event to the captured ones.
    fn event(&self, event: &Event<'_>) {
        let mut message = MessageVisitor(String::new());
        event.record(&mut message);
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(message.0);
    }

    // Spans are ignored: all get the same id.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Gets the text of a log event, into its string: `tracing` passes each field of the event to the visitor.
struct MessageVisitor(String);

impl Visit for MessageVisitor {
    /// Appends the value of the field `message`, which is the text of a log event; ignores other fields.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").expect("writing to a string does not fail");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_warnings_are_captured() {
        let (result, messages) = capture_events(Level::WARN, || {
            tracing::warn!("after {} steps", 3);
            tracing::info!("by the way");
            7
        });
        assert_eq!((result, messages), (7, vec!["after 3 steps".to_owned()]));
    }
}
