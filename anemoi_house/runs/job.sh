#!/bin/bash
@SBATCH@
# @TITLE@: a training that a time limit, a lost rank or a lost node pauses, and does not end.
#
#     sbatch THIS_FILE
#
# begins it, or goes on with it; so does the job itself, requeued at each limit. Written by anemoi-house @VERSION@:
#
#     @COMMAND@
set -uo pipefail

config=@CONFIG@
overrides=(@OVERRIDES@)
export HOUSE_OUTPUT=@OUTPUT@
env_file=@ENV@
seed=@SEED@
patience=@PATIENCE@ # seconds that a checkpoint is waited for, once SLURM has said that the limit is near
grace=@GRACE@ # seconds that the ranks have to end themselves
export PATH=@BIN@:$PATH

say() { printf '%s job %s: %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "$SLURM_JOB_ID" "$*"; }
stop() {
    say "$*" >&2
    exit 1
}

# Where a training would go on now: a checkpoint that is whole; empty where there is none.
reached() { anemoi-house resume "$HOUSE_OUTPUT" 2>/dev/null | sed -n 's/^system\.input\.warm_start=//p'; }

running() { kill -0 "$step" 2>/dev/null; }

# A step knows its tasks' processors only by this variable.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

[ -n "${SLURM_JOB_ID:-}" ] || { echo "this is a job of SLURM: sbatch $0" >&2; exit 2; }
say "attempt $((${SLURM_RESTART_COUNT:-0} + 1)) on ${SLURM_JOB_NODELIST:-$(hostname)}, into $HOUSE_OUTPUT"
if [ -n "$env_file" ]; then
    [ -r "$env_file" ] || stop "--env: $env_file cannot be read; write it, or make the script anew without --env"
    set +u
    # shellcheck source=/dev/null
    . "$env_file" || stop "--env: $env_file ended with status $?"
    set -u
fi
type anemoi-house anemoi-training >/dev/null || stop "anemoi-house is gone from @BIN@; make the script anew"
mkdir -p "$HOUSE_OUTPUT" || stop "--output: $HOUSE_OUTPUT cannot be made; make the script anew with another one"

# One job at a time: the lock is let go when this script ends, however it ends.
exec 9<>"$HOUSE_OUTPUT/job.lock" || stop "--output: $HOUSE_OUTPUT cannot be written to"
if ! flock --wait "$grace" 9; then
    stop "--output: $HOUSE_OUTPUT is job $(head -n 1 "$HOUSE_OUTPUT/job.lock")'s, which still runs; scancel one of them"
fi
printf '%s\n' "$SLURM_JOB_ID" >"$HOUSE_OUTPUT/job.lock"

# One training in a folder.
command=$(printf '%q ' "$config" "${overrides[@]}")
if [ -e "$HOUSE_OUTPUT/command" ] && [ "$(cat "$HOUSE_OUTPUT/command")" != "$command" ]; then
    stop "--output: $HOUSE_OUTPUT has the training of $(cat "$HOUSE_OUTPUT/command"), and this script is for $command." \
        "Give another --output; or, to go on with other settings, remove $HOUSE_OUTPUT/command"
fi
printf '%s\n' "$command" >"$HOUSE_OUTPUT/command.partial" && mv "$HOUSE_OUTPUT/command.partial" "$HOUSE_OUTPUT/command"

# A requeue keeps the job's id, from which the stock training would take the same seed again.
[ -z "$seed" ] || export ANEMOI_BASE_SEED=$seed
export ANEMOI_BASE_SEED=${ANEMOI_BASE_SEED:-$((SLURM_JOB_ID % 1000000 * 1000 + ${SLURM_RESTART_COUNT:-0}))}

near=
trap 'near=yes' USR1

where=$(anemoi-house resume "$HOUSE_OUTPUT") || stop "there is nothing to go on from"
goes_on=()
[ -z "$where" ] || mapfile -t goes_on <<<"$where"
began_at=$(reached)
anemoi-house prepare --config-name "$config" "${overrides[@]}" "${goes_on[@]}" || stop "nothing was started"

# --kill-on-bad-exit: where one rank dies the others would wait for it until the limit.
srun --kill-on-bad-exit=1 "$(anemoi-house slurm2ddp)" \
    anemoi-training train --config-name="$config" "${overrides[@]}" "${goes_on[@]}" &
step=$!
status=0
stopped=
while running && [ -z "$near" ]; do # a signal ends wait, too
    wait "$step"
    status=$?
done

if [ -n "$near" ] && running; then
    at_signal=$(reached)
    say "the limit is near; stops at the next checkpoint, or in $patience s"
    deadline=$((SECONDS + patience))
    while running && [ "$SECONDS" -lt "$deadline" ] && [ "$(reached)" = "$at_signal" ]; do sleep 2; done
    for signal in TERM KILL; do
        deadline=$((SECONDS + grace))
        running || break
        stopped=yes
        scancel --signal="$signal" "$SLURM_JOB_ID.0" # the training alone: without a step KILL ends the job
        while running && [ "$SECONDS" -lt "$deadline" ]; do sleep 1; done
    done
    wait "$step"
    status=$?
fi

# Where a node is lost SLURM requeues the job itself, and srun may end with 0.
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
[ "$state" = RUNNING ] || stop "SLURM ends this attempt: the job is ${state:-gone}"
# Ranks that were told to end may do so with 0, too.
[ "$status" -ne 0 ] || [ -n "$stopped" ] || { say "the training is finished"; exit 0; }
# torch does not say so where a checkpoint finds no room.
free_mib=$(($(df --output=avail -k "$HOUSE_OUTPUT" | tail -n 1) / 1024))
[ "$free_mib" -ge 100 ] || say "$free_mib MiB are free in $HOUSE_OUTPUT: too few for a checkpoint"
reached_now=$(reached)
if [ "$reached_now" = "$began_at" ]; then
    [ -z "$near" ] || stop "not requeued: no checkpoint was reached within the limit, and the next attempt would not" \
        "reach one either. Give more --time, or shorten an epoch (dataloader.limit_batches.training=N)"
    stop "not requeued: the training ended with status $status before it reached a checkpoint; see above why"
fi
say "requeued, to go on at ${reached_now##*/}"
scontrol requeue "$SLURM_JOB_ID" || stop "SLURM does not requeue it; go on with: sbatch the same script again"
sleep 120 # the requeue ends this script; its own end would end the job
