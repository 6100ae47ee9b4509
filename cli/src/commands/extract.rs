//! `headstock extract`

use headstock_train::extract;
use serde::Serialize;

use super::Session;
use crate::args::ExtractArgs;

/// What `--json` prints.
#[derive(Serialize)]
struct Figures<'a> {
    out: &'a std::path::Path,
    rows: usize,
    features: usize,
    computed: usize,
    skipped: usize,
}

pub(crate) fn run(args: &ExtractArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let layer: Vec<String> = args.layer.iter().map(|layer| format!("backbone.layer={layer}")).collect();
    let settings = session.settings(&layer)?;
    let extracted = extract(&settings, &args.out, session.bars)?;
    let out = &mut *session.output;
    out.line(format!("{}: {} x {} features", args.out.display(), extracted.rows, extracted.width))?;
    out.figures(&Figures {
        out: &args.out,
        rows: extracted.rows,
        features: extracted.width,
        computed: extracted.computed,
        skipped: extracted.skipped,
    })?;
    Ok(())
}
