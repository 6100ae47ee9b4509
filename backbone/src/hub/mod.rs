//! Weights and data sets from the Hugging Face hub, through the cache that Python's huggingface_hub shares.
//!
//! hf-hub moves the bytes and lays out the cache; it does not check them. [`fetch`] and [`fetch_dataset`] do:
//!
//! - Every file is compared with its etag, the hash under which the cache keeps it, after each download and at each later
//!   use: a copy that a killed process, another program or the disk left damaged is never read. It is removed and fetched
//!   anew, once. A server whose etags are no hashes gets a line that says so.
//! - A revision is first resolved to its commit, and all files are those of that commit. What the cache has is not asked for
//!   again; with a commit as the revision, nothing is asked at all.
//! - When the hub is down, the commit that the branch or tag was at when it was last fetched serves, with a line. Of a data
//!   set it serves only if all of what was asked for is there: the cache keeps the list of the commit's files.
//! - Of several processes that want the same, one fetches.

mod cache;
mod client;
mod dataset;
mod error;
mod files;
mod name;
mod settings;
mod verify;
mod weights;

pub use dataset::{DatasetFiles, fetch_dataset, fetch_dataset_with};
pub use error::{BoxError, HubError};
pub use name::{HubDataset, HubSource};
pub use settings::HubSettings;
pub use weights::{fetch_weights, fetch_weights_with};
