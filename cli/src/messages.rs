//! Notes, warnings and errors, on stderr.

use std::fmt::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use headstock_train::{FailureKind, TrainError};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::output::StdoutError;
use crate::progress::Bars;

/// Prints events of the libraries as lines from now on.
pub(crate) fn install(bars: &Arc<Bars>) {
    let lines = tracing_subscriber::registry().with(Lines(Arc::clone(bars)));
    // A program that has set up its own subscriber before keeps it.
    let _ = tracing::subscriber::set_global_default(lines);
}

/// Turns events into lines.
struct Lines(Arc<Bars>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(kind) = kind(*event.metadata().level(), event.metadata().target()) else { return };
        let mut message = Message::default();
        event.record(&mut message);
        self.0.print(&format!("{kind}: {}", message.0));
    }
}

/// What a line of this level is called; none where it is not shown.
fn kind(level: Level, target: &str) -> Option<&'static str> {
    // What other crates complain of comes back as an error, and is told then with what it means.
    if level > Level::INFO || !target.starts_with("headstock") {
        return None;
    }
    Some(match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        _ => "note",
    })
}

/// The text of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").expect("a string takes every byte");
        }
    }
}

/// Says what went wrong, and with which status the program ends.
pub(crate) fn report(error: &anyhow::Error, bars: &Bars) -> ExitCode {
    if error.downcast_ref().is_some_and(StdoutError::reader_left) {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
    bars.print(&text(error));
    ExitCode::from(match error.downcast_ref::<TrainError>().map(TrainError::kind) {
        Some(FailureKind::Usage) => 2,
        Some(FailureKind::Data) => 3,
        Some(FailureKind::Hub) => 4,
        Some(FailureKind::Failed) | None => 1,
    })
}

/// The error, and below it what it comes from.
fn text(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    let mut before = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Transparent errors and libraries that print their source would say it twice.
        if !before.contains(&cause) {
            write!(text, "\n  because: {cause}").expect("a string takes every byte");
        }
        before = cause;
    }
    text
}

#[cfg(test)]
mod tests;
