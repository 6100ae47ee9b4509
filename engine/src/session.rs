//! Sessions run a network: they own the threads and the working memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::cache_line::{Arena, CacheLine, SharedPtr};
use crate::error::EngineError;
use crate::executor::{Executor, LayerObserver, OutputRequest};
use crate::image::{self, PixelValues};
use crate::layer::Method;
use crate::network::{Network, Op, Tap};
use crate::plan::Plan;
use crate::team::{Barrier, PoisonOnPanic, Worker, part_range};

/// A batch of images of one size, `[N, H, W, 3]`.
#[derive(Clone, Copy, Debug)]
pub struct ImageBatch<'a> {
    /// The pixels.
    pub values: PixelValues<'a>,
    /// `N`.
    pub count: usize,
    /// `H`.
    pub height: usize,
    /// `W`.
    pub width: usize,
}

/// Layout of the values that a run returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputLayout {
    /// Global average pool, `[N, C]`.
    Pooled,
    /// `[N, C, H', W']`.
    Nchw,
    /// `[N, H', W', C]`.
    Nhwc,
}

/// Runs a [`Network`] on its own threads, in its own memory.
///
/// Memory is planned when the image size changes and reused for later batches of that size; it does not
/// depend on the batch size. A run on one thread allocates nothing else. Results do not depend on the number
/// of threads, nor on the other images of the batch.
pub struct Session {
    network: Arc<Network>,
    threads: usize,
    pool: Option<ThreadPool>,
    plan: Option<Plan>,
    /// One per team of threads.
    arenas: Vec<Arena>,
    barriers: Vec<Barrier>,
    times: Option<NodeTimes>,
}

/// Total nanoseconds of each node.
struct NodeTimes(Vec<AtomicU64>);

impl LayerObserver for NodeTimes {
    fn after_layer(&self, node: usize, elapsed: Duration) {
        self.0[node].fetch_add(elapsed.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// Description and run time of a layer.
#[derive(Clone, Debug)]
pub struct LayerTime {
    /// Name of the layer.
    pub name: String,
    /// How the convolution is computed; `None` for a pool.
    pub method: Option<Method>,
    /// Height and width of the output.
    pub size: (usize, usize),
    /// Output channels.
    pub channels: usize,
    /// Multiply-accumulate operations per image, by the definition of the convolution.
    pub macs: u64,
    /// Bytes of the packed weights.
    pub weight_bytes: usize,
    /// Total time of all runs.
    pub time: Duration,
}

/// Minimum number of images per team. With fewer, threads share the same images and read the weights once.
const MIN_IMAGES_PER_TEAM: usize = 4;

impl Session {
    /// Starts `threads` threads; with 0 or 1 the session runs on the calling thread.
    ///
    /// # Errors
    /// [`EngineError::Threads`] if the threads cannot be started.
    pub fn new(network: Arc<Network>, threads: usize) -> Result<Self, EngineError> {
        let pool = if threads > 1 {
            let builder = ThreadPoolBuilder::new().num_threads(threads);
            let started = builder.thread_name(|index| format!("engine-{index}")).build();
            Some(started.map_err(|source| EngineError::Threads { threads, source })?)
        } else {
            None
        };
        let (plan, arenas, barriers, times) = (None, Vec::new(), Vec::new(), None);
        Ok(Self { network, threads: threads.max(1), pool, plan, arenas, barriers, times })
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// Height and width of the value at `tap` for images of `height` x `width` pixels.
    ///
    /// # Errors
    /// [`EngineError::Input`] if the images are too small for the network.
    pub fn output_size(
        &mut self,
        tap: Tap,
        height: usize,
        width: usize,
    ) -> Result<(usize, usize), EngineError> {
        let value = self.network.taps[tap.0];
        Ok(self.plan_for(height, width)?.sizes[value])
    }

    /// Runs the network up to `tap` and writes the value there to `out`, in `layout`.
    ///
    /// # Errors
    /// [`EngineError::Input`] if the number of pixels or the length of `out` does not match the sizes, or the
    /// images are too small for the network.
    pub fn run(
        &mut self,
        images: ImageBatch<'_>,
        tap: Tap,
        layout: OutputLayout,
        out: &mut [f32],
    ) -> Result<(), EngineError> {
        let times = self.times.take();
        let observer = times.as_ref().map(|times| times as &dyn LayerObserver);
        let result = self.run_observed(images, tap, layout, out, observer);
        self.times = times;
        result
    }

    /// As [`run`](Self::run), with `observer` called for each layer.
    pub(crate) fn run_observed(
        &mut self,
        images: ImageBatch<'_>,
        tap: Tap,
        layout: OutputLayout,
        out: &mut [f32],
        observer: Option<&dyn LayerObserver>,
    ) -> Result<(), EngineError> {
        let ImageBatch { values, count, height, width } = images;
        let reject = |problem: String| EngineError::Input { images: count, height, width, problem };
        let pixels = [count, height, width, image::CHANNELS].into_iter().try_fold(1, usize::checked_mul);
        if pixels != Some(values.len()) {
            let channels = image::CHANNELS;
            let found = values.len();
            return Err(reject(format!(
                "expected {count} x {height} x {width} x {channels} values, got {found}"
            )));
        }
        let (rows, columns) = self.output_size(tap, height, width)?;
        let pixels = if layout == OutputLayout::Pooled { 1 } else { rows * columns };
        let (found, expected) = (out.len(), count * self.network.channels(tap) * pixels);
        if found != expected {
            return Err(reject(format!("the output buffer has {found} values, expected {expected}")));
        }
        let teams = n_teams(self.threads, count);
        let team_size = self.threads / teams;
        if let Some(plan) = &self.plan {
            while self.arenas.len() < teams {
                self.arenas.push(Arena::new(plan.arena_lines));
            }
            self.barriers.clear();
            self.barriers.resize_with(teams, Barrier::default);
            // Each thread writes its own images, or its own share of them.
            let (out, arenas, barriers) = (SharedPtr::new(out), &self.arenas, &self.barriers);
            let network = &*self.network;
            let work = |thread: usize| {
                let team = thread / team_size;
                let _poison = PoisonOnPanic(&barriers[team]);
                let worker = Worker { rank: thread % team_size, team_size, barrier: &barriers[team] };
                let request = OutputRequest { stage: tap.0, layout, out: out.offset(0) };
                let arena = arenas[team].pointer();
                let executor = Executor { network, plan, arena, worker, values, request, observer };
                executor.run(part_range(team, teams, count));
            };
            match &self.pool {
                None => work(0),
                Some(pool) => {
                    pool.broadcast(|thread| work(thread.index()));
                }
            }
        }
        Ok(())
    }

    /// Resets the times of the layers and starts or stops measuring them.
    pub fn set_layer_timing(&mut self, on: bool) {
        let zeros = || self.network.nodes.iter().map(|_| AtomicU64::new(0)).collect();
        self.times = on.then(|| NodeTimes(zeros()));
    }

    /// Times of the layers since [`set_layer_timing`](Self::set_layer_timing), summed over the first threads
    /// of the teams.
    #[must_use]
    pub fn layer_times(&self) -> Vec<LayerTime> {
        let (Some(plan), Some(NodeTimes(times))) = (&self.plan, &self.times) else { return Vec::new() };
        let layer_time = |(node, nanoseconds): (&crate::network::Node, &AtomicU64)| {
            let size = plan.sizes[node.output];
            let channels = self.network.values[node.output].0;
            let (method, macs, weight_bytes) = match &node.op {
                Op::MaxPool { .. } => (None, 0, 0),
                Op::Convolution { packed, .. } => {
                    let macs = packed.inputs * packed.kernel * packed.kernel * channels * size.0 * size.1;
                    (Some(packed.method), macs as u64, packed.weights.len() * CacheLine::BYTES)
                }
            };
            let time = Duration::from_nanos(nanoseconds.load(Ordering::Relaxed));
            LayerTime { name: node.name.clone(), method, size, channels, macs, weight_bytes, time }
        };
        self.network.nodes.iter().zip(times).map(layer_time).collect()
    }

    /// The plan for images of `height` x `width` pixels, made if the size has changed.
    fn plan_for(&mut self, height: usize, width: usize) -> Result<&Plan, EngineError> {
        let plan = match self.plan.take().filter(|plan| (plan.height, plan.width) == (height, width)) {
            Some(plan) => plan,
            None => {
                self.arenas.clear();
                Plan::new(&self.network, height, width)?
            }
        };
        Ok(self.plan.insert(plan))
    }
}

/// The largest number of equal teams with at least [`MIN_IMAGES_PER_TEAM`] images each.
pub(crate) fn n_teams(threads: usize, images: usize) -> usize {
    let max_teams = (images / MIN_IMAGES_PER_TEAM).clamp(1, threads);
    (1..=max_teams).rev().find(|teams| threads.is_multiple_of(*teams)).unwrap_or(1)
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("network", &self.network)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}
