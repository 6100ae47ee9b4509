//! `linear` with an L1 penalty against scikit-learn's `LogisticRegression` (`reference/elastic/make.py`).

use headstock_heads::linear::{LinearConfig, Penalty};
use headstock_heads::{ClassWeight, FitContext, HeadConfig};

use crate::support::{Golden, LinearParams};

type Named<T> = (&'static str, T, f64);

/// The ratio in the golden file with the equivalent keys; `l1_ratio` has no effect with `l1`.
const PENALTIES: [Named<Penalty>; 2] = [("1.0", Penalty::L1, 0.5), ("0.3", Penalty::ElasticNet, 0.3)];

/// Combines a penalty with values of `C` and class weights.
fn with_cases(penalty: Named<Penalty>) -> [(Named<Penalty>, Named<ClassWeight>); 3] {
    [
        ("", ClassWeight::None, 0.5),
        ("-0.1", ClassWeight::None, 0.1),
        ("-balanced", ClassWeight::Balanced, 0.5),
    ]
    .map(|case| (penalty, case))
}

// effect: head.linear.penalty, head.linear.l1_ratio, head.linear.C
// effect: head.linear.C x head.linear.penalty, head.linear.class_weight x head.linear.penalty
#[test]
fn l1_and_elastic_net_match_saga_with_the_same_zero_weights() {
    let golden = Golden::load("elastic/scikit-learn.safetensors");
    for name in ["two", "five"] {
        let set = golden.set(name);
        for ((ratio, penalty, l1_ratio), (case, class_weight, c)) in
            PENALTIES.into_iter().flat_map(with_cases)
        {
            let case = format!("{name}.{ratio}{case}");
            let config = LinearConfig {
                c: c.into(),
                class_weight,
                penalty,
                l1_ratio,
                tol: 1e-9,
                max_iter: 10_000,
                ..LinearConfig::default()
            };
            let head = config.fit(&set.training_set(), &FitContext::silent()).unwrap().head;
            let (mut found, mut expected) =
                (LinearParams::difference_of_two(&*head), LinearParams::golden(&golden, &case));
            let zero_mask =
                |params: &LinearParams| -> Vec<bool> { params.weight.iter().map(|&w| w == 0.0).collect() };
            assert_eq!(zero_mask(&found), zero_mask(&expected), "{case}");
            if set.classes > 2 {
                // Neither the losses nor the penalty depend on the mean of the intercepts.
                for LinearParams { bias, .. } in [&mut found, &mut expected] {
                    let mean = bias.iter().sum::<f64>() / bias.len() as f64;
                    bias.iter_mut().for_each(|bias| *bias -= mean);
                }
            }
            found.assert_near(&expected, 1e-4, &case);
        }
    }
}
