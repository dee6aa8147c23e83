//! Groups of prompts with similar wording or meaning, so that a front can be examined group by
//! group.
//!
//! TF–IDF vectors of unit length, or external vectors (a model's hidden states), then k-means with
//! k-means++ seeding. Both are small enough to live here: the vectors stay sparse, and the result
//! depends
//! only on the seed and the vectors.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use mopo_report::Clusters;

use crate::{Error, Result};

/// Features of a prompt for clustering.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptEmbedding {
    /// Its words, weighted by TF–IDF: [`cluster_prompts`].
    #[default]
    TfIdf,
    /// The policy's own hidden state, averaged over the prompt's tokens: [`cluster_embedded`] with
    /// vectors from the caller, who has the model.
    HiddenState,
}

/// How prompts are clustered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Maximum number of clusters; fewer if there are fewer distinct prompts. Default 8.
    pub n_clusters: usize,
    /// Seed of the initial centres. Default 0.
    pub seed: u64,
    /// Number of initialisations; the one with the smallest inertia is kept. Default 4.
    pub n_restarts: usize,
    /// Maximum number of iterations of each. Default 100.
    pub max_iterations: usize,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { n_clusters: 8, seed: 0, n_restarts: 4, max_iterations: 100 }
    }
}

/// A sparse vector of unit length: (term, weight), terms ascending.
type Sparse = Vec<(usize, f64)>;

/// Groups `prompts` by their words: lower-cased, without the dialogue's role names and the most
/// frequent English function words, weighted by term frequency × smoothed inverse document
/// frequency. Every cluster has at least one prompt.
///
/// Complexity: O(n_restarts · iterations · k · total words). Source: Arthur and Vassilvitskii,
/// *k-means++*, 2007.
///
/// # Errors
/// [`Error::InvalidParameter`] for no prompts, or a count of 0 in `config`.
pub fn cluster_prompts(prompts: &[String], config: &ClusterConfig) -> Result<Clusters> {
    check(prompts, config)?;
    let (terms, vectors) = tf_idf(prompts);
    let (assignments, centres) = cluster(&vectors, terms.len(), config);
    Ok(largest_first(&assignments, &centres, &terms))
}

/// Groups `prompts` by `vectors`, `[n_prompts][width]`, such as hidden states: their mean is
/// subtracted,
/// and the rest is scaled to unit length. Clusters are named by the words of their prompts, as in
/// [`cluster_prompts`]. Every cluster has at least one prompt.
///
/// Complexity: O(n_restarts · iterations · k · n_prompts · width).
///
/// # Errors
/// Those of [`cluster_prompts`]; [`Error::Length`] if there is not one vector per prompt or their
/// widths
/// differ; [`Error::NonFinite`] for a vector with a NaN or an infinity.
pub fn cluster_embedded(
    prompts: &[String],
    vectors: &[Vec<f32>],
    config: &ClusterConfig,
) -> Result<Clusters> {
    check(prompts, config)?;
    let same = |field: String, found, expected, reason| {
        let wrong = Error::Length { field, found, expected, reason };
        if found == expected { Ok(()) } else { Err(wrong) }
    };
    same("vectors".into(), vectors.len(), prompts.len(), "one per prompt")?;
    let width = vectors[0].len();
    for (i, vector) in vectors.iter().enumerate() {
        same(format!("vectors[{i}]"), vector.len(), width, "as many as the first one has")?;
        if let Some(j) = vector.iter().position(|v| !v.is_finite()) {
            return Err(Error::NonFinite {
                field: format!("vectors[{i}][{j}]"),
                value: vector[j].into(),
            });
        }
    }
    let (assignments, _) = cluster(&centred(vectors), width, config);
    let (terms, words) = tf_idf(prompts);
    let n_clusters = assignments.iter().max().map_or(0, |c| c + 1);
    let mut centres = vec![vec![0.0; terms.len()]; n_clusters];
    for (vector, &c) in words.iter().zip(&assignments) {
        vector.iter().for_each(|&(t, w)| centres[c][t] += w);
    }
    Ok(largest_first(&assignments, &centres, &terms))
}

/// The vectors minus their mean, scaled to unit length; one that equals the mean becomes empty.
fn centred(vectors: &[Vec<f32>]) -> Vec<Sparse> {
    let n = vectors.len() as f64;
    let mut mean = vec![0.0_f64; vectors[0].len()];
    for vector in vectors {
        mean.iter_mut().zip(vector).for_each(|(m, &v)| *m += f64::from(v) / n);
    }
    let unit = |vector: &Vec<f32>| {
        let off: Vec<f64> = vector.iter().zip(&mean).map(|(&v, m)| f64::from(v) - m).collect();
        let norm = off.iter().map(|v| v * v).sum::<f64>().sqrt();
        // Equal vectors differ from their mean only by rounding.
        let scale = mean.iter().map(|m| m * m).sum::<f64>().sqrt();
        if norm <= 1e-9 * scale.max(f64::MIN_POSITIVE) {
            return Vec::new();
        }
        off.into_iter().enumerate().map(|(i, v)| (i, v / norm)).collect()
    };
    vectors.iter().map(unit).collect()
}

fn check(prompts: &[String], config: &ClusterConfig) -> Result<()> {
    if prompts.is_empty() {
        return Err(Error::invalid("prompts", "empty", "at least one prompt is needed"));
    }
    for (field, value) in [
        ("n_clusters", config.n_clusters),
        ("n_restarts", config.n_restarts),
        ("max_iterations", config.max_iterations),
    ] {
        if value == 0 {
            return Err(Error::invalid(field, value, "it must be at least 1"));
        }
    }
    Ok(())
}

/// The best of the restarts: the cluster of each vector, and the centres.
fn cluster(
    vectors: &[Sparse],
    width: usize,
    config: &ClusterConfig,
) -> (Vec<usize>, Vec<Vec<f64>>) {
    let distinct: BTreeSet<Vec<(usize, u64)>> =
        vectors.iter().map(|v| v.iter().map(|&(t, w)| (t, w.to_bits())).collect()).collect();
    let k = config.n_clusters.min(distinct.len());

    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let mut best: Option<(f64, Vec<usize>, Vec<Vec<f64>>)> = None;
    for _ in 0..config.n_restarts {
        let found = k_means(vectors, width, k, config.max_iterations, &mut rng);
        if best.as_ref().is_none_or(|b| found.0 < b.0) {
            best = Some(found);
        }
    }
    let (_, assignments, centres) = best.expect("n_restarts is at least 1");
    (assignments, centres)
}

fn largest_first(assignments: &[usize], centres: &[Vec<f64>], terms: &[String]) -> Clusters {
    let size = |c: usize| assignments.iter().filter(|&&a| a == c).count();
    let first = |c: usize| assignments.iter().position(|&a| a == c);
    let mut order: Vec<usize> = (0..centres.len()).collect();
    order.sort_by_key(|&c| (std::cmp::Reverse(size(c)), first(c)));
    let mut rank = vec![0; centres.len()];
    for (new, &old) in order.iter().enumerate() {
        rank[old] = new;
    }
    let label = |centre: &Vec<f64>| {
        let mut heaviest: Vec<usize> = (0..terms.len()).filter(|&t| centre[t] > 0.0).collect();
        heaviest.sort_by(|&a, &b| centre[b].total_cmp(&centre[a]).then(a.cmp(&b)));
        let top: Vec<&str> = heaviest.iter().take(3).map(|&t| terms[t].as_str()).collect();
        if top.is_empty() { "(no words)".to_owned() } else { top.join(", ") }
    };
    Clusters {
        assignments: assignments.iter().map(|&a| rank[a]).collect(),
        labels: order.iter().map(|&c| label(&centres[c])).collect(),
    }
}

const ROLES: [&str; 4] = ["human", "assistant", "user", "system"];

const FUNCTION_WORDS: &str = "a about all also am an and any are as at be been but by can could did \
    do does don for from get had has have he her him his how i if in into is it its just like ll \
    me more my no not of on one or our out re s she should so some t than that the their them \
    then there these they this those to up us ve was we were what when where which who why will \
    with would you your m d";

fn terms_of(prompt: &str) -> Vec<String> {
    let mut text = prompt.to_lowercase();
    for role in ROLES {
        text = text.replace(&format!("{role}:"), " ");
    }
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty() && !FUNCTION_WORDS.split_ascii_whitespace().any(|f| f == *w))
        .map(str::to_owned)
        .collect()
}

/// The vocabulary, sorted, and one unit vector per prompt (empty for a prompt without terms).
fn tf_idf(prompts: &[String]) -> (Vec<String>, Vec<Sparse>) {
    let counts: Vec<BTreeMap<String, f64>> = prompts
        .iter()
        .map(|prompt| {
            let mut counts = BTreeMap::new();
            for term in terms_of(prompt) {
                *counts.entry(term).or_insert(0.0) += 1.0;
            }
            counts
        })
        .collect();
    let mut n_with: BTreeMap<&str, f64> = BTreeMap::new();
    for term in counts.iter().flat_map(|c| c.keys()) {
        *n_with.entry(term).or_insert(0.0) += 1.0;
    }
    let idx: BTreeMap<&str, usize> = n_with.keys().enumerate().map(|(i, &t)| (t, i)).collect();
    let n = prompts.len() as f64;
    let vectors = counts
        .iter()
        .map(|counts| {
            let weigh = |(term, count): (&String, &f64)| {
                let idf = ((1.0 + n) / (1.0 + n_with[term.as_str()])).ln() + 1.0;
                (idx[term.as_str()], count * idf)
            };
            let mut vector: Sparse = counts.iter().map(weigh).collect();
            let norm = vector.iter().map(|(_, w)| w * w).sum::<f64>().sqrt();
            vector.iter_mut().for_each(|(_, w)| *w /= norm);
            vector
        })
        .collect();
    (n_with.keys().map(|&t| t.to_owned()).collect(), vectors)
}

/// (inertia, assignments, centres).
fn k_means(
    vectors: &[Sparse],
    n_terms: usize,
    k: usize,
    max_iterations: usize,
    rng: &mut ChaCha8Rng,
) -> (f64, Vec<usize>, Vec<Vec<f64>>) {
    let mut centres = plus_plus(vectors, n_terms, k, rng);
    let (mut assignments, mut distances) = assign(vectors, &centres);
    for _ in 0..max_iterations {
        let mut sums = vec![vec![0.0; n_terms]; k];
        let mut sizes = vec![0_usize; k];
        for (vector, &cluster) in vectors.iter().zip(&assignments) {
            sizes[cluster] += 1;
            vector.iter().for_each(|&(t, w)| sums[cluster][t] += w);
        }
        for c in 0..k {
            if sizes[c] == 0 {
                // An empty cluster restarts at the prompt that is furthest from its centre.
                let worst = (0..vectors.len())
                    .max_by(|&a, &b| distances[a].total_cmp(&distances[b]).then(b.cmp(&a)))
                    .expect("there is a prompt");
                distances[worst] = 0.0;
                centres[c] = dense(&vectors[worst], n_terms);
            } else {
                sums[c].iter_mut().for_each(|w| *w /= sizes[c] as f64);
                centres[c] = std::mem::take(&mut sums[c]);
            }
        }
        let (next, next_distances) = assign(vectors, &centres);
        let settled = next == assignments;
        (assignments, distances) = (next, next_distances);
        if settled {
            break;
        }
    }
    // A cluster that is still empty (possible at the iteration limit) is dropped.
    let used: Vec<usize> = (0..k).filter(|c| assignments.contains(c)).collect();
    let renumber = |a: &usize| used.iter().position(|u| u == a).expect("used");
    let assignments = assignments.iter().map(renumber).collect();
    let centres = used.iter().map(|&c| std::mem::take(&mut centres[c])).collect();
    (distances.iter().sum(), assignments, centres)
}

fn dense(vector: &Sparse, n_terms: usize) -> Vec<f64> {
    let mut out = vec![0.0; n_terms];
    vector.iter().for_each(|&(t, w)| out[t] = w);
    out
}

/// ‖v − c‖² from ‖c‖².
fn squared_distance(vector: &Sparse, centre: &[f64], centre_norm: f64) -> f64 {
    let own: f64 = vector.iter().map(|(_, w)| w * w).sum();
    let dot: f64 = vector.iter().map(|&(t, w)| w * centre[t]).sum();
    (own - 2.0 * dot + centre_norm).max(0.0)
}

fn assign(vectors: &[Sparse], centres: &[Vec<f64>]) -> (Vec<usize>, Vec<f64>) {
    let norms: Vec<f64> = centres.iter().map(|c| c.iter().map(|w| w * w).sum()).collect();
    vectors
        .iter()
        .map(|vector| {
            let distance = |c: usize| squared_distance(vector, &centres[c], norms[c]);
            let nearest = (0..centres.len()).map(|c| (c, distance(c)));
            nearest.min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0))).expect("k ≥ 1")
        })
        .unzip()
}

/// The first centre is uniform, each further one has a probability proportional to the squared
/// distance to the nearest centre so far.
fn plus_plus(vectors: &[Sparse], n_terms: usize, k: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let mut centres = vec![dense(&vectors[rng.random_range(0..vectors.len())], n_terms)];
    while centres.len() < k {
        let (_, distances) = assign(vectors, &centres);
        let mut left = rng.random::<f64>() * distances.iter().sum::<f64>();
        let chosen = distances.iter().position(|d| {
            left -= d;
            left < 0.0
        });
        // Rounding may leave no mass: then take the farthest.
        let chosen = chosen.unwrap_or_else(|| {
            (0..vectors.len())
                .max_by(|&a, &b| distances[a].total_cmp(&distances[b]))
                .expect("there is a prompt")
        });
        centres.push(dense(&vectors[chosen], n_terms));
    }
    centres
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts() -> Vec<String> {
        let topics = ["bake bread oven flour", "train rail station ticket", "cat dog vet fur"];
        (0..30)
            .map(|i| {
                let words: Vec<&str> = topics[i % 3].split(' ').collect();
                let (a, b) = (words[i / 3 % 4], words[(i / 3 + 1) % 4]);
                format!("\n\nHuman: What about the {a} and {b}?\n\nAssistant:")
            })
            .collect()
    }

    #[test]
    fn topics_are_found_whatever_the_seed_and_the_same_seed_gives_the_same() {
        for seed in 0..5 {
            let config = ClusterConfig { n_clusters: 3, seed, ..Default::default() };
            let clusters = cluster_prompts(&prompts(), &config).unwrap();
            for i in 0..30 {
                assert_eq!(clusters.assignments[i], clusters.assignments[i % 3], "seed {seed}");
            }
            assert_eq!(clusters.sizes(), [10, 10, 10]);
            assert_eq!(clusters, cluster_prompts(&prompts(), &config).unwrap());
            assert!(clusters.labels.iter().all(|l| l.split(", ").count() == 3));
            let label = &clusters.labels[clusters.assignments[0]];
            assert!(label.contains("bread") || label.contains("flour"), "{label}");
        }
    }

    #[test]
    fn no_more_clusters_than_distinct_prompts() {
        let same: Vec<String> = vec!["bread".into(); 5];
        let clusters = cluster_prompts(&same, &ClusterConfig::default()).unwrap();
        assert_eq!(clusters.assignments, [0; 5]);
        assert_eq!(clusters.labels, ["bread"]);
        let two: Vec<String> = vec!["bread".into(), "rail".into(), "bread".into()];
        let clusters = cluster_prompts(&two, &ClusterConfig::default()).unwrap();
        assert_eq!((clusters.assignments, clusters.labels.len()), (vec![0, 1, 0], 2));
        // Prompts with only function words are valid too.
        let empty: Vec<String> = vec!["what is it".into(), String::new()];
        let clusters = cluster_prompts(&empty, &ClusterConfig::default()).unwrap();
        assert_eq!(clusters.labels, ["(no words)"]);
    }

    #[test]
    fn vectors_from_outside_decide_and_words_name_the_clusters() {
        // Two directions on top of a large common part, against the topics' order; the length of a
        // vector has no effect.
        let prompts = prompts();
        let vectors: Vec<Vec<f32>> = (0..30)
            .map(|i| {
                let (side, length) = (if i < 12 { 1.0 } else { -1.0 }, 1.0 + (i % 4) as f32);
                vec![100.0 + side * length, 50.0 - side * length, 7.0]
            })
            .collect();
        for seed in 0..5 {
            let config = ClusterConfig { n_clusters: 2, seed, ..Default::default() };
            let clusters = cluster_embedded(&prompts, &vectors, &config).unwrap();
            let expected: Vec<usize> = (0..30).map(|i| usize::from(i < 12)).collect();
            assert_eq!(clusters.assignments, expected, "the larger one first");
            assert!(clusters.labels.iter().all(|l| l.split(", ").count() == 3));
            assert_eq!(clusters, cluster_embedded(&prompts, &vectors, &config).unwrap());
        }
        let equal = vec![vec![0.1_f32, 0.2]; 30];
        let clusters = cluster_embedded(&prompts, &equal, &ClusterConfig::default()).unwrap();
        assert_eq!(clusters.n_clusters(), 1);

        let fails = |change: &dyn Fn(&mut Vec<Vec<f32>>), part: &str| {
            let mut wrong = vectors.clone();
            change(&mut wrong);
            let e = cluster_embedded(&prompts, &wrong, &ClusterConfig::default());
            let e = e.unwrap_err().to_string();
            assert!(e.contains(part), "`{part}` is not in `{e}`");
        };
        fails(&|v| v.truncate(3), "`vectors` has 3");
        fails(&|v| v[4].truncate(1), "vectors[4]");
        fails(&|v| v[4][1] = f32::NAN, "vectors[4][1]");
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(cluster_prompts(&[], &ClusterConfig::default()).is_err());
        let config = ClusterConfig { n_clusters: 0, ..Default::default() };
        let e = cluster_prompts(&prompts(), &config).unwrap_err().to_string();
        assert!(e.contains("n_clusters"), "{e}");
    }
}
