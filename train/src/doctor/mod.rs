//! Finds problems of images and labels before training.
//!
//! [`examine`] lists the data set with all its errors and checks:
//!
//! - each image: whether it can be read, how it is stored, its size ([`headstock_loader::checks`]);
//! - pairs of images: exact and near-duplicates ([`headstock_loader::duplicates`]);
//! - features, if there is a backbone: labels that contradict heads which were fitted without the sample
//!   ([`label_issues`]), outliers, and duplicates that pixels alone do not confirm.
//!
//! A check that is not possible is not an error; it is listed with the reason ([`Diagnosis::left_out`]). The
//! result does not depend on the number of threads.

mod augment_sheet;
mod clean_table;
mod cleaning;
mod confident_learning;
mod duplicates;
mod findings;
mod images;
mod listing;
mod out_of_fold;
mod outliers;
mod report_page;
mod review;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use headstock_heads::{ConfiguredHead, FeatureMatrix, Registry};
use headstock_inference::{PretrainedBackbone, Progress};
use headstock_loader::dataset::{PassedOverReason, join_groups};
use serde::Serialize;

pub use augment_sheet::{AugmentSheet, write_augment_sheet};
pub use clean_table::{CleanSummary, CleanTable};
pub use confident_learning::{LabelIssues, label_issues, self_confidence};
pub use findings::{DuplicateScope, Finding, FindingItem, FindingKind, LabelSuggestion, SampleRef, Severity};
pub use out_of_fold::OutOfFoldProbabilities;
pub use report_page::ReportPage;

use crate::config::{OnError, Settings};
use crate::error::{TrainError, error_chain};
use crate::features::{ExtractOptions, ExtractedFeatures};
use crate::samples::{DatasetListing, SampleSet, Subset};
use crate::signature_cache::SignatureCache;
use confident_learning::most_probable;
use duplicates::DuplicateGroups;
use images::ImageInspection;
use out_of_fold::OutOfFoldInput;
use outliers::NeighborGraph;
use review::Review;

/// The version of the JSON of [`Diagnosis`].
const VERSION: u32 = 1;

/// Heads that are fast to fit. The first of them replaces a head that is not among them.
const QUICK_HEADS: [&str; 5] = ["linear", "ridge", "lda", "nearest-mean", "knn"];

/// The results of an examination.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// The version of this object.
    pub doctor: u32,
    /// The number of listed images.
    #[serde(rename = "photos")]
    pub images: usize,
    /// The classes with their numbers of images.
    pub classes: Vec<ClassCount>,
    /// The findings, the most severe first.
    pub findings: Vec<Finding>,
    /// All images whose labels were checked, the most suspicious first. The first ones are the suspicious
    /// labels of `findings`; some of the following may be wrong, too.
    pub labels: Vec<RankedLabel>,
    /// The files and rows of the data that are not used, by reason, besides those in the findings.
    pub passed_over: BTreeMap<PassedOverReason, usize>,
    /// The checks that were left out, with reasons.
    pub left_out: Vec<String>,
    /// The number of problems that are not among the findings, because the review beside the data's own table has
    /// decided about them: images that were left out or are to stay.
    pub decided: usize,
    /// The out-of-fold probabilities that labels were checked with, for other tools.
    #[serde(skip)]
    pub probabilities: Option<OutOfFoldProbabilities>,
    #[serde(skip)]
    listing: DatasetListing,
    /// The review beside the data's own table.
    #[serde(skip)]
    earlier_review: Review,
}

/// An image with the probability of its label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankedLabel {
    /// The path of the image.
    pub path: String,
    /// The probability of the label by a head that was fitted without the image.
    pub score: f64,
}

/// A class with its numbers of images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The name of the class.
    pub class: String,
    /// Images in the training set.
    pub train: usize,
    /// Images in the test set.
    pub test: usize,
}

impl Diagnosis {
    /// The number of items with this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).map(|finding| finding.count).sum()
    }

    /// The ids of all listed samples.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.listing.samples.rows.iter().map(|row| row.id.as_str())
    }

    /// Runs the checks that use features, on all readable images. Adds duplicates that the features indicate
    /// to `duplicates`. The error is the reason why there are no features.
    fn inspect_features(
        &mut self,
        settings: &Settings,
        inspections: &[ImageInspection],
        duplicates: &mut DuplicateGroups,
        progress: &dyn Progress,
    ) -> Result<(), String> {
        let Self { findings, left_out, probabilities, listing, .. } = self;
        let dataset = &listing.samples;
        let Some(backbone) = &settings.backbone else {
            return Err("the config has no [backbone]".into());
        };
        let readable: Vec<usize> =
            (0..inspections.len()).filter(|&sample| inspections[sample].error.is_none()).collect();
        if readable.is_empty() {
            return Err("no photo can be read".into());
        }
        let options = ExtractOptions { on_error: OnError::Skip, ..settings.extract_options() };
        let images: Vec<_> = readable.iter().map(|&sample| listing.images[sample].clone()).collect();
        let read_features = || -> Result<(Vec<f32>, usize, Vec<usize>), TrainError> {
            let pretrained = PretrainedBackbone::open(backbone, progress)?;
            let features =
                ExtractedFeatures::prepare(&pretrained, options, &images, &vec![0; images.len()], progress)?;
            let present: Vec<usize> =
                (0..images.len()).filter(|&image| features.is_readable(image)).collect();
            let mut values = Vec::new();
            features.append(&present, 0, &mut values)?;
            Ok((values, features.width(), present))
        };
        let (values, width, present) = read_features().map_err(|error| error_chain(&error))?;
        let samples: Vec<usize> = present.into_iter().map(|image| readable[image]).collect();
        let features = FeatureMatrix::new(&values, width).map_err(|error| error.to_string())?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err("the features are not finite".into());
        }

        progress.begin("comparing photos", samples.len() as u64, "photos");
        let neighbors = NeighborGraph::from_features(features, duplicates::MIN_COSINE, |n_done| {
            progress.step(n_done as u64);
        });
        progress.end();
        if samples.len() > outliers::MAX_REFERENCE_IMAGES {
            left_out.push(format!(
                "neighbors among all {} photos: to find outliers and duplicates by features, photos are \
                 compared with {} of them",
                samples.len(),
                outliers::MAX_REFERENCE_IMAGES
            ));
        }
        let similar_pairs: Vec<(usize, usize)> =
            neighbors.pairs.iter().map(|&(a, b, _)| (samples[a], samples[b])).collect();
        duplicates.add_confirmed(inspections, &similar_pairs);
        let outlier_items = neighbors.outliers().into_iter().map(|row| {
            let detail = format!("distance to similar photos {:.3}", neighbors.distances[row]);
            FindingItem::new(vec![sample_ref(dataset, samples[row])], detail)
        });
        findings.extend(Finding::from_items(FindingKind::Outlier, None, outlier_items.collect()));

        let data_groups: Vec<Option<u32>> = dataset.rows.iter().map(|sample| sample.group).collect();
        let groups = join_groups(&data_groups, &duplicates.links());
        let input = OutOfFoldInput {
            samples: &samples,
            features,
            labels: samples.iter().map(|&sample| dataset.rows[sample].label).collect(),
            groups: samples.iter().map(|&sample| groups[sample]).collect(),
        };
        let kind = settings.head.kind();
        let quick_head = if QUICK_HEADS.contains(&kind) { None } else { default_quick_head() };
        if quick_head.is_some() {
            left_out.push(format!(
                "the head `{kind}` for checking labels: it is slow to fit; `linear` is used instead"
            ));
        }
        match input.predict(quick_head.as_deref().unwrap_or(settings.head.as_ref()), progress) {
            Ok(out_of_fold) => {
                findings.extend(suspicious_labels(dataset, &out_of_fold));
                *probabilities = Some(out_of_fold);
            }
            Err(reason) => left_out.push(format!("suspicious labels: {reason}")),
        }
        Ok(())
    }
}

/// Which checks [`examine`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoctorChecks {
    /// All checks.
    All,
    /// Only checks that need no features.
    Quick,
}

/// Examines the images of `settings`. Without a backbone, the checks that need features are left out.
///
/// # Errors
/// [`TrainError::Dataset`] for data that cannot be listed, [`TrainError::NeedsImages`] for precomputed
/// features, and [`TrainError::Inference`] for a failure of the hub.
pub fn examine(
    settings: &Settings,
    checks: DoctorChecks,
    progress: &dyn Progress,
) -> Result<Diagnosis, TrainError> {
    let mut listing = DatasetListing::read(settings, progress)?;
    listing.samples.passed_over.log(&listing.origin);
    let signature_cache = SignatureCache::open(&settings.features.cache, settings.decode);
    let inspections = images::inspect_images(&listing.images, &signature_cache, settings.decode, progress);
    let mut duplicates = DuplicateGroups::find(&inspections);
    let mut left_out = Vec::new();
    if let Err(reason) = listing.draw_split(&settings.split, &duplicates.links()) {
        left_out.push(format!("duplicates across training and test set: {reason}"));
    }
    let earlier_review = listing.table.as_deref().map(Review::read_beside).transpose()?.unwrap_or_default();
    let mut findings = listing::findings(&listing);
    findings.extend(images::findings(&listing.samples, &inspections));
    let mut diagnosis = Diagnosis {
        doctor: VERSION,
        images: listing.images.len(),
        classes: count_classes(&listing.samples),
        findings,
        labels: Vec::new(),
        passed_over: listing.samples.passed_over.counts(),
        left_out,
        decided: 0,
        probabilities: None,
        listing,
        earlier_review,
    };
    let checked = match checks {
        DoctorChecks::All => diagnosis.inspect_features(settings, &inspections, &mut duplicates, progress),
        DoctorChecks::Quick => Err("only the quick checks were requested".to_owned()),
    };
    let Diagnosis { findings, labels, left_out, decided, probabilities, listing, earlier_review, .. } =
        &mut diagnosis;
    if let Err(reason) = checked {
        left_out.push(format!("suspicious labels, outliers, and duplicates found by features: {reason}"));
    }
    findings.extend(duplicates.findings(&listing.samples));
    *decided = remove_decided(findings, earlier_review);
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.kind, finding.scope));
    if let Some(found) = probabilities {
        *labels = rank_labels(&listing.samples, found);
    }
    Ok(diagnosis)
}

/// Removes the items of `findings` about which `review` has decided: images without a class that were left out, and
/// images that are to stay, of duplicates all but one. Returns their number.
fn remove_decided(findings: &mut Vec<Finding>, review: &Review) -> usize {
    let is_decided = |kind: FindingKind, item: &FindingItem| match (kind, item.images.as_slice()) {
        (FindingKind::UnlabeledImage, []) => review.drops(&item.detail),
        // Training stops at these.
        (FindingKind::Unreadable | FindingKind::Truncated, _) | (_, []) => false,
        (_, images) => {
            let n_open = images.iter().filter(|image| !review.accepts(&image.path)).count();
            n_open <= usize::from(images.len() > 1)
        }
    };
    let mut n_decided = 0;
    for finding in findings.iter_mut() {
        finding.items.retain(|item| !is_decided(finding.kind, item));
        n_decided += finding.count - finding.items.len();
        finding.count = finding.items.len();
    }
    findings.retain(|finding| finding.count > 0);
    n_decided
}

/// The number of images of each class in each subset.
fn count_classes(dataset: &SampleSet) -> Vec<ClassCount> {
    let without_images = |class: &String| ClassCount { class: class.clone(), train: 0, test: 0 };
    let mut counts: Vec<ClassCount> = dataset.classes.names().iter().map(without_images).collect();
    for sample in &dataset.rows {
        let count = &mut counts[sample.label as usize];
        match sample.subset {
            Subset::Train => count.train += 1,
            Subset::Test => count.test += 1,
        }
    }
    counts
}

/// Describes sample `number` of `dataset` in a finding.
fn sample_ref(dataset: &SampleSet, number: usize) -> SampleRef {
    let sample = &dataset.rows[number];
    let label = dataset.classes.name(sample.label).to_owned();
    SampleRef { path: sample.id.clone(), label, subset: sample.subset, index: number }
}

/// The first of [`QUICK_HEADS`] with its defaults, in place of a slow head.
fn default_quick_head() -> Option<Box<dyn ConfiguredHead>> {
    Registry::builtin().get(QUICK_HEADS[0]).ok()?.configure(toml::Table::new()).ok()
}

/// All labels by ascending probability; ties are in the order of the data.
fn rank_labels(dataset: &SampleSet, found: &OutOfFoldProbabilities) -> Vec<RankedLabel> {
    let rows = found.probabilities.chunks_exact(found.classes.len());
    let mut labels: Vec<RankedLabel> = (found.samples.iter().zip(&found.labels).zip(rows))
        .map(|((&sample, &label), row)| RankedLabel {
            path: dataset.rows[sample].id.clone(),
            score: self_confidence(label, row),
        })
        .collect();
    labels.sort_by(|a, b| a.score.total_cmp(&b.score));
    labels
}

/// The finding of labels that are probably wrong, each with the most probable other class.
fn suspicious_labels(dataset: &SampleSet, found: &OutOfFoldProbabilities) -> Option<Finding> {
    let classes = found.classes.len();
    let issues = label_issues(&found.labels, &found.probabilities, classes);
    let items = issues.ranked.into_iter().map(|row| {
        let (label, probabilities) = (found.labels[row], &found.probabilities[row * classes..][..classes]);
        // The most probable of the other classes.
        let best = most_probable(probabilities, |class| if class == label as usize { -2.0 } else { 0.0 });
        let suggested = dataset.classes.name(found.classes[best]).to_owned();
        let (probability, suggested_probability) =
            (f64::from(probabilities[label as usize]), f64::from(probabilities[best]));
        FindingItem {
            images: vec![sample_ref(dataset, found.samples[row])],
            detail: format!(
                "probability {suggested_probability:.2} for {suggested}, {probability:.2} for its label"
            ),
            suggestion: Some(LabelSuggestion {
                suggested,
                probability,
                suggested_probability,
                score: self_confidence(label, probabilities),
            }),
        }
    });
    Finding::from_items(FindingKind::SuspiciousLabel, None, items.collect())
}
