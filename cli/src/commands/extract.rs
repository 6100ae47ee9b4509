//! `headstock extract`

use headstock_train::{Run, extract};
use serde::Serialize;

use super::CommandContext;
use crate::args::ExtractArgs;

/// The output of `extract --json`.
#[derive(Serialize)]
struct ExtractJson<'a> {
    out: &'a std::path::Path,
    rows: usize,
    features: usize,
    computed: usize,
    skipped: usize,
}

pub(crate) fn run(args: &ExtractArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let mut overrides: Vec<String> =
        args.layer.iter().map(|layer| format!("backbone.layer={layer}")).collect();
    // Nothing is fine-tuned here, so any layer is allowed.
    overrides.push("tune.from=head".into());
    let run = args.run.as_deref().map(|folder| Run::open(folder, &context.heads)).transpose()?;
    let settings = match &run {
        Some(run) if context.global.config.is_none() => {
            run.settings(&[overrides, context.global.overrides.clone()].concat(), &context.heads)?
        }
        _ => context.resolve_settings(&overrides)?,
    };
    let extracted = extract(&settings, run.as_ref(), &args.out, context.bars)?;
    let out = &mut *context.output;
    out.print(format!("{}: {} x {} features", args.out.display(), extracted.rows, extracted.width))?;
    out.print_json(&ExtractJson {
        out: &args.out,
        rows: extracted.rows,
        features: extracted.width,
        computed: extracted.computed,
        skipped: extracted.skipped,
    })?;
    Ok(())
}
