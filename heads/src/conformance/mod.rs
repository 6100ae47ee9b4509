//! The conformance suite for heads, to be run in a test.
//!
//! ```
//! headstock_heads::check_head::<headstock_heads::linear::LinearConfig>();
//! ```

mod gradients;
mod samples;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::Device;

use crate::data::{FeatureMatrix, Logits};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig};
use crate::hyperparameter::hyperparameters;
use crate::registry::Registry;
use crate::tensors::Tensors;
use samples::SyntheticData;

/// Checks with the default configuration that a head has the properties `train` and the commands rely on.
///
/// * The defaults are valid; every key has a doc comment; a TOML round trip keeps the table; an unknown
///   key is an error that names it.
/// * Logits are `[N, C]` and finite; separable classes are separated; features of another width are an error.
/// * The same data and seed give the same bits, on one thread and on two.
/// * Saving and loading is lossless to the bit; a missing tensor is an error.
/// * A row's logits do not depend on the other rows, even if those are NaN or infinite.
/// * It handles one class, one sample per class, classes without samples, more features than samples and
///   constant features; huge features are fitted or refused without a panic.
/// * `class_weight = "balanced"`, if the key exists, favors rare classes and changes nothing when all classes
///   are equally frequent.
/// * A head that supports warm starts ([`HeadConfig::SUPPORTS_WARM_START`]) learns new classes from one, and
///   refuses one with another number of features.
/// * Renumbering the classes renumbers the predictions, all of them: a fit starts with equal classes, and only
///   equal logits may go to another class.
/// * A differentiable head gives the same logits through tensors, and gradients that match finite
///   differences.
///
/// # Panics
/// When a property does not hold; the message says which one and how.
pub fn check_head<C: HeadConfig>() {
    check_head_with(&C::default());
}

/// Checks the properties that [`check_head`] lists with the given configuration in place of the default, for
/// example with a different solver of the same head.
///
/// # Panics
/// When a property does not hold; the message says which one and how.
pub fn check_head_with<C: HeadConfig>(config: &C) {
    let checker = HeadChecker { config };
    checker.check_configuration();
    checker.check_shapes();
    checker.check_determinism();
    checker.check_persistence();
    checker.check_row_independence();
    checker.check_edge_cases();
    checker.check_class_weights();
    checker.check_renumbered_classes();
    checker.check_warm_starts();
    gradients::check_differentiable(config);
}

/// Fails the test that runs the suite.
fn fail(kind: &str, property: &str, detail: impl Display) -> ! {
    panic!("head `{kind}` fails a check: {property}; {detail}")
}

/// Runs the checks on a configuration.
struct HeadChecker<'a, C> {
    config: &'a C,
}

impl<C: HeadConfig> HeadChecker<'_, C> {
    /// Fails with `detail` unless `condition` holds.
    fn require(&self, condition: bool, property: &str, detail: impl Display) {
        if !condition {
            fail(C::KIND, property, detail);
        }
    }

    /// Fails unless `found` is `expected`; `what` names the value.
    fn require_equal<T: PartialEq + Debug>(&self, property: &str, what: &str, found: &T, expected: &T) {
        self.require(found == expected, property, format_args!("{what} {found:?}, expected {expected:?}"));
    }

    /// Fails unless at least 9 of 10 samples are predicted correctly.
    fn require_correct(&self, property: &str, logits: &Logits, samples: &SyntheticData) {
        let predicted = logits.argmax();
        let n_correct = predicted.iter().zip(&samples.labels).filter(|(a, b)| a == b).count();
        let detail = format_args!("only {n_correct} of {} predictions are correct", predicted.len());
        self.require(n_correct * 10 >= predicted.len() * 9, property, detail);
    }

    /// The value of a result; fails with its error.
    fn expect_ok<T>(&self, property: &str, result: Result<T, impl Display>) -> T {
        result.unwrap_or_else(|error| fail(C::KIND, property, error))
    }

    /// The head fitted on synthetic data; fails if the fit does.
    fn fit(&self, property: &str, samples: &SyntheticData) -> Fitted<C::Head> {
        self.expect_ok(property, self.config.fit(&samples.training_set(), &FitContext::silent()))
    }

    /// Logits, checked to be `[N, C]`.
    fn logits(&self, property: &str, head: &C::Head, features: FeatureMatrix<'_>) -> Logits {
        let logits = self.expect_ok(property, head.logits(features));
        let shape = (logits.rows().len(), logits.classes());
        let expected = (features.len(), head.classes());
        self.require_equal(property, "logits have shape", &shape, &expected);
        logits
    }

    /// Logits, checked to be `[N, C]` and finite.
    fn finite_logits(&self, property: &str, head: &C::Head, features: FeatureMatrix<'_>) -> Logits {
        let logits = self.logits(property, head, features);
        if let Some(value) = logits.as_slice().iter().find(|value| !value.is_finite()) {
            fail(C::KIND, property, format_args!("a logit is {value}"));
        }
        logits
    }

    /// The configuration as the table `[head]`.
    fn to_table(&self) -> toml::Table {
        self.expect_ok("a configuration serializes to a TOML table", toml::Table::try_from(self.config))
    }

    /// Defaults, documented keys, the TOML round trip and unknown keys.
    fn check_configuration(&self) {
        self.expect_ok("the configuration passes its own check", self.config.check());
        let table = self.to_table();

        let property = "the JSON schema has exactly the keys of the configuration, each with a description";
        let described = hyperparameters::<C>();
        let keys: BTreeSet<&str> = table.keys().map(String::as_str).collect();
        let listed: BTreeSet<&str> = described.iter().map(|key| key.name.as_str()).collect();
        self.require(keys == listed, property, format_args!("it has {listed:?}, the keys are {keys:?}"));
        for key in described.iter().filter(|key| key.about.is_empty()) {
            self.require(false, property, format_args!("`{}` has no doc comment", key.name));
        }

        let mut registry = Registry::empty();
        self.expect_ok("the head can be registered", registry.add::<C>());
        let kind = self.expect_ok("the head is found by its name", registry.get(C::KIND));
        let property = "a configuration is unchanged after writing and reading TOML";
        let text = self.expect_ok(property, toml::to_string(&table));
        let reread = self.expect_ok(property, kind.configure(self.expect_ok(property, text.parse()))).table();
        self.require_equal(property, "the table became", &reread, &table);

        let property = "an empty table is the default configuration";
        let defaults = self.expect_ok(property, toml::Table::try_from(C::default()));
        let empty = self.expect_ok(property, kind.configure(toml::Table::new())).table();
        self.require_equal(property, "an empty table gives", &empty, &defaults);

        let property = "an unknown key is an error that names it";
        let mut misspelled = table;
        misspelled.insert("no_such_key".into(), 1.into());
        match kind.configure(misspelled) {
            Ok(_) => fail(C::KIND, property, "`no_such_key` is accepted: use #[serde(deny_unknown_fields)]"),
            Err(error) => self.require(error.to_string().contains("no_such_key"), property, error),
        }
    }

    /// Shapes of the head and its logits, correct predictions for separable classes, and features of a wrong
    /// width.
    fn check_shapes(&self) {
        let property = "a head has the width and number of classes of its training set";
        let samples = SyntheticData::separable();
        let head = self.fit(property, &samples).head;
        let (shape, expected) = ((head.width(), head.classes()), (samples.width, samples.classes));
        self.require_equal(property, "(width, classes) is", &shape, &expected);
        let logits = self.finite_logits("logits are [N, C] and finite", &head, samples.features());
        let no_rows = FeatureMatrix::from_valid_rows(&[], samples.width);
        self.finite_logits("zero rows give zero rows of logits", &head, no_rows);

        self.require_correct("well separated classes are predicted correctly", &logits, &samples);

        let property = "features of another width are an error";
        let wide = vec![0.0; samples.width + 1];
        match head.logits(FeatureMatrix::from_valid_rows(&wide, samples.width + 1)) {
            Err(HeadError::Width { .. }) => {}
            Err(error) => fail(C::KIND, property, format_args!("expected HeadError::Width, got: {error}")),
            Ok(_) => fail(C::KIND, property, "they are accepted: call FeatureMatrix::expect_width"),
        }
    }

    /// The same bits from every fit, on one thread and on two.
    fn check_determinism(&self) {
        let samples = SyntheticData::overlapping();
        let fit_on = |property: &str, threads: usize| -> (Vec<u8>, Vec<u64>) {
            let pool = self.expect_ok(property, rayon::ThreadPoolBuilder::new().num_threads(threads).build());
            let fitted = pool.install(|| self.fit(property, &samples));
            let history = fitted.history.rows.iter().flatten().map(|value| value.to_bits()).collect();
            (self.tensor_bytes(property, &*fitted.head), history)
        };
        let property = "the same data and configuration give the same bits";
        let first = fit_on(property, 1);
        self.require(first == fit_on(property, 1), property, "a second fit differs from the first");
        let property = "the result does not depend on the number of threads";
        let same = first == fit_on(property, 2);
        self.require(same, property, "a fit on two threads differs from a fit on one thread");
    }

    /// The head's tensors as the bytes of a safetensors file.
    fn tensor_bytes(&self, property: &str, head: &C::Head) -> Vec<u8> {
        let tensors = self.expect_ok(property, head.tensors());
        self.expect_ok(property, safetensors::serialize(tensors.iter(), None))
    }

    /// Saving and loading, and a missing tensor.
    fn check_persistence(&self) {
        let property = "a head is the same to the bit after saving and loading";
        let samples = SyntheticData::overlapping();
        let head = self.fit(property, &samples).head;
        let bytes = self.tensor_bytes(property, &head);
        let tensors = self.expect_ok(property, candle_core::safetensors::load_buffer(&bytes, &Device::Cpu));
        let tensors: Tensors = tensors.into_iter().collect();
        let loaded = self.expect_ok(property, self.config.load(&tensors));
        self.require(self.tensor_bytes(property, &loaded) == bytes, property, "its tensors differ");
        let logits = |head: &C::Head| self.finite_logits(property, head, samples.features());
        self.require(bits(&logits(&head)) == bits(&logits(&loaded)), property, "its logits differ");

        let property = "a missing tensor is an error";
        match self.config.load(&Tensors::new()) {
            Err(HeadError::Tensor { .. }) => {}
            Err(error) => fail(C::KIND, property, format_args!("expected HeadError::Tensor, got: {error}")),
            Ok(_) => fail(C::KIND, property, "a head is loaded from an empty set of tensors"),
        }
    }

    /// The logits of a row alone and in a batch, also beside rows that are not finite.
    fn check_row_independence(&self) {
        let property = "a row's logits do not depend on the other rows";
        let samples = SyntheticData::overlapping();
        let head = self.fit(property, &samples).head;
        let batch = self.finite_logits(property, &head, samples.features());
        for (i, (row, expected)) in samples.features().rows().zip(batch.rows()).enumerate() {
            let alone =
                self.finite_logits(property, &head, FeatureMatrix::from_valid_rows(row, samples.width));
            let same = alone.as_slice().iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
            let detail = format_args!("row {i} alone gives {:?}, in a batch {expected:?}", alone.as_slice());
            self.require(same, property, detail);
        }

        let property = "a row that is not finite does not affect the others";
        let mut values = samples.values.clone();
        values[..samples.width].fill(f32::NAN);
        values[2 * samples.width..3 * samples.width].fill(f32::INFINITY);
        let with_non_finite =
            self.logits(property, &head, FeatureMatrix::from_valid_rows(&values, samples.width));
        let others =
            batch.rows().zip(with_non_finite.rows()).enumerate().filter(|(i, _)| ![0, 2].contains(i));
        for (i, (expected, found)) in others {
            self.require_equal(property, &format!("row {i} gives"), &found, &expected);
        }
    }

    /// Small, empty, constant and huge data.
    fn check_edge_cases(&self) {
        let cases = [
            ("a set with one class can be fitted", SyntheticData::one_class(1)),
            ("classes without samples are allowed", SyntheticData::one_class(3)),
            ("one sample per class is enough to fit", SyntheticData::one_sample_per_class()),
            ("more features than samples are allowed", SyntheticData::more_features_than_samples()),
            ("constant features are allowed", SyntheticData::constant_features()),
        ];
        for (property, samples) in cases {
            let head = self.fit(property, &samples).head;
            let detail = format_args!("it has {} classes", head.classes());
            self.require(head.classes() == samples.classes, property, detail);
            self.finite_logits(property, &head, samples.features());
        }
        let property = "huge features are fitted or refused without a panic";
        let result = catch_unwind(AssertUnwindSafe(|| {
            let huge = SyntheticData::huge();
            let fitted = self.config.fit(&huge.training_set(), &FitContext::silent());
            fitted.and_then(|fitted| fitted.head.logits(huge.features())).is_ok()
        }));
        self.require(result.is_ok(), property, "it panics");
    }

    /// The effect of `class_weight`, if the head has this key.
    fn check_class_weights(&self) {
        let mut table = self.to_table();
        if !table.contains_key("class_weight") {
            return;
        }
        let property = "`class_weight` is \"none\" or \"balanced\"";
        let mut with_class_weight = |value: &str| -> C {
            table.insert("class_weight".into(), value.into());
            self.expect_ok(property, table.clone().try_into())
        };
        let (none, balanced) = (with_class_weight("none"), with_class_weight("balanced"));
        let (none, balanced) = (HeadChecker { config: &none }, HeadChecker { config: &balanced });

        let property = "balanced class weights change nothing where all classes are equally frequent";
        let even_data = SyntheticData::overlapping();
        let [a, b] = [&none, &balanced]
            .map(|checker| checker.tensor_bytes(property, &checker.fit(property, &even_data).head));
        self.require(a == b, property, "the fits differ");

        let property = "balanced class weights favor the rare class";
        let unbalanced = SyntheticData::unbalanced();
        let count_rare = |checker: &HeadChecker<'_, C>| {
            let head = checker.fit(property, &unbalanced).head;
            let logits = checker.finite_logits(property, &head, unbalanced.features());
            logits.argmax().iter().filter(|&&class| class == 1).count()
        };
        let (rare_without, rare_with) = (count_rare(&none), count_rare(&balanced));
        let detail = format_args!("predicted {rare_with} times with them, {rare_without} times without");
        self.require(rare_with > rare_without, property, detail);
    }

    /// Warm starts with new classes and with a wrong width, if the head supports them.
    fn check_warm_starts(&self) {
        if !C::SUPPORTS_WARM_START {
            return;
        }
        let (few, many) = (SyntheticData::overlapping(), SyntheticData::separable());
        let tensors = |samples: &SyntheticData| {
            let property = "a head has tensors";
            self.expect_ok(property, self.fit(property, samples).head.tensors())
        };
        let property = "a warm start learns new classes";
        let start = tensors(&few.zero_padded(many.width));
        let context = FitContext::silent().with_warm_start(&start);
        let head = self.expect_ok(property, self.config.fit(&many.training_set(), &context)).head;
        self.require_correct(property, &self.finite_logits(property, &head, many.features()), &many);

        let property = "a warm start with another number of features is an error";
        let start = tensors(&few);
        let result = self.config.fit(&many.training_set(), &FitContext::silent().with_warm_start(&start));
        self.require(result.is_err(), property, "it is accepted: compare the widths");
    }

    /// The predictions of a fit on the same data with other class numbers.
    fn check_renumbered_classes(&self) {
        let property = "renumbering the classes renumbers the predictions";
        let samples = SyntheticData::overlapping();
        let renumber = |class: u32| (class + 1) % samples.classes as u32;
        let renumbered = SyntheticData {
            labels: samples.labels.iter().map(|&label| renumber(label)).collect(),
            ..samples.clone()
        };
        let logits = |samples: &SyntheticData| {
            self.finite_logits(property, &self.fit(property, samples).head, samples.features())
        };
        let (before, after) = (logits(&samples), logits(&renumbered).argmax());
        // Equal logits, as of votes, go to the class with the lowest number. No other prediction may change:
        // the logits of these samples differ by far more than a solver's tolerance.
        let is_same = |&(row, &after): &(&[f32], &u32)| {
            let found = (0..samples.classes as u32).find(|&class| renumber(class) == after);
            found.is_some_and(|class| row.iter().all(|&logit| logit <= row[class as usize]))
        };
        let same = before.rows().zip(&after).filter(is_same).count();
        let detail = format_args!("{same} of {} predictions are the same", after.len());
        self.require(same == after.len(), property, detail);
    }
}

/// The bits of all logits, in which NaN equals itself and -0 differs from 0.
fn bits(logits: &Logits) -> Vec<u32> {
    logits.as_slice().iter().map(|value| value.to_bits()).collect()
}
