//! `headstock doctor`

use std::path::Path;

use headstock_train::TrainError;
use headstock_train::doctor::{
    ClassCount, CleanSummary, CleanTable, Diagnosis, DoctorChecks, Finding, FindingItem, ReportPage,
    Severity, examine, write_augment_sheet,
};
use serde::Serialize;
use serde_json::json;

use super::{CommandContext, pluralize, program_path, shell_quote};
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
/// of the images without problems with its config and review (`--write-clean`), whose files are checked before the
/// long work. With `--show-augment`, only writes an image that shows what `[augment]` does.
pub(crate) fn run(args: &DoctorArgs, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let settings = context.resolve_data_settings()?;
    // Its config keeps the section [tune].
    let write_clean = |file: &Path| CleanTable::new(file, args.review.as_deref(), &settings);
    let clean_table = args.write_clean.as_deref().map(write_clean).transpose()?;
    let settings = settings.with_frozen_backbone();
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
        let global = &context.global;
        let config =
            global.config.iter().map(|config| format!(" --config {}", shell_quote(config.display())));
        let overrides = global.overrides.iter().map(|keys| format!(" --set {}", shell_quote(keys)));
        let arguments: Vec<String> = config.chain(overrides).collect();
        print_clean_table(cleaned, args.quick, &arguments.concat(), out)?;
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
    if diagnosis.decided > 0 {
        out.print(format!(
            "{} decided in the review beside the table",
            pluralize(diagnosis.decided, "problem")
        ))?;
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

/// Prints what `--write-clean` wrote, and how to go on; `quick` and the arguments `same_settings` are those of this
/// command.
fn print_clean_table(
    cleaned: &CleanSummary,
    quick: bool,
    same_settings: &str,
    out: &mut Output,
) -> Result<(), StdoutError> {
    let CleanSummary { csv, config, review, n_rows, left_out, relabeled, .. } = cleaned;
    out.print(format!(
        "\n{}: table of {} without problems ({left_out} left out, {relabeled} with another class)",
        Escaped(csv.display()),
        pluralize(*n_rows, "photo"),
    ))?;
    out.print(format!("{}: what was left out or renamed, with reasons", Escaped(review.display())))?;
    let (csv, config, review) =
        (shell_quote(csv.display()), shell_quote(config.display()), shell_quote(review.display()));
    let program = shell_quote(program_path().display());
    let doctor = if quick { "doctor --quick" } else { "doctor" };
    out.print("\nnext:")?;
    out.print(format!(
        "  {program} {doctor}{same_settings} --write-clean {csv} --review {review}   # after you changed its column \
         action"
    ))?;
    out.print(format!("  {program} {doctor} --strict --config {config}"))?;
    out.print(format!("  {program} train --config {config}"))
}
