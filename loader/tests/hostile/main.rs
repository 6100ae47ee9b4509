//! Thousands of mutated photos: each is decoded or gives an error, in time and within its memory.

mod generator;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use headstock_loader::{
    Crop, DecodeError, DecodeMode, EvalTransform, Interpolation, PhotoDecoder, decode, glance,
};

const FILES: usize = 2_000;
const MAX_PIXELS: u64 = 1 << 20;
/// How long one may take, of the watch's own ticks: a process that is stopped for a while takes no longer for it.
const TICK: Duration = Duration::from_millis(100);
const MOST_TICKS: usize = 50;

/// The photos of `reference/decode`, by name.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/decode");
    let mut seeds = Vec::new();
    for part in ["photos", "refused", "larger"] {
        for entry in fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            seeds.push((format!("{part}/{name}"), fs::read(path).unwrap()));
        }
    }
    seeds.sort();
    seeds
}

/// Whether file `number` can be decoded, in every way that there is.
fn is_decoded(name: &str, number: usize, bytes: &[u8]) -> bool {
    let shown = |error: DecodeError| {
        let message = error.to_string();
        assert!(!message.is_empty() && !message.contains("panicked"), "{number}, {name}: {message}");
        message
    };
    let whole = decode(bytes, MAX_PIXELS).map_err(shown);
    if let Err(message) = glance(bytes, MAX_PIXELS).map_err(shown) {
        assert_eq!(Some(&message), whole.as_ref().err(), "{number}, {name}");
    }
    let plain = EvalTransform { resize: 9, crop: (8, 8), interpolation: Interpolation::Bilinear };
    let reduced = PhotoDecoder::open(bytes, MAX_PIXELS)
        .and_then(|photo| photo.render(DecodeMode::Scaled, &[plain.rendering()]))
        .map_err(shown);
    let part = PhotoDecoder::open(bytes, MAX_PIXELS).and_then(|photo| {
        let (width, height) = photo.size();
        let crop =
            Crop { top: height / 3, left: width / 4, height: height.div_ceil(3), width: width.div_ceil(2) };
        photo.decode_window(crop).map(|part| (part, crop))
    });
    match (&whole, part.map_err(shown)) {
        (Ok(photo), Ok((part, Crop { top, left, height, width }))) => {
            assert!(u64::from(photo.width()) * u64::from(photo.height()) <= MAX_PIXELS, "{number}, {name}");
            let expected = image::imageops::crop_imm(photo, left, top, width, height).to_image();
            assert!(part == expected, "{number}, {name}: another part");
            // The scans that a reduced photo does not need are not looked into.
            assert!(reduced.is_ok(), "{number}, {name}: only whole");
        }
        (Err(whole), Err(part)) => assert_eq!(*whole, part, "{number}, {name}"),
        _ => panic!("{number}, {name}: whole and in part are not both an error"),
    }
    whole.is_ok()
}

#[test]
fn every_mutated_photo_is_decoded_or_an_error_in_time() {
    let (begun, decoded, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let work = scope.spawn(|| {
            let seeds = seeds();
            for number in 0..FILES {
                begun.store(number + 1, Ordering::Relaxed);
                let (name, bytes) = generator::hostile(&seeds, number);
                let count = if is_decoded(&name, number, &bytes) { &decoded } else { &refused };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (mut last, mut ticks) = (0, 0);
        while !work.is_finished() {
            thread::sleep(TICK);
            let now = begun.load(Ordering::Relaxed);
            (last, ticks) = if now == last { (last, ticks + 1) } else { (now, 0) };
            if ticks > MOST_TICKS {
                // The thread cannot be stopped, so the process is.
                let name = generator::hostile(&seeds(), last - 1).0;
                fail(&format!("{}, {name} takes more than 5 s", last - 1));
            }
        }
    });
    let (decoded, refused) = (decoded.into_inner(), refused.into_inner());
    assert_eq!(decoded + refused, FILES);
    assert!(
        decoded > FILES / 10 && refused > FILES / 4,
        "{decoded} decoded, {refused} refused: too much alike"
    );
}

#[expect(clippy::print_stderr, reason = "a test that hangs can say so in no other way")]
fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::abort()
}

/// The largest that is allowed takes 32 MiB and 16 MiB beside it; the rest is the process.
#[cfg(target_os = "linux")]
#[test]
fn mutated_photos_take_no_more_memory_than_the_limit_allows_for() {
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 400000 && exec \"$0\" --exact \"$1\" --test-threads 1"])
        .arg(std::env::current_exe().unwrap())
        .arg("every_mutated_photo_is_decoded_or_an_error_in_time")
        .output()
        .unwrap();
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
