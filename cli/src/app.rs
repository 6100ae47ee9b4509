//! The program: its heads and data sources, and how it runs a command.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use headstock_heads::{HeadConfig, Registry, RegistryError};
use headstock_loader::SourceConfig;
use headstock_loader::source::{SourceRegistry, SourceRegistryError};
use headstock_train::config::Registries;

use crate::args::{Arguments, Command};
use crate::commands::{self, CommandContext};
use crate::messages;
use crate::output::Output;
use crate::progress::ProgressBars;

/// `headstock` with the built-in heads and data sources, and those added by [`with_head`](Self::with_head) and
/// [`with_source`](Self::with_source).
pub struct App {
    /// The heads that commands know, or the error of a name that was added twice, which every command
    /// reports.
    heads: Result<Registry, RegistryError>,
    /// The data sources that commands know, or such an error.
    sources: Result<SourceRegistry, SourceRegistryError>,
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

impl App {
    /// The program with the built-in heads and data sources.
    #[must_use]
    pub fn new() -> Self {
        Self { heads: Ok(Registry::builtin()), sources: Ok(SourceRegistry::builtin()) }
    }

    /// Adds a head of your own, which every command then knows by its name. A name that is already used makes
    /// [`run`](Self::run) fail.
    #[must_use]
    pub fn with_head<C: HeadConfig>(self) -> Self {
        Self { heads: self.heads.and_then(|mut heads| heads.add::<C>().map(|()| heads)), ..self }
    }

    /// Adds a data source of your own, which `[data]` of a config then names by `kind`. A name that is already
    /// used makes [`run`](Self::run) fail.
    #[must_use]
    pub fn with_source<C: SourceConfig>(self) -> Self {
        Self { sources: self.sources.and_then(SourceRegistry::with::<C>), ..self }
    }

    /// Every command with its arguments, for shell completions, manual pages and tests.
    #[must_use]
    pub fn command() -> clap::Command {
        Arguments::command()
    }

    /// Runs the command given by the program's arguments. Returns its exit status: 0 done, 1 failed, 2 wrong
    /// arguments or config, 3 bad data, 4 failed download from the Hugging Face hub.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let started = Instant::now();
        let arguments = match Arguments::try_parse() {
            Ok(arguments) => arguments,
            Err(error) => {
                // Help and version are errors for clap, too. If printing fails, the status still tells the
                // result.
                let _ = error.print();
                let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
                return ExitCode::from(if is_help { 0 } else { 2 });
            }
        };
        let bars = Arc::new(ProgressBars::new());
        messages::install(&bars);
        match self.dispatch(arguments, &bars, started) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => messages::report_error(&error, &bars),
        }
    }

    /// Sets the number of threads (`--threads`) and runs the command of `arguments`. `started` is the time at
    /// which the program started, from which `bench` measures the time to the first features.
    fn dispatch(self, arguments: Arguments, bars: &ProgressBars, started: Instant) -> anyhow::Result<()> {
        let heads = self.heads.context("failed to add the heads of this program")?;
        let sources = self.sources.context("failed to add the data sources of this program")?;
        let registries = Registries { heads, sources };
        let Arguments { command, global } = arguments;
        if let Some(threads) = global.threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
            pool.build_global().context("failed to start the threads: try fewer with --threads")?;
        }
        let mut output = Output::new(global.json);
        let mut context = CommandContext { global, registries, bars, output: &mut output, started };
        match command {
            Command::Init(args) => commands::init::run(&args, &mut context),
            Command::Train(args) => commands::train::run(&args, &mut context),
            Command::Compare(args) => commands::compare::run(&args, &mut context),
            Command::Predict(args) => commands::predict::run(&args, &mut context),
            Command::Evaluate(args) => commands::evaluate::run(&args, &mut context),
            Command::Pack(args) => commands::pack::run(&args, &mut context),
            Command::Extract(args) => commands::extract::run(&args, &mut context),
            Command::Split(args) => commands::split::run(&args, &mut context),
            Command::Doctor(args) => commands::doctor::run(&args, &mut context),
            Command::Heads(args) => commands::heads::run(&args, &mut context),
            Command::Bench(args) => commands::bench::run(&args, &mut context),
        }
    }
}

#[cfg(test)]
mod tests {
    use headstock_heads::knn::KnnConfig;

    use super::*;

    fn run_heads(app: App) -> anyhow::Result<()> {
        let arguments = Arguments::try_parse_from(["headstock", "heads"]).unwrap();
        app.dispatch(arguments, &ProgressBars::new(), Instant::now())
    }

    #[test]
    fn a_duplicate_head_name_fails_every_command() {
        let error = run_heads(App::new().with_head::<KnnConfig>()).unwrap_err();
        let messages: Vec<String> = error.chain().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "failed to add the heads of this program",
                "the program already has a head named `knn`: give the new head a different name (its \
                 constant `KIND`)"
            ]
        );
        run_heads(App::default()).unwrap();
    }
}
