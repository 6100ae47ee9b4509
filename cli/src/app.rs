//! The program: which heads it knows, and how it runs a command.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use headstock_heads::{HeadConfig, Registry, RegistryError};

use crate::args::{Arguments, Command};
use crate::commands::{self, Session};
use crate::messages;
use crate::output::Output;
use crate::progress::Bars;

/// `headstock` with the built-in heads and those that are added.
pub struct App {
    heads: Result<Registry, RegistryError>,
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

impl App {
    /// With the built-in heads.
    #[must_use]
    pub fn new() -> Self {
        Self { heads: Ok(Registry::builtin()) }
    }

    /// Adds a head. A name that is taken makes [`run`](Self::run) fail.
    #[must_use]
    pub fn with_head<C: HeadConfig>(self) -> Self {
        Self { heads: self.heads.and_then(|mut heads| heads.add::<C>().map(|()| heads)) }
    }

    /// Every command with its arguments, for what describes them: shell completions, pages, tests.
    #[must_use]
    pub fn command() -> clap::Command {
        Arguments::command()
    }

    /// Runs the command that the program's arguments name; its exit status is the result: 0 done, 1 failed, 2 bad usage
    /// or config, 3 bad data, 4 the hub or the network.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let started = Instant::now();
        let arguments = match Arguments::try_parse() {
            Ok(arguments) => arguments,
            Err(error) => {
                // Help and version come as errors too. Where even that cannot be printed, the status still tells.
                let _ = error.print();
                let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
                return ExitCode::from(if asked { 0 } else { 2 });
            }
        };
        let bars = Arc::new(Bars::new());
        messages::install(&bars);
        match self.dispatch(arguments, &bars, started) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => messages::report(&error, &bars),
        }
    }

    fn dispatch(self, arguments: Arguments, bars: &Bars, started: Instant) -> anyhow::Result<()> {
        let heads = self.heads.context("this program is built wrongly")?;
        let Arguments { command, global } = arguments;
        if let Some(threads) = global.threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
            pool.build_global().context("failed to start the threads")?;
        }
        let mut output = Output::new(global.json);
        let mut session = Session { global, heads, bars, output: &mut output, started };
        match command {
            Command::Init(args) => commands::init::run(&args, &mut session),
            Command::Train(args) => commands::train::run(&args, &mut session),
            Command::Compare(args) => commands::compare::run(&args, &mut session),
            Command::Predict(args) => commands::predict::run(&args, &mut session),
            Command::Evaluate(args) => commands::evaluate::run(&args, &mut session),
            Command::Extract(args) => commands::extract::run(&args, &mut session),
            Command::Split(args) => commands::split::run(&args, &mut session),
            Command::Doctor(args) => commands::doctor::run(&args, &mut session),
            Command::Heads(args) => commands::heads::run(&args, &mut session),
            Command::Bench(args) => commands::bench::run(&args, &mut session),
        }
    }
}

#[cfg(test)]
mod tests {
    use headstock_heads::knn::KnnConfig;

    use super::*;

    fn heads(app: App) -> anyhow::Result<()> {
        let arguments = Arguments::try_parse_from(["headstock", "heads"]).unwrap();
        app.dispatch(arguments, &Bars::new(), Instant::now())
    }

    #[test]
    fn a_head_whose_name_is_taken_makes_a_program_that_says_so_whatever_it_is_asked_for() {
        let twice = heads(App::new().with_head::<KnnConfig>()).unwrap_err();
        let said: Vec<String> = twice.chain().map(ToString::to_string).collect();
        assert_eq!(said, ["this program is built wrongly", "a head named `knn` is already registered"]);
        heads(App::default()).unwrap();
    }
}
