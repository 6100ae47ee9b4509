//! Notes, warnings and errors, on stderr.

use std::fmt::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use headstock_train::{FailureKind, TrainError};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::output::StdoutError;
use crate::progress::ProgressBars;

/// Prints `tracing` events of the libraries as lines on stderr.
pub(crate) fn install(bars: &Arc<ProgressBars>) {
    let subscriber = tracing_subscriber::registry().with(StderrLayer(Arc::clone(bars)));
    // A program that has set its own subscriber before uses that one.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Prints each event as a line.
struct StderrLayer(Arc<ProgressBars>);

impl<S: Subscriber> Layer<S> for StderrLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(label) = level_label(*event.metadata().level(), event.metadata().target()) else { return };
        let mut message = MessageVisitor::default();
        event.record(&mut message);
        self.0.print(&format!("{label}: {}", message.0));
    }
}

/// The word before a message of this level; `None` if events of this level and target are not shown.
fn level_label(level: Level, target: &str) -> Option<&'static str> {
    // Problems in other crates reach us as errors, which are reported with their context.
    if level > Level::INFO || !target.starts_with("headstock") {
        return None;
    }
    Some(match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        _ => "note",
    })
}

/// Collects the message of an event.
#[derive(Default)]
struct MessageVisitor(String);

impl Visit for MessageVisitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").expect("writing to a string cannot fail");
        }
    }
}

/// Prints an error; returns the exit status of the program.
pub(crate) fn report_error(error: &anyhow::Error, bars: &ProgressBars) -> ExitCode {
    if error.downcast_ref().is_some_and(StdoutError::is_broken_pipe) {
        // The reader of stdout has seen enough.
        return ExitCode::SUCCESS;
    }
    bars.print(&format_error(error));
    ExitCode::from(match error.downcast_ref::<TrainError>().map(TrainError::kind) {
        Some(FailureKind::Usage) => 2,
        Some(FailureKind::Data) => 3,
        Some(FailureKind::Hub) => 4,
        Some(FailureKind::Failed) | None => 1,
    })
}

/// The error and below it its causes, a line each.
fn format_error(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    let mut previous = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Transparent errors and libraries that print their source would repeat the cause.
        if !previous.contains(&cause) {
            write!(text, "\n  because: {cause}").expect("writing to a string cannot fail");
        }
        previous = cause;
    }
    text
}

#[cfg(test)]
mod tests;
