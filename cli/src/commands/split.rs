//! `headstock split`

use std::path::Path;

use headstock_train::run::write_split;
use headstock_train::samples::{SampleSet, Subset};
use serde::Serialize;

use super::Session;
use crate::args::SplitArgs;

/// What `--json` prints.
#[derive(Serialize)]
struct Figures<'a> {
    out: &'a Path,
    classes: usize,
    train: usize,
    test: usize,
}

pub(crate) fn run(args: &SplitArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let settings = session.settings(&[])?;
    let (samples, _) = SampleSet::read(&settings, session.bars)?;
    write_split(&samples, &args.out)?;
    let (train, test) = (samples.rows_of(Subset::Train).len(), samples.rows_of(Subset::Test).len());
    let out = &mut *session.output;
    out.line(format!("{}: {train} to train on, {test} to test on", args.out.display()))?;
    out.figures(&Figures { out: &args.out, classes: samples.classes.len(), train, test })?;
    Ok(())
}
