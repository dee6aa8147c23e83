#!/usr/bin/env bash
# Puts the shards of an array together: submit.sh submits it with the words of the array.
#SBATCH --job-name=mopo-merge
#SBATCH --output=%x-%j.log
set -euo pipefail
read -ra mopo <<<"${MOPO:-mopo}"
read -ra xtask <<<"${XTASK:-cargo xtask}"

case $1 in
    study) exec "${xtask[@]}" "$@" --merge ;;
    pareto) exec "${mopo[@]}" "$@" --merge ;;
esac
out=
for ((i = 1; i < $#; i++)); do
    next=$((i + 1))
    if [[ ${!i} == --out ]]; then out=${!next}; fi
done
if [[ -z $out ]]; then
    echo "merge.sh: there is no --out among: $*" >&2
    exit 2
fi
parts=()
for ((i = 1; i <= SHARDS; i++)); do
    parts+=("$out.$i-of-$SHARDS")
done
case $1 in
    # Its shards have the pairs with them.
    label) "${mopo[@]}" label --merge "${parts[@]}" --out "$out" ;;
    *) "${mopo[@]}" "$@" --merge "${parts[@]}" ;;
esac
rm -- "${parts[@]}"
