use super::*;
use crate::decode::decode;
use crate::golden::decode_files;

/// A little-endian TIFF of directories, each a list of (tag, value); the first may refer to the second with
/// the tag 330, which gets its offset. A tag with text has its bytes behind the directories.
fn tiff(directories: &[&[(u16, u32)]], make: &str) -> Vec<u8> {
    let has_make = |index: usize| index == 0 && !make.is_empty();
    let n_entries = |index: usize| directories[index].len() + usize::from(has_make(index));
    let length = |index: usize| 2 + 12 * n_entries(index) + 4;
    let offset = |index: usize| 8 + (0..index).map(length).sum::<usize>();
    let mut file = b"II*\0\x08\0\0\0".to_vec();
    for (index, entries) in directories.iter().enumerate() {
        file.extend((n_entries(index) as u16).to_le_bytes());
        for &(tag, value) in *entries {
            let value = if tag == 330 { offset(1) as u32 } else { value };
            file.extend([&tag.to_le_bytes()[..], &[4, 0, 1, 0, 0, 0], &value.to_le_bytes()].concat());
        }
        if has_make(index) {
            let (length, place) = (make.len() as u32, offset(directories.len()) as u32);
            file.extend(
                [&271u16.to_le_bytes()[..], &[2, 0], &length.to_le_bytes(), &place.to_le_bytes()].concat(),
            );
        }
        file.extend([0; 4]);
    }
    file.extend(make.bytes());
    file
}

/// An ISO base media file with these brands, the main one first.
fn iso_media(brands: &[&[u8; 4]]) -> Vec<u8> {
    let length = (12 + 4 * brands.len()) as u32;
    let brand_bytes: Vec<u8> = brands[1..].iter().flat_map(|brand| brand.iter().copied()).collect();
    [&length.to_be_bytes()[..], b"ftyp", brands[0], &[0; 4], &brand_bytes, &[0; 40]].concat()
}

/// Files with the beginning of the description that they get; at least one for each entry of the table.
fn examples() -> Vec<(&'static str, Vec<u8>)> {
    let sensor_data = &[(256, 40), (262, 32_803)][..];
    let preview = &[(256, 40), (262, 2), (330, 0)][..];
    let dicom = [&[0; 128][..], b"DICM\x02\0\0\0UL"].concat();
    let svg = br#"<?xml version="1.0"?><!-- drawn --><svg xmlns="http://www.w3.org/2000/svg"/>"#;
    vec![
        (
            "a Git LFS pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n".to_vec(),
        ),
        ("a HEIC photo", iso_media(&[b"heic", b"mif1", b"heic"])),
        ("a HEIC photo", iso_media(&[b"mif1", b"miaf", b"heic"])),
        ("a HEIC photo", iso_media(&[b"msf1", b"iso8", b"hevc"])),
        ("an AVIF photo", iso_media(&[b"avif", b"mif1", b"miaf"])),
        ("an AVIF photo", iso_media(&[b"mif1", b"avif", b"miaf"])),
        ("an AVIF photo", iso_media(&[b"avis", b"msf1"])),
        ("a JPEG XL photo", b"\xFF\x0A\x42\x0E\x08\0".to_vec()),
        ("a JPEG XL photo", b"\0\0\0\x0CJXL \r\n\x87\n\0\0\0\x14ftypjxl ".to_vec()),
        ("a JPEG 2000 photo", b"\xFF\x4F\xFF\x51\0\x2F".to_vec()),
        ("a JPEG 2000 photo", b"\0\0\0\x0CjP  \r\n\x87\n\0\0\0\x14ftypjp2 ".to_vec()),
        ("a RAW file of a camera (Canon CR3)", iso_media(&[b"crx ", b"isom"])),
        ("a RAW file of a camera (Canon CR2)", b"II*\0\x10\0\0\0CR\x02\0\xB0\x2D\0\0\0\0".to_vec()),
        ("a RAW file of a camera (Canon CRW)", b"II\x1A\0\0\0HEAPCCDR\x02\0\x01\0".to_vec()),
        ("a RAW file of a camera (Nikon NEF)", tiff(&[preview, sensor_data], "NIKON CORPORATION\0")),
        ("a RAW file of a camera (Nikon NEF)", tiff(&[preview, &[(259, 34_713)]], "Nikon\0")),
        ("a RAW file of a camera (Sony ARW)", tiff(&[preview, sensor_data], "SONY\0")),
        ("a RAW file of a camera (Adobe DNG)", tiff(&[&[(262, 2), (50_706, 0x401)]], "NIKON\0")),
        ("a RAW file of a camera (Fujifilm RAF)", b"FUJIFILMCCD-RAW 0201FF383501".to_vec()),
        ("a RAW file of a camera (Olympus ORF)", b"IIRO\x08\0\0\0".to_vec()),
        ("a RAW file of a camera (Olympus ORF)", b"IIRS\x08\0\0\0".to_vec()),
        ("a RAW file of a camera (Olympus ORF)", b"MMOR\0\0\0\x08".to_vec()),
        ("a RAW file of a camera (Panasonic RW2)", b"IIU\0\x18\0\0\0".to_vec()),
        ("a RAW file of a camera", tiff(&[sensor_data], "PENTAX\0")),
        ("a RAW file of a camera", tiff(&[&[(262, 34_892)]], "")),
        ("a TIFF with more than four bands", tiff(&[&[(262, 1), (277, 5)]], "")),
        ("a TIFF with more than four bands", tiff(&[&[(262, 2), (277, 13)]], "")),
        ("a DICOM image", dicom),
        ("a Photoshop document", b"8BPS\0\x01\0\0\0\0\0\0\0\x03".to_vec()),
        ("a PDF document", b"%PDF-1.7\n%\xE2\xE3\xCF\xD3\n".to_vec()),
        ("a ZIP archive", b"PK\x03\x04\x14\0\0\0\x08\0".to_vec()),
        ("an HTML page", b"<!DOCTYPE html><title>404 Not Found</title>\n".to_vec()),
        ("an HTML page", b"\xEF\xBB\xBF \r\n<HTML lang=en><svg></svg>".to_vec()),
        ("an HTML page", b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'>".to_vec()),
        ("an HTML page", b"<!-- moved --><head></head>".to_vec()),
        ("an HTML page", b"<body bgcolor=white>".to_vec()),
        ("a drawing (SVG)", svg.to_vec()),
        ("a drawing (SVG)", b"<svg width='3'/>".to_vec()),
        ("an XML document", b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>".to_vec()),
        ("a JSON document", b"{\"error\": \"not found\"}".to_vec()),
        ("a JSON document", b" [ {\n".to_vec()),
        ("a JSON document", b"{}".to_vec()),
        ("an MP4 or QuickTime video", iso_media(&[b"isom", b"iso2", b"avc1", b"mp41"])),
        ("an MP4 or QuickTime video", iso_media(&[b"qt  "])),
        ("an MP4 or QuickTime video", b"\0\0\0\x08wide\0\x02\xE6\xE1mdat".to_vec()),
        ("an MP4 or QuickTime video", b"\0\x02\xE6\xE1mdat".to_vec()),
        ("an MP4 or QuickTime video", b"\0\x02\xE6\xE1moov".to_vec()),
        ("a Matroska or WebM video", b"\x1A\x45\xDF\xA3\x9F\x42\x86".to_vec()),
    ]
}

#[test]
fn unsupported_files_are_named_with_what_to_do() {
    let examples = examples();
    for (description, bytes) in &examples {
        let format = unsupported_format(bytes).unwrap_or_else(|| panic!("{description}: not recognized"));
        // Longer descriptions begin like shorter ones.
        let is_named = format.description.starts_with(description)
            && (*description != "a RAW file of a camera" || format.description == *description);
        assert!(is_named, "{description}: {}", format.description);
        // With the feature, damaged files of these formats are errors of their decoder.
        if cfg!(feature = "heif") && (description.contains("HEIC") || description.contains("AVIF")) {
            continue;
        }
        let message = decode(bytes, 1000).unwrap_err().to_string();
        assert_eq!(message, format!("the file is {}: {}", format.description, format.advice));
    }
    for format in UNSUPPORTED_FORMATS {
        let has_example = examples.iter().any(|(description, _)| format.description.starts_with(description));
        assert!(has_example, "{}", format.description);
    }
}

#[test]
fn files_that_only_resemble_them_are_not_named() {
    let near_misses: Vec<(&str, Vec<u8>)> = vec![
        ("no bytes", Vec::new()),
        ("a text about Git LFS", b"the version https://git-lfs has".to_vec()),
        ("an ordinary TIFF of a Nikon camera", tiff(&[&[(262, 2), (277, 3)]], "NIKON\0")),
        ("a TIFF with a directory of a thumbnail", tiff(&[&[(262, 2), (330, 0)], &[(262, 6)]], "SONY\0")),
        ("a TIFF with four bands", tiff(&[&[(262, 2), (277, 4)]], "")),
        ("a transparent CMYK", tiff(&[&[(262, 5), (277, 5)]], "")),
        ("a TIFF that ends too early", tiff(&[&[(262, 32_803)]], "")[..12].to_vec()),
        ("a TIFF whose directory is beyond the end", b"II*\0\xFF\xFF\xFF\xFF".to_vec()),
        ("ftyp elsewhere", b"\0\0\0\0\0ftypheic".to_vec()),
        ("DICM elsewhere", [&[0; 127][..], b"DICM"].concat()),
        ("a text in brackets", b"[a note]".to_vec()),
        ("a text in braces", b"{a note}".to_vec()),
        ("a text", b"plain text with <html> inside".to_vec()),
        ("the start of a JPEG", b"\xFF\xD8\xFF\xE0".to_vec()),
        ("an audio file", b"RIFF\x24\0\0\0WAVEfmt ".to_vec()),
    ];
    for (name, bytes) in near_misses {
        assert!(unsupported_format(&bytes).is_none(), "{name}: {:?}", unsupported_format(&bytes));
    }
    for folder in ["photos", "larger"] {
        for (name, bytes) in decode_files(folder) {
            assert!(unsupported_format(&bytes).is_none(), "{name}: {:?}", unsupported_format(&bytes));
        }
    }
}

#[test]
fn directories_in_a_circle_end() {
    let mut bytes = tiff(&[&[(262, 2)]], "");
    let next_offset = bytes.len() - 4;
    bytes[next_offset] = 8;
    assert!(unsupported_format(&bytes).is_none());
}

#[test]
fn endings_name_formats_that_are_not_read() {
    for (extension, expected) in [
        ("heic", if cfg!(feature = "heif") { None } else { Some("HEIC") }),
        ("HEIF", if cfg!(feature = "heif") { None } else { Some("HEIC") }),
        ("avif", if cfg!(feature = "heif") { None } else { Some("AVIF") }),
        ("jxl", Some("JPEG XL")),
        ("jp2", Some("JPEG 2000")),
        ("cr2", Some("camera RAW (CR2)")),
        ("NEF", Some("camera RAW (NEF)")),
        ("dcm", Some("DICOM")),
        ("psd", Some("Photoshop")),
        ("svg", Some("SVG")),
        ("", None),
        ("csv", None),
        ("mp4", None),
    ] {
        assert_eq!(unsupported_image_format(extension), expected, "{extension}");
    }
    for (endings, _) in HEIF_EXTENSIONS {
        for ending in *endings {
            let path = std::path::PathBuf::from(format!("photo.{ending}"));
            assert_eq!(crate::source::is_image_file(&path), cfg!(feature = "heif"), "{ending}");
        }
    }
    let mut endings: Vec<&str> =
        UNSUPPORTED_EXTENSIONS.iter().flat_map(|(extensions, _)| extensions.iter().copied()).collect();
    for ending in &endings {
        let path = std::path::PathBuf::from(format!("photo.{ending}"));
        assert!(!crate::source::is_image_file(&path), "{ending} is read");
        assert_eq!(ending.to_ascii_lowercase(), *ending);
    }
    let n_endings = endings.len();
    endings.sort_unstable();
    endings.dedup();
    assert_eq!(endings.len(), n_endings, "an ending is in the table twice");
}
