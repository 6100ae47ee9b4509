//! `report.html`: the results of a run as one HTML file without scripts.

use std::cmp::Reverse;

use headstock_heads::ConformalMethod;
use headstock_inference::{ModelRecord, Predictions};
use maud::{Markup, html};

use crate::bootstrap::Interval;
use crate::html_page::page;
use crate::metrics::confusion_matrix;
use crate::run::{CalibrationMetrics, ConformalMetrics, CrossValidation, RunMetrics};
use crate::samples::SampleRow;

/// Maximum number of mistakes, and of pairs of confused classes, that the report lists.
const MAX_LISTED: usize = 50;

/// Maximum number of classes of a confusion matrix; larger ones are unreadable and grow with the square.
const MAX_MATRIX_CLASSES: usize = 60;

/// Renders the contents of `report.html` from the description of the model, the metrics of the run, the
/// samples of its test set (`rows`) and the `predictions` for them, in the same order.
pub(crate) fn render(
    record: &ModelRecord,
    metrics: &RunMetrics,
    rows: &[&SampleRow],
    predictions: &Predictions,
) -> String {
    let labels: Vec<u32> = rows.iter().map(|row| row.label).collect();
    let confusion = confusion_matrix(predictions, &labels);
    let (head, names) = (&record.head.kind, &record.classes);
    let body = html! {
        h1 { "Head " code { (head) } }
        @match &record.backbone {
            Some(backbone) => p {
                "on " code { (backbone.layer) } " of " (backbone.architecture) " (" code { (backbone.source) } ")"
            },
            None => p { "on precomputed features" },
        }
        (test_section(metrics))
        @if let Some(calibration) = &metrics.calibration { (calibration_section(calibration)) }
        @if let Some(conformal) = &metrics.conformal { (conformal_section(conformal)) }
        (classes_section(names, &confusion))
        @if names.len() <= MAX_MATRIX_CLASSES { (confusion_section(names, &confusion)) }
        (confused_section(names, &confusion))
        (mistakes_section(names, rows, predictions))
    };
    page(&format!("headstock: {head}"), body)
}

/// The numbers of samples and the metrics of the test set.
fn test_section(metrics: &RunMetrics) -> Markup {
    let counts = [
        ("training photos", metrics.counts.train),
        ("test photos", metrics.counts.test),
        ("skipped", metrics.counts.skipped),
    ];
    html! {
        @match &metrics.cross_validation {
            Some(CrossValidation { folds, .. }) => {
                h2 { "Cross-validation" }
                p {
                    "The run has no test set: each of the " (metrics.counts.train) " training photos is predicted by a head \
                     that was fitted without its fold, in " (folds) " folds. The tables below are of these predictions."
                }
            },
            None => h2 { "Test set" },
        }
        table.numbers {
            @for (name, count) in counts { tr { td { (name) } td { (count) } } }
            @for (metric, value) in metrics.test.iter() {
                tr title=(metric.about()) {
                    td { (metric.name()) }
                    td { (format!("{value:.4}")) }
                    @if let Some(interval) = interval_of_metric(metrics, metric.run_key()) {
                        td { (format!("{:.4} to {:.4}", interval.low, interval.high)) }
                    }
                }
            }
        }
    }
}

/// The confidence interval of the metric with this key, if there is one.
fn interval_of_metric<'a>(metrics: &'a RunMetrics, key: &str) -> Option<&'a Interval> {
    metrics.cross_validation.as_ref()?.intervals.get(key)
}

/// The metrics of the probabilities before and after calibration.
fn calibration_section(calibration: &CalibrationMetrics) -> Markup {
    let rows = [("test", &calibration.test), ("held out", &calibration.out_of_fold)];
    html! {
        h2 { "Calibration" }
        p {
            code { (calibration.method.as_str()) }
            @if let Some(temperature) = calibration.temperature { (format!(" {temperature:.3}")) }
            ", fitted on " (calibration.samples) " training photos that were held out in " (calibration.folds)
            " folds."
        }
        table.numbers {
            tr {
                th {}
                @for (metric, _) in calibration.test.before.iter() { th { (metric.name()) } th { "calibrated" } }
            }
            @for (name, change) in rows {
                tr {
                    td { (name) }
                    @for ((_, before), (_, after)) in change.before.iter().zip(change.after.iter()) {
                        td { (format!("{before:.4}")) } td { (format!("{after:.4}")) }
                    }
                }
            }
        }
    }
}

/// The metrics of the conformal sets of both methods.
fn conformal_section(conformal: &ConformalMetrics) -> Markup {
    html! {
        h2 { "Conformal sets" }
        p { "Target coverage " (conformal.coverage) "." }
        table.numbers {
            tr { th { "method" } th { "coverage" } th { "mean size" } th { "empty sets" } }
            @for (method, sets) in [(ConformalMethod::Lac, conformal.lac), (ConformalMethod::Aps, conformal.aps)] {
                tr {
                    td { code { (method.as_str()) } }
                    td { (format!("{:.3}", sets.coverage)) }
                    td { (format!("{:.2}", sets.mean_size)) }
                    td { (format!("{:.3}", sets.empty)) }
                }
            }
        }
    }
}

/// Precision, recall and F1 of each class, computed from the confusion matrix `[C][C]`, whose rows are true
/// classes. `names` `[C]` are the class names.
fn classes_section(names: &[String], confusion: &[Vec<usize>]) -> Markup {
    let row = |(class, name): (usize, &String)| {
        let n_correct = confusion[class][class] as f64;
        let n_images: usize = confusion[class].iter().sum();
        let n_predicted: usize = confusion.iter().map(|row| row[class]).sum();
        html! {
            tr {
                td { (name) }
                td { (format_ratio(n_correct, n_predicted)) }
                td { (format_ratio(n_correct, n_images)) }
                // F1, the harmonic mean of the two, is twice the correct ones over both denominators together.
                td { (format_ratio(2.0 * n_correct, n_images + n_predicted)) }
                td { (n_images) }
            }
        }
    };
    html! {
        h2 { "Classes" }
        table.numbers {
            tr { th { "class" } th { "precision" } th { "recall" } th { "F1" } th { "photos" } }
            @for class in names.iter().enumerate() { (row(class)) }
        }
    }
}

/// The text of `numerator / denominator` with three decimals; `-` if the denominator is 0.
fn format_ratio(numerator: f64, denominator: usize) -> String {
    if denominator == 0 { "-".into() } else { format!("{:.3}", numerator / denominator as f64) }
}

/// The confusion matrix `[C][C]`, whose rows are true classes, as a table of counts. A cell is shaded by its
/// fraction of the matrix row, so that frequent mistakes stand out. `names` are the class names.
fn confusion_section(names: &[String], confusion: &[Vec<usize>]) -> Markup {
    // An opacity of at most 0.8, so that the number in the cell can be read.
    let shade = |count: usize, row: &[usize]| 0.8 * count as f64 / row.iter().sum::<usize>() as f64;
    html! {
        h2 { "Confusion matrix" }
        p { "Rows are true classes, columns predicted classes." }
        div.scroll {
            table.numbers.confusion {
                tr { th {} @for name in names { th { (name) } } }
                @for (name, row) in names.iter().zip(confusion) {
                    tr {
                        th { (name) }
                        @for &count in row {
                            @if count == 0 {
                                td {}
                            } @else {
                                td style=(format!("background:rgba(60,120,200,{:.2})", shade(count, row))) { (count) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The pairs of a true and a predicted class that are confused most often, from the confusion matrix
/// `[C][C]`, whose rows are true classes. `names` are the class names.
fn confused_section(names: &[String], confusion: &[Vec<usize>]) -> Markup {
    // (number of samples, true class, predicted class)
    let mut pairs: Vec<(usize, usize, usize)> = Vec::new();
    for (class, row) in confusion.iter().enumerate() {
        let wrong = row.iter().enumerate().filter(|&(predicted, &count)| predicted != class && count > 0);
        pairs.extend(wrong.map(|(predicted, &count)| (count, class, predicted)));
    }
    pairs.sort_by_key(|&(count, class, predicted)| (Reverse(count), class, predicted));
    html! {
        h2 { "Most confused classes" }
        table.numbers {
            tr { th { "class" } th { "predicted" } th { "photos" } }
            @for (count, class, predicted) in pairs.into_iter().take(MAX_LISTED) {
                tr { td { (names[class]) } td { (names[predicted]) } td { (count) } }
            }
        }
    }
}

/// The wrong `predictions` for the samples `rows` of the test set, the most confident first. `names` are the
/// class names.
fn mistakes_section(names: &[String], rows: &[&SampleRow], predictions: &Predictions) -> Markup {
    // (probability of the predicted class, sample, predicted class)
    let mut wrong: Vec<(f32, &SampleRow, u32)> = rows
        .iter()
        .zip(&predictions.predicted)
        .zip(predictions.rows())
        .filter(|((row, predicted), _)| row.label != **predicted)
        .map(|((&row, &predicted), probabilities)| (probabilities[predicted as usize], row, predicted))
        .collect();
    wrong.sort_by(|(p_a, a, _), (p_b, b, _)| p_b.total_cmp(p_a).then_with(|| a.id.cmp(&b.id)));
    html! {
        h2 { "Mistakes" }
        p { (wrong.len()) " mistakes, the most confident first." }
        table.numbers {
            tr { th { "photo" } th { "class" } th { "predicted" } th { "probability" } }
            @for (probability, row, predicted) in wrong.into_iter().take(MAX_LISTED) {
                tr {
                    td { (row.id) }
                    td { (names[row.label as usize]) }
                    td { (names[predicted as usize]) }
                    td { (format!("{probability:.3}")) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::Subset;

    /// Class a is correct twice of three times and never predicted for others; c is never predicted, and d
    /// neither occurs nor is predicted.
    fn confusion_fixture() -> (Vec<String>, Vec<Vec<usize>>) {
        let names = ["a", "<b>", "c", "d"].map(str::to_owned).to_vec();
        (names, vec![vec![2, 1, 0, 0], vec![0, 4, 0, 0], vec![0, 3, 0, 0], vec![0; 4]])
    }

    /// The cells of the rows that start with a `td`, joined by `|`.
    fn cells_of_rows(section: Markup) -> Vec<String> {
        let page = section.into_string();
        let rows = page.split("<tr><td>").skip(1).map(|row| row.split("</td></tr>").next().unwrap());
        rows.map(|row| row.replace("</td><td>", "|")).collect()
    }

    #[test]
    fn classes_have_their_precision_recall_and_f1_and_a_dash_where_there_is_none() {
        let (names, confusion) = confusion_fixture();
        // Four of the eight predictions of b are correct: precision 0.5, recall 1, F1 8 / 12.
        let expected =
            ["a|1.000|0.667|0.800|3", "&lt;b&gt;|0.500|1.000|0.667|4", "c|-|0.000|0.000|3", "d|-|-|-|0"];
        assert_eq!(cells_of_rows(classes_section(&names, &confusion)), expected);
    }

    #[test]
    fn a_row_of_the_matrix_is_a_class_and_pairs_taken_for_each_other_most_come_first() {
        let (names, confusion) = confusion_fixture();
        let matrix = confusion_section(&names, &confusion).into_string();
        let cells_of = |class: &str| {
            let (_, row) = matrix.split_once(&format!("<tr><th>{class}</th>")).unwrap();
            let row = row.split("</tr>").next().unwrap().split("<td").skip(1);
            row.map(|cell| cell.split(['>', '<']).nth(1).unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(cells_of("a"), ["2", "1", "", ""]);
        assert_eq!(cells_of("c"), ["", "3", "", ""]);
        // Shades are fractions of the class: 0.8 for all samples, a third of that for one of three.
        assert!(
            matrix.contains("rgba(60,120,200,0.27)\">1") && matrix.contains("rgba(60,120,200,0.80)\">4"),
            "{matrix}"
        );

        let confused = cells_of_rows(confused_section(&names, &confusion));
        assert_eq!(confused, ["c|&lt;b&gt;|3", "a|&lt;b&gt;|1"]);
    }

    #[test]
    fn mistakes_come_the_surest_first_and_right_ones_not_at_all() {
        let (names, _) = confusion_fixture();
        let probabilities =
            vec![0.6, 0.4, 0.0, 0.0, 0.1, 0.9, 0.0, 0.0, 0.3, 0.7, 0.0, 0.0, 0.2, 0.8, 0.0, 0.0];
        let logits = headstock_heads::Logits::new(probabilities.clone(), 4).unwrap();
        let predictions = Predictions::from_probabilities(probabilities, &logits);
        let rows = [("one", 1), ("two", 0), ("three", 1), ("four", 2)];
        let rows =
            rows.map(|(id, label)| SampleRow { id: id.into(), label, group: None, subset: Subset::Test });
        let section = mistakes_section(&names, &rows.each_ref(), &predictions);
        assert!(section.0.contains("3 mistakes"), "{}", section.0);
        let expected = ["two|a|&lt;b&gt;|0.900", "four|c|&lt;b&gt;|0.800", "one|&lt;b&gt;|a|0.600"];
        assert_eq!(cells_of_rows(section), expected);
    }
}
