//! Output on stdout.

use std::fmt;
use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use thiserror::Error;

/// Buffered stdout: text, and with `--json` a last line of JSON for programs.
pub(crate) struct Output {
    /// Whether `--json` is given.
    json: bool,
    out: io::BufWriter<Box<dyn Write>>,
}

/// A failed write to stdout. It is a separate type because a closed pipe (`headstock ... | head`) is no
/// failure on stdout, but is one in a download.
#[derive(Debug, Error)]
#[error("failed to write the results to stdout: check the file or program that receives the output")]
pub(crate) struct StdoutError(#[from] io::Error);

impl StdoutError {
    /// Whether the reader of our output has closed the pipe.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl Output {
    /// An empty buffer before stdout; `json` is whether `--json` is given.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, out: io::BufWriter::new(Box::new(io::stdout())) }
    }

    /// For tests: runs `print` with an output to a temporary file instead of stdout, and returns what it
    /// wrote.
    #[cfg(test)]
    pub(crate) fn capture(json: bool, print: impl FnOnce(&mut Self)) -> String {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let handle = file.reopen().expect("the file can be reopened");
        let mut output = Self { json, out: io::BufWriter::new(Box::new(handle)) };
        print(&mut output);
        output.flush().expect("the file can be written");
        std::fs::read_to_string(file.path()).expect("the output is UTF-8")
    }

    /// Writes `line` and a line break.
    pub(crate) fn print(&mut self, line: impl AsRef<str>) -> Result<(), StdoutError> {
        Ok(writeln!(self.out, "{}", line.as_ref())?)
    }

    /// Writes the fields as a row of a CSV, quoted where necessary, for `predict --format csv`.
    pub(crate) fn print_csv(&mut self, fields: impl IntoIterator<Item = String>) -> Result<(), StdoutError> {
        self.print_delimited(b',', fields)
    }

    /// As [`print_csv`](Self::print_csv), with `delimiter` between the fields.
    pub(crate) fn print_delimited(
        &mut self,
        delimiter: u8,
        fields: impl IntoIterator<Item = String>,
    ) -> Result<(), StdoutError> {
        let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
        writer.write_record(fields).expect("writing to a vector cannot fail");
        Ok(self.out.write_all(&writer.into_inner().expect("writing to a vector cannot fail"))?)
    }

    /// Writes the buffer to stdout, so that results are seen before the next long step.
    pub(crate) fn flush(&mut self) -> Result<(), StdoutError> {
        Ok(self.out.flush()?)
    }

    /// Ends the output of a command: writes `value` as a line of JSON if `--json` is given, and flushes the
    /// buffer in any case.
    pub(crate) fn print_json(&mut self, value: &impl Serialize) -> Result<(), StdoutError> {
        if self.json {
            self.print(serde_json::to_string(value).expect("the value is JSON"))?;
        }
        self.flush()
    }
}

/// The rows of a table as lines, with each column padded to its widest field: the first and the last column
/// are left-aligned, the others right-aligned. The first row is the header.
pub(crate) fn align_columns(rows: Vec<Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).add_rows(rows);
    let last = table.column_count().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
        if (1..last).contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt().lines().map(str::to_owned).collect()
}

/// A file name, class name or message with its control characters escaped: it stays on one line and sends no
/// commands to the terminal.
pub(crate) struct Escaped<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    /// Writes the text with each control character as its Rust escape, such as `\n` or `\u{1b}`, so that a
    /// file name cannot send commands to the terminal.
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
    fn json_is_one_line_if_requested_and_output_is_flushed() {
        let print = |out: &mut Output| {
            out.print("a line").unwrap();
            out.print_csv(["a,b".to_owned(), "say \"c\"".to_owned()]).unwrap();
            out.print_json(&[1, 2]).unwrap();
        };
        let text = "a line\n\"a,b\",\"say \"\"c\"\"\"\n";
        assert_eq!(Output::capture(false, print), text);
        assert_eq!(Output::capture(true, print), format!("{text}[1,2]\n"));
    }

    #[test]
    fn only_a_broken_pipe_is_a_closed_reader() {
        let is_broken_pipe = |kind| StdoutError::from(io::Error::from(kind)).is_broken_pipe();
        assert!(is_broken_pipe(io::ErrorKind::BrokenPipe) && !is_broken_pipe(io::ErrorKind::StorageFull));
    }

    #[test]
    fn control_characters_are_escaped_and_letters_are_not() {
        assert_eq!(Escaped("a\nb\u{1b}[31m\u{9b}\tGröße 猫").to_string(), r"a\nb\u{1b}[31m\u{9b}\tGröße 猫");
    }
}
