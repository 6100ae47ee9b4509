//! One temperature for all logits of a head.

use headstock_heads::Logits;

/// The temperature is sought between these, as shares of how far the logits of a sample are apart on average: so it follows
/// the scale of the logits, whatever that is. Far down: a class without samples may lie far below the others.
const RANGE: (f64, f64) = (1e-8, 1e4);

/// Steps at most; bisection alone gains 24 digits in them.
const STEPS: usize = 80;

/// How near `ln T` must be.
const TOLERANCE: f64 = 1e-10;

/// Logits of some samples and their labels.
pub(super) type Labelled<'a> = (&'a Logits, &'a [u32]);

/// The `T` that gives `softmax(logits / T)` the least log-loss over all `parts` (Guo et al. 2017); 1 where no logits of a
/// sample differ. Where every sample is right by far, the sharpest of [`RANGE`].
///
/// The log-loss is convex in `1 / T`: Newton's method on `ln T`, from `start` where there is one, within a bracket that
/// halves where a step leaves it.
pub(super) fn fit(parts: &[Labelled<'_>], start: Option<f64>) -> f64 {
    let Some(scale) = spread(parts) else { return 1.0 };
    // On u = -ln T.
    let (mut low, mut high) = (-(scale * RANGE.1).ln(), -(scale * RANGE.0).ln());
    if slope(parts, high.exp()).0 <= 0.0 {
        return (-high).exp();
    }
    if slope(parts, low.exp()).0 >= 0.0 {
        return (-low).exp();
    }
    let mut u = start.map_or(-scale.ln(), |t| -t.ln()).clamp(low, high);
    for _ in 0..STEPS {
        let beta = u.exp();
        let (first, second) = slope(parts, beta);
        if first > 0.0 {
            high = u;
        } else {
            low = u;
        }
        // d/du and d²/du² of the loss at β = e^u.
        let step = first / (first + beta * second);
        let newton = u - step;
        let next = if newton > low && newton < high { newton } else { f64::midpoint(low, high) };
        let moved = (next - u).abs();
        u = next;
        if moved < TOLERANCE {
            break;
        }
    }
    (-u).exp()
}

/// How far apart the highest and the lowest logit of a sample are, on average; none where they are nowhere.
fn spread(parts: &[Labelled<'_>]) -> Option<f64> {
    let (mut sum, mut samples) = (0.0, 0.0);
    for row in parts.iter().flat_map(|(logits, _)| logits.rows()) {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let lowest = row.iter().copied().fold(f32::INFINITY, f32::min);
        sum += f64::from(highest) - f64::from(lowest);
        samples += 1.0;
    }
    let spread = sum / samples;
    (spread > 0.0).then_some(spread)
}

/// The first and second derivative of the mean log-loss of `softmax(β logits)` by `β`.
fn slope(parts: &[Labelled<'_>], beta: f64) -> (f64, f64) {
    let (mut first, mut second, mut samples) = (0.0, 0.0, 0.0);
    for (logits, labels) in parts {
        for (row, &label) in logits.rows().zip(*labels) {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // Moments of the logits, as far as they lie below the highest, under the softmax.
            let (mut sum, mut mean, mut square) = (0.0, 0.0, 0.0);
            for &logit in row {
                let z = f64::from(logit) - f64::from(top);
                let p = (beta * z).exp();
                sum += p;
                mean += p * z;
                square += p * z * z;
            }
            mean /= sum;
            first += mean - (f64::from(row[label as usize]) - f64::from(top));
            second += square / sum - mean * mean;
            samples += 1.0;
        }
    }
    (first / samples, second / samples)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Case {
        classes: usize,
        logits: Vec<f32>,
        labels: Vec<u32>,
        temperature: f64,
    }

    #[test]
    fn temperatures_are_those_of_scipy_whatever_the_start() {
        let text = include_str!("../../../reference/compare/temperature.json");
        let cases: Vec<Case> = serde_json::from_str(text).unwrap();
        assert!(cases.len() >= 5);
        for (number, case) in cases.into_iter().enumerate() {
            let logits = Logits::new(case.logits, case.classes).unwrap();
            for start in [None, Some(1.0), Some(1e-3), Some(1e9)] {
                let found = fit(&[(&logits, &case.labels)], start);
                let off = (found / case.temperature).ln().abs();
                assert!(off < 1e-6, "case {number}: {found} is not {}", case.temperature);
            }
        }
    }

    #[test]
    fn parts_count_as_one_and_logits_of_another_scale_get_its_temperature() {
        let logits = |rows: &[f32], scale: f32| {
            Logits::new(rows.iter().map(|logit| logit * scale).collect(), 2).unwrap()
        };
        let (first, second) = ([1.0, 0.0, 0.0, 0.5], [0.25, 0.75, 3.0, 1.0, 0.5, 1.0]);
        let (of_first, of_second) = ([0, 0], [1, 0, 1]);
        let whole = logits(&[&first[..], &second].concat(), 1.0);
        let t = fit(&[(&whole, &[0, 0, 1, 0, 1])], None);
        let apart = fit(&[(&logits(&first, 1.0), &of_first), (&logits(&second, 1.0), &of_second)], None);
        assert!((apart / t - 1.0).abs() < 1e-9, "{apart} is not {t}");
        let smaller = fit(
            &[(&logits(&first, 1.0 / 1024.0), &of_first), (&logits(&second, 1.0 / 1024.0), &of_second)],
            None,
        );
        assert!((smaller * 1024.0 / t - 1.0).abs() < 1e-9, "{smaller} is not {t} / 1024");
    }

    #[test]
    fn logits_that_are_always_right_or_always_equal_or_say_nothing_have_one_too() {
        let right = Logits::new(vec![1.0, 0.0, 0.0, 1.0], 2).unwrap();
        assert!((fit(&[(&right, &[0, 1])], None) - 1e-8).abs() < 1e-16);
        let wrong = Logits::new(vec![1.0, 0.0, 0.0, 1.0], 2).unwrap();
        assert!((fit(&[(&wrong, &[1, 0])], None) - 1e4).abs() < 1e-4);
        let equal = Logits::new(vec![0.5; 6], 3).unwrap();
        assert_eq!(fit(&[(&equal, &[0, 2])], None).to_bits(), 1f64.to_bits());
    }
}
