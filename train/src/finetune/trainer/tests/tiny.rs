//! The network of `reference/tuning/loop.py`, small enough to train in a millisecond.

use std::collections::BTreeMap;
use std::sync::Mutex;

use candle_core::{DType, Device, Result, Tensor, Var};
use headstock_backbone::{
    BackboneError, BatchNormMode, FeatureLayer, ParameterRole, ParameterSlot, StageActivations,
    TrainableParameter,
};
use headstock_heads::Tensors;

use crate::finetune::model::FinetuneBackbone;

/// Values by name.
pub(super) type NamedValues = BTreeMap<String, Vec<f64>>;

const STAGES: [FeatureLayer; 5] = [
    FeatureLayer::Stem,
    FeatureLayer::Layer1,
    FeatureLayer::Layer2,
    FeatureLayer::Layer3,
    FeatureLayer::Layer4,
];
const LEAVES: [(&str, ParameterRole); 3] = [
    ("conv.weight", ParameterRole::ConvWeight),
    ("bn.weight", ParameterRole::BatchNorm),
    ("bn.bias", ParameterRole::BatchNorm),
];
const STATISTICS: [&str; 2] = ["bn.running_mean", "bn.running_var"];

/// Each stage multiplies every position with weights `[C, C]`, then applies BatchNorm and tanh; the output is
/// the average over positions. It computes in `f64` and stores values in `f32`.
pub(super) struct TinyBackbone {
    stages: Vec<FeatureLayer>,
    trainable_from: FeatureLayer,
    batch_norm: BatchNormMode,
    parameters: Vec<TrainableParameter>,
    values: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
    /// Running mean and variance of each stage.
    statistics: Vec<[Vec<f32>; 2]>,
    /// Variables and features saved by the last forward pass for the backward pass.
    graph: Option<(Vec<Var>, Tensor)>,
}

pub(super) fn floats(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

impl TinyBackbone {
    pub(super) fn new(
        initial_values: &NamedValues,
        first_stage: FeatureLayer,
        batch_norm: BatchNormMode,
    ) -> Self {
        let stages: Vec<FeatureLayer> = STAGES.into_iter().filter(|stage| *stage >= first_stage).collect();
        let (mut parameters, mut values, mut statistics) = (Vec::new(), Vec::new(), Vec::new());
        for &stage in &stages {
            for (leaf, role) in LEAVES {
                let name = format!("{stage}.{leaf}");
                let value = floats(&initial_values[&name]);
                let shape = if role == ParameterRole::ConvWeight { vec![1, 1, 3, 3] } else { vec![3] };
                parameters.push(TrainableParameter { name, stage, role, shape });
                values.push(value);
            }
            statistics.push(STATISTICS.map(|leaf| floats(&initial_values[&format!("{stage}.{leaf}")])));
        }
        let gradients = values.iter().map(|values: &Vec<f32>| vec![0.0; values.len()]).collect();
        Self {
            stages,
            trainable_from: first_stage,
            batch_norm,
            parameters,
            values,
            gradients,
            statistics,
            graph: None,
        }
    }

    /// The forward pass in candle; returns the parameters as variables, and the features.
    fn forward_graph(&mut self, input: StageActivations<'_>, training: bool) -> Result<(Vec<Var>, Tensor)> {
        let StageActivations { values, images: n_images, height, width, channels } = input;
        let positions = height * width;
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(DType::F64)
        };
        let mut vars = Vec::new();
        for (parameter, values) in self.parameters.iter().zip(&self.values) {
            let shape = &parameter.shape[parameter.shape.len().saturating_sub(2)..];
            vars.push(Var::from_tensor(&tensor(values, shape)?)?);
        }
        let mut x = tensor(values, &[n_images * positions, channels])?;
        for (index, &stage) in self.stages.iter().enumerate() {
            let [weight, gamma, beta] = [0, 1, 2].map(|leaf| &vars[3 * index + leaf]);
            let y = x.matmul(weight)?;
            let use_batch_stats =
                training && stage >= self.trainable_from && self.batch_norm == BatchNormMode::Train;
            let [running_mean, running_var] = &mut self.statistics[index];
            let (mean, variance) = if use_batch_stats {
                let mean = y.mean_keepdim(0)?;
                let variance = y.broadcast_sub(&mean)?.sqr()?.mean_keepdim(0)?;
                let count = (n_images * positions) as f64;
                let unbiased = (&variance * (count / (count - 1.0)))?;
                for (running, batch) in [(running_mean, &mean), (running_var, &unbiased)] {
                    let batch = batch.flatten_all()?.to_vec1::<f64>()?;
                    for (running, batch) in running.iter_mut().zip(batch) {
                        *running = (0.9 * f64::from(*running) + 0.1 * batch) as f32;
                    }
                }
                (mean, variance)
            } else {
                (tensor(running_mean, &[1, channels])?, tensor(running_var, &[1, channels])?)
            };
            let normal = y.broadcast_sub(&mean)?.broadcast_div(&(variance + 1e-5)?.sqrt()?)?;
            x = normal.broadcast_mul(gamma)?.broadcast_add(beta)?.tanh()?;
        }
        let features = x.reshape((n_images, positions, channels))?.mean(1)?;
        Ok((vars, features))
    }
}

fn flat_f32(features: &Tensor) -> Vec<f32> {
    features.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

impl FinetuneBackbone for TinyBackbone {
    fn set_trainable_from(&mut self, stage: FeatureLayer) {
        self.trainable_from = stage;
    }

    fn forward(&mut self, input: StageActivations<'_>) -> std::result::Result<Vec<f32>, BackboneError> {
        Ok(flat_f32(&self.forward_graph(input, false).unwrap().1))
    }

    fn forward_training(
        &mut self,
        input: StageActivations<'_>,
    ) -> std::result::Result<Vec<f32>, BackboneError> {
        let graph = self.forward_graph(input, true).unwrap();
        let features = flat_f32(&graph.1);
        self.graph = Some(graph);
        Ok(features)
    }

    fn backward(&mut self, grad_features: &[f32]) -> std::result::Result<(), BackboneError> {
        let (vars, features) = self.graph.take().expect("forward_training comes before backward");
        let grad_features = Tensor::from_slice(grad_features, features.dims(), &Device::Cpu).unwrap();
        let product = (features * grad_features.to_dtype(DType::F64).unwrap()).unwrap();
        let gradients = product.sum_all().unwrap().backward().unwrap();
        for ((var, parameter), sum) in vars.iter().zip(&self.parameters).zip(&mut self.gradients) {
            if parameter.stage >= self.trainable_from {
                sum.iter_mut()
                    .zip(flat_f32(gradients.get(var).unwrap()))
                    .for_each(|(sum, value)| *sum += value);
            }
        }
        Ok(())
    }

    fn zero_gradients(&mut self) {
        self.gradients.iter_mut().for_each(|gradient| gradient.fill(0.0));
    }

    fn parameters_mut(&mut self) -> Vec<ParameterSlot<'_>> {
        let slots = self.parameters.iter().zip(&mut self.values).zip(&mut self.gradients);
        let tuned = slots.filter(|((parameter, _), _)| parameter.stage >= self.trainable_from);
        tuned.map(|((parameter, values), gradient)| ParameterSlot { parameter, values, gradient }).collect()
    }

    fn named_values_mut(&mut self) -> Vec<(String, &mut [f32])> {
        let names = self.parameters.iter().map(|parameter| parameter.name.clone());
        let parameters = names.zip(self.values.iter_mut().map(Vec::as_mut_slice));
        let statistics = self.stages.iter().zip(&mut self.statistics).flat_map(|(stage, statistics)| {
            let names = STATISTICS.map(|leaf| format!("{stage}.{leaf}"));
            names.into_iter().zip(statistics.iter_mut().map(Vec::as_mut_slice))
        });
        parameters.chain(statistics).collect()
    }

    fn tensors(&self) -> Result<Tensors> {
        unreachable!("tests compare values instead")
    }
}

/// The batches requested by a trainer, in order.
pub(super) type RequestedBatches = Mutex<Vec<Vec<crate::activations::BatchItem>>>;
