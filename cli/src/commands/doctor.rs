//! `headstock doctor`

use std::path::Path;

use headstock_train::TrainError;
use headstock_train::doctor::{
    ClassCount, CleanSummary, CleanTable, Diagnosis, DoctorChecks, Finding, FindingItem, ReportPage,
    Severity, examine, write_augment_sheet,
};
use serde::Serialize;
use serde_json::json;

use super::{CommandContext, pluralize};
use crate::args::DoctorArgs;
use crate::output::{Escaped, Output, StdoutError};

/// Number of items that the text shows per finding.
const MAX_EXAMPLES: usize = 3;

/// The output of `doctor --json`.
#[derive(Serialize)]
struct DoctorJson<'a> {
    #[serde(flatten)]
    diagnosis: &'a Diagnosis,
    /// The web page, with `--html`.
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<&'a Path>,
    /// What was written, with `--write-clean`.
    #[serde(skip_serializing_if = "Option::is_none")]
    clean: Option<&'a CleanSummary>,
}

/// Examines the data set for problems and prints the findings; also writes a web page (`--html`) and a table
/// of the images without problems (`--write-clean`), whose files are checked before the long work. With
/// `--show-augment`, only writes an image that shows what `[augment]` does.
pub(crate) fn run(args: &DoctorArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let settings = context.resolve_data_settings()?.with_frozen_backbone();
    if let Some(file) = &args.show_augment {
        let sheet = write_augment_sheet(&settings, file, context.bars)?;
        context.output.print(format!(
            "{}: {}, each unchanged and in {} randomly changed (augmented) versions",
            file.display(),
            pluralize(sheet.images, "photo"),
            sheet.views
        ))?;
        let json = json!({ "out": file, "photos": sheet.images, "views": sheet.views });
        context.output.print_json(&json)?;
        return Ok(());
    }
    let clean_table = args.write_clean.as_deref().map(|file| CleanTable::new(file, &settings)).transpose()?;
    let page = args.html.as_deref().map(ReportPage::new).transpose()?;
    let checks = if args.quick { DoctorChecks::Quick } else { DoctorChecks::All };
    let diagnosis = examine(&settings, checks, context.bars)?;
    if let Some(page) = &page {
        page.write(&diagnosis, settings.decode, context.bars)?;
    }
    let cleaned = clean_table.map(|table| table.write(&diagnosis)).transpose()?;
    let out = &mut *context.output;
    print_diagnosis(&diagnosis, out)?;
    if let Some(file) = &args.html {
        out.print(format!(
            "\n{}: web page with thumbnails of the photos that have problems",
            file.display()
        ))?;
    }
    if let Some(cleaned) = &cleaned {
        print_clean_table(cleaned, out)?;
    }
    out.print_json(&DoctorJson {
        diagnosis: &diagnosis,
        html: args.html.as_deref(),
        clean: cleaned.as_ref(),
    })?;
    let (errors, warnings) = (diagnosis.count(Severity::Error), diagnosis.count(Severity::Warning));
    if args.strict && errors + warnings > 0 {
        let (errors, warnings) = (pluralize(errors, "error"), pluralize(warnings, "warning"));
        let problem = format!("--strict: {errors} and {warnings} were found: fix them as the report advises");
        return Err(TrainError::Data(problem).into());
    }
    Ok(())
}

/// Prints the numbers of images, then each finding (all problems of a kind) with its severity, its count, a
/// few examples and advice, then which checks were not made and why.
fn print_diagnosis(diagnosis: &Diagnosis, out: &mut Output) -> Result<(), StdoutError> {
    let sum = |size: fn(&ClassCount) -> usize| diagnosis.classes.iter().map(size).sum::<usize>();
    let (train, test) = (sum(|class| class.train), sum(|class| class.test));
    let sizes = || diagnosis.classes.iter().map(|class| class.train + class.test);
    let class_sizes = match (sizes().min(), sizes().max()) {
        (Some(min), Some(max)) => format!("; {min} to {max} photos per class"),
        _ => String::new(),
    };
    out.print(format!(
        "{} in {} classes: {train} for training, {test} for testing{class_sizes}\n",
        pluralize(diagnosis.images, "photo"),
        diagnosis.classes.len()
    ))?;
    let names: Vec<String> = diagnosis.findings.iter().map(Finding::name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (finding, name) in diagnosis.findings.iter().zip(&names) {
        let examples: Vec<String> = finding.items.iter().take(MAX_EXAMPLES).map(format_example).collect();
        let more = if finding.count > MAX_EXAMPLES { "; ..." } else { "" };
        let (severity, count) = (finding.severity.to_string(), finding.count);
        out.print(format!(
            "{severity:<8} {name:<width$}  {count:>5}  {}{more}",
            Escaped(examples.join("; "))
        ))?;
        out.print(format!("{:8} {}", "", finding.advice))?;
    }
    if diagnosis.findings.is_empty() {
        out.print("no problems found")?;
    }
    for reason in &diagnosis.left_out {
        out.print(format!("\nnot checked: {}", Escaped(reason)))?;
    }
    Ok(())
}

/// Formats an item of a finding as an example: `PATH (DETAIL)`; for a group of duplicates `PATH = PATH` and
/// how many more there are.
fn format_example(item: &FindingItem) -> String {
    let paths: Vec<&str> = item.images.iter().map(|image| image.path.as_str()).collect();
    match (paths.as_slice(), item.detail.as_str()) {
        ([], detail) => detail.to_owned(),
        ([path], "") => (*path).to_owned(),
        ([path], detail) => format!("{path} ({detail})"),
        ([first, second], _) => format!("{first} = {second}"),
        ([first, second, more @ ..], _) => format!("{first} = {second} and {} more", more.len()),
    }
}

/// Prints what `--write-clean` wrote, a CSV of the images without problems, and the lines of a config that
/// trains on it. If the table has a column with the split, the config must use that.
fn print_clean_table(cleaned: &CleanSummary, out: &mut Output) -> Result<(), StdoutError> {
    let CleanSummary { csv, images, n_rows, left_out, split } = cleaned;
    let (csv_path, n_rows) = (csv.display(), pluralize(*n_rows, "photo"));
    out.print(format!(
        "\n{csv_path}: table of {n_rows} without problems ({left_out} left out); to train on this table, set \
         these keys in the config file, and remove the other keys in [data] that name photos (`folder`, \
         `parquet`, `webdataset`, `test_...`):"
    ))?;
    out.print("  [data]")?;
    out.print(format!("  csv = {:?}", csv.display().to_string()))?;
    out.print(format!("  images = {:?}", images.display().to_string()))?;
    if *split {
        out.print("  [split]\n  method = \"predefined\"")?;
    }
    Ok(())
}
