#!/usr/bin/env bash
# One task of an array: a shard of `mopo label`, `score`, `generate` or `pareto`, or of `cargo xtask study`. submit.sh
# submits it. A shard that was killed goes on where it was: here if its process was, by --requeue if its node was.
#SBATCH --job-name=mopo
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
set -euo pipefail
# Their number is given, so that an array of some of the tasks has the same shards.
shards=${SHARDS:-$SLURM_ARRAY_TASK_COUNT}
export RAYON_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
read -ra mopo <<<"${MOPO:-mopo}"
read -ra xtask <<<"${XTASK:-cargo xtask}"

command=("${mopo[@]}")
words=()
while [[ $# -gt 0 ]]; do
    case $1 in
        study) command=("${xtask[@]}") words+=("$1") ;;
        # Each shard has a file of its own beside the result. That of pareto and study is a folder that all share.
        --out)
            case ${words[0]} in
                pareto | study) words+=("$1" "$2") ;;
                *) words+=("$1" "$2.{shard}") ;;
            esac
            shift
            ;;
        *) words+=("$1") ;;
    esac
    shift
done

for try in 1 2 3; do
    status=0
    "${command[@]}" "${words[@]}" --shard "auto/$shards" || status=$?
    # Killed by a signal: it goes on. Wrong input stays wrong.
    [[ $status -gt 128 && $try -lt 3 ]] || break
    echo "killed (status $status); once more" >&2
done
exit "$status"
