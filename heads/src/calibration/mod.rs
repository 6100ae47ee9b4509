//! Calibration: maps logits to probabilities that match observed frequencies.
//!
//! The logits of a head rank the classes, but their scale says little about confidence. A [`Calibration`] is
//! fitted on logits of images that the head was not fitted on.

mod isotonic;
mod platt;
mod temperature;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::{Logits, check_label_range};
use crate::error::HeadError;
pub use isotonic::IsotonicCurve;
pub use platt::Sigmoid;

/// The config key `calibration`: how logits become probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CalibrationMethod {
    /// Softmax of the logits divided by a temperature, one number for all classes (Guo et al. 2017). The
    /// order of the classes does not change.
    #[default]
    Temperature,
    /// Softmax of the raw logits, without calibration.
    None,
    /// A non-decreasing, piecewise linear function of the logit of each class, by isotonic regression
    /// (Zadrozny and Elkan 2002); needs many photos per class.
    Isotonic,
    /// A sigmoid of the logit of each class (Platt 1999), which suits support vector machines.
    Platt,
}

impl CalibrationMethod {
    /// The name of the method in the config and in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::None => "none",
            Self::Isotonic => "isotonic",
            Self::Platt => "platt",
        }
    }
}

/// A fitted mapping from logits to probabilities.
///
/// The one-vs-rest methods (`platt`, `isotonic`) map each class's logit on its own and divide the resulting
/// probabilities by their sum; a row of zeros becomes the uniform distribution. With two classes there is one
/// function, of the difference of the logits. This matches scikit-learn's `CalibratedClassifierCV`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Calibration {
    /// Softmax of the logits.
    #[default]
    None,
    /// Softmax of the logits divided by this temperature.
    Temperature(f64),
    /// A function of each class's logit, `[C]`; with two classes only the second's.
    Isotonic(Vec<IsotonicCurve>),
    /// A sigmoid of each class's logit, `[C]`; with two classes only the second's.
    Platt(Vec<Sigmoid>),
}

impl Calibration {
    /// Fits a calibration of the given method on logits `[N, C]` of images that the head was not fitted on,
    /// and their labels `[N]`.
    ///
    /// The temperature minimizes the log-loss. If the loss has no minimum (all images are predicted
    /// correctly), the temperature is the lowest with a mean log-loss of at least `ln((N + 2) / (N + 1))`: by
    /// Laplace's rule of succession, `N` correct of `N` support a probability of `(N + 1) / (N + 2)`. The
    /// temperature also stays within a factor of `e¹⁰` of the standard deviation of the logits. It is 1 if
    /// the logits of each row are equal.
    ///
    /// For a class without samples, `platt` gives the probability of its smoothed targets, `1 / (N + 2)`, and
    /// `isotonic` gives 0. With a single class no calibration is needed.
    ///
    /// ```
    /// use headstock_heads::calibration::{Calibration, CalibrationMethod};
    /// use headstock_heads::Logits;
    ///
    /// // Overconfident: one of four is wrong.
    /// let logits = Logits::new(vec![5.0, 0.0, 0.0, 5.0, 5.0, 0.0, 0.0, 5.0], 2)?;
    /// let calibration = Calibration::fit(CalibrationMethod::Temperature, &logits, &[0, 1, 0, 0])?;
    /// let first = calibration.probabilities(&logits)?[0];
    /// assert!((first - 0.75).abs() < 1e-6);
    /// # Ok::<(), headstock_heads::HeadError>(())
    /// ```
    ///
    /// # Errors
    /// [`HeadError::Data`] for no logits, a wrong number of labels, a label that is not below `C`, or a logit
    /// that is NaN or infinite.
    pub fn fit(method: CalibrationMethod, logits: &Logits, labels: &[u32]) -> Result<Self, HeadError> {
        check_labels(logits.as_slice().len() / logits.classes(), logits.classes(), labels)?;
        check_finite(logits)?;
        if logits.classes() == 1 {
            return Ok(Self::None);
        }
        Ok(match method {
            CalibrationMethod::None => Self::None,
            CalibrationMethod::Temperature => Self::Temperature(temperature::fit(logits, labels)),
            CalibrationMethod::Isotonic => Self::Isotonic(fit_per_class(logits, labels, IsotonicCurve::fit)),
            CalibrationMethod::Platt => Self::Platt(fit_per_class(logits, labels, Sigmoid::fit)),
        })
    }

    /// The method by which this calibration was fitted.
    #[must_use]
    pub fn method(&self) -> CalibrationMethod {
        match self {
            Self::None => CalibrationMethod::None,
            Self::Temperature(_) => CalibrationMethod::Temperature,
            Self::Isotonic(_) => CalibrationMethod::Isotonic,
            Self::Platt(_) => CalibrationMethod::Platt,
        }
    }

    /// The fitted temperature, if the method is `temperature`; `None` for the other methods.
    #[must_use]
    pub fn temperature(&self) -> Option<f64> {
        match self {
            Self::Temperature(temperature) => Some(*temperature),
            _ => None,
        }
    }

    /// Converts logits `[N, C]` to calibrated probabilities `[N, C]`, row-major; each row sums to 1.
    ///
    /// # Errors
    /// [`HeadError::Data`] for a logit that is NaN or infinite, or a number of classes other than in the fit.
    pub fn probabilities(&self, logits: &Logits) -> Result<Vec<f32>, HeadError> {
        check_finite(logits)?;
        self.check(logits.classes())?;
        Ok(match self {
            Self::None => logits.softmax(),
            Self::Temperature(temperature) => logits.softmax_with_temperature(*temperature),
            Self::Isotonic(functions) => {
                one_vs_rest_probabilities(logits, |class, value| functions[class].probability(value))
            }
            Self::Platt(functions) => {
                one_vs_rest_probabilities(logits, |class, value| functions[class].probability(value))
            }
        })
    }

    /// Validates a calibration that was loaded from a file: its parameters must be in range, and a
    /// one-vs-rest method must have the right number of functions (curves or sigmoids) for `classes` classes.
    ///
    /// # Errors
    /// [`HeadError::Data`] for an invalid parameter or a wrong number of functions.
    pub fn check(&self, classes: usize) -> Result<(), HeadError> {
        let (valid, functions) = match self {
            Self::None => return Ok(()),
            Self::Temperature(temperature) => (temperature.is_finite() && *temperature > 0.0, None),
            Self::Isotonic(curves) => (curves.iter().all(IsotonicCurve::is_valid), Some(curves.len())),
            Self::Platt(sigmoids) => (sigmoids.iter().all(Sigmoid::is_valid), Some(sigmoids.len())),
        };
        if !valid {
            let method = self.method().as_str();
            return Err(HeadError::Data(format!(
                "the file is damaged (the saved calibration of the probabilities, {method}, has values that \
                 are out of range): train again"
            )));
        }
        match functions {
            Some(found) if found != n_functions(classes) => Err(HeadError::Data(format!(
                "the file is damaged (the saved calibration of the probabilities has {found} functions \
                 instead of {} for {classes} classes): train again",
                n_functions(classes)
            ))),
            _ => Ok(()),
        }
    }
}

/// Number of functions (sigmoids or curves) that a one-vs-rest calibration has: one per class, but a single
/// one for two classes, whose probabilities add up to 1.
fn n_functions(classes: usize) -> usize {
    if classes == 2 { 1 } else { classes }
}

/// The number that the one-vs-rest function with index `function` maps to a probability, from a row of logits
/// `[C]`: the logit of class `function`. With two classes there is one function, of the second logit minus
/// the first.
fn one_vs_rest_logit(row: &[f32], function: usize) -> f64 {
    match *row {
        [first, second] => f64::from(second) - f64::from(first),
        _ => f64::from(row[function]),
    }
}

/// Fits a one-vs-rest calibration: a function `F` (a sigmoid or curve) for each class, or only for the second
/// of two classes. `fit` is called for each with the logits of its class, `[N]` (see [`one_vs_rest_logit`]),
/// and with whether each row is of that class, `[N]`.
fn fit_per_class<F>(logits: &Logits, labels: &[u32], fit: impl Fn(&[f64], &[bool]) -> F) -> Vec<F> {
    let classes = logits.classes();
    (0..n_functions(classes))
        .map(|function| {
            let class = if classes == 2 { 1 } else { function as u32 };
            let values: Vec<f64> = logits.rows().map(|row| one_vs_rest_logit(row, function)).collect();
            let is_positive: Vec<bool> = labels.iter().map(|&label| label == class).collect();
            fit(&values, &is_positive)
        })
        .collect()
}

/// The probabilities `[N, C]` of a one-vs-rest calibration. `probability(index, logit)` applies the fitted
/// function number `index`, that of the class `index`, to the logit of the class. The probabilities of a row
/// are then divided by their sum; if all are 0, every class gets `1 / C`. Two classes have only one function,
/// number 0: it takes the logit of the second class against the first and gives the probability of the
/// second.
fn one_vs_rest_probabilities(logits: &Logits, probability: impl Fn(usize, f64) -> f64) -> Vec<f32> {
    let classes = logits.classes();
    let mut out = Vec::with_capacity(logits.as_slice().len());
    for row in logits.rows() {
        if classes == 2 {
            let second = probability(0, one_vs_rest_logit(row, 0));
            out.extend([(1.0 - second) as f32, second as f32]);
            continue;
        }
        let probabilities: Vec<f64> =
            (0..classes).map(|class| probability(class, one_vs_rest_logit(row, class))).collect();
        let sum: f64 = probabilities.iter().sum();
        let normalize = |p: f64| if sum > 0.0 { p / sum } else { 1.0 / classes as f64 };
        out.extend(probabilities.into_iter().map(|p| normalize(p) as f32));
    }
    out
}

/// Checks the data that a calibration is fitted on: there must be at least one row, and for each row one
/// label, below `classes`.
pub(crate) fn check_labels(rows: usize, classes: usize, labels: &[u32]) -> Result<(), HeadError> {
    if rows == 0 {
        return Err(HeadError::Data(
            "there are no held-out photos to calibrate the probabilities on: hold out at least one photo"
                .into(),
        ));
    }
    if rows != labels.len() {
        return Err(HeadError::Data(format!(
            "the numbers of rows of logits or probabilities ({rows}) and of labels ({}) differ: each row \
             needs one label",
            labels.len()
        )));
    }
    check_label_range(labels, classes)
}

/// Checks that no logit is NaN or infinite.
fn check_finite(logits: &Logits) -> Result<(), HeadError> {
    match logits.as_slice().iter().position(|v| !v.is_finite()) {
        Some(index) => Err(HeadError::Data(format!(
            "the logit of class {} in row {} is {}: logits must be finite",
            index % logits.classes(),
            index / logits.classes(),
            logits.as_slice()[index]
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
