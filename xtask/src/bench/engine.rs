//! One measurement: a process of its own, and what it says.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::plan::{Run, Who};
use crate::step;

pub(super) const WEIGHTS: &str = "demo/backbone";
const CONFIG: &str = "demo/headstock.toml";
const SCRIPT: &str = "reference/throughput/measure.py";

/// Makes ours use no more than it names.
pub(super) const OUR_ISA: &str = "HEADSTOCK_ISA";
/// The same for oneDNN, on which OpenVINO computes.
const THEIR_ISA: &str = "ONEDNN_MAX_CPU_ISA";

/// All that runs.
pub(super) struct Engines {
    /// headstock's release binary.
    pub(super) headstock: PathBuf,
    pub(super) python: PathBuf,
    /// The ONNX file that the others run.
    pub(super) model: PathBuf,
    pub(super) seconds: f64,
}

/// What a measurement says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) images_per_second: f64,
    /// Of the network alone, where the whole way from files was measured.
    pub(super) network_images_per_second: Option<f64>,
    pub(super) isa: Option<String>,
    pub(super) version: Option<String>,
    pub(super) peak_memory_mib: Option<f64>,
    /// From the start of the program to the first features.
    pub(super) seconds_to_first: Option<f64>,
}

/// Measures once. The inner error is why this machine, or the engine on it, would not.
pub(super) fn measure(engines: &Engines, run: Run) -> Result<Result<Figures, String>> {
    let name = run.to_string();
    let output = step::quietly(&name, &mut command(engines, run))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        // Both ours and Python say 1 or 2 where they give up in good order.
        return match output.status.code() {
            Some(1 | 2) => Ok(Err(reason(&stderr))),
            _ => bail!("{name} failed ({}):\n{stderr}", output.status),
        };
    }
    let figures = figures(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("{name} printed no figures:\n{stderr}"))?;
    match &figures.isa {
        Some(isa) if run.avx2 && !isa.contains("avx2") => {
            Ok(Err(format!("it ran {isa} when told to use AVX2")))
        }
        _ => Ok(Ok(figures)),
    }
}

fn command(engines: &Engines, run: Run) -> Command {
    let engine = match run.who {
        Who::Headstock | Who::HeadstockFiles => None,
        Who::OnnxRuntime => Some("onnxruntime"),
        Who::OpenVino => Some("openvino"),
        Who::OpenVinoLatency => Some("openvino-latency"),
    };
    let mut command = if let Some(engine) = engine {
        let mut command = Command::new(&engines.python);
        command.arg(SCRIPT).arg(&engines.model).arg(engine);
        command
    } else {
        let mut command = Command::new(&engines.headstock);
        command.args(["bench", "--json"]);
        match run.who {
            Who::HeadstockFiles => command.args(["--data", "--config", CONFIG]),
            _ => command.args(["--weights", WEIGHTS]),
        };
        command
    };
    for (option, value) in [
        ("--precision", run.precision.as_str().to_owned()),
        ("--batch", run.batch.to_string()),
        ("--threads", run.threads.to_string()),
        ("--seconds", engines.seconds.to_string()),
    ] {
        command.args([option, &value]);
    }
    // What is set where we were started is not what the table says.
    command.env_remove(OUR_ISA).env_remove(THEIR_ISA);
    if run.avx2 {
        command.env(OUR_ISA, "avx2").env(THEIR_ISA, "AVX2");
    }
    command
}

/// The last line of stdout that is an object with figures: engines may print around it.
fn figures(stdout: &str) -> Option<Figures> {
    stdout.lines().rev().find_map(|line| {
        let object: Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| object.get(key).and_then(Value::as_f64);
        Some(Figures {
            images_per_second: number("images_per_second").filter(|rate| *rate > 0.0)?,
            network_images_per_second: number("network_images_per_second").filter(|rate| *rate > 0.0),
            isa: text("isa"),
            version: text("version"),
            peak_memory_mib: number("peak_memory_mib"),
            seconds_to_first: number("seconds_to_first"),
        })
    })
}

/// What a program that gave up says of it: its line `error: ...`, or the last one.
fn reason(stderr: &str) -> String {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find_map(|line| line.strip_prefix("error: ")).or_else(|| lines().next_back());
    error.unwrap_or("it does not say why").to_owned()
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::super::plan::{BF16_FILES, F32, F32_ONE};
    use super::*;

    fn engines() -> Engines {
        Engines {
            headstock: "headstock".into(),
            python: "python".into(),
            model: "trunk.onnx".into(),
            seconds: 1.5,
        }
    }

    #[test]
    fn figures_are_found_between_what_else_is_printed() {
        let stdout = "Warning: {\n{\"images_per_second\": 1.0}\nresnet50: 21.3 photos/s\n\
            {\"images_per_second\":21.3,\"isa\":\"avx512\",\"network_images_per_second\":22.5,\"peak_memory_mib\":300,\"batch\":16}\n{}\n3.5\nbye\n";
        let expected = Figures {
            images_per_second: 21.3,
            network_images_per_second: Some(22.5),
            isa: Some("avx512".into()),
            peak_memory_mib: Some(300.0),
            ..Figures::default()
        };
        assert_eq!(figures(stdout), Some(expected));
    }

    #[test]
    fn without_a_rate_there_are_no_figures() {
        for stdout in ["", "21.3 photos/s\n", "{\"images_per_second\":null}", "{\"images_per_second\":0}"] {
            assert_eq!(figures(stdout), None, "{stdout}");
        }
    }

    #[test]
    fn the_reason_is_the_error_that_is_told() {
        let clap = "error: unexpected argument '--data' found\n\nUsage: headstock bench\n\nFor more, try '--help'.\n";
        assert_eq!(reason(clap), "unexpected argument '--data' found");
        let python = "Traceback (most recent call last):\n  File ...\nRuntimeError: no such precision\n\n";
        assert_eq!(reason(python), "RuntimeError: no such precision");
        assert_eq!(reason(" \n"), "it does not say why");
    }

    #[test]
    fn only_what_is_kept_to_avx2_is_told_to_be() {
        let told = |run, name: &str| {
            let command = command(&engines(), run);
            let value = command.get_envs().find(|(key, _)| *key == name)?.1;
            Some(value.map(ToOwned::to_owned))
        };
        for (name, value) in [(OUR_ISA, "avx2"), (THEIR_ISA, "AVX2")] {
            // Removed even so: one in the environment of xtask would make the table lie.
            assert_eq!(told(F32, name), Some(None));
            assert_eq!(told(Run { avx2: true, ..F32 }, name), Some(Some(value.into())));
        }
    }

    #[test]
    fn an_engine_is_told_what_the_plan_says() {
        let options = "--threads 2 --seconds 1.5";
        for (run, expected) in [
            (F32, "headstock bench --json --weights demo/backbone --precision f32 --batch 16"),
            (
                BF16_FILES,
                "headstock bench --json --data --config demo/headstock.toml --precision bf16 --batch 16",
            ),
            (
                Run { who: Who::OpenVinoLatency, ..F32_ONE },
                "python reference/throughput/measure.py trunk.onnx openvino-latency --precision f32 --batch 1",
            ),
        ] {
            let command = command(&engines(), run);
            let words = iter::once(command.get_program()).chain(command.get_args());
            let typed = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
            assert_eq!(typed, format!("{expected} {options}"));
        }
    }
}
