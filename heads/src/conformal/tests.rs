use super::*;

/// Photos with correct probabilities: each label is drawn from its row.
fn draw_exchangeable(rng: &mut KeyedRng, count: usize, classes: usize) -> (Vec<f32>, Vec<u32>) {
    let mut probabilities = Vec::with_capacity(count * classes);
    let mut labels = Vec::with_capacity(count);
    for _ in 0..count {
        let weights: Vec<f64> = (0..classes).map(|_| rng.uniform().powi(6) + 1e-3).collect();
        let sum: f64 = weights.iter().sum();
        let mut remaining = rng.uniform() * sum;
        let drawn = weights.iter().position(|weight| {
            remaining -= weight;
            remaining < 0.0
        });
        labels.push(drawn.unwrap_or(classes - 1) as u32);
        probabilities.extend(weights.iter().map(|weight| (weight / sum) as f32));
    }
    (probabilities, labels)
}

/// Tolerance of a mean coverage over draws, at 99 % confidence. The coverage of one draw of `n` scores is
/// beta-distributed (Vovk 2012), and the `m` test photos of a draw share its scores.
fn coverage_tolerance(coverage: f64, n: f64, m: f64, draws: f64) -> f64 {
    let variance = coverage * (1.0 - coverage);
    2.576 * (variance * (1.0 / m + 1.0 / (n + 2.0)) / draws).sqrt()
}

#[test]
fn sets_cover_the_true_class_as_often_as_requested() {
    const DRAWS: usize = 200;
    const N_TEST: usize = 200;
    let mut rng = KeyedRng::new(&[7]);
    for (n, coverage) in [(99, 0.9), (199, 0.8), (39, 0.95), (59, 0.5)] {
        for method in [ConformalMethod::Lac, ConformalMethod::Aps] {
            let mut covered = 0;
            for _ in 0..DRAWS {
                let (probabilities, labels) = draw_exchangeable(&mut rng, n, 5);
                let sets = ConformalScores::fit(&probabilities, &labels)
                    .unwrap()
                    .set_predictor(coverage, method)
                    .unwrap();
                let (probabilities, labels) = draw_exchangeable(&mut rng, N_TEST, 5);
                let rows = probabilities.chunks_exact(5).zip(&labels);
                covered += rows.filter(|(row, label)| sets.predict(row).contains(label)).count();
            }
            let found = covered as f64 / (DRAWS * N_TEST) as f64;
            let tolerance = coverage_tolerance(coverage, n as f64, N_TEST as f64, DRAWS as f64);
            // (n + 1) coverage is a whole number in each case, so the coverage is exact.
            assert!(
                (found - coverage).abs() <= tolerance,
                "{method:?} {n}: {found}, not {coverage} ± {tolerance}"
            );
        }
    }
}

#[test]
fn coverage_holds_even_for_uninformative_probabilities() {
    const DRAWS: usize = 200;
    let mut rng = KeyedRng::new(&[8]);
    for method in [ConformalMethod::Lac, ConformalMethod::Aps] {
        let mut covered = 0;
        for _ in 0..DRAWS {
            // Labels that are independent of the probabilities.
            let mut draw = |count| {
                let (probabilities, _) = draw_exchangeable(&mut rng, count, 4);
                let labels = (0..count).map(|_| rng.below(4) as u32).collect::<Vec<_>>();
                (probabilities, labels)
            };
            let (probabilities, labels) = draw(99);
            let sets =
                ConformalScores::fit(&probabilities, &labels).unwrap().set_predictor(0.9, method).unwrap();
            let (probabilities, labels) = draw(100);
            covered += probabilities
                .chunks_exact(4)
                .zip(&labels)
                .filter(|(row, label)| sets.predict(row).contains(label))
                .count();
        }
        let found = covered as f64 / (DRAWS * 100) as f64;
        let tolerance = coverage_tolerance(0.9, 99.0, 100.0, DRAWS as f64);
        assert!((found - 0.9).abs() <= tolerance, "{method:?}: {found}, not 0.9 ± {tolerance}");
    }
}

#[test]
fn more_coverage_never_makes_a_set_smaller() {
    let mut rng = KeyedRng::new(&[9]);
    let (probabilities, labels) = draw_exchangeable(&mut rng, 50, 6);
    let conformal = ConformalScores::fit(&probabilities, &labels).unwrap();
    for method in [ConformalMethod::Lac, ConformalMethod::Aps] {
        for row in probabilities.chunks_exact(6) {
            let mut previous = Vec::new();
            for percent in 1..100 {
                let set = conformal.set_predictor(f64::from(percent) / 100.0, method).unwrap().predict(row);
                assert!(set.starts_with(&previous), "{previous:?} {set:?}");
                previous = set;
            }
            assert_eq!(previous.len(), 6, "50 scores cannot promise 0.99");
        }
    }
}

#[test]
fn too_few_scores_for_a_coverage_give_all_classes() {
    let row = [1.0, 0.0, 0.0];
    for (n, includes_all) in [(8, true), (9, false)] {
        let conformal = ConformalScores::fit(&row.repeat(n), &vec![0; n]).unwrap();
        let set = conformal.set_predictor(0.9, ConformalMethod::Lac).unwrap().predict(&row);
        assert_eq!(set.len(), if includes_all { 3 } else { 1 }, "{n}");
    }
}

#[test]
fn a_coverage_outside_0_to_1_is_refused() {
    let conformal = ConformalScores::fit(&[0.5, 0.5], &[0]).unwrap();
    for coverage in [0.0, 1.0, -0.5, 90.0, f64::NAN] {
        let error = conformal.set_predictor(coverage, ConformalMethod::Aps).unwrap_err().to_string();
        assert!(error.contains("must be between 0 and 1"), "{error}");
    }
}

#[test]
fn invalid_probabilities_or_scores_are_refused() {
    let message = |error: HeadError| error.to_string();
    assert!(message(ConformalScores::fit(&[], &[]).unwrap_err()).contains("no held-out photos"));
    assert!(
        message(ConformalScores::fit(&[0.5; 5], &[0, 1]).unwrap_err())
            .contains("cannot be divided evenly among 2 labels")
    );
    assert!(message(ConformalScores::fit(&[0.5; 4], &[0, 2]).unwrap_err()).contains("label 2 in row 1"));
    let not_a_number = ConformalScores::fit(&[0.5, 0.5, f32::NAN, 0.5], &[0, 1]).unwrap_err();
    assert!(message(not_a_number).starts_with("NaN is not a probability (row 1, class 0): "));

    let good = ConformalScores::fit(&[0.5, 0.5, 0.25, 0.75], &[0, 1]).unwrap();
    let scores = |method| good.scores(method).to_vec();
    let (lac, aps) = (scores(ConformalMethod::Lac), scores(ConformalMethod::Aps));
    assert_eq!(lac, [-0.75, -0.5]);
    assert_eq!(ConformalScores::from_scores(lac.clone(), aps.clone()).unwrap(), good);
    for (lac, aps) in [
        (vec![], vec![]),
        (vec![-0.5, -0.75], aps.clone()),
        (vec![-0.5, f32::NAN], aps.clone()),
        (lac, aps[..1].to_vec()),
    ] {
        assert!(ConformalScores::from_scores(lac, aps).is_err());
    }
}

/// The threshold is the `⌈(n + 1) coverage⌉`-th of `n` scores, even where the rank is whole only up to
/// rounding: that many rows have their class in their set.
#[test]
fn the_threshold_is_the_score_of_the_requested_rank() {
    for n in [9u16, 19, 99, 199] {
        let row = |k: u16| [0.5 + f32::from(k) / 500.0, 0.5 - f32::from(k) / 500.0];
        let rows: Vec<f32> = (0..n).flat_map(row).collect();
        let conformal = ConformalScores::fit(&rows, &vec![0; n.into()]).unwrap();
        for rank in 1..=n {
            let exact = f64::from(rank) / f64::from(n + 1);
            for (coverage, rank) in [(exact, rank), (exact + 1e-4, rank + 1), (exact - 1e-4, rank)] {
                let sets = conformal.set_predictor(coverage, ConformalMethod::Lac).unwrap();
                let covered = rows.chunks_exact(2).filter(|row| sets.predict(row).contains(&0)).count();
                assert_eq!(covered, usize::from(rank.min(n)), "{n} scores and {coverage}");
            }
        }
    }
}

#[test]
fn a_row_without_a_confident_class_has_an_empty_lac_set() {
    let conformal = ConformalScores::fit(&[0.9, 0.05, 0.05].repeat(19), &[0; 19]).unwrap();
    let hard = [0.4, 0.3, 0.3];
    assert!(conformal.set_predictor(0.9, ConformalMethod::Lac).unwrap().predict(&hard).is_empty());
    // A probability equal to the threshold is included.
    assert_eq!(conformal.set_predictor(0.9, ConformalMethod::Lac).unwrap().predict(&[0.05, 0.9, 0.05]), [1]);
}
