//! `[tune]`: which stages of the backbone are trained with the head, and how.

use std::str::FromStr;

use headstock_backbone::{BatchNormMode, FeatureLayer};
use headstock_heads::ClassWeight;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;
use serde::{Deserialize, Serialize};

/// `[tune]`
///
/// Rates, decays and schedules are those of PyTorch's optimisers. An epoch shows every training photo once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TuneOptions {
    /// The first stage that is tuned; all that come after it are, too.
    pub from: TuneFrom,
    /// What the head is when tuning begins.
    pub start: HeadInit,
    /// Passes over the training photos, at most.
    pub epochs: u64,
    /// Photos in a batch.
    pub batch_size: usize,
    /// Batches whose gradients make one step.
    pub accumulate: usize,
    /// What makes steps of gradients.
    pub optimizer: OptimizerKind,
    /// The head's learning rate, the highest of the schedule; where it is left out 0.01 for `sgd`, 0.001 for `adamw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// That of the last stage of the backbone; a tenth of `lr` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backbone_lr: Option<f64>,
    /// What the rate of each earlier stage is multiplied by, once more for each.
    pub layer_decay: f64,
    /// Of `sgd`.
    pub momentum: f64,
    /// Of `sgd`: whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Of weights, not of BatchNorm nor of biases.
    pub weight_decay: f64,
    /// How rates change from step to step.
    pub schedule: ScheduleKind,
    /// Epochs over which rates rise from near 0, before the schedule; parts of one are allowed.
    pub warmup: f64,
    /// Of `schedule = "step"`: epochs after which rates fall, again and again.
    pub step_epochs: u64,
    /// Of `schedule = "step"`: what they are multiplied by.
    pub step_gamma: f64,
    /// Part of the target that is spread evenly over all classes.
    pub label_smoothing: f64,
    /// How much a photo of each class counts.
    pub class_weight: ClassWeight,
    /// `α` of mixup; 0 for none.
    pub mixup: f64,
    /// `α` of CutMix; 0 for none.
    pub cutmix: f64,
    /// The norm that gradients are scaled down to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Decay of the moving average of the parameters, which is then what is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// What BatchNorm normalises by.
    #[serde(with = "batch_norm")]
    pub batch_norm: BatchNormMode,
    /// Epochs after which a stage more is tuned, beginning with the last one; all from `from` on at once where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfreeze: Option<u64>,
    /// Which renderings of a photo are seen.
    pub views: AugmentMode,
    /// What activations at the cut are kept in.
    pub keep: CacheDtype,
    /// GB that they may take on the disk, at most; without room they are computed for each batch.
    pub space: f64,
    /// Part of the training photos that is held out, to choose the epoch and to calibrate; 0 for none.
    pub validation: f64,
    /// Epochs without a lower loss on what is held out, after which to stop; never where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// Another one: another order of the photos, others held out.
    pub seed: u64,
}

impl Default for TuneOptions {
    fn default() -> Self {
        Self {
            from: TuneFrom::default(),
            start: HeadInit::default(),
            epochs: 6,
            batch_size: 16,
            accumulate: 1,
            optimizer: OptimizerKind::default(),
            lr: None,
            backbone_lr: None,
            layer_decay: 1.0,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 1e-4,
            schedule: ScheduleKind::default(),
            warmup: 0.0,
            step_epochs: 2,
            step_gamma: 0.1,
            label_smoothing: 0.1,
            class_weight: ClassWeight::None,
            mixup: 0.0,
            cutmix: 0.0,
            clip_norm: None,
            ema: None,
            batch_norm: BatchNormMode::Frozen,
            unfreeze: None,
            views: AugmentMode::default(),
            keep: CacheDtype::default(),
            space: 50.0,
            validation: 0.1,
            patience: None,
            seed: 0,
        }
    }
}

/// Where tuning begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TuneFrom {
    /// Nothing but the head is trained.
    #[default]
    Head,
    /// The last stage.
    Layer4,
    /// The last two.
    Layer3,
    /// The last three.
    Layer2,
    /// All but the stem.
    Layer1,
    /// Everything.
    Stem,
}

impl FromStr for TuneFrom {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::deserialize(name.into_deserializer()).map_err(|error: ValueError| error.to_string())
    }
}

/// What the head is when tuning begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadInit {
    /// Fitted on the frozen features, so that the first gradients do not spoil what the backbone knows (Kumar et al., ICLR
    /// 2022).
    #[default]
    Fitted,
    /// As a head begins that knows nothing.
    Random,
}

/// What makes steps of gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum.
    #[default]
    Sgd,
    /// Adam with decoupled weight decay.
    AdamW,
}

/// How rates change from step to step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// They do not.
    Constant,
    /// Multiplied by `step_gamma` every `step_epochs`.
    Step,
    /// Down to 0 along half a cosine.
    #[default]
    Cosine,
    /// Up and down again along cosines, PyTorch's `OneCycleLR`.
    OneCycle,
}

/// Which renderings of a photo are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AugmentMode {
    /// The plain one and the `features.views` augmented ones, one of them in each epoch.
    #[default]
    Kept,
    /// A new one in each epoch: nothing can be kept, and what is frozen runs every time.
    Fresh,
}

/// What activations are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheDtype {
    /// IEEE half precision: 11 bits, up to 65,504.
    #[default]
    F16,
    /// bfloat16: 8 bits, as far as `f32`.
    Bf16,
}

/// [`BatchNormMode`] by name.
mod batch_norm {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::BatchNormMode;

    pub(super) fn serialize<S: Serializer>(mode: &BatchNormMode, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match mode {
            BatchNormMode::Frozen => "frozen",
            BatchNormMode::Train => "train",
        })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BatchNormMode, D::Error> {
        match String::deserialize(from)?.as_str() {
            "frozen" => Ok(BatchNormMode::Frozen),
            "train" => Ok(BatchNormMode::Train),
            other => Err(D::Error::unknown_variant(other, &["frozen", "train"])),
        }
    }
}

/// A key of `[tune]` and what is wrong with it.
type InvalidValue = (&'static str, String);

impl TuneOptions {
    /// Whether nothing but the head is trained.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.from == TuneFrom::Head
    }

    /// The first stage that is tuned.
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

    /// The first stage that is tuned in an epoch, from 0 on: with `unfreeze` one more every so many.
    ///
    /// # Panics
    /// Where nothing is tuned.
    pub(crate) fn first_stage_in(&self, epoch: u64) -> FeatureLayer {
        const STAGES: [FeatureLayer; 5] = [
            FeatureLayer::Layer4,
            FeatureLayer::Layer3,
            FeatureLayer::Layer2,
            FeatureLayer::Layer1,
            FeatureLayer::Stem,
        ];
        let first = self.first_stage().expect("a stage is tuned");
        let reached = self.unfreeze.map_or(STAGES.len() as u64, |every| epoch / every);
        STAGES[(reached as usize).min(STAGES.len() - 1)].max(first)
    }

    /// Whether the head is fitted first.
    pub(crate) fn head_starts_fitted(&self) -> bool {
        self.start == HeadInit::Fitted
    }

    /// The head's learning rate and the last stage's.
    #[must_use]
    pub fn learning_rates(&self) -> (f64, f64) {
        let lr = self.lr.unwrap_or(match self.optimizer {
            OptimizerKind::Sgd => 1e-2,
            OptimizerKind::AdamW => 1e-3,
        });
        (lr, self.backbone_lr.unwrap_or(lr / 10.0))
    }

    /// Checks the values and fills in the rates.
    pub(super) fn resolve(&mut self) -> Result<(), InvalidValue> {
        let (lr, backbone_lr) = self.learning_rates();
        (self.lr, self.backbone_lr) = (Some(lr), Some(backbone_lr));
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let part = |value: f64| (0.0..1.0).contains(&value);
        let amount = |value: f64| value.is_finite() && value >= 0.0;
        for (key, fits, wanted) in [
            ("epochs", self.epochs > 0, "at least 1"),
            ("batch_size", self.batch_size > 0, "at least 1"),
            ("accumulate", self.accumulate > 0, "at least 1"),
            ("lr", positive(lr), "above 0"),
            ("backbone_lr", amount(backbone_lr), "0 or more"),
            ("layer_decay", self.layer_decay > 0.0 && self.layer_decay <= 1.0, "above 0 and at most 1"),
            ("momentum", part(self.momentum), "at least 0 and below 1"),
            ("weight_decay", amount(self.weight_decay), "0 or more"),
            ("warmup", amount(self.warmup), "0 or more"),
            ("step_epochs", self.step_epochs > 0, "at least 1"),
            ("step_gamma", self.step_gamma > 0.0 && self.step_gamma <= 1.0, "above 0 and at most 1"),
            ("label_smoothing", part(self.label_smoothing), "at least 0 and below 1"),
            ("mixup", amount(self.mixup), "0 or more"),
            ("cutmix", amount(self.cutmix), "0 or more"),
            ("clip_norm", self.clip_norm.is_none_or(positive), "above 0"),
            ("ema", self.ema.is_none_or(|decay| decay > 0.0 && decay < 1.0), "above 0 and below 1"),
            ("unfreeze", self.unfreeze != Some(0), "at least 1"),
            ("space", amount(self.space), "0 or more"),
            ("validation", part(self.validation), "at least 0 and below 1"),
            ("patience", self.patience != Some(0), "at least 1"),
        ] {
            if !fits {
                return Err((key, format!("is out of range: it must be {wanted}")));
            }
        }
        if self.warmup > self.epochs as f64 {
            return Err(("warmup", format!("is {}: there are {} epochs in all", self.warmup, self.epochs)));
        }
        if self.nesterov && (self.momentum == 0.0 || self.optimizer != OptimizerKind::Sgd) {
            return Err(("nesterov", "is for `optimizer = \"sgd\"` with a `momentum`".into()));
        }
        if self.patience.is_some() && self.validation == 0.0 {
            return Err(("patience", "needs photos that are held out: set `tune.validation`".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_filled_in_by_the_optimizer() {
        let mut options = TuneOptions { optimizer: OptimizerKind::AdamW, ..TuneOptions::default() };
        options.resolve().unwrap();
        assert_eq!(options.learning_rates(), (1e-3, 1e-4));
        let mut options = TuneOptions { lr: Some(0.5), backbone_lr: Some(0.0), ..TuneOptions::default() };
        options.resolve().unwrap();
        assert_eq!(options.learning_rates(), (0.5, 0.0));
    }

    // effect: tune.from, tune.start, tune.epochs, tune.batch_size, tune.accumulate, tune.optimizer, tune.layer_decay, tune.momentum
    // effect: tune.nesterov, tune.weight_decay, tune.schedule, tune.warmup, tune.step_epochs, tune.step_gamma
    // effect: tune.label_smoothing, tune.class_weight, tune.mixup, tune.cutmix, tune.batch_norm, tune.views, tune.keep, tune.space
    // effect: tune.validation, tune.seed, tune.lr, tune.backbone_lr, tune.clip_norm, tune.ema, tune.unfreeze, tune.patience
    #[test]
    fn what_is_left_out_is_what_the_pages_say() {
        let mut options: TuneOptions = toml::from_str("").unwrap();
        assert_eq!(options, TuneOptions::default());
        options.resolve().unwrap();
        let written: toml::Table = toml::to_string(&options).unwrap().parse().unwrap();
        let expected: toml::Table = r#"
            from = "head"
            start = "fitted"
            epochs = 6
            batch_size = 16
            accumulate = 1
            optimizer = "sgd"
            lr = 0.01
            backbone_lr = 0.001
            layer_decay = 1.0
            momentum = 0.9
            nesterov = false
            weight_decay = 1e-4
            schedule = "cosine"
            warmup = 0.0
            step_epochs = 2
            step_gamma = 0.1
            label_smoothing = 0.1
            class_weight = "none"
            mixup = 0.0
            cutmix = 0.0
            batch_norm = "frozen"
            views = "kept"
            keep = "f16"
            space = 50.0
            validation = 0.1
            seed = 0
        "#
        .parse()
        .unwrap();
        assert_eq!(written, expected);
    }

    #[test]
    fn a_value_beyond_what_can_be_meant_is_refused_by_its_key() {
        let found =
            |text: &str| toml::from_str::<TuneOptions>(text).unwrap().resolve().map_err(|(key, _)| key);
        for (fits, does_not) in [
            ("epochs = 1", "epochs = 0"),
            ("batch_size = 1", "batch_size = 0"),
            ("accumulate = 1", "accumulate = 0"),
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
            ("warmup = 0.0", "warmup = -0.5"),
            ("warmup = 6.0", "warmup = 6.1"),
            ("step_epochs = 1", "step_epochs = 0"),
            ("step_gamma = 1.0", "step_gamma = 1.1"),
            ("step_gamma = 0.001", "step_gamma = 0.0"),
            ("label_smoothing = 0.0", "label_smoothing = 1.0"),
            ("label_smoothing = 0.9", "label_smoothing = -0.1"),
            ("mixup = 0.0", "mixup = -0.1"),
            ("cutmix = 0.0", "cutmix = inf"),
            ("clip_norm = 0.1", "clip_norm = 0.0"),
            ("ema = 0.999", "ema = 1.0"),
            ("ema = 0.1", "ema = 0.0"),
            ("unfreeze = 1", "unfreeze = 0"),
            ("space = 0.0", "space = -1.0"),
            ("validation = 0.0", "validation = 1.0"),
            ("validation = 0.5", "validation = -0.5"),
            ("patience = 1", "patience = 0"),
            ("patience = 1\nvalidation = 0.1", "patience = 1\nvalidation = 0.0"),
            ("nesterov = true", "nesterov = true\nmomentum = 0.0"),
            ("nesterov = true\noptimizer = \"sgd\"", "nesterov = true\noptimizer = \"adamw\""),
        ] {
            assert_eq!(found(fits), Ok(()), "{fits}");
            assert_eq!(found(does_not), Err(does_not.split(' ').next().unwrap()), "{does_not}");
        }
    }

    // effect: tune.unfreeze, tune.from
    #[test]
    fn a_stage_more_is_tuned_after_so_many_epochs_until_all_are() {
        let stages = |from, unfreeze| {
            let options = TuneOptions { from, unfreeze, ..TuneOptions::default() };
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
    fn what_is_written_is_read_again() {
        let mut options = TuneOptions {
            from: TuneFrom::Stem,
            batch_norm: BatchNormMode::Train,
            schedule: ScheduleKind::OneCycle,
            clip_norm: Some(1.0),
            ..TuneOptions::default()
        };
        options.resolve().unwrap();
        let written = toml::to_string(&options).unwrap();
        assert_eq!(toml::from_str::<TuneOptions>(&written).unwrap(), options, "{written}");
    }
}
