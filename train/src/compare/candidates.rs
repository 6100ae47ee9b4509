//! The candidates of a comparison: the hyperparameter grids of heads.

use headstock_heads::{ConfiguredHead, HeadKind, Registry};
use toml::Table;

use super::results::{CandidateResult, CandidateStatus};
use crate::config::Settings;
use crate::error::TrainError;

/// A head with one choice of hyperparameters, to be compared with others.
pub struct Candidate {
    pub(super) head: Box<dyn ConfiguredHead>,
    /// The index of this choice in the hyperparameter grid of its head.
    pub(super) round: usize,
    /// The parameters that differ from the head's defaults.
    changed: Table,
}

impl Candidate {
    /// The entry of the candidate in the results: its head, its hyperparameters and its result `status`.
    pub(super) fn to_result(&self, status: CandidateStatus) -> CandidateResult {
        CandidateResult {
            head: self.head.kind().to_owned(),
            parameters: self.head.table(),
            changed: self.changed.clone(),
            status,
        }
    }

    /// The name of the head.
    #[cfg(test)]
    pub(super) fn kind(&self) -> &'static str {
        self.head.kind()
    }
}

/// A key of `[head]` that is set for all compared heads that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedKey {
    /// The key, such as `class_weight`.
    pub key: String,
    /// The compared heads that have the key, sorted by name.
    pub heads: Vec<&'static str>,
    /// The compared heads that do not have it, sorted by name.
    pub heads_without: Vec<&'static str>,
}

/// The candidates to compare: the points of the hyperparameter grids of the heads in `head_names`, or of all
/// heads. The grid of the head of `settings` starts from its `[head]`, other grids from the defaults. The
/// first points of all grids come first (round 0), then the second points, and so on; within a round heads
/// are sorted by name.
///
/// # Errors
/// [`TrainError::Usage`] for an unknown or repeated name.
pub fn candidates(
    settings: &Settings,
    heads: &Registry,
    head_names: Option<&[String]>,
) -> Result<Vec<Candidate>, TrainError> {
    Ok(candidates_with_keys(settings, heads, head_names, &Table::new())?.0)
}

/// As [`candidates`], with the values `keys` for each compared head that has the key. Also returns which heads
/// have each key.
///
/// # Errors
/// Those of [`candidates`]; [`TrainError::Usage`] for a key that no compared head has, and for a value that a
/// head refuses.
pub fn candidates_with_keys(
    settings: &Settings,
    heads: &Registry,
    head_names: Option<&[String]>,
    keys: &Table,
) -> Result<(Vec<Candidate>, Vec<SharedKey>), TrainError> {
    let usage_error = |problem: String| TrainError::Usage(format!("the heads to compare: {problem}"));
    for (i, name) in head_names.unwrap_or_default().iter().enumerate() {
        heads.get(name).map_err(|error| usage_error(error.to_string()))?;
        if head_names.unwrap_or_default()[..i].contains(name) {
            return Err(usage_error(format!("`{name}` is named twice: name each head once")));
        }
    }
    let is_compared =
        |kind: &&dyn HeadKind| head_names.is_none_or(|named| named.iter().any(|n| n == kind.name()));
    let kinds: Vec<&dyn HeadKind> = heads.iter().filter(is_compared).collect();
    if kinds.is_empty() {
        return Err(usage_error("there is no head to compare: name at least one, such as `linear`".into()));
    }
    let shared_keys = find_heads_with_keys(&kinds, keys)?;
    let mut candidates = Vec::new();
    for kind in kinds {
        let default_head = kind.configure(Table::new())?;
        let defaults = default_head.table();
        let is_chosen = settings.head.kind() == kind.name();
        let mut table = if is_chosen { settings.head.table() } else { defaults.clone() };
        let own_keys = shared_keys.iter().filter(|shared| shared.heads.contains(&kind.name()));
        table.extend(own_keys.map(|shared| (shared.key.clone(), keys[&shared.key].clone())));
        let configured = kind.configure(table).map_err(|error| {
            TrainError::Usage(format!("the head `{}` cannot be compared: {error}", kind.name()))
        })?;
        for (round, head) in configured.candidate_configs().into_iter().enumerate() {
            let changed =
                head.table().into_iter().filter(|(key, value)| defaults.get(key) != Some(value)).collect();
            candidates.push(Candidate { head, round, changed });
        }
    }
    // The sort is stable: heads stay sorted by name.
    candidates.sort_by_key(|candidate| candidate.round);
    Ok((candidates, shared_keys))
}

/// Finds out which of the compared heads `kinds` have each of `keys`, so that the user learns where a setting
/// has no effect.
///
/// # Errors
/// [`TrainError::Usage`] for a key that none of them has.
fn find_heads_with_keys(kinds: &[&dyn HeadKind], keys: &Table) -> Result<Vec<SharedKey>, TrainError> {
    let keys_of_kinds: Vec<(&'static str, Vec<String>)> = kinds
        .iter()
        .map(|kind| (kind.name(), kind.hyperparameters().into_iter().map(|key| key.name).collect()))
        .collect();
    let find_heads = |key: &String| {
        let (with, without): (Vec<_>, Vec<_>) =
            keys_of_kinds.iter().partition(|(_, known)| known.contains(key));
        let names = |heads: Vec<&(&'static str, Vec<String>)>| heads.iter().map(|(name, _)| *name).collect();
        let shared = SharedKey { key: key.clone(), heads: names(with), heads_without: names(without) };
        if shared.heads.is_empty() {
            return Err(TrainError::Usage(format!(
                "none of the compared heads ({}) has the key `{key}`: correct the name of the key, or leave it \
                 out",
                shared.heads_without.join(", ")
            )));
        }
        Ok(shared)
    };
    keys.keys().map(find_heads).collect()
}
