#!/usr/bin/env bash
# Trains one run with as many processes as the job has tasks:
#
#     sbatch --nodes=2 --ntasks-per-node=4 --cpus-per-task=8 deploy/slurm/train.sh runs/mine demo --seed 1
#
# The first word is the run's directory; the others are arguments of `mopo train`, which must be built with the feature
# `mpi`. When a process dies the step ends and is started again in the allocation, from the latest checkpoint; when a node
# dies Slurm puts the job back into the queue, and it continues from there too.
#SBATCH --job-name=mopo-train
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
if [[ $# -lt 1 ]]; then
    echo "usage: sbatch train.sh RUN [ARGUMENTS OF mopo train]" >&2
    exit 2
fi
run=$1
shift
export RAYON_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
read -ra mopo <<<"${MOPO:-mopo}"

tries=0
until
    if [[ -e $run/run.json ]]; then
        arguments=(--resume "$run")
    else
        arguments=("$@" --out "$run")
    fi
    srun --mpi="${MPI:-pmix}" --kill-on-bad-exit=1 "${mopo[@]}" train "${arguments[@]}"
do
    tries=$((tries + 1))
    if [[ $tries -ge ${TRIES:-5} ]]; then
        echo "training failed $tries times" >&2
        exit 1
    fi
    echo "the step has failed; once more" >&2
    # Slurm needs a moment until the processes of the step that died are gone.
    sleep "${WAIT:-5}"
done
