//! The training loop of every method: steps, metrics, checkpoints, resuming.

use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{EventWriter, Metrics, MetricsRow, Quantity};

use crate::checkpoint::{self, Checkpoint, Parts};
use crate::communicator::Communicator;
use crate::config::{CheckpointConfig, PhaseConfig};
use crate::metrics_file::{Keep, MetricsFile};
use crate::run_dir::{Stopped, TENSORBOARD};
use crate::{Error, Progress, Result, RunDir, RunRecord, Unit};

/// Something that learns in steps and whose whole state can be saved as bytes.
pub(crate) trait Method {
    /// Name of the phase in files.
    fn phase(&self) -> &'static str;
    /// One optimiser step. Everything random in it depends only on the seed and `step`.
    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics>;
    /// Learning rate of a step: that of the phase's schedule.
    fn learning_rate(&self, phase: &PhaseConfig, step: usize) -> f64 {
        phase.learning_rate_at(step)
    }
    /// Whether the phase ends before its last step: early stopping. Depends only on the state that
    /// [`save`](Self::save) keeps.
    fn finished(&self) -> bool {
        false
    }
    /// A few figures for the progress bar.
    fn headline(&self, metrics: &Metrics) -> String;
    /// Which part of the state has a NaN or an infinity, if any.
    fn non_finite(&self) -> Result<Option<&'static str>>;
    /// The state after a step; only what rank 0 returns is used.
    fn save(&self) -> Result<Parts>;
    /// Restores the state.
    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()>;
}

/// A method that trains policies, which can be evaluated between its steps.
pub(crate) trait PolicyMethod<B: FusedAutodiffBackend>: Method {
    /// The policies as they are now.
    fn policies(&self) -> PolicyParams<B::InnerBackend>;
    /// After so many steps policies have had a part of all that they are to learn: only from then on they are compared with
    /// each other, to stop early and to keep the best.
    fn compared_after(&self) -> usize {
        0
    }
}

/// The environment of a phase.
pub(crate) struct Fit<'a> {
    pub(crate) run: &'a RunDir,
    pub(crate) record: &'a mut RunRecord,
    pub(crate) phase: &'a PhaseConfig,
    pub(crate) checkpoints: &'a CheckpointConfig,
    pub(crate) communicator: &'a dyn Communicator,
}

impl Fit<'_> {
    /// Runs a phase from its latest checkpoint, or from the start, to the end. Returns the number
    /// of steps.
    ///
    /// A phase that is interrupted anywhere and run again leaves the same files as an uninterrupted
    /// one
    /// (except for timings in metrics).
    pub(crate) fn run(
        &mut self,
        method: &mut dyn Method,
        progress: &mut dyn Progress,
    ) -> Result<usize> {
        let (name, total) = (method.phase(), self.phase.steps);
        let communicator = self.communicator;
        let is_first = communicator.is_first();
        let (mut found, mut warnings) = match is_first {
            true => checkpoint::latest(self.run, self.record, name)?,
            false => (None, Vec::new()),
        };
        let chosen = communicator.by_first(|| Ok(found.as_ref().map(|c| c.step)))?;
        if let (false, Some(step)) = (is_first, chosen) {
            found = Some(checkpoint::of_step(self.run, self.record, name, step)?);
        }
        let mut done = 0;
        let mut keep = Keep::Before(name);
        if let Some(c) = found {
            method.load(&c)?;
            if let Some(what) = method.non_finite()? {
                return Err(self.exploded(name, &c, what));
            }
            progress.note(&format!("{name}: resuming from step {} of {total}", c.step));
            (done, keep) = (c.step, Keep::Bytes(c.metrics_len));
        }
        let mut file = None;
        if is_first {
            let (opened, more) = MetricsFile::open(self.run, keep)?;
            file = Some(opened);
            warnings.extend(more);
        }
        for warning in warnings {
            progress.note(&warning);
        }
        let mut events = if is_first { self.events(name, done, progress) } else { None };
        progress.begin(name, done as u64, total as u64, Unit::Steps);
        let mut last = String::new();
        while done < total && !method.finished() {
            let learning_rate = method.learning_rate(self.phase, done);
            let mut metrics = method.step(done, learning_rate)?;
            metrics.set(Quantity::LEARNING_RATE, learning_rate);
            if let Some((key, value)) = metrics.iter().find(|(_, value)| !value.is_finite()) {
                return Err(self.stopped(name, done, format!("`{key}`"), value));
            }
            let next = done + 1;
            let is_saved =
                next % self.checkpoints.save_steps == 0 || next == total || method.finished();
            if is_saved && let Some(what) = method.non_finite()? {
                return Err(self.stopped(name, done, what.into(), f64::NAN));
            }
            last = method.headline(&metrics);
            let row = MetricsRow { phase: name.into(), step: done, metrics };
            if let Some(file) = &mut file {
                file.append(&row)?;
            }
            if let Some(Err(e)) = events.as_mut().map(|events| events.append(&row)) {
                progress.note(&format!("warning: no more TensorBoard events are written: {e}"));
                events = None;
            }
            done = next;
            if is_saved {
                let parts = method.save()?;
                if let Some(file) = &mut file {
                    file.sync()?;
                    checkpoint::save(
                        self.run,
                        self.record,
                        name,
                        done,
                        file.len(),
                        &parts,
                        self.checkpoints.save_total_limit,
                    )?;
                }
            }
            progress.advance(1, &last);
        }
        progress.end(&last);
        // What a process did not come to that was killed after its last checkpoint.
        if is_first {
            let limit = self.checkpoints.save_total_limit;
            checkpoint::remove_old(self.run, self.record, name, limit)?;
        }
        Ok(done)
    }

    /// TensorBoard's events of a phase, where the run has a folder for them.
    fn events(&self, phase: &str, step: usize, progress: &mut dyn Progress) -> Option<EventWriter> {
        let dir = self.run.join(TENSORBOARD);
        if !dir.is_dir() {
            return None;
        }
        EventWriter::create(&dir.join(phase), step)
            .inspect_err(|e| {
                progress.note(&format!("warning: no TensorBoard events: {}: {e}", dir.display()));
            })
            .ok()
    }

    /// Records the failed step, since a resumed run would only fail there again.
    fn stopped(&mut self, phase: &str, step: usize, what: String, value: f64) -> Error {
        self.record.stopped = Some(Stopped {
            phase: phase.into(),
            step,
            what,
            value: value.to_string(),
            mopo_version: env!("CARGO_PKG_VERSION").into(),
        });
        // On a full disk this error is reported, and a resumed run fails at the step once more.
        let recorded = self.communicator.once(|| self.run.write_record(self.record));
        if let Err(e) = recorded {
            tracing::warn!("{e}");
        }
        match check_not_stopped(self.run, self.record) {
            Err(e) => e,
            Ok(()) => unreachable!("it was just recorded"),
        }
    }

    /// A checkpoint of an earlier version with weights that are not finite.
    fn exploded(&self, phase: &str, c: &Checkpoint, what: &str) -> Error {
        let before = match checkpoint::newest_until(self.run, phase, c.step.saturating_sub(1)) {
            Some((_, path)) => format!(
                "the one before it is {}: remove {} to resume from there",
                path.display(),
                c.path.display()
            ),
            None => "there is no earlier one: start a new run with a smaller learning rate".into(),
        };
        Error::corrupt(
            &c.path,
            format!("{what} is not finite, so training cannot continue from it; {before}"),
        )
    }
}

/// Refuses to resume a run at a step that this version has failed to make: everything follows from
/// the
/// configuration and the seed, so it would fail there again.
///
/// # Errors
/// [`Error::NonFinite`], as when the step failed.
pub(crate) fn check_not_stopped(run: &RunDir, record: &RunRecord) -> Result<()> {
    let Some(stopped) = &record.stopped else { return Ok(()) };
    if stopped.mopo_version != env!("CARGO_PKG_VERSION") {
        return Ok(());
    }
    let Stopped { phase, step, what, value, .. } = stopped;
    let last = match checkpoint::newest_until(run, phase, *step) {
        Some((done, path)) if done == *step => {
            format!("training cannot continue from its latest checkpoint, {}", path.display())
        }
        Some((_, path)) => format!("the last checkpoint before that step is {}", path.display()),
        None => format!("there is no checkpoint of `{phase}` before that step"),
    };
    Err(Error::NonFinite {
        phase: phase.clone(),
        step: *step,
        what: what.clone(),
        value: value.parse().unwrap_or(f64::NAN),
        state: format!(
            "This run cannot continue: every step follows from its configuration and seed, so \
             resuming it would fail here again. Start a new run; {last}."
        ),
    })
}
