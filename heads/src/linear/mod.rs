//! The head `linear`: multinomial logistic regression.

mod objective;

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::affine::Affine;
use crate::check::{require, require_at_least_one, require_positive};
use crate::data::{ClassWeight, TrainingSet};
use crate::differentiable::{Differentiable, ForwardMode};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, HeadShape, History};
use crate::regularization::Regularization;
use crate::solver::cross_validation::{FoldData, choose_by_cross_validation};
use crate::solver::gradient::mlp_learner::MlpLearner;
use crate::solver::gradient::{self, LrSchedule, Recipe, WeightedSamples};
use crate::standardize::PreparedFeatures;
use crate::tensors::Tensors;
use objective::LogisticProblem;

/// The regularization path: the values of `C` that `"auto"` compares, two per decade.
const PATH: [f64; 9] = [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0];

/// Tolerance of the fits that `"auto"` compares; a tighter one does not change which is best.
const PATH_TOLERANCE: f64 = 1e-4;

/// The optimizer of `linear`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinearSolver {
    /// L-BFGS on all photos, to convergence.
    #[default]
    Lbfgs,
    /// Adam on batches of photos, for a number of epochs.
    Adam,
}

/// Penalty on large weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Penalty {
    /// Half the sum of squares of the weights, `½ |w|²`.
    #[default]
    L2,
    /// The sum of the absolute weights, `Σ |w_i|`: many weights become exactly 0.
    L1,
    /// A mixture of the L1 and the L2 penalty, `l1_ratio Σ |w_i| + (1 - l1_ratio) ½ |w|²`.
    ElasticNet,
}

/// `[head]` with `kind = "linear"`.
///
/// The objective is that of scikit-learn's `LogisticRegression`: `C Σ s_i log-loss_i + penalty(w)`, with a
/// free intercept and the class weight `s_i` of each sample. As in scikit-learn, with two classes `w` is the
/// difference of the two rows of weights.
///
/// `C = "auto"` chooses the value with the lowest log-loss on held-out photos in 5-fold stratified
/// cross-validation; each fit of the path starts from the previous one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LinearConfig {
    /// Optimizer that minimizes the objective.
    pub solver: LinearSolver,
    /// Weight of the losses relative to the penalty (inverse regularization strength): a number greater than
    /// 0, or `"auto"` for the one of nine values from 1e-3 to 10 with the lowest log-loss in
    /// cross-validation.
    #[serde(rename = "C")]
    pub c: Regularization,
    /// Penalty on large weights; with `adam` only `l2`.
    pub penalty: Penalty,
    /// `elastic-net`: share of the L1 penalty, from 0 to 1.
    pub l1_ratio: f64,
    /// How much the photos of each class count in the loss.
    pub class_weight: ClassWeight,
    /// Whether to standardize the features to mean 0 and variance 1 before the fit.
    pub standardize: bool,
    /// `lbfgs`: stop when the largest gradient component of the objective divided by `C Σ s_i` is at most
    /// this.
    pub tol: f64,
    /// `lbfgs`: maximum number of iterations.
    pub max_iter: u64,
    /// `adam`: number of epochs (passes over the training photos).
    pub epochs: u64,
    /// `adam`: number of photos per step.
    pub batch_size: u64,
    /// `adam`: learning rate, the same in every step.
    pub lr: f64,
    /// `adam`: random seed of the order of the photos.
    pub seed: u64,
}

impl Default for LinearConfig {
    /// The hyperparameters of a `linear` head when the config does not set them.
    fn default() -> Self {
        Self {
            solver: LinearSolver::Lbfgs,
            c: Regularization::Fixed(1.0),
            penalty: Penalty::L2,
            l1_ratio: 0.5,
            class_weight: ClassWeight::None,
            standardize: false,
            tol: 1e-5,
            max_iter: 1000,
            epochs: 9,
            batch_size: 128,
            lr: 1e-3,
            seed: 0,
        }
    }
}

impl HeadConfig for LinearConfig {
    const KIND: &'static str = "linear";
    const ABOUT: &'static str = "multinomial logistic regression";
    const SUPPORTS_WARM_START: bool = true;
    type Head = Affine;

    /// Checks that the hyperparameters are in range, and that the solver `adam` supports the others.
    fn check(&self) -> Result<(), HeadError> {
        self.c.check("C")?;
        let in_range = (0.0..=1.0).contains(&self.l1_ratio);
        require(in_range, "l1_ratio", &self.l1_ratio, "must be between 0 and 1")?;
        if self.solver == LinearSolver::Adam {
            require(
                self.penalty == Penalty::L2,
                "penalty",
                &self.penalty,
                "must be l2 with solver = \"adam\"",
            )?;
            require(self.c != Regularization::Auto, "C", &"auto", "must be a number with solver = \"adam\"")?;
        }
        require_positive("tol", self.tol)?;
        require_at_least_one("max_iter", self.max_iter)?;
        require_at_least_one("epochs", self.epochs)?;
        require_at_least_one("batch_size", self.batch_size)?;
        require_positive("lr", self.lr)
    }

    /// Fits with the configured solver, from the warm start of `context` if there is one; with `C = "auto"`
    /// it first chooses `C`.
    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Affine>, HeadError> {
        let Some(c) = self.c.fixed() else { return self.fit_choosing_c(data, context) };
        let prepared = PreparedFeatures::new(data.features(), self.standardize);
        let weights = data.class_weights(self.class_weight);
        let start = context.warm_start.map(|start| Affine::load_warm_start(start, data)).transpose()?;
        let (map, history) = match self.solver {
            LinearSolver::Lbfgs => {
                let problem = LogisticProblem::new(self, data, &prepared, &weights);
                let point = start.map_or_else(|| problem.zero_point(), |start| problem.to_point(&start));
                problem.fit(c, point, context)?
            }
            LinearSolver::Adam => self.fit_adam(c, data, &prepared, &weights, start.as_ref(), context)?,
        };
        Ok(Fitted::with_history(map, history))
    }

    /// Restores a fitted head from its saved tensors.
    fn load(&self, tensors: &Tensors) -> Result<Affine, HeadError> {
        Affine::load(tensors, "")
    }

    /// The head as a function that candle differentiates, for fine-tuning a backbone.
    fn differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }

    /// The configurations that the command `compare` fits to find the best: this one with
    /// three values of `C` in place of its own; with Adam, whose penalty is not `C`, this one only.
    fn candidate_configs(&self) -> Vec<Self> {
        if self.solver == LinearSolver::Adam {
            return vec![self.clone()];
        }
        [0.01, 0.1, 1.0].map(|c| Self { c: Regularization::Fixed(c), ..self.clone() }).into()
    }

    /// Estimated memory of a fit in bytes. L-BFGS holds about 30 vectors of the size of the weights (points,
    /// gradients and the steps of its history) and the gradients of the logits, in `f64`. Standardized
    /// features are a copy in `f32`.
    fn memory_bytes(&self, HeadShape { samples, features, classes }: HeadShape) -> u64 {
        let weights = (features * classes) as u64;
        let standardized_bytes = if self.standardize { 4 * (samples * features) as u64 } else { 0 };
        let solver_bytes = match self.solver {
            LinearSolver::Lbfgs => 8 * (30 * weights + (samples * classes) as u64),
            LinearSolver::Adam => MlpLearner::memory_bytes(
                &[[classes, features]],
                usize::try_from(self.batch_size).unwrap_or(usize::MAX),
            ),
        };
        solver_bytes + standardized_bytes
    }
}

impl LinearConfig {
    /// Fits a head for `C = "auto"`: chooses the inverse regularization strength `C` of [`PATH`] with the
    /// lowest log-loss in cross-validation, then fits on all samples with it. The history of the result has
    /// the held-out loss of each candidate.
    fn fit_choosing_c(
        &self,
        data: &TrainingSet<'_>,
        context: &FitContext<'_>,
    ) -> Result<Fitted<Affine>, HeadError> {
        // A looser tolerance is enough to find the best `C`.
        let quick_config = Self { tol: self.tol.max(PATH_TOLERANCE), ..self.clone() };
        let choice = choose_by_cross_validation(data, "C", &PATH, |FoldData { fit, held_out }| {
            let prepared = PreparedFeatures::new(fit.features(), self.standardize);
            let weights = fit.class_weights(self.class_weight);
            let problem = LogisticProblem::new(&quick_config, fit, &prepared, &weights);
            // The fit for each `C` leaves its optimum here, where the next fit starts.
            let mut point = problem.zero_point();
            PATH.iter().map(|&c| problem.held_out_loss(c, &mut point, held_out)).collect()
        })?;
        let best = Self { c: Regularization::Fixed(choice.value), ..self.clone() };
        let fitted = Fitted { history: choice.history, ..best.fit(data, context)? };
        Ok(fitted.with_chosen("C", Some(choice.value)))
    }

    /// Fits with Adam on minibatches, with the inverse regularization strength `c`, from the affine map
    /// `start` of a warm start or else from 0. `class_weights` `[C]` has the weight in the loss of a sample
    /// of each class. Returns the fitted map and the history, one row per epoch. Both maps are for the raw
    /// features; Adam works on the `prepared` (possibly standardized) ones.
    fn fit_adam(
        &self,
        c: f64,
        data: &TrainingSet<'_>,
        prepared: &PreparedFeatures<'_>,
        class_weights: &[f64],
        start: Option<&Affine>,
        context: &FitContext<'_>,
    ) -> Result<(Affine, History), HeadError> {
        let sum: f64 = data.labels().iter().map(|&label| class_weights[label as usize]).sum();
        let recipe = Recipe {
            lr: self.lr,
            schedule: LrSchedule::Constant,
            weight_decay: 0.0,
            // The objective, divided by `C` times the sum of the sample weights, is the mean loss plus this
            // factor times `½ |W|²`.
            penalty: l2_factor(data.classes()) / (c * sum),
            epochs: self.epochs,
            batch_size: usize::try_from(self.batch_size).unwrap_or(usize::MAX),
            seed: self.seed,
            early_stopping: None,
        };
        let initial = match start {
            Some(start) => start.for_prepared_features(prepared)?,
            None => Affine::zeros(data.features().width(), data.classes()),
        };
        let samples = WeightedSamples { data, features: prepared.features(), class_weights };
        let learner = MlpLearner::new(vec![initial], None);
        let (maps, history) = gradient::fit(learner, samples, &recipe, context)?;
        Ok((maps[0].for_raw_features(prepared)?, history))
    }
}

/// Factor of `½ |W|²` over the rows of all classes that is equivalent to the penalty `½ |w|²`. With two
/// classes `w = w₁ - w₀`, and at the optimum `w₁ = -w₀`, so that `½ |w|² = |W|²`.
fn l2_factor(classes: usize) -> f64 {
    if classes == 2 { 2.0 } else { 1.0 }
}

impl std::fmt::Display for Penalty {
    /// Writes the value of the key `penalty`, for error messages.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::L1 => "l1",
            Self::ElasticNet => "elastic-net",
        })
    }
}

impl Differentiable for LinearConfig {
    /// The weights `[C, F]` and biases `[C]` from which Adam and fine-tuning start, all 0: no class is
    /// preferred, and as the objective is convex, a fit of this head alone may start anywhere.
    fn initial_parameters(&self, width: usize, classes: usize) -> Result<Tensors, HeadError> {
        Affine::zeros(width, classes).tensors()
    }

    fn forward(&self, parameters: &Tensors, features: &Tensor, _: ForwardMode) -> Result<Tensor, HeadError> {
        Affine::forward(parameters, "", features)
    }
}

#[cfg(test)]
mod tests {
    use headstock_split::{KeyedRng, stratified_folds};

    use super::*;
    use crate::conformance::{check_head, check_head_with};
    use crate::data::FeatureMatrix;
    use crate::head::Head;

    #[test]
    fn linear_passes_check_head() {
        check_head::<LinearConfig>();
    }

    #[test]
    fn linear_with_adam_passes_check_head() {
        check_head_with(&LinearConfig { solver: LinearSolver::Adam, epochs: 100, ..LinearConfig::default() });
    }

    #[test]
    fn linear_on_standardized_features_passes_check_head() {
        check_head_with(&LinearConfig { standardize: true, ..LinearConfig::default() });
    }

    #[test]
    fn linear_with_auto_c_passes_check_head() {
        check_head_with(&LinearConfig { c: Regularization::Auto, ..LinearConfig::default() });
    }

    #[test]
    fn linear_with_elastic_net_passes_check_head() {
        let elastic = LinearConfig { penalty: Penalty::ElasticNet, l1_ratio: 0.2, ..LinearConfig::default() };
        check_head_with(&LinearConfig { c: 10.0.into(), ..elastic });
    }

    /// Three classes of 40 features, of which the first three are informative.
    fn noisy(samples: usize) -> (Vec<f32>, Vec<u32>) {
        let mut rng = KeyedRng::new(&[11]);
        let labels: Vec<u32> = (0..samples as u32).map(|i| i % 3).collect();
        let value = |label: u32, feature: u32, noise: f64| {
            (noise * 3.0 + f64::from(u8::from(label == feature))) as f32
        };
        let values = labels.iter().flat_map(|&label| (0..40).map(move |feature| (label, feature)));
        (values.map(|(label, feature)| value(label, feature, rng.uniform())).collect(), labels)
    }

    #[test]
    fn auto_picks_the_value_with_the_lowest_held_out_loss() {
        let (values, labels) = noisy(150);
        let data = TrainingSet::new(FeatureMatrix::new(&values, 40).unwrap(), &labels, 3).unwrap();
        let auto = LinearConfig { c: Regularization::Auto, ..LinearConfig::default() };
        let fitted = auto.fit(&data, &FitContext::silent()).unwrap();
        let [("C", chosen)] = fitted.chosen[..] else { panic!("{:?}", fitted.chosen) };
        let losses: Vec<f64> = fitted.history.rows.iter().map(|row| row[1]).collect();
        let best = (0..PATH.len()).min_by(|&a, &b| losses[a].total_cmp(&losses[b])).unwrap();
        assert_eq!((PATH[best], losses.len()), (chosen, PATH.len()));
        assert!(
            best > 0 && best < PATH.len() - 1,
            "noise wants some of the penalty, and not all: {losses:?}"
        );

        let given = LinearConfig { c: chosen.into(), ..LinearConfig::default() };
        assert_eq!(fitted.head, given.fit(&data, &FitContext::silent()).unwrap().head);
    }

    /// The mean log-loss over the held-out rows of each fold, from separate fits on the other rows.
    fn refit_loss(config: &LinearConfig, data: &TrainingSet<'_>) -> f64 {
        let (mut sum, mut count) = (0.0, 0);
        for fold in stratified_folds(data.labels(), data.groups(), 5) {
            let subset = |rows: &[usize]| -> (Vec<f32>, Vec<u32>) {
                let values = rows.iter().flat_map(|&row| data.features().row(row)).copied();
                (values.collect(), rows.iter().map(|&row| data.labels()[row]).collect())
            };
            let width = data.features().width();
            let (fit, held_out) = (subset(&fold.train), subset(&fold.test));
            let set =
                TrainingSet::new(FeatureMatrix::new(&fit.0, width).unwrap(), &fit.1, data.classes()).unwrap();
            let head = config.fit(&set, &FitContext::silent()).unwrap().head;
            let probabilities =
                head.logits(FeatureMatrix::new(&held_out.0, width).unwrap()).unwrap().softmax();
            for (row, &label) in probabilities.chunks_exact(data.classes()).zip(&held_out.1) {
                sum -= f64::from(row[label as usize]).ln();
                count += 1;
            }
        }
        sum / f64::from(count)
    }

    // effect: data.group x head.linear.C, features.views x head.linear.C
    // effect: head.linear.C x head.linear.class_weight
    // effect: head.linear.C x head.linear.penalty, head.linear.C x head.linear.standardize
    #[test]
    fn candidate_losses_match_refits_on_each_fold_for_every_setting() {
        // 60 photos of three classes in two views each; the third class is rare, and patients have photos of
        // two classes.
        let (mut values, labels) = noisy(60);
        let labels: Vec<u32> =
            labels.into_iter().enumerate().map(|(i, l)| if i % 2 == 0 { l } else { l.min(1) }).collect();
        let mut rng = KeyedRng::new(&[2]);
        values.extend(values.clone().into_iter().map(|value| value + 0.1 * rng.uniform() as f32));
        let labels = [&labels[..], &labels].concat();
        let groups: Vec<u32> =
            (0..120).map(|row| if row % 60 < 12 { row % 60 / 4 } else { row % 60 }).collect();
        let data = TrainingSet::new(FeatureMatrix::new(&values, 40).unwrap(), &labels, 3).unwrap();
        let grouped = data.with_groups(&groups).unwrap();
        let base = LinearConfig { tol: 1e-7, ..LinearConfig::default() };
        let mut losses: Vec<Vec<f64>> = Vec::new();
        for (config, data) in [
            (base.clone(), grouped),
            (base.clone(), data),
            (LinearConfig { class_weight: ClassWeight::Balanced, ..base.clone() }, grouped),
            (LinearConfig { standardize: true, ..base.clone() }, grouped),
            (LinearConfig { penalty: Penalty::L1, ..base }, grouped),
        ] {
            let auto = LinearConfig { c: Regularization::Auto, tol: 1e-3, ..config.clone() };
            let history = auto.fit(&data, &FitContext::silent()).unwrap().history;
            let found: Vec<f64> = [2, 4, 6].map(|k| history.rows[k][1]).into();
            for (found, c) in found.iter().zip([1e-2, 0.1, 1.0]) {
                let expected = refit_loss(&LinearConfig { c: c.into(), ..config.clone() }, &data);
                assert!(
                    (found / expected - 1.0).abs() < 0.01,
                    "{config:?} with {c}: {found}, not {expected}"
                );
            }
            losses.push(found);
        }
        // Each setting makes a difference.
        for other in &losses[1..] {
            let differs = |(a, b): (&f64, &f64)| (a / b - 1.0).abs() > 0.03;
            assert!(losses[0].iter().zip(other).any(differs), "{losses:?}");
        }
    }

    #[test]
    fn a_warm_start_reaches_the_same_optimum_sooner_even_with_a_new_class() {
        let (values, labels) = noisy(150);
        let features = FeatureMatrix::new(&values, 40).unwrap();
        let two: Vec<usize> = (0..150).filter(|&row| labels[row] < 2).collect();
        let earlier: Vec<f32> = two.iter().flat_map(|&row| features.row(row)).copied().collect();
        let earlier_labels: Vec<u32> = two.iter().map(|&row| labels[row]).collect();
        let earlier =
            TrainingSet::new(FeatureMatrix::new(&earlier, 40).unwrap(), &earlier_labels, 2).unwrap();
        let data = TrainingSet::new(features, &labels, 3).unwrap();
        for standardize in [false, true] {
            let config = LinearConfig { standardize, tol: 1e-8, ..LinearConfig::default() };
            let cold = config.fit(&data, &FitContext::silent()).unwrap();
            let warm_from = |start: &Affine| {
                let tensors = start.tensors().unwrap();
                config.fit(&data, &FitContext::silent().with_warm_start(&tensors)).unwrap()
            };
            let again = warm_from(&cold.head);
            assert!(again.history.rows.len() * 4 < cold.history.rows.len(), "from its own optimum");
            let grown = warm_from(&config.fit(&earlier, &FitContext::silent()).unwrap().head);
            assert!(grown.history.rows[0][1] < cold.history.rows[0][1], "it starts lower");
            for warm in [again, grown] {
                let logits = [&cold, &warm].map(|fitted| fitted.head.logits(features).unwrap().softmax());
                assert!(logits[0].iter().zip(&logits[1]).all(|(a, b)| (a - b).abs() < 1e-4));
            }
        }
        let five = tensors_of_five_features();
        let error =
            LinearConfig::default().fit(&data, &FitContext::silent().with_warm_start(&five)).unwrap_err();
        assert!(matches!(error, HeadError::Width { expected: 5, found: 40 }), "{error}");
    }

    fn tensors_of_five_features() -> Tensors {
        LinearConfig::default().initial_parameters(5, 2).unwrap()
    }

    const VALUES: [f32; 16] =
        [0.1, 2.0, 0.9, 1.5, 3.0, 0.3, 2.5, 1.1, 0.2, 0.2, 1.4, 2.2, 0.5, 2.8, 1.0, 0.6];

    fn fit(labels: &[u32], classes: usize) -> Affine {
        let data = TrainingSet::new(FeatureMatrix::new(&VALUES, 2).unwrap(), labels, classes).unwrap();
        let config = LinearConfig { tol: 1e-9, ..LinearConfig::default() };
        *config.fit(&data, &FitContext::silent()).unwrap().head
    }

    fn probabilities(head: &Affine) -> Vec<Vec<f32>> {
        let logits = head.logits(FeatureMatrix::new(&VALUES, 2).unwrap()).unwrap();
        logits.softmax().chunks_exact(head.classes()).map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn a_class_without_samples_has_probability_0_and_leaves_the_others_unchanged() {
        let among_three = fit(&[0, 0, 2, 2, 0, 2, 0, 2], 3);
        let among_two = fit(&[0, 0, 1, 1, 0, 1, 0, 1], 2);
        for (three, two) in probabilities(&among_three).iter().zip(probabilities(&among_two)) {
            assert_eq!(*three, [two[0], 0.0, two[1]]);
        }
    }

    #[test]
    fn one_class_is_certain() {
        assert!(probabilities(&fit(&[0; 8], 1)).iter().all(|row| *row == [1.0]));
        assert!(probabilities(&fit(&[1; 8], 3)).iter().all(|row| *row == [0.0, 1.0, 0.0]));
    }
}
