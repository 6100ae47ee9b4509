//! `report.html`: the results of a run as one HTML file without scripts.

use std::cmp::Reverse;
use std::fmt::Write;

use headstock_heads::ConformalMethod;
use headstock_inference::{ModelRecord, Predictions};

use crate::metrics::confusion_matrix;
use crate::run::{CalibrationEffect, RunMetrics, SetMetrics, TestSample};

/// Maximum number of mistakes, and of pairs of confused classes, that the report lists.
const MAX_LISTED: usize = 50;

/// Maximum number of classes of a confusion matrix; larger ones are unreadable and grow with the square.
const MAX_MATRIX_CLASSES: usize = 60;

/// The CSS of the report.
const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}.confusion td{min-width:2.2rem;text-align:center}\
.confusion th{font-weight:normal}.scroll{overflow-x:auto}code{background:#f3f3f3;padding:0 .2rem}";

/// Renders the contents of `report.html` from the description of the model, the metrics of the run, the
/// samples of its test set (`rows`) and the `predictions` for them, in the same order.
pub(crate) fn render(
    record: &ModelRecord,
    metrics: &RunMetrics,
    rows: &[TestSample<'_>],
    predictions: &Predictions,
) -> String {
    let labels: Vec<u32> = rows.iter().map(|row| row.label).collect();
    let confusion = confusion_matrix(predictions, &labels);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>headstock: {head}</title>\n\
         <style>{STYLE}</style>\n<h1>Head <code>{head}</code></h1>\n{}\n",
        head_summary(record),
        head = escape_html(&record.head.kind),
    );
    test_section(&mut page, metrics);
    calibration_section(&mut page, metrics);
    classes_section(&mut page, &record.classes, &confusion);
    if record.classes.len() <= MAX_MATRIX_CLASSES {
        confusion_section(&mut page, &record.classes, &confusion);
    }
    confused_section(&mut page, &record.classes, &confusion);
    mistakes_section(&mut page, &record.classes, rows, predictions);
    page
}

/// A paragraph of the HTML report that says which features the head was fitted on.
fn head_summary(record: &ModelRecord) -> String {
    match &record.backbone {
        Some(backbone) => format!(
            "<p>on <code>{}</code> of {} (<code>{}</code>)</p>",
            backbone.layer,
            escape_html(&backbone.architecture),
            escape_html(&backbone.source)
        ),
        None => "<p>on precomputed features</p>".into(),
    }
}

/// Appends the numbers of samples and the metrics of the test set to the HTML `page`.
fn test_section(page: &mut String, metrics: &RunMetrics) {
    let test = &metrics.test;
    page.push_str("<h2>Test set</h2>\n<table>\n");
    let counts = [
        ("training photos", metrics.counts.train),
        ("test photos", metrics.counts.test),
        ("skipped", metrics.counts.skipped),
    ];
    for (name, count) in counts {
        push_fmt(page, format_args!("<tr><td>{name}<td>{count}\n"));
    }
    let named_metrics = [
        ("accuracy", test.top1),
        ("top-5 accuracy", test.top5),
        ("macro F1", test.macro_f1),
        ("log-loss", test.log_loss),
        ("calibration error", test.ece),
    ];
    for (name, value) in named_metrics {
        push_fmt(page, format_args!("<tr><td>{name}<td>{value:.4}\n"));
    }
    page.push_str("</table>\n");
}

/// Appends tables of the metrics before and after calibration, and of those of conformal sets, to the HTML
/// `page`, if the run has them.
fn calibration_section(page: &mut String, metrics: &RunMetrics) {
    if let Some(calibration) = &metrics.calibration {
        let method = calibration.method.as_str();
        push_fmt(page, format_args!("<h2>Calibration</h2>\n<p><code>{method}</code>"));
        if let Some(temperature) = calibration.temperature {
            push_fmt(page, format_args!(" {temperature:.3}"));
        }
        push_fmt(
            page,
            format_args!(
                ", fitted on {} training photos that were held out in {} folds.</p>\n<table>\n\
                 <tr><th><th>log-loss<th>calibrated<th>calibration error<th>calibrated\n",
                calibration.samples, calibration.folds
            ),
        );
        for (name, change) in [("test", calibration.test), ("held out", calibration.out_of_fold)] {
            let CalibrationEffect { before, after } = change;
            push_fmt(
                page,
                format_args!(
                    "<tr><td>{name}<td>{:.4}<td>{:.4}<td>{:.4}<td>{:.4}\n",
                    before.log_loss, after.log_loss, before.ece, after.ece
                ),
            );
        }
        page.push_str("</table>\n");
    }
    if let Some(conformal) = &metrics.conformal {
        push_fmt(
            page,
            format_args!(
                "<h2>Conformal sets</h2>\n<p>Target coverage {}.</p>\n<table>\n\
                 <tr><th>method<th>coverage<th>mean size<th>empty sets\n",
                conformal.coverage
            ),
        );
        for (method, sets) in [(ConformalMethod::Lac, conformal.lac), (ConformalMethod::Aps, conformal.aps)] {
            let SetMetrics { coverage, mean_size, empty } = sets;
            let method = method.as_str();
            push_fmt(
                page,
                format_args!(
                    "<tr><td><code>{method}</code><td>{coverage:.3}<td>{mean_size:.2}<td>{empty:.3}\n"
                ),
            );
        }
        page.push_str("</table>\n");
    }
}

/// Appends a table of precision, recall and F1 of each class to the HTML `page`, computed from the confusion
/// matrix `[C][C]`, whose rows are true classes. `names` `[C]` are the class names.
fn classes_section(page: &mut String, names: &[String], confusion: &[Vec<usize>]) {
    page.push_str("<h2>Classes</h2>\n<table>\n<tr><th>class<th>precision<th>recall<th>F1<th>photos\n");
    for (class, name) in names.iter().enumerate() {
        let n_correct = confusion[class][class] as f64;
        let n_images: usize = confusion[class].iter().sum();
        let n_predicted: usize = confusion.iter().map(|row| row[class]).sum();
        let (precision, recall) = (format_ratio(n_correct, n_predicted), format_ratio(n_correct, n_images));
        // F1, the harmonic mean of the two, is twice the correct ones over both denominators together.
        let f1 = format_ratio(2.0 * n_correct, n_images + n_predicted);
        push_fmt(
            page,
            format_args!("<tr><td>{}<td>{precision}<td>{recall}<td>{f1}<td>{n_images}\n", escape_html(name)),
        );
    }
    page.push_str("</table>\n");
}

/// The text of `numerator / denominator` with three decimals; `-` if the denominator is 0.
fn format_ratio(numerator: f64, denominator: usize) -> String {
    if denominator == 0 { "-".into() } else { format!("{:.3}", numerator / denominator as f64) }
}

/// Appends the confusion matrix `[C][C]`, whose rows are true classes, to the HTML `page` as a table of
/// counts. A cell is shaded by its fraction of the matrix row, so that frequent mistakes stand out. `names`
/// are the class names.
fn confusion_section(page: &mut String, names: &[String], confusion: &[Vec<usize>]) {
    page.push_str(
        "<h2>Confusion matrix</h2>\n<p>Rows are true classes, columns predicted classes.</p>\n\
         <div class=\"scroll\"><table class=\"confusion\">\n<tr><th>",
    );
    for name in names {
        push_fmt(page, format_args!("<th>{}", escape_html(name)));
    }
    for (name, row) in names.iter().zip(confusion) {
        push_fmt(page, format_args!("\n<tr><th>{}", escape_html(name)));
        let total: usize = row.iter().sum();
        for &count in row {
            if count == 0 {
                page.push_str("<td>");
            } else {
                // An opacity of at most 0.8, so that the number in the cell can be read.
                let shade = 0.8 * count as f64 / total as f64;
                push_fmt(page, format_args!("<td style=\"background:rgba(60,120,200,{shade:.2})\">{count}"));
            }
        }
    }
    page.push_str("\n</table></div>\n");
}

/// Appends a table of the pairs of a true and a predicted class that are confused most often to the HTML
/// `page`, from the confusion matrix `[C][C]`, whose rows are true classes. `names` are the class names.
fn confused_section(page: &mut String, names: &[String], confusion: &[Vec<usize>]) {
    // (number of samples, true class, predicted class)
    let mut pairs: Vec<(usize, usize, usize)> = Vec::new();
    for (class, row) in confusion.iter().enumerate() {
        let wrong = row.iter().enumerate().filter(|&(predicted, &count)| predicted != class && count > 0);
        pairs.extend(wrong.map(|(predicted, &count)| (count, class, predicted)));
    }
    pairs.sort_by_key(|&(count, class, predicted)| (Reverse(count), class, predicted));
    page.push_str("<h2>Most confused classes</h2>\n<table>\n<tr><th>class<th>predicted<th>photos\n");
    for (count, class, predicted) in pairs.into_iter().take(MAX_LISTED) {
        let (class, predicted) = (escape_html(&names[class]), escape_html(&names[predicted]));
        push_fmt(page, format_args!("<tr><td>{class}<td>{predicted}<td>{count}\n"));
    }
    page.push_str("</table>\n");
}

/// Appends a table of the wrong `predictions` for the samples `rows` of the test set to the HTML `page`, the
/// most confident first. `names` are the class names.
fn mistakes_section(page: &mut String, names: &[String], rows: &[TestSample<'_>], predictions: &Predictions) {
    // (probability of the predicted class, sample, predicted class)
    let mut wrong: Vec<(f32, &TestSample<'_>, u32)> = rows
        .iter()
        .zip(&predictions.predicted)
        .zip(predictions.rows())
        .filter(|((row, predicted), _)| row.label != **predicted)
        .map(|((row, &predicted), probabilities)| (probabilities[predicted as usize], row, predicted))
        .collect();
    wrong.sort_by(|(p_a, a, _), (p_b, b, _)| p_b.total_cmp(p_a).then_with(|| a.path.cmp(b.path)));
    push_fmt(
        page,
        format_args!("<h2>Mistakes</h2>\n<p>{} mistakes, the most confident first.</p>\n", wrong.len()),
    );
    page.push_str("<table>\n<tr><th>photo<th>class<th>predicted<th>probability\n");
    for (probability, row, predicted) in wrong.into_iter().take(MAX_LISTED) {
        let (class, predicted) = (&names[row.label as usize], &names[predicted as usize]);
        let (path, class, predicted) = (escape_html(row.path), escape_html(class), escape_html(predicted));
        push_fmt(page, format_args!("<tr><td>{path}<td>{class}<td>{predicted}<td>{probability:.3}\n"));
    }
    page.push_str("</table>\n");
}

/// Appends formatted text to a page: `write!` without an error to handle.
pub(crate) fn push_fmt(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("writing to a string does not fail");
}

/// Escapes `text`, such as a class name, for HTML, so that it cannot become markup.
pub(crate) fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escape_html("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }

    /// Class a is correct twice of three times and never predicted for others; c is never predicted, and d
    /// neither occurs nor is predicted.
    fn confusion_fixture() -> (Vec<String>, Vec<Vec<usize>>) {
        let names = ["a", "<b>", "c", "d"].map(str::to_owned).to_vec();
        (names, vec![vec![2, 1, 0, 0], vec![0, 4, 0, 0], vec![0, 3, 0, 0], vec![0; 4]])
    }

    fn render_section(write_section: impl FnOnce(&mut String)) -> String {
        let mut page = String::new();
        write_section(&mut page);
        page
    }

    #[test]
    fn classes_have_their_precision_recall_and_f1_and_a_dash_where_there_is_none() {
        let (names, confusion) = confusion_fixture();
        let page = render_section(|page| classes_section(page, &names, &confusion));
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("<tr><td>")).collect();
        // Four of the eight predictions of b are correct: precision 0.5, recall 1, F1 8 / 12.
        assert_eq!(
            rows,
            [
                "<tr><td>a<td>1.000<td>0.667<td>0.800<td>3",
                "<tr><td>&lt;b&gt;<td>0.500<td>1.000<td>0.667<td>4",
                "<tr><td>c<td>-<td>0.000<td>0.000<td>3",
                "<tr><td>d<td>-<td>-<td>-<td>0",
            ]
        );
    }

    #[test]
    fn a_row_of_the_matrix_is_a_class_and_pairs_taken_for_each_other_most_come_first() {
        let (names, confusion) = confusion_fixture();
        let matrix = render_section(|page| confusion_section(page, &names, &confusion));
        let cells_of = |class: &str| {
            let line = matrix.lines().find(|line| line.starts_with(&format!("<tr><th>{class}<td")));
            line.unwrap()
                .split("<td")
                .skip(1)
                .map(|cell| cell.split('>').nth(1).unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(cells_of("a"), ["2", "1", "", ""]);
        assert_eq!(cells_of("c"), ["", "3", "", ""]);
        // Shades are fractions of the class: 0.8 for all samples, a third of that for one of three.
        assert!(
            matrix.contains("rgba(60,120,200,0.27)\">1") && matrix.contains("rgba(60,120,200,0.80)\">4"),
            "{matrix}"
        );

        let confused = render_section(|page| confused_section(page, &names, &confusion));
        let rows: Vec<&str> = confused.lines().filter(|line| line.starts_with("<tr><td>")).collect();
        assert_eq!(rows, ["<tr><td>c<td>&lt;b&gt;<td>3", "<tr><td>a<td>&lt;b&gt;<td>1"]);
    }

    #[test]
    fn mistakes_come_the_surest_first_and_right_ones_not_at_all() {
        let (names, _) = confusion_fixture();
        let probabilities =
            vec![0.6, 0.4, 0.0, 0.0, 0.1, 0.9, 0.0, 0.0, 0.3, 0.7, 0.0, 0.0, 0.2, 0.8, 0.0, 0.0];
        let logits = headstock_heads::Logits::new(probabilities.clone(), 4).unwrap();
        let predictions = Predictions::from_probabilities(probabilities, &logits);
        let rows = [("one", 1), ("two", 0), ("three", 1), ("four", 2)];
        let rows = rows.map(|(path, label)| TestSample { path, label });
        let page = render_section(|page| mistakes_section(page, &names, &rows, &predictions));
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("<tr><td>")).collect();
        assert_eq!(
            listed,
            [
                "<tr><td>two<td>a<td>&lt;b&gt;<td>0.900",
                "<tr><td>four<td>c<td>&lt;b&gt;<td>0.800",
                "<tr><td>one<td>&lt;b&gt;<td>a<td>0.600",
            ]
        );
        assert!(page.contains("3 mistakes"), "{page}");
    }
}
