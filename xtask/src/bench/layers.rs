//! The time of each layer of the network: the tables of `docs/engine.md`, one for each precision.

use anyhow::{Context, Result};

use super::engine::HEADSTOCK_ISA;
use super::plan::{BF16, F32, Run};
use super::table::{BenchSetup, Results};
use crate::page::PageSection;
use crate::step;

/// The section of the page for each precision, with the run of the throughput table whose outcome tells
/// whether the machine supports the precision.
const SECTIONS: [(Run, PageSection); 2] = [
    (F32, PageSection { page: "docs/engine.md", name: "layers f32" }),
    (BF16, PageSection { page: "docs/engine.md", name: "layers bf16" }),
];

/// Fails if a section is missing on the page; to be called before long work.
pub(super) fn check() -> Result<()> {
    SECTIONS.iter().try_for_each(|(_, section)| section.check())
}

/// For f32 and bf16, measures the time of each layer of the network and writes the table in `docs/engine.md`.
/// If `results` of the throughput say that the machine does not support the precision, writes the reason
/// instead.
pub(super) fn write(results: &Results, setup: &BenchSetup) -> Result<()> {
    for (run, section) in SECTIONS {
        let text = match results.refusal(run) {
            Some(reason) => format_refusal(run, setup, reason),
            None => format_table(setup, &measure_layers(run)?),
        };
        section.write(&text)?;
        step::log(&format!("\n{text}\nwrote {}", section.page));
    }
    Ok(())
}

/// Runs the example `layers` of the backbone in the precision of `run`, and returns what it prints: a line
/// about the measurement, and a table in Markdown with the time of each layer of the network.
fn measure_layers(run: Run) -> Result<String> {
    let precision = run.precision.as_str();
    let mut command = step::cargo(&["run", "--quiet", "--release", "--package", "headstock-backbone"]);
    command.args(["--example", "layers", "--", precision]).env_remove(HEADSTOCK_ISA);
    let printed = step::run_for_stdout(&format!("layers in {precision}"), &mut command)?;
    String::from_utf8(printed).context("the table of layers is not UTF-8")
}

/// The text of a section: the computer, then the `table` that the example printed.
fn format_table(setup: &BenchSetup, table: &str) -> String {
    format!("Made by `cargo xtask bench` on {}; ResNet-50, 224 x 224.\n\n{table}", setup.computer())
}

/// The text of a section without a table: why the precision of `run` was not measured.
fn format_refusal(run: Run, setup: &BenchSetup, reason: &str) -> String {
    format!("Not measured in {} on {}: {reason}.", run.precision.as_str(), setup.computer())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_computer_is_named_with_the_table_or_the_reason_against_it() {
        let setup = BenchSetup { cpu: "A CPU".into(), cores: 2, rounds: 3, seconds: 4.0 };
        let table = format_table(&setup, "f32:\n\n| layer |\n");
        let refusal = format_refusal(BF16, &setup, "no arithmetic");
        assert_eq!(
            table,
            "Made by `cargo xtask bench` on A CPU, 2 cores; ResNet-50, 224 x 224.\n\nf32:\n\n| layer |\n"
        );
        assert_eq!(refusal, "Not measured in bf16 on A CPU, 2 cores: no arithmetic.");
    }

    #[test]
    fn the_page_has_a_section_for_each_table() {
        let page = std::fs::read_to_string(step::workspace().join("docs/engine.md")).unwrap();
        for (_, PageSection { name, .. }) in SECTIONS {
            assert_eq!(page.matches(&format!("<!-- {name} -->\n")).count(), 1, "{name}");
        }
    }
}
