//! The commands, one a file.

pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod doctor;
pub(crate) mod evaluate;
pub(crate) mod extract;
mod find_lr;
pub(crate) mod heads;
pub(crate) mod init;
pub(crate) mod predict;
pub(crate) mod split;
pub(crate) mod train;

use std::env;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Instant;

use headstock_heads::Registry;
use headstock_train::config::{Config, Settings};
use headstock_train::metrics::Metrics;
use headstock_train::run::{ConformalMetrics, SetMetrics, TrainTestOverlap, UnseenMetrics};
use headstock_train::{Run, TrainError};

use crate::args::Global;
use crate::output::Output;
use crate::progress::Bars;

const CONFIG: &str = "headstock.toml";

/// What a command runs with.
pub(crate) struct Session<'a> {
    pub(crate) global: Global,
    pub(crate) heads: Registry,
    pub(crate) bars: &'a Bars,
    pub(crate) output: &'a mut Output,
    /// When the program began.
    pub(crate) started: Instant,
}

impl Session<'_> {
    /// The config's file.
    fn config_path(&self) -> PathBuf {
        self.global.config.clone().unwrap_or_else(|| CONFIG.into())
    }

    /// The settings of the config, with `more` overrides before the user's.
    fn settings(&self, more: &[String]) -> Result<Settings, TrainError> {
        let mut config = Config::read(&self.config_path())?;
        config.set(&[more, &self.global.overrides].concat())?;
        let mut settings = config.resolve(&self.heads)?;
        settings.pin_dataset_revisions(self.bars)?;
        Ok(settings)
    }

    /// As [`settings`](Self::settings) without more overrides, for a command that looks at photos alone: they need no backbone.
    fn settings_of_photos(&self) -> Result<Settings, TrainError> {
        let mut config = Config::read(&self.config_path())?;
        config.set(&self.global.overrides)?;
        Ok(config.resolve_images_only(&self.heads)?)
    }

    /// For a command that takes overrides as all do, but uses no key of the config: says so.
    fn note_unused_overrides(&self, command: &str) {
        for text in &self.global.overrides {
            tracing::info!("--set {text} does nothing here: `headstock {command}` uses no key of the config");
        }
    }

    /// A run and the settings to use it with: its own, or those of `--config`.
    fn run(&self, folder: &Path) -> Result<(Run, Settings), TrainError> {
        let run = Run::open(folder, &self.heads)?;
        let settings = match &self.global.config {
            Some(_) => self.settings(&[])?,
            None => run.settings(&self.global.overrides, &self.heads)?,
        };
        Ok((run, settings))
    }
}

/// The figures of a test in a line.
fn line_of(metrics: &Metrics) -> String {
    format!(
        "top-1 {:.3}   top-5 {:.3}   macro F1 {:.3}   log loss {:.3}   calibration error {:.3}",
        metrics.top1, metrics.top5, metrics.macro_f1, metrics.log_loss, metrics.ece
    )
}

/// How conformal sets did, in a line.
fn line_of_sets(conformal: &ConformalMetrics) -> String {
    let of = |sets: &SetMetrics| format!("{:.3} with {:.2} classes", sets.coverage, sets.mean_size);
    let ConformalMetrics { coverage, lac, aps } = conformal;
    format!("sets that are to hold the class {coverage} of the time: lac {}, aps {}", of(lac), of(aps))
}

/// How the samples do that were not trained on, where others were.
fn lines_of_unseen(trained_on: &TrainTestOverlap) -> Vec<String> {
    let TrainTestOverlap { samples, unseen } = trained_on;
    match unseen {
        _ if *samples == 0 => Vec::new(),
        None => vec![format!("trained on all of these {}", counted(*samples, "sample"))],
        Some(UnseenMetrics { samples: others, test, conformal }) => {
            let title = format!("{samples} of these were trained on; the other {others} alone:");
            let figures = std::iter::once(line_of(test)).chain(conformal.as_ref().map(line_of_sets));
            std::iter::once(title).chain(figures.map(|line| format!("  {line}"))).collect()
        }
    }
}

/// `1 photo`, `2 photos`
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// How this program was called.
fn program() -> PathBuf {
    env::args_os().next().map_or_else(|| "headstock".into(), PathBuf::from)
}

/// As a shell takes it.
fn quoted(text: impl Display) -> String {
    let text = text.to_string();
    // On Windows a backslash parts folders; elsewhere a shell would swallow it.
    let plain = |c: char| c.is_alphanumeric() || "/._-+:".contains(c) || (cfg!(windows) && c == '\\');
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        for plain in ["runs/linear-1", "größe.jpg", "C:/x"] {
            assert_eq!(quoted(plain), plain);
        }
        assert_eq!(quoted("my run"), "'my run'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn one_is_one_and_all_other_numbers_are_many() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "photo")), ["0 photos", "1 photo", "2 photos"]);
    }

    #[test]
    fn figures_stand_behind_their_names() {
        let metrics = Metrics { top1: 0.1, top5: 0.2, macro_f1: 0.3, log_loss: 0.4, ece: 0.5 };
        let line = "top-1 0.100   top-5 0.200   macro F1 0.300   log loss 0.400   calibration error 0.500";
        assert_eq!(line_of(&metrics), line);
        let of = |coverage, mean_size| SetMetrics { coverage, mean_size, empty: 0.9 };
        let sets = ConformalMetrics { coverage: 0.95, lac: of(0.1, 1.5), aps: of(0.2, 2.5) };
        let line = "sets that are to hold the class 0.95 of the time: lac 0.100 with 1.50 classes, aps 0.200 with 2.50 classes";
        assert_eq!(line_of_sets(&sets), line);
    }
}
