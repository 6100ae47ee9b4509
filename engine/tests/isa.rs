//! The environment variable that forces an instruction set, set for child processes.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::env::current_exe;
use std::process::Command;

use headstock_engine::{DType, ISA_VARIABLE, Isa};

/// Precedes the chosen instruction set in the output of a child process.
const CHOSEN: &str = "chosen: ";

#[test]
#[ignore = "run by the other test in child processes"]
fn choose_in_a_child_process() {
    for precision in [DType::F32, DType::Bf16] {
        let chosen = Isa::choose(precision).map_or_else(|error| error.to_string(), |isa| isa.to_string());
        println!("\n{CHOSEN}{chosen}");
    }
}

/// The instruction sets that a process with this value of the variable chooses for `f32` and `bf16`.
fn chosen(variable: Option<&str>) -> [String; 2] {
    let mut command = Command::new(current_exe().unwrap());
    command.args(["--exact", "choose_in_a_child_process", "--ignored", "--nocapture"]);
    command.env_remove(ISA_VARIABLE);
    command.envs(variable.map(|name| (ISA_VARIABLE, name)));
    let output = command.output().unwrap();
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).unwrap();
    let chosen = stdout.lines().filter_map(|line| line.strip_prefix(CHOSEN)).map(str::to_owned);
    chosen.collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn the_variable_forces_an_instruction_set_else_the_fastest_is_chosen() {
    let fastest = [DType::F32, DType::Bf16].map(|precision| {
        Isa::fastest(precision).map_or_else(|error| error.to_string(), |isa| isa.to_string())
    });
    assert_eq!(chosen(None), fastest);
    assert_eq!(chosen(Some("")), fastest);
    let rejected = |name: &str, problem: &str| {
        format!(
            "the environment variable {ISA_VARIABLE}={name} cannot be used: {problem}; unset the variable to \
             use the fastest instruction set"
        )
    };
    let no_bf16 = rejected("portable", "this instruction set has no code for the precision bf16");
    assert_eq!(chosen(Some("portable")), ["portable".to_owned(), no_bf16]);
    let unknown = "unknown instruction set, expected one of: portable, avx2, avx512, avx512-bf16, amx-bf16";
    assert_eq!(chosen(Some("sse2")), [rejected("sse2", unknown), rejected("sse2", unknown)]);
}
