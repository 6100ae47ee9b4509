//! Runs one measurement in a separate process and parses its output.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::plan::{Engine, Run};
use crate::step;

/// Folder of the weights of the network that all engines compute.
pub(super) const WEIGHTS: &str = "demo/backbone";
/// Config of the images for the runs from files.
const CONFIG: &str = "demo/headstock.toml";
/// The Python script that measures the other engines.
const SCRIPT: &str = "reference/throughput/measure.py";

/// The environment variable that limits the instruction set of headstock.
pub(super) const HEADSTOCK_ISA: &str = "HEADSTOCK_ISA";
/// The environment variable that limits the instruction set of oneDNN, which OpenVINO uses.
const ONEDNN_ISA: &str = "ONEDNN_MAX_CPU_ISA";

/// Paths of the programs to measure, and how long to measure them.
pub(super) struct BenchPrograms {
    /// The release binary of headstock.
    pub(super) headstock: PathBuf,
    /// The Python that has the other engines.
    pub(super) python: PathBuf,
    /// The ONNX file for the other engines.
    pub(super) model: PathBuf,
    /// Duration of each measurement in seconds.
    pub(super) seconds: f64,
}

/// What an engine printed about one measurement; `None` where it does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measurement {
    pub(super) images_per_second: f64,
    /// Images per second of the network alone, if the run measures from files.
    pub(super) network_images_per_second: Option<f64>,
    /// Name of the instruction set that the engine used, such as `avx512`.
    pub(super) isa: Option<String>,
    /// Version of the engine.
    pub(super) version: Option<String>,
    /// Peak memory of the process.
    pub(super) peak_memory_mib: Option<f64>,
    /// Time from the start of the program to the first features.
    pub(super) seconds_to_first: Option<f64>,
}

/// Measures a run once, in a separate process. The inner error is the reason that the engine gives why it
/// cannot do the run on this machine, such as no bf16; the outer one is a crash or output without a
/// measurement.
pub(super) fn measure(programs: &BenchPrograms, run: Run) -> Result<Result<Measurement, String>> {
    let name = run.to_string();
    let output = step::capture_output(&name, &mut build_command(programs, run))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        // headstock and Python exit with 1 or 2 after a reported error; other codes are crashes.
        return match output.status.code() {
            Some(1 | 2) => Ok(Err(parse_reason(&stderr))),
            _ => bail!("{name} failed ({}):\n{stderr}", output.status),
        };
    }
    let measurement = parse_measurement(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("{name} printed no measurement:\n{stderr}"))?;
    match &measurement.isa {
        Some(isa) if run.avx2 && !isa.contains("avx2") => Ok(Err(format!("used {isa} instead of AVX2"))),
        _ => Ok(Ok(measurement)),
    }
}

/// The command that measures a run: `headstock bench`, or the Python script for the other engines. Both print
/// the measurement as JSON.
fn build_command(programs: &BenchPrograms, run: Run) -> Command {
    let engine = match run.engine {
        Engine::Headstock | Engine::HeadstockFiles => None,
        Engine::OnnxRuntime => Some("onnxruntime"),
        Engine::OpenVino => Some("openvino"),
        Engine::OpenVinoLatency => Some("openvino-latency"),
    };
    let mut command = if let Some(engine) = engine {
        let mut command = Command::new(&programs.python);
        command.arg(SCRIPT).arg(&programs.model).arg(engine);
        command
    } else {
        let mut command = Command::new(&programs.headstock);
        command.args(["bench", "--json"]);
        match run.engine {
            Engine::HeadstockFiles => command.args(["--data", "--config", CONFIG]),
            _ => command.args(["--weights", WEIGHTS]),
        };
        command
    };
    for (option, value) in [
        ("--precision", run.precision.as_str().to_owned()),
        ("--batch", run.batch.to_string()),
        ("--threads", run.threads.to_string()),
        ("--seconds", programs.seconds.to_string()),
    ] {
        command.args([option, &value]);
    }
    // Variables in the environment of xtask must not change the measurement.
    command.env_remove(HEADSTOCK_ISA).env_remove(ONEDNN_ISA);
    if run.avx2 {
        command.env(HEADSTOCK_ISA, "avx2").env(ONEDNN_ISA, "AVX2");
    }
    command
}

/// Reads the measurement from the stdout of an engine: the last line that is a JSON object with a positive
/// `images_per_second`. Engines may print other lines. `None` if there is no such line.
fn parse_measurement(stdout: &str) -> Option<Measurement> {
    stdout.lines().rev().find_map(|line| {
        let object: Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| object.get(key).and_then(Value::as_f64);
        Some(Measurement {
            images_per_second: number("images_per_second").filter(|rate| *rate > 0.0)?,
            network_images_per_second: number("network_images_per_second").filter(|rate| *rate > 0.0),
            isa: text("isa"),
            version: text("version"),
            peak_memory_mib: number("peak_memory_mib"),
            seconds_to_first: number("seconds_to_first"),
        })
    })
}

/// The reason that an engine printed on stderr for its failure: the text after `error: `, or else the last
/// line, where Python prints the exception. It is shown in the table.
fn parse_reason(stderr: &str) -> String {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find_map(|line| line.strip_prefix("error: ")).or_else(|| lines().next_back());
    error.unwrap_or("the engine printed no reason").to_owned()
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::super::plan::{BF16_FILES, F32, F32_ONE};
    use super::*;

    fn programs() -> BenchPrograms {
        BenchPrograms {
            headstock: "headstock".into(),
            python: "python".into(),
            model: "trunk.onnx".into(),
            seconds: 1.5,
        }
    }

    #[test]
    fn measurements_are_found_among_other_output() {
        let stdout = "Warning: {\n{\"images_per_second\": 1.0}\nresnet50: 21.3 photos/s\n\
            {\"images_per_second\":21.3,\"isa\":\"avx512\",\"network_images_per_second\":22.5,\"peak_memory_mib\":300,\"batch\":16}\n{}\n3.5\nbye\n";
        let expected = Measurement {
            images_per_second: 21.3,
            network_images_per_second: Some(22.5),
            isa: Some("avx512".into()),
            peak_memory_mib: Some(300.0),
            ..Measurement::default()
        };
        assert_eq!(parse_measurement(stdout), Some(expected));
    }

    #[test]
    fn without_a_rate_there_is_no_measurement() {
        for stdout in ["", "21.3 photos/s\n", "{\"images_per_second\":null}", "{\"images_per_second\":0}"] {
            assert_eq!(parse_measurement(stdout), None, "{stdout}");
        }
    }

    #[test]
    fn the_reason_is_the_error_line() {
        let clap = "error: unexpected argument '--data' found\n\nUsage: headstock bench\n\nFor more, try '--help'.\n";
        assert_eq!(parse_reason(clap), "unexpected argument '--data' found");
        let python = "Traceback (most recent call last):\n  File ...\nRuntimeError: no such precision\n\n";
        assert_eq!(parse_reason(python), "RuntimeError: no such precision");
        assert_eq!(parse_reason(" \n"), "the engine printed no reason");
    }

    #[test]
    fn only_avx2_runs_limit_the_instruction_set() {
        let env_value = |run, name: &str| {
            let command = build_command(&programs(), run);
            let value = command.get_envs().find(|(key, _)| *key == name)?.1;
            Some(value.map(ToOwned::to_owned))
        };
        for (name, value) in [(HEADSTOCK_ISA, "avx2"), (ONEDNN_ISA, "AVX2")] {
            // The variable is removed: one in the environment of xtask would change the measurement.
            assert_eq!(env_value(F32, name), Some(None));
            assert_eq!(env_value(Run { avx2: true, ..F32 }, name), Some(Some(value.into())));
        }
    }

    #[test]
    fn an_engine_gets_the_options_of_its_run() {
        let options = "--threads 2 --seconds 1.5";
        for (run, expected) in [
            (F32, "headstock bench --json --weights demo/backbone --precision f32 --batch 16"),
            (
                BF16_FILES,
                "headstock bench --json --data --config demo/headstock.toml --precision bf16 --batch 16",
            ),
            (
                Run { engine: Engine::OpenVinoLatency, ..F32_ONE },
                "python reference/throughput/measure.py trunk.onnx openvino-latency --precision f32 --batch 1",
            ),
        ] {
            let command = build_command(&programs(), run);
            let words = iter::once(command.get_program()).chain(command.get_args());
            let typed = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
            assert_eq!(typed, format!("{expected} {options}"));
        }
    }
}
