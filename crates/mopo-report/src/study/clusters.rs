//! The fronts of all methods cluster by cluster: the prompts of all seeds are grouped together, so that a cluster means
//! the same for each seed.

use serde::Serialize;

use super::{ClusterPrompts, Seed, Study};
use crate::bootstrap::weighted_mean;
use crate::quality::Judge;
use crate::{Clusters, Error, Result};

/// All policies on one cluster of prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyCluster {
    /// Words of its prompts.
    pub label: String,
    /// Prompts of each seed in it.
    pub n_prompts: Vec<usize>,
    /// By policy and objective: z-scores with the statistics of all prompts, the mean over the seeds that have such prompts;
    /// `None` where an objective has none.
    pub z: Vec<Vec<Option<f64>>>,
    /// By method: the hypervolume, the mean over those seeds.
    pub hypervolumes: Vec<f64>,
}

/// The clusters that a study asks for, the largest first.
pub(super) fn clusters(
    study: &Study,
    seeds: &[Seed],
    n_methods: usize,
    cluster: &ClusterPrompts<'_>,
) -> Result<Vec<StudyCluster>> {
    if study.n_clusters < 2 {
        return Ok(vec![]);
    }
    let prompts: Vec<String> = seeds.iter().flat_map(|seed| seed.prompts.iter().cloned()).collect();
    let found = cluster(&prompts, study.n_clusters)
        .map_err(|e| Error::invalid("n_clusters", study.n_clusters, e))?;
    (0..found.n_clusters()).map(|c| one(seeds, n_methods, &found, c)).collect()
}

fn one(seeds: &[Seed], n_methods: usize, found: &Clusters, c: usize) -> Result<StudyCluster> {
    let (n_policies, n_objectives) = (seeds[0].keys.len(), seeds[0].objectives.len());
    let mut n_prompts = Vec::with_capacity(seeds.len());
    let mut volumes = vec![0.0; n_methods];
    let mut z = vec![vec![Some(0.0); n_objectives]; n_policies];
    let mut start = 0;
    for seed in seeds {
        let own = &found.assignments[start..start + seed.prompts.len()];
        start += seed.prompts.len();
        let times: Vec<f64> = own.iter().map(|of| f64::from(u8::from(*of == c))).collect();
        let n = own.iter().filter(|of| **of == c).count();
        n_prompts.push(n);
        if n == 0 {
            continue;
        }
        let means: Vec<Vec<f64>> =
            seed.scores.iter().map(|policy| weighted_mean(policy, &times)).collect();
        let sets: Vec<Vec<usize>> = (0..n_methods)
            .map(|m| (0..means.len()).filter(|&p| seed.keys[p].0 == m).collect())
            .collect();
        let quality = Judge::new(&seed.ref_point, &seed.statistics).judge(&means, &sets)?;
        volumes.iter_mut().zip(&quality).for_each(|(sum, of)| *sum += of.hypervolume);
        for (sums, means) in z.iter_mut().zip(&means) {
            for ((sum, mean), statistics) in sums.iter_mut().zip(means).zip(&seed.statistics) {
                *sum = sum.zip(statistics.z(*mean)).map(|(sum, z)| sum + z);
            }
        }
    }
    let n = n_prompts.iter().filter(|n| **n > 0).count().max(1) as f64;
    volumes.iter_mut().for_each(|sum| *sum /= n);
    z.iter_mut().flatten().for_each(|sum| *sum = sum.map(|sum| sum / n));
    Ok(StudyCluster { label: found.labels[c].clone(), n_prompts, z, hypervolumes: volumes })
}
