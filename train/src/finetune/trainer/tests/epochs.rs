//! What a training tells of its epochs.

use std::sync::Mutex;

use headstock_hub::DownloadProgress;
use headstock_inference::Progress;

use super::{loop_reference, with_new_trainer};

/// Keeps the milestones.
#[derive(Default)]
struct Milestones(Mutex<Vec<String>>);

impl DownloadProgress for Milestones {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}

impl Progress for Milestones {
    fn begin(&self, _: &str, _: u64, _: &'static str) {}
    fn step(&self, _: u64) {}
    fn set_position(&self, _: u64, _: u64) {}
    fn milestone(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn end(&self) {}
}

#[test]
fn each_epoch_is_a_milestone_with_its_row_of_the_history() {
    let reference = loop_reference();
    let config = &reference.cases.iter().find(|case| case.name == "held-out").unwrap().config;
    let progress = Milestones::default();
    let history = with_new_trainer(&reference, config, |trainer| trainer.run(&progress).unwrap().history).0;
    let n_epochs = history.rows.len();
    let expected: Vec<String> = history
        .rows
        .iter()
        .map(|row| {
            format!(
                "epoch {} of {n_epochs}, loss {:.4}, validation loss {:.4}, validation accuracy {:.4}",
                row[0], row[2], row[3], row[4]
            )
        })
        .collect();
    assert!(n_epochs > 1);
    assert_eq!(*progress.0.lock().unwrap(), expected);
}
