//! The candidates of a comparison: the hyperparameter grids of heads.

use headstock_heads::{ConfiguredHead, Registry};
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
    let usage_error = |problem: String| TrainError::Usage(format!("the heads to compare: {problem}"));
    for (i, name) in head_names.unwrap_or_default().iter().enumerate() {
        heads.get(name).map_err(|error| usage_error(error.to_string()))?;
        if head_names.unwrap_or_default()[..i].contains(name) {
            return Err(usage_error(format!("`{name}` is named twice: name each head once")));
        }
    }
    let mut candidates = Vec::new();
    for kind in
        heads.iter().filter(|kind| head_names.is_none_or(|named| named.iter().any(|n| n == kind.name())))
    {
        let default_head = kind.configure(Table::new())?;
        let defaults = default_head.table();
        let grid = if settings.head.kind() == kind.name() {
            settings.head.candidate_configs()
        } else {
            default_head.candidate_configs()
        };
        for (round, head) in grid.into_iter().enumerate() {
            let changed =
                head.table().into_iter().filter(|(key, value)| defaults.get(key) != Some(value)).collect();
            candidates.push(Candidate { head, round, changed });
        }
    }
    if candidates.is_empty() {
        return Err(usage_error("there is no head to compare: name at least one, such as `linear`".into()));
    }
    // The sort is stable: heads stay sorted by name.
    candidates.sort_by_key(|candidate| candidate.round);
    Ok(candidates)
}
