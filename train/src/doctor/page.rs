//! What was found as a page to look at, in one file without a script.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Arguments, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headstock_loader::decode;
use headstock_loader::encode::thumbnail;
use rayon::prelude::*;

use super::{Concerned, Diagnosis, Finding, Item};
use crate::config::Settings;
use crate::error::TrainError;
use crate::files::{refuse_to_replace_all_but, write_whole};
use crate::progress::Progress;
use crate::report::escaped;

/// Items of a finding, and thumbnails, that the page has at most.
const ITEMS: usize = 60;
const THUMBNAILS: usize = 400;

/// Copies of one picture that are shown.
const COPIES: usize = 8;

/// The longer side of a thumbnail in pixels.
const SIDE: u32 = 128;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #ddd}\
.error{color:#b00020}.warning{color:#9a6700}.note{color:#555}.items{display:flex;flex-wrap:wrap;gap:.8rem}\
.item{border:1px solid #ddd;border-radius:4px;padding:.4rem;display:flex;flex-wrap:wrap;gap:.4rem;max-width:100%}\
figure{margin:0;width:8.5rem}img{max-width:8rem;max-height:8rem;display:block}\
figcaption,.detail{font-size:12px;line-height:1.3;overflow-wrap:anywhere}.detail{width:100%}";

/// What every page begins with.
const HEAD: &str =
    "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>headstock doctor</title>\n";

/// A page that is going to be written.
#[derive(Clone, Debug)]
pub struct Page(PathBuf);

impl Page {
    /// A page at `path`, refused before the long work where another file lies there.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for such a file.
    pub fn new(path: &Path) -> Result<Self, TrainError> {
        refuse_to_replace_all_but(path, &[HEAD.into()])?;
        Ok(Self(path.into()))
    }

    /// Writes what was found. The photos that are shown are decoded again; some hundred at most.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn write(
        &self,
        diagnosis: &Diagnosis,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<(), TrainError> {
        let page = html(diagnosis, settings, progress);
        write_whole(&self.0, page.as_bytes()).map_err(TrainError::io("write", &self.0))
    }
}

fn html(diagnosis: &Diagnosis, settings: &Settings, progress: &dyn Progress) -> String {
    let thumbnails = thumbnails(diagnosis, settings.options.data.max_pixels, progress);
    let mut page = format!(
        "{HEAD}<style>{STYLE}</style>\n<h1>What is wrong with the photos</h1>\n<p>{} photos of {} classes.</p>\n",
        diagnosis.photos,
        diagnosis.classes.len()
    );
    if diagnosis.findings.is_empty() {
        page.push_str("<p>Nothing was found.</p>\n");
    } else {
        page.push_str("<table>\n<tr><th><th>found<th>count<th>what to do\n");
        for (number, finding) in diagnosis.findings.iter().enumerate() {
            let Finding { count, advice, .. } = finding;
            let (severity, name) = (finding.severity.as_str(), finding.name());
            push(
                &mut page,
                format_args!(
                    "<tr><td class=\"{severity}\">{severity}<td><a href=\"#f{number}\">{name}</a><td>{count}<td>{}\n",
                    escaped(advice)
                ),
            );
        }
        page.push_str("</table>\n");
    }
    for why in &diagnosis.left_out {
        push(&mut page, format_args!("<p>Not looked at: {}</p>\n", escaped(why)));
    }
    for (number, finding) in diagnosis.findings.iter().enumerate() {
        section(&mut page, number, finding, &thumbnails);
    }
    classes(&mut page, diagnosis);
    page
}

fn section(page: &mut String, number: usize, finding: &Finding, thumbnails: &BTreeMap<usize, String>) {
    let (severity, name, count) = (finding.severity.as_str(), finding.name(), finding.count);
    push(page, format_args!("<h2 id=\"f{number}\" class=\"{severity}\">{name}: {count}</h2>\n"));
    push(page, format_args!("<p>{}</p>\n", escaped(finding.advice)));
    if count > ITEMS {
        push(page, format_args!("<p>The first {ITEMS} are shown.</p>\n"));
    }
    page.push_str("<div class=\"items\">\n");
    for item in finding.items.iter().take(ITEMS) {
        page.push_str("<div class=\"item\">");
        for photo in item.photos.iter().take(COPIES) {
            figure(page, photo, thumbnails.get(&photo.sample));
        }
        let more = item.photos.len().saturating_sub(COPIES);
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        push(page, format_args!("<div class=\"detail\">{}{more}</div></div>\n", escaped(&item.detail)));
    }
    page.push_str("</div>\n");
}

fn figure(page: &mut String, photo: &Concerned, thumbnail: Option<&String>) {
    page.push_str("<figure>");
    if let Some(data) = thumbnail {
        push(page, format_args!("<img alt=\"\" src=\"data:image/jpeg;base64,{data}\">"));
    }
    let (path, label) = (escaped(&photo.path), escaped(&photo.label));
    push(
        page,
        format_args!("<figcaption>{path}<br><b>{label}</b>, {}</figcaption></figure>", photo.part.as_str()),
    );
}

fn classes(page: &mut String, diagnosis: &Diagnosis) {
    page.push_str("<h2>Classes</h2>\n<table>\n<tr><th>class<th>to train on<th>to test on\n");
    for count in &diagnosis.classes {
        push(page, format_args!("<tr><td>{}<td>{}<td>{}\n", escaped(&count.class), count.train, count.test));
    }
    page.push_str("</table>\n");
}

/// The thumbnails, in base64, of the photos that are shown first.
fn thumbnails(diagnosis: &Diagnosis, max_pixels: u64, progress: &dyn Progress) -> BTreeMap<usize, String> {
    // The first items of each finding before the later ones of any.
    let mut shown = BTreeSet::new();
    for place in 0..ITEMS {
        let items = diagnosis.findings.iter().filter_map(|finding: &Finding| finding.items.get(place));
        for photo in items.flat_map(|item: &Item| item.photos.iter().take(COPIES)) {
            if shown.len() < THUMBNAILS {
                shown.insert(photo.sample);
            }
        }
    }
    progress.begin("thumbnails", shown.len() as u64, "photos");
    let shown: Vec<usize> = shown.into_iter().collect();
    let made = shown.into_par_iter().filter_map(|number| {
        let photo = &diagnosis.collected.samples[number].photo;
        let pixels = photo.read().and_then(|bytes| decode(&bytes, max_pixels)).ok();
        progress.step(1);
        Some((number, STANDARD.encode(thumbnail(&pixels?, SIDE))))
    });
    let made = made.collect();
    progress.end();
    made
}

fn push(page: &mut String, text: Arguments<'_>) {
    page.write_fmt(text).expect("a string takes every byte");
}
