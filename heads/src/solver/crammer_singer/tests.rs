use proptest::prelude::*;

use super::*;

fn squared_norms(features: FeatureMatrix<'_>, constant: f64) -> Vec<f64> {
    features.rows().map(|x| VectorOps::new().dot(x, x) + constant * constant).collect()
}

/// The objective by its definition.
fn objective(problem: CrammerSingerProblem<'_>, weight: &[f64], constant_weights: &[f64]) -> f64 {
    let width = problem.features.width();
    let losses = problem.features.rows().zip(problem.labels).map(|(row, &label)| {
        let score = |m: usize| {
            let class_weight = &weight[m * width..(m + 1) * width];
            let products = row.iter().zip(class_weight).map(|(&x, w)| f64::from(x) * w);
            products.sum::<f64>() + constant_weights[m] * problem.intercept_scaling
        };
        let label = label as usize;
        let margins = (0..constant_weights.len()).map(|m| score(m) + f64::from(u8::from(m != label)));
        problem.cost[label] * (margins.fold(f64::NEG_INFINITY, f64::max) - score(label))
    });
    losses.sum::<f64>() + 0.5 * weight.iter().chain(constant_weights).map(|w| w * w).sum::<f64>()
}

/// One sample `x = (3, constant 4)` of two classes: `w_1 = -w_0 = s x` with `s = min(C, 1 / (2 |x|²))`.
#[test]
fn one_sample_has_the_closed_form_solution() {
    let features = FeatureMatrix::new(&[3.0], 1).unwrap();
    for (cost, share) in [(0.01, 0.01), (1.0, 1.0 / 50.0)] {
        let problem = CrammerSingerProblem {
            features,
            squared_norms: &squared_norms(features, 4.0),
            intercept_scaling: 4.0,
            labels: &[1],
            cost: &[0.0, cost],
        };
        let found = solve(problem, None, SvmStopping { tolerance: 1e-9, rounds: 10, seed: [0, 0] });
        for (found, expected) in found.weight.iter().zip([-3.0 * share, 3.0 * share]) {
            assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
        }
        for (found, expected) in found.constant_weights.iter().zip([-4.0 * share, 4.0 * share]) {
            assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// The dual proves it: no weights have an objective below `primal - gap`. The coefficients must also be
    /// dual feasible.
    #[test]
    fn the_gap_closes_and_the_primal_matches_the_weights(
        n in 2usize..30, width in 1usize..20, classes in 1usize..6, log_cost in -3.0f64..1.0, seed: u64, warm: bool,
    ) {
        let cost: Vec<f64> = (0..classes).map(|m| 10f64.powf(log_cost) * (1.0 + m as f64)).collect();
        let mut rng = KeyedRng::new(&[seed]);
        let values: Vec<f32> = (0..n * width).map(|_| rng.uniform() as f32 * 2.0 - 0.5).collect();
        let labels: Vec<u32> = (0..n).map(|_| rng.below(classes) as u32).collect();
        let features = FeatureMatrix::new(&values, width).unwrap();
        let problem = CrammerSingerProblem {
            features,
            squared_norms: &squared_norms(features, 1.0),
            intercept_scaling: 1.0,
            labels: &labels,
            cost: &cost,
        };
        let scores: Vec<f64> = (0..n * classes).map(|_| rng.uniform()).collect();
        let initial_dual_coef = warm.then(|| dual_coef_from_scores(&scores, &labels, &cost));
        let stopping = SvmStopping { tolerance: 1e-7, rounds: 10_000, seed: [seed, 0] };
        let found = solve(problem, initial_dual_coef.as_deref(), stopping);
        let (progress, converged) = &found.outcomes[0];
        let last = progress[progress.len() - 1];
        prop_assert!(converged, "{last:?}");
        let primal = objective(problem, &found.weight, &found.constant_weights);
        prop_assert!((primal - last.primal).abs() <= 1e-10 * (1.0 + primal));
        for (values, &label) in found.dual_coef.chunks_exact(classes).zip(&labels) {
            prop_assert!(values.iter().sum::<f64>().abs() <= 1e-9);
            for (m, &value) in values.iter().enumerate() {
                let upper = if m == label as usize { cost[m] } else { 0.0 };
                prop_assert!(value <= upper);
            }
        }
        for _ in 0..20 {
            let mut perturb = |values: &[f64]| -> Vec<f64> {
                values.iter().map(|w| w + 0.01 * (rng.uniform() - 0.5)).collect()
            };
            let (weight, constant_weights) = (perturb(&found.weight), perturb(&found.constant_weights));
            prop_assert!(objective(problem, &weight, &constant_weights) >= last.primal - last.gap - 1e-12);
        }
    }
}
