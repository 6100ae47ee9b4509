use proptest::prelude::*;

use super::*;

const STOPPING: Stopping = Stopping { tolerance: 1e-9, rounds: 1000, seed: [0, 0] };

fn squared_norms(features: Features<'_>, constant: f64) -> Vec<f64> {
    features.rows().map(|x| Vectors::new().dot(x, x) + constant * constant).collect()
}

fn objective(problem: Problem<'_>, plane: &Plane) -> f64 {
    let losses = problem.features.rows().zip(problem.positive).map(|(row, &positive)| {
        let score: f64 = row.iter().zip(&plane.weight).map(|(&x, w)| f64::from(x) * w).sum();
        let score = score + plane.constant * problem.constant;
        let slack = (1.0 - if positive { score } else { -score }).max(0.0);
        problem.cost[usize::from(positive)] * if problem.loss == Loss::Hinge { slack } else { slack * slack }
    });
    let norm: f64 = plane.weight.iter().map(|w| w * w).sum::<f64>() + plane.constant * plane.constant;
    losses.sum::<f64>() + 0.5 * norm
}

/// One sample `x = (3, constant 4)`: `w = s x` with `s = 2C / (1 + 2C |x|²)` for the squared hinge and
/// `min(C, 1 / |x|²)` for the hinge.
#[test]
fn one_sample_has_the_solution_of_the_formula() {
    let features = Features::new(&[3.0], 1).unwrap();
    for (loss, cost, share) in
        [(Loss::SquaredHinge, 0.5, 1.0 / 26.0), (Loss::Hinge, 0.01, 0.01), (Loss::Hinge, 1.0, 1.0 / 25.0)]
    {
        let problem = Problem {
            features,
            squared_norms: &squared_norms(features, 4.0),
            constant: 4.0,
            positive: &[true],
            cost: [cost; 2],
            loss,
        };
        let plane = solve(problem, None, STOPPING).plane;
        assert!((plane.weight[0] - 3.0 * share).abs() < 1e-8, "{loss:?}: {plane:?}");
        assert!((plane.constant - 4.0 * share).abs() < 1e-8, "{loss:?}: {plane:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The dual is the proof: no plane has an objective below `primal - gap`.
    #[test]
    fn the_gap_closes_and_the_objective_is_the_planes(
        n in 2usize..40, width in 1usize..30, log_cost in -3.0f64..4.0, weight in 0.1f64..10.0, hinge: bool, seed: u64,
    ) {
        let cost = 10f64.powf(log_cost);
        let mut random = Keyed::new(&[seed]);
        let values: Vec<f32> = (0..n * width).map(|_| random.uniform() as f32 * 2.0 - 0.5).collect();
        let positive: Vec<bool> = (0..n).map(|_| random.below(3) == 0).collect();
        let features = Features::new(&values, width).unwrap();
        let problem = Problem {
            features,
            squared_norms: &squared_norms(features, 1.0),
            constant: 1.0,
            positive: &positive,
            cost: [cost, cost * weight],
            loss: if hinge { Loss::Hinge } else { Loss::SquaredHinge },
        };
        let solution = solve(problem, None, Stopping { seed: [seed, 0], ..STOPPING });
        let last = solution.progress[solution.progress.len() - 1];
        prop_assert!(solution.converged, "{last:?}");
        let found = objective(problem, &solution.plane);
        prop_assert!((found - last.primal).abs() <= 1e-10 * found);
        let guess: Vec<f64> = solution.multipliers.iter().map(|a| a * random.uniform()).collect();
        let again = solve(problem, Some(&guess), Stopping { seed: [seed, 0], ..STOPPING });
        prop_assert!(again.converged);
        prop_assert!((objective(problem, &again.plane) - found).abs() <= 1e-8 * found);
        for _ in 0..20 {
            let mut beside = solution.plane.clone();
            beside.weight.iter_mut().for_each(|w| *w += 0.01 * (random.uniform() - 0.5));
            beside.constant += 0.01 * (random.uniform() - 0.5);
            prop_assert!(objective(problem, &beside) >= last.primal - last.gap - 1e-12);
        }
    }
}

/// More samples than exact steps take, of features whose scales are up to 500 times apart: sweeps alone would take many rounds.
#[test]
fn newton_steps_need_few_rounds_where_features_differ_in_scale() {
    let (n, width) = (2 * kernel::LARGEST, 12);
    let mut random = Keyed::new(&[1]);
    let values: Vec<f32> = (0..n)
        .flat_map(|_| (0..width).map(|column| 10f64.powf(-0.25 * column as f64)).collect::<Vec<_>>())
        .map(|scale| (scale * (random.uniform() - 0.5)) as f32)
        .collect();
    let features = Features::new(&values, width).unwrap();
    let positive: Vec<bool> =
        features.rows().map(|row| row[0] + 30.0 * row[6] + 100.0 * row[9] > 0.1).collect();
    let problem = Problem {
        features,
        squared_norms: &squared_norms(features, 1.0),
        constant: 1.0,
        positive: &positive,
        cost: [10.0; 2],
        loss: Loss::SquaredHinge,
    };
    let solution = solve(problem, None, STOPPING);
    assert!(solution.converged && solution.progress.len() < 20, "{}", solution.progress.len());
}

/// Samples that are asked for are held beside those before, but for more than fit: then alone.
#[test]
fn products_of_no_more_samples_than_fit_are_held() {
    let values: Vec<f32> = (0..2 * kernel::LARGEST).map(|i| i as f32).collect();
    let features = Features::new(&values, 1).unwrap();
    let problem = Problem {
        features,
        squared_norms: &squared_norms(features, 1.0),
        constant: 1.0,
        positive: &vec![true; values.len()],
        cost: [1.0; 2],
        loss: Loss::Hinge,
    };
    let mut held = Kernel::new(values.len());
    assert!(held.hold(&[3, 1], &problem) && held.hold(&[1, 7], &problem));
    assert_eq!(held.samples(), [3, 1, 7]);
    let most: Vec<usize> = (100..100 + kernel::LARGEST).collect();
    assert!(held.hold(&most, &problem));
    assert_eq!(held.samples(), most);
    assert!(held.hold(&[3], &problem));
    assert_eq!(held.samples(), [3]);
    assert!(!held.hold(&(0..=kernel::LARGEST).collect::<Vec<_>>(), &problem));
}
