//! What runs a network: threads and their memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::cache_line::{Arena, CacheLine};
use crate::error::EngineError;
use crate::executor::{Executor, LayerObserver, OutputRequest};
use crate::image::{self, PixelValues};
use crate::layer::Method;
use crate::network::{Network, Op, Tap};
use crate::plan::Plan;
use crate::team::{Barrier, PoisonOnPanic, Worker, part_range};

/// A batch of photos of one size, `[N, H, W, 3]`.
#[derive(Clone, Copy, Debug)]
pub struct ImageBatch<'a> {
    /// Their pixels.
    pub values: PixelValues<'a>,
    /// `N`.
    pub count: usize,
    /// `H`.
    pub height: usize,
    /// `W`.
    pub width: usize,
}

/// How a value is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputLayout {
    /// Means over the pixels, `[N, C]`.
    Pooled,
    /// As it is, `[N, C, H', W']`.
    Nchw,
    /// As it is, `[N, H', W', C]`.
    Nhwc,
}

/// Runs a [`Network`] on threads of its own, in memory of its own.
///
/// Memory is planned for a size of photos when the first of that size come, and used again as long as they do; it does not
/// depend on the size of the batch. A run on one thread allocates nothing else. What comes out does not depend on the number
/// of threads, nor on the other photos of the batch.
pub struct Session {
    network: Arc<Network>,
    threads: usize,
    pool: Option<ThreadPool>,
    plan: Option<Plan>,
    /// One for each team.
    arenas: Vec<Arena>,
    barriers: Vec<Barrier>,
    times: Option<NodeTimes>,
}

/// Nanoseconds that each node took, added up.
struct NodeTimes(Vec<AtomicU64>);

impl LayerObserver for NodeTimes {
    fn after_layer(&self, node: usize, took: Duration) {
        self.0[node].fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// What a layer took.
#[derive(Clone, Debug)]
pub struct LayerTime {
    /// Its name.
    pub name: String,
    /// How it is computed; none for a pool.
    pub method: Option<Method>,
    /// Height and width of its output.
    pub size: (usize, usize),
    /// Channels of its output.
    pub channels: usize,
    /// Products of a number by a number that its definition asks for, for one photo.
    pub macs: u64,
    /// Bytes of its packed weights.
    pub weight_bytes: usize,
    /// Time of all runs.
    pub time: Duration,
}

/// The fewest photos that a team is given: with fewer, threads work on the same photos, and read weights once.
const MIN_IMAGES_PER_TEAM: usize = 4;

/// Where results go: each thread writes those of its own photos, or its share of them.
#[derive(Clone, Copy)]
struct OutputPtr(*mut f32);
// SAFETY: as said above, no two threads touch the same place.
unsafe impl Send for OutputPtr {}
// SAFETY: as above.
unsafe impl Sync for OutputPtr {}

impl OutputPtr {
    fn pointer(self) -> *mut f32 {
        self.0
    }
}

impl Session {
    /// Starts `threads` threads; a single one is the caller's own.
    ///
    /// # Errors
    /// [`EngineError::Threads`] when they cannot be started.
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

    /// Height and width of what `tap` gives for photos of this size.
    ///
    /// # Errors
    /// [`EngineError::Photos`] when they are too small for the network.
    pub fn output_size(
        &mut self,
        tap: Tap,
        height: usize,
        width: usize,
    ) -> Result<(usize, usize), EngineError> {
        let value = self.network.taps[tap.0];
        Ok(self.plan_for(height, width)?.sizes[value])
    }

    /// Runs the network up to `tap` and writes what it gives, as [`Form`] says.
    ///
    /// # Errors
    /// [`EngineError::Photos`] when the pixels are not as many as the sizes say, there is no room for what comes out, or the
    /// photos are too small for the network.
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

    /// As [`run`](Self::run), with each layer told to `watch`.
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
            return Err(reject(format!("there are {} values", values.len())));
        }
        let (rows, columns) = self.output_size(tap, height, width)?;
        let image_len =
            self.network.channels(tap) * if layout == OutputLayout::Pooled { 1 } else { rows * columns };
        if out.len() != count * image_len {
            return Err(reject(format!("there is room for {} values of {}", out.len(), count * image_len)));
        }
        let teams = n_teams(self.threads, count);
        let team_size = self.threads / teams;
        if let Some(plan) = &self.plan {
            while self.arenas.len() < teams {
                self.arenas.push(Arena::new(plan.arena_lines));
            }
            self.barriers.clear();
            self.barriers.resize_with(teams, Barrier::default);
            let (out, arenas, barriers) = (OutputPtr(out.as_mut_ptr()), &self.arenas, &self.barriers);
            let network = &*self.network;
            let work = |thread: usize| {
                let team = thread / team_size;
                let _poison = PoisonOnPanic(&barriers[team]);
                let worker = Worker { rank: thread % team_size, team_size, barrier: &barriers[team] };
                let request = OutputRequest { stage: tap.0, layout, out: out.pointer() };
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

    /// Starts or stops taking the time of each layer.
    pub fn set_layer_timing(&mut self, on: bool) {
        let zeros = || self.network.nodes.iter().map(|_| AtomicU64::new(0)).collect();
        self.times = on.then(|| NodeTimes(zeros()));
    }

    /// What each layer took since [`time_layers`](Self::time_layers), on the first thread of each team.
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

    /// The plan for photos of this size.
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

/// As many teams of equal size as have photos enough.
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
