//! The laws that every head keeps, as a suite to run in a test.
//!
//! ```
//! headstock_heads::check_head::<headstock_heads::linear::LinearConfig>();
//! ```

mod gradients;
mod samples;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::Device;

use crate::data::{Features, Logits};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, Tensors};
use crate::registry::Registry;
use samples::Samples;

/// Checks that a head keeps the laws that `train` and the commands rely on, with its default configuration.
///
/// * The defaults are valid; `PARAMETERS` lists the keys of the table; the table comes back from TOML; an
///   unknown key is an error that names it.
/// * Logits are `[N, C]` and finite; separable classes are told apart; features of another width are an
///   error.
/// * The same data and seed give the same bits, on one thread and on two.
/// * A head that is saved and loaded gives the same bits; a tensor that is missing is an error.
/// * A row's logits do not depend on the other rows, even where those are NaN or infinite.
/// * It takes one class, one sample a class, a class without samples, more features than samples, constant
///   features; huge features are fitted or refused without a panic.
/// * `class_weight = "balanced"`, if there is such a key, favours rare classes and changes nothing where all
///   are as frequent.
/// * A head that says it starts from another ([`HeadConfig::WARM`]) does, also where classes are new, and refuses one of
///   other features.
/// * Classes with other numbers get the same predictions under their new numbers.
/// * A head that says it is differentiable is: the same logits through tensors, and gradients as finite
///   differences have them.
///
/// # Panics
/// When a law is broken; the message says which, and how.
pub fn check_head<C: HeadConfig>() {
    check_head_with(&C::default());
}

/// As [`check_head`], with a configuration other than the default, as for another solver of the same head.
///
/// # Panics
/// As there.
pub fn check_head_with<C: HeadConfig>(config: &C) {
    let subject = Subject { config };
    subject.configuration();
    subject.shapes();
    subject.determinism();
    subject.persistence();
    subject.rows_stand_alone();
    subject.small_and_odd_data();
    subject.class_weights();
    subject.renumbered_classes();
    subject.warm_starts();
    gradients::check(config);
}

/// Fails the test that runs the suite.
fn broken(kind: &str, law: &str, detail: impl Display) -> ! {
    panic!("head `{kind}` breaks a law: {law}; {detail}")
}

struct Subject<'a, C> {
    config: &'a C,
}

impl<C: HeadConfig> Subject<'_, C> {
    fn require(&self, holds: bool, law: &str, detail: impl Display) {
        if !holds {
            broken(C::KIND, law, detail);
        }
    }

    fn must<T>(&self, law: &str, result: Result<T, impl Display>) -> T {
        result.unwrap_or_else(|error| broken(C::KIND, law, error))
    }

    fn fit(&self, law: &str, samples: &Samples) -> Fitted<C::Head> {
        self.must(law, self.config.fit(&samples.training_set(), &FitContext::quiet()))
    }

    /// Logits, which must be `[N, C]`; and finite, if asked.
    fn logits(&self, law: &str, head: &C::Head, features: Features<'_>, finite: bool) -> Logits {
        let logits = self.must(law, head.logits(features));
        let shape = (logits.rows().len(), logits.classes());
        let expected = (features.len(), head.classes());
        self.require(
            shape == expected,
            law,
            format_args!("logits have shape {shape:?}, expected {expected:?}"),
        );
        if finite && let Some(value) = logits.as_slice().iter().find(|value| !value.is_finite()) {
            broken(C::KIND, law, format_args!("a logit is {value}"));
        }
        logits
    }

    fn table(&self) -> toml::Table {
        self.must("a configuration is a table of TOML values", toml::Table::try_from(self.config))
    }

    fn configuration(&self) {
        self.must("the configuration passes its own check", self.config.check());
        let table = self.table();

        let law = "PARAMETERS lists exactly the keys of the configuration, each once";
        let keys: BTreeSet<&str> = table.keys().map(String::as_str).collect();
        let listed: BTreeSet<&str> = C::PARAMETERS.iter().map(|&(key, _)| key).collect();
        self.require(keys == listed, law, format_args!("it lists {listed:?}, the keys are {keys:?}"));
        self.require(listed.len() == C::PARAMETERS.len(), law, "a key is listed twice");

        let mut registry = Registry::empty();
        self.must("the head can be registered", registry.add::<C>());
        let kind = self.must("the head is found by its name", registry.get(C::KIND));
        let law = "a configuration written as TOML is read back as it was";
        let text = self.must(law, toml::to_string(&table));
        let again = self.must(law, kind.configure(self.must(law, text.parse()))).table();
        self.require(again == table, law, format_args!("{table} became {again}"));

        let law = "an empty table is the default configuration";
        let defaults = self.must(law, toml::Table::try_from(C::default()));
        let empty = self.must(law, kind.configure(toml::Table::new())).table();
        self.require(
            empty == defaults,
            law,
            format_args!("the defaults are {defaults}, an empty table gives {empty}"),
        );

        let law = "an unknown key is an error that names it";
        let mut misspelt = table;
        misspelt.insert("no_such_key".into(), 1.into());
        match kind.configure(misspelt) {
            Ok(_) => broken(C::KIND, law, "`no_such_key` is accepted: use #[serde(deny_unknown_fields)]"),
            Err(error) => self.require(error.to_string().contains("no_such_key"), law, error),
        }
    }

    fn shapes(&self) {
        let law = "a head takes and gives what it was fitted on";
        let samples = Samples::separable();
        let head = self.fit(law, &samples).head;
        let (shape, expected) = ((head.width(), head.classes()), (samples.width, samples.classes));
        self.require(
            shape == expected,
            law,
            format_args!("(width, classes) is {shape:?}, expected {expected:?}"),
        );
        let logits = self.logits("logits are [N, C] and finite", &head, samples.features(), true);
        let none = Features::rows_of(&[], samples.width);
        self.logits("no rows give no logits", &head, none, true);

        let predicted = logits.argmax();
        let right = predicted.iter().zip(&samples.labels).filter(|(a, b)| a == b).count();
        let detail = format_args!("only {right} of {} training samples are right", predicted.len());
        self.require(right * 10 >= predicted.len() * 9, "classes that are far apart are told apart", detail);

        let law = "features of another width are an error";
        let wide = vec![0.0; samples.width + 1];
        match head.logits(Features::rows_of(&wide, samples.width + 1)) {
            Err(HeadError::Width { .. }) => {}
            Err(other) => broken(C::KIND, law, format_args!("it is not HeadError::Width but: {other}")),
            Ok(_) => broken(C::KIND, law, "they are accepted: call Features::expect_width"),
        }
    }

    fn determinism(&self) {
        let samples = Samples::overlapping();
        let fit_on = |law: &str, threads: usize| -> (Vec<u8>, Vec<u64>) {
            let pool = self.must(law, rayon::ThreadPoolBuilder::new().num_threads(threads).build());
            let fitted = pool.install(|| self.fit(law, &samples));
            let history = fitted.history.rows.iter().flatten().map(|value| value.to_bits()).collect();
            (self.bytes(law, &*fitted.head), history)
        };
        let law = "the same data and configuration give the same bits";
        let first = fit_on(law, 1);
        self.require(first == fit_on(law, 1), law, "a second fit differs from the first");
        let law = "the number of threads changes nothing";
        self.require(first == fit_on(law, 2), law, "a fit on two threads differs from one on one thread");
    }

    /// The head's tensors as a safetensors file.
    fn bytes(&self, law: &str, head: &C::Head) -> Vec<u8> {
        let tensors = self.must(law, head.tensors());
        self.must(law, safetensors::serialize(tensors.iter(), None))
    }

    fn persistence(&self) {
        let law = "a head that is saved and loaded is the same to the bit";
        let samples = Samples::overlapping();
        let head = self.fit(law, &samples).head;
        let bytes = self.bytes(law, &head);
        let tensors = self.must(law, candle_core::safetensors::load_buffer(&bytes, &Device::Cpu));
        let tensors: Tensors = tensors.into_iter().collect();
        let loaded = self.must(law, self.config.load(&tensors));
        self.require(self.bytes(law, &loaded) == bytes, law, "its tensors differ");
        let logits = |head: &C::Head| self.logits(law, head, samples.features(), true);
        self.require(bits(&logits(&head)) == bits(&logits(&loaded)), law, "its logits differ");

        let law = "a tensor that is missing is an error";
        match self.config.load(&Tensors::new()) {
            Err(HeadError::Tensor { .. }) => {}
            Err(other) => broken(C::KIND, law, format_args!("it is not HeadError::Tensor but: {other}")),
            Ok(_) => broken(C::KIND, law, "a head is loaded from no tensors at all"),
        }
    }

    fn rows_stand_alone(&self) {
        let law = "a row's logits do not depend on the other rows";
        let samples = Samples::overlapping();
        let head = self.fit(law, &samples).head;
        let together = self.logits(law, &head, samples.features(), true);
        for (i, (row, expected)) in samples.features().rows().zip(together.rows()).enumerate() {
            let alone = self.logits(law, &head, Features::rows_of(row, samples.width), true);
            let same = alone.as_slice().iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
            self.require(
                same,
                law,
                format_args!("row {i} alone gives {:?}, among others {expected:?}", alone.as_slice()),
            );
        }

        let law = "a row that is not finite does not spoil the others";
        let mut values = samples.values.clone();
        values[..samples.width].fill(f32::NAN);
        values[2 * samples.width..3 * samples.width].fill(f32::INFINITY);
        let spoilt = self.logits(law, &head, Features::rows_of(&values, samples.width), false);
        let others = together.rows().zip(spoilt.rows()).enumerate().filter(|(i, _)| ![0, 2].contains(i));
        for (i, (expected, found)) in others {
            self.require(
                expected == found,
                law,
                format_args!("row {i} gives {found:?}, expected {expected:?}"),
            );
        }
    }

    fn small_and_odd_data(&self) {
        let cases = [
            ("a set with one class can be fitted", Samples::one_class(1)),
            ("classes without samples are allowed", Samples::one_class(3)),
            ("one sample a class is enough to fit", Samples::one_each()),
            ("more features than samples are allowed", Samples::wide()),
            ("features that are constant are allowed", Samples::constant()),
        ];
        for (law, samples) in cases {
            let head = self.fit(law, &samples).head;
            self.require(
                head.classes() == samples.classes,
                law,
                format_args!("it has {} classes", head.classes()),
            );
            self.logits(law, &head, samples.features(), true);
        }
        let law = "huge features are fitted or refused without a panic";
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            let huge = Samples::huge();
            let fitted = self.config.fit(&huge.training_set(), &FitContext::quiet());
            fitted.and_then(|fitted| fitted.head.logits(huge.features())).is_ok()
        }));
        self.require(attempt.is_ok(), law, "it panics");
    }

    fn class_weights(&self) {
        let mut table = self.table();
        if !table.contains_key("class_weight") {
            return;
        }
        let law = "`class_weight` is \"none\" or \"balanced\"";
        let mut with = |value: &str| -> C {
            table.insert("class_weight".into(), value.into());
            self.must(law, table.clone().try_into())
        };
        let (none, balanced) = (with("none"), with("balanced"));
        let (none, balanced) = (Subject { config: &none }, Subject { config: &balanced });

        let law = "balanced class weights change nothing where all classes are as frequent";
        let even = Samples::overlapping();
        let [a, b] = [&none, &balanced].map(|subject| subject.bytes(law, &subject.fit(law, &even).head));
        self.require(a == b, law, "the fits differ");

        let law = "balanced class weights favour the rare class";
        let uneven = Samples::unbalanced();
        let rare = |subject: &Subject<'_, C>| {
            let logits = subject.logits(law, &subject.fit(law, &uneven).head, uneven.features(), true);
            logits.argmax().iter().filter(|&&class| class == 1).count()
        };
        let (without, with) = (rare(&none), rare(&balanced));
        let detail = format_args!("{with} samples are taken for it with them, {without} without");
        self.require(with > without, law, detail);
    }

    fn warm_starts(&self) {
        if !C::WARM {
            return;
        }
        let (few, many) = (Samples::overlapping(), Samples::separable());
        let tensors = |samples: &Samples| {
            let law = "a head has tensors";
            self.must(law, self.fit(law, samples).head.tensors())
        };
        let law = "a head that starts from another learns classes that are new";
        let start = tensors(&few.widened(many.width));
        let context = FitContext::quiet().starting_from(&start);
        let head = self.must(law, self.config.fit(&many.training_set(), &context)).head;
        let predicted = self.logits(law, &head, many.features(), true).argmax();
        let right = predicted.iter().zip(&many.labels).filter(|(a, b)| a == b).count();
        let detail = format_args!("only {right} of {} training samples are right", predicted.len());
        self.require(right * 10 >= predicted.len() * 9, law, detail);

        let law = "a head of other features is no start";
        let start = tensors(&few);
        let attempt = self.config.fit(&many.training_set(), &FitContext::quiet().starting_from(&start));
        self.require(attempt.is_err(), law, "it is taken: compare the widths");
    }

    fn renumbered_classes(&self) {
        let law = "classes with other numbers get the same predictions under their new numbers";
        let samples = Samples::overlapping();
        let other = |class: u32| (class + 1) % samples.classes as u32;
        let renumbered =
            Samples { labels: samples.labels.iter().map(|&label| other(label)).collect(), ..samples.clone() };
        let logits =
            |samples: &Samples| self.logits(law, &self.fit(law, samples).head, samples.features(), true);
        let (before, after) = (logits(&samples), logits(&renumbered).argmax());
        // Where classes tie, as votes do, the lowest number wins.
        let agrees = |&(row, &after): &(&[f32], &u32)| {
            let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let found = (0..samples.classes as u32).find(|&class| other(class) == after);
            found.is_some_and(|class| best - row[class as usize] <= 1e-4 * best.abs().max(1.0))
        };
        let same = before.rows().zip(&after).filter(agrees).count();
        let detail = format_args!("{same} of {} predictions are the same", after.len());
        self.require(same * 100 >= after.len() * 98, law, detail);
    }
}

fn bits(logits: &Logits) -> Vec<u32> {
    logits.as_slice().iter().map(|value| value.to_bits()).collect()
}
