//! Preference weights spread over the simplex.

/// `n` preference weights for `n_objectives` objectives, each as far from those before it as a grid allows: first the
/// objectives themselves, then what lies between. In two objectives (1, 0), (0, 1), (½, ½), (¾, ¼), (¼, ¾), …
///
/// # Panics
/// Without objectives.
pub fn spread_weights(n: usize, n_objectives: usize) -> Vec<Vec<f64>> {
    assert!(n_objectives > 0, "weights of no objectives");
    let mut divisions = 1;
    let mut grid = simplex_grid(divisions, n_objectives);
    while grid.len() < n && n_objectives > 1 {
        divisions *= 2;
        grid = simplex_grid(divisions, n_objectives);
    }
    let mut chosen: Vec<Vec<f64>> = Vec::with_capacity(n);
    // Squared distance of every grid point to the nearest chosen one.
    let mut distance = vec![f64::INFINITY; grid.len()];
    for i in 0..n {
        let farthest = (0..grid.len()).fold(0, |best, at| match distance[at] > distance[best] {
            true => at,
            false => best,
        });
        let vertex = |j: usize| (0..n_objectives).map(|o| f64::from(u8::from(o == j))).collect();
        let next = if i < n_objectives { vertex(i) } else { grid[farthest].clone() };
        for (least, point) in distance.iter_mut().zip(&grid) {
            let square = point.iter().zip(&next).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            *least = least.min(square);
        }
        chosen.push(next);
    }
    chosen
}

/// All weights that are multiples of 1/`divisions`, the first objective's falling.
fn simplex_grid(divisions: usize, n_objectives: usize) -> Vec<Vec<f64>> {
    fn fill(left: usize, slots: usize, given: &mut Vec<usize>, out: &mut Vec<Vec<usize>>) {
        if slots == 1 {
            out.push([given.as_slice(), &[left]].concat());
            return;
        }
        for share in (0..=left).rev() {
            given.push(share);
            fill(left - share, slots - 1, given, out);
            given.pop();
        }
    }
    let mut counts = Vec::new();
    fill(divisions, n_objectives, &mut Vec::new(), &mut counts);
    let weight = |count: usize| count as f64 / divisions as f64;
    counts.into_iter().map(|row| row.into_iter().map(weight).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_come_first_and_then_what_lies_between() {
        assert_eq!(
            spread_weights(5, 2),
            [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.75, 0.25], [0.25, 0.75]]
        );
        assert_eq!(spread_weights(1, 2), [[1.0, 0.0]]);
        for (n, k) in [(3, 3), (7, 3), (20, 4), (6, 5)] {
            let weights = spread_weights(n, k);
            assert_eq!(weights.len(), n);
            for (i, of) in weights.iter().enumerate() {
                assert!((of.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{of:?}");
                assert!(!weights[..i].contains(of), "{of:?} is there twice");
                assert!(i >= k || of[i] == 1.0, "{of:?}");
            }
        }
    }
}
