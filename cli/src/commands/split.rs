//! `headstock split`

use std::path::Path;

use headstock_train::run::write_split;
use headstock_train::samples::{SampleSet, Subset};
use serde::Serialize;

use super::CommandContext;
use crate::args::SplitArgs;

/// The output of `split --json`.
#[derive(Serialize)]
struct SplitJson<'a> {
    out: &'a Path,
    classes: usize,
    train: usize,
    test: usize,
}

pub(crate) fn run(args: &SplitArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let settings = context.resolve_settings(&[])?;
    let (samples, _) = SampleSet::read(&settings, context.bars)?;
    write_split(&samples, &args.out)?;
    let (train, test) = (samples.rows_of(Subset::Train).len(), samples.rows_of(Subset::Test).len());
    let out = &mut *context.output;
    out.print(format!("{}: {train} for training, {test} for testing", args.out.display()))?;
    out.print_json(&SplitJson { out: &args.out, classes: samples.classes.len(), train, test })?;
    Ok(())
}
