//! What goes to stdout.

use std::io::{self, Write};

use serde::Serialize;

/// Stdout: figures for people, and with `--json` a last line for programs.
pub(crate) struct Output {
    json: bool,
    out: io::BufWriter<io::Stdout>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, out: io::BufWriter::new(io::stdout()) }
    }

    /// A line.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.out, "{}", line.as_ref())
    }

    /// Shows what was written so far.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The figures of the command: the last line where `--json` is given.
    pub(crate) fn figures(&mut self, figures: &impl Serialize) -> io::Result<()> {
        if self.json {
            let figures = serde_json::to_string(figures)?;
            self.line(figures)?;
        }
        self.flush()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
