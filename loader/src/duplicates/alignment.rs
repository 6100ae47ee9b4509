//! Lays one photo over another.

use super::signature::{HALF, SIDE, Signature};

/// The least correlation of two pictures at half the size, once one lies over the other.
const COARSE: f32 = 0.8;
/// How far the colours of one picture may be apart, on average.
const APART: f32 = 6.0;
/// Steps of the fit at each size.
const STEPS: usize = 4;
/// The least part of each side that both photos show, and how far one may be enlarged.
const SHARED: f32 = 0.8;
const ENLARGED: f32 = 1.2;

/// How similar `first`, mirrored where asked for, is to `second`; `None` where they plainly differ.
pub(super) fn align(first: &Signature, second: &Signature, mirrored: bool) -> Option<f32> {
    let half = [first.half(mirrored), second.half(false)];
    let same = Axis { scale: 1.0, offset: 0.0 };
    let mut warp = Warp { x: same, y: same };
    for _ in 0..STEPS {
        warp = warp.fitted(&half, HALF)?;
    }
    if warp.overlay(&half[0], HALF, linear)?.correlation(&half[1], HALF) < COARSE {
        return None;
    }
    let colours = first.chroma(mirrored);
    for (first, second) in colours.iter().zip(&second.chroma(false)) {
        if warp.overlay(first, HALF, linear)?.apart(second, HALF) > APART {
            return None;
        }
    }
    let full = [first.luma(mirrored), second.luma(false)];
    for _ in 0..STEPS {
        warp = warp.fitted(&full, SIDE)?;
    }
    Some(warp.overlay(&full[0], SIDE, cubic)?.correlation_of_changes(&full[1], SIDE))
}

fn linear(past: f32) -> [f32; 2] {
    [1.0 - past, past]
}

/// Catmull and Rom's: what changes fast is kept.
fn cubic(past: f32) -> [f32; 4] {
    [
        ((-0.5 * past + 1.0) * past - 0.5) * past,
        (1.5 * past - 2.5) * past * past + 1.0,
        ((-1.5 * past + 2.0) * past + 0.5) * past,
        (0.5 * past - 0.5) * past * past,
    ]
}

/// Where along an axis a place of the second photo lies in the first: `scale * place + offset`, both from -0.5 to 0.5.
#[derive(Clone, Copy)]
struct Axis {
    scale: f32,
    offset: f32,
}

impl Axis {
    /// The pixels `n` of the second photo that lie in the first, and where: a pixel, and how far from it to the next.
    fn shared(self, n: usize) -> Option<(usize, Vec<(usize, f32)>)> {
        let size = n as f32;
        let place = |at: usize| {
            let place = self.scale * ((at as f32 + 0.5) / size - 0.5) + self.offset;
            (place + 0.5) * size - 0.5
        };
        let within = |at: &usize| (-0.5..=size - 0.5).contains(&place(*at));
        let begin = (0..n).find(within)?;
        let places: Vec<(usize, f32)> = (begin..n)
            .take_while(within)
            .map(|at| {
                let place = place(at).clamp(0.0, size - 1.0);
                (place as usize, place.fract())
            })
            .collect();
        let enlarged = (1.0 / ENLARGED..=ENLARGED).contains(&self.scale);
        (enlarged && places.len() as f32 >= SHARED * size).then_some((begin, places))
    }
}

#[derive(Clone, Copy)]
struct Warp {
    x: Axis,
    y: Axis,
}

/// The part of the first photo that the second shows as well, in the second's pixels.
struct Overlay {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    values: Vec<f32>,
}

impl Warp {
    /// `weights` makes weights for the pixels around a place from how far it is past one of them.
    fn overlay<const TAPS: usize>(
        self,
        first: &[f32],
        n: usize,
        weights: fn(f32) -> [f32; TAPS],
    ) -> Option<Overlay> {
        let (left, columns) = self.x.shared(n)?;
        let (top, rows) = self.y.shared(n)?;
        let taps = |&(at, past): &(usize, f32)| {
            let weights = weights(past);
            let half = TAPS / 2;
            std::array::from_fn::<_, TAPS, _>(|tap| {
                ((at + tap + 1).clamp(half, n - 1 + half) - half, weights[tap])
            })
        };
        let columns: Vec<_> = columns.iter().map(taps).collect();
        let mut values = Vec::with_capacity(rows.len() * columns.len());
        for row in rows.iter().map(taps) {
            values.extend(columns.iter().map(|column| {
                let across =
                    |y: usize| column.iter().map(|&(x, right)| right * first[y * n + x]).sum::<f32>();
                row.iter().map(|&(y, down)| down * across(y)).sum::<f32>()
            }));
        }
        Some(Overlay { left, top, width: columns.len(), height: rows.len(), values })
    }

    /// A step of Gauss and Newton towards the warp, the gain and the bias under which the first photo is the second.
    fn fitted(self, [first, second]: &[Vec<f32>; 2], n: usize) -> Option<Self> {
        let over = self.overlay(first, n, linear)?;
        let size = n as f32;
        let mut terms = [(); 7].map(|()| Vec::with_capacity(over.values.len()));
        for y in 1..over.height - 1 {
            let down = (over.top + y) as f32 / size - 0.5;
            for x in 1..over.width - 1 {
                let at = y * over.width + x;
                let right = (over.left + x) as f32 / size - 0.5;
                let by_x = (over.values[at + 1] - over.values[at - 1]) * (size / 2.0);
                let by_y = (over.values[at + over.width] - over.values[at - over.width]) * (size / 2.0);
                let target = second[(over.top + y) * n + over.left + x];
                let here = [over.values[at], 1.0, by_x * right, by_x, by_y * down, by_y, target];
                terms.iter_mut().zip(here).for_each(|(term, value)| term.push(value));
            }
        }
        let mut normal = [[0.0; 7]; 6];
        for row in 0..6 {
            for column in row..7 {
                normal[row][column] = f64::from(dot(&terms[row], &terms[column]));
                if column < 6 {
                    normal[column][row] = normal[row][column];
                }
            }
        }
        let [gain, _, x_scale, x_offset, y_scale, y_offset] = solve(normal)?;
        if gain < 0.1 {
            return None;
        }
        let moved = |axis: Axis, scale: f64, offset: f64| Axis {
            scale: axis.scale + (scale / gain).clamp(-0.1, 0.1) as f32,
            offset: axis.offset + (offset / gain).clamp(-0.1, 0.1) as f32,
        };
        Some(Self { x: moved(self.x, x_scale, x_offset), y: moved(self.y, y_scale, y_offset) })
    }
}

impl Overlay {
    /// The values beside those of the second photo.
    fn pairs<'a>(&'a self, second: &'a [f32], n: usize) -> impl Iterator<Item = (f32, f32)> + 'a {
        (0..self.height).flat_map(move |y| {
            let from = (self.top + y) * n + self.left;
            let row = &self.values[y * self.width..(y + 1) * self.width];
            row.iter().copied().zip(second[from..from + self.width].iter().copied())
        })
    }

    /// The mean difference from the second photo.
    fn apart(&self, second: &[f32], n: usize) -> f32 {
        self.pairs(second, n).map(|(a, b)| (a - b).abs()).sum::<f32>() / self.values.len() as f32
    }

    /// How the values correlate with those of the second photo.
    fn correlation(&self, second: &[f32], n: usize) -> f32 {
        let count = self.values.len() as f32;
        let (a, b) = self.pairs(second, n).fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        let (a, b) = (a / count, b / count);
        normalised(self.pairs(second, n).map(|(x, y)| (x - a, y - b)))
    }

    /// How the changes from pixel to pixel, across and down, correlate with those of the second photo.
    fn correlation_of_changes(&self, second: &[f32], n: usize) -> f32 {
        normalised((1..self.height - 1).flat_map(|y| {
            (1..self.width - 1).flat_map(move |x| {
                let at = y * self.width + x;
                let to = (self.top + y) * n + self.left + x;
                let a = &self.values;
                [
                    (a[at + 1] - a[at - 1], second[to + 1] - second[to - 1]),
                    (a[at + self.width] - a[at - self.width], second[to + n] - second[to - n]),
                ]
            })
        }))
    }
}

fn normalised(pairs: impl Iterator<Item = (f32, f32)>) -> f32 {
    let (aa, ab, bb) =
        pairs.fold((0.0, 0.0, 0.0), |(aa, ab, bb), (a, b)| (aa + a * a, ab + a * b, bb + b * b));
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

/// In eight sums, so that it takes vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0; 8];
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The solution of six equations, the right side in the last column; `None` where there is none.
fn solve(mut rows: [[f64; 7]; 6]) -> Option<[f64; 6]> {
    for column in 0..6 {
        let pivot = (column..6).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()))?;
        rows.swap(column, pivot);
        let first = rows[column];
        if first[column].abs() < 1e-6 {
            return None;
        }
        for row in (0..6).filter(|&row| row != column) {
            let factor = rows[row][column] / first[column];
            for (value, above) in rows[row].iter_mut().zip(first) {
                *value -= factor * above;
            }
        }
    }
    Some(std::array::from_fn(|row| rows[row][6] / rows[row][row]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correlation_is_that_of_directions_and_0_where_one_has_none() {
        let pairs = [(1.0, 2.0), (-3.0, 0.5), (0.25, 4.0)];
        let swapped = pairs.map(|(a, b)| (b, a));
        // (2 - 1.5 + 1) / sqrt((1 + 9 + 1/16) (4 + 1/4 + 16))
        let expected = 1.5 / (10.0625f32 * 20.25).sqrt();
        for pairs in [pairs, swapped] {
            assert!((normalised(pairs.into_iter()) - expected).abs() < 1e-6);
        }
        assert_eq!(normalised(pairs.map(|(a, _)| (a, -2.0 * a)).into_iter()), -1.0);
        for none in [[(0.0, 1.0), (0.0, -2.0)], [(1.0, 0.0), (-2.0, 0.0)], [(0.0, 0.0); 2]] {
            assert_eq!(normalised(none.into_iter()), 0.0, "{none:?}");
        }
    }
}
