//! The directories of a TIFF, a page each.

use std::collections::BTreeSet;

use super::{Colours, Inspection, Mode};

pub(super) fn read(bytes: &[u8]) -> Option<Inspection> {
    let mut file = File { bytes, little: bytes[0] == b'I', wide: false };
    file.wide = match file.number(2, 2)? {
        42 => false,
        43 => true,
        _ => return None,
    };
    let first = if file.wide { file.number(8, 8)? } else { file.number(4, 4)? };
    let page = file.page(first)?;
    // A chain of directories may lead back into itself.
    let (mut seen, mut next) = (BTreeSet::from([first]), page.next);
    while let Some(page) = next.filter(|&at| at > 0 && seen.insert(at)).map(|at| file.page(at)) {
        next = page.and_then(|page| page.next);
        if next.is_none() {
            break;
        }
    }
    Some(Inspection { frames: seen.len(), ..page.photo })
}

struct File<'a> {
    bytes: &'a [u8],
    little: bool,
    /// Whether offsets have 64 bits.
    wide: bool,
}

struct Page {
    photo: Inspection,
    /// Where the next one lies; 0 behind the last.
    next: Option<usize>,
}

impl File<'_> {
    fn number(&self, at: usize, length: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at.checked_add(length)?)?;
        let shifted = |number: usize, &byte: &u8| (number << 8) | usize::from(byte);
        Some(if self.little { bytes.iter().rev().fold(0, shifted) } else { bytes.iter().fold(0, shifted) })
    }

    fn page(&self, at: usize) -> Option<Page> {
        let (counted, entry, inline) = if self.wide { (8, 20, 8) } else { (2, 12, 4) };
        let entries = self.number(at, counted)?;
        let (mut size, mut bits, mut samples, mut extra) = ((0, 0), 1, 1, 0);
        let (mut photometric, mut float, mut orientation) = (1, false, 1);
        let mut place = at + counted;
        for _ in 0..entries {
            let (tag, kind) = (self.number(place, 2)?, self.number(place + 2, 2)?);
            let count = self.number(place + 4, inline)?;
            let value = place + 4 + inline;
            let length = match kind {
                1 => 1,
                3 => 2,
                4 => 4,
                16 => 8,
                _ => 0,
            };
            if length > 0 && count > 0 {
                let fits = count.checked_mul(length).is_some_and(|all| all <= inline);
                let first = || self.number(if fits { value } else { self.number(value, inline)? }, length);
                match tag {
                    256 => size.0 = first()?,
                    257 => size.1 = first()?,
                    258 => bits = first()?,
                    262 => photometric = first()?,
                    274 => orientation = first()?,
                    277 => samples = first()?,
                    338 => extra = count,
                    339 => float = first()? == 3,
                    _ => {}
                }
            }
            place = place.checked_add(entry)?;
        }
        let colours = match (photometric, samples) {
            (0 | 1, _) => Colours::Grey,
            (2 | 6, _) => Colours::Rgb,
            (3, _) => Colours::Palette,
            (5, _) => Colours::Cmyk,
            _ => Colours::Other,
        };
        let mode = Mode { colours, transparent: extra > 0, bits: u8::try_from(bits).ok()?, float };
        let size = (u32::try_from(size.0).ok()?, u32::try_from(size.1).ok()?);
        let orientation = u8::try_from(orientation).ok().filter(|known| (1..=8).contains(known)).unwrap_or(1);
        let photo = Inspection { format: "TIFF", size, mode, frames: 1, orientation };
        Some(Page { photo, next: self.number(place, if self.wide { 8 } else { 4 }) })
    }
}
