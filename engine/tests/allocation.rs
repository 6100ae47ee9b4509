//! After the first run with an image size, a run on one thread allocates nothing.

#![expect(unsafe_code, reason = "an allocator is unsafe to write; this one counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use headstock_engine::{
    Convolution, DType, EngineError, Epilogue, ImageBatch, Isa, NetworkBuilder, OutputLayout, PixelValues,
    Session, Tap,
};

thread_local! {
    /// Allocations of this thread only; the test harness has other threads.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call is passed to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the same contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// A session of a network with layers of every method, a residual and two taps.
fn session(isa: Isa, precision: DType) -> Result<(Session, [Tap; 2]), EngineError> {
    let mut builder = NetworkBuilder::new(isa, [[0.5; 256]; 3])?;
    let add = |builder: &mut NetworkBuilder, shape: [usize; 5], input, residual| {
        let [inputs, outputs, kernel, stride, padding] = shape;
        let (weights, bias) = (vec![0.1; outputs * inputs * kernel * kernel], vec![0.0; outputs]);
        let layer = Convolution { inputs, outputs, kernel, stride, padding, weights, bias };
        let epilogue = Epilogue { residual, relu: true, precision };
        builder.add_convolution("layer", input, layer, epilogue)
    };
    let image = builder.input();
    let value = add(&mut builder, [3, 20, 7, 2, 3], image, None)?;
    let value = builder.add_max_pool("pool", value, 3, 2, 1)?;
    let first = builder.add_tap()?;
    let shortcut = add(&mut builder, [20, 40, 1, 2, 0], value, None)?;
    let value = add(&mut builder, [20, 20, 1, 1, 0], value, None)?;
    let value = add(&mut builder, [20, 20, 3, 1, 1], value, None)?;
    add(&mut builder, [20, 40, 3, 2, 1], value, Some(shortcut))?;
    let second = builder.add_tap()?;
    Ok((Session::new(Arc::new(builder.build()), 1)?, [first, second]))
}

#[test]
fn only_the_first_run_with_an_image_size_allocates() {
    let (count, height, width) = (5, 45, 37);
    let bytes = vec![100; count * height * width * 3];
    let floats = vec![0.5; bytes.len()];
    for precision in [DType::F32, DType::Bf16] {
        let is_usable = |isa: &Isa| isa.is_present() && isa.computes(precision);
        for isa in Isa::ALL.into_iter().filter(is_usable) {
            let (mut session, taps) = session(isa, precision).unwrap();
            let mut is_first = true;
            for tap in taps {
                for layout in [OutputLayout::Pooled, OutputLayout::Nchw, OutputLayout::Nhwc] {
                    let (rows, columns) = session.output_size(tap, height, width).unwrap();
                    let pixels = if layout == OutputLayout::Pooled { 1 } else { rows * columns };
                    let mut out = vec![0.0; count * session.network().channels(tap) * pixels];
                    for values in [PixelValues::U8(&bytes), PixelValues::F32(&floats)] {
                        let images = ImageBatch { values, count, height, width };
                        let before = ALLOCATIONS.get();
                        session.run(images, tap, layout, &mut out).unwrap();
                        let allocated = ALLOCATIONS.get() - before;
                        let label = format!("{isa} {precision} {layout:?} {tap:?}: {allocated}");
                        // The first run allocates the arena, which shows that allocations are counted.
                        assert_eq!(allocated > 0, is_first, "{label}");
                        is_first = false;
                    }
                }
            }
        }
    }
}
