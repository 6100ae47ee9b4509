//! The commands, one per file.

pub(crate) mod bench;
pub(crate) mod compare;
mod compare_runs;
pub(crate) mod doctor;
pub(crate) mod evaluate;
pub(crate) mod extract;
mod find_lr;
pub(crate) mod heads;
pub(crate) mod init;
pub(crate) mod pack;
pub(crate) mod predict;
pub(crate) mod split;
pub(crate) mod train;

use std::env;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Instant;

use headstock_inference::search_folders;
use headstock_loader::source::parent_folder;
use headstock_train::config::{Config, Registries, Settings};
use headstock_train::run::{ConformalMetrics, SetMetrics, TrainTestOverlap, UnseenMetrics};
use headstock_train::{Run, TrainError};

use crate::args::GlobalArgs;
use crate::output::Output;
use crate::progress::ProgressBars;

/// Name of the config file in the current folder and in a run.
const DEFAULT_CONFIG: &str = "headstock.toml";

/// What every command gets besides its own arguments.
pub(crate) struct CommandContext<'a> {
    /// The arguments that all commands have, such as `--config` and `--set`.
    pub(crate) global: GlobalArgs,
    /// The heads that can be used.
    pub(crate) registries: Registries,
    pub(crate) bars: &'a ProgressBars,
    pub(crate) output: &'a mut Output,
    /// Start time of the program.
    pub(crate) started: Instant,
}

impl CommandContext<'_> {
    /// Path of the config file: `--config`, or `headstock.toml` in the current folder.
    fn config_path(&self) -> PathBuf {
        self.global.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into())
    }

    /// Reads and validates the config after two kinds of overrides (`KEY=VALUE`): those of the command,
    /// `extra`, and those of `--set`, which have precedence. Downloads a data set of the Hugging Face hub and
    /// puts its current commit into the settings, so that they always mean the same images.
    fn resolve_settings(&self, extra: &[String]) -> Result<Settings, TrainError> {
        let mut config = Config::read(&self.config_path())?;
        config.set(&[extra, &self.global.overrides].concat())?;
        let mut settings = config.resolve(&self.registries)?;
        settings.pin_dataset_revisions(self.bars)?;
        Ok(settings)
    }

    /// The settings of the config for `doctor`. Unlike for other commands, a config without
    /// `[backbone]` is accepted, because the checks that need one are left out then.
    fn resolve_data_settings(&self) -> Result<Settings, TrainError> {
        let mut config = Config::read(&self.config_path())?;
        config.set(&self.global.overrides)?;
        Ok(config.resolve_images_only(&self.registries)?)
    }

    /// Logs for each `--set` that `command` ignores it, because that command does not read the config.
    fn note_unused_overrides(&self, command: &str) {
        for assignment in &self.global.overrides {
            tracing::info!("--set {assignment} has no effect: `headstock {command}` does not use the config");
        }
    }

    /// Opens the trained run in `folder`. Also returns the settings for its use: those of `--config` if it is
    /// given, else those saved in the run, both overridden by `extra` (`KEY=VALUE`) and `--set`. `weights`
    /// (`--weights`) are those of the backbone; if neither they nor `--set` name them, they are looked for by their
    /// hash beside the run and the config.
    fn open_run(
        &self,
        folder: &Path,
        weights: Option<&str>,
        extra: &[String],
    ) -> Result<(Run, Settings), TrainError> {
        let run = Run::open(folder, &self.registries)?;
        let mut settings = match &self.global.config {
            Some(_) => self.resolve_settings(extra)?,
            None => run.settings(&[extra, &self.global.overrides].concat(), &self.registries)?,
        };
        let is_set =
            |text: &String| text.split_once('=').is_some_and(|(key, _)| key.trim() == "backbone.weights");
        if let Some(backbone) = &mut settings.backbone {
            if let Some(weights) = weights {
                backbone.weights = weights.to_owned();
            } else if !self.global.overrides.iter().any(is_set) {
                backbone.search = search_folders(folder);
                backbone
                    .search
                    .extend(self.global.config.as_deref().map(|file| parent_folder(file).to_path_buf()));
            }
        }
        Ok((run, settings))
    }
}

/// Formats the test of conformal sets (sets of classes that contain the true one with a target probability)
/// as a line: the coverage reached and the mean number of classes, by each of the two methods LAC and APS.
fn format_conformal(conformal: &ConformalMetrics) -> String {
    let format_sets =
        |sets: &SetMetrics| format!("coverage {:.3}, mean size {:.2}", sets.coverage, sets.mean_size);
    let ConformalMetrics { coverage, lac, aps } = conformal;
    format!(
        "conformal sets (target coverage {coverage:.2}): LAC {}; APS {}",
        format_sets(lac),
        format_sets(aps)
    )
}

/// Formats how many test samples the run was trained on, and the metrics on the other test samples, because a
/// head knows the samples that it was fitted on and metrics on them are too optimistic. No lines if the run
/// was trained on no test sample.
fn format_unseen(overlap: &TrainTestOverlap) -> Vec<String> {
    let TrainTestOverlap { samples: n_seen, unseen } = overlap;
    match unseen {
        _ if *n_seen == 0 => Vec::new(),
        None => vec![format!(
            "test photos that were in the training data: {n_seen}, all of them: the metrics are too optimistic"
        )],
        Some(UnseenMetrics { samples: n_unseen, test, conformal }) => {
            let n_unseen = pluralize(*n_unseen, "test photo");
            let heading = format!(
                "test photos that were in the training data: {n_seen}; metrics on the other {n_unseen}:"
            );
            let lines = std::iter::once(test.to_string()).chain(conformal.as_ref().map(format_conformal));
            std::iter::once(heading).chain(lines.map(|line| format!("  {line}"))).collect()
        }
    }
}

/// Formats a count with its noun: `1 photo`, `2 photos`.
fn pluralize(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The path that this program was called by, for printed commands.
fn program_path() -> PathBuf {
    env::args_os().next().map_or_else(|| "headstock".into(), PathBuf::from)
}

/// Quotes a word for a shell if necessary, so that printed commands can be pasted. Control characters become
/// escapes in dollar-single-quotes (POSIX.1-2024), so that a file name cannot send commands to the terminal.
pub(crate) fn shell_quote(text: impl Display) -> String {
    let text = text.to_string();
    if text.contains(char::is_control) {
        return format!("$'{}'", text.chars().map(escape_in_dollar_quotes).collect::<String>());
    }
    // On Windows a backslash separates folders; elsewhere a shell would remove it.
    let is_safe = |c: char| c.is_alphanumeric() || "/._-+:".contains(c) || (cfg!(windows) && c == '\\');
    if !text.is_empty() && text.chars().all(is_safe) {
        text
    } else {
        // A quote in the text ends the quoted part, is added by a backslash, and starts the next quoted part.
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// A character as it stands in dollar-single-quotes.
fn escape_in_dollar_quotes(c: char) -> String {
    match c {
        '\\' | '\'' => format!("\\{c}"),
        c if c.is_control() => c.to_string().bytes().map(|byte| format!("\\x{byte:02x}")).collect(),
        c => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_special_characters_are_quoted() {
        for safe in ["runs/linear-1", "größe.jpg", "C:/x"] {
            assert_eq!(shell_quote(safe), safe);
        }
        assert_eq!(shell_quote("my run"), "'my run'");
        assert_eq!(shell_quote("it's"), r"'it'\''s'");
        assert_eq!(shell_quote(""), "''");
        let with_controls = "a\u{1b}[31m\nit's\\\u{9b}.jpg";
        let quoted = r"$'a\x1b[31m\x0ait\'s\\\xc2\x9b.jpg'";
        assert_eq!(shell_quote(with_controls), quoted);
        #[cfg(unix)]
        {
            let echo =
                std::process::Command::new("bash").args(["-c", &format!("printf %s {quoted}")]).output();
            // Where there is bash, it gives the name back.
            if let Ok(output) = echo {
                assert_eq!(String::from_utf8(output.stdout).unwrap(), with_controls);
            }
        }
    }

    #[test]
    fn nouns_are_plural_unless_the_count_is_one() {
        assert_eq!([0, 1, 2].map(|count| pluralize(count, "photo")), ["0 photos", "1 photo", "2 photos"]);
    }

    #[test]
    fn conformal_sets_are_printed_with_their_methods() {
        let set_metrics = |coverage, mean_size| SetMetrics { coverage, mean_size, empty: 0.9 };
        let sets =
            ConformalMetrics { coverage: 0.95, lac: set_metrics(0.1, 1.5), aps: set_metrics(0.2, 2.5) };
        let line = "conformal sets (target coverage 0.95): LAC coverage 0.100, mean size 1.50; APS coverage 0.200, mean size 2.50";
        assert_eq!(format_conformal(&sets), line);
    }
}
