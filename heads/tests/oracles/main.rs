//! The heads against reference implementations, through the public API only.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod calibration;
mod closed_form;
mod elastic;
mod gradient;
mod scikit_learn;
mod support;
mod svm;
