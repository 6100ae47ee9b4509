//! `headstock pack`

use headstock_inference::InferenceError;
use serde_json::json;

use super::{CommandContext, shell_quote};
use crate::args::PackArgs;

/// Writes the run with the weights of its backbone to the folder `args.out`.
pub(crate) fn run(args: &PackArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let (run, settings) = context.open_run(&args.run, args.weights.weights.as_deref(), &[])?;
    let options = settings.backbone.as_ref().ok_or(InferenceError::NoBackbone)?;
    run.pack(options, &args.out, context.bars)?;
    let out = &mut *context.output;
    out.print(format!("{}: the run with the weights of its backbone", args.out.display()))?;
    out.print(format!("next:\n  headstock predict {} PHOTO", shell_quote(args.out.display())))?;
    out.print_json(&json!({ "out": args.out }))?;
    Ok(())
}
