//! The variable that forces an instruction set, in processes that have it.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::env::current_exe;
use std::process::Command;

use headstock_engine::{ISA_VARIABLE, Isa, Precision};

/// Precedes what the process below chooses, in its output.
const CHOSEN: &str = "chosen: ";

#[test]
#[ignore = "the test below runs it in processes of their own"]
fn chooses_in_a_process_of_its_own() {
    for precision in [Precision::F32, Precision::Bf16] {
        let chosen = Isa::choose(precision).map_or_else(|error| error.to_string(), |isa| isa.to_string());
        println!("\n{CHOSEN}{chosen}");
    }
}

/// What a process with the variable chooses for `f32` and for `bf16`.
fn chosen(variable: Option<&str>) -> [String; 2] {
    let mut command = Command::new(current_exe().unwrap());
    command.args(["--exact", "chooses_in_a_process_of_its_own", "--ignored", "--nocapture"]);
    command.env_remove(ISA_VARIABLE);
    command.envs(variable.map(|name| (ISA_VARIABLE, name)));
    let output = command.output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let chosen = text.lines().filter_map(|line| line.strip_prefix(CHOSEN)).map(str::to_owned);
    chosen.collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn the_variable_forces_an_instruction_set_and_without_it_the_fastest_is_chosen() {
    let fastest = [Precision::F32, Precision::Bf16].map(|precision| {
        Isa::fastest(precision).map_or_else(|error| error.to_string(), |isa| isa.to_string())
    });
    assert_eq!(chosen(None), fastest);
    assert_eq!(chosen(Some("")), fastest);
    let refused = |name: &str, problem: &str| format!("{ISA_VARIABLE}={name} cannot be used: {problem}");
    assert_eq!(
        chosen(Some("portable")),
        ["portable".to_owned(), refused("portable", "it has no kernels for bf16")]
    );
    let unknown = "there is none of this name; known: portable, avx2, avx512, avx512-bf16, amx-bf16";
    assert_eq!(chosen(Some("sse2")), [refused("sse2", unknown), refused("sse2", unknown)]);
}
