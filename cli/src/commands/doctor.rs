//! `headstock doctor`

use std::path::Path;

use headstock_train::TrainError;
use headstock_train::doctor::{
    ClassCount, CleanSummary, CleanTable, Diagnosis, DoctorChecks, Finding, FindingItem, ReportPage,
    Severity, examine, write_augment_sheet,
};
use serde::Serialize;

use super::{CommandContext, pluralize};
use crate::args::DoctorArgs;
use crate::output::{Escaped, Output, StdoutError};

/// Items shown per finding.
const MAX_EXAMPLES: usize = 3;

/// The output of `doctor --json`.
#[derive(Serialize)]
struct DoctorJson<'a> {
    #[serde(flatten)]
    diagnosis: &'a Diagnosis,
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clean: Option<&'a CleanSummary>,
}

/// The output of `doctor --show-augment --json`.
#[derive(Serialize)]
struct AugmentSheetJson<'a> {
    out: &'a Path,
    #[serde(rename = "photos")]
    n_images: usize,
    views: u32,
}

pub(crate) fn run(args: &DoctorArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let settings = context.resolve_data_settings()?.with_frozen_backbone();
    if let Some(file) = &args.show_augment {
        let sheet = write_augment_sheet(&settings, file, context.bars)?;
        context.output.print(format!(
            "{}: {}, each with its unaugmented view and {} augmented views",
            file.display(),
            pluralize(sheet.images, "photo"),
            sheet.views
        ))?;
        let json = AugmentSheetJson { out: file, n_images: sheet.images, views: sheet.views };
        context.output.print_json(&json)?;
        return Ok(());
    }
    let table = args.write_clean.as_deref().map(|file| CleanTable::new(file, &settings)).transpose()?;
    let page = args.html.as_deref().map(ReportPage::new).transpose()?;
    let checks = if args.quick { DoctorChecks::Quick } else { DoctorChecks::All };
    let diagnosis = examine(&settings, checks, context.bars)?;
    if let Some(page) = &page {
        page.write(&diagnosis, &settings, context.bars)?;
    }
    let cleaned = table.map(|table| table.write(&diagnosis)).transpose()?;
    let out = &mut *context.output;
    print_diagnosis(&diagnosis, out)?;
    if let Some(file) = &args.html {
        out.print(format!("\n{}: HTML page with thumbnails", file.display()))?;
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
        return Err(TrainError::Data(format!("--strict: {errors} and {warnings}")).into());
    }
    Ok(())
}

/// Prints a title, each finding with examples and advice, and what was not checked.
fn print_diagnosis(diagnosis: &Diagnosis, out: &mut Output) -> Result<(), StdoutError> {
    let sum = |count: fn(&ClassCount) -> usize| diagnosis.classes.iter().map(count).sum::<usize>();
    let (train, test) = (sum(|count| count.train), sum(|count| count.test));
    let sizes = || diagnosis.classes.iter().map(|count| count.train + count.test);
    let class_sizes = match (sizes().min(), sizes().max()) {
        (Some(min), Some(max)) => format!("; {min} to {max} per class"),
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
        let (severity, count) = (finding.severity.as_str(), finding.count);
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

/// An item of a finding in a few words.
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

/// Prints what was written, and the config keys that train on it.
fn print_clean_table(cleaned: &CleanSummary, out: &mut Output) -> Result<(), StdoutError> {
    let CleanSummary { csv, images, n_rows, left_out, split } = cleaned;
    out.print(format!("\n{}: {n_rows} photos, {left_out} left out; to train on it, use", csv.display()))?;
    out.print("  [data]")?;
    out.print(format!("  csv = {:?}", csv.display().to_string()))?;
    out.print(format!("  images = {:?}", images.display().to_string()))?;
    if *split {
        out.print("  [split]\n  method = \"predefined\"")?;
    }
    Ok(())
}
