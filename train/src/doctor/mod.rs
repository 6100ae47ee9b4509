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

mod clean;
mod confident;
mod duplicates;
mod findings;
mod listing;
mod out_of_fold;
mod outliers;
mod page;
mod photos;
mod sheet;
#[cfg(test)]
mod tests;

use headstock_heads::{ConfiguredHead, FeatureMatrix as Rows, Registry};
use headstock_loader::dataset::join_groups;
use serde::Serialize;

pub use clean::{CleanTable, Cleaned};
pub use confident::{LabelIssues, label_issues, self_confidence};
pub use findings::{Concerned, Doubt, Finding, Item, Kind, Scope, Severity};
pub use out_of_fold::OutOfFold;
pub use page::Page;
pub use sheet::{AugmentSheet, show_augment};

use crate::config::{OnError, Settings, Source};
use crate::error::TrainError;
use crate::features::{Features, Stock};
use crate::progress::Progress;
use crate::samples::{Collected, CollectedSample, Part};
use crate::signatures::Signatures;
use duplicates::Copies;
use out_of_fold::Asked;
use outliers::Surroundings;
use photos::Look;

/// The version of [`Diagnosis`] as JSON.
const VERSION: u32 = 1;

/// Heads that five fits of take little time; another one gives way to the first of these.
const QUICK: [&str; 5] = ["linear", "ridge", "lda", "nearest-mean", "knn"];

/// What is examined.
struct Subject<'a> {
    classes: &'a [String],
    samples: &'a [CollectedSample],
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
    pub probabilities: Option<OutOfFold>,
    #[serde(skip)]
    collected: Collected,
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
        self.collected.samples.iter().map(|sample| sample.id.as_str())
    }
}

/// Examines the photos that `settings` name. Without a backbone, or when it is to be `quick`, what needs features is left out.
///
/// # Errors
/// [`TrainError::Dataset`] for data that cannot be listed, [`TrainError::Usage`] for features made elsewhere, which have no
/// photos; [`TrainError::Backbone`] for a hub that does not give the data.
pub fn examine(settings: &Settings, quick: bool, progress: &dyn Progress) -> Result<Diagnosis, TrainError> {
    let Source::Photos { main, test } = &settings.source else {
        return Err(TrainError::Usage("doctor looks at photos: `data.features` has none".into()));
    };
    let mut collected = Collected::read(settings, main, test.as_ref(), progress)?;
    let signatures = Signatures::open(&settings.options.features.cache, settings.options.data.max_pixels);
    let looks = photos::look(&collected.samples, &signatures, progress);
    let mut copies = Copies::find(&looks);
    let mut left_out = Vec::new();
    if let Err(why) = collected.draw(settings, &copies.links()) {
        left_out.push(format!("copies across parts: {why}"));
    }
    let subject = Subject { classes: collected.classes.names(), samples: &collected.samples };
    let mut findings = listing::findings(&subject, &collected);
    findings.extend(photos::findings(&subject, &looks));

    let mut probabilities = None;
    let judged = if quick {
        Err("--quick".to_owned())
    } else {
        judge(settings, &subject, &looks, &mut copies, progress)
    };
    match judged {
        Ok(judged) => {
            left_out.extend(judged.left_out);
            findings.extend(judged.findings);
            probabilities = judged.probabilities;
        }
        Err(why) => {
            left_out.push(format!("suspicious labels, outliers, copies by features: {why}"));
        }
    }
    findings.extend(copies.findings(&subject));
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.kind, finding.scope));
    let classes = counts(&subject);
    let labels = probabilities.as_ref().map_or_else(Vec::new, |found| ranked(&subject, found));
    Ok(Diagnosis {
        labels,
        doctor: VERSION,
        photos: collected.samples.len(),
        classes,
        findings,
        left_out,
        probabilities,
        collected,
    })
}

fn counts(subject: &Subject<'_>) -> Vec<ClassCount> {
    let mut counts: Vec<ClassCount> =
        subject.classes.iter().map(|class| ClassCount { class: class.clone(), train: 0, test: 0 }).collect();
    for sample in subject.samples {
        let count = &mut counts[sample.label as usize];
        match sample.part {
            Part::Train => count.train += 1,
            Part::Test => count.test += 1,
        }
    }
    counts
}

fn concerned(subject: &Subject<'_>, number: usize) -> Concerned {
    let sample = &subject.samples[number];
    let label = subject.classes[sample.label as usize].clone();
    Concerned { path: sample.id.clone(), label, part: sample.part, sample: number }
}

/// What features tell.
#[derive(Default)]
struct Judged {
    findings: Vec<Finding>,
    left_out: Vec<String>,
    probabilities: Option<OutOfFold>,
}

/// Looks at the features of all photos that can be read; why there are none, in a sentence.
fn judge(
    settings: &Settings,
    subject: &Subject<'_>,
    looks: &[Look],
    copies: &mut Copies,
    progress: &dyn Progress,
) -> Result<Judged, String> {
    let Some(backbone) = &settings.options.backbone else {
        return Err("the config has no [backbone]".into());
    };
    let readable: Vec<usize> = (0..looks.len()).filter(|&sample| looks[sample].fault.is_none()).collect();
    if readable.is_empty() {
        return Err("no photo can be read".into());
    }
    let mut options = settings.options.clone();
    options.data.on_error = OnError::Skip;
    let photos: Vec<_> = readable.iter().map(|&sample| subject.samples[sample].photo.clone()).collect();
    let read = || -> Result<(Vec<f32>, usize, Vec<usize>), TrainError> {
        let stock = Stock::open(backbone, progress)?;
        let features = Features::prepare(&stock, &options, &photos, &vec![0; photos.len()], progress)?;
        let there: Vec<usize> = (0..photos.len()).filter(|&photo| features.has(photo)).collect();
        let mut values = Vec::new();
        features.append(&there, 0, &mut values)?;
        Ok((values, features.width(), there))
    };
    let (values, width, there) = read().map_err(|error| sentence(&error))?;
    let samples: Vec<usize> = there.into_iter().map(|photo| readable[photo]).collect();
    let features = Rows::new(&values, width).map_err(|error| error.to_string())?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err("the backbone gives features that are not finite".into());
    }

    let mut judged = Judged::default();
    progress.begin("comparing photos", samples.len() as u64, "photos");
    let around = Surroundings::of(features, duplicates::COSINE, |done| progress.step(done as u64));
    progress.end();
    if samples.len() > outliers::MOST {
        judged.left_out.push(format!(
            "neighbours among more than {} of the {} photos: outliers and copies by features are told by these",
            outliers::MOST,
            samples.len()
        ));
    }
    let alike: Vec<(usize, usize)> = around.pairs.iter().map(|&(a, b, _)| (samples[a], samples[b])).collect();
    copies.confirm(looks, &alike);
    let far = around.outliers().into_iter().map(|row| Item {
        photos: vec![concerned(subject, samples[row])],
        detail: format!("distance {:.3}", around.distances[row]),
        doubt: None,
    });
    judged.findings.extend(Finding::of(Kind::Outlier, None, far.collect()));

    let own: Vec<Option<u32>> = subject.samples.iter().map(|sample| sample.group).collect();
    let groups = join_groups(&own, &copies.links());
    let asked = Asked {
        samples: &samples,
        features,
        labels: samples.iter().map(|&sample| subject.samples[sample].label).collect(),
        groups: samples.iter().map(|&sample| groups[sample]).collect(),
    };
    let kind = settings.head.kind();
    let linear = if QUICK.contains(&kind) { None } else { linear() };
    if linear.is_some() {
        judged
            .left_out
            .push(format!("`{kind}` for judging labels: it takes long, `linear` is fitted in its place"));
    }
    match asked.predict(linear.as_deref().unwrap_or(settings.head.as_ref()), progress) {
        Ok(out_of_fold) => {
            judged.findings.extend(suspicious(subject, &out_of_fold));
            judged.probabilities = Some(out_of_fold);
        }
        Err(why) => judged.left_out.push(format!("suspicious labels: {why}")),
    }
    Ok(judged)
}

/// The first of the quick heads, with its defaults.
fn linear() -> Option<Box<dyn ConfiguredHead>> {
    Registry::builtin().get(QUICK[0]).ok()?.configure(toml::Table::new()).ok()
}

/// All labels by how well they fit, of equals the earlier first.
fn ranked(subject: &Subject<'_>, found: &OutOfFold) -> Vec<RankedLabel> {
    let rows = found.probabilities.chunks_exact(found.classes.len());
    let mut labels: Vec<RankedLabel> = (found.samples.iter().zip(&found.labels).zip(rows))
        .map(|((&sample, &label), row)| RankedLabel {
            path: subject.samples[sample].id.clone(),
            score: self_confidence(label, row),
        })
        .collect();
    labels.sort_by(|a, b| a.score.total_cmp(&b.score));
    labels
}

fn suspicious(subject: &Subject<'_>, found: &OutOfFold) -> Option<Finding> {
    let classes = found.classes.len();
    let issues = label_issues(&found.labels, &found.probabilities, classes);
    let items = issues.ranked.into_iter().map(|row| {
        let (label, probabilities) = (found.labels[row], &found.probabilities[row * classes..][..classes]);
        let others = (0..classes).filter(|&class| class != label as usize);
        let best = others
            .reduce(|best, class| if probabilities[class] > probabilities[best] { class } else { best });
        let best = best.unwrap_or(label as usize);
        let suggested = subject.classes[found.classes[best] as usize].clone();
        let (probability, of_suggested) =
            (f64::from(probabilities[label as usize]), f64::from(probabilities[best]));
        Item {
            photos: vec![concerned(subject, found.samples[row])],
            detail: format!("{suggested} {of_suggested:.2}, its label {probability:.2}"),
            doubt: Some(Doubt {
                suggested,
                probability,
                suggested_probability: of_suggested,
                score: self_confidence(label, probabilities),
            }),
        }
    });
    Finding::of(Kind::SuspiciousLabel, None, items.collect())
}

/// An error with its causes, on one line.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}
