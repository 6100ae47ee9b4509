//! `headstock heads`

use headstock_heads::HeadKind;
use headstock_train::TrainError;

use super::Session;
use crate::args::HeadsArgs;

pub(crate) fn run(args: &HeadsArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let out = &mut *session.output;
    match &args.name {
        None => {
            for head in session.heads.iter() {
                out.line(format!("{:<12}  {}", head.name(), head.about()))?;
            }
            out.line("\nheadstock heads NAME shows the keys of one.")?;
        }
        Some(name) => {
            let head = session.heads.get(name).map_err(|error| TrainError::Usage(error.to_string()))?;
            out.line(described(head)?)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// The table of a head with its defaults, as it may stand in a config.
fn described(head: &dyn HeadKind) -> Result<String, TrainError> {
    let defaults = head.configure(toml::Table::new())?.table();
    let mut text = format!("# {}: {}\n[head]\nkind = \"{}\"", head.name(), head.about(), head.name());
    for (key, about) in head.parameters() {
        let value = defaults.get(*key).map(ToString::to_string);
        text += &match value {
            Some(value) => format!("\n\n# {about}\n{key} = {value}"),
            None => format!("\n\n# {about}\n# {key} ="),
        };
    }
    Ok(text)
}
