//! A head from outside: the class whose mean feature is nearest, in `headstock` beside all the built-in heads.
use std::process::ExitCode;

use headstock_cli::App;
use headstock_heads::{Affine, FitContext, Fitted, HeadConfig, HeadError, Parameter, Tensors, TrainingSet};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NearestMean {
    shrink: f64,
}

impl HeadConfig for NearestMean {
    const KIND: &'static str = "nearest-mean-example";
    const ABOUT: &'static str = "the class whose mean feature is nearest";
    const PARAMETERS: &'static [Parameter] = &[("shrink", "how far means are drawn towards 0, from 0 to 1")];
    type Head = Affine; // a head with logits of another kind implements `Head` itself

    fn check(&self) -> Result<(), HeadError> {
        if (0.0..=1.0).contains(&self.shrink) {
            return Ok(());
        }
        let (value, expected) = (self.shrink.to_string(), "must lie between 0 and 1");
        Err(HeadError::Parameter { parameter: "shrink", value, expected })
    }

    /// `-|x - m|²` is `2 m·x - |m|²` and a term that is the same for every class.
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
        Ok(Fitted::at_once(Affine::from_f64(&weight, &bias, width)?))
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
