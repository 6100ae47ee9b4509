//! A JPEG, or a part of it, at a fraction of its size.

use image::RgbImage;
use pulp::Arch;

use super::Fault;
use super::frame::{Frame, Next, Part, ScanHeader, Tables};
use super::planes::{Area, Colours, Needed, Plane, Render};
use super::scan::{self, Blocks, Intervals, Wanted};

/// More scans than any encoder writes. One of some dozen bytes goes over all blocks of a large photo: ten megabytes would take a
/// quarter of an hour. Chrome and the decoder for other kinds draw the line here as well.
const MOST_SCANS: usize = 100;

/// The pixels `area` of a photo of `size` (width, height) at `side` eighths of that (8, 4, 2 or 1), as it is stored.
pub(super) fn decode(
    bytes: &[u8],
    size: (usize, usize),
    side: usize,
    area: &Area,
) -> Result<RgbImage, Fault> {
    let arch = Arch::new();
    let (mut tables, mut intervals) = (Tables::default(), Intervals::default());
    let mut picture: Option<Picture> = None;
    let (mut at, mut scans) = (2, 0);
    while let Next::Scan(header, start) = tables.read(bytes, at)? {
        scans += 1;
        if scans > MOST_SCANS {
            return Err(Fault::Damaged("more than 100 scans"));
        }
        let frame = tables.frame.as_ref().ok_or(NO_FRAME)?;
        if frame.size != size {
            return Err(Fault::Damaged("two sizes"));
        }
        let picture = picture.get_or_insert_with(|| Picture::new(frame, &header, side, area));
        at = intervals.take(bytes, start)?;
        picture.read(&mut tables, &header, &intervals, arch)?;
        if picture.is_whole(tables.frame.as_ref().ok_or(NO_FRAME)?) {
            break;
        }
    }
    let (Some(mut picture), Some(frame)) = (picture, &tables.frame) else { return Err(NO_FRAME) };
    if picture.seen.contains(&false) {
        return Err(Fault::Damaged("a component without a scan"));
    }
    if !picture.streamed {
        fill(&mut picture.planes, &picture.blocks, frame, arch, 0);
    }
    let colours = match picture.planes.len() {
        1 => Colours::Grey,
        _ if tables.is_rgb() => Colours::Rgb,
        _ => Colours::YCbCr,
    };
    let pixels = Render { planes: &picture.planes, colours, area }.run(arch);
    RgbImage::from_raw(area.x.len() as u32, area.y.len() as u32, pixels)
        .ok_or(Fault::Damaged("fewer pixels than the header says"))
}

const NO_FRAME: Fault = Fault::Damaged("a scan without a frame");

/// What is known of a photo while its scans are read.
struct Picture {
    /// Whether one scan has everything: then a row of groups of blocks is kept, not all of them.
    streamed: bool,
    blocks: Vec<Blocks>,
    planes: Vec<Plane>,
    /// Which components had a scan.
    seen: Vec<bool>,
}

impl Picture {
    fn new(frame: &Frame, first: &ScanHeader, side: usize, area: &Area) -> Self {
        let components = frame.components.len();
        let streamed = !frame.progressive && first.parts.len() == components;
        let (across, down) = frame.units();
        let blocks = frame.components.iter().map(|component| {
            let (h, v) = component.sampling;
            Blocks::new(h * across, if streamed { v } else { v * down })
        });
        Self {
            streamed,
            blocks: blocks.collect(),
            planes: (0..components).map(|component| Plane::new(frame, component, side, area)).collect(),
            seen: vec![false; components],
        }
    }

    fn read(
        &mut self,
        tables: &mut Tables,
        header: &ScanHeader,
        intervals: &Intervals,
        arch: Arch,
    ) -> Result<(), Fault> {
        let frame = tables.frame.as_ref().ok_or(NO_FRAME)?;
        let needed: Vec<Needed> = self.planes.iter().map(|plane| plane.needed().clone()).collect();
        // Of what has its own scans those are left out that nothing is needed of.
        if frame.progressive
            && header.band.0 > 0
            && header.parts.iter().all(|part| needed[part.component].firsts)
        {
            return Ok(());
        }
        for part in &header.parts {
            self.seen[part.component] |= header.band.0 == 0;
        }
        let is_little = |part: &Part| needed[part.component].is_little(frame.blocks(part.component));
        let passes_over = !frame.progressive && header.parts.iter().any(is_little);
        if passes_over {
            tables.prepare_leaps(header);
        }
        let frame = tables.frame.as_ref().ok_or(NO_FRAME)?;
        let wanted = |component: usize, column: usize, row: usize| {
            if passes_over { needed[component].of(column, row) } else { Wanted::All }
        };
        let Self { planes, blocks, streamed, .. } = self;
        scan::read((tables, frame), header, intervals, blocks, wanted, |row, blocks| {
            if *streamed {
                fill(planes, blocks, frame, arch, row);
            }
        })
    }

    /// Whether no scan is to come that could add something.
    fn is_whole(&self, frame: &Frame) -> bool {
        !frame.progressive && !self.seen.contains(&false)
    }
}

/// Fills in what `blocks` hold, rows of groups from `row` on.
fn fill(planes: &mut [Plane], blocks: &[Blocks], frame: &Frame, arch: Arch, row: usize) {
    for ((plane, blocks), component) in planes.iter_mut().zip(blocks).zip(&frame.components) {
        if let Some(steps) = &component.steps {
            plane.fill(arch, blocks, steps, row * component.sampling.1);
        }
    }
}
