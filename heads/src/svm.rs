//! The head `svm`: one-vs-rest linear support vector machines.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::affine::Affine;
use crate::check::{at_least_one, positive};
use crate::data::{ClassWeight, TrainingSet};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, HeadConfig, History, Parameter, Tensors};
use crate::solver::dual_coordinate_descent::{self, Loss, Problem, Solution, Stopping};
use crate::standardize::Prepared;
use crate::vector::Vectors;

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

/// `[head]` with `kind = "svm"`.
///
/// The objective is LIBLINEAR's and so scikit-learn's `LinearSVC`, for each class against the rest:
/// `½ (|w|² + w₀²) + Σ C_i loss_i`, where `w₀` is the weight of a constant feature and makes the intercept. As
/// there, `class_weight` scales the `C` of the class's own samples and not of the rest; and two classes are one
/// problem, with both weights, whose plane serves both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SvmConfig {
    /// What a photo within a margin costs.
    pub loss: SvmLoss,
    /// Weight of the losses against `½ |w|²`. The default suits a ResNet's features as they come: they are
    /// positive and their squares sum to hundreds, so that 1, scikit-learn's default, fits every training
    /// photo, takes long and generalises less.
    #[serde(rename = "C")]
    pub c: f64,
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
            loss: SvmLoss::SquaredHinge,
            c: 0.01,
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
    const ABOUT: &'static str = "linear support vector machines, one class against the rest";
    const PARAMETERS: &'static [Parameter] = &[
        ("loss", "\"squared-hinge\" or \"hinge\": what a photo within the margin costs"),
        ("C", "weight of the losses against the size of the weights: higher fits the training photos closer"),
        (
            "intercept_scaling",
            "the constant feature whose weight is the intercept: larger frees the intercept",
        ),
        ("tol", "the duality gap, relative to the objective, at which to stop"),
        ("max_iter", "rounds of the solver at most"),
        ("class_weight", "\"none\", or \"balanced\": a rare class counts as much as a frequent one"),
        ("standardize", "bring each feature to mean 0 and variance 1 first"),
        ("seed", "another seed, another order in which photos are visited; the optimum is the same"),
    ];
    type Head = Affine;

    fn check(&self) -> Result<(), HeadError> {
        positive("C", self.c)?;
        positive("intercept_scaling", self.intercept_scaling)?;
        positive("tol", self.tol)?;
        at_least_one("max_iter", self.max_iter)
    }

    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Affine>, HeadError> {
        let prepared = Prepared::new(data.features(), self.standardize);
        let planes = if data.classes() == 2 { 1..2 } else { 0..data.classes() };
        let solutions = self.solve(data, &prepared, planes.clone(), context);
        for (class, solution) in planes.clone().zip(&solutions) {
            self.warn_unless_converged(class, solution);
        }
        let width = data.features().width();
        let mut weight: Vec<f64> = solutions.iter().flat_map(|s| s.plane.weight.iter().copied()).collect();
        let mut bias: Vec<f64> =
            solutions.iter().map(|s| s.plane.constant * self.intercept_scaling).collect();
        if data.classes() == 2 {
            weight = weight.iter().map(|w| -w).chain(weight.iter().copied()).collect();
            bias = vec![-bias[0], bias[0]];
        }
        prepared.undo(&mut weight, &mut bias);
        let rows = planes.zip(&solutions).flat_map(|(class, solution)| {
            let row = move |(i, p): (usize, &dual_coordinate_descent::Progress)| {
                vec![(i + 1) as f64, class as f64, p.primal, p.gap]
            };
            solution.progress.iter().enumerate().map(row)
        });
        let history =
            History { columns: vec!["iteration", "class", "objective", "duality_gap"], rows: rows.collect() };
        Ok(Fitted::with_history(Affine::from_f64(&weight, &bias, width)?, history))
    }

    fn load(&self, tensors: &Tensors) -> Result<Affine, HeadError> {
        Affine::load(tensors, "")
    }
}

impl SvmConfig {
    /// The plane of each class in `planes` against the rest.
    fn solve(
        &self,
        data: &TrainingSet<'_>,
        prepared: &Prepared<'_>,
        planes: std::ops::Range<usize>,
        context: &FitContext<'_>,
    ) -> Vec<Solution> {
        let features = prepared.features();
        let constant = self.intercept_scaling;
        let vectors = Vectors::new();
        let squared_norm = |row: &[f32]| vectors.dot(row, row) + constant * constant;
        let squared_norms: Vec<f64> =
            features.as_slice().par_chunks_exact(features.width()).map(squared_norm).collect();
        let weights = data.class_weights(self.class_weight);
        let loss = match self.loss {
            SvmLoss::SquaredHinge => Loss::SquaredHinge,
            SvmLoss::Hinge => Loss::Hinge,
        };
        let (done, all) = (AtomicU64::new(0), planes.len() as u64);
        let solve = |class: usize| {
            let positive: Vec<bool> = data.labels().iter().map(|&label| label as usize == class).collect();
            let rest = if data.classes() == 2 { weights[1 - class] } else { 1.0 };
            let problem = Problem {
                features,
                squared_norms: &squared_norms,
                constant,
                positive: &positive,
                cost: [self.c * rest, self.c * weights[class]],
                loss,
            };
            let stopping =
                Stopping { tolerance: self.tol, rounds: self.max_iter, seed: [self.seed, class as u64] };
            let solution = dual_coordinate_descent::solve(problem, stopping);
            (context.on_step)(done.fetch_add(1, Ordering::Relaxed) + 1, all);
            solution
        };
        planes.into_par_iter().map(solve).collect()
    }

    fn warn_unless_converged(&self, class: usize, solution: &Solution) {
        if let (false, Some(last)) = (solution.converged, solution.progress.last()) {
            tracing::warn!(
                "svm has not converged for class {class}: after {} rounds the duality gap is {:.1e} of the objective, above \
                 tol = {:.1e}; raise `max_iter`, lower `C`, or set `standardize = true`",
                solution.progress.len(),
                last.gap / last.primal,
                self.tol
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_head, check_head_with};
    use crate::data::Features;
    use crate::head::Head;

    #[test]
    fn svm_keeps_the_laws_of_heads() {
        check_head::<SvmConfig>();
    }

    #[test]
    fn svm_with_the_hinge_loss_on_standardised_features_keeps_the_laws_of_heads() {
        check_head_with(&SvmConfig { loss: SvmLoss::Hinge, standardize: true, ..SvmConfig::default() });
    }

    #[test]
    fn two_classes_share_a_plane() {
        let values = [0.1, 2.0, 0.9, 1.5, 3.0, 0.3, 2.5, 1.1];
        let data = TrainingSet::new(Features::new(&values, 2).unwrap(), &[0, 0, 1, 1], 2).unwrap();
        let head = SvmConfig::default().fit(&data, &FitContext::quiet()).unwrap().head;
        for row in head.logits(data.features()).unwrap().rows() {
            assert_eq!(row[0], -row[1]);
        }
    }
}
