//! The findings as one HTML file without scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headstock_inference::Progress;
use headstock_loader::encode::thumbnail;
use headstock_loader::{DecodeOptions, decode};
use maud::{Markup, html};
use rayon::prelude::*;

use super::{Diagnosis, Finding, FindingItem, SampleRef};
use crate::atomic_write::{refuse_to_overwrite_unless, write_atomically};
use crate::error::TrainError;
use crate::html_page;

/// Maximum number of items that are shown per finding.
const MAX_ITEMS: usize = 60;

/// Maximum number of thumbnails on the page.
const MAX_THUMBNAILS: usize = 400;

/// Maximum number of thumbnails of an item.
const MAX_COPIES: usize = 8;

/// The longer side of a thumbnail in pixels.
const THUMBNAIL_SIDE: u32 = 128;

/// The title of the page.
const TITLE: &str = "headstock doctor";

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
        // An earlier page is recognized by its first bytes, which end with the title.
        let empty_page = html_page::page(TITLE, Markup::default());
        let start = empty_page.split_inclusive("</title>").next().unwrap_or_default();
        refuse_to_overwrite_unless(path, &[start.into()])?;
        Ok(Self { path: path.into() })
    }

    /// Writes the findings of `diagnosis` as one HTML page. The images with thumbnails are read and decoded
    /// again; those that the options refuse have none.
    ///
    /// # Errors
    /// [`TrainError::Inference`].
    pub fn write(
        &self,
        diagnosis: &Diagnosis,
        decode_options: DecodeOptions,
        progress: &dyn Progress,
    ) -> Result<(), TrainError> {
        let page = html_page::page(TITLE, render(diagnosis, decode_options, progress));
        write_atomically(&self.path, page.as_bytes())
    }
}

/// The body of the report of `doctor`: a table of the findings, then each finding with thumbnails, then the
/// classes.
fn render(diagnosis: &Diagnosis, decode_options: DecodeOptions, progress: &dyn Progress) -> Markup {
    let thumbnails = make_thumbnails(diagnosis, decode_options, progress);
    html! {
        h1 { "Data check" }
        p { (diagnosis.images) " photos of " (diagnosis.classes.len()) " classes." }
        @if diagnosis.findings.is_empty() {
            p { "No problems were found." }
        } @else {
            table {
                tr { th { "severity" } th { "finding" } th { "count" } th { "what to do" } }
                @for (number, finding) in diagnosis.findings.iter().enumerate() {
                    tr {
                        td class=(finding.severity) { (finding.severity) }
                        td { a href=(format!("#f{number}")) { (finding.name()) } }
                        td { (finding.count) }
                        td { (finding.advice) }
                    }
                }
            }
        }
        @for reason in &diagnosis.left_out {
            p { "Not checked: " (reason) }
        }
        @for (number, finding) in diagnosis.findings.iter().enumerate() {
            (finding_section(number, finding, &thumbnails))
        }
        h2 { "Classes" }
        table {
            tr { th { "class" } th { "training photos" } th { "test photos" } }
            @for count in &diagnosis.classes {
                tr { td { (count.class) } td { (count.train) } td { (count.test) } }
            }
        }
    }
}

/// The section of one finding: its advice and its first items, each with some of the images that it is about.
/// The table of findings links to it by `number`; `thumbnails` are by index of the sample.
fn finding_section(number: usize, finding: &Finding, thumbnails: &BTreeMap<usize, String>) -> Markup {
    html! {
        h2 id=(format!("f{number}")) class=(finding.severity) {
            (finding.name()) ": " (finding.count)
        }
        p { (finding.advice) }
        @if finding.count > MAX_ITEMS {
            p { "The first " (MAX_ITEMS) " are shown." }
        }
        div class="items" {
            @for item in finding.items.iter().take(MAX_ITEMS) {
                div class="item" {
                    @for sample in item.images.iter().take(MAX_COPIES) {
                        (figure(sample, thumbnails.get(&sample.index)))
                    }
                    div class="detail" {
                        (item.detail)
                        @if item.images.len() > MAX_COPIES {
                            " (and " (item.images.len() - MAX_COPIES) " more)"
                        }
                    }
                }
            }
        }
    }
}

/// An image: its path, label and subset, and its `thumbnail` (JPEG in Base64) if there is one.
fn figure(sample: &SampleRef, thumbnail: Option<&String>) -> Markup {
    html! {
        figure {
            @if let Some(data) = thumbnail {
                img alt="" src=(format!("data:image/jpeg;base64,{data}"));
            }
            figcaption { (sample.path) br; b { (sample.label) } ", " (sample.subset.as_str()) }
        }
    }
}

/// The thumbnails for the page, JPEGs in Base64, by index of the sample: of the images in the first items of
/// all findings, at most [`MAX_THUMBNAILS`]. Images that cannot be read have none.
fn make_thumbnails(
    diagnosis: &Diagnosis,
    decode_options: DecodeOptions,
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
        let image = &diagnosis.listing.images[number];
        let pixels = image.read().ok().and_then(|bytes| decode(&bytes, decode_options).ok());
        progress.step(1);
        Some((number, STANDARD.encode(thumbnail(&pixels?, THUMBNAIL_SIDE))))
    });
    let thumbnails = thumbnails.collect();
    progress.end();
    thumbnails
}
