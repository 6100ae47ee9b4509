//! What is wrong with photos and labels, told before anything is trained on them.
//!
//! [`examine`] lists the data set, faults and all, and looks at it in three ways:
//!
//! - at each photo: whether it can be read, how it is stored, its size ([`headstock_loader::checks`]);
//! - at photos beside each other: the same bytes, the same picture ([`headstock_loader::duplicates`]);
//! - at features, where there is a backbone: labels that heads contradict which were fitted without the sample
//!   ([`label_issues`]), photos that are like no other, copies that pixels alone do not tell for sure.
//!
//! What cannot be done is no error: it is left out, with a sentence ([`Diagnosis::left_out`]). The result does not depend on
//! threads.

mod augment_sheet;
mod clean_table;
mod confident_learning;
mod duplicates;
mod findings;
mod images;
mod listing;
mod out_of_fold;
mod outliers;
mod report_page;
#[cfg(test)]
mod tests;

use headstock_heads::{ConfiguredHead, FeatureMatrix as Rows, Registry};
use headstock_loader::dataset::join_groups;
use serde::Serialize;

pub use augment_sheet::{AugmentSheet, write_augment_sheet};
pub use clean_table::{CleanSummary, CleanTable};
pub use confident_learning::{LabelIssues, label_issues, self_confidence};
pub use findings::{DuplicateScope, Finding, FindingItem, FindingKind, LabelSuggestion, SampleRef, Severity};
pub use out_of_fold::OutOfFoldProbabilities;
pub use report_page::ReportPage;

use crate::config::{DataSourceConfig, OnError, Settings};
use crate::error::TrainError;
use crate::features::{ExtractedFeatures, PretrainedBackbone};
use crate::progress::Progress;
use crate::samples::{DatasetListing, ListedSample, Subset};
use crate::signature_cache::SignatureCache;
use duplicates::DuplicateGroups;
use images::ImageInspection;
use out_of_fold::OutOfFoldInput;
use outliers::NeighborGraph;

/// The version of [`Diagnosis`] as JSON.
const VERSION: u32 = 1;

/// Heads that five fits of take little time; another one gives way to the first of these.
const QUICK_HEADS: [&str; 5] = ["linear", "ridge", "lda", "nearest-mean", "knn"];

/// What is examined.
struct DatasetView<'a> {
    classes: &'a [String],
    samples: &'a [ListedSample],
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// The version of this object.
    pub doctor: u32,
    /// How many photos are listed.
    pub photos: usize,
    /// The classes with their counts.
    pub classes: Vec<ClassCount>,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// Every photo whose label was judged, the most doubtful first; the first of them are the suspicious ones, and some of the
    /// next may be wrong as well.
    pub labels: Vec<RankedLabel>,
    /// What was not looked at, and why.
    pub left_out: Vec<String>,
    /// What labels were judged by, for other tools.
    #[serde(skip)]
    pub probabilities: Option<OutOfFoldProbabilities>,
    #[serde(skip)]
    listing: DatasetListing,
}

/// A photo and how well its label fits it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankedLabel {
    /// Its path.
    pub path: String,
    /// The probability of its label, by a head that was fitted without it.
    pub score: f64,
}

/// A class and how many photos it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The name.
    pub class: String,
    /// To train on.
    pub train: usize,
    /// To test on.
    pub test: usize,
}

impl Diagnosis {
    /// How many items are so bad.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).map(|finding| finding.count).sum()
    }

    /// The id of each sample listed, by number.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.listing.samples.iter().map(|sample| sample.id.as_str())
    }
}

/// Examines the photos that `settings` name. Without a backbone, or when it is to be `quick`, what needs features is left out.
///
/// # Errors
/// [`TrainError::Dataset`] for data that cannot be listed, [`TrainError::Usage`] for features made elsewhere, which have no
/// photos; [`TrainError::Backbone`] for a hub that does not give the data.
pub fn examine(settings: &Settings, quick: bool, progress: &dyn Progress) -> Result<Diagnosis, TrainError> {
    let DataSourceConfig::Images { main, test } = &settings.source else {
        return Err(TrainError::Usage("doctor looks at photos: `data.features` has none".into()));
    };
    let mut listing = DatasetListing::read(settings, main, test.as_ref(), progress)?;
    let signature_cache =
        SignatureCache::open(&settings.options.features.cache, settings.options.data.max_pixels);
    let inspections = images::inspect_images(&listing.samples, &signature_cache, progress);
    let mut duplicates = DuplicateGroups::find(&inspections);
    let mut left_out = Vec::new();
    if let Err(reason) = listing.draw_split(settings, &duplicates.links()) {
        left_out.push(format!("copies across parts: {reason}"));
    }
    let dataset = DatasetView { classes: listing.classes.names(), samples: &listing.samples };
    let mut findings = listing::findings(&dataset, &listing);
    findings.extend(images::findings(&dataset, &inspections));

    let mut probabilities = None;
    let feature_findings = if quick {
        Err("--quick".to_owned())
    } else {
        inspect_features(settings, &dataset, &inspections, &mut duplicates, progress)
    };
    match feature_findings {
        Ok(found) => {
            left_out.extend(found.left_out);
            findings.extend(found.findings);
            probabilities = found.probabilities;
        }
        Err(reason) => {
            left_out.push(format!("suspicious labels, outliers, copies by features: {reason}"));
        }
    }
    findings.extend(duplicates.findings(&dataset));
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.kind, finding.scope));
    let classes = count_classes(&dataset);
    let labels = probabilities.as_ref().map_or_else(Vec::new, |found| rank_labels(&dataset, found));
    Ok(Diagnosis {
        labels,
        doctor: VERSION,
        photos: listing.samples.len(),
        classes,
        findings,
        left_out,
        probabilities,
        listing,
    })
}

fn count_classes(dataset: &DatasetView<'_>) -> Vec<ClassCount> {
    let mut counts: Vec<ClassCount> =
        dataset.classes.iter().map(|class| ClassCount { class: class.clone(), train: 0, test: 0 }).collect();
    for sample in dataset.samples {
        let count = &mut counts[sample.label as usize];
        match sample.subset {
            Subset::Train => count.train += 1,
            Subset::Test => count.test += 1,
        }
    }
    counts
}

fn sample_ref(dataset: &DatasetView<'_>, number: usize) -> SampleRef {
    let sample = &dataset.samples[number];
    let label = dataset.classes[sample.label as usize].clone();
    SampleRef { path: sample.id.clone(), label, part: sample.subset, sample: number }
}

/// What features tell.
#[derive(Default)]
struct FeatureFindings {
    findings: Vec<Finding>,
    left_out: Vec<String>,
    probabilities: Option<OutOfFoldProbabilities>,
}

/// Looks at the features of all photos that can be read; why there are none, in a sentence.
fn inspect_features(
    settings: &Settings,
    dataset: &DatasetView<'_>,
    inspections: &[ImageInspection],
    duplicates: &mut DuplicateGroups,
    progress: &dyn Progress,
) -> Result<FeatureFindings, String> {
    let Some(backbone) = &settings.options.backbone else {
        return Err("the config has no [backbone]".into());
    };
    let readable: Vec<usize> =
        (0..inspections.len()).filter(|&sample| inspections[sample].error.is_none()).collect();
    if readable.is_empty() {
        return Err("no photo can be read".into());
    }
    let mut options = settings.options.clone();
    options.data.on_error = OnError::Skip;
    let images: Vec<_> = readable.iter().map(|&sample| dataset.samples[sample].image.clone()).collect();
    let read_features = || -> Result<(Vec<f32>, usize, Vec<usize>), TrainError> {
        let pretrained = PretrainedBackbone::open(backbone, progress)?;
        let features =
            ExtractedFeatures::prepare(&pretrained, &options, &images, &vec![0; images.len()], progress)?;
        let present: Vec<usize> = (0..images.len()).filter(|&image| features.is_readable(image)).collect();
        let mut values = Vec::new();
        features.append(&present, 0, &mut values)?;
        Ok((values, features.width(), present))
    };
    let (values, width, present) = read_features().map_err(|error| error_chain(&error))?;
    let samples: Vec<usize> = present.into_iter().map(|image| readable[image]).collect();
    let features = Rows::new(&values, width).map_err(|error| error.to_string())?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err("the backbone gives features that are not finite".into());
    }

    let mut found = FeatureFindings::default();
    progress.begin_run("comparing photos", samples.len() as u64, "photos");
    let neighbors =
        NeighborGraph::from_features(features, duplicates::MIN_COSINE, |n_done| progress.step(n_done as u64));
    progress.train_to_end();
    if samples.len() > outliers::MAX_REFERENCE_IMAGES {
        found.left_out.push(format!(
            "neighbours among more than {} of the {} photos: outliers and copies by features are told by these",
            outliers::MAX_REFERENCE_IMAGES,
            samples.len()
        ));
    }
    let similar_pairs: Vec<(usize, usize)> =
        neighbors.pairs.iter().map(|&(a, b, _)| (samples[a], samples[b])).collect();
    duplicates.add_confirmed(inspections, &similar_pairs);
    let outlier_items = neighbors.outliers().into_iter().map(|row| FindingItem {
        photos: vec![sample_ref(dataset, samples[row])],
        detail: format!("distance {:.3}", neighbors.distances[row]),
        doubt: None,
    });
    found.findings.extend(Finding::from_items(FindingKind::Outlier, None, outlier_items.collect()));

    let data_groups: Vec<Option<u32>> = dataset.samples.iter().map(|sample| sample.group).collect();
    let groups = join_groups(&data_groups, &duplicates.links());
    let input = OutOfFoldInput {
        samples: &samples,
        features,
        labels: samples.iter().map(|&sample| dataset.samples[sample].label).collect(),
        groups: samples.iter().map(|&sample| groups[sample]).collect(),
    };
    let kind = settings.head.kind();
    let quick_head = if QUICK_HEADS.contains(&kind) { None } else { default_quick_head() };
    if quick_head.is_some() {
        found
            .left_out
            .push(format!("`{kind}` for judging labels: it takes long, `linear` is fitted in its place"));
    }
    match input.predict(quick_head.as_deref().unwrap_or(settings.head.as_ref()), progress) {
        Ok(out_of_fold) => {
            found.findings.extend(suspicious_labels(dataset, &out_of_fold));
            found.probabilities = Some(out_of_fold);
        }
        Err(reason) => found.left_out.push(format!("suspicious labels: {reason}")),
    }
    Ok(found)
}

/// The first of the quick heads, with its defaults.
fn default_quick_head() -> Option<Box<dyn ConfiguredHead>> {
    Registry::builtin().get(QUICK_HEADS[0]).ok()?.configure(toml::Table::new()).ok()
}

/// All labels by how well they fit, of equals the earlier first.
fn rank_labels(dataset: &DatasetView<'_>, found: &OutOfFoldProbabilities) -> Vec<RankedLabel> {
    let rows = found.probabilities.chunks_exact(found.classes.len());
    let mut labels: Vec<RankedLabel> = (found.samples.iter().zip(&found.labels).zip(rows))
        .map(|((&sample, &label), row)| RankedLabel {
            path: dataset.samples[sample].id.clone(),
            score: self_confidence(label, row),
        })
        .collect();
    labels.sort_by(|a, b| a.score.total_cmp(&b.score));
    labels
}

fn suspicious_labels(dataset: &DatasetView<'_>, found: &OutOfFoldProbabilities) -> Option<Finding> {
    let classes = found.classes.len();
    let issues = label_issues(&found.labels, &found.probabilities, classes);
    let items = issues.ranked.into_iter().map(|row| {
        let (label, probabilities) = (found.labels[row], &found.probabilities[row * classes..][..classes]);
        let others = (0..classes).filter(|&class| class != label as usize);
        let best = others
            .reduce(|best, class| if probabilities[class] > probabilities[best] { class } else { best });
        let best = best.unwrap_or(label as usize);
        let suggested = dataset.classes[found.classes[best] as usize].clone();
        let (probability, suggested_probability) =
            (f64::from(probabilities[label as usize]), f64::from(probabilities[best]));
        FindingItem {
            photos: vec![sample_ref(dataset, found.samples[row])],
            detail: format!("{suggested} {suggested_probability:.2}, its label {probability:.2}"),
            doubt: Some(LabelSuggestion {
                suggested,
                probability,
                suggested_probability,
                score: self_confidence(label, probabilities),
            }),
        }
    });
    Finding::from_items(FindingKind::SuspiciousLabel, None, items.collect())
}

/// An error with its causes, on one line.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}
