//! `backbone.precision = "bf16"` compared with `"f32"` on the CPU and the demo.

use crate::support::{Project, demo_dir, run_command};
use headstock_backbone::{Isa, Precision};

/// Least cosine of the features of an image in bf16 and in f32.
const MIN_COSINE: f64 = 0.999;
/// The accuracy of two of the hundred test images, which may change their class.
const TWO_IMAGES: f64 = 0.0201;

// effect: backbone.precision
#[test]
fn bf16_agrees_with_f32_or_is_refused_on_this_cpu() {
    let project = Project::new(0);
    let config = demo_dir().join("headstock.toml");
    let config = config.to_str().unwrap();
    let run = |command: &str, precision: &str, more: &[&str]| {
        let precision = format!("backbone.precision={precision}");
        let cache = format!("features.cache={}", project.path("cache").display());
        let arguments =
            [&[command, "--config", config, "--set", &precision, "--set", &cache][..], more].concat();
        run_command(project.command(&arguments).env_remove("HEADSTOCK_ISA"))
    };
    if Isa::fastest(Precision::Bf16.into()).is_err() {
        // Without bf16, commands fail, nothing is cached, and f32 works. Tests of the cache keys in `train`
        // check on every CPU that the cache separates precisions.
        let out = project.path("x.npy");
        let commands: [(&str, &[&str]); 2] = [("train", &[]), ("extract", &["--out", out.to_str().unwrap()])];
        for (command, more) in commands {
            run(command, "bf16", more)
                .fails(2, &["this CPU has no bf16 arithmetic", "use the precision f32"]);
        }
        assert_eq!(project.n_cached("cache"), 0);
        let computed = run("train", "f32", &["--json"]).ok().json()["counts"]["computed"].clone();
        assert_eq!(computed, 400, "nothing was cached in bf16, and f32 was computed");
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
        assert!((MIN_COSINE..0.999_999_9).contains(&cosine), "photo {row}: {cosine}");
    }
    for head in ["linear", "svm", "mlp"] {
        let top1 = |precision: &str| {
            let figures = run("train", precision, &["--head", head, "--json"]).ok().json();
            assert_eq!(figures["counts"]["computed"], 0);
            figures["top1"].as_f64().unwrap()
        };
        let (exact, rounded) = (top1("f32"), top1("bf16"));
        assert!((exact - rounded).abs() <= TWO_IMAGES, "{head}: {rounded} for {exact}");
    }
    assert_eq!(project.n_cached("cache"), 800, "each photo once in each precision");
}
