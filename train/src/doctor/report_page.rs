//! The findings as one HTML file without scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headstock_inference::Progress;
use headstock_loader::decode;
use headstock_loader::encode::thumbnail;
use rayon::prelude::*;

use super::{Diagnosis, Finding, FindingItem, SampleRef};
use crate::atomic_write::{refuse_to_overwrite_unless, write_atomically};
use crate::config::Settings;
use crate::error::TrainError;
use crate::report::{escape_html, push_fmt};

/// Maximum number of items that are shown per finding.
const MAX_ITEMS: usize = 60;

/// Maximum number of thumbnails on the page.
const MAX_THUMBNAILS: usize = 400;

/// Maximum number of thumbnails of an item.
const MAX_COPIES: usize = 8;

/// The longer side of a thumbnail in pixels.
const THUMBNAIL_SIDE: u32 = 128;

/// The CSS of a page.
const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #ddd}\
.error{color:#b00020}.warning{color:#9a6700}.note{color:#555}.items{display:flex;flex-wrap:wrap;gap:.8rem}\
.item{border:1px solid #ddd;border-radius:4px;padding:.4rem;display:flex;flex-wrap:wrap;gap:.4rem;max-width:100%}\
figure{margin:0;width:8.5rem}img{max-width:8rem;max-height:8rem;display:block}\
figcaption,.detail{font-size:12px;line-height:1.3;overflow-wrap:anywhere}.detail{width:100%}";

/// The first bytes of a page, by which an earlier page is recognized.
const HTML_PREFIX: &str =
    "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>headstock doctor</title>\n";

/// The output file of the HTML report of `doctor`.
#[derive(Clone, Debug)]
pub struct ReportPage {
    path: PathBuf,
}

impl ReportPage {
    /// The output file `path`, to which [`write`](Self::write) writes the HTML report later. Checks now,
    /// before the long work starts, that no other file would be overwritten.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for an existing file that is not such a page.
    pub fn new(path: &Path) -> Result<Self, TrainError> {
        refuse_to_overwrite_unless(path, &[HTML_PREFIX.into()])?;
        Ok(Self { path: path.into() })
    }

    /// Writes the findings of `diagnosis` as one HTML page. The images with thumbnails are read and decoded
    /// again, with the limit of pixels in `settings`.
    ///
    /// # Errors
    /// [`TrainError::Inference`].
    pub fn write(
        &self,
        diagnosis: &Diagnosis,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<(), TrainError> {
        let page = render(diagnosis, settings, progress);
        write_atomically(&self.path, page.as_bytes()).map_err(TrainError::io("write", &self.path))
    }
}

/// The HTML of the report of `doctor`: a table of the findings, then each finding with thumbnails, then the
/// classes.
fn render(diagnosis: &Diagnosis, settings: &Settings, progress: &dyn Progress) -> String {
    let thumbnails = make_thumbnails(diagnosis, settings.options.data.max_pixels, progress);
    let mut page = format!(
        "{HTML_PREFIX}<style>{STYLE}</style>\n<h1>Data check</h1>\n<p>{} photos of {} classes.</p>\n",
        diagnosis.images,
        diagnosis.classes.len()
    );
    if diagnosis.findings.is_empty() {
        page.push_str("<p>No problems were found.</p>\n");
    } else {
        page.push_str("<table>\n<tr><th>severity<th>finding<th>count<th>what to do\n");
        for (number, finding) in diagnosis.findings.iter().enumerate() {
            let Finding { count, advice, .. } = finding;
            let (severity, name) = (finding.severity.as_str(), finding.name());
            push_fmt(
                &mut page,
                format_args!(
                    "<tr><td class=\"{severity}\">{severity}<td><a \
                     href=\"#f{number}\">{name}</a><td>{count}<td>{}\n",
                    escape_html(advice)
                ),
            );
        }
        page.push_str("</table>\n");
    }
    for reason in &diagnosis.left_out {
        push_fmt(&mut page, format_args!("<p>Not checked: {}</p>\n", escape_html(reason)));
    }
    for (number, finding) in diagnosis.findings.iter().enumerate() {
        finding_section(&mut page, number, finding, &thumbnails);
    }
    classes_section(&mut page, diagnosis);
    page
}

/// Appends the section of one finding to the HTML `page`: its advice and its first items, each with some of
/// the images that it is about. The table of findings links to it by `number`; `thumbnails` are by index of
/// the sample.
fn finding_section(
    page: &mut String,
    number: usize,
    finding: &Finding,
    thumbnails: &BTreeMap<usize, String>,
) {
    let (severity, name, count) = (finding.severity.as_str(), finding.name(), finding.count);
    push_fmt(page, format_args!("<h2 id=\"f{number}\" class=\"{severity}\">{name}: {count}</h2>\n"));
    push_fmt(page, format_args!("<p>{}</p>\n", escape_html(finding.advice)));
    if count > MAX_ITEMS {
        push_fmt(page, format_args!("<p>The first {MAX_ITEMS} are shown.</p>\n"));
    }
    page.push_str("<div class=\"items\">\n");
    for item in finding.items.iter().take(MAX_ITEMS) {
        page.push_str("<div class=\"item\">");
        for sample in item.images.iter().take(MAX_COPIES) {
            figure(page, sample, thumbnails.get(&sample.index));
        }
        let more = item.images.len().saturating_sub(MAX_COPIES);
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        push_fmt(
            page,
            format_args!("<div class=\"detail\">{}{more}</div></div>\n", escape_html(&item.detail)),
        );
    }
    page.push_str("</div>\n");
}

/// Appends an image to the HTML `page`: its path, label and subset, and its `thumbnail` (JPEG in Base64) if
/// there is one.
fn figure(page: &mut String, sample: &SampleRef, thumbnail: Option<&String>) {
    page.push_str("<figure>");
    if let Some(data) = thumbnail {
        push_fmt(page, format_args!("<img alt=\"\" src=\"data:image/jpeg;base64,{data}\">"));
    }
    let (path, label) = (escape_html(&sample.path), escape_html(&sample.label));
    push_fmt(
        page,
        format_args!(
            "<figcaption>{path}<br><b>{label}</b>, {}</figcaption></figure>",
            sample.subset.as_str()
        ),
    );
}

/// Appends a table with the numbers of training and test images of each class to the HTML `page`.
fn classes_section(page: &mut String, diagnosis: &Diagnosis) {
    page.push_str("<h2>Classes</h2>\n<table>\n<tr><th>class<th>training photos<th>test photos\n");
    for count in &diagnosis.classes {
        push_fmt(
            page,
            format_args!("<tr><td>{}<td>{}<td>{}\n", escape_html(&count.class), count.train, count.test),
        );
    }
    page.push_str("</table>\n");
}

/// The thumbnails for the page, JPEGs in Base64, by index of the sample: of the images in the first items of
/// all findings, at most [`MAX_THUMBNAILS`]. Images that cannot be read, or have more than `max_pixels`, have
/// none.
fn make_thumbnails(
    diagnosis: &Diagnosis,
    max_pixels: u64,
    progress: &dyn Progress,
) -> BTreeMap<usize, String> {
    // The first items of all findings come before later ones.
    let mut shown = BTreeSet::new();
    for rank in 0..MAX_ITEMS {
        let items = diagnosis.findings.iter().filter_map(|finding: &Finding| finding.items.get(rank));
        for sample in items.flat_map(|item: &FindingItem| item.images.iter().take(MAX_COPIES)) {
            if shown.len() < MAX_THUMBNAILS {
                shown.insert(sample.index);
            }
        }
    }
    progress.begin("thumbnails", shown.len() as u64, "photos");
    let shown: Vec<usize> = shown.into_iter().collect();
    let thumbnails = shown.into_par_iter().filter_map(|number| {
        let image = &diagnosis.listing.samples[number].image;
        let pixels = image.read().ok().and_then(|bytes| decode(&bytes, max_pixels).ok());
        progress.step(1);
        Some((number, STANDARD.encode(thumbnail(&pixels?, THUMBNAIL_SIDE))))
    });
    let thumbnails = thumbnails.collect();
    progress.end();
    thumbnails
}
