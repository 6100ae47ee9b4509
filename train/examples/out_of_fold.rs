//! Prints the out-of-fold probabilities that `headstock doctor` checks labels with, as a CSV: path,label,
//! then the probability of each class. `reference/doctor/flipped.py` uses it to run other tools on the same
//! probabilities.
//!
//! `cargo run --release -p headstock-train --example out_of_fold -- headstock.toml`

#![expect(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::Path;

use headstock_train::config::{Config, Registries};
use headstock_train::doctor::{DoctorChecks, examine};

fn main() -> Result<(), Box<dyn Error>> {
    let config = std::env::args().nth(1).ok_or("name a config")?;
    let settings = Config::read(Path::new(&config))?.resolve(&Registries::builtin())?;
    let diagnosis = examine(&settings, DoctorChecks::All, &())?;
    let found = diagnosis.probabilities.as_ref().ok_or_else(|| diagnosis.left_out.join("; "))?;
    let paths: Vec<&str> = diagnosis.paths().collect();
    let class = |class_index: usize| diagnosis.classes[found.classes[class_index] as usize].class.clone();
    let mut table = csv::Writer::from_writer(Vec::new());
    let classes = (0..found.classes.len()).map(class);
    table.write_record(["path".to_owned(), "label".to_owned()].into_iter().chain(classes))?;
    let rows = found.probabilities.chunks_exact(found.classes.len());
    for ((&sample, &label), row) in found.samples.iter().zip(&found.labels).zip(rows) {
        let names = [paths[sample].to_owned(), class(label as usize)];
        table.write_record(names.into_iter().chain(row.iter().map(ToString::to_string)))?;
    }
    print!("{}", String::from_utf8(table.into_inner()?)?);
    Ok(())
}
