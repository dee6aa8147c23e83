//! Non-dominated sorting: a set of points in layers.

use crate::points::{Descending, index, index_bits, order_key, sort_packed};
use crate::staircase::Staircase;
use crate::{Direction, dominators};

/// The columns of the grid for three objectives.
const COLUMNS: usize = 64;

/// Maximum number of points for that grid: with more, its columns have too many and staircases are
/// faster.
const GRID: usize = 4096;

/// The points in layers: layer 0 is [`non_dominated`](super::non_dominated), layer 1 is what is
/// non-dominated without layer 0, and so on. Indices ascend within a layer; every index
/// is in exactly one. Equal points are in the same layer, points with a NaN in layer 0.
///
/// Complexity for n points in L layers and K objectives: O(n log n) for K ≤ 2; O(n log² n)
/// comparisons for K = 3 (up to 4096 points on a grid of 64 columns: O(n log n + n²/64) of them);
/// O(K n log n + (K + log L) n²/64) beyond, on bit sets. Source: Jensen, *Reducing the Run-Time
/// Complexity of Multiobjective EAs* (2003), for K = 2; Zhang, Tian, Cheng and Jin, *An Efficient
/// Approach to Nondominated Sorting* (2015), for the search over layers.
///
/// ```
/// use mopo_pareto::{Direction::Maximize, non_dominated_sort};
///
/// let points = [[2.0, 1.0], [1.0, 1.0], [1.0, 2.0]];
/// assert_eq!(non_dominated_sort(&points, &[Maximize; 2]), [vec![0, 2], vec![1]]);
/// ```
///
/// # Panics
/// If a point and `directions` differ in length.
pub fn non_dominated_sort<P: AsRef<[f64]>>(
    points: &[P],
    directions: &[Direction],
) -> Vec<Vec<usize>> {
    let sorted = Descending::new(points, directions);
    let by_row = match directions.len() {
        0..=2 => numbers_in_two(&sorted),
        3 if sorted.len() <= GRID => numbers_on_grid(&sorted),
        3 => numbers_in_three(&sorted),
        _ => numbers_by_sets(&sorted),
    };
    let mut numbers = vec![0; points.len()]; // 0 for those with a NaN
    for (&idx, number) in sorted.indices.iter().zip(by_row) {
        numbers[idx as usize] = number;
    }
    let n_layers = numbers.iter().max().map_or(0, |&last| last + 1);
    let mut sizes = vec![0; n_layers];
    numbers.iter().for_each(|&number| sizes[number] += 1);
    let mut layers: Vec<Vec<usize>> = sizes.into_iter().map(Vec::with_capacity).collect();
    for (i, &number) in numbers.iter().enumerate() {
        layers[number].push(i);
    }
    layers
}

/// The layer of each row, for two objectives or fewer. The order of the rows decides the first one,
/// so a layer is described by the best value of the second one. With one objective all values in a
/// layer are equal.
fn numbers_in_two(sorted: &Descending) -> Vec<usize> {
    let mut layers: Vec<u64> = Vec::new(); // descends
    numbers(sorted, |_, row| {
        let second = row.get(1).map_or(0, |&v| order_key(v));
        let number = layers.partition_point(|&best| best >= second);
        match layers.get_mut(number) {
            Some(best) => *best = second,
            None => layers.push(second),
        }
        number
    })
}

/// For three objectives: a layer is the staircase of the second and third objectives.
fn numbers_in_three(sorted: &Descending) -> Vec<usize> {
    let mut layers: Vec<Staircase> = Vec::new();
    numbers(sorted, |_, row| {
        // A point dominated in one layer is dominated in all earlier ones.
        let number = layers.partition_point(|stairs| stairs.covers(row[1], row[2]));
        if number == layers.len() {
            layers.push(Staircase::default());
        }
        layers[number].insert(row[1], row[2]);
        number
    })
}

/// For three objectives and no more points than [`GRID`]. Points are in the order of the second
/// objective, which is divided into columns. The points that are at least as good in it are whole
/// columns, of which each layer keeps the best third objective, and a part of the row's own column,
/// which is scanned.
fn numbers_on_grid(sorted: &Descending) -> Vec<usize> {
    let n = sorted.len();
    let index_bits = index_bits(n);
    let second = |i: u32| !order_key(sorted.row(i as usize)[1]);
    let mut order: Vec<u64> =
        (0..n).map(index).map(|i| second(i) & !index_bits | u64::from(i)).collect();
    // In a tie, an earlier row is as good as a later one, but not vice versa.
    sort_packed(&mut order, index_bits, |a, b| second(a).cmp(&second(b)).then(a.cmp(&b)));
    let mut places = vec![0; n];
    for (place, packed) in order.iter().enumerate() {
        places[(packed & index_bits) as usize] = place;
    }
    let width = n.div_ceil(COLUMNS).max(1);
    // For each place the third objective, and the number of the layer after that of its row. No
    // number has the key 0.
    let mut placed = vec![(0, 0); n];
    // For each layer, the best third objective in each column and those before it.
    let mut layers: Vec<[u64; COLUMNS]> = Vec::new();
    numbers(sorted, |i, row| {
        let (place, third) = (places[i], order_key(row[2]));
        let column = place / width;
        let mut number = 0;
        if column > 0 {
            number = layers.partition_point(|bests| bests[column - 1] >= third);
        }
        for &(best, next) in &placed[column * width..place] {
            number = number.max(if best >= third { next } else { 0 });
        }
        if number == layers.len() {
            layers.push([0; COLUMNS]);
        }
        for best in layers[number][column..].iter_mut().take_while(|best| **best < third) {
            *best = third;
        }
        placed[place] = (third, number + 1);
        number
    })
}

/// The layer of each row, where `number_of` gives it for a row that equals no earlier one.
fn numbers(sorted: &Descending, mut number_of: impl FnMut(usize, &[f64]) -> usize) -> Vec<usize> {
    let mut numbers = Vec::with_capacity(sorted.len());
    let mut number = 0;
    for i in 0..sorted.len() {
        if !sorted.repeats(i) {
            number = number_of(i, sorted.row(i));
        }
        numbers.push(number);
    }
    numbers
}

/// The same from bit sets of dominating rows: a row is below the last layer that has one of them.
fn numbers_by_sets(sorted: &Descending) -> Vec<usize> {
    let n_words = sorted.len().div_ceil(64);
    let mut layers: Vec<Vec<u64>> = Vec::new();
    let mut numbers: Vec<usize> = Vec::with_capacity(sorted.len());
    dominators::visit(sorted, |i, set| {
        let number = if sorted.repeats(i) {
            numbers[i - 1]
        } else {
            layers.partition_point(|layer| layer.iter().zip(set).any(|(a, b)| a & b != 0))
        };
        if number == layers.len() {
            layers.push(vec![0; n_words]);
        }
        layers[number][i / 64] |= 1 << (i % 64);
        numbers.push(number);
    });
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Direction::{Maximize, Minimize};
    use crate::non_dominated;
    use proptest::prelude::*;

    #[test]
    fn layers_peel_off_one_front_after_another() {
        let d = [Maximize, Maximize];
        let points = [[0.0, 0.0], [1.0, 1.0], [2.0, 1.0], [1.0, 2.0], [0.0, 0.0]];
        assert_eq!(non_dominated_sort(&points, &d), [vec![2, 3], vec![1], vec![0, 4]]);
    }

    #[test]
    fn points_with_a_nan_are_in_the_first_layer() {
        let points = [[2.0, 2.0], [f64::NAN, 0.0], [1.0, 1.0], [0.0, f64::NAN]];
        assert_eq!(non_dominated_sort(&points, &[Maximize; 2]), [vec![0, 1, 3], vec![2]]);
        assert_eq!(non_dominated_sort(&[[f64::NAN]], &[Maximize]), [vec![0]]);
        assert!(non_dominated_sort::<[f64; 2]>(&[], &[Maximize; 2]).is_empty());
    }

    proptest! {
        /// Several points to a column, ties, copies, negative zeros and infinities.
        #[test]
        fn a_grid_gives_what_staircases_give(
            (largest, points) in (1_i16..200).prop_flat_map(|largest| {
                let point = prop::array::uniform3(-1..=largest);
                (Just(largest), prop::collection::vec(point, 0..500))
            }),
        ) {
            let value = |v: i16| match v {
                -1 => f64::NEG_INFINITY,
                0 => -0.0,
                v if v == largest => f64::INFINITY,
                v => f64::from(v / 2),
            };
            let points: Vec<[f64; 3]> = points.iter().map(|p| p.map(value)).collect();
            let sorted = Descending::new(&points, &[Maximize, Minimize, Maximize]);
            prop_assert_eq!(numbers_on_grid(&sorted), numbers_in_three(&sorted));
        }

        #[test]
        fn sort_is_repeated_peeling(
            points in (0_usize..=5).prop_flat_map(|k| {
                prop::collection::vec(prop::collection::vec(0_i8..5, k), 0..40)
            }),
            minimised in prop::collection::vec(any::<bool>(), 5),
        ) {
            let k = points.first().map_or(3, Vec::len);
            let d: Vec<_> =
                minimised[..k].iter().map(|&m| if m { Minimize } else { Maximize }).collect();
            let points: Vec<Vec<f64>> =
                points.iter().map(|p| p.iter().map(|&v| f64::from(v)).collect()).collect();
            let mut left: Vec<usize> = (0..points.len()).collect();
            for layer in non_dominated_sort(&points, &d) {
                let rest: Vec<&Vec<f64>> = left.iter().map(|&i| &points[i]).collect();
                let expected: Vec<usize> =
                    non_dominated(&rest, &d).into_iter().map(|j| left[j]).collect();
                prop_assert_eq!(&layer, &expected);
                left.retain(|i| !layer.contains(i));
            }
            prop_assert!(left.is_empty());
        }
    }
}
