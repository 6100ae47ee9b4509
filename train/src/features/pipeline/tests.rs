use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tempfile::TempDir;

use super::*;
use crate::fixtures;

const SIDE: usize = 32;

fn stem_inference() -> BatchInference<'static, f32> {
    BatchInference::for_features(fixtures::small_backbone(), FeatureLayer::Stem, (SIDE as u32, SIDE as u32))
}

/// Files whose only byte is their number.
fn files(count: u8) -> (TempDir, Vec<ImageRef>) {
    let folder = tempfile::tempdir().unwrap();
    let file = |number: u8| {
        let path = folder.path().join(number.to_string());
        std::fs::write(&path, [number]).unwrap();
        path.into()
    };
    let photos = (0..count).map(file).collect();
    (folder, photos)
}

/// A job for each file, with as many renderings as `renderings` says.
fn jobs(photos: &[ImageRef], renderings: impl Fn(usize) -> usize) -> Vec<ImageJob<'_>> {
    let mut end = 0;
    let job = |(job, photo)| {
        let begin = end;
        end += renderings(job);
        ImageJob { image: photo, views: begin..end }
    };
    photos.iter().enumerate().map(job).collect()
}

/// The pixels of a rendering: of each another grey.
fn gray_pixels(job: usize, rendering: usize) -> Vec<u8> {
    vec![(job * 7 + rendering * 50) as u8; SIDE * SIDE * 3]
}

fn on_threads<T: Send>(threads: usize, act: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(act)
}

/// What [`run`] tells of each rendering and each job that failed, when nothing stops it.
fn collect_results(
    jobs: &[ImageJob<'_>],
    render: &RenderFn<'_, DecodeError>,
) -> (BTreeMap<usize, Vec<f32>>, BTreeMap<usize, String>) {
    let (mut features, mut failed) = (BTreeMap::new(), BTreeMap::new());
    run_pipeline::<_, DecodeError, TrainError>(&stem_inference(), jobs, render, &mut |news| {
        for done in news {
            match done {
                JobResult::Outputs { views: of, values } => {
                    let width = values.len() / of.len();
                    for (number, values) in of.into_iter().zip(values.chunks_exact(width)) {
                        assert!(features.insert(number, values.to_vec()).is_none(), "{number} came twice");
                    }
                }
                JobResult::Failed { job, error } => {
                    assert!(failed.insert(job, error.to_string()).is_none(), "{job} failed twice");
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    (features, failed)
}

#[test]
fn each_rendering_comes_once_and_to_the_bit_the_same_on_any_number_of_threads() {
    let (folder, mut photos) = files(29);
    photos[11] = folder.path().join("gone").into();
    let jobs = jobs(&photos, |job| job % 3);
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
        .flat_map(|(job, ImageJob { views: renderings, .. })| {
            renderings.clone().enumerate().map(move |(k, number)| {
                let pixels = gray_pixels(job, k);
                let pixels = PixelBatch::new(&pixels, 1, SIDE, SIDE).unwrap();
                (number, stem_inference().backbone.features(pixels, FeatureLayer::Stem).unwrap())
            })
        })
        .collect();
    for threads in [1, 3] {
        let (features, failed) = on_threads(threads, || collect_results(&jobs, &render));
        assert!(features == expected, "on {threads} threads");
        assert_eq!(failed.keys().copied().collect::<Vec<_>>(), [11, 20]);
        assert_eq!(failed[&20], DecodeError::UnknownFormat.to_string());
    }
}

#[test]
fn no_jobs_are_done_at_once() {
    let (features, failed) = collect_results(&[], &|_, _| unreachable!("there is nothing to render"));
    assert!(features.is_empty() && failed.is_empty());
}

#[test]
fn to_break_off_takes_no_new_work_on_and_an_error_is_given_back() {
    let (_folder, photos) = files(200);
    let jobs = jobs(&photos, |_| 1);
    let render = |job: usize, _: &[u8]| Ok::<_, DecodeError>(vec![gray_pixels(job, 0)]);
    for threads in [1, 3] {
        let mut count = 0;
        let broken = on_threads(threads, || {
            run_pipeline::<_, _, TrainError>(&stem_inference(), &jobs, &render, &mut |news| {
                count += news.len();
                Ok(ControlFlow::Break(()))
            })
        });
        assert!(broken.is_ok() && (1..200 / BATCH_SIZE).contains(&count), "{count} batches");
        let failed = on_threads(threads, || {
            run_pipeline::<_, _, TrainError>(&stem_inference(), &jobs, &render, &mut |_| {
                Err(TrainError::Data("enough".into()))
            })
        });
        assert_eq!(failed.unwrap_err().to_string(), "enough");
    }
}

#[test]
fn an_error_of_the_network_ends_the_work() {
    let (_folder, photos) = files(100);
    let jobs = jobs(&photos, |_| 1);
    let short = |job: usize, _: &[u8]| {
        Ok::<_, DecodeError>(vec![gray_pixels(job, 0)[usize::from(job == 50)..].to_vec()])
    };
    for threads in [1, 3] {
        let failed = on_threads(threads, || {
            run_pipeline::<_, _, TrainError>(&stem_inference(), &jobs, &short, &mut |_| {
                Ok(ControlFlow::Continue(()))
            })
        });
        assert!(matches!(failed, Err(TrainError::Backbone(_))), "{failed:?}");
    }
}

#[test]
fn a_panic_ends_the_work_and_nobody_waits_for_it() {
    let (_folder, photos) = files(100);
    let jobs = jobs(&photos, |_| 1);
    let render = |job: usize, _: &[u8]| {
        assert_ne!(job, 30, "meant to panic");
        Ok::<_, DecodeError>(vec![gray_pixels(job, 0)])
    };
    for threads in [1, 3] {
        let work = || {
            run_pipeline::<_, _, TrainError>(&stem_inference(), &jobs, &render, &mut |_| {
                Ok(ControlFlow::Continue(()))
            })
        };
        assert!(catch_unwind(AssertUnwindSafe(|| on_threads(threads, work))).is_err());
    }
}

#[test]
fn the_last_photos_are_shared_out_evenly() {
    let batches = |photos: usize, workers: usize| {
        let shared = SharedQueue::new(photos, workers);
        shared.update(|state| {
            state.ready.extend((0..photos).map(|number| (number, Vec::new())));
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
