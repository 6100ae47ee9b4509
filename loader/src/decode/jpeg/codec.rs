//! Decodes a JPEG, or a region of it, at a reduced scale.

use image::RgbImage;
use pulp::Arch;

use super::frame::{Frame, JpegHeaders, NO_FRAME, ScanComponent, ScanHeader};
use super::planes::{ComponentPlane, NeededBlocks, PixelArea, UpsampleAndConvert};
use super::scan::{self, BlockGrid, RestartIntervals};
use super::{JpegError, TRUNCATED};

/// More scans than any encoder writes. A scan of a few dozen bytes covers all blocks of a large image, so a
/// file of 10 MB could take a quarter of an hour. Chrome and `zune-jpeg` have the same limit.
const MAX_SCANS: usize = 100;

/// Decodes `area` of the stored image as RGB. `size` (width, height) is the full size that the header
/// declares. The image is reduced to `eighths` / 8 of that size (`eighths` is 8, 4, 2 or 1), and `area` is in
/// pixels of the reduced image. Of a file that `is_truncated` what is there is decoded, as libjpeg does: blocks
/// without data are gray. [`JpegError::Unsupported`] for a kind of JPEG that is left to the fallback decoder.
pub(super) fn decode(
    bytes: &[u8],
    size: (usize, usize),
    eighths: usize,
    area: &PixelArea,
    is_truncated: bool,
) -> Result<RgbImage, JpegError> {
    let arch = Arch::new();
    let mut headers = JpegHeaders::default();
    let mut intervals = RestartIntervals::new(is_truncated);
    let mut state: Option<DecodeState> = None;
    // The first two bytes are the start-of-image marker.
    let (mut offset, mut n_scans) = (2, 0);
    loop {
        let (header, start) = match headers.read_until_scan(bytes, offset) {
            Ok(Some(scan)) => scan,
            Ok(None) => break,
            // The file ends among the segments between two scans.
            Err(JpegError::Damaged(TRUNCATED)) if is_truncated && state.is_some() => break,
            Err(error) => return Err(error),
        };
        n_scans += 1;
        if n_scans > MAX_SCANS {
            return Err(JpegError::Damaged("the file has more than 100 scans"));
        }
        let frame = headers.frame.as_ref().ok_or(NO_FRAME)?;
        if frame.size != size {
            return Err(JpegError::Damaged("the file declares two different sizes"));
        }
        let state = state.get_or_insert_with(|| DecodeState::new(frame, &header, eighths, area));
        offset = intervals.load_scan(bytes, start)?;
        let is_progressive = frame.progressive;
        state.read_scan(&mut headers, &header, &intervals, arch)?;
        // No further scan can add data: bytes after the last scan are ignored.
        if !is_progressive && !state.has_dc_scan.contains(&false) {
            break;
        }
    }
    let (Some(mut state), Some(frame)) = (state, &headers.frame) else { return Err(NO_FRAME) };
    if state.has_dc_scan.contains(&false) && !is_truncated {
        return Err(JpegError::Damaged("a color component has no scan"));
    }
    if !state.is_streamed {
        fill_planes(&mut state.planes, &state.blocks, frame, arch, /* mcu_row */ 0);
    }
    let pixels = arch.dispatch(UpsampleAndConvert { planes: &state.planes, is_rgb: headers.is_rgb(), area });
    RgbImage::from_raw(area.x.len() as u32, area.y.len() as u32, pixels)
        .ok_or(JpegError::Damaged("the file has fewer pixels than its header declares"))
}

/// Coefficients and samples of all components while the scans are read.
struct DecodeState {
    /// Whether one scan has all the data. Then `blocks` holds one row of MCUs at a time instead of all
    /// blocks.
    is_streamed: bool,
    /// The coefficients of each component.
    blocks: Vec<BlockGrid>,
    /// The samples of each component that the decoded area needs.
    planes: Vec<ComponentPlane>,
    /// For each component, whether a scan with its DC coefficients was read.
    has_dc_scan: Vec<bool>,
}

impl DecodeState {
    /// Allocates the blocks (coefficients) and the planes (samples) that decoding `area` of the image at
    /// `eighths` / 8 of its size needs. A sequential file whose first scan has all components is streamed,
    /// which saves memory; in other files the coefficients of a block, or the components, are spread over
    /// several scans.
    fn new(frame: &Frame, first_scan: &ScanHeader, eighths: usize, area: &PixelArea) -> Self {
        let n_components = frame.components.len();
        let is_streamed = !frame.progressive && first_scan.components.len() == n_components;
        let (mcu_columns, mcu_rows) = frame.n_mcus();
        let blocks = frame.components.iter().map(|component| {
            let (h, v) = component.sampling;
            BlockGrid::new(h * mcu_columns, if is_streamed { v } else { v * mcu_rows })
        });
        Self {
            is_streamed,
            blocks: blocks.collect(),
            planes: (0..n_components)
                .map(|component| ComponentPlane::new(frame, component, eighths, area))
                .collect(),
            has_dc_scan: vec![false; n_components],
        }
    }

    /// Reads one scan into `self.blocks`. `header` says which components and coefficients the scan has,
    /// `intervals` holds its compressed bytes. A streamed scan also fills the planes, one row of MCUs (groups
    /// of blocks of all components) at a time, because the next row overwrites the blocks. Coefficients that
    /// the planes do not need are skipped where that is faster.
    fn read_scan(
        &mut self,
        headers: &mut JpegHeaders,
        header: &ScanHeader,
        intervals: &RestartIntervals,
        arch: Arch,
    ) -> Result<(), JpegError> {
        let frame = headers.frame.as_ref().ok_or(NO_FRAME)?;
        let needed: Vec<NeededBlocks> = self.planes.iter().map(|plane| plane.needed.clone()).collect();
        // Skip a progressive AC scan if only DC coefficients are needed.
        if frame.progressive
            && header.first_coefficient > 0
            && header.components.iter().all(|component| needed[component.index].dc_only)
        {
            return Ok(());
        }
        for component in &header.components {
            self.has_dc_scan[component.index] |= header.first_coefficient == 0;
        }
        let is_skipping_faster = |component: &ScanComponent| {
            needed[component.index].is_skipping_faster(frame.n_blocks(component.index))
        };
        let may_skip = !frame.progressive && header.components.iter().any(is_skipping_faster);
        if may_skip {
            headers.build_skip_entries(header);
        }
        let frame = headers.frame.as_ref().ok_or(NO_FRAME)?;
        let needs_ac = |component: usize, column: usize, row: usize| {
            !may_skip || needed[component].needs_ac(column, row)
        };
        let Self { planes, blocks, is_streamed, .. } = self;
        scan::read_scan(headers, frame, header, intervals, blocks, needs_ac, |mcu_row, blocks| {
            if *is_streamed {
                fill_planes(planes, blocks, frame, arch, mcu_row);
            }
        })
    }
}

/// Computes the samples of each component's plane from the coefficients in `blocks` (dequantization and
/// inverse DCT; `arch` selects the SIMD instructions). `blocks[c]` holds blocks of component `c` from row
/// `mcu_row` of MCUs (groups of blocks of all components) on: one row of MCUs during a streamed scan, or all
/// rows (`mcu_row` is 0) after the last scan.
fn fill_planes(
    planes: &mut [ComponentPlane],
    blocks: &[BlockGrid],
    frame: &Frame,
    arch: Arch,
    mcu_row: usize,
) {
    for ((plane, grid), component) in planes.iter_mut().zip(blocks).zip(&frame.components) {
        if let Some(quant_table) = &component.quant_table {
            plane.fill_from_blocks(arch, grid, quant_table, mcu_row * component.sampling.1);
        }
    }
}
