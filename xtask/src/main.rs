//! The project's own commands: `cargo xtask train`, `test`, `new-head`, `golden`, `parity`, `coverage`, `tuning`, `bench`, `photos`, `keys`, `mutants`, `ci`. They shell out and link nothing of the product.

mod bench;
mod ci;
mod coverage;
mod cuda;
mod effects;
mod golden;
mod mutants;
mod new_head;
mod page;
mod parity;
mod photos;
mod python;
mod step;
mod test;
mod tidy;
mod train;
mod tuning;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};

const HELP: &str = "\
cargo xtask COMMAND

  train [ARGS]   build the release binary and train; without --config on the bundled photos (demo/)
  test           everything that must hold: formatting, lints, docs, tests, the external example, the CUDA type-check
  new-head NAME [FOLDER]
                 make a crate with a head of yours, its test, and a headstock that knows it; FOLDER is NAME unless given
  golden         make every golden file in reference/ anew, with the tools pinned in reference/requirements.txt
  parity [CONFIG] [--slow] [--large] [--only HEAD,HEAD] [--repeats N]
                 write docs/parity.md: the heads beside scikit-learn's, on the photos of a config (the demo's where none is
                 given) and on made-up features; with --only no page, but what it would hold of these heads
  coverage CONFIG [HEAD...]
                 write docs/calibration.md: how honest probabilities and sets are over 20 splits of the data set of a config
  tuning [CONFIG [CONFIG]]
                 write the figures of docs/tuning.md: steps of tuning beside PyTorch's; with a config that has a test folder
                 what the same tuning comes to in both, and with a second one without what it gains over frozen heads
  bench [--rounds N] [--seconds S]
                 write the README's table: `headstock bench` beside ONNX Runtime and OpenVINO on this machine;
                 and what each layer takes, into docs/engine.md
  photos FOLDER [--rounds N] [--every N]
                 print how many photos of a folder a core decodes, turns, resizes and crops a second, beside Pillow; of every
                 N-th photo
  keys           print every key of the config, parameter of a head and flag, with the tests of its effect
  mutants [--seed N] [--count N] [CRATE...]
                 put faults into copies of the code, COUNT a crate (40), and print those that no test notices: hours
  ci             clone the committed tree into a new folder and run .ci/run there
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            step::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((command, rest)) = words.split_first() else { bail!("which command?\n\n{HELP}") };
    match (&*command.to_string_lossy(), rest) {
        ("train", arguments) => return train::run(arguments),
        ("parity", arguments) => {
            let options =
                parity::Options::parse(arguments).map_err(|error| anyhow!("{error:#}\n\n{HELP}"))?;
            parity::run(&options)?;
        }
        ("new-head", [name]) => new_head::run(&name.to_string_lossy(), None)?,
        ("new-head", [name, folder]) => new_head::run(&name.to_string_lossy(), Some(folder.into()))?,
        ("new-head", _) => bail!("new-head takes a name and perhaps a folder\n\n{HELP}"),
        ("coverage", [config, heads @ ..]) => coverage::run(config, heads)?,
        ("coverage", []) => bail!("coverage takes a config\n\n{HELP}"),
        ("tuning", configs) => {
            let configs: Vec<PathBuf> =
                configs.iter().map(std::fs::canonicalize).collect::<Result<_, _>>()?;
            in_the_workspace(|| tuning::run(&configs))?;
        }
        ("bench", arguments) => {
            let options = bench::Options::parse(arguments).map_err(|error| anyhow!("{error:#}\n\n{HELP}"))?;
            in_the_workspace(|| bench::run(&options))?;
        }
        ("photos", [folder, options @ ..]) => photos::run(folder, options)?,
        ("photos", []) => bail!("photos takes a folder\n\n{HELP}"),
        ("mutants", arguments) => {
            let options =
                mutants::Options::parse(arguments).map_err(|error| anyhow!("{error:#}\n\n{HELP}"))?;
            in_the_workspace(|| mutants::run(&options))?;
        }
        ("keys", []) => in_the_workspace(effects::run)?,
        ("test", []) => in_the_workspace(test::run)?,
        ("golden", []) => in_the_workspace(golden::run)?,
        ("ci", []) => in_the_workspace(ci::run)?,
        ("help" | "--help" | "-h", _) => step::say(HELP),
        (command @ ("test" | "golden" | "keys" | "ci"), [extra, ..]) => {
            bail!("{command} takes no `{}`\n\n{HELP}", extra.display())
        }
        (other, _) => bail!("there is no command `{other}`\n\n{HELP}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command in the workspace's folder. Only for those that take no path: a path is relative to where it was typed.
fn in_the_workspace(command: impl FnOnce() -> Result<()>) -> Result<()> {
    let root = step::workspace();
    std::env::set_current_dir(root).with_context(|| format!("failed to enter {}", root.display()))?;
    command()
}
