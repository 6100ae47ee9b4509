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

use headstock_backbone::{Backbone, Layer, Pixels, Worker};
use headstock_loader::{DecodeError, ImageRef};

use crate::error::TrainError;

/// Photos in a batch of one that runs the network. Large enough for wide matrix products, small enough that a killed run
/// loses seconds.
pub(crate) const BATCH: usize = 8;

/// Batches that are rendered while the network is busy, by threads that cannot run it.
const AHEAD: usize = 4;

/// Files that are read ahead for each thread: the next ones come from the disk while the network runs.
const FILES_AHEAD: usize = 4;

/// Batches of features that wait for the caller before the network does.
const FEATURES_WAITING: usize = 64;

/// The network, what is made of what it gives, and what it takes.
pub(crate) struct Network<'a, T> {
    pub(crate) backbone: &'a Backbone,
    /// What a worker makes of a batch: as many values for each photo.
    pub(crate) infer: Box<Infer<'a, T>>,
    /// Height and width of a rendered photo.
    pub(crate) size: (u32, u32),
    /// Batches that wait for the caller before the network does; while it is told, as many again can come.
    pub(crate) waiting: usize,
}

/// Runs a batch.
pub(crate) type Infer<'a, T> = dyn Fn(&mut Worker<'_>, Pixels<'_>) -> Result<Vec<T>, TrainError> + Sync + 'a;

impl<'a> Network<'a, f32> {
    /// Gives features at `layer`, `[N, F]`.
    pub(crate) fn features(backbone: &'a Backbone, layer: Layer, size: (u32, u32)) -> Self {
        let infer = move |worker: &mut Worker<'_>, pixels: Pixels<'_>| Ok(worker.features(pixels, layer)?);
        Self { backbone, infer: Box::new(infer), size, waiting: FEATURES_WAITING }
    }
}

/// A photo to be rendered once or more; its renderings have these numbers.
pub(crate) struct Job<'a> {
    pub(crate) photo: &'a ImageRef,
    pub(crate) renderings: Range<usize>,
}

/// What is done.
pub(crate) enum Done<T, E> {
    /// What the network gives for these renderings, one after another.
    Ran { of: Vec<usize>, values: Vec<T> },
    /// The job of this number came to nothing.
    Failed { job: usize, error: E },
}

/// Makes the pixels of each rendering, `[H, W, 3]`, of a photo's bytes.
pub(crate) type Render<'a, E> = dyn Fn(usize, &[u8]) -> Result<Vec<Vec<u8>>, E> + Sync + 'a;

/// Is told what was done since it was told last. To break off takes no new work on; what is in hand is still told.
pub(crate) type Told<'a, T, E, F> = dyn FnMut(Vec<Done<T, E>>) -> Result<ControlFlow<()>, F> + 'a;

/// Runs `jobs` through the network. `told` runs on this thread, while the network goes on.
///
/// # Errors
/// [`TrainError::Backbone`] from the network, and what `told` gives; either ends the work.
pub(crate) fn run<T, E, F>(
    network: &Network<'_, T>,
    jobs: &[Job<'_>],
    render: &Render<'_, E>,
    told: &mut Told<'_, T, E, F>,
) -> Result<(), F>
where
    T: Send,
    E: From<DecodeError> + Send,
    F: From<TrainError>,
{
    let threads = rayon::current_num_threads();
    let workers = network.backbone.workers().map_err(TrainError::from)?;
    let left = jobs.iter().map(|job| job.renderings.len()).sum();
    let shared = Shared::new(left, workers.len());
    let (file, files) = sync_channel(FILES_AHEAD * threads);
    let (tell, done) = sync_channel(network.waiting);
    let mut workers: Vec<Option<Worker<'_>>> = workers.into_iter().map(Some).collect();
    workers.resize_with(threads.max(workers.len()), || None);
    thread::scope(|scope| {
        let _ending = Ending(&shared);
        scope.spawn(move || {
            for (job, Job { photo, .. }) in jobs.iter().enumerate() {
                // No receiver: the work is over.
                if file.send((job, photo.read())).is_err() {
                    return;
                }
            }
        });
        let files = Arc::new(Mutex::new(files));
        for worker in workers {
            let hand = Hand {
                network,
                jobs,
                render,
                shared: &shared,
                files: Arc::clone(&files),
                tell: tell.clone(),
            };
            scope.spawn(move || hand.work(worker));
        }
        // Both channels end with the last thread.
        drop((files, tell));
        listen(&shared, &done, told)
    })
}

/// Tells what the threads have done until all of them have ended.
fn listen<T, E, F: From<TrainError>>(
    shared: &Shared,
    done: &Receiver<Result<Done<T, E>, TrainError>>,
    told: &mut Told<'_, T, E, F>,
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
struct Hand<'a, T, E> {
    network: &'a Network<'a, T>,
    jobs: &'a [Job<'a>],
    render: &'a Render<'a, E>,
    shared: &'a Shared,
    files: Arc<Mutex<Receiver<File>>>,
    tell: SyncSender<Result<Done<T, E>, TrainError>>,
}

/// The number of a job, and its photo's bytes.
type File = (usize, Result<Vec<u8>, DecodeError>);

impl<T, E: From<DecodeError>> Hand<'_, T, E> {
    fn work(self, mut worker: Option<Worker<'_>>) {
        let _ending = Ending(self.shared);
        loop {
            let told = match (self.shared.next(worker.is_some()), &mut worker) {
                (Next::Run(batch), Some(worker)) => Some(self.run(worker, batch)),
                (Next::Render, _) => self.render().map(Ok),
                _ => return,
            };
            let ends = matches!(told, Some(Err(_)));
            // No receiver: the caller has failed and says why.
            if told.is_some_and(|told| self.tell.send(told).is_err()) || ends {
                return;
            }
        }
    }

    /// Runs the network on a batch.
    fn run(&self, worker: &mut Worker<'_>, batch: Vec<Rendered>) -> Result<Done<T, E>, TrainError> {
        let (of, pixels): (Vec<usize>, Vec<Vec<u8>>) = batch.into_iter().unzip();
        let (height, width) = self.network.size;
        let data = pixels.concat();
        let pixels = Pixels::new(&data, of.len(), height as usize, width as usize)?;
        Ok(Done::Ran { values: (self.network.infer)(worker, pixels)?, of })
    }

    /// Renders the next photo, if there is one; says so when it fails.
    fn render(&self) -> Option<Done<T, E>> {
        let file = lock(&self.files).recv();
        let Ok((job, bytes)) = file else {
            self.shared.change(|state| (state.exhausted, state.rendering) = (true, state.rendering - 1));
            return None;
        };
        let rendered = bytes.map_err(E::from).and_then(|bytes| (self.render)(job, &bytes));
        let numbers = self.jobs[job].renderings.clone();
        self.shared.change(|state| {
            state.rendering -= 1;
            match rendered {
                Ok(rendered) => {
                    state.ready.extend(numbers.zip(rendered));
                    None
                }
                Err(error) => {
                    state.left -= numbers.len();
                    Some(Done::Failed { job, error })
                }
            }
        })
    }
}

/// A rendering's number and its pixels.
type Rendered = (usize, Vec<u8>);

/// What a thread does next.
enum Next {
    Run(Vec<Rendered>),
    Render,
    End,
}

/// What the threads share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    workers: usize,
}

struct State {
    /// Renderings that wait for the network.
    ready: VecDeque<Rendered>,
    /// Photos that are being rendered now.
    rendering: usize,
    /// Renderings that the network has yet to take, those to come included.
    left: usize,
    /// Photos in each of the last batches, one for each that runs the network.
    last: Option<usize>,
    /// Whether all files have been taken.
    exhausted: bool,
    /// Whether no new work is taken on.
    stopped: bool,
}

impl Shared {
    fn new(left: usize, workers: usize) -> Self {
        let ready = VecDeque::new();
        let state = State { ready, rendering: 0, left, last: None, exhausted: false, stopped: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), workers }
    }

    /// Waits for something to do.
    fn next(&self, runs: bool) -> Next {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return Next::End;
            }
            let to_come = !state.exhausted || state.rendering > 0;
            let batch = state.batch(self.workers);
            if runs && !state.ready.is_empty() && (state.ready.len() >= batch || !to_come) {
                let taken: Vec<Rendered> = {
                    let end = batch.min(state.ready.len());
                    state.ready.drain(..end).collect()
                };
                state.left -= taken.len();
                self.changed.notify_all();
                return Next::Run(taken);
            }
            if !to_come {
                return Next::End;
            }
            if !state.exhausted && (runs || state.ready.len() < AHEAD * BATCH) {
                state.rendering += 1;
                return Next::Render;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let outcome = change(&mut lock(&self.state));
        self.changed.notify_all();
        outcome
    }

    fn stop(&self) {
        self.change(|state| state.stopped = true);
    }
}

impl State {
    /// How many photos the network takes at a time. The last ones are shared out evenly: nobody works alone at the end.
    fn batch(&mut self, workers: usize) -> usize {
        if self.last.is_none() && self.left <= workers * BATCH {
            self.last = Some(self.left.div_ceil(workers));
        }
        self.last.unwrap_or(BATCH)
    }
}

/// Lets nobody wait for a thread that has panicked.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
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
