//! Sessions run a network: they own the threads and the working memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::cache_line::{Arena, CacheLine, SharedPtr};
use crate::error::EngineError;
use crate::executor::{Executor, LayerObserver, OutputLayout};
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

/// Runs a [`Network`] on its own threads, in its own memory.
///
/// Memory is planned when the image size changes and reused for later batches of that size; it does not
/// depend on the batch size. A run on one thread allocates nothing else. Results do not depend on the number
/// of threads, nor on the other images of the batch.
pub struct Session {
    network: Arc<Network>,
    /// Number of threads, at least 1.
    threads: usize,
    /// `None` for one thread: the session then runs on the calling thread.
    pool: Option<ThreadPool>,
    /// The memory plan for the last image size; `None` before the first run.
    plan: Option<Plan>,
    /// Working memory, one per team of threads.
    arenas: Vec<Arena>,
    /// Where the threads of a team wait for each other, one per team.
    barriers: Vec<Barrier>,
    /// Times of the layers; `None` if they are not measured.
    times: Option<NodeTimes>,
}

/// Total nanoseconds of each node, summed over all runs.
struct NodeTimes(Vec<AtomicU64>);

impl LayerObserver for NodeTimes {
    /// Adds the time that layer `node` took.
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
    /// A session that runs `network` on `threads` threads, which it starts; with 0 or 1 it runs on the
    /// calling thread. Memory is planned by the first run, for the size of its images.
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

    /// The network that the session runs.
    #[must_use]
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// Height and width of the layer output at `tap` (an output at which a run can stop) for images of
    /// `height` x `width` pixels. Callers size the output of [`run`](Self::run) by it. Plans the memory for
    /// images of that size.
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

    /// Runs the network on `images` up to `tap`, a layer output at which a run can stop, and writes that
    /// output to `out`, in `layout`. The time of each layer is added to its total if times are measured.
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
        // Taken out for the call, which borrows the rest of the session mutably.
        let times = self.times.take();
        let observer = times.as_ref().map(|times| times as &dyn LayerObserver);
        let result = self.run_observed(images, tap, layout, out, observer);
        self.times = times;
        result
    }

    /// Runs the network on `images` up to `tap`, a layer output at which a run can stop, and writes that
    /// output to `out`, in `layout`. Calls `observer`, if given, before and after each layer, for activation
    /// statistics and layer times. The threads form teams, each with an arena (working memory) and a share of
    /// the images.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
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
        let channels = image::CHANNELS;
        let n_values = [count, height, width, channels].into_iter().try_fold(1, usize::checked_mul);
        if n_values != Some(values.len()) {
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
        let n_teams = n_teams(self.threads, count);
        let team_size = self.threads / n_teams;
        if let Some(plan) = &self.plan {
            while self.arenas.len() < n_teams {
                self.arenas.push(Arena::new(plan.arena_lines));
            }
            self.barriers.clear();
            self.barriers.resize_with(n_teams, Barrier::default);
            // Each thread writes its own images, or its own share of them; so they can share `out`.
            let (out, arenas, barriers) = (SharedPtr::new(out), &self.arenas, &self.barriers);
            let network = &*self.network;
            let work = |thread: usize| {
                let team = thread / team_size;
                let _poison = PoisonOnPanic(&barriers[team]);
                let worker = Worker { rank: thread % team_size, team_size, barrier: &barriers[team] };
                let (arena, stage, out) = (arenas[team].pointer(), tap.0, out.offset(0));
                Executor { network, plan, arena, worker, values, stage, layout, out, observer }
                    .run(part_range(team, n_teams, count));
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

    /// Starts to measure the times of the layers, from 0 on, or stops and forgets them if `on` is false; see
    /// [`layer_times`](Self::layer_times).
    pub fn set_layer_timing(&mut self, on: bool) {
        let zeros = || self.network.nodes.iter().map(|_| AtomicU64::new(0)).collect();
        self.times = on.then(|| NodeTimes(zeros()));
    }

    /// The layers in execution order, each with its description and its total time in all runs since
    /// [`set_layer_timing`](Self::set_layer_timing). If several teams of threads run, it is the sum of the
    /// times of the teams. Empty if times are not measured, or before the first run.
    #[must_use]
    pub fn layer_times(&self) -> Vec<LayerTime> {
        let (Some(plan), Some(NodeTimes(times))) = (&self.plan, &self.times) else { return Vec::new() };
        let layer_time = |(node, nanoseconds): (&crate::network::Node, &AtomicU64)| {
            let size @ (height, width) = plan.sizes[node.output];
            let channels = self.network.values[node.output].channels;
            let (method, macs, weight_bytes) = match &node.op {
                Op::MaxPool { .. } => (None, 0, 0),
                Op::Convolution { packed, .. } => {
                    let kernel_area = packed.kernel_size * packed.kernel_size;
                    let macs = packed.inputs * kernel_area * channels * height * width;
                    (Some(packed.method), macs as u64, packed.weights.len() * CacheLine::BYTES)
                }
            };
            let time = Duration::from_nanos(nanoseconds.load(Ordering::Relaxed));
            LayerTime { name: node.name.clone(), method, size, channels, macs, weight_bytes, time }
        };
        self.network.nodes.iter().zip(times).map(layer_time).collect()
    }

    /// The memory plan (where layer outputs are in an arena) for images of `height` x `width` pixels: that of
    /// the last batch, or a new one if the size has changed. A new plan also drops the arenas, which have the
    /// old plan's size.
    ///
    /// # Errors
    /// [`EngineError::Input`] if the images are too small for the network.
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

/// Number of teams that `threads` threads form to run `images` images: the largest number of teams of equal
/// size with at least [`MIN_IMAGES_PER_TEAM`] images each.
pub(crate) fn n_teams(threads: usize, images: usize) -> usize {
    let max_teams = (images / MIN_IMAGES_PER_TEAM).clamp(1, threads);
    (1..=max_teams).rev().find(|teams| threads.is_multiple_of(*teams)).unwrap_or(1)
}

impl std::fmt::Debug for Session {
    /// Shows only the network and the number of threads: the other fields are buffers.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("network", &self.network)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}
