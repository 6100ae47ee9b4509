//! Commands for development: `cargo xtask help` lists them. They run other programs and link no crate of the
//! product.

mod audit;
mod bench;
mod build_cost;
mod ci;
mod circles;
mod coverage;
mod cuda;
mod docs;
mod effects;
mod golden;
mod links;
mod messages;
mod mutants;
mod names;
mod new_head;
mod page;
mod parity;
mod preprocessing_speed;
mod python;
mod source_files;
mod step;
mod test;
mod tidy;
mod train;
mod tuning;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};

/// What `cargo xtask help` prints: all commands with their arguments.
const HELP: &str = "\
cargo xtask COMMAND

  train [ARGS]   build the release binary and train; without --config on the bundled photos (demo/)
  test           run all checks: formatting, lints, docs, tests, the external example, the CUDA type-check
  tidy           run the checks of the source alone: dependencies, circles, names, sizes, tests of keys, generated pages
  docs           regenerate docs/config.md, its JSON schema, the list of keys and the output in the README
  new-head NAME [FOLDER]
                 create a crate with a new head, its test, and a headstock with it; FOLDER is NAME by default
  golden         regenerate the golden files in reference/ with the tools pinned in reference/requirements.txt
  parity [CONFIG] [--slow] [--large] [--only HEAD,HEAD] [--repeats N]
                 write docs/parity.md: the heads compared with scikit-learn's, on the photos of a config (default: the
                 demo) and on synthetic features; with --only, print the part of these heads
  coverage CONFIG [HEAD...]
                 write docs/calibration.md: calibration and coverage over 20 splits of the data set of a config
  tuning [CONFIG [CONFIG]]
                 write the measurements of docs/tuning.md: speed of fine-tuning compared with PyTorch; with a config that
                 has a test folder, accuracy of both; with a second config without one, the gain over frozen heads
  bench [--rounds N] [--seconds S]
                 write the table of the README: `headstock bench` compared with ONNX Runtime and OpenVINO on this machine;
                 and the time of each layer into docs/engine.md
  photos FOLDER [--rounds N] [--every N]
                 print how many photos of a folder a CPU core decodes, rotates, resizes and crops per second, compared with
                 Pillow; --every uses every N-th photo
  keys           print every key of the config, hyperparameter of a head and flag, with the tests of its effect
  mutants [--seed N] [--count N] [CRATE...]
                 mutation testing: put COUNT (40) faults per crate into copies of the code, and print those that no test
                 catches; takes hours
  build-cost     build the program from nothing and write CPU time, crates and size into docs/building.md
  audit          check licenses, advisories and duplicates of dependencies (with cargo-deny, which it installs), the minimum
                 version of Rust, and other targets of the toolchain
  ci             clone the committed tree into a new folder and run .ci/run there
";

/// Runs the command; prints an error on stderr.
fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            step::log(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the command that the first argument of the program names, with the other arguments. Returns the exit
/// status: that of the training for `train`, else 0. An error in the arguments comes with the help.
fn run() -> Result<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((command, rest)) = words.split_first() else { bail!("no command given\n\n{HELP}") };
    match (&*command.to_string_lossy(), rest) {
        ("train", arguments) => return train::run(arguments),
        ("parity", arguments) => {
            let options =
                parity::ParityOptions::parse(arguments).map_err(|error| anyhow!("{error:#}\n\n{HELP}"))?;
            parity::run(&options)?;
        }
        ("new-head", [name]) => new_head::run(&name.to_string_lossy(), None)?,
        ("new-head", [name, folder]) => new_head::run(&name.to_string_lossy(), Some(folder.into()))?,
        ("new-head", _) => bail!("new-head takes a name and optionally a folder\n\n{HELP}"),
        ("coverage", [config, heads @ ..]) => coverage::run(config, heads)?,
        ("coverage", []) => bail!("coverage takes a config\n\n{HELP}"),
        ("tuning", configs) => {
            let configs: Vec<PathBuf> =
                configs.iter().map(std::fs::canonicalize).collect::<Result<_, _>>()?;
            in_workspace(|| tuning::run(&configs))?;
        }
        ("bench", arguments) => {
            let options =
                bench::BenchOptions::parse(arguments).map_err(|error| anyhow!("{error:#}\n\n{HELP}"))?;
            in_workspace(|| bench::run(&options))?;
        }
        ("photos", [folder, options @ ..]) => preprocessing_speed::run(folder, options)?,
        ("photos", []) => bail!("photos takes a folder\n\n{HELP}"),
        ("mutants", arguments) => {
            let options =
                mutants::MutantsOptions::parse(arguments).map_err(|error| anyhow!("{error:#}\n\n{HELP}"))?;
            in_workspace(|| mutants::run(&options))?;
        }
        ("keys", []) => in_workspace(effects::run)?,
        ("test", []) => in_workspace(test::run)?,
        ("tidy", []) => in_workspace(tidy::run)?,
        ("docs", []) => in_workspace(docs::run)?,
        ("build-cost", []) => in_workspace(build_cost::run)?,
        ("audit", []) => in_workspace(audit::run)?,
        ("golden", []) => in_workspace(golden::run)?,
        ("ci", []) => in_workspace(ci::run)?,
        ("help" | "--help" | "-h", _) => step::log(HELP),
        (
            command @ ("test" | "tidy" | "audit" | "build-cost" | "docs" | "golden" | "keys" | "ci"),
            [extra, ..],
        ) => {
            bail!("{command} takes no `{}`\n\n{HELP}", extra.display())
        }
        (other, _) => bail!("there is no command `{other}`\n\n{HELP}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Changes to the folder of the workspace and runs `command` there, so that its paths may be relative to it.
/// Not for commands with relative paths as arguments, which are relative to the folder of the user.
fn in_workspace(command: impl FnOnce() -> Result<()>) -> Result<()> {
    let root = step::workspace();
    std::env::set_current_dir(root).with_context(|| format!("failed to enter {}", root.display()))?;
    command()
}
