#!/bin/bash
@SBATCH@
# @TITLE@: a training that pauses, and does not end, at a time limit or when a rank or a node is lost.
#
#     sbatch THIS_FILE
#
# starts or continues it. The job requeues itself at each limit. Written by anemoi-house @VERSION@:
#
#     @COMMAND@
set -uo pipefail

config=@CONFIG@
overrides=(@OVERRIDES@)
export HOUSE_OUTPUT=@OUTPUT@
env_file=@ENV@
seed=@SEED@
patience=@PATIENCE@ # seconds to wait for a checkpoint once SLURM has signalled the limit
grace=@GRACE@ # seconds for the ranks to end after a signal
export PATH=@BIN@:$PATH

say() { printf '%s job %s: %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "$SLURM_JOB_ID" "$*"; }
stop() {
    say "$*" >&2
    exit 1
}

# Checkpoint from which a training would continue now; empty if there is none that is whole.
reached() { anemoi-house resume "$HOUSE_OUTPUT" 2>/dev/null | sed -n 's/^@WARM_START@=//p'; }

running() { kill -0 "$step" 2>/dev/null; }

# srun does not take over the job's CPUs per task unless this is set.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

[ -n "${SLURM_JOB_ID:-}" ] || { echo "this is a SLURM job; submit it: sbatch $0" >&2; exit 2; }
say "attempt $((${SLURM_RESTART_COUNT:-0} + 1)) on ${SLURM_JOB_NODELIST:-$(hostname)}, into $HOUSE_OUTPUT"
if [ -n "$env_file" ]; then
    [ -r "$env_file" ] || stop "--env: $env_file cannot be read. Create it, or make the script again without --env"
    set +u
    # shellcheck source=/dev/null
    . "$env_file" || stop "--env: $env_file ended with status $?"
    set -u
fi
type anemoi-house anemoi-training >/dev/null || stop "anemoi-house is missing from @BIN@. Make the script again"
mkdir -p "$HOUSE_OUTPUT" || stop "--output: $HOUSE_OUTPUT cannot be created. Make the script again with another one"

# One job at a time: the lock is released when this script ends, however it ends.
exec 9<>"$HOUSE_OUTPUT/job.lock" || stop "--output: $HOUSE_OUTPUT cannot be written"
if ! flock --wait "$grace" 9; then
    stop "--output: $HOUSE_OUTPUT is in use by job $(head -n 1 "$HOUSE_OUTPUT/job.lock"), which still runs. scancel one" \
        "of them"
fi
printf '%s\n' "$SLURM_JOB_ID" >"$HOUSE_OUTPUT/job.lock"

# One training in a folder.
command=$(printf '%q ' "$config" "${overrides[@]}")
if [ -e "$HOUSE_OUTPUT/command" ] && [ "$(cat "$HOUSE_OUTPUT/command")" != "$command" ]; then
    stop "--output: $HOUSE_OUTPUT has the training of $(cat "$HOUSE_OUTPUT/command"), but this script is for $command." \
        "Give another --output. To continue with other settings, remove $HOUSE_OUTPUT/command"
fi
printf '%s\n' "$command" >"$HOUSE_OUTPUT/command.partial" && mv "$HOUSE_OUTPUT/command.partial" "$HOUSE_OUTPUT/command"

# A requeue keeps the job's id, from which the stock training would derive the same seed again.
[ -z "$seed" ] || export ANEMOI_BASE_SEED=$seed
export ANEMOI_BASE_SEED=${ANEMOI_BASE_SEED:-$((SLURM_JOB_ID % 1000000 * 1000 + ${SLURM_RESTART_COUNT:-0}))}

near=
trap 'near=yes' USR1

where=$(anemoi-house resume "$HOUSE_OUTPUT") || stop "there is nothing to continue from"
resume=()
[ -z "$where" ] || mapfile -t resume <<<"$where"
began_at=$(reached)
anemoi-house prepare --config-name "$config" "${overrides[@]}" "${resume[@]}" || stop "nothing was started"

# --kill-on-bad-exit: if one rank dies, the others would wait for it until the limit.
srun --kill-on-bad-exit=1 "$(anemoi-house slurm2ddp)" \
    anemoi-training train --config-name="$config" "${overrides[@]}" "${resume[@]}" &
step=$!
status=0
stopped=
while running && [ -z "$near" ]; do # a signal ends wait, too
    wait "$step"
    status=$?
done

if [ -n "$near" ] && running; then
    at_signal=$(reached)
    say "the limit is near; stopping at the next checkpoint, or in $patience s"
    deadline=$((SECONDS + patience))
    while running && [ "$SECONDS" -lt "$deadline" ] && [ "$(reached)" = "$at_signal" ]; do sleep 2; done
    for signal in TERM KILL; do
        deadline=$((SECONDS + grace))
        running || break
        stopped=yes
        scancel --signal="$signal" "$SLURM_JOB_ID.0" # only the training: without a step, KILL ends the job
        while running && [ "$SECONDS" -lt "$deadline" ]; do sleep 1; done
    done
    wait "$step"
    status=$?
fi

# If a node is lost, SLURM requeues the job itself, and srun may end with 0.
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
[ "$state" = RUNNING ] || stop "SLURM ends this attempt: the job is ${state:-gone}"
# Ranks that were stopped may also end with 0.
[ "$status" -ne 0 ] || [ -n "$stopped" ] || { say "the training is finished"; exit 0; }
# torch does not report a disk that is too full for a checkpoint.
free_mib=$(($(df --output=avail -k "$HOUSE_OUTPUT" | tail -n 1) / 1024))
[ "$free_mib" -ge 100 ] || say "$free_mib MiB are free in $HOUSE_OUTPUT: too few for a checkpoint"
reached_now=$(reached)
if [ "$reached_now" = "$began_at" ]; then
    [ -z "$near" ] || stop "not requeued: no checkpoint was reached within the limit, and the next attempt would not" \
        "reach one either. Give more --time, or shorten an epoch (@LIMIT_BATCHES@=N)"
    stop "not requeued: the training ended with status $status before it reached a checkpoint; see above"
fi
say "requeued, to continue at ${reached_now##*/}"
scontrol requeue "$SLURM_JOB_ID" || stop "SLURM does not requeue the job. Continue with: sbatch the same script again"
sleep 120 # the requeue ends this script; ending by itself would end the job
