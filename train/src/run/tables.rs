//! The CSV files of a run.

use headstock_heads::History;
use headstock_inference::Predictions;

use crate::csv_table::to_csv;
use crate::samples::SampleRow;

/// The contents of `history.csv`, the progress of a fit: one row per epoch or iteration, with columns such as
/// the loss.
pub(crate) fn history_csv(history: &History) -> Vec<u8> {
    to_csv(&history.columns, history.rows.iter().map(|row| row.iter().map(ToString::to_string)))
}

/// The contents of `predictions.csv`, one row per test sample of `rows`, with its `predictions`: the columns
/// `path,label,predicted,probability`, then one column per class with its probability. Read the columns by
/// position: a class may have the name of one of the first four columns.
pub(crate) fn predictions_csv(rows: &[&SampleRow], predictions: &Predictions, classes: &[String]) -> Vec<u8> {
    let fixed = ["path", "label", "predicted", "probability"];
    let header: Vec<&str> = fixed.into_iter().chain(classes.iter().map(String::as_str)).collect();
    let rows = rows.iter().zip(&predictions.predicted).zip(predictions.rows()).map(
        |((row, &predicted), probabilities)| {
            let probability = probabilities[predicted as usize].to_string();
            let name = |class: u32| classes[class as usize].clone();
            let fixed = [row.id.clone(), name(row.label), name(predicted), probability];
            fixed.into_iter().chain(probabilities.iter().map(ToString::to_string))
        },
    );
    to_csv(&header, rows)
}
