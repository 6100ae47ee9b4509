//! What runs a network: threads and their memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::cell::{Arena, Cell};
use crate::error::EngineError;
use crate::image::{self, Values};
use crate::layer::Method;
use crate::network::{Network, Op, Tap};
use crate::plan::Plan;
use crate::team::{Barrier, Breaking, Member, share};
use crate::walk::{Walk, Wanted, Watch};

/// A batch of photos of one size, `[N, H, W, 3]`.
#[derive(Clone, Copy, Debug)]
pub struct Photos<'a> {
    /// Their pixels.
    pub values: Values<'a>,
    /// `N`.
    pub count: usize,
    /// `H`.
    pub height: usize,
    /// `W`.
    pub width: usize,
}

/// How a value is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Means over the pixels, `[N, C]`.
    Pooled,
    /// As it is, `[N, C, H', W']`.
    Planes,
    /// As it is, `[N, H', W', C]`.
    ChannelsLast,
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
    times: Option<Times>,
}

/// Nanoseconds that each node took, added up.
struct Times(Vec<AtomicU64>);

impl Watch for Times {
    fn done(&self, node: usize, took: Duration) {
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
    pub products: u64,
    /// Bytes of its packed weights.
    pub weights: usize,
    /// Time of all runs.
    pub time: Duration,
}

/// The fewest photos that a team is given: with fewer, threads work on the same photos, and read weights once.
const PHOTOS_PER_TEAM: usize = 4;

/// Where results go: each thread writes those of its own photos, or its share of them.
#[derive(Clone, Copy)]
struct Out(*mut f32);
// SAFETY: as said above, no two threads touch the same place.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
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
    pub fn size(&mut self, tap: Tap, height: usize, width: usize) -> Result<(usize, usize), EngineError> {
        let value = self.network.taps[tap.0];
        Ok(self.plan(height, width)?.sizes[value])
    }

    /// Runs the network up to `tap` and writes what it gives, as [`Form`] says.
    ///
    /// # Errors
    /// [`EngineError::Photos`] when the pixels are not as many as the sizes say, there is no room for what comes out, or the
    /// photos are too small for the network.
    pub fn run(
        &mut self,
        photos: Photos<'_>,
        tap: Tap,
        form: Form,
        out: &mut [f32],
    ) -> Result<(), EngineError> {
        let times = self.times.take();
        let watch = times.as_ref().map(|times| times as &dyn Watch);
        let result = self.run_watched(photos, tap, form, out, watch);
        self.times = times;
        result
    }

    /// As [`run`](Self::run), with each layer told to `watch`.
    pub(crate) fn run_watched(
        &mut self,
        photos: Photos<'_>,
        tap: Tap,
        form: Form,
        out: &mut [f32],
        watch: Option<&dyn Watch>,
    ) -> Result<(), EngineError> {
        let Photos { values, count, height, width } = photos;
        let wrong = |problem: String| EngineError::Photos { photos: count, height, width, problem };
        let pixels = [count, height, width, image::CHANNELS].into_iter().try_fold(1, usize::checked_mul);
        if pixels != Some(values.len()) {
            return Err(wrong(format!("there are {} values", values.len())));
        }
        let (rows, columns) = self.size(tap, height, width)?;
        let each = self.network.channels(tap) * if form == Form::Pooled { 1 } else { rows * columns };
        if out.len() != count * each {
            return Err(wrong(format!("there is room for {} values of {}", out.len(), count * each)));
        }
        let teams = teams(self.threads, count);
        let members = self.threads / teams;
        if let Some(plan) = &self.plan {
            while self.arenas.len() < teams {
                self.arenas.push(Arena::new(plan.cells));
            }
            self.barriers.clear();
            self.barriers.resize_with(teams, Barrier::default);
            let (out, arenas, barriers) = (Out(out.as_mut_ptr()), &self.arenas, &self.barriers);
            let network = &*self.network;
            let work = |thread: usize| {
                let team = thread / members;
                let _breaking = Breaking(&barriers[team]);
                let member = Member { index: thread % members, of: members, barrier: &barriers[team] };
                let wanted = Wanted { segment: tap.0, form, out: out.pointer() };
                let arena = arenas[team].pointer();
                let walk = Walk { network, plan, arena, member, values, wanted, watch };
                walk.run(share(team, teams, count));
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
    pub fn time_layers(&mut self, on: bool) {
        let zeros = || self.network.nodes.iter().map(|_| AtomicU64::new(0)).collect();
        self.times = on.then(|| Times(zeros()));
    }

    /// What each layer took since [`time_layers`](Self::time_layers), on the first thread of each team.
    #[must_use]
    pub fn layer_times(&self) -> Vec<LayerTime> {
        let (Some(plan), Some(Times(times))) = (&self.plan, &self.times) else { return Vec::new() };
        let of = |(node, nanoseconds): (&crate::network::Node, &AtomicU64)| {
            let size = plan.sizes[node.output];
            let channels = self.network.values[node.output].0;
            let (method, products, weights) = match &node.op {
                Op::MaxPool { .. } => (None, 0, 0),
                Op::Convolution { packed, .. } => {
                    let products = packed.inputs * packed.kernel * packed.kernel * channels * size.0 * size.1;
                    (Some(packed.method), products as u64, packed.weights.len() * Cell::BYTES)
                }
            };
            let time = Duration::from_nanos(nanoseconds.load(Ordering::Relaxed));
            LayerTime { name: node.name.clone(), method, size, channels, products, weights, time }
        };
        self.network.nodes.iter().zip(times).map(of).collect()
    }

    /// The plan for photos of this size.
    fn plan(&mut self, height: usize, width: usize) -> Result<&Plan, EngineError> {
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
pub(crate) fn teams(threads: usize, photos: usize) -> usize {
    let most = (photos / PHOTOS_PER_TEAM).clamp(1, threads);
    (1..=most).rev().find(|teams| threads.is_multiple_of(*teams)).unwrap_or(1)
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("network", &self.network)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}
