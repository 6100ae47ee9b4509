//! Notes, warnings and errors, on stderr.

use std::fmt::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use headstock_inference::{FailureKind, InferenceError};
use headstock_train::TrainError;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::hints::hint;
use crate::output::StdoutError;
use crate::progress::ProgressBars;

/// Makes the notes and warnings that the crates of headstock log (events of `tracing`) appear as lines on
/// stderr, above the progress bar. Called once, when the program starts.
pub(crate) fn install(bars: &Arc<ProgressBars>) {
    let subscriber = tracing_subscriber::registry().with(StderrLayer { bars: Arc::clone(bars) });
    // This fails if the calling program has set a subscriber before: its choice stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// A layer of `tracing-subscriber` that prints each event as a line on stderr.
struct StderrLayer {
    bars: Arc<ProgressBars>,
}

impl<S: Subscriber> Layer<S> for StderrLayer {
    /// Prints a logged event as `LABEL: MESSAGE`, such as `warning: ...`. Events that [`level_label`] gives
    /// no label are dropped.
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(label) = level_label(*event.metadata().level(), event.metadata().target()) else { return };
        let mut message = MessageVisitor::default();
        event.record(&mut message);
        self.bars.print(&format!("{label}: {}", message.text));
    }
}

/// The word printed before the message of an event of this level; `None` if the event is not shown: it is
/// more detailed than a note, or its target (the module that logged it) is not one of headstock's crates.
fn level_label(level: Level, target: &str) -> Option<&'static str> {
    // What other crates log is not needed: their problems reach us as errors, reported with their context.
    if level > Level::INFO || !target.starts_with("headstock") {
        return None;
    }
    Some(match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        _ => "note",
    })
}

/// Collects the message of an event; its other fields are not shown.
#[derive(Default)]
struct MessageVisitor {
    text: String,
}

impl Visit for MessageVisitor {
    /// Receives the fields of an event one by one, of any type, and keeps only the field `message`.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.text, "{value:?}").expect("writing to a string cannot fail");
        }
    }
}

/// Prints the error that ended a command; returns the exit status of the program, as `--help` lists them.
pub(crate) fn report_error(error: &anyhow::Error, bars: &ProgressBars) -> ExitCode {
    if error.downcast_ref().is_some_and(StdoutError::is_broken_pipe) {
        // The reader of stdout, such as `head`, has seen enough.
        return ExitCode::SUCCESS;
    }
    bars.print(&format_error(error));
    let train = error.downcast_ref().map(TrainError::kind);
    ExitCode::from(match train.or_else(|| error.downcast_ref().map(InferenceError::kind)) {
        Some(FailureKind::Usage) => 2,
        Some(FailureKind::Data) => 3,
        Some(FailureKind::Hub) => 4,
        Some(FailureKind::Failed) | None => 1,
    })
}

/// Formats a line `error: ...`, then a line `because: ...` for each cause that the line above does not
/// contain, and a line `hint: ...` if a flag or a key of the config helps.
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
    if let Some(hint) = hint(error) {
        write!(text, "\n  hint: {hint}").expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests;
