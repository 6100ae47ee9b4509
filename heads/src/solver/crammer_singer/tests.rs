use proptest::prelude::*;

use super::*;

fn squared_norms(features: Features<'_>, constant: f64) -> Vec<f64> {
    features.rows().map(|x| Vectors::new().dot(x, x) + constant * constant).collect()
}

/// The objective by its definition.
fn objective(problem: Problem<'_>, weight: &[f64], constant: &[f64]) -> f64 {
    let width = problem.features.width();
    let losses = problem.features.rows().zip(problem.labels).map(|(row, &label)| {
        let score = |m: usize| {
            let plane = &weight[m * width..(m + 1) * width];
            let products = row.iter().zip(plane).map(|(&x, w)| f64::from(x) * w);
            products.sum::<f64>() + constant[m] * problem.constant
        };
        let own = label as usize;
        let reached = (0..constant.len()).map(|m| score(m) + f64::from(u8::from(m != own)));
        problem.cost[own] * (reached.fold(f64::NEG_INFINITY, f64::max) - score(own))
    });
    losses.sum::<f64>() + 0.5 * weight.iter().chain(constant).map(|w| w * w).sum::<f64>()
}

/// One sample `x = (3, constant 4)` of two classes: `w_1 = -w_0 = s x` with `s = min(C, 1 / (2 |x|²))`.
#[test]
fn one_sample_has_the_solution_of_the_formula() {
    let features = Features::new(&[3.0], 1).unwrap();
    for (cost, share) in [(0.01, 0.01), (1.0, 1.0 / 50.0)] {
        let problem = Problem {
            features,
            squared_norms: &squared_norms(features, 4.0),
            constant: 4.0,
            labels: &[1],
            cost: &[0.0, cost],
        };
        let found = solve(problem, None, Stopping { tolerance: 1e-9, rounds: 10, seed: [0, 0] });
        for (found, expected) in found.weight.iter().zip([-3.0 * share, 3.0 * share]) {
            assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
        }
        for (found, expected) in found.constant.iter().zip([-4.0 * share, 4.0 * share]) {
            assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// The dual is the proof: no weights have an objective below `primal - gap`. And the multipliers are the dual's.
    #[test]
    fn the_gap_closes_and_the_objective_is_that_of_the_weights(
        n in 2usize..30, width in 1usize..20, classes in 1usize..6, log_cost in -3.0f64..1.0, seed: u64, guessed: bool,
    ) {
        let cost: Vec<f64> = (0..classes).map(|m| 10f64.powf(log_cost) * (1.0 + m as f64)).collect();
        let mut random = Keyed::new(&[seed]);
        let values: Vec<f32> = (0..n * width).map(|_| random.uniform() as f32 * 2.0 - 0.5).collect();
        let labels: Vec<u32> = (0..n).map(|_| random.below(classes) as u32).collect();
        let features = Features::new(&values, width).unwrap();
        let problem = Problem {
            features,
            squared_norms: &squared_norms(features, 1.0),
            constant: 1.0,
            labels: &labels,
            cost: &cost,
        };
        let scores: Vec<f64> = (0..n * classes).map(|_| random.uniform()).collect();
        let guess = guessed.then(|| multipliers_of(&scores, &labels, &cost));
        let stopping = Stopping { tolerance: 1e-7, rounds: 10_000, seed: [seed, 0] };
        let found = solve(problem, guess.as_deref(), stopping);
        let last = found.progress[found.progress.len() - 1];
        prop_assert!(found.converged, "{last:?}");
        let reached = objective(problem, &found.weight, &found.constant);
        prop_assert!((reached - last.primal).abs() <= 1e-10 * (1.0 + reached));
        for (values, &label) in found.multipliers.chunks_exact(classes).zip(&labels) {
            prop_assert!(values.iter().sum::<f64>().abs() <= 1e-9);
            for (m, &value) in values.iter().enumerate() {
                let upper = if m == label as usize { cost[m] } else { 0.0 };
                prop_assert!(value <= upper);
            }
        }
        for _ in 0..20 {
            let mut beside = |values: &[f64]| -> Vec<f64> {
                values.iter().map(|w| w + 0.01 * (random.uniform() - 0.5)).collect()
            };
            let (weight, constant) = (beside(&found.weight), beside(&found.constant));
            prop_assert!(objective(problem, &weight, &constant) >= last.primal - last.gap - 1e-12);
        }
    }
}
