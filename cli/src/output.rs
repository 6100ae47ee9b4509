//! What goes to stdout.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;
use thiserror::Error;

/// Stdout: figures for people, and with `--json` a last line for programs.
pub(crate) struct Output {
    json: bool,
    out: io::BufWriter<Box<dyn Write>>,
}

/// Stdout takes no more. A type of its own: a reader who has seen enough is no failure, and a broken pipe elsewhere is one.
#[derive(Debug, Error)]
#[error("failed to write to stdout")]
pub(crate) struct StdoutError(#[from] io::Error);

impl StdoutError {
    /// Whether whoever read our output has gone.
    pub(crate) fn reader_left(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, out: io::BufWriter::new(Box::new(io::stdout())) }
    }

    /// What `print` writes in place of to stdout.
    #[cfg(test)]
    pub(crate) fn printed(json: bool, print: impl FnOnce(&mut Self)) -> String {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let again = file.reopen().expect("the same file");
        let mut output = Self { json, out: io::BufWriter::new(Box::new(again)) };
        print(&mut output);
        output.flush().expect("a file takes it");
        std::fs::read_to_string(file.path()).expect("text")
    }

    /// A line.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> Result<(), StdoutError> {
        Ok(writeln!(self.out, "{}", line.as_ref())?)
    }

    /// A line of a CSV.
    pub(crate) fn record(&mut self, fields: impl IntoIterator<Item = String>) -> Result<(), StdoutError> {
        let mut line = csv::Writer::from_writer(Vec::new());
        line.write_record(fields).expect("a vector takes every byte");
        Ok(self.out.write_all(&line.into_inner().expect("a vector takes every byte"))?)
    }

    /// Shows what was written so far.
    pub(crate) fn flush(&mut self) -> Result<(), StdoutError> {
        Ok(self.out.flush()?)
    }

    /// The figures of the command: the last line where `--json` is given.
    pub(crate) fn figures(&mut self, figures: &impl Serialize) -> Result<(), StdoutError> {
        if self.json {
            self.line(serde_json::to_string(figures).expect("figures are JSON"))?;
        }
        self.flush()
    }
}

/// Text that stays on its line and gives the terminal no orders: control characters are escaped.
pub(crate) struct Shown<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_a_line_where_they_are_asked_for_and_all_is_shown_at_once() {
        let print = |out: &mut Output| {
            out.line("a line").unwrap();
            out.record(["a,b".to_owned(), "say \"c\"".to_owned()]).unwrap();
            out.figures(&[1, 2]).unwrap();
        };
        let text = "a line\n\"a,b\",\"say \"\"c\"\"\"\n";
        assert_eq!(Output::printed(false, print), text);
        assert_eq!(Output::printed(true, print), format!("{text}[1,2]\n"));
    }

    #[test]
    fn only_a_reader_who_left_is_one() {
        let of = |kind| StdoutError::from(io::Error::from(kind)).reader_left();
        assert!(of(io::ErrorKind::BrokenPipe) && !of(io::ErrorKind::StorageFull));
    }

    #[test]
    fn control_characters_are_escaped_and_letters_are_not() {
        assert_eq!(Shown("a\nb\u{1b}[31m\u{9b}\tGröße 猫").to_string(), r"a\nb\u{1b}[31m\u{9b}\tGröße 猫");
    }
}
