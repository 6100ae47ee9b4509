//! Vectors of 16 `f32`.

/// Operations on vectors of 16 `f32` with one instruction set. A value of an implementing type has no data:
/// it proves that the CPU has the instructions.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// 16 `f32`.
    type Vector: Copy;

    /// A vector with `value` in all 16 lanes.
    fn splat(self, value: f32) -> Self::Vector;
    /// `a + b` in each lane.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b` in each lane.
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c` in each lane, fused (rounded once) if the instruction set has that.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger value in each lane, for ReLUs and max pools; `b` where one of the two is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// `value` in the lanes where `sign` is positive, and 0 in the others. This is the backward pass of a
    /// ReLU, if `value` is the gradient of its output and `sign` is its output.
    fn select_positive(self, value: Self::Vector, sign: Self::Vector) -> Self::Vector;

    /// Transposes a 16 x 16 matrix: lane `i` of vector `j` becomes lane `j` of vector `i`. Training packs
    /// weights with it. This default goes through memory.
    #[inline(always)]
    fn transpose(self, vectors: [Self::Vector; 16]) -> [Self::Vector; 16] {
        let (mut rows, mut columns) = ([[0.0f32; 16]; 16], [[0.0f32; 16]; 16]);
        // SAFETY: rows and columns are 16 `f32` each.
        unsafe {
            for (row, vector) in rows.iter_mut().zip(vectors) {
                self.store(row.as_mut_ptr(), vector);
            }
            for (i, column) in columns.iter_mut().enumerate() {
                for (value, row) in column.iter_mut().zip(&rows) {
                    *value = row[i];
                }
            }
            columns.map(|column| self.load(column.as_ptr()))
        }
    }

    /// Reads a vector: the 16 `f32` from `src` on. The address need not be aligned.
    ///
    /// # Safety
    /// `src` must be valid for reads of 16 `f32`.
    unsafe fn load(self, src: *const f32) -> Self::Vector;
    /// Writes a vector as the 16 `f32` from `dst` on. The address need not be aligned.
    ///
    /// # Safety
    /// `dst` must be valid for writes of 16 `f32`.
    unsafe fn store(self, dst: *mut f32, vector: Self::Vector);

    /// Prefetches the cache line at `address` to the L1 cache, so that a later load need not wait. The
    /// address need not be valid. This default does nothing.
    #[inline(always)]
    fn prefetch(self, _address: *const u8) {}
}
