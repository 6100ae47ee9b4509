//! `headstock heads`

use headstock_heads::HeadKind;
use headstock_train::TrainError;
use serde::Serialize;

use super::Session;
use crate::args::HeadsArgs;

/// What `--json` prints.
#[derive(Serialize)]
struct Figures {
    heads: Vec<Described>,
}

#[derive(Serialize)]
struct Described {
    name: &'static str,
    about: &'static str,
    differentiable: bool,
    keys: Vec<Key>,
}

#[derive(Serialize)]
struct Key {
    name: &'static str,
    about: &'static str,
    /// None where the key is left out by default.
    default: Option<toml::Value>,
}

impl Described {
    fn new(head: &dyn HeadKind) -> Result<Self, TrainError> {
        let defaults = head.configure(toml::Table::new())?.table();
        let keys = head.parameters().iter().map(|&(name, about)| {
            let default = defaults.get(name).cloned();
            Key { name, about, default }
        });
        Ok(Self {
            name: head.name(),
            about: head.about(),
            differentiable: head.is_differentiable(),
            keys: keys.collect(),
        })
    }

    /// The table, as it may stand in a config.
    fn table(&self) -> String {
        let Self { name, about, .. } = self;
        let mut text = format!("# {name}: {about}\n[head]\nkind = \"{name}\"");
        for Key { name, about, default } in &self.keys {
            text += &match default {
                Some(value) => format!("\n\n# {about}\n{name} = {value}"),
                None => format!("\n\n# {about}\n# {name} ="),
            };
        }
        text
    }
}

pub(crate) fn run(args: &HeadsArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    session.note_unused_overrides("heads");
    let heads: Vec<Described> = match &args.name {
        None => session.heads.iter().map(Described::new).collect::<Result<_, _>>()?,
        Some(name) => {
            let head = session.heads.get(name).map_err(|error| TrainError::Usage(error.to_string()))?;
            vec![Described::new(head)?]
        }
    };
    let out = &mut *session.output;
    if args.name.is_some() {
        for head in &heads {
            out.line(head.table())?;
        }
    } else {
        for head in &heads {
            out.line(format!("{:<12}  {}", head.name, head.about))?;
        }
        out.line("\nheadstock heads NAME shows the keys of one.")?;
    }
    out.figures(&Figures { heads })?;
    Ok(())
}
