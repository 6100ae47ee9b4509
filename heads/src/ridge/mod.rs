//! The head `ridge`: least squares on ±1 targets, in closed form.

mod leave_one_out;
mod problem;
mod solve;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::affine::Affine;
use crate::check::{require, require_positive};
use crate::data::{ClassWeight, TrainingSet};
use crate::dense::absent_classes::expand_to_all_classes;
use crate::dense::band_reduction::BandReduction;
use crate::dense::means::ClassMeans;
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, HeadConfig, HeadShape, History};
use crate::regularization::Regularization;
use crate::tensors::Tensors;
use problem::RidgeProblem;

/// `[head]` with `kind = "ridge"`.
///
/// The objective is that of scikit-learn's `RidgeClassifier`, for each class against the rest:
/// `Σ s_i (y_i - w·x_i - b)² + alpha |w|²`, where `y` is 1 for samples of the class and -1 for the rest,
/// `s_i` is the class weight of the sample, and the intercept `b` is free. With two classes there is one
/// problem, whose hyperplane serves both.
///
/// `alpha = "auto"` takes the value of `alphas` with the lowest leave-one-out squared error, as
/// `RidgeClassifierCV` does (Rifkin and Lippert 2007, *Notes on Regularized Least Squares*). The errors are
/// exact and need only one decomposition of `XᵀX` `[F, F]` or `XXᵀ` `[N, N]`, whichever is smaller: `Q B Qᵀ`
/// with `Q` orthogonal and `B` a band matrix. That is much faster than an eigendecomposition, works in place,
/// and `(B + alpha)⁻¹` is cheap (Eldén 1984, *A note on the computation of the generalized cross-validation
/// function for ill-conditioned least squares problems*, uses two diagonals for this). Rows of one group,
/// such as views of a photo, are left out together. `chosen` has the `alpha`, the history the error of each.
///
/// A fixed `alpha` is solved by conjugate gradients in `f64`, preconditioned by a Cholesky factor in `f32`
/// (iterative refinement, Higham 2002, *Accuracy and Stability of Numerical Algorithms*, chapter 12), or by a
/// factor in `f64` if that is not accurate enough.
///
/// Classes without samples are ignored in the fit; a single present class is certain. Constant features get
/// the weight 0. If a fixed `alpha` is so small relative to the features that `XᵀX + alpha` is singular up to
/// rounding, it is solved by eigendecomposition. `"auto"` gives such an `alpha` an infinite error, and takes
/// the largest if all are such.
///
/// ```
/// use headstock_heads::ridge::RidgeConfig;
/// use headstock_heads::{FeatureMatrix, FitContext, HeadConfig, Regularization, TrainingSet};
///
/// let features = FeatureMatrix::new(&[0.0, 1.0, 3.0, 4.0], 1)?;
/// let data = TrainingSet::new(features, &[0, 0, 1, 1], 2)?;
/// let config = RidgeConfig { alpha: Regularization::Fixed(2.0), ..RidgeConfig::default() };
/// let fitted = config.fit(&data, &FitContext::silent())?;
/// // Σ y (x - 2) / (Σ (x - 2)² + 2) = 6 / 12, and the hyperplane passes through the mean, 2.
/// assert_eq!(*fitted.head, headstock_heads::Affine::from_f64(&[-0.5, 0.5], &[1.0, -1.0], 1)?);
/// # Ok::<(), headstock_heads::HeadError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RidgeConfig {
    /// Regularization strength, the weight of `|w|²`: a number greater than 0, or `"auto"` for the value of
    /// `alphas` with the lowest leave-one-out squared error. Larger values give smaller weights.
    pub alpha: Regularization,
    /// Values that `alpha = "auto"` compares, each greater than 0.
    pub alphas: Vec<f64>,
    /// How much the photos of each class count in the loss.
    pub class_weight: ClassWeight,
}

impl Default for RidgeConfig {
    /// The values of the keys that a config leaves out.
    fn default() -> Self {
        Self {
            alpha: Regularization::Auto,
            // Two values per decade, from weak to strong regularization.
            alphas: vec![0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5],
            class_weight: ClassWeight::None,
        }
    }
}

impl HeadConfig for RidgeConfig {
    const KIND: &'static str = "ridge";
    const ABOUT: &'static str = "ridge regression to ±1, one class against the rest, in closed form";
    type Head = Affine;

    /// Checks that there is at least one `alpha` to choose from, and that each is greater than 0.
    fn check(&self) -> Result<(), HeadError> {
        self.alpha.check("alpha")?;
        let listed = self.alphas.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        require(
            !self.alphas.is_empty(),
            "alphas",
            &format!("[{listed}]"),
            "must contain at least one number",
        )?;
        self.alphas.iter().try_for_each(|&alpha| require_positive("alphas", alpha))
    }

    /// Solves the least-squares problem for the fixed `alpha`, or for the one of `alphas` with the lowest
    /// leave-one-out error. Returns the affine head; `"auto"` also gives the errors as history.
    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Affine>, HeadError> {
        let classes = ClassMeans::compute(data, None);
        let width = data.features().width();
        if classes.present.len() == 1 {
            // Nothing to solve: the only class has the logit 1 for every row.
            let head = expand_to_all_classes(&classes.present, &vec![0.0; width], &[1.0], data.classes())?;
            return Ok(Fitted::without_history(head));
        }
        let class_weights = data.class_weights(self.class_weight);
        let weights: Vec<f64> = classes.present.iter().map(|&class| class_weights[class]).collect();
        let problem = RidgeProblem::new(data.features(), &classes, &weights);
        let (solution, history, chosen) = match self.alpha {
            Regularization::Fixed(alpha) => (problem.solve(alpha)?, History::default(), None),
            Regularization::Auto => {
                // Once for all `alpha`: after that, each is cheap to solve.
                let reduction = BandReduction::reduce(problem.gram());
                let choice =
                    leave_one_out::choose_alpha(&problem, &reduction, &self.alphas, data.groups(), context);
                let solution = reduction.solve(choice.value, &problem.rhs);
                // Frees its memory before another matrix may be computed.
                drop(reduction);
                let solution = match solution {
                    Some(solution) => solution,
                    // Singular up to rounding.
                    None => problem.solve(choice.value)?,
                };
                (solution, choice.history, Some(choice.value))
            }
        };
        let (mut weight, mut bias) = problem.weights_and_intercepts(&solution);
        // Two classes share one target, the second class; the logits of the first are the negated ones.
        if let [intercept] = bias[..] {
            weight = weight.iter().map(|w| -w).chain(weight.iter().copied()).collect();
            bias = vec![-intercept, intercept];
        }
        let head = expand_to_all_classes(&classes.present, &weight, &bias, data.classes())?;
        Ok(Fitted::with_history(head, history).with_chosen("alpha", chosen))
    }

    /// Restores a fitted head from its saved tensors.
    fn load(&self, tensors: &Tensors) -> Result<Affine, HeadError> {
        Affine::load(tensors, "")
    }

    /// Estimated memory of a fit in bytes for data of this `shape`, to warn the user before it starts: the
    /// Gram matrix `[side, side]` in `f64`, and for `"auto"` the workspace in which the values of `alpha` are
    /// compared.
    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        let side = shape.samples.min(shape.features) as u64;
        let (width, classes) = (shape.features as u64, shape.classes as u64);
        let (alphas, is_auto) = (self.alphas.len() as u64, self.alpha == Regularization::Auto);
        let scratch = if is_auto { leave_one_out::scratch_values(side, classes, alphas) } else { 0 };
        // The matrix, and a few values per weight.
        8 * (side * side + scratch + 4 * width.max(side) * classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_head, check_head_with};

    #[test]
    fn ridge_passes_check_head() {
        check_head::<RidgeConfig>();
    }

    #[test]
    fn ridge_with_fixed_alpha_passes_check_head() {
        check_head_with(&RidgeConfig { alpha: Regularization::Fixed(1.0), ..RidgeConfig::default() });
    }
}
