//! Indicators of policy sets: hypervolume, IGD+ and additive epsilon of their mean scores.

use mopo_pareto::{Direction, epsilon_additive, hypervolume, igd_plus, non_dominated};

use crate::{ObjectiveStatistics, Result};

/// The indicators of one set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quality {
    /// Larger is better; in units of the raw scores.
    pub(crate) hypervolume: f64,
    /// IGD+ and additive epsilon relative to the front of all policies, in standard deviations;
    /// smaller is better. `None` without z-scores.
    pub(crate) distances: Option<[f64; 2]>,
}

/// What the sets of a comparison are judged by.
pub(crate) struct Judge<'a> {
    ref_point: &'a [f64],
    statistics: &'a [ObjectiveStatistics],
    directions: Vec<Direction>,
}

impl<'a> Judge<'a> {
    /// `ref_point` and `statistics`: one entry per objective.
    pub(crate) fn new(ref_point: &'a [f64], statistics: &'a [ObjectiveStatistics]) -> Self {
        Self { ref_point, statistics, directions: vec![Direction::Maximize; ref_point.len()] }
    }

    /// One [`Quality`] per set. `means`: `[n_policies][n_objectives]`; `sets`: indices of policies.
    pub(crate) fn judge(&self, means: &[Vec<f64>], sets: &[Vec<usize>]) -> Result<Vec<Quality>> {
        let z = self.z_scores(means);
        // The best known: the policies of the whole comparison that no other dominates. One that several sets have is one
        // point of it.
        let front: Option<Vec<&[f64]>> = z.as_ref().map(|z| {
            let mut points: Vec<&[f64]> = vec![];
            for i in non_dominated(means, &self.directions) {
                if !points.contains(&z[i].as_slice()) {
                    points.push(&z[i]);
                }
            }
            points
        });
        sets.iter()
            .map(|set| {
                let raw: Vec<&[f64]> = set.iter().map(|&p| means[p].as_slice()).collect();
                let distances = match (&z, &front) {
                    (Some(z), Some(front)) => {
                        let own: Vec<&[f64]> = set.iter().map(|&p| z[p].as_slice()).collect();
                        Some([
                            igd_plus(&own, front, &self.directions)?,
                            epsilon_additive(&own, front, &self.directions)?,
                        ])
                    }
                    _ => None,
                };
                let hypervolume = hypervolume(&raw, self.ref_point, &self.directions)?;
                Ok(Quality { hypervolume, distances })
            })
            .collect()
    }

    /// `None` if an objective has no z-scores.
    fn z_scores(&self, means: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
        let row = |row: &Vec<f64>| -> Option<Vec<f64>> {
            row.iter().zip(self.statistics).map(|(&v, s)| s.z(v)).collect()
        };
        means.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(deviations: [f64; 2]) -> Vec<ObjectiveStatistics> {
        ["a", "b"]
            .iter()
            .zip(deviations)
            .map(|(name, deviation)| ObjectiveStatistics {
                objective: (*name).into(),
                mean: 1.0,
                std: deviation,
                n: None,
                source: "test".into(),
            })
            .collect()
    }

    #[test]
    fn distances_are_counted_in_deviations_from_the_front_of_all() {
        let means = vec![vec![1.0, 5.0], vec![3.0, 1.0], vec![1.0, 1.0]];
        let sets = [vec![0, 1], vec![2]];
        let statistics = statistics([2.0, 4.0]);
        let found = Judge::new(&[0.0, 0.0], &statistics).judge(&means, &sets).unwrap();
        // The front is policies 0 and 1; policy 2 is behind either by 1 deviation in one objective.
        assert_eq!(found[0], Quality { hypervolume: 7.0, distances: Some([0.0, 0.0]) });
        assert_eq!(found[1], Quality { hypervolume: 1.0, distances: Some([1.0, 1.0]) });
    }

    #[test]
    fn a_policy_of_several_sets_is_one_point_of_the_front() {
        // The front is (1, 5) and (3, 1); the last set is 1 deviation behind the first of them, and has the second.
        let means = vec![vec![1.0, 5.0], vec![3.0, 1.0], vec![3.0, 1.0], vec![1.0, 1.0]];
        let sets = [vec![0, 1], vec![0, 2], vec![2, 3]];
        let statistics = statistics([2.0, 4.0]);
        let found = Judge::new(&[0.0, 0.0], &statistics).judge(&means, &sets).unwrap();
        assert_eq!(found[0], found[1]);
        assert_eq!(found[2].distances.unwrap()[0], 0.5);
    }

    #[test]
    fn without_a_deviation_there_are_no_distances() {
        let statistics = statistics([2.0, 0.0]);
        let found = Judge::new(&[0.0; 2], &statistics).judge(&[vec![1.0, 2.0]], &[vec![0]]);
        assert_eq!(found.unwrap()[0], Quality { hypervolume: 2.0, distances: None });
    }
}
