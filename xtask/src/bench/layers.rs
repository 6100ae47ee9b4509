//! What each layer takes: the tables of `docs/engine.md`.

use anyhow::{Context, Result};

use super::engine::OUR_ISA;
use super::plan::{BF16, F32, Run};
use super::table::{Circumstances, Results};
use crate::page::Place;
use crate::step;

/// A table for each precision: whether a machine has it the run says.
const TABLES: [(Run, Place); 2] = [
    (F32, Place { page: "docs/engine.md", part: "layers f32" }),
    (BF16, Place { page: "docs/engine.md", part: "layers bf16" }),
];

/// Fails where a table has no place.
pub(super) fn check() -> Result<()> {
    TABLES.iter().try_for_each(|(_, place)| place.check())
}

/// Measures and writes each table; where the run of its precision was refused, a line that says why.
pub(super) fn write(results: &Results, circumstances: &Circumstances) -> Result<()> {
    for (run, place) in TABLES {
        let text = match results.refusal(run) {
            Some(reason) => not_measured(run, circumstances, reason),
            None => measured(circumstances, &profile(run)?),
        };
        place.write(&text)?;
        step::say(&format!("\n{text}\nwrote {}", place.page));
    }
    Ok(())
}

/// What the example prints: a line on the run, and the table.
fn profile(run: Run) -> Result<String> {
    let precision = run.precision.as_str();
    let mut command = step::cargo(&["run", "--quiet", "--release", "--package", "headstock-backbone"]);
    command.args(["--example", "layers", "--", precision]).env_remove(OUR_ISA);
    let printed = step::output(&format!("layers in {precision}"), &mut command)?;
    String::from_utf8(printed).context("the table of layers is not UTF-8")
}

fn measured(circumstances: &Circumstances, table: &str) -> String {
    format!("Made by `cargo xtask bench` on {}; ResNet-50, 224 x 224.\n\n{table}", circumstances.machine())
}

fn not_measured(run: Run, circumstances: &Circumstances, reason: &str) -> String {
    format!("Not measured in {} on {}: {reason}.", run.precision.as_str(), circumstances.machine())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_named_with_the_table_and_with_the_reason_why_there_is_none() {
        let here = Circumstances { cpu: "A CPU".into(), cores: 2, rounds: 3, seconds: 4.0 };
        let (table, none) =
            (measured(&here, "f32:\n\n| layer |\n"), not_measured(BF16, &here, "no arithmetic"));
        assert_eq!(
            table,
            "Made by `cargo xtask bench` on A CPU, 2 cores; ResNet-50, 224 x 224.\n\nf32:\n\n| layer |\n"
        );
        assert_eq!(none, "Not measured in bf16 on A CPU, 2 cores: no arithmetic.");
    }

    #[test]
    fn the_page_has_a_place_for_each_table() {
        let page = std::fs::read_to_string(step::workspace().join("docs/engine.md")).unwrap();
        for (_, Place { part, .. }) in TABLES {
            assert_eq!(page.matches(&format!("<!-- {part} -->\n")).count(), 1, "{part}");
        }
    }
}
