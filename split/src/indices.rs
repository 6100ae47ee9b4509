//! The result of a split.

/// The samples of a split, by index: those to train on and those to test on, such as one fold of a
/// cross-validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitIndices {
    /// Indices of the training set.
    pub train: Vec<usize>,
    /// Indices of the test set.
    pub test: Vec<usize>,
}
