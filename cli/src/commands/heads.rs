//! `headstock heads`

use headstock_heads::{HeadKind, Hyperparameter};
use headstock_train::TrainError;
use serde::Serialize;

use super::CommandContext;
use crate::args::HeadsArgs;

/// The output of `heads --json`.
#[derive(Serialize)]
struct HeadsJson {
    heads: Vec<HeadJson>,
}

/// A kind of head with its hyperparameters.
#[derive(Serialize)]
struct HeadJson {
    name: &'static str,
    about: &'static str,
    /// Whether the backbone can be fine-tuned with this head.
    differentiable: bool,
    keys: Vec<KeyJson>,
}

/// A hyperparameter of a head: a key of the config's table `[head]`.
#[derive(Serialize)]
struct KeyJson {
    name: String,
    about: String,
    /// `None` if the key is not set by default.
    default: Option<toml::Value>,
}

impl HeadJson {
    /// Collects the description of a head, and its hyperparameters with their defaults.
    fn new(head: &dyn HeadKind) -> Result<Self, TrainError> {
        let defaults = head.configure(toml::Table::new())?.table();
        let keys = head.hyperparameters().into_iter().map(|Hyperparameter { name, about }| {
            let default = defaults.get(&name).cloned();
            KeyJson { name, about, default }
        });
        Ok(Self {
            name: head.name(),
            about: head.about(),
            differentiable: head.is_differentiable(),
            keys: keys.collect(),
        })
    }

    /// The `[head]` table of a config with all keys at their defaults, for the user to paste into a config
    /// file. A key without a default is a comment.
    fn to_toml(&self) -> String {
        let Self { name, about, .. } = self;
        let mut text = format!("# {name}: {about}\n[head]\nkind = \"{name}\"");
        for KeyJson { name, about, default } in &self.keys {
            text += &match default {
                Some(value) => format!("\n\n# {about}\n{name} = {value}"),
                None => format!("\n\n# {about}\n# {name} ="),
            };
        }
        text
    }
}

/// Lists all kinds of heads with their descriptions or, if one is named, prints its hyperparameters with
/// their defaults.
pub(crate) fn run(args: &HeadsArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    context.note_unused_overrides("heads");
    let heads: Vec<HeadJson> = match &args.name {
        None => context.registries.heads.iter().map(HeadJson::new).collect::<Result<_, _>>()?,
        Some(name) => {
            let head =
                context.registries.heads.get(name).map_err(|error| TrainError::Usage(error.to_string()))?;
            vec![HeadJson::new(head)?]
        }
    };
    let out = &mut *context.output;
    if args.name.is_some() {
        for head in &heads {
            out.print(head.to_toml())?;
        }
    } else {
        for head in &heads {
            out.print(format!("{:<12}  {}", head.name, head.about))?;
        }
        out.print("\n`headstock heads NAME` shows the hyperparameters of a head.")?;
    }
    out.print_json(&HeadsJson { heads })?;
    Ok(())
}
