//! Exact splits of data sets, folds, and random numbers that depend on a key only.
//!
//! Splits and folds that match scikit-learn index for index: [`stratified_shuffle_split`],
//! [`group_shuffle_split`], [`stratified_k_fold`] and [`stratified_group_k_fold`]. [`hash_split`] is stable when
//! data is added. [`stratified_folds`] and [`hold_out`] are for the inside of a fit: they never fail, keep every
//! class in the training set, and depend on the numbers of the groups, not on the order of the samples.
//!
//! The crate also has what crates that do not know each other share: [`KeyedRng`], [`words`] for messages,
//! [`hub_names`], which may be meant by a path, and [`Resize`] and [`Resampling`], which the preprocessing of a backbone names and the loader applies.
//!
//! ```
//! use headstock_split::{TestSize, stratified_shuffle_split};
//!
//! let splits = stratified_shuffle_split(&[0, 0, 0, 1, 1, 1], 1, TestSize::Count(2), 0)?;
//! assert_eq!((splits[0].train.len(), splits[0].test.len()), (4, 2));
//! # Ok::<(), headstock_split::SplitError>(())
//! ```

mod error;
mod folds;
mod group_k_fold;
mod group_shuffle;
mod hash;
pub mod hub_names;
mod k_fold;
mod keyed_rng;
mod parts;
mod random_state;
mod resampling;
mod resize;
mod shuffle;
mod test_size;
#[cfg(test)]
mod tests;
pub mod words;

pub use error::{SplitError, SplitUnit};
pub use folds::{hold_out, stratified_folds};
pub use group_k_fold::stratified_group_k_fold;
pub use group_shuffle::group_shuffle_split;
pub use hash::hash_split;
pub use k_fold::stratified_k_fold;
pub use keyed_rng::KeyedRng;
pub use parts::SplitIndices;
pub use resampling::Resampling;
pub use resize::Resize;
pub use shuffle::stratified_shuffle_split;
pub use test_size::TestSize;
