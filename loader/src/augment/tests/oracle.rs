//! The files of `reference/augment`, and comparisons of draws with them.

use image::RgbImage;
use serde_json::Value;

use crate::golden::{self, synthetic_image};

/// Settings and parameters whose results in torchvision are in `results.safetensors`.
pub(in crate::augment) fn cases() -> Value {
    golden::json("augment/cases.json")
}

/// The distributions of torchvision's draws.
pub(in crate::augment) fn draws() -> Value {
    golden::json("augment/draws.json")
}

/// `photo(kind, width, height)` of `reference/augment/make.py`.
pub(in crate::augment) fn image(case: &Value) -> RgbImage {
    let (kind, width, height) = serde_json::from_value::<(String, u32, u32)>(case["photo"].clone()).unwrap();
    let mut image = synthetic_image(width, height);
    match kind.as_str() {
        "full" => {}
        "pale" => image.iter_mut().for_each(|value| *value = *value / 5 + 90),
        "bright" => image.iter_mut().for_each(|value| *value = value.saturating_mul(4)),
        "flat" => image.pixels_mut().for_each(|pixel| pixel.0 = [200, 90, 17]),
        _ => panic!("{kind}"),
    }
    image
}

/// Compares `values` with torchvision's distribution `name` by the Kolmogorov-Smirnov distance at
/// torchvision's thresholds. Two samples of one distribution exceed the bound once in a million times.
pub(in crate::augment) fn assert_distribution(name: &str, values: &[f64]) {
    let draws = draws();
    let expected = &draws["spreads"][name];
    let thresholds: Vec<f64> = serde_json::from_value(expected["at"].clone()).unwrap();
    let shares: Vec<f64> = serde_json::from_value(expected["share"].clone()).unwrap();
    let count = values.len() as f64;
    let distance = thresholds
        .iter()
        .zip(shares)
        .map(|(point, share)| {
            // torchvision's values have single precision.
            let n_below = values.iter().filter(|&&value| value <= point + 1e-6).count() as f64;
            (n_below / count - share).abs()
        })
        .fold(0.0, f64::max);
    let bound =
        (-(1e-6_f64 / 2.0).ln() / 2.0 * (1.0 / count + 1.0 / draws["draws"].as_f64().unwrap())).sqrt();
    assert!(distance < bound, "{name}: distance {distance} is not below {bound}");
}

/// Compares the frequencies of `chosen` with torchvision's counts `name` by a chi-square test at five
/// standard deviations (approximation of Wilson and Hilferty 1931).
pub(in crate::augment) fn assert_frequencies(name: &str, chosen: impl IntoIterator<Item = String>) {
    let draws = draws();
    let expected = draws["choices"][name].as_object().unwrap();
    let mut ours = std::collections::BTreeMap::<String, f64>::new();
    for choice in chosen {
        *ours.entry(choice).or_default() += 1.0;
    }
    for (choice, count) in &ours {
        assert!(expected.contains_key(choice) || *count < 10.0, "{name}: torchvision never draws {choice}");
    }
    let (n_ours, n_expected) = (ours.values().sum::<f64>(), draws["draws"].as_f64().unwrap());
    let (mut chi_square, mut degrees_of_freedom) = (0.0, -1.0);
    for (choice, count) in expected {
        let (a, b) = (ours.get(choice).copied().unwrap_or(0.0), count.as_f64().unwrap());
        let scale = (n_expected / n_ours).sqrt();
        chi_square += (a * scale - b / scale).powi(2) / (a + b);
        degrees_of_freedom += 1.0;
    }
    let correction = 2.0 / (9.0 * degrees_of_freedom);
    let bound = degrees_of_freedom * (1.0 - correction + 5.0 * f64::sqrt(correction)).powi(3);
    assert!(chi_square < bound, "{name}: chi-square {chi_square} is not below {bound}");
}
