//! A correct head, and faulty versions that violate one property each; the suite must detect every fault.

use std::borrow::Cow;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Tensor};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::check_head;
use crate::affine::Affine;
use crate::data::{ClassWeight, FeatureMatrix, Logits, TrainingSet};
use crate::differentiable::{Differentiable, ForwardMode};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, History};
use crate::tensors::Tensors;

/// Declares the faults, and for each a test that the suite reports the violated property.
macro_rules! faults {
    ($($number:literal $fault:ident $test:ident: $property:literal,)*) => {
        $(const $fault: u8 = $number;)*

        $(#[test]
        fn $test() {
            let panic = catch_unwind(check_head::<FaultyConfig<$fault>>).expect_err("the fault is not found");
            let message = panic.downcast_ref::<String>().expect("a message");
            assert!(message.contains($property), "the fault is found, but for another property: {message}");
        })*
    };
}

const NONE: u8 = 0;

faults! {
    1 INVALID_DEFAULTS defaults_that_are_invalid_are_found: "passes its own check",
    2 UNLISTED_KEY a_key_missing_from_the_schema_is_found: "the JSON schema has exactly the keys",
    3 UNDOCUMENTED_KEY a_key_without_a_description_is_found: "`scale` has no doc comment",
    4 MISREAD a_value_that_changes_in_a_round_trip_is_found: "is unchanged after writing and reading TOML",
    5 OTHER_DEFAULT a_default_that_depends_on_the_table_is_found: "an empty table is the default",
    6 UNKNOWN_KEYS unknown_keys_that_pass_are_found: "an unknown key is an error",
    7 OTHER_WIDTH a_wrong_width_is_found: "has the width and number of classes",
    8 MISSHAPEN logits_of_the_wrong_shape_are_found: "logits have shape",
    9 NOT_A_NUMBER logits_that_are_not_finite_are_found: "a logit is NaN",
    10 EMPTY_REFUSED a_head_that_needs_rows_is_found: "zero rows give zero rows of logits",
    11 LEARNS_NOTHING a_head_that_learns_nothing_is_found: "well separated classes are predicted correctly",
    12 ANY_WIDTH features_of_another_width_that_pass_are_found: "features of another width are an error",
    13 DRIFTS fits_that_differ_are_found: "the same data and configuration give the same bits",
    14 THREADS a_fit_that_depends_on_threads_is_found: "the result does not depend on the number of threads",
    15 LOSSY a_head_that_is_saved_with_a_loss_is_found: "its logits differ",
    16 LOADS_NOTHING a_head_loaded_from_no_tensors_is_found: "a missing tensor is an error",
    17 BATCH logits_that_depend_on_the_batch_are_found: "do not depend on the other rows",
    18 SPREADS values_that_are_not_finite_and_spread_are_found: "does not affect the others",
    19 TWO_CLASSES a_head_that_needs_two_classes_is_found: "one class can be fitted",
    20 EVERY_CLASS a_head_that_needs_every_class_is_found: "classes without samples are allowed",
    21 TWO_EACH a_head_that_needs_two_samples_per_class_is_found: "one sample per class is enough",
    22 TALL a_head_that_needs_many_samples_is_found: "more features than samples",
    23 VARIANCE a_head_that_needs_variance_is_found: "constant features are allowed",
    24 OVERFLOWS a_panic_on_huge_features_is_found: "huge features are fitted or refused without a panic",
    25 WEIGHTS_IGNORED class_weights_without_effect_are_found: "favor the rare class",
    26 WEIGHTS_SKEWED class_weights_that_act_on_even_classes_are_found: "where all classes are equally frequent",
    27 FAVORITE a_head_that_favors_a_class_by_its_number_is_found: "renumbering the classes",
    28 OTHER_NAMES parameters_of_other_names_are_found: "the names and shapes of the fitted ones",
    29 OTHER_LOGITS tensors_that_give_other_logits_are_found: "gives the logits of the fitted head",
    30 STREAM randomness_from_a_stream_is_found: "a training step always gives the same logits",
    31 NO_GRADIENT a_gradient_that_is_lost_is_found: "no gradient reaches",
    32 HALF_GRADIENT a_gradient_that_is_wrong_is_found: "gradients match finite differences",
    33 STAYS a_warm_start_that_learns_no_new_class_is_found: "a warm start learns new classes",
    34 ANY_START an_accepted_warm_start_of_another_width_is_found: "a warm start with another number of features",
    35 UNNAMED_KEY an_error_that_does_not_name_the_unknown_key_is_found: "an unknown key is an error that names it",
    36 OTHER_CLASSES a_wrong_number_of_classes_is_found: "has the width and number of classes",
    37 OTHER_ERROR features_of_another_width_with_another_error_are_found: "expected HeadError::Width",
    38 NO_TENSOR_ERROR missing_tensors_with_another_error_are_found: "expected HeadError::Tensor",
    39 HISTORY_DRIFTS a_history_that_differs_is_found: "the same data and configuration give the same bits",
    40 RELOADED a_head_that_is_changed_when_it_is_loaded_is_found: "its tensors differ",
    41 PRESENT_ONLY a_head_without_its_absent_classes_is_found: "it has 1 classes",
    42 SLIGHT_FAVORITE a_head_that_slightly_favors_a_class_by_its_number_is_found: "renumbering the classes",
}

#[test]
fn a_correct_head_passes() {
    check_head::<FaultyConfig<NONE>>();
}

/// Nearest class mean with class frequencies as priors: LDA with the identity as covariance. `FAULT` breaks
/// it.
#[derive(Clone, Debug, Serialize)]
struct FaultyConfig<const FAULT: u8> {
    class_weight: ClassWeight,
    scale: f64,
}

impl<const FAULT: u8> Default for FaultyConfig<FAULT> {
    fn default() -> Self {
        Self { class_weight: ClassWeight::None, scale: 1.0 }
    }
}

impl<'de, const FAULT: u8> Deserialize<'de> for FaultyConfig<FAULT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Strict {
            #[serde(default)]
            class_weight: ClassWeight,
            scale: Option<f64>,
        }
        if FAULT == UNNAMED_KEY {
            let table = toml::Table::deserialize(deserializer)?;
            let known = table.keys().all(|key| ["class_weight", "scale"].contains(&key.as_str()));
            return if known {
                Ok(Self::default())
            } else {
                Err(serde::de::Error::custom("there is an unknown key"))
            };
        }
        if FAULT == UNKNOWN_KEYS {
            toml::Table::deserialize(deserializer)?;
            return Ok(Self::default());
        }
        let Strict { class_weight, scale } = Strict::deserialize(deserializer)?;
        let scale = scale.unwrap_or(if FAULT == OTHER_DEFAULT { 2.0 } else { 1.0 });
        let scale = if FAULT == MISREAD { scale + 1.0 } else { scale };
        Ok(Self { class_weight, scale })
    }
}

impl<const FAULT: u8> JsonSchema for FaultyConfig<FAULT> {
    fn schema_name() -> Cow<'static, str> {
        "FaultyConfig".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let about = if FAULT == UNDOCUMENTED_KEY { "" } else { "The factor of the features." };
        let key = if FAULT == UNLISTED_KEY { "kind" } else { "class_weight" };
        json_schema!({ "properties": { "scale": { "description": about }, key: { "description": "Weights." } } })
    }
}

static FITS: AtomicU64 = AtomicU64::new(0);

fn refuse_if(fault: bool) -> Result<(), HeadError> {
    if fault { Err(HeadError::Data("refused".into())) } else { Ok(()) }
}

impl<const FAULT: u8> HeadConfig for FaultyConfig<FAULT> {
    const KIND: &'static str = "means";
    const ABOUT: &'static str = "the class whose mean is nearest";
    const SUPPORTS_WARM_START: bool = FAULT == STAYS || FAULT == ANY_START;
    type Head = FaultyHead<FAULT>;

    fn check(&self) -> Result<(), HeadError> {
        refuse_if(FAULT == INVALID_DEFAULTS)
    }

    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Self::Head>, HeadError> {
        if FAULT == STAYS
            && let Some(start) = context.warm_start
        {
            return Ok(Fitted::without_history(FaultyHead(Affine::load_warm_start(start, data)?)));
        }
        let (features, counts) = (data.features(), data.class_counts());
        let (width, classes) = (features.width(), data.classes());
        refuse_if(FAULT == TWO_CLASSES && classes == 1)?;
        refuse_if(FAULT == EVERY_CLASS && counts.contains(&0))?;
        refuse_if(FAULT == TWO_EACH && counts.contains(&1))?;
        refuse_if(FAULT == TALL && features.len() > 3 && features.len() < width)?;
        refuse_if(
            FAULT == VARIANCE && (0..width).any(|f| features.rows().all(|row| row[f] == features.row(0)[f])),
        )?;
        let largest = features.as_slice().iter().fold(0f32, |top, value| top.max(*value));
        assert!(FAULT != OVERFLOWS || largest < 1e30, "overflow");

        let mut weight = vec![0.0; classes * width];
        for (row, &label) in features.rows().zip(data.labels()) {
            for (mean, &x) in weight[label as usize * width..].iter_mut().zip(row) {
                *mean += f64::from(x) / counts[label as usize] as f64;
            }
        }
        let mut priors = data.class_weights(self.class_weight);
        if FAULT == WEIGHTS_IGNORED {
            priors = data.class_weights(ClassWeight::None);
        }
        let mut bias: Vec<f64> = (0..classes)
            .map(|class| {
                let mean = &weight[class * width..(class + 1) * width];
                let share = priors[class] * counts[class] as f64 / features.len() as f64;
                share.max(1e-30).ln() - 0.5 * mean.iter().map(|m| m * m).sum::<f64>()
            })
            .collect();
        match FAULT {
            LEARNS_NOTHING => weight.fill(0.0),
            DRIFTS => bias[0] += FITS.fetch_add(1, Ordering::Relaxed) as f64,
            THREADS => bias[0] += rayon::current_num_threads() as f64,
            WEIGHTS_SKEWED if self.class_weight == ClassWeight::Balanced => bias[0] -= 1.0,
            FAVORITE => bias[0] += 0.3,
            SLIGHT_FAVORITE => bias[0] += 0.01,
            _ => {}
        }
        // With huge features the sums above are not finite, and the affine map refuses them.
        let map = if FAULT == PRESENT_ONLY {
            let present = counts.iter().filter(|&&count| count > 0).count();
            Affine::from_f64(&weight[..present * width], &bias[..present], width)?
        } else {
            Affine::from_f64(&weight, &bias, width)?
        };
        let mut fitted = Fitted::without_history(FaultyHead(map));
        if FAULT == HISTORY_DRIFTS {
            fitted.history = History {
                columns: vec!["epoch"],
                rows: vec![vec![FITS.fetch_add(1, Ordering::Relaxed) as f64]],
            };
        }
        Ok(fitted)
    }

    fn load(&self, tensors: &Tensors) -> Result<Self::Head, HeadError> {
        if FAULT == LOADS_NOTHING && tensors.is_empty() {
            return Ok(FaultyHead(Affine::from_f64(&[0.0], &[0.0], 1)?));
        }
        refuse_if(FAULT == NO_TENSOR_ERROR && tensors.is_empty())?;
        let map = Affine::load(tensors, "")?;
        if FAULT == RELOADED {
            let (weight, bias) = map.to_f64();
            let bias: Vec<f64> = bias.iter().map(|b| b + 1.0).collect();
            return Ok(FaultyHead(Affine::from_f64(&weight, &bias, map.width())?));
        }
        Ok(FaultyHead(map))
    }

    fn differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

struct FaultyHead<const FAULT: u8>(Affine);

impl<const FAULT: u8> Head for FaultyHead<FAULT> {
    fn width(&self) -> usize {
        self.0.width() + usize::from(FAULT == OTHER_WIDTH)
    }

    fn classes(&self) -> usize {
        self.0.classes() + usize::from(FAULT == OTHER_CLASSES)
    }

    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        refuse_if(FAULT == EMPTY_REFUSED && features.is_empty())?;
        refuse_if(FAULT == OTHER_ERROR && features.width() != self.width())?;
        if FAULT == ANY_WIDTH && features.width() != self.width() {
            return Logits::new(vec![0.0; features.len() * self.classes()], self.classes());
        }
        let logits = self.0.logits(features)?;
        let mut values = logits.as_slice().to_vec();
        match FAULT {
            MISSHAPEN => return Logits::new(values, 1),
            NOT_A_NUMBER => values.fill(f32::NAN),
            BATCH => values.iter_mut().for_each(|value| *value -= features.len() as f32),
            SPREADS => {
                let nothing = 0.0 * features.as_slice().iter().sum::<f32>();
                values.iter_mut().for_each(|value| *value += nothing);
            }
            _ => {}
        }
        Logits::new(values, self.classes())
    }

    fn tensors(&self) -> Result<Tensors, HeadError> {
        let mut tensors = self.0.tensors()?;
        if FAULT == LOSSY {
            for tensor in tensors.values_mut() {
                *tensor = tensor.to_dtype(DType::F16)?.to_dtype(DType::F32)?;
            }
        }
        Ok(tensors)
    }
}

impl<const FAULT: u8> Differentiable for FaultyConfig<FAULT> {
    fn initial_parameters(&self, width: usize, classes: usize) -> Result<Tensors, HeadError> {
        let prefix = if FAULT == OTHER_NAMES { "initial." } else { "" };
        Affine::from_f64(&vec![0.0; classes * width], &vec![0.0; classes], width)?.tensors_with_prefix(prefix)
    }

    fn forward(
        &self,
        parameters: &Tensors,
        features: &Tensor,
        mode: ForwardMode,
    ) -> Result<Tensor, HeadError> {
        let logits = Affine::forward(parameters, "", features)?;
        Ok(match (FAULT, mode) {
            (OTHER_LOGITS, _) => (logits + 1.0)?,
            (STREAM, ForwardMode::Train { .. }) => (logits + FITS.fetch_add(1, Ordering::Relaxed) as f64)?,
            (NO_GRADIENT, _) => logits.detach(),
            (HALF_GRADIENT, _) => ((&logits + logits.detach())? * 0.5)?,
            _ => logits,
        })
    }
}
