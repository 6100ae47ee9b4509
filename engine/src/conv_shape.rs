//! The sizes of a training convolution.

/// Shape of a convolution from `[N, H, W, C]` to `[N, H', W', O]`, with a square kernel and the same stride
/// and padding along both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// `N`
    pub batch: usize,
    /// `H`
    pub height: usize,
    /// `W`
    pub width: usize,
    /// `C`
    pub inputs: usize,
    /// `O`
    pub outputs: usize,
    /// `K`
    pub kernel: usize,
    /// Stride along both axes.
    pub stride: usize,
    /// Zero padding on each side.
    pub padding: usize,
}

impl ConvShape {
    /// `[H', W']`; 0 if the kernel does not fit.
    #[must_use]
    pub fn output_size(&self) -> [usize; 2] {
        [self.height, self.width].map(|side| {
            let span = (side + 2 * self.padding).checked_sub(self.kernel);
            span.map_or(0, |span| span / self.stride.max(1) + 1)
        })
    }

    /// Number of values of the input.
    pub(crate) fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.inputs
    }

    /// Number of values of the output.
    pub(crate) fn output_len(&self) -> usize {
        let [height, width] = self.output_size();
        self.batch * height * width * self.outputs
    }

    /// Number of weights.
    pub(crate) fn weights_len(&self) -> usize {
        self.kernel * self.kernel * self.inputs * self.outputs
    }
}
