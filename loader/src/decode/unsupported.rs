//! Files that are recognized but not decoded: what they are and what to do, as a table.

use super::tiff_kind::{Maker, TiffKind, detect_tiff_kind};

/// A kind of file that is recognized by its first bytes.
#[derive(Debug)]
pub(super) struct UnsupportedFormat {
    /// What the file is, with an article, for messages.
    pub(super) description: &'static str,
    /// What to do about it.
    pub(super) advice: &'static str,
    /// The file is of this kind if it has one of these.
    signatures: &'static [FileSignature],
}

/// What the bytes of a file are recognized by.
#[derive(Debug)]
enum FileSignature {
    /// These bytes at this offset.
    Bytes(usize, &'static [u8]),
    /// An ISO base media file with one of these brands.
    Brands(&'static [&'static [u8; 4]]),
    /// A text that begins with this, in upper or lower case.
    Text(&'static str),
    /// A text that begins with `<` and has this tag near its beginning, in upper or lower case.
    Tag(&'static str),
    /// A text that begins as an object or a list of JSON does.
    Json,
    /// A TIFF of this kind.
    Tiff(TiffKind),
}

use FileSignature::{Brands, Bytes, Json, Tag, Text, Tiff};

const EXPORT_RAW: &str = "export it as JPEG, for example with darktable or RawTherapee";
const DOWNLOAD_AGAIN: &str = "download the photo again, or leave the file out";

const AVIF_BRANDS: &[&[u8; 4]] = &[b"avif", b"avis"];
const HEIC_BRANDS: &[&[u8; 4]] = &[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"];

/// The kinds of files that are recognized; the first that matches is the file's.
const UNSUPPORTED_FORMATS: &[UnsupportedFormat] = &[
    UnsupportedFormat {
        description: "a Git LFS pointer, a small file in place of the photo",
        advice: "run `git lfs pull` in its folder to download the photos",
        signatures: &[Text("version https://git-lfs")],
    },
    UnsupportedFormat {
        description: "a RAW file of a camera (Canon CR3)",
        advice: EXPORT_RAW,
        signatures: &[Brands(&[b"crx "])],
    },
    UnsupportedFormat {
        description: "an AVIF photo, a format that is not read here",
        advice: "convert it to JPEG or PNG, for example with `avifdec`",
        signatures: &[Brands(AVIF_BRANDS)],
    },
    UnsupportedFormat {
        description: "a HEIC photo, a format that is not read here",
        advice: "convert it to JPEG, for example with `heif-convert`",
        signatures: &[Brands(HEIC_BRANDS)],
    },
    UnsupportedFormat {
        description: "a JPEG XL photo, a format that is not read here",
        advice: "convert it to JPEG or PNG, for example with `djxl`",
        signatures: &[Bytes(0, b"\0\0\0\x0CJXL \r\n\x87\n"), Bytes(0, b"\xFF\x0A")],
    },
    UnsupportedFormat {
        description: "a JPEG 2000 photo, a format that is not read here",
        advice: "convert it to JPEG or PNG, for example with `opj_decompress`",
        signatures: &[Bytes(0, b"\0\0\0\x0CjP  \r\n\x87\n"), Bytes(0, b"\xFF\x4F\xFF\x51")],
    },
    UnsupportedFormat {
        description: "an MP4 or QuickTime video",
        advice: "save frames of it as photos, for example with `ffmpeg -i video.mp4 frame%04d.png`",
        signatures: &[Bytes(4, b"ftyp"), Bytes(4, b"moov"), Bytes(4, b"mdat"), Bytes(4, b"wide")],
    },
    UnsupportedFormat {
        description: "a Matroska or WebM video",
        advice: "save frames of it as photos, for example with `ffmpeg -i video.webm frame%04d.png`",
        signatures: &[Bytes(0, b"\x1A\x45\xDF\xA3")],
    },
    UnsupportedFormat {
        description: "a RAW file of a camera (Adobe DNG)",
        advice: EXPORT_RAW,
        signatures: &[Tiff(TiffKind::Dng)],
    },
    UnsupportedFormat {
        description: "a RAW file of a camera (Canon CR2)",
        advice: EXPORT_RAW,
        signatures: &[Bytes(0, b"II*\0\x10\0\0\0CR\x02")],
    },
    UnsupportedFormat {
        description: "a RAW file of a camera (Canon CRW)",
        advice: EXPORT_RAW,
        signatures: &[Bytes(6, b"HEAPCCDR")],
    },
    UnsupportedFormat {
        description: "a RAW file of a camera (Nikon NEF)",
        advice: EXPORT_RAW,
        signatures: &[Tiff(TiffKind::Raw(Maker::Nikon))],
    },
    UnsupportedFormat {
        description: "a RAW file of a camera (Sony ARW)",
        advice: EXPORT_RAW,
        signatures: &[Tiff(TiffKind::Raw(Maker::Sony))],
    },
    UnsupportedFormat {
        description: "a RAW file of a camera (Fujifilm RAF)",
        advice: EXPORT_RAW,
        signatures: &[Bytes(0, b"FUJIFILMCCD-RAW")],
    },
    UnsupportedFormat {
        description: "a RAW file of a camera (Olympus ORF)",
        advice: EXPORT_RAW,
        signatures: &[Bytes(0, b"IIRO"), Bytes(0, b"IIRS"), Bytes(0, b"MMOR")],
    },
    UnsupportedFormat {
        description: "a RAW file of a camera (Panasonic RW2)",
        advice: EXPORT_RAW,
        signatures: &[Bytes(0, b"IIU\0")],
    },
    UnsupportedFormat {
        description: "a RAW file of a camera",
        advice: EXPORT_RAW,
        signatures: &[Tiff(TiffKind::Raw(Maker::Other))],
    },
    UnsupportedFormat {
        description: "a TIFF with more than four bands, as of a satellite or a microscope",
        advice: "choose three bands and save them as RGB, for example with `gdal_translate -b 1 -b 2 -b 3`",
        signatures: &[Tiff(TiffKind::ManyBands)],
    },
    UnsupportedFormat {
        description: "a DICOM image",
        advice: "convert it to PNG, for example with `dcm2img` of DCMTK",
        signatures: &[Bytes(128, b"DICM")],
    },
    UnsupportedFormat {
        description: "a Photoshop document (PSD)",
        advice: "export it as JPEG or PNG with an image editor",
        signatures: &[Bytes(0, b"8BPS")],
    },
    UnsupportedFormat {
        description: "a PDF document",
        advice: "save its pages as photos, for example with `pdftoppm -png`",
        signatures: &[Bytes(0, b"%PDF-")],
    },
    UnsupportedFormat {
        description: "a ZIP archive",
        advice: "unpack it",
        signatures: &[Bytes(0, b"PK\x03\x04")],
    },
    UnsupportedFormat {
        description: "an HTML page, perhaps an error message that was saved as a photo",
        advice: DOWNLOAD_AGAIN,
        signatures: &[Text("<!doctype html"), Tag("<html"), Tag("<head>"), Tag("<body")],
    },
    UnsupportedFormat {
        description: "a drawing (SVG), not a photo",
        advice: "convert it to PNG, for example with `rsvg-convert`",
        signatures: &[Tag("<svg")],
    },
    UnsupportedFormat {
        description: "an XML document, not a photo",
        advice: DOWNLOAD_AGAIN,
        signatures: &[Text("<?xml")],
    },
    UnsupportedFormat {
        description: "a JSON document, not a photo",
        advice: DOWNLOAD_AGAIN,
        signatures: &[Json],
    },
];

/// The names of photo formats that are not read, by the endings of their files in lower case.
const UNSUPPORTED_EXTENSIONS: &[(&[&str], &str)] = &[
    (&["jxl"], "JPEG XL"),
    (&["jp2", "j2k", "j2c", "jpf", "jpx"], "JPEG 2000"),
    (&["cr2"], "camera RAW (CR2)"),
    (&["cr3"], "camera RAW (CR3)"),
    (&["crw"], "camera RAW (CRW)"),
    (&["dng"], "camera RAW (DNG)"),
    (&["nef", "nrw"], "camera RAW (NEF)"),
    (&["arw", "sr2", "srf"], "camera RAW (ARW)"),
    (&["raf"], "camera RAW (RAF)"),
    (&["orf"], "camera RAW (ORF)"),
    (&["rw2"], "camera RAW (RW2)"),
    (&["pef"], "camera RAW (PEF)"),
    (&["srw"], "camera RAW (SRW)"),
    (&["raw", "3fr", "iiq", "x3f", "mrw", "erf", "kdc", "rwl"], "camera RAW"),
    (&["dcm", "dicom"], "DICOM"),
    (&["psd", "psb"], "Photoshop"),
    (&["svg", "svgz"], "SVG"),
    (&["exr"], "OpenEXR"),
    (&["tga"], "TGA"),
    (&["ico"], "ICO"),
    (&["jxr", "wdp"], "JPEG XR"),
];

/// As [`UNSUPPORTED_EXTENSIONS`], of the formats that are read with the feature `heif`.
const HEIF_EXTENSIONS: &[(&[&str], &str)] = &[(&["heic", "heif", "hif"], "HEIC"), (&["avif"], "AVIF")];

/// The name of the photo format that files with this `extension` (in upper or lower case, without the dot)
/// have, if it is one that is not read: for messages about files that are passed over. `None` for the formats
/// that are read, and for files that are no photos.
///
/// ```
/// use headstock_loader::unsupported_image_format;
///
/// assert_eq!(unsupported_image_format("CR2"), Some("camera RAW (CR2)"));
/// assert_eq!(unsupported_image_format("jpg"), None);
/// assert_eq!(unsupported_image_format("txt"), None);
/// ```
#[must_use]
pub fn unsupported_image_format(extension: &str) -> Option<&'static str> {
    let extension = extension.to_ascii_lowercase();
    let heif_extensions = if cfg!(feature = "heif") { &[] } else { HEIF_EXTENSIONS };
    let mut formats = UNSUPPORTED_EXTENSIONS.iter().chain(heif_extensions);
    formats.find(|(extensions, _)| extensions.contains(&&*extension)).map(|&(_, name)| name)
}

/// Whether files with this `extension` (in lower case, without the dot) are HEIC or AVIF.
pub(crate) fn is_heif_extension(extension: &str) -> bool {
    HEIF_EXTENSIONS.iter().any(|(extensions, _)| extensions.contains(&extension))
}

/// The kind of the file with the contents `bytes`, if it is one of those that are recognized but not decoded.
pub(super) fn unsupported_format(bytes: &[u8]) -> Option<&'static UnsupportedFormat> {
    let tiff_kind = detect_tiff_kind(bytes);
    let text = beginning_of_text(bytes);
    let has = |signature: &FileSignature| match signature {
        Bytes(offset, expected) => bytes.get(*offset..).is_some_and(|bytes| bytes.starts_with(expected)),
        Brands(expected) => iso_media_brands(bytes).any(|brand| expected.iter().any(|e| **e == brand[..])),
        Text(prefix) => text.starts_with(prefix),
        Tag(tag) => text.starts_with('<') && text.contains(tag),
        Json => is_json(&text),
        Tiff(kind) => tiff_kind == Some(*kind),
    };
    UNSUPPORTED_FORMATS.iter().find(|format| format.signatures.iter().any(has))
}

/// Whether the file with the contents `bytes` is a HEIC or an AVIF.
#[cfg(feature = "heif")]
pub(super) fn is_heif(bytes: &[u8]) -> bool {
    let is_raw = iso_media_brands(bytes).any(|brand| brand == b"crx ");
    let is_heif = |brand: &[u8; 4]| AVIF_BRANDS.contains(&brand) || HEIC_BRANDS.contains(&brand);
    !is_raw && iso_media_brands(bytes).any(is_heif)
}

/// The first bytes as text in lower case, without a byte order mark and white space before it.
fn beginning_of_text(bytes: &[u8]) -> String {
    let beginning = &bytes[..bytes.len().min(1024)];
    let text = String::from_utf8_lossy(beginning.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(beginning));
    text.trim_start().to_ascii_lowercase()
}

/// Whether a text begins as an object or a list of JSON does: with a bracket and what may follow it.
fn is_json(text: &str) -> bool {
    let mut tokens = text.chars().filter(|c| !c.is_ascii_whitespace());
    match (tokens.next(), tokens.next()) {
        (Some('{'), Some(next)) => matches!(next, '"' | '}'),
        (Some('['), Some(next)) => matches!(next, '"' | '{' | '[' | ']' | '0'..='9'),
        _ => false,
    }
}

/// The brands of an ISO base media file (such as HEIC or MP4), the main one first: its first box has the type
/// `ftyp`, the main brand, a version and the other brands. None of other files.
fn iso_media_brands(bytes: &[u8]) -> impl Iterator<Item = &[u8; 4]> {
    let words = bytes.as_chunks::<4>().0;
    let length = words.first().map_or(0, |&length| u32::from_be_bytes(length) as usize / 4);
    let box_words = if words.get(1) == Some(b"ftyp") { &words[..length.min(words.len())] } else { &[] };
    // The version is no brand, but its bytes match none.
    box_words.iter().skip(2)
}

#[cfg(test)]
mod tests;
