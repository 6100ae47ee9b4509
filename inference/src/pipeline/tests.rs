use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use headstock_testing::small_backbone;

use super::*;
use crate::error::InferenceError;

const SIDE: usize = 32;

fn stem_inference() -> BatchInference<'static, f32, InferenceError> {
    BatchInference::for_features(FeatureLayer::Stem, (SIDE as u32, SIDE as u32))
}

fn workers() -> Vec<InferenceWorker> {
    small_backbone().workers().unwrap()
}

/// Reads the image of a job: a byte with its number.
fn read(job: usize) -> Result<Vec<u8>, ReadError> {
    Ok(vec![job as u8])
}

/// Jobs with `n_views` views each.
fn jobs(count: usize, n_views: impl Fn(usize) -> usize) -> Vec<Range<usize>> {
    let mut end = 0;
    let job = |job| {
        let begin = end;
        end += n_views(job);
        begin..end
    };
    (0..count).map(job).collect()
}

/// Gray pixels that differ between views.
fn gray_pixels(job: usize, view: usize) -> Vec<u8> {
    vec![(job * 7 + view * 50) as u8; SIDE * SIDE * 3]
}

fn on_threads<T: Send>(threads: usize, act: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(act)
}

/// Runs the pipeline on images that are their numbers.
fn run(
    jobs: &[Range<usize>],
    render: &RenderFn<'_, DecodeError>,
    on_results: &mut OnResults<'_, f32, DecodeError, InferenceError>,
) -> Result<(), InferenceError> {
    run_pipeline(&stem_inference(), &mut workers(), jobs, &read, render, on_results)
}

/// The outputs of each view and the error of each failed job, without interruption.
fn collect_results(
    jobs: &[Range<usize>],
    read: &ReadFn<'_>,
    render: &RenderFn<'_, DecodeError>,
) -> (BTreeMap<usize, Vec<f32>>, BTreeMap<usize, String>) {
    let (mut features, mut failed) = (BTreeMap::new(), BTreeMap::new());
    run_pipeline::<_, _, DecodeError, InferenceError>(
        &stem_inference(),
        &mut workers(),
        jobs,
        read,
        render,
        &mut |results| {
            for result in results {
                match result {
                    JobResult::Outputs { views, values } => {
                        let width = values.len() / views.len();
                        for (view, values) in views.into_iter().zip(values.chunks_exact(width)) {
                            assert!(
                                features.insert(view, values.to_vec()).is_none(),
                                "view {view} came twice"
                            );
                        }
                    }
                    JobResult::Failed { job, error } => {
                        assert!(failed.insert(job, error.to_string()).is_none(), "job {job} failed twice");
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        },
    )
    .unwrap();
    (features, failed)
}

#[test]
fn each_view_comes_once_with_the_same_bits_on_any_number_of_threads() {
    let read = |job: usize| {
        if job == 11 { Err(ReadError::Empty) } else { read(job) }
    };
    let jobs = jobs(29, |job| job % 3);
    let render = |job: usize, bytes: &[u8]| {
        assert_eq!(bytes, [job as u8]);
        if job == 20 {
            Err(DecodeError::UnknownFormat)
        } else {
            Ok((0..job % 3).map(|k| gray_pixels(job, k)).collect())
        }
    };
    let expected: BTreeMap<usize, Vec<f32>> = jobs
        .iter()
        .enumerate()
        .filter(|(job, _)| ![11, 20].contains(job))
        .flat_map(|(job, views)| {
            views.clone().enumerate().map(move |(k, view)| {
                let pixels = gray_pixels(job, k);
                let pixels = PixelBatch::new(&pixels, 1, SIDE, SIDE).unwrap();
                (view, small_backbone().features(pixels, FeatureLayer::Stem).unwrap())
            })
        })
        .collect();
    for threads in [1, 3] {
        let (features, failed) = on_threads(threads, || collect_results(&jobs, &read, &render));
        assert!(features == expected, "on {threads} threads");
        assert_eq!(failed.keys().copied().collect::<Vec<_>>(), [11, 20]);
        assert_eq!(failed[&20], DecodeError::UnknownFormat.to_string());
    }
}

#[test]
fn without_jobs_there_are_no_results() {
    let (features, failed) = collect_results(&[], &read, &|_, _| unreachable!("there is nothing to render"));
    assert!(features.is_empty() && failed.is_empty());
}

#[test]
fn break_stops_scheduling_and_an_error_is_returned() {
    let jobs = jobs(200, |_| 1);
    let render = |job: usize, _: &[u8]| Ok::<_, DecodeError>(vec![gray_pixels(job, 0)]);
    for threads in [1, 3] {
        let mut count = 0;
        let interrupted = on_threads(threads, || {
            run(&jobs, &render, &mut |results| {
                count += results.len();
                Ok(ControlFlow::Break(()))
            })
        });
        assert!(interrupted.is_ok() && (1..200 / BATCH_SIZE).contains(&count), "{count} batches");
        let failed = on_threads(threads, || {
            run(&jobs, &render, &mut |_| Err(InferenceError::Coverage("stop here".into())))
        });
        assert_eq!(failed.unwrap_err().to_string(), "stop here");
    }
}

#[test]
fn a_network_error_stops_the_work() {
    let jobs = jobs(100, |_| 1);
    let short = |job: usize, _: &[u8]| {
        Ok::<_, DecodeError>(vec![gray_pixels(job, 0)[usize::from(job == 50)..].to_vec()])
    };
    for threads in [1, 3] {
        let failed = on_threads(threads, || run(&jobs, &short, &mut |_| Ok(ControlFlow::Continue(()))));
        assert!(matches!(failed, Err(InferenceError::Backbone(_))), "{failed:?}");
    }
}

#[test]
fn a_panic_stops_all_threads() {
    let jobs = jobs(100, |_| 1);
    let render = |job: usize, _: &[u8]| {
        assert_ne!(job, 30, "intended panic");
        Ok::<_, DecodeError>(vec![gray_pixels(job, 0)])
    };
    for threads in [1, 3] {
        let work = || run(&jobs, &render, &mut |_| Ok(ControlFlow::Continue(())));
        assert!(catch_unwind(AssertUnwindSafe(|| on_threads(threads, work))).is_err());
    }
}

#[test]
fn the_last_views_are_split_evenly_among_workers() {
    let batches = |n_views: usize, n_workers: usize| {
        let shared = SharedQueue::new(n_views, n_workers);
        shared.update(|state| {
            state.ready.extend((0..n_views).map(|view| (view, Vec::new())));
            state.files_exhausted = true;
        });
        let mut sizes = Vec::new();
        while let NextTask::RunBatch(batch) = shared.next_task(true) {
            sizes.push(batch.len());
        }
        sizes
    };
    assert!(batches(0, 2).is_empty());
    assert_eq!(batches(1, 2), [1]);
    assert_eq!(batches(12, 2), [6, 6]);
    assert_eq!(batches(16, 2), [8, 8]);
    assert_eq!(batches(29, 2), [8, 8, 7, 6]);
    assert_eq!(batches(20, 1), [8, 8, 4]);
}
