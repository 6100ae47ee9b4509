//! Reads, decodes and renders images and runs the backbone on them, with all cores busy.
//!
//! A reader thread loads files ahead of time. Each thread of the rayon pool renders images until a batch is
//! ready and then runs the network on it, so that there are never more busy cores than threads and no thread
//! waits for another. If fewer workers run the network than there are threads (one on CUDA), the other
//! threads render ahead. Results reach the caller in the order in which they complete.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use headstock_backbone::{BackboneError, FeatureLayer, InferenceWorker, PixelBatch};
use headstock_loader::{DecodeError, ReadError};

/// Images per batch of a worker: large enough for wide matrix products, small enough that a killed run loses
/// seconds.
pub const BATCH_SIZE: usize = 8;

/// Batches rendered ahead by threads that do not run the network.
const BATCHES_AHEAD: usize = 4;

/// Files read ahead per thread, so that disk reads overlap with the network.
const FILES_AHEAD: usize = 4;

/// Batches of features queued for the caller before the workers block.
const FEATURE_QUEUE_CAPACITY: usize = 64;

/// What [`run_pipeline`] computes from each batch of views: the function that runs the backbone on a batch,
/// and the size of its input. `T` is the type of an output value, `W` the error of the function.
pub struct BatchInference<'a, T, W = BackboneError> {
    /// Computes a batch's values; every view must give the same number.
    pub infer: Box<InferFn<'a, T, W>>,
    /// Height and width of a rendered view.
    pub image_size: (u32, u32),
    /// Batches queued for the caller before the workers block.
    pub queue_capacity: usize,
}

/// Computes the output of a batch of pixels with a worker of the backbone, all views one after another.
pub type InferFn<'a, T, W> = dyn Fn(&mut InferenceWorker, PixelBatch<'_>) -> Result<Vec<T>, W> + Sync + 'a;

impl<W: From<BackboneError> + 'static> BatchInference<'_, f32, W> {
    /// Configures a pipeline to compute the features of each view at `layer`, `F` values per view.
    /// `image_size` is the height and width of a rendered view.
    #[must_use]
    pub fn for_features(layer: FeatureLayer, image_size: (u32, u32)) -> Self {
        let infer =
            move |worker: &mut InferenceWorker, pixels: PixelBatch<'_>| Ok(worker.features(pixels, layer)?);
        Self { infer: Box::new(infer), image_size, queue_capacity: FEATURE_QUEUE_CAPACITY }
    }
}

/// Reads the image of a job, given the job's index. One thread calls it, in the order of the jobs.
pub type ReadFn<'a> = dyn Fn(usize) -> Result<Vec<u8>, ReadError> + Sync + 'a;

/// What the pipeline hands to the caller: a completed batch or a failed image.
pub enum JobResult<T, E> {
    /// The network's outputs for these views, one after another.
    Outputs {
        /// Indices of the views.
        views: Vec<usize>,
        /// The outputs; each view has the same number.
        values: Vec<T>,
    },
    /// The image of this job could not be read or rendered.
    Failed {
        /// Index of the job.
        job: usize,
        /// Why.
        error: E,
    },
}

/// Renders the views of a job, given the job's index and the bytes of its image; each view is `[H, W, 3]`.
pub type RenderFn<'a, E> = dyn Fn(usize, &[u8]) -> Result<Vec<Vec<u8>>, E> + Sync + 'a;

/// Called with the results since the last call. `Break` stops scheduling; batches in flight are still
/// delivered.
pub type OnResults<'a, T, E, F> = dyn FnMut(Vec<JobResult<T, E>>) -> Result<ControlFlow<()>, F> + 'a;

/// Reads (with `read`), renders (with `render`) and computes (with `inference`) the views of all `jobs` on all
/// cores, and calls `on_results` with the outputs on the calling thread as batches complete. A job is an image;
/// it is given by the indices of its views among those of all jobs. `workers` run the network; there must be at
/// least one. `T` is an output value of the network, `W` the error of `inference`, `E` the
/// reason why an image failed, and `F` the caller's error.
///
/// # Errors
/// The error of `inference` or of `on_results`; either stops the work.
pub fn run_pipeline<T, W, E, F>(
    inference: &BatchInference<'_, T, W>,
    workers: &mut [InferenceWorker],
    jobs: &[Range<usize>],
    read: &ReadFn<'_>,
    render: &RenderFn<'_, E>,
    on_results: &mut OnResults<'_, T, E, F>,
) -> Result<(), F>
where
    T: Send,
    W: From<BackboneError> + Send,
    E: From<DecodeError> + Send,
    F: From<W>,
{
    let n_threads = rayon::current_num_threads();
    let n_views = jobs.iter().map(Range::len).sum();
    let shared = SharedQueue::new(n_views, workers.len());
    let (file_sender, files) = sync_channel(FILES_AHEAD * n_threads);
    let (result_sender, results) = sync_channel(inference.queue_capacity);
    // One entry per thread; threads without a worker only render.
    let mut workers: Vec<Option<&mut InferenceWorker>> = workers.iter_mut().map(Some).collect();
    workers.resize_with(n_threads.max(workers.len()), || None);
    thread::scope(|scope| {
        let _stop_on_panic = StopOnPanic(&shared);
        // The reader thread.
        scope.spawn(move || {
            for job in 0..jobs.len() {
                // The receiver is gone: the work is over.
                if file_sender.send((job, read(job))).is_err() {
                    return;
                }
            }
        });
        let files = Arc::new(Mutex::new(files));
        for worker in workers {
            let thread = PipelineWorker {
                inference,
                jobs,
                render,
                shared: &shared,
                files: Arc::clone(&files),
                results: result_sender.clone(),
            };
            scope.spawn(move || thread.run_until_done(worker));
        }
        // The channels close when the last thread ends.
        drop((files, result_sender));
        drain_results(&shared, &results, on_results)
    })
}

/// Receives the results of the threads and passes them to `on_results`, all that are ready at once, until the
/// threads have ended. An error of the network stops the scheduling and is returned at the end; an error of
/// `on_results` is returned at once.
fn drain_results<T, W, E, F: From<W>>(
    shared: &SharedQueue,
    receiver: &Receiver<Result<JobResult<T, E>, W>>,
    on_results: &mut OnResults<'_, T, E, F>,
) -> Result<(), F> {
    let mut outcome = Ok(());
    while let Ok(first) = receiver.recv() {
        let mut results = Vec::new();
        for result in std::iter::once(first).chain(receiver.try_iter()) {
            match result {
                Ok(result) => results.push(result),
                Err(error) => {
                    shared.stop();
                    outcome = Err(error.into());
                }
            }
        }
        let flow = on_results(results).inspect_err(|_| shared.stop())?;
        if flow.is_break() {
            shared.stop();
        }
    }
    outcome
}

/// A thread of [`run_pipeline`], which renders images and, if it has a worker, runs the network.
struct PipelineWorker<'a, T, W, E> {
    inference: &'a BatchInference<'a, T, W>,
    jobs: &'a [Range<usize>],
    render: &'a RenderFn<'a, E>,
    shared: &'a SharedQueue,
    files: Arc<Mutex<Receiver<LoadedFile>>>,
    results: SyncSender<Result<JobResult<T, E>, W>>,
}

/// Index of a job, and the bytes of its image.
type LoadedFile = (usize, Result<Vec<u8>, ReadError>);

impl<T, W: From<BackboneError>, E: From<DecodeError>> PipelineWorker<'_, T, W, E> {
    /// The thread's main loop: renders images and, with a `worker`, runs the network on batches of them,
    /// until no tasks are left. Sends results and errors to the caller.
    fn run_until_done(self, mut worker: Option<&mut InferenceWorker>) {
        let _stop_on_panic = StopOnPanic(self.shared);
        loop {
            let result = match (self.shared.next_task(worker.is_some()), &mut worker) {
                (NextTask::RunBatch(batch), Some(worker)) => Some(self.run_batch(worker, batch)),
                (NextTask::Render, _) => self.render_next().map(Ok),
                _ => return,
            };
            let failed = matches!(result, Some(Err(_)));
            // The receiver is gone: the caller has failed and reports why.
            if result.is_some_and(|result| self.results.send(result).is_err()) || failed {
                return;
            }
        }
    }

    /// Runs the network on a batch of rendered views; returns their outputs as [`JobResult::Outputs`].
    fn run_batch(
        &self,
        worker: &mut InferenceWorker,
        batch: Vec<RenderedView>,
    ) -> Result<JobResult<T, E>, W> {
        let (views, pixels): (Vec<usize>, Vec<Vec<u8>>) = batch.into_iter().unzip();
        let (height, width) = self.inference.image_size;
        let data = pixels.concat();
        let pixels = PixelBatch::new(&data, views.len(), height as usize, width as usize)?;
        Ok(JobResult::Outputs { values: (self.inference.infer)(worker, pixels)?, views })
    }

    /// Renders the views of the next image that the reader thread has loaded, if there is one, and queues
    /// them for the network. Returns [`JobResult::Failed`] if the image cannot be read or rendered, and
    /// otherwise `None`.
    fn render_next(&self) -> Option<JobResult<T, E>> {
        let file = lock(&self.files).recv();
        let Ok((job, bytes)) = file else {
            // The reader has ended, so the task that `next_task` counted as rendering renders nothing.
            self.shared.update(|state| {
                state.files_exhausted = true;
                state.n_rendering -= 1;
            });
            return None;
        };
        let rendered =
            bytes.map_err(|error| E::from(error.into())).and_then(|bytes| (self.render)(job, &bytes));
        let views = self.jobs[job].clone();
        self.shared.update(|state| {
            state.n_rendering -= 1;
            match rendered {
                Ok(rendered) => {
                    state.ready.extend(views.zip(rendered));
                    None
                }
                Err(error) => {
                    state.n_remaining -= views.len();
                    Some(JobResult::Failed { job, error })
                }
            }
        })
    }
}

/// Index of a view, and its pixels.
type RenderedView = (usize, Vec<u8>);

/// A thread's next task.
enum NextTask {
    /// Run the network on these views.
    RunBatch(Vec<RenderedView>),
    /// Render the next image.
    Render,
    /// End the thread: nothing is left to do.
    Finish,
}

/// The queue of rendered views that the threads share.
struct SharedQueue {
    state: Mutex<QueueState>,
    /// Notified when the state has changed.
    changed: Condvar,
    /// Number of threads that run the network.
    n_workers: usize,
}

/// The contents of the [`SharedQueue`], from which each thread's next task follows.
#[derive(Default)]
struct QueueState {
    /// Rendered views that wait for the network.
    ready: VecDeque<RenderedView>,
    /// Images being rendered now.
    n_rendering: usize,
    /// Views that the network has not taken yet, including those still to be rendered.
    n_remaining: usize,
    /// Size of the last batches, one per worker, once the remaining views fit into them.
    final_batch_size: Option<usize>,
    /// Whether the reader has delivered all files.
    files_exhausted: bool,
    /// Whether scheduling has stopped.
    stopped: bool,
}

impl SharedQueue {
    /// An empty queue of rendered views, which the pipeline's threads will share, before the first image is
    /// rendered. `n_views` is the number of views of all jobs, `n_workers` the number of threads that run the
    /// network.
    fn new(n_views: usize, n_workers: usize) -> Self {
        let state = QueueState { n_remaining: n_views, ..QueueState::default() };
        Self { state: Mutex::new(state), changed: Condvar::new(), n_workers }
    }

    /// Waits for the next task of a thread and takes it from the queue. A thread that `runs_network`, because
    /// it has a worker, does so as soon as a batch is rendered (the last one may be smaller), and otherwise
    /// renders an image. A thread that only renders stops while a few batches are waiting, to bound the
    /// memory.
    fn next_task(&self, runs_network: bool) -> NextTask {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return NextTask::Finish;
            }
            let more_to_come = !state.files_exhausted || state.n_rendering > 0;
            let batch_size = state.batch_size(self.n_workers);
            if runs_network && !state.ready.is_empty() && (state.ready.len() >= batch_size || !more_to_come) {
                let end = batch_size.min(state.ready.len());
                let batch: Vec<RenderedView> = state.ready.drain(..end).collect();
                state.n_remaining -= batch.len();
                self.changed.notify_all();
                return NextTask::RunBatch(batch);
            }
            if !more_to_come {
                return NextTask::Finish;
            }
            if !state.files_exhausted && (runs_network || state.ready.len() < BATCHES_AHEAD * BATCH_SIZE) {
                state.n_rendering += 1;
                return NextTask::Render;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Changes the state with `change` and wakes the threads that wait for a task; returns what `change`
    /// returns.
    fn update<T>(&self, change: impl FnOnce(&mut QueueState) -> T) -> T {
        let outcome = change(&mut lock(&self.state));
        self.changed.notify_all();
        outcome
    }

    /// Stops scheduling: no thread gets another task.
    fn stop(&self) {
        self.update(|state| state.stopped = true);
    }
}

impl QueueState {
    /// Number of views in the next batch: [`BATCH_SIZE`], or fewer near the end. The last views are split
    /// evenly among the workers, so that none of them runs alone at the end.
    fn batch_size(&mut self, n_workers: usize) -> usize {
        if self.final_batch_size.is_none() && self.n_remaining <= n_workers * BATCH_SIZE {
            self.final_batch_size = Some(self.n_remaining.div_ceil(n_workers));
        }
        self.final_batch_size.unwrap_or(BATCH_SIZE)
    }
}

/// A guard that each thread of the pipeline holds: it stops the other threads if this one panics.
struct StopOnPanic<'a>(&'a SharedQueue);

impl Drop for StopOnPanic<'_> {
    /// Stops the scheduling if the thread that drops the guard panics: otherwise the other threads would wait
    /// for it forever.
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// Locks a mutex, ignoring poisoning: [`StopOnPanic`] handles panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
