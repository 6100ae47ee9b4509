//! Photos that are there more than once.

use std::collections::{BTreeMap, BTreeSet};

use headstock_loader::dataset::join_groups;
use headstock_loader::duplicates::{DEFAULT_SIMILARITY, DuplicatePair, Signature, find_near_duplicates};

use super::findings::{Finding, Item, Kind, Scope};
use super::photos::Look;
use super::{Subject, concerned};

/// Features whose angle has a greater cosine are those of the same picture, if the pixels do not say otherwise.
pub(super) const COSINE: f64 = 0.97;

/// The least similarity of pixels where the features say that the picture is the same.
const CONFIRMED: f32 = 0.85;

/// Copies among the samples.
pub(super) struct Copies {
    /// Samples with the same bytes, by the first.
    exact: Vec<Vec<usize>>,
    /// Pairs of the same picture, of the first samples with their bytes; also those of which one is another's copy.
    near: Vec<DuplicatePair>,
}

impl Copies {
    /// By bytes and by pixels.
    pub(super) fn find(looks: &[Look]) -> Self {
        let mut by_hash: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
        for (sample, look) in looks.iter().enumerate() {
            if let Some(hash) = look.hash {
                by_hash.entry(hash).or_default().push(sample);
            }
        }
        let mut exact: Vec<Vec<usize>> = by_hash.into_values().collect();
        exact.sort_unstable();
        let mut signatures: Vec<Option<Signature>> = vec![None; looks.len()];
        for copies in &exact {
            signatures[copies[0]].clone_from(&looks[copies[0]].signature);
        }
        exact.retain(|copies| copies.len() > 1);
        Self { exact, near: find_near_duplicates(&signatures, DEFAULT_SIMILARITY) }
    }

    /// Adds those of `pairs`, alike in their features, that are alike enough in their pixels.
    pub(super) fn confirm(&mut self, looks: &[Look], pairs: &[(usize, usize)]) {
        let first: BTreeMap<usize, usize> =
            self.exact.iter().flat_map(|copies| copies.iter().map(|&copy| (copy, copies[0]))).collect();
        let first = |sample: usize| first.get(&sample).copied().unwrap_or(sample);
        let mut known: BTreeSet<(usize, usize)> = self.near.iter().map(|pair| (pair.a, pair.b)).collect();
        for &(a, b) in pairs {
            let (a, b) = (first(a).min(first(b)), first(a).max(first(b)));
            if a == b || !known.insert((a, b)) {
                continue;
            }
            let pair =
                find_near_duplicates(&[looks[a].signature.clone(), looks[b].signature.clone()], CONFIRMED);
            self.near.extend(pair.into_iter().map(|pair| DuplicatePair { a, b, ..pair }));
        }
        self.near.sort_by_key(|pair| (pair.a, pair.b));
    }

    /// Pairs that lead from each sample to all its copies.
    pub(super) fn links(&self) -> Vec<(usize, usize)> {
        let exact = self.exact.iter().flat_map(|copies| copies[1..].iter().map(|&copy| (copies[0], copy)));
        exact.chain(self.near.iter().map(|pair| (pair.a, pair.b))).collect()
    }

    pub(super) fn findings(&self, subject: &Subject<'_>) -> Vec<Finding> {
        let item = |samples: &[usize], detail: String| {
            (
                scope(subject, samples),
                Item {
                    photos: samples.iter().map(|&sample| concerned(subject, sample)).collect(),
                    detail,
                    doubt: None,
                },
            )
        };
        let exact: Vec<_> = self.exact.iter().map(|copies| item(copies, String::new())).collect();
        let groups = join_groups(&vec![None; subject.samples.len()], &self.links());
        let mut near: BTreeMap<u32, Vec<&DuplicatePair>> = BTreeMap::new();
        for pair in &self.near {
            near.entry(groups[pair.a]).or_default().push(pair);
        }
        let mut members: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (sample, group) in groups.iter().enumerate().filter(|(_, group)| near.contains_key(*group)) {
            members.entry(*group).or_default().push(sample);
        }
        let near: Vec<_> = (near.iter().zip(members.values()))
            .map(|((_, pairs), samples)| {
                let least = pairs.iter().map(|pair| pair.similarity).fold(1.0, f32::min);
                let mirrored = if pairs.iter().any(|pair| pair.mirrored) { ", mirrored" } else { "" };
                item(samples, format!("similarity {least:.3}{mirrored}"))
            })
            .collect();
        let mut findings = Vec::new();
        for (kind, items) in [(Kind::ExactDuplicate, exact), (Kind::NearDuplicate, near)] {
            for wanted in [Scope::AcrossClasses, Scope::AcrossParts, Scope::WithinClass] {
                let of_scope =
                    items.iter().filter(|(scope, _)| *scope == wanted).map(|(_, item)| item.clone());
                findings.extend(Finding::of(kind, Some(wanted), of_scope.collect()));
            }
        }
        findings
    }
}

fn scope(subject: &Subject<'_>, samples: &[usize]) -> Scope {
    let differ = |of: &dyn Fn(usize) -> u32| samples.iter().any(|&sample| of(sample) != of(samples[0]));
    if differ(&|sample| subject.samples[sample].label) {
        Scope::AcrossClasses
    } else if differ(&|sample| subject.samples[sample].part as u32) {
        Scope::AcrossParts
    } else {
        Scope::WithinClass
    }
}
