//! `[tune]`: which stages of the backbone are fine-tuned with the head, and how.

use std::str::FromStr;

use headstock_backbone::{BatchNormMode, FeatureLayer};
use headstock_heads::ClassWeight;
use schemars::JsonSchema;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;
use serde::{Deserialize, Serialize};

/// Fine-tuning of the backbone. Without this section the backbone stays frozen.
///
/// Optimizers and schedules follow PyTorch. An epoch shows every training photo once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TuneOptions {
    /// The first stage of the backbone that is trained. All later stages are trained, too. `"head"` trains
    /// only the head.
    pub from: TuneFrom,
    /// The head's parameters when fine-tuning begins.
    pub head_init: HeadInit,
    /// Passes over the training photos, at most.
    pub epochs: u64,
    /// Number of photos in a batch.
    pub batch_size: usize,
    /// Number of batches whose gradients are added up for one step of the optimizer.
    pub grad_accum_steps: usize,
    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// Learning rate of the head, the peak of the schedule. The default is 0.01 with `"sgd"` and 0.001 with
    /// `"adamw"`; `train --find-lr` helps to choose a value.
    pub lr: Option<f64>,
    /// Peak learning rate of the last stage of the backbone, `layer4`. The default is a tenth of `lr`.
    pub backbone_lr: Option<f64>,
    /// Factor between the learning rates of consecutive stages: each earlier stage has the rate of the stage
    /// after it times this.
    pub layer_decay: f64,
    /// Momentum of `"sgd"`, from 0 to below 1.
    pub momentum: f64,
    /// Whether `"sgd"` uses Nesterov momentum.
    pub nesterov: bool,
    /// Weight decay of weights. BatchNorm parameters and biases do not decay.
    pub weight_decay: f64,
    /// The learning-rate schedule.
    pub schedule: ScheduleKind,
    /// Epochs of warm-up, during which the learning rates rise from near 0 before the schedule starts;
    /// fractions are allowed. With `schedule = "one-cycle"` the length of the rise, where 0 stands for 0.3 of
    /// all epochs.
    pub warmup_epochs: f64,
    /// With `schedule = "step"`: epochs between two drops of the learning rates.
    pub step_epochs: u64,
    /// With `schedule = "step"`: factor of each drop, above 0 and at most 1.
    pub step_gamma: f64,
    /// Label smoothing: fraction of each target that is spread evenly over all classes, from 0 to below 1.
    pub label_smoothing: f64,
    /// Class weights in the loss. `"balanced"` gives photos of rare classes more weight.
    pub class_weight: ClassWeight,
    /// The `α` of mixup; 0 turns it off. Mixup mixes the input of the first trained stage: activations, or
    /// pixels with `from = "stem"`. With both `mixup` and `cutmix`, each batch has one of the two.
    pub mixup: f64,
    /// The `α` of CutMix; 0 turns it off. See `mixup`.
    pub cutmix: f64,
    /// Maximum norm of the gradient of a step; larger gradients are scaled down to it. No clipping if it is
    /// left out.
    pub clip_grad_norm: Option<f64>,
    /// Decay of an exponential moving average (EMA) of all trained parameters, above 0 and below 1. The
    /// average is evaluated and saved in place of the parameters. No average if it is left out.
    pub ema_decay: Option<f64>,
    /// The statistics that BatchNorm normalizes with: `"frozen"`, the running statistics of the weights, or
    /// `"train"`, those of each batch.
    pub batch_norm: BatchNormMode,
    /// Gradual unfreezing: epochs after which one more stage is trained, from `layer4` back to `from`. If it
    /// is left out, all stages are trained from the start.
    pub unfreeze_epochs: Option<u64>,
    /// How the views of a photo are augmented across epochs.
    pub augment: AugmentMode,
    /// Number format of the cached activations at the split point.
    pub cache_dtype: CacheDtype,
    /// Maximum size of the activation cache on disk, in GB. If the activations do not fit, the frozen stages
    /// run for each batch instead, with a warning.
    pub cache_gb: f64,
    /// Fraction of the training photos that is held out, from 0 to below 1. The epoch with the lowest
    /// log-loss on them is saved, and they calibrate the model. With 0 the last epoch is saved, uncalibrated.
    pub validation: f64,
    /// Early stopping: epochs without a lower log-loss on the held-out photos after which to stop. Never if
    /// it is left out.
    pub patience: Option<u64>,
    /// Random seed: it determines the order of the photos and which photos are held out.
    pub seed: u64,
}

impl Default for TuneOptions {
    /// The values of the keys that `[tune]` of the config does not set: no fine-tuning, only the head is
    /// trained.
    fn default() -> Self {
        Self {
            from: TuneFrom::default(),
            head_init: HeadInit::default(),
            epochs: 6,
            batch_size: 16,
            grad_accum_steps: 1,
            optimizer: OptimizerKind::default(),
            lr: None,
            backbone_lr: None,
            layer_decay: 1.0,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 1e-4,
            schedule: ScheduleKind::default(),
            warmup_epochs: 0.0,
            step_epochs: 2,
            step_gamma: 0.1,
            label_smoothing: 0.1,
            class_weight: ClassWeight::None,
            mixup: 0.0,
            cutmix: 0.0,
            clip_grad_norm: None,
            ema_decay: None,
            batch_norm: BatchNormMode::Frozen,
            unfreeze_epochs: None,
            augment: AugmentMode::default(),
            cache_dtype: CacheDtype::default(),
            cache_gb: 50.0,
            validation: 0.1,
            patience: None,
            seed: 0,
        }
    }
}

/// The first stage of the backbone that is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TuneFrom {
    /// No stage: only the head is trained.
    #[default]
    Head,
    /// The last stage.
    Layer4,
    /// The last two stages.
    Layer3,
    /// The last three stages.
    Layer2,
    /// All stages but the stem.
    Layer1,
    /// The whole backbone.
    Stem,
}

impl FromStr for TuneFrom {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::deserialize(name.into_deserializer()).map_err(|error: ValueError| error.to_string())
    }
}

/// The head's parameters when fine-tuning begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeadInit {
    /// Fitted on the frozen features, so that the first gradients do not distort the pretrained features
    /// (Kumar et al., ICLR 2022).
    #[default]
    Fitted,
    /// The initial values of an unfitted head.
    Random,
}

/// An optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum.
    #[default]
    Sgd,
    /// Adam with decoupled weight decay.
    AdamW,
}

/// A learning-rate schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Constant learning rates.
    Constant,
    /// Multiplied by `step_gamma` every `step_epochs`.
    Step,
    /// Down to 0 along half a cosine.
    #[default]
    Cosine,
    /// Up and down again along cosines, PyTorch's `OneCycleLR`.
    OneCycle,
}

/// How the views of a photo are augmented across epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AugmentMode {
    /// In each epoch one of the evaluation view and the `features.views` augmented views of a photo; their
    /// activations are cached.
    #[default]
    Cached,
    /// A new augmented view in each epoch. Activations are not cached, and the frozen stages run for every
    /// batch.
    PerEpoch,
}

/// Number format of cached activations, two bytes per value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CacheDtype {
    /// IEEE half precision: 11 significant bits, up to 65,504.
    #[default]
    F16,
    /// bfloat16: 8 significant bits, the range of `f32`. Lossless for a backbone that computes in `bf16`.
    Bf16,
}

/// A key of `[tune]`, and what is wrong with its value, as a fragment such as "is out of range: ...".
type InvalidValue = (&'static str, String);

impl TuneOptions {
    /// Whether only the head is trained.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.from == TuneFrom::Head
    }

    /// The first stage of the backbone that is fine-tuned, as `tune.from` says; all later stages are
    /// fine-tuned as well. `None` if the backbone is frozen and only the head is trained.
    #[must_use]
    pub fn first_stage(&self) -> Option<FeatureLayer> {
        match self.from {
            TuneFrom::Head => None,
            TuneFrom::Layer4 => Some(FeatureLayer::Layer4),
            TuneFrom::Layer3 => Some(FeatureLayer::Layer3),
            TuneFrom::Layer2 => Some(FeatureLayer::Layer2),
            TuneFrom::Layer1 => Some(FeatureLayer::Layer1),
            TuneFrom::Stem => Some(FeatureLayer::Stem),
        }
    }

    /// The first stage of the backbone that is trained in `epoch` (counted from 0), for gradual unfreezing.
    /// With `unfreeze_epochs` = `n`, training begins with the last stage, and after every `n` epochs the
    /// stage before is trained as well. Without it, all stages from [`first_stage`](Self::first_stage) on are
    /// always trained.
    ///
    /// # Panics
    /// If only the head is trained.
    pub(crate) fn first_stage_in(&self, epoch: u64) -> FeatureLayer {
        let first = self.first_stage().expect("a stage is trained");
        let Some(epochs) = self.unfreeze_epochs else { return first };
        // From the last stage back to the first one that is trained at the end.
        let mut stages = FeatureLayer::ALL
            .into_iter()
            .rev()
            .filter(|layer| (first..FeatureLayer::Avgpool).contains(layer));
        stages.nth((epoch / epochs) as usize).unwrap_or(first)
    }

    /// Whether fine-tuning begins with a head that is fitted on the frozen features.
    pub(crate) fn head_starts_fitted(&self) -> bool {
        self.head_init == HeadInit::Fitted
    }

    /// The peak learning rates of fine-tuning: first that of the head, then that of the last stage of the
    /// backbone. Those that the config does not give have defaults, which depend on the optimizer.
    #[must_use]
    pub fn learning_rates(&self) -> (f64, f64) {
        let lr = self.lr.unwrap_or(match self.optimizer {
            OptimizerKind::Sgd => 1e-2,
            OptimizerKind::AdamW => 1e-3,
        });
        (lr, self.backbone_lr.unwrap_or(lr / 10.0))
    }

    /// Checks that all values of `[tune]` are in their ranges and fit together, and fills in the default
    /// learning rates. The error is the first key with an invalid value, and what is wrong with it.
    pub(super) fn resolve(&mut self) -> Result<(), InvalidValue> {
        let (lr, backbone_lr) = self.learning_rates();
        (self.lr, self.backbone_lr) = (Some(lr), Some(backbone_lr));
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        let is_fraction = |value: f64| (0.0..1.0).contains(&value);
        let is_inner_fraction = |value: f64| value > 0.0 && value < 1.0;
        let is_non_negative = |value: f64| value.is_finite() && value >= 0.0;
        for (key, is_valid, range) in [
            ("epochs", self.epochs > 0, "at least 1"),
            ("batch_size", self.batch_size > 0, "at least 1"),
            ("grad_accum_steps", self.grad_accum_steps > 0, "at least 1"),
            ("lr", is_positive(lr), "above 0"),
            ("backbone_lr", is_non_negative(backbone_lr), "0 or more"),
            ("layer_decay", self.layer_decay > 0.0 && self.layer_decay <= 1.0, "above 0 and at most 1"),
            ("momentum", is_fraction(self.momentum), "at least 0 and below 1"),
            ("weight_decay", is_non_negative(self.weight_decay), "0 or more"),
            ("warmup_epochs", is_non_negative(self.warmup_epochs), "0 or more"),
            ("step_epochs", self.step_epochs > 0, "at least 1"),
            ("step_gamma", self.step_gamma > 0.0 && self.step_gamma <= 1.0, "above 0 and at most 1"),
            ("label_smoothing", is_fraction(self.label_smoothing), "at least 0 and below 1"),
            ("mixup", is_non_negative(self.mixup), "0 or more"),
            ("cutmix", is_non_negative(self.cutmix), "0 or more"),
            ("clip_grad_norm", self.clip_grad_norm.is_none_or(is_positive), "above 0"),
            ("ema_decay", self.ema_decay.is_none_or(is_inner_fraction), "above 0 and below 1"),
            ("unfreeze_epochs", self.unfreeze_epochs != Some(0), "at least 1"),
            ("cache_gb", is_non_negative(self.cache_gb), "0 or more"),
            ("validation", is_fraction(self.validation), "at least 0 and below 1"),
            ("patience", self.patience != Some(0), "at least 1"),
        ] {
            if !is_valid {
                return Err((key, format!("is out of range: it must be {range}")));
            }
        }
        if self.warmup_epochs > self.epochs as f64 {
            let (warmup, epochs) = (self.warmup_epochs, self.epochs);
            let problem = format!("is {warmup}: it must be at most `tune.epochs`, {epochs}");
            return Err(("warmup_epochs", problem));
        }
        if self.nesterov && (self.momentum == 0.0 || self.optimizer != OptimizerKind::Sgd) {
            return Err(("nesterov", "needs `tune.optimizer = \"sgd\"` and `tune.momentum` above 0".into()));
        }
        if self.patience.is_some() && self.validation == 0.0 {
            return Err(("patience", "needs held-out photos: set `tune.validation` above 0".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_learning_rates_depend_on_the_optimizer() {
        let mut options = TuneOptions { optimizer: OptimizerKind::AdamW, ..TuneOptions::default() };
        options.resolve().unwrap();
        assert_eq!(options.learning_rates(), (1e-3, 1e-4));
        let mut options = TuneOptions { lr: Some(0.5), backbone_lr: Some(0.0), ..TuneOptions::default() };
        options.resolve().unwrap();
        assert_eq!(options.learning_rates(), (0.5, 0.0));
    }

    // effect: tune.from, tune.head_init, tune.epochs, tune.batch_size, tune.grad_accum_steps, tune.optimizer
    // effect: tune.layer_decay, tune.momentum
    // effect: tune.nesterov, tune.weight_decay, tune.schedule, tune.warmup_epochs, tune.step_epochs
    // effect: tune.step_gamma
    // effect: tune.label_smoothing, tune.class_weight, tune.mixup, tune.cutmix, tune.batch_norm, tune.augment
    // effect: tune.cache_dtype, tune.cache_gb
    // effect: tune.validation, tune.seed, tune.lr, tune.backbone_lr, tune.clip_grad_norm, tune.ema_decay
    // effect: tune.unfreeze_epochs, tune.patience
    #[test]
    fn defaults_are_as_documented() {
        let mut options: TuneOptions = toml::from_str("").unwrap();
        assert_eq!(options, TuneOptions::default());
        options.resolve().unwrap();
        let written: toml::Table = toml::to_string(&options).unwrap().parse().unwrap();
        let expected: toml::Table = r#"
            from = "head"
            head_init = "fitted"
            epochs = 6
            batch_size = 16
            grad_accum_steps = 1
            optimizer = "sgd"
            lr = 0.01
            backbone_lr = 0.001
            layer_decay = 1.0
            momentum = 0.9
            nesterov = false
            weight_decay = 1e-4
            schedule = "cosine"
            warmup_epochs = 0.0
            step_epochs = 2
            step_gamma = 0.1
            label_smoothing = 0.1
            class_weight = "none"
            mixup = 0.0
            cutmix = 0.0
            batch_norm = "frozen"
            augment = "cached"
            cache_dtype = "f16"
            cache_gb = 50.0
            validation = 0.1
            seed = 0
        "#
        .parse()
        .unwrap();
        assert_eq!(written, expected);
    }

    #[test]
    fn an_invalid_value_is_rejected_with_its_key() {
        let resolved =
            |text: &str| toml::from_str::<TuneOptions>(text).unwrap().resolve().map_err(|(key, _)| key);
        for (valid, invalid) in [
            ("epochs = 1", "epochs = 0"),
            ("batch_size = 1", "batch_size = 0"),
            ("grad_accum_steps = 1", "grad_accum_steps = 0"),
            ("lr = 1e-9", "lr = 0.0"),
            ("lr = 10.0", "lr = -1.0"),
            ("lr = 1.0", "lr = nan"),
            ("lr = 1.0\nbackbone_lr = 1.0", "lr = inf"),
            ("backbone_lr = 0.0", "backbone_lr = -1e-9"),
            ("layer_decay = 1.0", "layer_decay = 1.01"),
            ("layer_decay = 0.01", "layer_decay = 0.0"),
            ("momentum = 0.0", "momentum = 1.0"),
            ("momentum = 0.99", "momentum = -0.1"),
            ("weight_decay = 0.0", "weight_decay = -0.1"),
            ("warmup_epochs = 0.0", "warmup_epochs = -0.5"),
            ("warmup_epochs = 6.0", "warmup_epochs = 6.1"),
            ("step_epochs = 1", "step_epochs = 0"),
            ("step_gamma = 1.0", "step_gamma = 1.1"),
            ("step_gamma = 0.001", "step_gamma = 0.0"),
            ("label_smoothing = 0.0", "label_smoothing = 1.0"),
            ("label_smoothing = 0.9", "label_smoothing = -0.1"),
            ("mixup = 0.0", "mixup = -0.1"),
            ("cutmix = 0.0", "cutmix = inf"),
            ("clip_grad_norm = 0.1", "clip_grad_norm = 0.0"),
            ("ema_decay = 0.999", "ema_decay = 1.0"),
            ("ema_decay = 0.1", "ema_decay = 0.0"),
            ("unfreeze_epochs = 1", "unfreeze_epochs = 0"),
            ("cache_gb = 0.0", "cache_gb = -1.0"),
            ("validation = 0.0", "validation = 1.0"),
            ("validation = 0.5", "validation = -0.5"),
            ("patience = 1", "patience = 0"),
            ("patience = 1\nvalidation = 0.1", "patience = 1\nvalidation = 0.0"),
            ("nesterov = true", "nesterov = true\nmomentum = 0.0"),
            ("nesterov = true\noptimizer = \"sgd\"", "nesterov = true\noptimizer = \"adamw\""),
        ] {
            assert_eq!(resolved(valid), Ok(()), "{valid}");
            assert_eq!(resolved(invalid), Err(invalid.split(' ').next().unwrap()), "{invalid}");
        }
    }

    // effect: tune.unfreeze_epochs, tune.from
    #[test]
    fn gradual_unfreezing_adds_one_stage_at_a_time() {
        let stages = |from, unfreeze_epochs| {
            let options = TuneOptions { from, unfreeze_epochs, ..TuneOptions::default() };
            [0, 1, 2, 3, 4, 5, 99].map(|epoch| options.first_stage_in(epoch))
        };
        let [stem, one, two, three, four] = [
            FeatureLayer::Stem,
            FeatureLayer::Layer1,
            FeatureLayer::Layer2,
            FeatureLayer::Layer3,
            FeatureLayer::Layer4,
        ];
        assert_eq!(stages(TuneFrom::Stem, None), [stem; 7]);
        assert_eq!(stages(TuneFrom::Layer3, None), [three; 7]);
        assert_eq!(stages(TuneFrom::Stem, Some(1)), [four, three, two, one, stem, stem, stem]);
        assert_eq!(stages(TuneFrom::Layer1, Some(2)), [four, four, three, three, two, two, one]);
        assert_eq!(stages(TuneFrom::Layer4, Some(1)), [four; 7]);
        assert!(TuneOptions::default().is_off() && TuneOptions::default().first_stage().is_none());
    }

    #[test]
    fn options_survive_a_toml_round_trip() {
        let mut options = TuneOptions {
            from: TuneFrom::Stem,
            batch_norm: BatchNormMode::Train,
            schedule: ScheduleKind::OneCycle,
            clip_grad_norm: Some(1.0),
            ..TuneOptions::default()
        };
        options.resolve().unwrap();
        let written = toml::to_string(&options).unwrap();
        assert_eq!(toml::from_str::<TuneOptions>(&written).unwrap(), options, "{written}");
    }
}
