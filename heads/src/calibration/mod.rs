//! Calibration: from logits to probabilities that are right as often as they say.
//!
//! A head's logits rank the classes; how far apart they are says little of how sure one can be. A [`Calibration`] is
//! fitted on logits of photos that the head was not fitted on, and turns logits into probabilities from then on.

mod isotonic;
mod platt;
mod temperature;

use serde::{Deserialize, Serialize};

use crate::data::Logits;
use crate::error::HeadError;
pub use isotonic::IsotonicCurve;
pub use platt::Sigmoid;

/// How logits are to become probabilities: the key `calibration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CalibrationMethod {
    /// Softmax of the logits divided by one number (Guo et al. 2017), which changes no order.
    #[default]
    Temperature,
    /// Softmax of the logits as they are.
    None,
    /// A rising step function of each class's logit, made of straight lines between its steps (Zadrozny and Elkan 2002).
    Isotonic,
    /// A sigmoid of each class's logit (Platt 1999): for margins.
    Platt,
}

impl CalibrationMethod {
    /// Its name in the config.
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

/// How logits become probabilities, fitted.
///
/// The methods that look at one class at a time (`platt`, `isotonic`) take a class's logit against the rest, and divide
/// the classes' probabilities by their sum; a row in which all are 0 says that nothing is known: all classes are equally
/// probable. Of two classes there is one function, of the difference of their logits. All this is as
/// scikit-learn's `CalibratedClassifierCV` has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Calibration {
    /// Softmax of the logits.
    #[default]
    None,
    /// Softmax of the logits divided by this.
    Temperature(f64),
    /// A function of each class's logit, `[C]`; of two classes the second's.
    Isotonic(Vec<IsotonicCurve>),
    /// A sigmoid of each class's logit, `[C]`; of two classes the second's.
    Platt(Vec<Sigmoid>),
}

impl Calibration {
    /// Fits on logits `[N, C]` of photos that the head was not fitted on, and their labels `[N]`.
    ///
    /// The temperature minimises the log-loss. Where it has no minimum (every photo is told right) it is as low as makes
    /// the mean log-loss `ln((N + 2) / (N + 1))`: `N` right of `N` are worth a probability of `(N + 1) / (N + 2)`, by
    /// Laplace's rule of succession. Beside this it stays within a factor of `e¹⁰` of the spread of the logits. Where all
    /// logits of each row are equal it is 1.
    ///
    /// A class without samples is as rare as `platt`'s smoothed targets say, `1 / (N + 2)`, and `isotonic` gives it 0.
    /// One class alone needs no calibration.
    ///
    /// ```
    /// use headstock_heads::calibration::{Calibration, CalibrationMethod};
    /// use headstock_heads::Logits;
    ///
    /// // Surer than it should be: one of four is wrong.
    /// let logits = Logits::new(vec![5.0, 0.0, 0.0, 5.0, 5.0, 0.0, 0.0, 5.0], 2)?;
    /// let calibration = Calibration::fit(CalibrationMethod::Temperature, &logits, &[0, 1, 0, 0])?;
    /// let first = calibration.probabilities(&logits)?[0];
    /// assert!((first - 0.75).abs() < 1e-6);
    /// # Ok::<(), headstock_heads::HeadError>(())
    /// ```
    ///
    /// # Errors
    /// [`HeadError::Data`] for no logits, another number of labels, a label that is not below `C`, and a logit that is
    /// NaN or infinite.
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

    /// The method.
    #[must_use]
    pub fn method(&self) -> CalibrationMethod {
        match self {
            Self::None => CalibrationMethod::None,
            Self::Temperature(_) => CalibrationMethod::Temperature,
            Self::Isotonic(_) => CalibrationMethod::Isotonic,
            Self::Platt(_) => CalibrationMethod::Platt,
        }
    }

    /// What logits are divided by, where that is the method.
    #[must_use]
    pub fn temperature(&self) -> Option<f64> {
        match self {
            Self::Temperature(temperature) => Some(*temperature),
            _ => None,
        }
    }

    /// Logits `[N, C]` to probabilities `[N, C]`, row-major; each row sums to 1.
    ///
    /// # Errors
    /// [`HeadError::Data`] for a logit that is NaN or infinite, and for another number of classes than was fitted on.
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

    /// Whether this is a calibration of `classes` classes, as [`fit`](Self::fit) makes them: for one that was read.
    ///
    /// # Errors
    /// [`HeadError::Data`] for a number that none can have, and for functions of another number of classes.
    pub fn check(&self, classes: usize) -> Result<(), HeadError> {
        let (valid, functions) = match self {
            Self::None => return Ok(()),
            Self::Temperature(temperature) => (temperature.is_finite() && *temperature > 0.0, None),
            Self::Isotonic(all) => (all.iter().all(IsotonicCurve::is_valid), Some(all.len())),
            Self::Platt(all) => (all.iter().all(Sigmoid::is_valid), Some(all.len())),
        };
        if !valid {
            let method = self.method().as_str();
            return Err(HeadError::Data(format!(
                "the calibration is no {method}: its numbers make no sense"
            )));
        }
        match functions {
            Some(found) if found != n_functions(classes) => Err(HeadError::Data(format!(
                "the calibration has {found} functions, expected {} for {classes} classes",
                n_functions(classes)
            ))),
            _ => Ok(()),
        }
    }
}

/// How many functions tell the classes apart: two share one.
fn n_functions(classes: usize) -> usize {
    if classes == 2 { 1 } else { classes }
}

/// The logits of a class against the rest.
fn one_vs_rest_logit(row: &[f32], function: usize) -> f64 {
    match *row {
        [first, second] => f64::from(second) - f64::from(first),
        _ => f64::from(row[function]),
    }
}

/// Fits a function of each class's logit to whether it is the class.
fn fit_per_class<F>(logits: &Logits, labels: &[u32], fit: impl Fn(&[f64], &[bool]) -> F) -> Vec<F> {
    let classes = logits.classes();
    (0..n_functions(classes))
        .map(|function| {
            let class = if classes == 2 { 1 } else { function as u32 };
            let values: Vec<f64> = logits.rows().map(|row| one_vs_rest_logit(row, function)).collect();
            let positive: Vec<bool> = labels.iter().map(|&label| label == class).collect();
            fit(&values, &positive)
        })
        .collect()
}

/// Each class's own probability by `probability`, so that a row sums to 1.
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

/// Whether there is something to fit on, and a label for each of the `rows` that is one of `classes`.
pub(crate) fn check_labels(rows: usize, classes: usize, labels: &[u32]) -> Result<(), HeadError> {
    if rows == 0 {
        return Err(HeadError::Data("there is nothing to calibrate on: no samples".into()));
    }
    if rows != labels.len() {
        return Err(HeadError::Data(format!("{rows} rows to calibrate on but {} labels", labels.len())));
    }
    match labels.iter().enumerate().find(|&(_, &label)| label as usize >= classes) {
        Some((row, label)) => Err(HeadError::Data(format!(
            "label {label} in row {row} is not below {classes}, the number of classes"
        ))),
        None => Ok(()),
    }
}

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
