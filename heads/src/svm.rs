//! The head `svm`: linear support vector machines.

mod problem;

use serde::{Deserialize, Serialize};

use crate::affine::Affine;
use crate::check::{require_at_least_one, require_positive};
use crate::data::{ClassWeight, TrainingSet};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, HeadShape, History, HyperparameterInfo, Tensors};
use crate::params;
use crate::regularization::Regularization;
use crate::solver::cross_validation::{Choice, FoldData, choose_by_cross_validation};
use crate::solver::dual_coordinate_descent;
use crate::solver::one_vs_rest::SvmSolution;
use problem::SvmProblem;

/// What `C = "auto"` chooses among, ascending, so that of equals the strongest regularisation wins.
const PATH: [f64; 9] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0];

/// The duality gap, relative to the objective, that is enough to count the errors on held-out photos.
const PATH_TOLERANCE: f64 = 5e-3;

/// What a photo within a margin costs, for `ξ = max(0, 1 - y (w·x + b))`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SvmLoss {
    /// `C ξ²`
    #[default]
    SquaredHinge,
    /// `C ξ`
    Hinge,
}

/// How more than two classes are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MultiClass {
    /// A problem for each class against the rest.
    #[default]
    Ovr,
    /// One problem for all classes.
    CrammerSinger,
}

/// `[head]` with `kind = "svm"`.
///
/// The objective is LIBLINEAR's and so scikit-learn's `LinearSVC`. With `multi_class = "ovr"` it is, for each class against
/// the rest, `½ (|w|² + w₀²) + Σ C_i loss_i`, where `w₀` is the weight of a constant feature and makes the intercept. As
/// there, `class_weight` scales the `C` of the class's own samples and not of the rest; and two classes are one
/// problem, with both weights, whose plane serves both.
///
/// With `multi_class = "crammer-singer"` it is `½ Σ_m (|w_m|² + w_m₀²) + Σ C_i max_m ([m ≠ y_i] + s_im - s_iy)`, `s_im` being the
/// score of sample `i` for class `m`, and `class_weight` scales the `C` of each sample by its class. `loss` has no part in
/// it, as in scikit-learn. Two classes are no special case: their weights are each other's opposite.
///
/// A fit that starts from another head's weights has the same optimum. It starts from the multipliers that these weights
/// would have there: for the squared hinge all of them, `2 C_i ξ_i`; for the others, all but those of samples right at
/// their margin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SvmConfig {
    /// Whether each class is told from the rest, or all from each other at once.
    pub multi_class: MultiClass,
    /// What a photo within a margin costs; without effect on `crammer-singer`.
    pub loss: SvmLoss,
    /// Weight of the losses against `½ |w|²`; or the one of nine from 1e-4 to 1 with the fewest errors on stratified folds.
    /// The default suits a ResNet's features as they come: they are positive and their squares sum to hundreds, so that 1,
    /// scikit-learn's default, fits every training photo and generalises less.
    #[serde(rename = "C")]
    pub c: Regularization,
    /// The constant feature that the intercept is the weight of: the larger, the freer the intercept.
    pub intercept_scaling: f64,
    /// The duality gap, relative to the objective, at which to stop.
    pub tol: f64,
    /// Rounds of the solver, at most.
    pub max_iter: u64,
    /// How much a class counts.
    pub class_weight: ClassWeight,
    /// Whether features are brought to mean 0 and variance 1 first.
    pub standardize: bool,
    /// Key of the order in which the solver visits the photos.
    pub seed: u64,
}

impl Default for SvmConfig {
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
    const PARAMETERS: &'static [HyperparameterInfo] = &[
        ("multi_class", "\"ovr\": each class against the rest; \"crammer-singer\": all classes at once"),
        ("loss", "ovr: \"squared-hinge\" or \"hinge\", what a photo within the margin costs"),
        (
            "C",
            "weight of the losses against the size of the weights: higher fits the training photos closer; \"auto\" chooses \
             by folds",
        ),
        (
            "intercept_scaling",
            "the constant feature whose weight is the intercept: larger frees the intercept",
        ),
        ("tol", "the duality gap, relative to the objective, at which to stop"),
        ("max_iter", "rounds of the solver at most"),
        params::CLASS_WEIGHT,
        params::STANDARDIZE,
        ("seed", "another seed, another order in which photos are visited; the optimum is the same"),
    ];
    const SUPPORTS_WARM_START: bool = true;
    type Head = Affine;

    fn check(&self) -> Result<(), HeadError> {
        self.c.check("C")?;
        require_positive("intercept_scaling", self.intercept_scaling)?;
        require_positive("tol", self.tol)?;
        require_at_least_one("max_iter", self.max_iter)
    }

    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Affine>, HeadError> {
        let (c, chosen) = match self.c {
            Regularization::Fixed(c) => (c, None),
            Regularization::Auto => {
                let Choice { value, history } =
                    choose_by_cross_validation(data, "C", &PATH, |fold| self.errors_along_path(&fold))?;
                for row in history.rows {
                    tracing::debug!(
                        "svm with C = {} gets {:.4} of the held-out photos wrong",
                        row[0],
                        row[1]
                    );
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

    fn load(&self, tensors: &Tensors) -> Result<Affine, HeadError> {
        Affine::load(tensors, "")
    }

    fn grid(&self) -> Vec<Self> {
        [0.001, 0.01, 0.1].map(|c| Self { c: Regularization::Fixed(c), ..self.clone() }).into()
    }

    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        let [samples, features, classes] = [shape.samples, shape.features, shape.classes].map(|n| n as u64);
        let weight_bytes = classes * features * size_of::<f64>() as u64;
        let copies = u64::from(self.standardize) + u64::from(self.c == Regularization::Auto);
        let solver = match self.multi_class {
            // The multipliers and the planes, each by class and then together.
            MultiClass::Ovr => {
                let threads = rayon::current_num_threads().min(shape.classes) as u64;
                let dual_bytes = classes * samples * size_of::<f64>() as u64;
                2 * (dual_bytes + weight_bytes) + threads * dual_coordinate_descent::memory_bytes(shape)
            }
            // The multipliers and the classes that move; the planes, and packed for a look at all samples.
            MultiClass::CrammerSinger => {
                classes * samples * (size_of::<f64>() + size_of::<u32>()) as u64 + 3 * weight_bytes
            }
        };
        copies * samples * features * size_of::<f32>() as u64 + solver
    }
}

impl SvmConfig {
    /// How many photos held out of a fold each `C` of the path gets wrong. Each fit starts from the one before.
    fn errors_along_path(&self, fold: &FoldData<'_>) -> Result<Vec<f64>, HeadError> {
        let problem = SvmProblem::new(self, fold.fit);
        let mut initial_dual_coef: Option<Vec<f64>> = None;
        let errors = PATH.iter().map(|&c| {
            let solution =
                problem.solve(c, initial_dual_coef.as_deref(), self.tol.max(PATH_TOLERANCE), &|_, _| {});
            let logits = problem.to_affine(&solution)?.logits(fold.held_out.features())?;
            initial_dual_coef = Some(solution.dual_coef);
            let predicted = logits.argmax();
            Ok(predicted.iter().zip(fold.held_out.labels()).filter(|(a, b)| a != b).count() as f64)
        });
        errors.collect()
    }

    fn history(&self, solution: &SvmSolution, classes: usize) -> History {
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

    /// Bytes by hand: of each array the values in it, and what a value takes.
    #[test]
    fn memory_is_the_size_of_the_arrays_of_a_fit() {
        let shape = HeadShape { samples: 3000, features: 50, classes: 7 };
        let all_at_once = SvmConfig {
            multi_class: MultiClass::CrammerSinger,
            c: Regularization::Fixed(1.0),
            ..SvmConfig::default()
        };
        // Multipliers in f64, numbers of classes in u32; planes, twice, and packed.
        let solver = 3000 * 7 * (8 + 4) + 3 * (7 * 50 * 8);
        assert_eq!(all_at_once.memory_bytes(shape), solver);
        // A copy of the features in f32 for each of the two.
        let copy = 3000 * 50 * 4;
        let standardized = SvmConfig { standardize: true, ..all_at_once };
        assert_eq!(standardized.memory_bytes(shape), copy + solver);
        let chosen = SvmConfig { c: Regularization::Auto, ..standardized.clone() };
        assert_eq!(chosen.memory_bytes(shape), 2 * copy + solver);
        // Multipliers and planes twice; for each thread 12 bytes for each pair of the 1280 samples that are held, two blocks of 128
        // rows in f64, and 40 bytes for each sample.
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

    /// What is held out has its classes exchanged: where it is judged, all is wrong, and where it is fitted on, all is right.
    #[test]
    fn candidates_are_scored_on_the_held_out_samples() {
        let values = [0.1, 2.0, 0.9, 1.5, 3.0, 0.3, 2.5, 0.1];
        let features = FeatureMatrix::new(&values, 2).unwrap();
        let fit = TrainingSet::new(features, &[0, 0, 1, 1], 2).unwrap();
        let held_out = TrainingSet::new(features, &[1, 1, 0, 0], 2).unwrap();
        for multi_class in [MultiClass::Ovr, MultiClass::CrammerSinger] {
            let config = SvmConfig { multi_class, ..SvmConfig::default() };
            let errors_on = |held_out| config.errors_along_path(&FoldData { fit: &fit, held_out }).unwrap();
            // The first are so strongly regularised that they may tell nothing.
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
