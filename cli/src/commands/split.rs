//! `headstock split`

use headstock_train::samples::{SampleSet, Subset, write_split};
use serde_json::json;

use super::{CommandContext, pluralize};
use crate::args::SplitArgs;

/// Splits the data set as `train` would, writes which image is for training and which for testing to the CSV
/// `args.out`, and prints their numbers. No features are computed.
pub(crate) fn run(args: &SplitArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let settings = context.resolve_settings(&[])?;
    // The second value, the images themselves, is not needed.
    let (samples, _) = SampleSet::read(&settings, context.bars)?;
    write_split(&samples, &args.out)?;
    let (train, test) = (samples.rows_of(Subset::Train).len(), samples.rows_of(Subset::Test).len());
    let out = &mut *context.output;
    let n_train = pluralize(train, "photo");
    out.print(format!("{}: {n_train} for training, {test} for testing", args.out.display()))?;
    let classes = samples.classes.len();
    out.print_json(&json!({ "out": args.out, "classes": classes, "train": train, "test": test }))?;
    Ok(())
}
