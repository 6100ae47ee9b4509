use proptest::prelude::*;

use super::*;

const STOPPING: SvmStopping = SvmStopping { tolerance: 1e-9, rounds: 1000, seed: [0, 0] };

fn squared_norms(features: FeatureMatrix<'_>, constant: f64) -> Vec<f64> {
    features.rows().map(|x| VectorOps::new().dot(x, x) + constant * constant).collect()
}

fn objective(problem: BinarySvmProblem<'_>, w: &WeightVector) -> f64 {
    let losses = problem.features.rows().zip(problem.positive).map(|(row, &positive)| {
        let score: f64 = row.iter().zip(&w.weight).map(|(&x, w)| f64::from(x) * w).sum();
        let score = score + w.constant_weight * problem.intercept_scaling;
        let slack = (1.0 - if positive { score } else { -score }).max(0.0);
        problem.cost[usize::from(positive)]
            * if problem.loss == SvmLoss::Hinge { slack } else { slack * slack }
    });
    let norm: f64 = w.weight.iter().map(|w| w * w).sum::<f64>() + w.constant_weight * w.constant_weight;
    losses.sum::<f64>() + 0.5 * norm
}

/// One sample `x = (3, constant 4)`: `w = s x` with `s = 2C / (1 + 2C |x|²)` for the squared hinge and
/// `min(C, 1 / |x|²)` for the hinge.
#[test]
fn one_sample_has_the_closed_form_solution() {
    let features = FeatureMatrix::new(&[3.0], 1).unwrap();
    for (loss, cost, share) in [
        (SvmLoss::SquaredHinge, 0.5, 1.0 / 26.0),
        (SvmLoss::Hinge, 0.01, 0.01),
        (SvmLoss::Hinge, 1.0, 1.0 / 25.0),
    ] {
        let problem = BinarySvmProblem {
            features,
            squared_norms: &squared_norms(features, 4.0),
            intercept_scaling: 4.0,
            positive: &[true],
            cost: [cost; 2],
            loss,
        };
        let w = solve(problem, None, STOPPING).w;
        assert!((w.weight[0] - 3.0 * share).abs() < 1e-8, "{loss:?}: {w:?}");
        assert!((w.constant_weight - 4.0 * share).abs() < 1e-8, "{loss:?}: {w:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The dual proves it: no weights have an objective below `primal - gap`.
    #[test]
    fn the_gap_closes_and_the_primal_matches_the_weights(
        n in 2usize..40, width in 1usize..30, log_cost in -3.0f64..4.0, weight in 0.1f64..10.0, hinge: bool, seed: u64,
    ) {
        let cost = 10f64.powf(log_cost);
        let mut rng = KeyedRng::new(&[seed]);
        let values: Vec<f32> = (0..n * width).map(|_| rng.uniform() as f32 * 2.0 - 0.5).collect();
        let positive: Vec<bool> = (0..n).map(|_| rng.below(3) == 0).collect();
        let features = FeatureMatrix::new(&values, width).unwrap();
        let problem = BinarySvmProblem {
            features,
            squared_norms: &squared_norms(features, 1.0),
            intercept_scaling: 1.0,
            positive: &positive,
            cost: [cost, cost * weight],
            loss: if hinge { SvmLoss::Hinge } else { SvmLoss::SquaredHinge },
        };
        let solution = solve(problem, None, SvmStopping { seed: [seed, 0], ..STOPPING });
        let last = solution.progress[solution.progress.len() - 1];
        prop_assert!(solution.converged, "{last:?}");
        let primal = objective(problem, &solution.w);
        prop_assert!((primal - last.primal).abs() <= 1e-10 * primal);
        let initial_dual_coef: Vec<f64> = solution.dual_coef.iter().map(|a| a * rng.uniform()).collect();
        let again = solve(problem, Some(&initial_dual_coef), SvmStopping { seed: [seed, 0], ..STOPPING });
        prop_assert!(again.converged);
        prop_assert!((objective(problem, &again.w) - primal).abs() <= 1e-8 * primal);
        for _ in 0..20 {
            let mut perturbed = solution.w.clone();
            perturbed.weight.iter_mut().for_each(|w| *w += 0.01 * (rng.uniform() - 0.5));
            perturbed.constant_weight += 0.01 * (rng.uniform() - 0.5);
            prop_assert!(objective(problem, &perturbed) >= last.primal - last.gap - 1e-12);
        }
    }
}

/// Too many samples for exact steps, with features of very different scales: sweeps alone would take many
/// rounds.
#[test]
fn newton_steps_need_few_rounds_where_features_differ_in_scale() {
    let (n, width) = (2 * kernel_cache::MAX_SAMPLES, 12);
    let mut rng = KeyedRng::new(&[1]);
    let values: Vec<f32> = (0..n)
        .flat_map(|_| (0..width).map(|column| 10f64.powf(-0.25 * column as f64)).collect::<Vec<_>>())
        .map(|scale| (scale * (rng.uniform() - 0.5)) as f32)
        .collect();
    let features = FeatureMatrix::new(&values, width).unwrap();
    let positive: Vec<bool> =
        features.rows().map(|row| row[0] + 30.0 * row[6] + 100.0 * row[9] > 0.1).collect();
    let problem = BinarySvmProblem {
        features,
        squared_norms: &squared_norms(features, 1.0),
        intercept_scaling: 1.0,
        positive: &positive,
        cost: [10.0; 2],
        loss: SvmLoss::SquaredHinge,
    };
    let solution = solve(problem, None, STOPPING);
    assert!(solution.converged && solution.progress.len() < 20, "{}", solution.progress.len());
}

/// Requested samples are added to the cached ones, unless they do not fit together: then they replace them.
#[test]
fn the_cache_holds_at_most_max_samples() {
    let values: Vec<f32> = (0..2 * kernel_cache::MAX_SAMPLES).map(|i| i as f32).collect();
    let features = FeatureMatrix::new(&values, 1).unwrap();
    let problem = BinarySvmProblem {
        features,
        squared_norms: &squared_norms(features, 1.0),
        intercept_scaling: 1.0,
        positive: &vec![true; values.len()],
        cost: [1.0; 2],
        loss: SvmLoss::Hinge,
    };
    let mut cache = KernelCache::new(values.len());
    assert!(cache.ensure_cached(&[3, 1], &problem) && cache.ensure_cached(&[1, 7], &problem));
    assert_eq!(cache.samples(), [3, 1, 7]);
    let full: Vec<usize> = (100..100 + kernel_cache::MAX_SAMPLES).collect();
    assert!(cache.ensure_cached(&full, &problem));
    assert_eq!(cache.samples(), full);
    assert!(cache.ensure_cached(&[3], &problem));
    assert_eq!(cache.samples(), [3]);
    assert!(!cache.ensure_cached(&(0..=kernel_cache::MAX_SAMPLES).collect::<Vec<_>>(), &problem));
}
