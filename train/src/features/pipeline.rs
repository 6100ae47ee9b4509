//! Photos through the network, every core busy with what is at hand.
//!
//! A reader fetches files a little ahead. Each thread of the rayon pool renders photos until a batch is ready, and then runs
//! the network on it: the cores are never more than the threads, and none waits for another. Where fewer run the network than
//! there are threads (one on CUDA), the others render ahead. What comes out is told to the caller in the order in which it
//! is done.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use headstock_backbone::{Backbone, FeatureLayer, InferenceWorker, PixelBatch};
use headstock_loader::{DecodeError, ImageRef};

use crate::error::TrainError;

/// Photos in a batch of one that runs the network. Large enough for wide matrix products, small enough that a killed run
/// loses seconds.
pub(crate) const BATCH_SIZE: usize = 8;

/// Batches that are rendered while the network is busy, by threads that cannot run it.
const BATCHES_AHEAD: usize = 4;

/// Files that are read ahead for each thread: the next ones come from the disk while the network runs.
const FILES_AHEAD: usize = 4;

/// Batches of features that wait for the caller before the network does.
const FEATURE_QUEUE_CAPACITY: usize = 64;

/// The network, what is made of what it gives, and what it takes.
pub(crate) struct BatchInference<'a, T> {
    pub(crate) backbone: &'a Backbone,
    /// What a worker makes of a batch: as many values for each photo.
    pub(crate) infer: Box<InferFn<'a, T>>,
    /// Height and width of a rendered photo.
    pub(crate) image_size: (u32, u32),
    /// Batches that wait for the caller before the network does; while it is told, as many again can come.
    pub(crate) queue_capacity: usize,
}

/// Runs a batch.
pub(crate) type InferFn<'a, T> =
    dyn Fn(&mut InferenceWorker<'_>, PixelBatch<'_>) -> Result<Vec<T>, TrainError> + Sync + 'a;

impl<'a> BatchInference<'a, f32> {
    /// Gives features at `layer`, `[N, F]`.
    pub(crate) fn for_features(backbone: &'a Backbone, layer: FeatureLayer, size: (u32, u32)) -> Self {
        let infer = move |worker: &mut InferenceWorker<'_>, pixels: PixelBatch<'_>| {
            Ok(worker.features(pixels, layer)?)
        };
        Self { backbone, infer: Box::new(infer), image_size: size, queue_capacity: FEATURE_QUEUE_CAPACITY }
    }
}

/// A photo to be rendered once or more; its renderings have these numbers.
pub(crate) struct ImageJob<'a> {
    pub(crate) image: &'a ImageRef,
    pub(crate) views: Range<usize>,
}

/// What is done.
pub(crate) enum JobResult<T, E> {
    /// What the network gives for these renderings, one after another.
    Outputs { views: Vec<usize>, values: Vec<T> },
    /// The job of this number came to nothing.
    Failed { job: usize, error: E },
}

/// Makes the pixels of each rendering, `[H, W, 3]`, of a photo's bytes.
pub(crate) type RenderFn<'a, E> = dyn Fn(usize, &[u8]) -> Result<Vec<Vec<u8>>, E> + Sync + 'a;

/// Is told what was done since it was told last. To break off takes no new work on; what is in hand is still told.
pub(crate) type OnResults<'a, T, E, F> = dyn FnMut(Vec<JobResult<T, E>>) -> Result<ControlFlow<()>, F> + 'a;

/// Runs `jobs` through the network. `told` runs on this thread, while the network goes on.
///
/// # Errors
/// [`TrainError::Backbone`] from the network, and what `told` gives; either ends the work.
pub(crate) fn run_pipeline<T, E, F>(
    network: &BatchInference<'_, T>,
    jobs: &[ImageJob<'_>],
    render: &RenderFn<'_, E>,
    told: &mut OnResults<'_, T, E, F>,
) -> Result<(), F>
where
    T: Send,
    E: From<DecodeError> + Send,
    F: From<TrainError>,
{
    let threads = rayon::current_num_threads();
    let workers = network.backbone.workers().map_err(TrainError::from)?;
    let left = jobs.iter().map(|job| job.views.len()).sum();
    let shared = SharedQueue::new(left, workers.len());
    let (file, files) = sync_channel(FILES_AHEAD * threads);
    let (tell, done) = sync_channel(network.queue_capacity);
    let mut workers: Vec<Option<InferenceWorker<'_>>> = workers.into_iter().map(Some).collect();
    workers.resize_with(threads.max(workers.len()), || None);
    thread::scope(|scope| {
        let _ending = StopOnPanic(&shared);
        scope.spawn(move || {
            for (job, ImageJob { image: photo, .. }) in jobs.iter().enumerate() {
                // No receiver: the work is over.
                if file.send((job, photo.read())).is_err() {
                    return;
                }
            }
        });
        let files = Arc::new(Mutex::new(files));
        for worker in workers {
            let hand = PipelineWorker {
                network,
                jobs,
                render,
                shared: &shared,
                files: Arc::clone(&files),
                results: tell.clone(),
            };
            scope.spawn(move || hand.run_until_done(worker));
        }
        // Both channels end with the last thread.
        drop((files, tell));
        drain_results(&shared, &done, told)
    })
}

/// Tells what the threads have done until all of them have ended.
fn drain_results<T, E, F: From<TrainError>>(
    shared: &SharedQueue,
    done: &Receiver<Result<JobResult<T, E>, TrainError>>,
    told: &mut OnResults<'_, T, E, F>,
) -> Result<(), F> {
    let mut outcome = Ok(());
    while let Ok(first) = done.recv() {
        let mut news = Vec::new();
        for one in std::iter::once(first).chain(done.try_iter()) {
            match one {
                Ok(done) => news.push(done),
                Err(error) => {
                    shared.stop();
                    outcome = Err(error.into());
                }
            }
        }
        match told(news) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => shared.stop(),
            Err(error) => {
                shared.stop();
                return Err(error);
            }
        }
    }
    outcome
}

/// What a thread of the pool works with.
struct PipelineWorker<'a, T, E> {
    network: &'a BatchInference<'a, T>,
    jobs: &'a [ImageJob<'a>],
    render: &'a RenderFn<'a, E>,
    shared: &'a SharedQueue,
    files: Arc<Mutex<Receiver<LoadedFile>>>,
    results: SyncSender<Result<JobResult<T, E>, TrainError>>,
}

/// The number of a job, and its photo's bytes.
type LoadedFile = (usize, Result<Vec<u8>, DecodeError>);

impl<T, E: From<DecodeError>> PipelineWorker<'_, T, E> {
    fn run_until_done(self, mut worker: Option<InferenceWorker<'_>>) {
        let _ending = StopOnPanic(self.shared);
        loop {
            let told = match (self.shared.next_task(worker.is_some()), &mut worker) {
                (NextTask::RunBatch(batch), Some(worker)) => Some(self.run_batch(worker, batch)),
                (NextTask::Render, _) => self.render_next().map(Ok),
                _ => return,
            };
            let ends = matches!(told, Some(Err(_)));
            // No receiver: the caller has failed and says why.
            if told.is_some_and(|told| self.results.send(told).is_err()) || ends {
                return;
            }
        }
    }

    /// Runs the network on a batch.
    fn run_batch(
        &self,
        worker: &mut InferenceWorker<'_>,
        batch: Vec<RenderedView>,
    ) -> Result<JobResult<T, E>, TrainError> {
        let (of, pixels): (Vec<usize>, Vec<Vec<u8>>) = batch.into_iter().unzip();
        let (height, width) = self.network.image_size;
        let data = pixels.concat();
        let pixels = PixelBatch::new(&data, of.len(), height as usize, width as usize)?;
        Ok(JobResult::Outputs { values: (self.network.infer)(worker, pixels)?, views: of })
    }

    /// Renders the next photo, if there is one; says so when it fails.
    fn render_next(&self) -> Option<JobResult<T, E>> {
        let file = lock(&self.files).recv();
        let Ok((job, bytes)) = file else {
            self.shared
                .update(|state| (state.files_exhausted, state.n_rendering) = (true, state.n_rendering - 1));
            return None;
        };
        let rendered = bytes.map_err(E::from).and_then(|bytes| (self.render)(job, &bytes));
        let numbers = self.jobs[job].views.clone();
        self.shared.update(|state| {
            state.n_rendering -= 1;
            match rendered {
                Ok(rendered) => {
                    state.ready.extend(numbers.zip(rendered));
                    None
                }
                Err(error) => {
                    state.n_remaining -= numbers.len();
                    Some(JobResult::Failed { job, error })
                }
            }
        })
    }
}

/// A rendering's number and its pixels.
type RenderedView = (usize, Vec<u8>);

/// What a thread does next.
enum NextTask {
    RunBatch(Vec<RenderedView>),
    Render,
    Finish,
}

/// What the threads share.
struct SharedQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
    n_workers: usize,
}

struct QueueState {
    /// Renderings that wait for the network.
    ready: VecDeque<RenderedView>,
    /// Photos that are being rendered now.
    n_rendering: usize,
    /// Renderings that the network has yet to take, those to come included.
    n_remaining: usize,
    /// Photos in each of the last batches, one for each that runs the network.
    final_batch_size: Option<usize>,
    /// Whether all files have been taken.
    files_exhausted: bool,
    /// Whether no new work is taken on.
    stopped: bool,
}

impl SharedQueue {
    fn new(left: usize, workers: usize) -> Self {
        let ready = VecDeque::new();
        let state = QueueState {
            ready,
            n_rendering: 0,
            n_remaining: left,
            final_batch_size: None,
            files_exhausted: false,
            stopped: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), n_workers: workers }
    }

    /// Waits for something to do.
    fn next_task(&self, runs: bool) -> NextTask {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return NextTask::Finish;
            }
            let to_come = !state.files_exhausted || state.n_rendering > 0;
            let batch = state.batch_size(self.n_workers);
            if runs && !state.ready.is_empty() && (state.ready.len() >= batch || !to_come) {
                let taken: Vec<RenderedView> = {
                    let end = batch.min(state.ready.len());
                    state.ready.drain(..end).collect()
                };
                state.n_remaining -= taken.len();
                self.changed.notify_all();
                return NextTask::RunBatch(taken);
            }
            if !to_come {
                return NextTask::Finish;
            }
            if !state.files_exhausted && (runs || state.ready.len() < BATCHES_AHEAD * BATCH_SIZE) {
                state.n_rendering += 1;
                return NextTask::Render;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn update<T>(&self, change: impl FnOnce(&mut QueueState) -> T) -> T {
        let outcome = change(&mut lock(&self.state));
        self.changed.notify_all();
        outcome
    }

    fn stop(&self) {
        self.update(|state| state.stopped = true);
    }
}

impl QueueState {
    /// How many photos the network takes at a time. The last ones are shared out evenly: nobody works alone at the end.
    fn batch_size(&mut self, workers: usize) -> usize {
        if self.final_batch_size.is_none() && self.n_remaining <= workers * BATCH_SIZE {
            self.final_batch_size = Some(self.n_remaining.div_ceil(workers));
        }
        self.final_batch_size.unwrap_or(BATCH_SIZE)
    }
}

/// Lets nobody wait for a thread that has panicked.
struct StopOnPanic<'a>(&'a SharedQueue);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
