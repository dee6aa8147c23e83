//! The part of the work that a scheduler's environment names.

use super::ShardIndex;
use crate::{Error, Result};

/// The variables of each scheduler, in the order in which they are looked for.
const LOOKED_FOR: &str = "SLURM_ARRAY_TASK_ID (a Slurm array), JOB_COMPLETION_INDEX (a Kubernetes Indexed Job), \
                          OMPI_COMM_WORLD_RANK with OMPI_COMM_WORLD_SIZE (mpirun), SLURM_PROCID with SLURM_NTASKS (srun)";

/// The shard of this process; `of` is the number of shards, if a person gave it.
pub(super) fn shard(
    of: Option<usize>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<ShardIndex> {
    let variables = Variables(variable);
    if let Some(id) = variables.number("SLURM_ARRAY_TASK_ID")? {
        return slurm_array(id, of, &variables);
    }
    if let Some(index) = variables.number("JOB_COMPLETION_INDEX")? {
        let Some(of) = of else {
            return wrong(format!(
                "JOB_COMPLETION_INDEX is {index}, but Kubernetes does not say how many completions the job has; pass \
                 --shard auto/N, with N as in the job's `completions`"
            ));
        };
        return ShardIndex::new(index.saturating_add(1), of).ok_or_else(|| {
            let message = format!(
                "JOB_COMPLETION_INDEX is {index}, counted from 0, but there are only {of} shards; pass --shard auto/N, \
                 with N as in the job's `completions`"
            );
            Error::Scheduler { message }
        });
    }
    for (rank, size) in
        [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")]
    {
        // In a batch script that starts no tasks the second may be missing.
        if let (Some(index), Some(n)) = (variables.number(rank)?, variables.number(size)?) {
            if of.is_some_and(|of| of != n) {
                return wrong(format!(
                    "{size} is {n}, so there are {n} shards; pass --shard auto, or start as many processes as shards"
                ));
            }
            return ShardIndex::new(index.saturating_add(1), n).ok_or_else(|| {
                let message = format!("{rank} is {index}, but {size} is {n}");
                Error::Scheduler { message }
            });
        }
    }
    wrong(format!(
        "no scheduler says which shard this is; looked for {LOOKED_FOR}. Pass --shard I/N"
    ))
}

/// With the number of shards given, the task's own number is the shard: an array of some of the tasks, submitted again,
/// then has the same shards. Without it the array is the whole of them.
fn slurm_array(id: usize, of: Option<usize>, variables: &Variables<'_>) -> Result<ShardIndex> {
    if let Some(of) = of {
        return ShardIndex::new(id, of).ok_or_else(|| {
            let message = format!(
                "SLURM_ARRAY_TASK_ID is {id}, but with --shard auto/{of} the tasks are counted from 1 to {of}; submit \
                 with --array=1-{of}"
            );
            Error::Scheduler { message }
        });
    }
    let (Some(count), Some(first)) =
        (variables.number("SLURM_ARRAY_TASK_COUNT")?, variables.number("SLURM_ARRAY_TASK_MIN")?)
    else {
        return wrong(
            "SLURM_ARRAY_TASK_ID is set, but not SLURM_ARRAY_TASK_COUNT and SLURM_ARRAY_TASK_MIN; pass --shard auto/N"
                .into(),
        );
    };
    let step = variables.number("SLURM_ARRAY_TASK_STEP")?.filter(|step| *step > 0).unwrap_or(1);
    let last = variables.number("SLURM_ARRAY_TASK_MAX")?;
    let expected = count.saturating_sub(1).checked_mul(step).and_then(|n| first.checked_add(n));
    let steps = id.checked_sub(first).filter(|steps| steps.is_multiple_of(step));
    let is_regular = last.is_none_or(|last| Some(last) == expected);
    let shard = steps.filter(|_| is_regular).and_then(|n| ShardIndex::new(n / step + 1, count));
    shard.ok_or_else(|| {
        let message = format!(
            "SLURM_ARRAY_TASK_ID is {id} in an array of {count} from {first} in steps of {step}{}, which is no regular \
             array of all shards; submit with --array=1-N and pass --shard auto/N",
            last.map_or(String::new(), |last| format!(" to {last}"))
        );
        Error::Scheduler { message }
    })
}

fn wrong<T>(message: String) -> Result<T> {
    Err(Error::Scheduler { message })
}

/// An environment.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    /// A whole number; `None` if the variable is not set or empty.
    fn number(&self, name: &str) -> Result<Option<usize>> {
        let Some(text) = (self.0)(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| Error::Scheduler {
            message: format!("{name} is `{text}`, which is not a whole number; pass --shard I/N"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(of: Option<usize>, environment: &str) -> std::result::Result<String, String> {
        let pairs: Vec<(&str, &str)> =
            environment.split_whitespace().map(|pair| pair.split_once('=').unwrap()).collect();
        let variable = |name: &str| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_string())
        };
        shard(of, &variable).map(|shard| shard.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn each_scheduler_names_its_shards() {
        let slurm = "SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_MIN=1 \
                     SLURM_ARRAY_TASK_STEP=3 SLURM_ARRAY_TASK_MAX=7";
        let from_0 = "SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_COUNT=8 SLURM_ARRAY_TASK_MIN=0 \
                      SLURM_ARRAY_TASK_MAX=7";
        for (of, environment, expected) in [
            (None, slurm, "3/3"),
            (Some(9), slurm, "7/9"),
            (None, from_0, "1/8"),
            // Some of the tasks, submitted again.
            (
                Some(8),
                "SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_COUNT=1 SLURM_ARRAY_TASK_MIN=3",
                "3/8",
            ),
            (Some(4), "JOB_COMPLETION_INDEX=0", "1/4"),
            (Some(4), "JOB_COMPLETION_INDEX=3", "4/4"),
            (None, "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2", "2/2"),
            (Some(2), "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2", "2/2"),
            (None, "SLURM_PROCID=0 SLURM_NTASKS=5", "1/5"),
            // mpirun in a job of Slurm; an array has the last word.
            (
                None,
                "SLURM_PROCID=0 SLURM_NTASKS=5 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2",
                "2/2",
            ),
            (
                None,
                "SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_COUNT=2 \
                 SLURM_ARRAY_TASK_MIN=1",
                "2/2",
            ),
        ] {
            assert_eq!(found(of, environment).as_deref(), Ok(expected), "{environment}");
        }
    }

    #[test]
    fn what_names_no_shard_is_said_with_its_variables() {
        for (of, environment, expected) in [
            (
                None,
                "",
                &[
                    "SLURM_ARRAY_TASK_ID",
                    "JOB_COMPLETION_INDEX",
                    "OMPI_COMM_WORLD_RANK",
                    "SLURM_PROCID",
                ][..],
            ),
            (Some(3), "SLURM_PROCID=0", &["SLURM_ARRAY_TASK_ID", "--shard I/N"]),
            (
                None,
                "JOB_COMPLETION_INDEX=3",
                &["JOB_COMPLETION_INDEX is 3", "auto/N", "completions"],
            ),
            (Some(3), "JOB_COMPLETION_INDEX=3", &["JOB_COMPLETION_INDEX is 3", "only 3 shards"]),
            (Some(8), "SLURM_ARRAY_TASK_ID=0", &["SLURM_ARRAY_TASK_ID is 0", "--array=1-8"]),
            (None, "SLURM_ARRAY_TASK_ID=1", &["SLURM_ARRAY_TASK_COUNT", "auto/N"]),
            (None, "SLURM_ARRAY_TASK_ID=x", &["SLURM_ARRAY_TASK_ID is `x`"]),
            // --array=1,2,9
            (
                None,
                "SLURM_ARRAY_TASK_ID=9 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=9",
                &["no regular array", "auto/N"],
            ),
            (
                Some(4),
                "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2",
                &["OMPI_COMM_WORLD_SIZE is 2", "--shard auto"],
            ),
            (None, "OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=2", &["OMPI_COMM_WORLD_RANK is 5"]),
        ] {
            let error = found(of, environment).unwrap_err();
            for words in expected {
                assert!(error.contains(words), "{environment}: `{words}` is not in: {error}");
            }
        }
    }
}
