//! The one loop that serves every method: steps, metrics, checkpoints, resuming.

use std::collections::BTreeMap;

use crate::checkpoint::{self, Checkpoint, Parts};
use crate::config::{CheckpointConfig, PhaseConfig};
use crate::run_dir::MetricsFile;
use crate::{Error, Progress, Result, RunDir};

/// What a step reports: names are paths such as `helpful/lambda/harmless`. Values are finite.
pub type Metrics = BTreeMap<String, f64>;

/// Something that learns in steps and whose whole state can be put into bytes.
pub(crate) trait Method {
    /// Names the phase in files.
    fn phase(&self) -> &'static str;
    /// One optimiser step. Everything random in it follows from the seed and `step`.
    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics>;
    /// Whether the phase ends here, before its last step: early stopping. A function of the state
    /// that [`save`](Self::save) keeps.
    fn finished(&self) -> bool {
        false
    }
    /// A few figures for the progress bar.
    fn headline(&self, metrics: &Metrics) -> String;
    /// The state after a step.
    fn save(&self) -> Result<Parts>;
    /// Puts the state back.
    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()>;
}

/// Runs a phase from its newest checkpoint, or from the start, to the end.
///
/// A phase that is cut off anywhere and run again leaves the same files as one that was not
/// (timings in metrics aside).
pub(crate) fn fit(
    method: &mut dyn Method,
    run: &RunDir,
    phase: &PhaseConfig,
    checkpoints: &CheckpointConfig,
    metrics_start: u64,
    progress: &mut dyn Progress,
) -> Result<u64> {
    let name = method.phase();
    let (mut done, metrics_len) = match checkpoint::latest(run, name)? {
        Some(c) => {
            method.load(&c)?;
            progress.note(&format!("{name}: going on from step {} of {}", c.step, phase.steps));
            (c.step, c.metrics_len)
        }
        None => (0, metrics_start),
    };
    let mut file = MetricsFile::open(run, metrics_len)?;
    progress.begin(name, done, phase.steps);
    let mut last = String::new();
    while done < phase.steps && !method.finished() {
        let learning_rate = phase.learning_rate_at(done);
        let mut metrics = method.step(done, learning_rate)?;
        metrics.insert("learning_rate".into(), learning_rate);
        if let Some((what, value)) = metrics.iter().find(|(_, v)| !v.is_finite()) {
            return Err(Error::NonFinite {
                phase: name.into(),
                step: done,
                what: format!("`{what}`"),
                value: *value,
                state: checkpoint::describe(run, name),
            });
        }
        last = method.headline(&metrics);
        file.append(&Row { phase: name, step: done, metrics: &metrics })?;
        done += 1;
        if done % checkpoints.save_steps == 0 || done == phase.steps || method.finished() {
            file.sync()?;
            checkpoint::save(
                run,
                name,
                done,
                file.len(),
                &method.save()?,
                checkpoints.save_total_limit,
            )?;
        }
        progress.advance(&last);
    }
    progress.end(&last);
    Ok(file.len())
}

#[derive(serde::Serialize)]
struct Row<'a> {
    phase: &'a str,
    step: usize,
    #[serde(flatten)]
    metrics: &'a Metrics,
}

/// The seed of one step: the same in a resumed run, different for every step and phase.
pub(crate) fn step_seed(seed: u64, phase: &str, step: usize) -> u64 {
    // FNV-1a over the parts, then the finaliser of SplitMix64.
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    let step = (step as u64).to_le_bytes();
    for byte in seed.to_le_bytes().iter().chain(phase.as_bytes()).chain(&step) {
        h = (h ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// Where a step stands in the data: the batches of `(epoch, index)` in turn.
pub(crate) struct BatchOrder {
    lengths: Vec<usize>,
    batch_size: usize,
    /// None: in file order, every epoch the same.
    seed: Option<u64>,
    cached: Option<(u64, Vec<Vec<usize>>)>,
}

impl BatchOrder {
    /// `lengths` are those of the rows, by which they are bucketed; there must be at least one.
    pub(crate) fn new(lengths: Vec<usize>, batch_size: usize, seed: u64) -> Self {
        Self { lengths, batch_size, seed: Some(seed), cached: None }
    }

    /// The rows in file order, for measurements that others repeat on the same batches.
    pub(crate) fn in_file_order(n_rows: usize, batch_size: usize) -> Self {
        Self { lengths: vec![0; n_rows], batch_size, seed: None, cached: None }
    }

    /// The rows of batch number `n` since the start of training.
    pub(crate) fn batch(&mut self, n: usize) -> Vec<usize> {
        let per_epoch = self.lengths.len().div_ceil(self.batch_size);
        let epoch = (n / per_epoch) as u64;
        if self.cached.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let batches = match self.seed {
                Some(seed) => {
                    mopo_data::bucketed_batches(&self.lengths, self.batch_size, seed, epoch)
                }
                None => {
                    let rows: Vec<usize> = (0..self.lengths.len()).collect();
                    rows.chunks(self.batch_size).map(<[usize]>::to_vec).collect()
                }
            };
            self.cached = Some((epoch, batches));
        }
        let (_, batches) = self.cached.as_ref().expect("just filled");
        batches[n % per_epoch].clone()
    }
}
