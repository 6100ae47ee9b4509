//! A JPEG, or a part of it, at a fraction of its size.

use image::RgbImage;
use pulp::Arch;

use super::JpegError;
use super::frame::{Frame, JpegHeaders, Reached, ScanComponent, ScanHeader};
use super::planes::{ComponentPlane, JpegColorModel, NeededBlocks, PixelArea, UpsampleAndConvert};
use super::scan::{self, BlockGrid, NeededCoefficients, RestartIntervals};

/// More scans than any encoder writes. One of some dozen bytes goes over all blocks of a large photo: ten megabytes would take a
/// quarter of an hour. Chrome and the decoder for other kinds draw the line here as well.
const MAX_SCANS: usize = 100;

/// The pixels `area` of a photo of `size` (width, height) at `side` eighths of that (8, 4, 2 or 1), as it is stored.
pub(super) fn decode(
    bytes: &[u8],
    size: (usize, usize),
    eighths: usize,
    area: &PixelArea,
) -> Result<RgbImage, JpegError> {
    let arch = Arch::new();
    let (mut tables, mut intervals) = (JpegHeaders::default(), RestartIntervals::default());
    let mut state: Option<DecodeState> = None;
    let (mut offset, mut n_scans) = (2, 0);
    while let Reached::Scan(header, start) = tables.read_until_scan(bytes, offset)? {
        n_scans += 1;
        if n_scans > MAX_SCANS {
            return Err(JpegError::Damaged("more than 100 scans"));
        }
        let frame = tables.frame.as_ref().ok_or(NO_FRAME)?;
        if frame.size != size {
            return Err(JpegError::Damaged("two sizes"));
        }
        let state = state.get_or_insert_with(|| DecodeState::new(frame, &header, eighths, area));
        offset = intervals.load_scan(bytes, start)?;
        state.read_scan(&mut tables, &header, &intervals, arch)?;
        if state.is_complete(tables.frame.as_ref().ok_or(NO_FRAME)?) {
            break;
        }
    }
    let (Some(mut state), Some(frame)) = (state, &tables.frame) else { return Err(NO_FRAME) };
    if state.has_dc_scan.contains(&false) {
        return Err(JpegError::Damaged("a component without a scan"));
    }
    if !state.is_streamed {
        fill_planes(&mut state.planes, &state.blocks, frame, arch, 0);
    }
    let color_model = match state.planes.len() {
        1 => JpegColorModel::Gray,
        _ if tables.is_rgb() => JpegColorModel::Rgb,
        _ => JpegColorModel::YCbCr,
    };
    let pixels = UpsampleAndConvert { planes: &state.planes, color_model, area }.run(arch);
    RgbImage::from_raw(area.x.len() as u32, area.y.len() as u32, pixels)
        .ok_or(JpegError::Damaged("fewer pixels than the header says"))
}

const NO_FRAME: JpegError = JpegError::Damaged("a scan without a frame");

/// What is known of a photo while its scans are read.
struct DecodeState {
    /// Whether one scan has everything: then a row of groups of blocks is kept, not all of them.
    is_streamed: bool,
    blocks: Vec<BlockGrid>,
    planes: Vec<ComponentPlane>,
    /// Which components had a scan.
    has_dc_scan: Vec<bool>,
}

impl DecodeState {
    fn new(frame: &Frame, first_scan: &ScanHeader, eighths: usize, area: &PixelArea) -> Self {
        let components = frame.components.len();
        let is_streamed = !frame.progressive && first_scan.components.len() == components;
        let (mcu_columns, mcu_rows) = frame.n_mcus();
        let blocks = frame.components.iter().map(|component| {
            let (h, v) = component.sampling;
            BlockGrid::new(h * mcu_columns, if is_streamed { v } else { v * mcu_rows })
        });
        Self {
            is_streamed,
            blocks: blocks.collect(),
            planes: (0..components)
                .map(|component| ComponentPlane::new(frame, component, eighths, area))
                .collect(),
            has_dc_scan: vec![false; components],
        }
    }

    fn read_scan(
        &mut self,
        tables: &mut JpegHeaders,
        header: &ScanHeader,
        intervals: &RestartIntervals,
        arch: Arch,
    ) -> Result<(), JpegError> {
        let frame = tables.frame.as_ref().ok_or(NO_FRAME)?;
        let needed: Vec<NeededBlocks> = self.planes.iter().map(|plane| plane.needed().clone()).collect();
        // Of what has its own scans those are left out that nothing is needed of.
        if frame.progressive
            && header.band.0 > 0
            && header.components.iter().all(|component| needed[component.index].dc_only)
        {
            return Ok(());
        }
        for component in &header.components {
            self.has_dc_scan[component.index] |= header.band.0 == 0;
        }
        let skipping_pays = |component: &ScanComponent| {
            needed[component.index].skipping_pays(frame.n_blocks(component.index))
        };
        let skips = !frame.progressive && header.components.iter().any(skipping_pays);
        if skips {
            tables.build_skip_entries(header);
        }
        let frame = tables.frame.as_ref().ok_or(NO_FRAME)?;
        let coefficients = |component: usize, column: usize, row: usize| {
            if skips { needed[component].coefficients(column, row) } else { NeededCoefficients::All }
        };
        let Self { planes, blocks, is_streamed, .. } = self;
        scan::read_scan((tables, frame), header, intervals, blocks, coefficients, |mcu_row, blocks| {
            if *is_streamed {
                fill_planes(planes, blocks, frame, arch, mcu_row);
            }
        })
    }

    /// Whether no scan is to come that could add something.
    fn is_complete(&self, frame: &Frame) -> bool {
        !frame.progressive && !self.has_dc_scan.contains(&false)
    }
}

/// Fills in what `blocks` hold, rows of groups from `row` on.
fn fill_planes(
    planes: &mut [ComponentPlane],
    blocks: &[BlockGrid],
    frame: &Frame,
    arch: Arch,
    mcu_row: usize,
) {
    for ((plane, blocks), component) in planes.iter_mut().zip(blocks).zip(&frame.components) {
        if let Some(quant_table) = &component.quant_table {
            plane.fill_from_blocks(arch, blocks, quant_table, mcu_row * component.sampling.1);
        }
    }
}
