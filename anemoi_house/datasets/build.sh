#!/bin/bash
# Builds a dataset as jobs of SLURM. In the environment that has anemoi-house:
#
#     bash build.sh
#
# makes what is not there yet, beside this script: the recipe and the empty dataset; and submits the jobs that load the
# parts of it, and one that finishes it after them. Where a job fails, start it again: what was loaded stays.
# Account, partition and the like are sbatch's: its variables (SBATCH_ACCOUNT, SBATCH_PARTITION), or lines here.
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
@SBATCH@
set -euo pipefail

parts=@PARTS@
recipe=@RECIPE@
dataset=@DATASET@
name=$(basename "$dataset" .zarr)

submit() {
    cd "$(dirname "$0")"
    script=./$(basename "$0")
    type sbatch squeue anemoi-datasets anemoi-house >/dev/null
    if [ -n "$(squeue --me --noheader --name="$name")" ]; then
        echo "$name: there are jobs of this name already; see squeue --me" >&2
        exit 1
    fi
    [ -e "$recipe" ] || write_recipe
    if [ ! -e "$dataset" ]; then
        # Under another name, so that a dataset that is there is one to load into.
        anemoi-datasets init "$recipe" "${dataset%.zarr}.init.zarr" --overwrite
        rm -f "${dataset%.zarr}.init.zarr.lock"
        mv "${dataset%.zarr}.init.zarr" "$dataset"
    else
        # Says what is left to load, or that the dataset is finished.
        anemoi-house missing "$dataset" || [ -e "$dataset/_build" ] || exit 0
    fi
    load=$(sbatch --parsable --job-name="$name" --output="$name-%A_%a.log" --array="1-$parts" "$script" load)
    load=${load%%;*}
    end=$(sbatch --parsable --job-name="$name" --output="$name-%j.log" --dependency="afterok:$load" \
        --kill-on-invalid-dep=yes "$script" finalise)
    echo "$dataset: job $load loads it in $parts parts, job ${end%%;*} finishes it"
}

load() {
    anemoi-datasets load "$dataset" --parts "$SLURM_ARRAY_TASK_ID/$parts"
}

finalise() {
    # The stock command would finish a dataset that is not loaded, too, and leave NaN in it.
    anemoi-house missing "$dataset"
    # The parts' statistics do not count missing dates, and the stock command then fails; without them it reads the data.
    rm -f "$dataset".work_dir/statistics_*.pkl
    anemoi-datasets finalise "$dataset"
}

write_recipe() {
    cat >"$recipe.partial" <<'RECIPE'
@TEXT@
RECIPE
    mv "$recipe.partial" "$recipe"
}

case "${1:-submit}" in
    submit | load | finalise) "${1:-submit}" ;;
    *)
        echo "usage: bash $0" >&2
        exit 2
        ;;
esac
