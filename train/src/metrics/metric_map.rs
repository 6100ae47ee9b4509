//! Values by metric.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;

use headstock_inference::Predictions;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{METRICS, Metric};

/// A value of some metrics, in the order of [`METRICS`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricMap<T>(Vec<(&'static dyn Metric, T)>);

/// The values of metrics.
pub type Metrics = MetricMap<f64>;

impl<T> MetricMap<T> {
    /// The value of `metric`, if there is one.
    #[must_use]
    pub fn get(&self, metric: &dyn Metric) -> Option<&T> {
        self.iter().find(|(known, _)| known.key() == metric.key()).map(|(_, value)| value)
    }

    /// The metrics and their values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static dyn Metric, &T)> {
        self.0.iter().map(|(metric, value)| (*metric, value))
    }

    /// The same metrics with the values `convert(metric, value)`.
    #[must_use]
    pub fn map<U>(&self, mut convert: impl FnMut(&'static dyn Metric, &T) -> U) -> MetricMap<U> {
        self.iter().map(|(metric, value)| (metric, convert(metric, value))).collect()
    }
}

impl<T> FromIterator<(&'static dyn Metric, T)> for MetricMap<T> {
    fn from_iter<I: IntoIterator<Item = (&'static dyn Metric, T)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl<T> Index<&dyn Metric> for MetricMap<T> {
    type Output = T;

    /// The value of `metric`.
    ///
    /// # Panics
    /// If there is none: see [`get`](MetricMap::get).
    fn index(&self, metric: &dyn Metric) -> &T {
        self.get(metric).unwrap_or_else(|| panic!("there is no value of the metric {}", metric.key()))
    }
}

impl Metrics {
    /// Computes all metrics of the predictions by comparing them with the true `labels` `[N]`; `N` must be at
    /// least 1.
    ///
    /// # Panics
    /// If the numbers of labels and samples differ, or a label is not below `C`.
    #[must_use]
    pub fn from_predictions(predictions: &Predictions, labels: &[u32]) -> Self {
        assert_eq!(labels.len(), predictions.predicted.len(), "one label per sample");
        let weights = vec![1; labels.len()];
        METRICS.iter().map(|&metric| (metric, metric.prepare(predictions, labels)(&weights))).collect()
    }

    /// Those that measure the quality of the probabilities.
    #[must_use]
    pub fn of_probabilities(&self) -> Self {
        self.0.iter().copied().filter(|(metric, _)| metric.measures_probabilities()).collect()
    }
}

/// The metrics in a line, as `accuracy 0.912   log-loss 0.301`, with three decimals or as many as the format
/// has.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(3);
        let values: Vec<String> =
            self.iter().map(|(metric, value)| format!("{} {value:.decimals$}", metric.name())).collect();
        f.write_str(&values.join("   "))
    }
}

/// An object as in `metrics.json`.
impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(metric, value)| (metric.run_key(), value)))
    }
}

/// Takes the metrics that there are of an object as in `metrics.json`.
impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = BTreeMap::<String, Value>::deserialize(deserializer)?;
        let value = |metric: &dyn Metric| fields.get(metric.run_key())?.as_f64();
        Ok(METRICS.iter().filter_map(|&metric| Some((metric, value(metric)?))).collect())
    }
}
