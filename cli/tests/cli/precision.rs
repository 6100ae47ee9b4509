//! `backbone.precision = "bf16"` on a CPU beside `"f32"`, on the bundled photos.

use crate::support::{Project, demo, done};
use headstock_backbone::{Isa, Precision};

/// Features of a photo are nearly parallel to those in `f32`.
const COSINE: f64 = 0.999;
/// A test photo of the hundred counts for 0.01: two may go over to another class.
const TWO_PHOTOS: f64 = 0.0201;

// effect: backbone.precision
#[test]
fn bf16_gives_nearly_the_features_and_the_accuracy_of_f32_or_says_that_the_cpu_cannot() {
    let project = Project::new(0);
    let config = demo().join("headstock.toml");
    let config = config.to_str().unwrap();
    let run = |command: &str, precision: &str, more: &[&str]| {
        let precision = format!("backbone.precision={precision}");
        let cache = format!("features.cache={}", project.path("cache").display());
        let arguments =
            [&[command, "--config", config, "--set", &precision, "--set", &cache][..], more].concat();
        done(project.command(&arguments).env_remove("HEADSTOCK_ISA"))
    };
    if Isa::fastest(Precision::Bf16.into()).is_err() {
        // This is all that can be shown on such a CPU: every command refuses, nothing is kept, and f32 goes on. That the cache
        // keeps the precisions apart is shown on every CPU by the tests of its keys, in `train`.
        let out = project.path("x.npy");
        let commands: [(&str, &[&str]); 2] = [("train", &[]), ("extract", &["--out", out.to_str().unwrap()])];
        for (command, more) in commands {
            run(command, "bf16", more).fails(2, &["this CPU has no bf16 arithmetic", "use f32"]);
        }
        assert_eq!(project.stored("cache"), 0);
        let computed = run("train", "f32", &["--json"]).ok().json()["counts"]["computed"].clone();
        assert_eq!(computed, 400, "nothing of bf16 was kept, and f32 was computed");
        return;
    }
    let features = |precision: &str| -> Vec<f64> {
        let out = project.path("features.npy");
        run("extract", precision, &["--out", out.to_str().unwrap()]).ok();
        let bytes = std::fs::read(out).unwrap();
        let values = &bytes[bytes.len() - 400 * 2048 * 4..];
        values.as_chunks::<4>().0.iter().map(|value| f64::from(f32::from_le_bytes(*value))).collect()
    };
    let (exact, rounded) = (features("f32"), features("bf16"));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for (row, (a, b)) in exact.chunks(2048).zip(rounded.chunks(2048)).enumerate() {
        let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        assert!((COSINE..0.999_999_9).contains(&cosine), "photo {row}: {cosine}");
    }
    for head in ["linear", "svm", "mlp"] {
        let top1 = |precision: &str| {
            let figures = run("train", precision, &["--head", head, "--json"]).ok().json();
            assert_eq!(figures["counts"]["computed"], 0);
            figures["top1"].as_f64().unwrap()
        };
        let (exact, rounded) = (top1("f32"), top1("bf16"));
        assert!((exact - rounded).abs() <= TWO_PHOTOS, "{head}: {rounded} for {exact}");
    }
    assert_eq!(project.stored("cache"), 800, "each photo once in each precision");
}
