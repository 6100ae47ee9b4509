//! The segments of a JPEG, and the frame that they tell of.

use super::Fault;
use super::huffman::Table;

/// Coefficients from low to high frequency: where each stands in its block, row by row.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A component of the frame.
pub(super) struct Component {
    id: u8,
    /// Sampling factors, across and down.
    pub(super) sampling: (usize, usize),
    quantiser: usize,
    /// Steps of the coefficients, row by row, as they were when the component's first scan began.
    pub(super) steps: Option<[i32; 64]>,
}

/// What a frame header says.
pub(super) struct Frame {
    /// Width and height in pixels.
    pub(super) size: (usize, usize),
    pub(super) progressive: bool,
    pub(super) components: Vec<Component>,
    /// The greatest sampling factors, across and down.
    pub(super) sampling: (usize, usize),
}

impl Frame {
    /// Whole groups of blocks, across and down.
    pub(super) fn units(&self) -> (usize, usize) {
        (self.size.0.div_ceil(8 * self.sampling.0), self.size.1.div_ceil(8 * self.sampling.1))
    }

    /// The blocks that hold pixels of a component, across and down.
    pub(super) fn blocks(&self, component: usize) -> (usize, usize) {
        let (h, v) = self.components[component].sampling;
        ((self.size.0 * h).div_ceil(8 * self.sampling.0), (self.size.1 * v).div_ceil(8 * self.sampling.1))
    }

    fn read(segment: &[u8], progressive: bool) -> Result<Self, Fault> {
        let (&[precision, h0, h1, w0, w1, count], rest) = segment.split_first_chunk().ok_or(SHORT)?;
        let size = (usize::from(u16::from_be_bytes([w0, w1])), usize::from(u16::from_be_bytes([h0, h1])));
        if precision != 8 || size.0 == 0 || size.1 == 0 || !matches!(count, 1 | 3) {
            return Err(Fault::Unsupported);
        }
        let described = rest.as_chunks::<3>().0.get(..count.into()).ok_or(SHORT)?;
        let mut components: Vec<Component> = described
            .iter()
            .map(|&[id, sampling, quantiser]| Component {
                id,
                sampling: (usize::from(sampling >> 4), usize::from(sampling & 15)),
                quantiser: quantiser.into(),
                steps: None,
            })
            .collect();
        if let [alone] = &mut components[..] {
            alone.sampling = (1, 1); // its blocks come one by one
        }
        let most = |of: fn(&Component) -> usize| components.iter().map(of).max().unwrap_or(1);
        let sampling = (most(|c| c.sampling.0), most(|c| c.sampling.1));
        let fits = |(h, v): (usize, usize)| {
            (1..=4).contains(&h)
                && (1..=4).contains(&v)
                && sampling.0.is_multiple_of(h)
                && sampling.1.is_multiple_of(v)
        };
        if !components.iter().all(|component| fits(component.sampling)) {
            return Err(Fault::Unsupported);
        }
        Ok(Self { size, progressive, components, sampling })
    }
}

/// A component's part in a scan, and its tables.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) component: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// What a scan header says.
pub(super) struct ScanHeader {
    pub(super) parts: Vec<Part>,
    /// First and last coefficient, from low to high frequency.
    pub(super) band: (usize, usize),
    /// The bit from which on coefficients are known before this scan (0: none are) and after it.
    pub(super) bit_before: u32,
    pub(super) bit: u32,
}

const SHORT: Fault = Fault::Damaged("a segment is too short");

/// What the segments have said so far.
#[derive(Default)]
pub(super) struct Tables {
    quantisers: [Option<[i32; 64]>; 4],
    pub(super) dc: [Option<Table>; 4],
    pub(super) ac: [Option<Table>; 4],
    /// Groups of blocks between restarts; 0 where there are none.
    pub(super) restart: usize,
    jfif: bool,
    adobe: Option<u8>,
    pub(super) frame: Option<Frame>,
}

/// A segment that ends a run of others.
pub(super) enum Next {
    /// A scan; its bits begin at this byte.
    Scan(ScanHeader, usize),
    /// The end of the picture.
    End,
}

impl Tables {
    /// Reads segments from byte `at` on up to a scan or the end. Bytes between segments are passed over, as libjpeg does.
    pub(super) fn read(&mut self, bytes: &[u8], mut at: usize) -> Result<Next, Fault> {
        loop {
            at += memchr::memchr(0xFF, bytes.get(at..).unwrap_or_default()).ok_or_else(super::cut)?;
            at += bytes[at..].iter().position(|&byte| byte != 0xFF).ok_or_else(super::cut)?;
            let marker = bytes[at];
            at += 1;
            match marker {
                0x00 | 0x01 | 0xD0..=0xD8 => continue,
                0xD9 => return Ok(Next::End),
                _ => {}
            }
            let rest = &bytes[at..];
            let &length = rest.first_chunk().ok_or_else(super::cut)?;
            let length = usize::from(u16::from_be_bytes(length));
            let segment = rest.get(..length).ok_or_else(super::cut)?.get(2..).ok_or(SHORT)?;
            at += length;
            match marker {
                0xC0..=0xC2 => {
                    if self.frame.is_some() {
                        return Err(Fault::Damaged("two frames"));
                    }
                    self.frame = Some(Frame::read(segment, marker == 0xC2)?);
                }
                0xC4 => self.codes(segment)?,
                0xC3 | 0xC5..=0xCF => return Err(Fault::Unsupported),
                0xDA => return Ok(Next::Scan(self.scan(segment)?, at)),
                0xDB => self.quantisers(segment)?,
                0xDD => {
                    let &interval = segment.first_chunk().ok_or(SHORT)?;
                    self.restart = u16::from_be_bytes(interval).into();
                }
                0xDC => return Err(Fault::Unsupported), // a height that comes later
                0xE0 if segment.len() >= 12 && segment.starts_with(b"JFIF\0") => self.jfif = true,
                0xEE if segment.len() >= 12 && segment.starts_with(b"Adobe") => {
                    self.adobe = Some(segment[11])
                }
                _ => {}
            }
        }
    }

    /// Makes ready for passing over coefficients of a scan.
    pub(super) fn prepare_leaps(&mut self, header: &ScanHeader) {
        for part in &header.parts {
            if let Some(Some(table)) = self.ac.get_mut(part.ac) {
                table.prepare_leaps();
            }
        }
    }

    fn codes(&mut self, mut segment: &[u8]) -> Result<(), Fault> {
        while let Some((&kind, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(SHORT)?;
            let symbols: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(symbols).ok_or(SHORT)?;
            let tables = if kind >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let place = tables.get_mut(usize::from(kind & 15)).filter(|_| kind < 0x20);
            *place.ok_or(NO_SUCH_TABLE)? = Some(Table::new(counts, symbols)?);
            segment = rest;
        }
        Ok(())
    }

    fn quantisers(&mut self, mut segment: &[u8]) -> Result<(), Fault> {
        while let Some((&kind, rest)) = segment.split_first() {
            let mut steps = [0; 64];
            let wide = kind >> 4 != 0;
            let (values, rest) = rest.split_at_checked(if wide { 128 } else { 64 }).ok_or(SHORT)?;
            for (index, &place) in ZIGZAG.iter().enumerate() {
                steps[usize::from(place)] = if wide {
                    i32::from(u16::from_be_bytes([values[2 * index], values[2 * index + 1]]))
                } else {
                    i32::from(values[index])
                };
            }
            *self.quantisers.get_mut(usize::from(kind & 15)).ok_or(NO_SUCH_TABLE)? = Some(steps);
            segment = rest;
        }
        Ok(())
    }

    fn scan(&mut self, segment: &[u8]) -> Result<ScanHeader, Fault> {
        let frame = self.frame.as_mut().ok_or(Fault::Damaged("a scan without a frame"))?;
        let (&count, rest) = segment.split_first().ok_or(SHORT)?;
        let (described, rest) = rest.split_at_checked(2 * usize::from(count)).ok_or(SHORT)?;
        let &[first, last, bits] = rest.first_chunk().ok_or(SHORT)?;
        let mut parts: Vec<Part> = Vec::new();
        for &[id, tables] in described.as_chunks::<2>().0 {
            let component = frame.components.iter().position(|component| component.id == id);
            let component = component.ok_or(Fault::Damaged("a scan of no component of the frame"))?;
            if parts.iter().any(|part| part.component == component) {
                return Err(Fault::Damaged("a scan has a component twice"));
            }
            parts.push(Part { component, dc: usize::from(tables >> 4), ac: usize::from(tables & 15) });
            let this = &mut frame.components[component];
            if this.steps.is_none() {
                let steps = self.quantisers.get(this.quantiser).copied().flatten();
                this.steps = Some(steps.ok_or(NO_SUCH_TABLE)?);
            }
        }
        let (mut band, mut bit_before, mut bit) =
            ((first.into(), last.into()), u32::from(bits >> 4), u32::from(bits & 15));
        if !frame.progressive {
            (band, bit_before, bit) = ((0, 63), 0, 0);
        }
        let fits = band.0 <= band.1
            && band.1 < 64
            && bit <= 13
            && (bit_before == 0 || bit_before == bit + 1)
            && (!frame.progressive || if band.0 == 0 { band.1 == 0 } else { parts.len() == 1 });
        if parts.is_empty() || !fits {
            return Err(Fault::Damaged("a scan header makes no sense"));
        }
        Ok(ScanHeader { parts, band, bit_before, bit })
    }

    /// Whether three components are red, green and blue, not brightness and two colours (libjpeg's rules).
    pub(super) fn is_rgb(&self) -> bool {
        let ids = self.frame.iter().flat_map(|frame| frame.components.iter().map(|component| component.id));
        match self.adobe {
            _ if self.jfif => false,
            Some(transform) => transform == 0,
            None => ids.eq(*b"RGB"),
        }
    }
}

const NO_SUCH_TABLE: Fault = Fault::Damaged("a table that is not there");

#[cfg(test)]
mod tests {
    use super::ZIGZAG;

    #[test]
    fn the_zigzag_walks_the_diagonals() {
        let mut places: Vec<usize> = (0..64).collect();
        // Of a diagonal the even ones go up, the odd ones down.
        places.sort_by_key(|place| {
            let (row, column) = (place / 8, place % 8);
            let along = if (row + column) % 2 == 0 { column } else { row };
            (row + column, along)
        });
        assert!(places.iter().zip(ZIGZAG).all(|(&place, zigzag)| place == usize::from(zigzag)));
    }
}
