//! The head `linear`: multinomial logistic regression.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::affine::{ABSENT, Affine, BIAS, WEIGHT};
use crate::check::{at_least_one, positive};
use crate::data::{ClassWeight, TrainingSet};
use crate::differentiable::{Differentiable, Mode};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, HeadConfig, History, Parameter, Tensors};
use crate::solver::gradient::{self, Recipe, Samples};
use crate::solver::lbfgs::{self, Stopping};
use crate::solver::logistic::Logistic;
use crate::standardize::Prepared;

/// What minimises the objective of `linear`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinearSolver {
    /// L-BFGS on all samples at once, to convergence.
    #[default]
    Lbfgs,
    /// Adam on minibatches, for a number of epochs.
    Adam,
}

/// `[head]` with `kind = "linear"`.
///
/// The objective is scikit-learn's `LogisticRegression`: `C Σ s_i log-loss_i + ½ |w|²`, the intercept free,
/// `s_i` the weight of the sample's class. With two classes, `w` is the difference of the two rows of
/// weights, as there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinearConfig {
    /// What minimises the objective.
    pub solver: LinearSolver,
    /// Weight of the losses against `½ |w|²`.
    #[serde(rename = "C")]
    pub c: f64,
    /// How much a class counts.
    pub class_weight: ClassWeight,
    /// Whether features are brought to mean 0 and variance 1 first.
    pub standardize: bool,
    /// `lbfgs`: the largest derivative, of the objective divided by `C Σ s_i`, at which to stop.
    pub tol: f64,
    /// `lbfgs`: iterations at most.
    pub max_iter: u64,
    /// `adam`: passes over the samples.
    pub epochs: u64,
    /// `adam`: samples in a step.
    pub batch_size: u64,
    /// `adam`: learning rate.
    pub lr: f64,
    /// `adam`: key of the order of the samples.
    pub seed: u64,
}

impl Default for LinearConfig {
    fn default() -> Self {
        Self {
            solver: LinearSolver::Lbfgs,
            c: 1.0,
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
    const PARAMETERS: &'static [Parameter] = &[
        (
            "solver",
            "\"lbfgs\": all samples at once, to convergence; \"adam\": minibatches for a number of epochs",
        ),
        ("C", "weight of the losses against the size of the weights: higher fits the training photos closer"),
        ("class_weight", "\"none\", or \"balanced\": a rare class counts as much as a frequent one"),
        ("standardize", "bring each feature to mean 0 and variance 1 first"),
        ("tol", "lbfgs: the gradient's largest component at which to stop"),
        ("max_iter", "lbfgs: iterations at most"),
        ("epochs", "adam: passes over the samples"),
        ("batch_size", "adam: samples in a step"),
        ("lr", "adam: learning rate"),
        ("seed", "adam: another seed, another order of the samples"),
    ];
    type Head = Affine;

    fn check(&self) -> Result<(), HeadError> {
        positive("C", self.c)?;
        positive("tol", self.tol)?;
        at_least_one("max_iter", self.max_iter)?;
        at_least_one("epochs", self.epochs)?;
        at_least_one("batch_size", self.batch_size)?;
        positive("lr", self.lr)
    }

    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Affine>, HeadError> {
        let prepared = Prepared::new(data.features(), self.standardize);
        let weights = data.class_weights(self.class_weight);
        let (map, history) = match self.solver {
            LinearSolver::Lbfgs => self.fit_lbfgs(data, &prepared, &weights, context)?,
            LinearSolver::Adam => self.fit_adam(data, &prepared, &weights, context)?,
        };
        Ok(Fitted::with_history(map, history))
    }

    fn load(&self, tensors: &Tensors) -> Result<Affine, HeadError> {
        Affine::load(tensors, "")
    }

    fn differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

impl LinearConfig {
    /// `λ` of the objective divided by `C S`, with `S = Σ s_i`: `mean loss + ½ λ |W|²` over the rows of all
    /// classes. Two classes share one `w = w₁ - w₀`; at the optimum `w₁ = -w₀`, so that `½ |w|² = |W|²`.
    fn lambda(&self, classes: usize, sum: f64) -> f64 {
        (if classes == 2 { 2.0 } else { 1.0 }) / (self.c * sum)
    }

    fn fit_lbfgs(
        &self,
        data: &TrainingSet<'_>,
        prepared: &Prepared<'_>,
        class_weights: &[f64],
        context: &FitContext<'_>,
    ) -> Result<(Affine, History), HeadError> {
        let width = data.features().width();
        // An intercept that is free would go to minus infinity for a class without samples: they stay
        // outside.
        let counts = data.class_counts();
        let present: Vec<usize> = (0..data.classes()).filter(|&class| counts[class] > 0).collect();
        let mut weight = vec![0.0; data.classes() * width];
        let mut bias: Vec<f64> = counts.iter().map(|&n| if n > 0 { 0.0 } else { ABSENT }).collect();
        let columns = vec!["iteration", "objective", "gradient"];
        if present.len() == 1 {
            return Ok((Affine::from_f64(&weight, &bias, width)?, History { columns, rows: Vec::new() }));
        }
        let position: Vec<u32> =
            (0..data.classes()).map(|class| present.partition_point(|&p| p < class) as u32).collect();
        let labels: Vec<u32> = data.labels().iter().map(|&label| position[label as usize]).collect();
        let weights: Vec<f64> = data.labels().iter().map(|&label| class_weights[label as usize]).collect();
        let scale = self.c * weights.iter().sum::<f64>();
        let lambda = self.lambda(present.len(), weights.iter().sum());
        let logistic = Logistic::new(prepared.features(), &labels, &weights, present.len(), lambda);
        let minimum = lbfgs::minimize(
            vec![0.0; logistic.len()],
            &logistic.inverse_diagonal(),
            Stopping { tolerance: self.tol, iterations: self.max_iter },
            |point, gradient| logistic.evaluate(point, gradient),
            |done| (context.on_step)(done, self.max_iter),
        );
        if !minimum.converged {
            let gradient = minimum.progress.last().map_or(f64::NAN, |last| last.1);
            tracing::warn!(
                "linear has not converged: after {} iterations the gradient is {gradient:.1e}, above tol = {:.1e}; raise \
                 `max_iter`, or set `standardize = true`",
                minimum.progress.len() - 1,
                self.tol
            );
        }
        let (w, b) = logistic.unpack(minimum.point);
        for (k, &class) in present.iter().enumerate() {
            weight[class * width..(class + 1) * width].copy_from_slice(&w[k * width..(k + 1) * width]);
            bias[class] = b[k];
        }
        prepared.undo(&mut weight, &mut bias);
        let row = |(i, (value, gradient)): (usize, &(f64, f64))| vec![i as f64, value * scale, *gradient];
        let rows = minimum.progress.iter().enumerate().map(row).collect();
        Ok((Affine::from_f64(&weight, &bias, width)?, History { columns, rows }))
    }

    fn fit_adam(
        &self,
        data: &TrainingSet<'_>,
        prepared: &Prepared<'_>,
        class_weights: &[f64],
        context: &FitContext<'_>,
    ) -> Result<(Affine, History), HeadError> {
        let sum = data.labels().iter().map(|&label| class_weights[label as usize]).sum();
        let recipe = Recipe {
            lr: self.lr,
            weight_decay: 0.0,
            penalty: self.lambda(data.classes(), sum),
            epochs: self.epochs,
            batch_size: usize::try_from(self.batch_size).unwrap_or(usize::MAX),
            seed: self.seed,
            early_stopping: None,
        };
        let initial = self.initial(data.features().width(), data.classes())?;
        let samples = Samples { data, features: prepared.features(), class_weights };
        let (parameters, history) = gradient::fit(self, &initial, samples, &recipe, context)?;
        Ok((Affine::load(&parameters, "")?.of_raw_features(prepared)?, history))
    }
}

impl Differentiable for LinearConfig {
    /// Zeros: the objective is convex, and no class is preferred.
    fn initial(&self, width: usize, classes: usize) -> Result<Tensors, HeadError> {
        Ok(Tensors::from([
            (WEIGHT.into(), Tensor::zeros((classes, width), DType::F32, &Device::Cpu)?),
            (BIAS.into(), Tensor::zeros(classes, DType::F32, &Device::Cpu)?),
        ]))
    }

    fn forward(&self, parameters: &Tensors, features: &Tensor, _: Mode) -> Result<Tensor, HeadError> {
        Affine::forward(parameters, "", features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_head, check_head_with};
    use crate::data::Features;
    use crate::head::Head;

    #[test]
    fn linear_keeps_the_laws_of_heads() {
        check_head::<LinearConfig>();
    }

    #[test]
    fn linear_by_adam_keeps_the_laws_of_heads() {
        check_head_with(&LinearConfig { solver: LinearSolver::Adam, epochs: 100, ..LinearConfig::default() });
    }

    #[test]
    fn linear_on_standardised_features_keeps_the_laws_of_heads() {
        check_head_with(&LinearConfig { standardize: true, ..LinearConfig::default() });
    }

    const VALUES: [f32; 16] =
        [0.1, 2.0, 0.9, 1.5, 3.0, 0.3, 2.5, 1.1, 0.2, 0.2, 1.4, 2.2, 0.5, 2.8, 1.0, 0.6];

    fn fit(labels: &[u32], classes: usize) -> Affine {
        let data = TrainingSet::new(Features::new(&VALUES, 2).unwrap(), labels, classes).unwrap();
        let config = LinearConfig { tol: 1e-9, ..LinearConfig::default() };
        *config.fit(&data, &FitContext::quiet()).unwrap().head
    }

    fn probabilities(head: &Affine) -> Vec<Vec<f32>> {
        let logits = head.logits(Features::new(&VALUES, 2).unwrap()).unwrap();
        logits.softmax().chunks_exact(head.classes()).map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn a_class_without_samples_has_probability_0_and_changes_nothing_for_the_others() {
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
