//! A head that keeps every law, and versions of it that break one each: the suite finds each of them.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Tensor};
use serde::{Deserialize, Deserializer, Serialize};

use super::check_head;
use crate::affine::Affine;
use crate::data::{ClassWeight, FeatureMatrix, Logits, TrainingSet};
use crate::differentiable::{Differentiable, ForwardMode};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, History, HyperparameterInfo, Tensors};

/// Declares the faults, and for each a test that the suite names the law which it breaks.
macro_rules! faults {
    ($($number:literal $fault:ident $test:ident: $law:literal,)*) => {
        $(const $fault: u8 = $number;)*

        $(#[test]
        fn $test() {
            let panic = catch_unwind(check_head::<Means<$fault>>).expect_err("the suite lets the fault pass");
            let message = panic.downcast_ref::<String>().expect("a message");
            assert!(message.contains($law), "the fault is found, but under another law: {message}");
        })*
    };
}

const NONE: u8 = 0;

faults! {
    1 INVALID_DEFAULTS defaults_that_are_invalid_are_found: "passes its own check",
    2 UNLISTED_KEY a_key_missing_from_parameters_is_found: "PARAMETERS lists exactly the keys",
    3 KEY_LISTED_TWICE a_key_listed_twice_is_found: "a key is listed twice",
    4 MISREAD a_value_that_is_read_otherwise_than_written_is_found: "is read back as it was",
    5 OTHER_DEFAULT a_default_that_depends_on_the_table_is_found: "an empty table is the default",
    6 UNKNOWN_KEYS unknown_keys_that_pass_are_found: "an unknown key is an error",
    7 OTHER_WIDTH a_wrong_width_is_found: "takes and gives what it was fitted on",
    8 MISSHAPEN logits_of_the_wrong_shape_are_found: "logits have shape",
    9 NOT_A_NUMBER logits_that_are_not_finite_are_found: "a logit is NaN",
    10 EMPTY_REFUSED a_head_that_needs_rows_is_found: "no rows give no logits",
    11 LEARNS_NOTHING a_head_that_learns_nothing_is_found: "far apart are told apart",
    12 ANY_WIDTH features_of_another_width_that_pass_are_found: "features of another width are an error",
    13 DRIFTS fits_that_differ_are_found: "the same data and configuration give the same bits",
    14 THREADS a_fit_that_depends_on_threads_is_found: "the number of threads changes nothing",
    15 LOSSY a_head_that_is_saved_with_a_loss_is_found: "its logits differ",
    16 LOADS_NOTHING a_head_made_of_no_tensors_is_found: "a tensor that is missing is an error",
    17 BATCH logits_that_depend_on_the_batch_are_found: "do not depend on the other rows",
    18 SPREADS values_that_are_not_finite_and_spread_are_found: "does not spoil the others",
    19 TWO_CLASSES a_head_that_needs_two_classes_is_found: "one class can be fitted",
    20 EVERY_CLASS a_head_that_needs_every_class_is_found: "classes without samples are allowed",
    21 TWO_EACH a_head_that_needs_two_samples_a_class_is_found: "one sample a class is enough",
    22 TALL a_head_that_needs_many_samples_is_found: "more features than samples",
    23 VARIANCE a_head_that_needs_variance_is_found: "features that are constant",
    24 OVERFLOWS a_panic_on_huge_features_is_found: "huge features are fitted or refused without a panic",
    25 WEIGHTS_IGNORED class_weights_without_effect_are_found: "favour the rare class",
    26 WEIGHTS_SKEWED class_weights_that_act_on_even_classes_are_found: "where all classes are as frequent",
    27 FAVOURITE a_head_that_favours_a_class_by_its_number_is_found: "classes with other numbers",
    28 OTHER_NAMES parameters_of_other_names_are_found: "the names and shapes of the fitted ones",
    29 OTHER_LOGITS tensors_that_give_other_logits_are_found: "the logits that the fitted head gives",
    30 STREAM randomness_from_a_stream_is_found: "the same logits whenever it is taken",
    31 NO_GRADIENT a_gradient_that_is_lost_is_found: "no gradient reaches",
    32 HALF_GRADIENT a_gradient_that_is_wrong_is_found: "gradients are those of finite differences",
    33 STAYS a_warm_start_that_learns_no_new_class_is_found: "learns classes that are new",
    34 ANY_START a_start_of_other_features_that_is_taken_is_found: "a head of other features is no start",
    35 UNNAMED_KEY an_error_that_does_not_name_the_unknown_key_is_found: "an unknown key is an error that names it",
    36 OTHER_CLASSES a_wrong_number_of_classes_is_found: "takes and gives what it was fitted on",
    37 OTHER_ERROR features_of_another_width_with_another_error_are_found: "it is not HeadError::Width",
    38 NO_TENSOR_ERROR missing_tensors_with_another_error_are_found: "it is not HeadError::Tensor",
    39 HISTORY_DRIFTS a_history_that_differs_is_found: "the same data and configuration give the same bits",
    40 RELOADED a_head_that_is_changed_when_it_is_loaded_is_found: "its tensors differ",
    41 PRESENT_ONLY a_head_without_its_absent_classes_is_found: "it has 1 classes",
    42 SLIGHT_FAVOURITE a_head_that_slightly_favours_a_class_by_its_number_is_found: "classes with other numbers",
}

#[test]
fn a_head_without_fault_passes() {
    check_head::<Means<NONE>>();
}

/// The class whose mean is nearest, with the frequency of the classes as prior: linear discriminant analysis
/// with the identity as covariance. `FAULT` breaks it.
#[derive(Clone, Debug, Serialize)]
struct Means<const FAULT: u8> {
    class_weight: ClassWeight,
    scale: f64,
}

impl<const FAULT: u8> Default for Means<FAULT> {
    fn default() -> Self {
        Self { class_weight: ClassWeight::None, scale: 1.0 }
    }
}

impl<'de, const FAULT: u8> Deserialize<'de> for Means<FAULT> {
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
                Err(serde::de::Error::custom("there is a key too many"))
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

static FITS: AtomicU64 = AtomicU64::new(0);

fn refuse_if(fault: bool) -> Result<(), HeadError> {
    if fault { Err(HeadError::Data("refused".into())) } else { Ok(()) }
}

impl<const FAULT: u8> HeadConfig for Means<FAULT> {
    const KIND: &'static str = "means";
    const ABOUT: &'static str = "the class whose mean is nearest";
    const PARAMETERS: &'static [HyperparameterInfo] = match FAULT {
        UNLISTED_KEY => &[("scale", "")],
        KEY_LISTED_TWICE => &[("scale", ""), ("class_weight", ""), ("scale", "")],
        _ => &[("scale", ""), ("class_weight", "")],
    };
    const SUPPORTS_WARM_START: bool = FAULT == STAYS || FAULT == ANY_START;
    type Head = FaultyHead<FAULT>;

    fn check(&self) -> Result<(), HeadError> {
        refuse_if(FAULT == INVALID_DEFAULTS)
    }

    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Self::Head>, HeadError> {
        if FAULT == STAYS
            && let Some(start) = context.warm_start
        {
            return Ok(Fitted::without_history(FaultyHead(Affine::warm_start(start, data)?)));
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
            FAVOURITE => bias[0] += 0.3,
            SLIGHT_FAVOURITE => bias[0] += 0.1,
            _ => {}
        }
        // Where features are huge, the sums above are not finite: the map refuses them.
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

impl<const FAULT: u8> Differentiable for Means<FAULT> {
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
