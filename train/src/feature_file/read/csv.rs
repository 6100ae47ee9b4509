//! Reads the CSV beside an array, with one row per sample.

use std::io::ErrorKind;
use std::path::Path;

use csv::{ReaderBuilder, StringRecord, Trim};
use headstock_loader::ParquetValue;

use super::SampleColumns;

/// Reads the CSV at `path`, which has the labels of the features in the `.npy` file of the same name: a
/// header and `rows` rows, one per sample. Returns the columns `label`, `class`, `group`, `path` and `split`, if
/// present; a column `row` must count from 0. Whitespace around fields is ignored. Errors name the line.
pub(super) fn read(path: &Path, rows: usize) -> Result<SampleColumns, String> {
    let mut reader =
        ReaderBuilder::new().trim(Trim::All).from_path(path).map_err(|error| match error.kind() {
            csv::ErrorKind::Io(error) if error.kind() == ErrorKind::NotFound => {
                "this table does not exist: the .npy file with the same name needs a table with one row per \
                 sample and a column `label` (whole numbers) or `class` (names), as `extract` \
                 writes it"
                    .to_owned()
            }
            _ => error.to_string(),
        })?;
    let header = reader.headers().map_err(|error| error.to_string())?.clone();
    let find_column = |name: &str| -> Result<Option<usize>, String> {
        let mut found = header.iter().enumerate().filter(|(_, column)| *column == name);
        let first = found.next().map(|(column, _)| column);
        if found.next().is_some() {
            Err(format!("two columns are called `{name}`: rename one"))
        } else {
            Ok(first)
        }
    };
    // The positions of the columns.
    let (row_number, label) = (find_column("row")?, find_column("label")?);
    let (class, group) = (find_column("class")?, find_column("group")?);
    let (path_column, split) = (find_column("path")?, find_column("split")?);
    let mut columns = SampleColumns {
        labels: label.map(|_| Vec::new()),
        classes: class.map(|_| Vec::new()),
        groups: group.map(|_| Vec::new()),
        paths: path_column.map(|_| Vec::new()),
        splits: split.map(|_| Vec::new()),
    };
    let mut record = StringRecord::new();
    let mut count = 0;
    while reader.read_record(&mut record).map_err(|error| error.to_string())? {
        let line = record.position().map_or(0, csv::Position::line);
        let at_line = |problem| format!("line {line}: {problem}");
        if let Some(text) = row_number.map(|column| &record[column]).filter(|text| text.parse() != Ok(count))
        {
            return Err(at_line(format!(
                "the column `row` is `{text}`, but must be {count}: this table needs one row for each row of \
                 the .npy file, in the same order and numbered from 0; add the missing rows, or sort the \
                 table by the column `row`"
            )));
        }
        if let (Some(column), Some(labels)) = (label, &mut columns.labels) {
            labels.push(parse_label(&record[column]).map_err(at_line)?);
        }
        if let (Some(column), Some(classes)) = (class, &mut columns.classes) {
            classes.push(non_empty("class", &record[column]).map_err(at_line)?);
        }
        if let (Some(column), Some(groups)) = (group, &mut columns.groups) {
            groups.push(ParquetValue::Text(non_empty("group", &record[column]).map_err(at_line)?));
        }
        if let (Some(column), Some(paths)) = (path_column, &mut columns.paths) {
            paths.push(non_empty("path", &record[column]).map_err(at_line)?);
        }
        if let (Some(column), Some(splits)) = (split, &mut columns.splits) {
            splits.push(non_empty("split", &record[column]).map_err(at_line)?);
        }
        count += 1;
    }
    if count != rows {
        return Err(format!(
            "the number of rows is {count}, but the features have {rows} rows: the table needs one row for \
             each row of features"
        ));
    }
    Ok(columns)
}

fn parse_label(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| {
        format!(
            "the column `label` is `{text}`, not a whole number: write class names into the column `class`"
        )
    })
}

/// Checks that `text`, a field of the column `column` of the CSV, is not empty, and returns it. `column` is
/// only for the error message.
fn non_empty(column: &str, text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err(format!("the column `{column}` is empty: every row needs a value"))
    } else {
        Ok(text.to_owned())
    }
}
