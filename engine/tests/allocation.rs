//! A run on one thread allocates nothing once memory for photos of its size is there.

#![expect(unsafe_code, reason = "an allocator is unsafe to write; this one counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use headstock_engine::{
    Convolution, EngineError, Epilogue, ImageBatch, Isa, NetworkBuilder, OutputLayout, PixelValues,
    Precision, Session, Tap,
};

thread_local! {
    /// Of this thread alone: the test's harness has others.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: all is left to the system's allocator, which keeps the contract; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Layers of every method, and a residual, between two taps.
fn session(isa: Isa, precision: Precision) -> Result<(Session, [Tap; 2]), EngineError> {
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
    let around = add(&mut builder, [20, 40, 1, 2, 0], value, None)?;
    let value = add(&mut builder, [20, 20, 1, 1, 0], value, None)?;
    let value = add(&mut builder, [20, 20, 3, 1, 1], value, None)?;
    add(&mut builder, [20, 40, 3, 2, 1], value, Some(around))?;
    let second = builder.add_tap()?;
    Ok((Session::new(Arc::new(builder.build()), 1)?, [first, second]))
}

#[test]
fn runs_after_the_first_of_a_size_allocate_nothing() {
    let (count, height, width) = (5, 45, 37);
    let bytes = vec![100; count * height * width * 3];
    let floats = vec![0.5; bytes.len()];
    for precision in [Precision::F32, Precision::Bf16] {
        let here = |isa: &Isa| isa.is_present() && isa.computes(precision);
        for isa in Isa::ALL.into_iter().filter(here) {
            let (mut session, taps) = session(isa, precision).unwrap();
            let mut seen = false;
            for tap in taps {
                for form in [OutputLayout::Pooled, OutputLayout::Nchw, OutputLayout::Nhwc] {
                    let (rows, columns) = session.output_size(tap, height, width).unwrap();
                    let each = if form == OutputLayout::Pooled { 1 } else { rows * columns };
                    let mut out = vec![0.0; count * session.network().channels(tap) * each];
                    for values in [PixelValues::U8(&bytes), PixelValues::F32(&floats)] {
                        let before = ALLOCATIONS.get();
                        session
                            .run(ImageBatch { values, count, height, width }, tap, form, &mut out)
                            .unwrap();
                        let allocated = ALLOCATIONS.get() - before;
                        // The first makes the arena; that shows that they are counted.
                        assert_eq!(allocated > 0, !seen, "{isa} {precision} {form:?} {tap:?}: {allocated}");
                        seen = true;
                    }
                }
            }
        }
    }
}
