//! `headstock doctor`

use std::path::Path;

use headstock_train::TrainError;
use headstock_train::doctor::{
    ClassCount, CleanSummary, CleanTable, Diagnosis, Finding, FindingItem, ReportPage, Severity, examine,
    write_augment_sheet,
};
use serde::Serialize;

use super::{Session, counted};
use crate::args::DoctorArgs;
use crate::output::{Output, Shown, StdoutError};

/// Items of a finding that are shown.
const EXAMPLES: usize = 3;

/// What `--json` prints.
#[derive(Serialize)]
struct Figures<'a> {
    #[serde(flatten)]
    diagnosis: &'a Diagnosis,
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clean: Option<&'a CleanSummary>,
}

/// What `--json` prints of a sheet of augmented views.
#[derive(Serialize)]
struct Sheet<'a> {
    out: &'a Path,
    photos: usize,
    views: u32,
}

pub(crate) fn run(args: &DoctorArgs, session: &mut Session<'_>) -> anyhow::Result<()> {
    let settings = session.settings_of_photos()?.with_frozen_backbone();
    if let Some(file) = &args.show_augment {
        let sheet = write_augment_sheet(&settings, file, session.bars)?;
        let (photos, views) = (sheet.images, sheet.views);
        session.output.line(format!(
            "{}: {}, the plain view and {views} augmented ones of each",
            file.display(),
            counted(photos, "photo")
        ))?;
        session.output.figures(&Sheet { out: file, photos, views })?;
        return Ok(());
    }
    let table = args.write_clean.as_deref().map(|file| CleanTable::new(file, &settings)).transpose()?;
    let page = args.html.as_deref().map(ReportPage::new).transpose()?;
    let diagnosis = examine(&settings, args.quick, session.bars)?;
    if let Some(page) = &page {
        page.write(&diagnosis, &settings, session.bars)?;
    }
    let cleaned = table.map(|table| table.write(&diagnosis)).transpose()?;
    let out = &mut *session.output;
    show(&diagnosis, out)?;
    if let Some(file) = &args.html {
        out.line(format!("\n{}: a page to look at", file.display()))?;
    }
    if let Some(cleaned) = &cleaned {
        show_clean(cleaned, out)?;
    }
    out.figures(&Figures { diagnosis: &diagnosis, html: args.html.as_deref(), clean: cleaned.as_ref() })?;
    let (errors, warnings) = (diagnosis.count(Severity::Error), diagnosis.count(Severity::Warning));
    if args.strict && errors + warnings > 0 {
        let (errors, warnings) = (counted(errors, "error"), counted(warnings, "warning"));
        return Err(TrainError::Data(format!("--strict: {errors} and {warnings}")).into());
    }
    Ok(())
}

fn show(diagnosis: &Diagnosis, out: &mut Output) -> Result<(), StdoutError> {
    let sum = |of: fn(&ClassCount) -> usize| diagnosis.classes.iter().map(of).sum::<usize>();
    let (train, test) = (sum(|count| count.train), sum(|count| count.test));
    let sizes = || diagnosis.classes.iter().map(|count| count.train + count.test);
    let spread = match (sizes().min(), sizes().max()) {
        (Some(least), Some(most)) => format!("; {least} to {most} of a class"),
        _ => String::new(),
    };
    out.line(format!(
        "{} of {} classes: {train} to train on, {test} to test on{spread}\n",
        counted(diagnosis.photos, "photo"),
        diagnosis.classes.len()
    ))?;
    let names: Vec<String> = diagnosis.findings.iter().map(Finding::name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (finding, name) in diagnosis.findings.iter().zip(&names) {
        let examples: Vec<String> = finding.items.iter().take(EXAMPLES).map(example).collect();
        let more = if finding.count > EXAMPLES { "; ..." } else { "" };
        let (severity, count) = (finding.severity.as_str(), finding.count);
        out.line(format!("{severity:<8} {name:<width$}  {count:>5}  {}{more}", Shown(examples.join("; "))))?;
        out.line(format!("{:8} {}", "", finding.advice))?;
    }
    if diagnosis.findings.is_empty() {
        out.line("nothing was found")?;
    }
    for why in &diagnosis.left_out {
        out.line(format!("\nnot looked at: {}", Shown(why)))?;
    }
    Ok(())
}

/// An item in a few words.
fn example(item: &FindingItem) -> String {
    let paths: Vec<&str> = item.photos.iter().map(|photo| photo.path.as_str()).collect();
    match (paths.as_slice(), item.detail.as_str()) {
        ([], detail) => detail.to_owned(),
        ([path], "") => (*path).to_owned(),
        ([path], detail) => format!("{path} ({detail})"),
        ([first, second], _) => format!("{first} = {second}"),
        ([first, second, more @ ..], _) => format!("{first} = {second} and {} more", more.len()),
    }
}

/// What was written, and the keys that train on it.
fn show_clean(cleaned: &CleanSummary, out: &mut Output) -> Result<(), StdoutError> {
    let CleanSummary { csv, images, kept, left_out, split } = cleaned;
    out.line(format!("\n{}: {kept} photos, {left_out} left out; to train on it:", csv.display()))?;
    out.line("  [data]")?;
    out.line(format!("  csv = {:?}", csv.display().to_string()))?;
    out.line(format!("  images = {:?}", images.display().to_string()))?;
    if *split {
        out.line("  [split]\n  method = \"predefined\"")?;
    }
    Ok(())
}
