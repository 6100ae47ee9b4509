//! Notes, warnings and errors, on stderr.

use std::fmt::{self, Write};
use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use headstock_train::{Kind, TrainError};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

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
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        // Of other crates only what matters to everyone.
        let least = if target.starts_with("headstock") { Level::INFO } else { Level::WARN };
        if level > least {
            return;
        }
        let mut message = Message::default();
        event.record(&mut message);
        let kind = match level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            _ => "note",
        };
        self.0.print(&format!("{kind}: {}", message.0));
    }
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
    let broken_pipe = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    if error.chain().filter_map(|cause| cause.downcast_ref()).any(broken_pipe) {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
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
    bars.print(&text);
    ExitCode::from(match error.downcast_ref::<TrainError>().map(TrainError::kind) {
        Some(Kind::Usage) => 2,
        Some(Kind::Data) => 3,
        Some(Kind::Hub) => 4,
        Some(Kind::Failed) | None => 1,
    })
}
