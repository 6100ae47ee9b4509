//! Decodes a JPEG, or a region of it, at a reduced scale.

use image::RgbImage;
use pulp::Arch;

use super::JpegError;
use super::frame::{Frame, JpegHeaders, Reached, ScanComponent, ScanHeader};
use super::planes::{ComponentPlane, JpegColorModel, NeededBlocks, PixelArea, UpsampleAndConvert};
use super::scan::{self, BlockGrid, NeededCoefficients, RestartIntervals};

/// More scans than any encoder writes. A scan of a few dozen bytes covers all blocks of a large photo, so a
/// file of 10 MB could take a quarter of an hour. Chrome and `zune-jpeg` have the same limit.
const MAX_SCANS: usize = 100;

/// Decodes `area` of the stored photo as RGB. `size` (width, height) is the full size; the photo is reduced
/// to `eighths` / 8 of it (8, 4, 2 or 1), and `area` is in pixels of the reduced photo.
pub(super) fn decode(
    bytes: &[u8],
    size: (usize, usize),
    eighths: usize,
    area: &PixelArea,
) -> Result<RgbImage, JpegError> {
    let arch = Arch::new();
    let mut headers = JpegHeaders::default();
    let mut intervals = RestartIntervals::default();
    let mut state: Option<DecodeState> = None;
    let (mut offset, mut n_scans) = (2, 0);
    while let Reached::Scan(header, start) = headers.read_until_scan(bytes, offset)? {
        n_scans += 1;
        if n_scans > MAX_SCANS {
            return Err(JpegError::Damaged("more than 100 scans"));
        }
        let frame = headers.frame.as_ref().ok_or(NO_FRAME)?;
        if frame.size != size {
            return Err(JpegError::Damaged("two different sizes"));
        }
        let state = state.get_or_insert_with(|| DecodeState::new(frame, &header, eighths, area));
        offset = intervals.load_scan(bytes, start)?;
        state.read_scan(&mut headers, &header, &intervals, arch)?;
        if state.is_complete(headers.frame.as_ref().ok_or(NO_FRAME)?) {
            break;
        }
    }
    let (Some(mut state), Some(frame)) = (state, &headers.frame) else { return Err(NO_FRAME) };
    if state.has_dc_scan.contains(&false) {
        return Err(JpegError::Damaged("a component without a scan"));
    }
    if !state.is_streamed {
        fill_planes(&mut state.planes, &state.blocks, frame, arch, 0);
    }
    let color_model = match state.planes.len() {
        1 => JpegColorModel::Gray,
        _ if headers.is_rgb() => JpegColorModel::Rgb,
        _ => JpegColorModel::YCbCr,
    };
    let pixels = UpsampleAndConvert { planes: &state.planes, color_model, area }.run(arch);
    RgbImage::from_raw(area.x.len() as u32, area.y.len() as u32, pixels)
        .ok_or(JpegError::Damaged("fewer pixels than the header says"))
}

const NO_FRAME: JpegError = JpegError::Damaged("a scan without a frame");

/// Coefficients and samples while the scans are read.
struct DecodeState {
    /// Whether one scan has all the data. Then `blocks` holds one row of MCUs at a time instead of all
    /// blocks.
    is_streamed: bool,
    blocks: Vec<BlockGrid>,
    planes: Vec<ComponentPlane>,
    /// For each component, whether a scan with its DC coefficients was read.
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

    /// Reads one scan into the blocks; a streamed scan also into the planes.
    fn read_scan(
        &mut self,
        headers: &mut JpegHeaders,
        header: &ScanHeader,
        intervals: &RestartIntervals,
        arch: Arch,
    ) -> Result<(), JpegError> {
        let frame = headers.frame.as_ref().ok_or(NO_FRAME)?;
        let needed: Vec<NeededBlocks> = self.planes.iter().map(|plane| plane.needed().clone()).collect();
        // Skip a progressive AC scan if only DC coefficients are needed.
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
            headers.build_skip_entries(header);
        }
        let frame = headers.frame.as_ref().ok_or(NO_FRAME)?;
        let coefficients = |component: usize, column: usize, row: usize| {
            if skips { needed[component].coefficients(column, row) } else { NeededCoefficients::All }
        };
        let Self { planes, blocks, is_streamed, .. } = self;
        scan::read_scan(headers, frame, header, intervals, blocks, coefficients, |mcu_row, blocks| {
            if *is_streamed {
                fill_planes(planes, blocks, frame, arch, mcu_row);
            }
        })
    }

    /// Whether no further scan can add data.
    fn is_complete(&self, frame: &Frame) -> bool {
        !frame.progressive && !self.has_dc_scan.contains(&false)
    }
}

/// Transforms `blocks` to samples. Their first row belongs to MCU row `mcu_row`.
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
