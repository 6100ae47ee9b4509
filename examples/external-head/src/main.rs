//! An external head, added to the built-in heads of `headstock`: the class with the nearest mean feature.
use std::process::ExitCode;

use headstock_cli::App;
use headstock_heads::{Affine, FitContext, Fitted, HeadConfig, HeadError, Tensors, TrainingSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct NearestMean {
    /// Shrinkage of means towards 0, from 0 to 1.
    shrink: f64,
}

impl HeadConfig for NearestMean {
    const KIND: &'static str = "nearest-mean-example";
    const ABOUT: &'static str = "the class with the nearest mean feature";
    type Head = Affine; // a head that is not affine needs its own `Head` type

    fn check(&self) -> Result<(), HeadError> {
        if (0.0..=1.0).contains(&self.shrink) {
            return Ok(());
        }
        let (value, expected) = (self.shrink.to_string(), "must be between 0 and 1");
        Err(HeadError::Parameter { parameter: "shrink", value, expected })
    }

    /// `-|x - m|²` is `2 m·x - |m|²` plus a term that is equal for all classes.
    fn fit(&self, data: &TrainingSet<'_>, _: &FitContext<'_>) -> Result<Fitted<Affine>, HeadError> {
        let (width, counts) = (data.features().width(), data.class_counts());
        let mut weight = vec![0.0; data.classes() * width];
        for (row, &label) in data.features().rows().zip(data.labels()) {
            let share = 2.0 * (1.0 - self.shrink) / counts[label as usize] as f64;
            let twice_mean = &mut weight[label as usize * width..][..width];
            twice_mean.iter_mut().zip(row).for_each(|(m, &x)| *m += share * f64::from(x));
        }
        let squares = weight.chunks_exact(width).map(|m| m.iter().map(|m| m * m / 4.0).sum::<f64>());
        let bias: Vec<f64> = squares.map(|square| -square).collect();
        Ok(Fitted::without_history(Affine::from_f64(&weight, &bias, width)?))
    }

    fn load(&self, tensors: &Tensors) -> Result<Affine, HeadError> {
        Affine::load(tensors, "")
    }
}

fn main() -> ExitCode {
    App::new().with_head::<NearestMean>().run()
}

#[test]
fn passes_the_conformance_suite() {
    headstock_heads::check_head::<NearestMean>();
}
