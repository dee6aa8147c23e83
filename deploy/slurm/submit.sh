#!/usr/bin/env bash
# Submits a command as an array of shards, and the job that merges them once all are done:
#
#     submit.sh 8 label pairs.jsonl --rewards rewards.toml --out labelled.jsonl
#     submit.sh 8 score texts.jsonl --reward hh-helpful --out scores.jsonl
#     submit.sh 8 generate RUN --prompts prompts.jsonl --out answers.jsonl
#     submit.sh 8 pareto RUN
#     submit.sh 8 study demo --out runs/study-demo
#
# SBATCH_OPTIONS has more options of sbatch for the array, for instance "--cpus-per-task=16 --time=4:00:00"; MOPO and
# XTASK name the programs. Tasks that failed for good are submitted again alone:
#
#     SHARDS=8 sbatch --array=3,7 deploy/slurm/array.sh label …
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
export SHARDS=$1
shift
# shellcheck disable=SC2206 # several options
options=(${SBATCH_OPTIONS:-})
array=$(sbatch --parsable --export=ALL --array="1-$SHARDS" --job-name="mopo-$1" \
    ${options[@]+"${options[@]}"} "$here/array.sh" "$@")
merge=$(sbatch --parsable --export=ALL --dependency="afterok:${array%%;*}" --kill-on-invalid-dep=yes \
    --job-name="mopo-$1-merge" "$here/merge.sh" "$@")
printf 'array %s of %s shards, then merge %s\n' "$array" "$SHARDS" "$merge"
