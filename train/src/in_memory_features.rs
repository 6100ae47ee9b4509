//! Precomputed features in memory.

use crate::feature_file::FeatureTable;

/// A matrix of features, `[N, F]`, that permutes its rows in place to make a subset contiguous, because a
/// copy would hold the features twice. A row keeps its number, its index in the feature file; its position in
/// memory changes.
pub(crate) struct InMemoryFeatures {
    pub(crate) values: Vec<f32>,
    pub(crate) width: usize,
    /// The position of each row in `values`.
    position_of_row: Vec<usize>,
    /// The row at each position, the inverse of `position_of_row`.
    row_at_position: Vec<usize>,
}

impl InMemoryFeatures {
    /// Takes over the values of a feature file.
    pub(crate) fn new(FeatureTable { values, width }: FeatureTable) -> Self {
        let rows: Vec<usize> = (0..values.len() / width).collect();
        Self { values, width, position_of_row: rows.clone(), row_at_position: rows }
    }

    /// The current position of a row in [`values`](Self::values).
    pub(crate) fn position(&self, row: usize) -> usize {
        self.position_of_row[row]
    }

    /// The features of a row, `[F]`.
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.values[self.position_of_row[row] * self.width..][..self.width]
    }

    /// Moves `rows` (without repetition) to the front in this order and returns them, `[rows.len(), F]`, so
    /// that a head can be fitted on them without a copy.
    pub(crate) fn gather_to_front(&mut self, rows: &[usize]) -> &[f32] {
        let width = self.width;
        for (position, &row) in rows.iter().enumerate() {
            let other_position = self.position_of_row[row];
            if position == other_position {
                continue;
            }
            let ranges = [position, other_position].map(|position| position * width..(position + 1) * width);
            let [values, other_values] = self.values.get_disjoint_mut(ranges).expect("two different rows");
            values.swap_with_slice(other_values);
            self.position_of_row[row] = position;
            self.position_of_row[self.row_at_position[position]] = other_position;
            self.row_at_position.swap(position, other_position);
        }
        &self.values[..rows.len() * width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_values_however_often_they_are_gathered() {
        let values: Vec<f32> = (0..14).map(|value| value as f32).collect();
        let mut features = InMemoryFeatures::new(FeatureTable { values, width: 2 });
        for rows in [vec![3, 1, 6], vec![0], vec![6, 5, 4, 3, 2, 1, 0], vec![], vec![2, 0, 5, 1]] {
            let expected: Vec<f32> =
                rows.iter().flat_map(|&row| [2.0 * row as f32, 2.0 * row as f32 + 1.0]).collect();
            assert_eq!(features.gather_to_front(&rows), expected, "{rows:?}");
            for row in 0..7 {
                assert_eq!(features.row(row)[1], 2.0 * row as f32 + 1.0, "{row} after {rows:?}");
                assert_eq!(features.values[2 * features.position(row)], features.row(row)[0]);
            }
        }
    }
}
