use super::*;

/// Photos of which the probabilities that are given say the truth: a label is drawn from each row.
fn exchangeable(random: &mut Keyed, count: usize, classes: usize) -> (Vec<f32>, Vec<u32>) {
    let mut probabilities = Vec::with_capacity(count * classes);
    let mut labels = Vec::with_capacity(count);
    for _ in 0..count {
        let weights: Vec<f64> = (0..classes).map(|_| random.uniform().powi(6) + 1e-3).collect();
        let sum: f64 = weights.iter().sum();
        let mut left = random.uniform() * sum;
        let drawn = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        labels.push(drawn.unwrap_or(classes - 1) as u32);
        probabilities.extend(weights.iter().map(|weight| (weight / sum) as f32));
    }
    (probabilities, labels)
}

/// How far the mean of a coverage over draws may be from what is promised: 99 of 100 are nearer. Of a draw of `n` scores and
/// one more photo the coverage is beta-distributed (Vovk 2012), and `m` photos share the scores of theirs.
fn band(coverage: f64, n: f64, m: f64, draws: f64) -> f64 {
    let variance = coverage * (1.0 - coverage);
    2.576 * (variance * (1.0 / m + 1.0 / (n + 2.0)) / draws).sqrt()
}

#[test]
fn sets_hold_the_truth_as_often_as_they_promise() {
    const DRAWS: usize = 200;
    const TESTED: usize = 200;
    let mut random = Keyed::new(&[7]);
    for (n, coverage) in [(99, 0.9), (199, 0.8), (39, 0.95), (59, 0.5)] {
        for method in [SetMethod::Lac, SetMethod::Aps] {
            let mut held = 0;
            for _ in 0..DRAWS {
                let (probabilities, labels) = exchangeable(&mut random, n, 5);
                let sets = Conformal::fit(&probabilities, &labels).unwrap().sets(coverage, method).unwrap();
                let (probabilities, labels) = exchangeable(&mut random, TESTED, 5);
                let rows = probabilities.chunks_exact(5).zip(&labels);
                held += rows.filter(|(row, label)| sets.of(row).contains(label)).count();
            }
            let found = held as f64 / (DRAWS * TESTED) as f64;
            let band = band(coverage, n as f64, TESTED as f64, DRAWS as f64);
            // (n + 1) coverage is a whole number for each of these: the promise is met exactly.
            assert!((found - coverage).abs() <= band, "{method:?} {n}: {found}, not {coverage} ± {band}");
        }
    }
}

#[test]
fn sets_keep_their_promise_whatever_the_probabilities_are_worth() {
    const DRAWS: usize = 200;
    let mut random = Keyed::new(&[8]);
    for method in [SetMethod::Lac, SetMethod::Aps] {
        let mut held = 0;
        for _ in 0..DRAWS {
            // Labels that have nothing to do with the probabilities.
            let mut draw = |count| {
                let (probabilities, _) = exchangeable(&mut random, count, 4);
                let labels = (0..count).map(|_| random.below(4) as u32).collect::<Vec<_>>();
                (probabilities, labels)
            };
            let (probabilities, labels) = draw(99);
            let sets = Conformal::fit(&probabilities, &labels).unwrap().sets(0.9, method).unwrap();
            let (probabilities, labels) = draw(100);
            held += probabilities
                .chunks_exact(4)
                .zip(&labels)
                .filter(|(row, label)| sets.of(row).contains(label))
                .count();
        }
        let found = held as f64 / (DRAWS * 100) as f64;
        let band = band(0.9, 99.0, 100.0, DRAWS as f64);
        assert!((found - 0.9).abs() <= band, "{method:?}: {found}, not 0.9 ± {band}");
    }
}

#[test]
fn more_coverage_never_makes_a_set_smaller() {
    let mut random = Keyed::new(&[9]);
    let (probabilities, labels) = exchangeable(&mut random, 50, 6);
    let conformal = Conformal::fit(&probabilities, &labels).unwrap();
    for method in [SetMethod::Lac, SetMethod::Aps] {
        for row in probabilities.chunks_exact(6) {
            let mut before = Vec::new();
            for percent in 1..100 {
                let set = conformal.sets(f64::from(percent) / 100.0, method).unwrap().of(row);
                assert!(set.starts_with(&before), "{before:?} {set:?}");
                before = set;
            }
            assert_eq!(before.len(), 6, "50 scores cannot promise 0.99");
        }
    }
}

#[test]
fn too_few_scores_to_promise_a_coverage_give_all_classes() {
    let row = [1.0, 0.0, 0.0];
    for (n, all) in [(8, true), (9, false)] {
        let conformal = Conformal::fit(&row.repeat(n), &vec![0; n]).unwrap();
        let set = conformal.sets(0.9, SetMethod::Lac).unwrap().of(&row);
        assert_eq!(set.len(), if all { 3 } else { 1 }, "{n}");
    }
}

#[test]
fn a_coverage_that_cannot_be_promised_is_refused() {
    let conformal = Conformal::fit(&[0.5, 0.5], &[0]).unwrap();
    for coverage in [0.0, 1.0, -0.5, 90.0, f64::NAN] {
        let error = conformal.sets(coverage, SetMethod::Aps).unwrap_err().to_string();
        assert!(error.contains("must lie between 0 and 1"), "{error}");
    }
}

#[test]
fn what_gives_no_scores_is_refused() {
    let message = |error: HeadError| error.to_string();
    assert!(message(Conformal::fit(&[], &[]).unwrap_err()).contains("no samples"));
    assert!(
        message(Conformal::fit(&[0.5; 5], &[0, 1]).unwrap_err()).contains("not a row for each of 2 labels")
    );
    assert!(message(Conformal::fit(&[0.5; 4], &[0, 2]).unwrap_err()).contains("label 2 in row 1"));
    let no_number = Conformal::fit(&[0.5, 0.5, f32::NAN, 0.5], &[0, 1]).unwrap_err();
    assert_eq!(message(no_number), "NaN in row 1 is no probability of class 0");

    let good = Conformal::fit(&[0.5, 0.5, 0.25, 0.75], &[0, 1]).unwrap();
    let scores = |method| good.scores(method).to_vec();
    let (lac, aps) = (scores(SetMethod::Lac), scores(SetMethod::Aps));
    assert_eq!(lac, [-0.75, -0.5]);
    assert_eq!(Conformal::from_scores(lac.clone(), aps.clone()).unwrap(), good);
    for (lac, aps) in [
        (vec![], vec![]),
        (vec![-0.5, -0.75], aps.clone()),
        (vec![-0.5, f32::NAN], aps.clone()),
        (lac, aps[..1].to_vec()),
    ] {
        assert!(Conformal::from_scores(lac, aps).is_err());
    }
}

/// The `⌈(n + 1) coverage⌉`-th of `n` scores, those that are whole numbers but for rounding too: as many rows have their class
/// in their set.
#[test]
fn the_highest_score_of_a_set_is_the_one_of_its_rank() {
    for n in [9u16, 19, 99, 199] {
        let row = |k: u16| [0.5 + f32::from(k) / 500.0, 0.5 - f32::from(k) / 500.0];
        let rows: Vec<f32> = (0..n).flat_map(row).collect();
        let conformal = Conformal::fit(&rows, &vec![0; n.into()]).unwrap();
        for rank in 1..=n {
            let whole = f64::from(rank) / f64::from(n + 1);
            for (coverage, rank) in [(whole, rank), (whole + 1e-4, rank + 1), (whole - 1e-4, rank)] {
                let sets = conformal.sets(coverage, SetMethod::Lac).unwrap();
                let held = rows.chunks_exact(2).filter(|row| sets.of(row).contains(&0)).count();
                assert_eq!(held, usize::from(rank.min(n)), "{n} scores and {coverage}");
            }
        }
    }
}

#[test]
fn a_row_without_a_class_that_is_sure_enough_has_an_empty_set_by_lac() {
    let conformal = Conformal::fit(&[0.9, 0.05, 0.05].repeat(19), &[0; 19]).unwrap();
    let hard = [0.4, 0.3, 0.3];
    assert!(conformal.sets(0.9, SetMethod::Lac).unwrap().of(&hard).is_empty());
    // As probable as the score is probable enough.
    assert_eq!(conformal.sets(0.9, SetMethod::Lac).unwrap().of(&[0.05, 0.9, 0.05]), [1]);
}
