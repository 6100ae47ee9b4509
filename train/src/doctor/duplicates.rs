//! Duplicate images.

use std::collections::{BTreeMap, BTreeSet};

use headstock_loader::dataset::join_groups;
use headstock_loader::duplicates::{DEFAULT_SIMILARITY, DuplicatePair, Signature, find_near_duplicates};

use super::findings::{DuplicateScope, Finding, FindingItem, FindingKind};
use super::images::ImageInspection;
use super::sample_ref;
use crate::samples::SampleSet;

/// Minimum cosine between the features of near-duplicates, which pixels must confirm.
pub(super) const MIN_COSINE: f64 = 0.97;

/// Minimum similarity of pixels if features indicate a near-duplicate.
const CONFIRMED_SIMILARITY: f32 = 0.85;

/// The duplicates among the samples.
pub(super) struct DuplicateGroups {
    /// Groups of samples with the same bytes.
    exact: Vec<Vec<usize>>,
    /// Pairs of near-duplicates. Of samples with the same bytes only the first one is in pairs.
    near: Vec<DuplicatePair>,
}

impl DuplicateGroups {
    /// Finds the duplicate images of a data set: groups of exact duplicates, which have the same bytes, and
    /// pairs of near-duplicates, which have similar pixels. `inspections` has the inspection of each sample,
    /// with the hash of its bytes and its signature, a summary of its pixels that can be compared.
    pub(super) fn find(inspections: &[ImageInspection]) -> Self {
        let mut by_hash: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
        for (sample, inspection) in inspections.iter().enumerate() {
            if let Some(hash) = inspection.hash {
                by_hash.entry(hash).or_default().push(sample);
            }
        }
        let mut exact: Vec<Vec<usize>> = by_hash.into_values().collect();
        exact.sort_unstable();
        // Of samples with the same bytes only the first one is compared with others by pixels.
        let mut signatures: Vec<Option<Signature>> = vec![None; inspections.len()];
        for group in &exact {
            signatures[group[0]].clone_from(&inspections[group[0]].signature);
        }
        exact.retain(|copies| copies.len() > 1);
        Self { exact, near: find_near_duplicates(&signatures, DEFAULT_SIMILARITY) }
    }

    /// Adds near-duplicates that pixels alone do not show clearly. `pairs` are indices of two samples whose
    /// backbone features are similar. A pair is added if its pixels confirm it, for which a lower similarity
    /// than in [`find`](Self::find) is enough. `inspections` has the inspection of each sample, with its
    /// signature, a summary of its pixels that can be compared.
    pub(super) fn add_confirmed(&mut self, inspections: &[ImageInspection], pairs: &[(usize, usize)]) {
        // Of samples with the same bytes, the first one stands for all.
        let first_of: BTreeMap<usize, usize> =
            self.exact.iter().flat_map(|copies| copies.iter().map(|&copy| (copy, copies[0]))).collect();
        let first_copy = |sample: usize| first_of.get(&sample).copied().unwrap_or(sample);
        let mut known: BTreeSet<(usize, usize)> = self.near.iter().map(|pair| (pair.a, pair.b)).collect();
        for &(a, b) in pairs {
            let (a, b) = (first_copy(a), first_copy(b));
            let (a, b) = (a.min(b), a.max(b));
            if a == b || !known.insert((a, b)) {
                continue;
            }
            let pair = find_near_duplicates(
                &[inspections[a].signature.clone(), inspections[b].signature.clone()],
                CONFIRMED_SIMILARITY,
            );
            self.near.extend(pair.into_iter().map(|pair| DuplicatePair { a, b, ..pair }));
        }
        self.near.sort_by_key(|pair| (pair.a, pair.b));
    }

    /// Pairs that connect each sample with all its duplicates.
    pub(super) fn links(&self) -> Vec<(usize, usize)> {
        let exact = self.exact.iter().flat_map(|copies| copies[1..].iter().map(|&copy| (copies[0], copy)));
        exact.chain(self.near.iter().map(|pair| (pair.a, pair.b))).collect()
    }

    /// The findings for the report of `doctor`, one for each kind (exact duplicates or near-duplicates) and
    /// scope (the classes and subsets that they span). An item of a finding is a group of duplicates.
    pub(super) fn findings(&self, dataset: &SampleSet) -> Vec<Finding> {
        let scoped_item = |samples: &[usize], detail: String| {
            let images = samples.iter().map(|&sample| sample_ref(dataset, sample)).collect();
            (duplicate_scope(dataset, samples), FindingItem::new(images, detail))
        };
        let exact_items: Vec<_> = self.exact.iter().map(|group| scoped_item(group, String::new())).collect();
        // Near-duplicates are pairs; pairs with a common sample are joined to one group. `None`: no samples
        // are in a group beforehand.
        let groups = join_groups(&vec![None; dataset.rows.len()], &self.links());
        // The pairs and the samples of each group with a pair.
        let mut near: BTreeMap<u32, (Vec<&DuplicatePair>, Vec<usize>)> = BTreeMap::new();
        for pair in &self.near {
            near.entry(groups[pair.a]).or_default().0.push(pair);
        }
        for (sample, group) in groups.iter().enumerate() {
            if let Some((_, samples)) = near.get_mut(group) {
                samples.push(sample);
            }
        }
        let near_items: Vec<_> = near
            .values()
            .map(|(pairs, samples)| {
                let lowest = pairs.iter().map(|pair| pair.similarity).fold(1.0, f32::min);
                let mirrored = if pairs.iter().any(|pair| pair.mirrored) { ", mirrored" } else { "" };
                scoped_item(samples, format!("similarity {lowest:.3}{mirrored}"))
            })
            .collect();
        let mut findings = Vec::new();
        for (kind, items) in
            [(FindingKind::ExactDuplicate, exact_items), (FindingKind::NearDuplicate, near_items)]
        {
            for wanted_scope in
                [DuplicateScope::AcrossClasses, DuplicateScope::AcrossSubsets, DuplicateScope::WithinClass]
            {
                let in_scope =
                    items.iter().filter(|(scope, _)| *scope == wanted_scope).map(|(_, item)| item.clone());
                findings.extend(Finding::from_items(kind, Some(wanted_scope), in_scope.collect()));
            }
        }
        findings
    }
}

/// Whether a group of duplicate images, whose indices are `samples`, spans several classes, or else both the
/// training and the test set. The severity of the finding depends on that.
fn duplicate_scope(dataset: &SampleSet, samples: &[usize]) -> DuplicateScope {
    let differ =
        |value: &dyn Fn(usize) -> u32| samples.iter().any(|&sample| value(sample) != value(samples[0]));
    if differ(&|sample| dataset.rows[sample].label) {
        DuplicateScope::AcrossClasses
    } else if differ(&|sample| dataset.rows[sample].subset as u32) {
        DuplicateScope::AcrossSubsets
    } else {
        DuplicateScope::WithinClass
    }
}
