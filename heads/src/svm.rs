//! The head `svm`: linear support vector machines.

mod problem;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::affine::Affine;
use crate::check::{require_at_least_one, require_positive};
use crate::data::{ClassWeight, TrainingSet};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, HeadShape, History};
use crate::regularization::Regularization;
use crate::solver::cross_validation::{Choice, FoldData, choose_by_cross_validation};
pub use crate::solver::dual_coordinate_descent::SvmLoss;
use crate::solver::dual_coordinate_descent::{self, SvmSolution};
use crate::tensors::Tensors;
use problem::SvmProblem;

/// Candidates of `C = "auto"`, ascending, so that ties go to the strongest regularization.
const PATH: [f64; 9] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0];

/// Relative duality gap that is enough to count the errors on held-out photos.
const PATH_TOLERANCE: f64 = 5e-3;

/// Strategy for more than two classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MultiClass {
    /// One problem per class, against the photos of all other classes.
    #[default]
    Ovr,
    /// A single problem for all classes (Crammer and Singer).
    CrammerSinger,
}

/// `[head]` with `kind = "svm"`.
///
/// The objective is LIBLINEAR's, and so scikit-learn's `LinearSVC`. With `multi_class = "ovr"` it is, for
/// each class against the rest, `½ (|w|² + w₀²) + Σ C_i loss_i`, where `w₀` is the weight of a constant
/// feature and gives the intercept. As in scikit-learn, `class_weight` scales the `C` of the class's own
/// samples but not of the rest; with two classes there is one problem, with both weights, whose hyperplane
/// serves both.
///
/// With `multi_class = "crammer-singer"` it is
/// `½ Σ_m (|w_m|² + w_m₀²) + Σ C_i max_m ([m ≠ y_i] + s_im - s_iy)`, where `s_im` is the score of sample `i`
/// for class `m`, and `class_weight` scales the `C` of each sample by its class. `loss` has no effect, as in
/// scikit-learn. Two classes are no special case: their weights are each other's negative.
///
/// A warm start does not change the optimum. It starts from the dual coefficients that the given weights
/// would have at the optimum: for the squared hinge all of them, `2 C_i ξ_i`; for the others, all except
/// those of samples right at their margin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SvmConfig {
    /// Whether each class is separated from the rest on its own, or all classes in a single problem.
    pub multi_class: MultiClass,
    /// Loss of photos inside the margin; no effect with `crammer-singer`.
    pub loss: SvmLoss,
    /// Weight of the losses relative to `½ |w|²` (inverse regularization strength). `"auto"` takes the one of
    /// nine values from 1e-4 to 1 with the fewest errors in stratified cross-validation. The default suits
    /// raw ResNet features, which are positive with squares that sum to hundreds: scikit-learn's default of 1
    /// fits every training photo and generalizes less.
    #[serde(rename = "C")]
    pub c: Regularization,
    /// Value of the constant feature whose weight gives the intercept: larger values regularize the intercept
    /// less.
    pub intercept_scaling: f64,
    /// Duality gap, relative to the objective, at which the solver stops; greater than 0.
    pub tol: f64,
    /// Maximum number of solver rounds, at least 1.
    pub max_iter: u64,
    /// How much the photos of each class count in the loss.
    pub class_weight: ClassWeight,
    /// Whether to standardize the features to mean 0 and variance 1 before the fit.
    pub standardize: bool,
    /// Random seed of the order in which the solver visits the photos; the optimum does not depend on it.
    pub seed: u64,
}

impl Default for SvmConfig {
    /// The values of the keys that a config leaves out. The field [`c`](Self::c) says why `C` is 0.01.
    fn default() -> Self {
        Self {
            multi_class: MultiClass::Ovr,
            loss: SvmLoss::SquaredHinge,
            c: Regularization::Fixed(0.01),
            intercept_scaling: 1.0,
            tol: 1e-5,
            max_iter: 1000,
            class_weight: ClassWeight::None,
            standardize: false,
            seed: 0,
        }
    }
}

impl HeadConfig for SvmConfig {
    const KIND: &'static str = "svm";
    const ABOUT: &'static str = "linear support vector machines, one class against the rest or all at once";
    const SUPPORTS_WARM_START: bool = true;
    type Head = Affine;

    /// Checks that the hyperparameters are in range.
    fn check(&self) -> Result<(), HeadError> {
        self.c.check("C")?;
        require_positive("intercept_scaling", self.intercept_scaling)?;
        require_positive("tol", self.tol)?;
        require_at_least_one("max_iter", self.max_iter)
    }

    /// Fits the head with the `C` of the config or, for `"auto"`, with the candidate that makes the fewest
    /// errors in cross-validation. The history holds the progress of the solver.
    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Affine>, HeadError> {
        let (c, chosen) = match self.c {
            Regularization::Fixed(c) => (c, None),
            Regularization::Auto => {
                let Choice { value, history } =
                    choose_by_cross_validation(data, "C", &PATH, |fold| self.errors_along_path(&fold))?;
                for row in history.rows {
                    tracing::debug!("svm with C = {}: error rate {:.4} on held-out photos", row[0], row[1]);
                }
                (value, Some(value))
            }
        };
        let problem = SvmProblem::new(self, data);
        let initial_dual_coef =
            context.warm_start.map(|warm_start| problem.warm_start_dual_coef(warm_start, c)).transpose()?;
        let solution = problem.solve(c, initial_dual_coef.as_deref(), self.tol, context.on_step);
        problem.warn_unless_converged(&solution);
        let history = self.history(&solution, data.classes());
        Ok(Fitted::with_history(problem.to_affine(&solution)?, history).with_chosen("C", chosen))
    }

    /// Restores a fitted head from its saved tensors.
    fn load(&self, tensors: &Tensors) -> Result<Affine, HeadError> {
        Affine::load(tensors, "")
    }

    /// The configurations that the command `compare` fits to find the best: this one with
    /// three values of `C` in place of its own.
    fn candidate_configs(&self) -> Vec<Self> {
        [0.001, 0.01, 0.1].map(|c| Self { c: Regularization::Fixed(c), ..self.clone() }).into()
    }

    /// Estimated memory of a fit in bytes for data of this `shape`, besides the features, to warn the user
    /// before it starts: the state of the solver, and copies of the features (the standardized ones, and
    /// those of a fold in cross-validation).
    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        let [samples, features, classes] = [shape.samples, shape.features, shape.classes].map(|n| n as u64);
        let weight_bytes = classes * features * size_of::<f64>() as u64;
        let copies = u64::from(self.standardize) + u64::from(self.c == Regularization::Auto);
        let solver = match self.multi_class {
            // Dual coefficients and weights, first per class and then joined.
            MultiClass::Ovr => {
                let threads = rayon::current_num_threads().min(shape.classes) as u64;
                let dual_bytes = classes * samples * size_of::<f64>() as u64;
                2 * (dual_bytes + weight_bytes) + threads * dual_coordinate_descent::memory_bytes(shape)
            }
            // Dual coefficients and the classes that may change; weights, and packed weights for evaluations.
            MultiClass::CrammerSinger => {
                classes * samples * (size_of::<f64>() + size_of::<u32>()) as u64 + 3 * weight_bytes
            }
        };
        copies * samples * features * size_of::<f32>() as u64 + solver
    }
}

impl SvmConfig {
    /// For `C = "auto"`, fits on one fold of a cross-validation with each `C` of [`PATH`]; returns the number
    /// of wrong predictions on the held-out samples for each. Each fit starts from the dual coefficients of
    /// the previous one, which saves time.
    fn errors_along_path(&self, fold: &FoldData<'_>) -> Result<Vec<f64>, HeadError> {
        let problem = SvmProblem::new(self, fold.fit);
        let mut initial_dual_coef: Option<Vec<f64>> = None;
        let errors = PATH.iter().map(|&c| {
            let solution =
                problem.solve(c, initial_dual_coef.as_deref(), self.tol.max(PATH_TOLERANCE), &|_, _| {});
            let logits = problem.to_affine(&solution)?.logits(fold.held_out.features())?;
            initial_dual_coef = Some(solution.dual_coef);
            let predicted = logits.argmax();
            Ok(predicted.iter().zip(fold.held_out.labels()).filter(|(class, label)| class != label).count()
                as f64)
        });
        errors.collect()
    }

    /// The history of the fit, for the user: how objective and duality gap went in each round of the solver,
    /// for each binary problem if there is more than one.
    fn history(&self, solution: &SvmSolution, classes: usize) -> History {
        // With two classes there is one problem, that of class 1.
        let first = usize::from(classes == 2);
        let rows = solution.outcomes.iter().enumerate().flat_map(|(index, (progress, _))| {
            (1..).zip(progress).map(move |(round, p)| {
                let round = f64::from(round);
                match self.multi_class {
                    MultiClass::Ovr => vec![round, (first + index) as f64, p.primal, p.gap],
                    MultiClass::CrammerSinger => vec![round, p.primal, p.gap],
                }
            })
        });
        let columns = match self.multi_class {
            MultiClass::Ovr => vec!["iteration", "class", "objective", "duality_gap"],
            MultiClass::CrammerSinger => vec!["iteration", "objective", "duality_gap"],
        };
        History { columns, rows: rows.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_head, check_head_with};
    use crate::data::FeatureMatrix;
    use crate::head::Head;

    /// Expected bytes computed by hand: the size of each array.
    #[test]
    fn memory_is_the_size_of_the_arrays_of_a_fit() {
        let shape = HeadShape { samples: 3000, features: 50, classes: 7 };
        let all_at_once = SvmConfig {
            multi_class: MultiClass::CrammerSinger,
            c: Regularization::Fixed(1.0),
            ..SvmConfig::default()
        };
        // Dual coefficients in f64, class numbers in u32; weights, twice, and packed.
        let solver = 3000 * 7 * (8 + 4) + 3 * (7 * 50 * 8);
        assert_eq!(all_at_once.memory_bytes(shape), solver);
        // One copy of the features in f32 for each of the two.
        let copy = 3000 * 50 * 4;
        let standardized = SvmConfig { standardize: true, ..all_at_once };
        assert_eq!(standardized.memory_bytes(shape), copy + solver);
        let chosen = SvmConfig { c: Regularization::Auto, ..standardized.clone() };
        assert_eq!(chosen.memory_bytes(shape), 2 * copy + solver);
        // Dual coefficients and weights twice; for each thread 12 bytes for each pair of the 1280 cached
        // samples, two blocks of 128 rows in f64, and 40 bytes per sample.
        let ovr_bytes = |threads: u64| {
            2 * (7 * 3000 * 8 + 7 * 50 * 8) + threads * (12 * 1280 * 1280 + 2 * 128 * 50 * 8 + 40 * 3000)
        };
        let config = SvmConfig { multi_class: MultiClass::Ovr, standardize: false, ..standardized };
        for (threads, busy) in [(1, 1), (2, 2), (16, 7)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| config.memory_bytes(shape)), ovr_bytes(busy));
        }
    }

    #[test]
    fn svm_passes_check_head() {
        check_head::<SvmConfig>();
    }

    #[test]
    fn svm_with_hinge_loss_on_standardized_features_passes_check_head() {
        check_head_with(&SvmConfig { loss: SvmLoss::Hinge, standardize: true, ..SvmConfig::default() });
    }

    #[test]
    fn svm_with_crammer_singer_passes_check_head() {
        check_head_with(&SvmConfig {
            multi_class: MultiClass::CrammerSinger,
            c: Regularization::Fixed(1.0),
            ..SvmConfig::default()
        });
    }

    #[test]
    fn svm_with_auto_c_passes_check_head() {
        check_head_with(&SvmConfig { c: Regularization::Auto, ..SvmConfig::default() });
    }

    #[test]
    fn two_classes_share_a_hyperplane() {
        let values = [0.1, 2.0, 0.9, 1.5, 3.0, 0.3, 2.5, 1.1];
        let data = TrainingSet::new(FeatureMatrix::new(&values, 2).unwrap(), &[0, 0, 1, 1], 2).unwrap();
        let head = SvmConfig::default().fit(&data, &FitContext::silent()).unwrap().head;
        for row in head.logits(data.features()).unwrap().rows() {
            assert_eq!(row[0], -row[1]);
        }
    }

    /// The held-out set has its classes swapped: all its predictions are wrong, those on the fitted set are
    /// right.
    #[test]
    fn candidates_are_scored_on_the_held_out_samples() {
        let values = [0.1, 2.0, 0.9, 1.5, 3.0, 0.3, 2.5, 0.1];
        let features = FeatureMatrix::new(&values, 2).unwrap();
        let fit = TrainingSet::new(features, &[0, 0, 1, 1], 2).unwrap();
        let held_out = TrainingSet::new(features, &[1, 1, 0, 0], 2).unwrap();
        for multi_class in [MultiClass::Ovr, MultiClass::CrammerSinger] {
            let config = SvmConfig { multi_class, ..SvmConfig::default() };
            let errors_on = |held_out| config.errors_along_path(&FoldData { fit: &fit, held_out }).unwrap();
            // The first values regularize so strongly that they may not separate the classes.
            assert_eq!((&errors_on(&held_out)[4..], &errors_on(&fit)[4..]), (&[4.0; 5][..], &[0.0; 5][..]));
        }
    }

    /// Photos of a common class at -1, of a rare one at 1, and of both at 0, where class weights decide.
    // effect: head.svm.C x head.svm.class_weight
    #[test]
    fn candidate_errors_match_separate_fits_for_every_setting() {
        let points = [(-1.0f32, 0, 60), (0.0, 0, 12), (0.0, 1, 8), (1.0, 1, 10)];
        let rows = || points.iter().flat_map(|&(x, label, n)| std::iter::repeat_n((x, label), n));
        let (values, labels): (Vec<f32>, Vec<u32>) = rows().unzip();
        let data = TrainingSet::new(FeatureMatrix::new(&values, 1).unwrap(), &labels, 2).unwrap();
        let base = SvmConfig { tol: 1e-6, ..SvmConfig::default() };
        let balanced = SvmConfig { class_weight: ClassWeight::Balanced, ..base.clone() };
        let mut errors = Vec::new();
        for config in [base, balanced] {
            let found = config.errors_along_path(&FoldData { fit: &data, held_out: &data }).unwrap();
            for (found, &c) in found.iter().zip(&PATH) {
                let config = SvmConfig { c: c.into(), ..config.clone() };
                let head = config.fit(&data, &FitContext::silent()).unwrap().head;
                let predicted = head.logits(data.features()).unwrap().argmax();
                let n_wrong = predicted.iter().zip(&labels).filter(|(a, b)| a != b).count();
                assert_eq!(*found, n_wrong as f64, "{config:?}");
            }
            errors.push(found);
        }
        assert!(errors[0] != errors[1], "{errors:?}");
    }
}
