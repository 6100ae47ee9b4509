//! `headstock extract`

use headstock_train::{Run, extract};
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
    let mut changes: Vec<String> = args.layer.iter().map(|layer| format!("backbone.layer={layer}")).collect();
    // Any layer goes, also with settings that tune, and nothing is tuned here.
    changes.push("tune.from=head".into());
    let run = args.run.as_deref().map(|folder| Run::open(folder, &session.heads)).transpose()?;
    let settings = match &run {
        Some(run) if session.global.config.is_none() => {
            run.settings(&[changes, session.global.overrides.clone()].concat(), &session.heads)?
        }
        _ => session.settings(&changes)?,
    };
    let extracted = extract(&settings, run.as_ref(), &args.out, session.bars)?;
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
