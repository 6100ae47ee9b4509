//! A head from outside: the class whose mean feature is nearest, in `headstock` beside all the built-in heads.
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use headstock_cli::App;
use headstock_heads::{Features, FitContext, Fitted, Head, HeadConfig, HeadError, History, Logits, Parameter, Tensors, TrainingSet};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NearestMeanConfig {
    shrink: f32,
}
struct NearestMean(Tensor); // the class means, [C, F]

impl HeadConfig for NearestMeanConfig {
    const KIND: &'static str = "nearest-mean-example";
    const ABOUT: &'static str = "the class whose mean feature is nearest";
    const PARAMETERS: &'static [Parameter] = &[("shrink", "how far the means are drawn towards 0, from 0 to 1")];
    type Head = NearestMean;
    fn check(&self) -> Result<(), HeadError> {
        let (value, expected) = (self.shrink.to_string(), "must lie between 0 and 1");
        if (0.0..=1.0).contains(&self.shrink) { Ok(()) } else { Err(HeadError::Parameter { parameter: "shrink", value, expected }) }
    }
    fn fit(&self, data: &TrainingSet<'_>, _: &FitContext<'_>) -> Result<Fitted<NearestMean>, HeadError> {
        let (width, counts) = (data.features().width(), data.class_counts());
        let mut means = vec![0f32; data.classes() * width];
        for (row, &label) in data.features().rows().zip(data.labels()) {
            let share = (1.0 - self.shrink) / counts[label as usize] as f32;
            means[label as usize * width..][..width].iter_mut().zip(row).for_each(|(mean, x)| *mean += x * share);
        }
        let means = Tensor::from_vec(means, (data.classes(), width), &Device::Cpu)?;
        Ok(Fitted { head: Box::new(NearestMean(means)), history: History::default() })
    }
    fn load(&self, tensors: &Tensors) -> Result<NearestMean, HeadError> {
        let missing = || HeadError::Tensor { name: "means".into(), problem: "is missing".into() };
        tensors.get("means").cloned().map(NearestMean).ok_or_else(missing)
    }
}
impl Head for NearestMean {
    fn width(&self) -> usize { self.0.dims()[1] }
    fn classes(&self) -> usize { self.0.dims()[0] }
    fn logits(&self, features: Features<'_>) -> Result<Logits, HeadError> {
        features.expect_width(self.width())?;
        let means = self.0.to_vec2::<f32>()?;
        let distance = |row: &[f32], mean: &[f32]| row.iter().zip(mean).map(|(x, m)| (x - m) * (x - m)).sum::<f32>();
        Logits::new(features.rows().flat_map(|row| means.iter().map(move |mean| -distance(row, mean))).collect(), means.len())
    }
    fn tensors(&self) -> Result<Tensors, HeadError> { Ok(Tensors::from([("means".into(), self.0.clone())])) }
}

fn main() -> ExitCode { App::new().with_head::<NearestMeanConfig>().run() }

#[test]
fn passes_the_conformance_suite() { headstock_heads::check_head::<NearestMeanConfig>() }
