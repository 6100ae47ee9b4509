//! `headstock extract`

use headstock_train::extract;
use serde_json::json;

use super::{CommandContext, pluralize};
use crate::args::ExtractArgs;

/// Writes the features of all images to the file `args.out`, a row per image, for other tools. With `--run`
/// the run's backbone computes them, and the config saved in the run is used unless `--config` is given.
pub(crate) fn run(args: &ExtractArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let mut overrides: Vec<String> =
        args.layer.iter().map(|layer| format!("backbone.layer={layer}")).collect();
    // Turns [tune] off: nothing is fine-tuned here, and without [tune] any layer is allowed.
    overrides.push("tune.from=head".into());
    let (run, settings) = match &args.run {
        Some(folder) => {
            let (run, settings) = context.open_run(folder, args.weights.as_deref(), &overrides)?;
            (Some(run), settings)
        }
        None => (None, context.resolve_settings(&overrides)?),
    };
    let extracted = extract(&settings, run.as_ref(), &args.out, context.bars)?;
    let out = &mut *context.output;
    let n_images = pluralize(extracted.rows, "photo");
    out.print(format!("{}: {n_images}, {} features per photo", args.out.display(), extracted.width))?;
    out.print_json(&json!({
        "out": args.out,
        "rows": extracted.rows,
        "features": extracted.width,
        "computed": extracted.computed,
        "skipped": extracted.skipped,
        "passed_over": extracted.passed_over,
    }))?;
    Ok(())
}
