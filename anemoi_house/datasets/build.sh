#!/bin/bash
# Builds a dataset in parallel with SLURM. In an environment with anemoi-house:
#
#     bash build.sh
#
# writes the recipe and the empty dataset next to this script unless they exist, and submits jobs that load one part
# each, followed by one that finishes the dataset. If a job fails, run it again: loaded dates are kept.
# Set the account, partition and the like with sbatch's variables (SBATCH_ACCOUNT, SBATCH_PARTITION), or in lines here.
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
        echo "$name: jobs of this name already exist. See squeue --me." >&2
        exit 1
    fi
    [ -e "$recipe" ] || write_recipe
    if [ ! -e "$dataset" ]; then
        # Under another name, so that an existing dataset is always ready to be loaded.
        anemoi-datasets init "$recipe" "${dataset%.zarr}.init.zarr" --overwrite
        rm -f "${dataset%.zarr}.init.zarr.lock"
        mv "${dataset%.zarr}.init.zarr" "$dataset"
    else
        # Prints what is still to be loaded, or that the dataset is finished.
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
    # Stops here unless all dates are loaded: the stock command would leave the others as NaN.
    anemoi-house missing "$dataset"
    # The stock command fails on parts' statistics if dates are missing; without them, it reads the data.
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
