#!/bin/sh
# Sets the rank of each task of a SLURM step, as the launchers of torch and Lightning would:
#
#     srun slurm2ddp.sh anemoi-training train --config-name=tnbd
#
# exports RANK, WORLD_RANK, GLOBAL_RANK, LOCAL_RANK, NODE_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, OMP_NUM_THREADS and
# the step's SLURM_NTASKS_PER_NODE, and becomes the command. Ranks are those of the step, not of the job: a job may run
# several steps in parallel, each on some of its nodes. Existing values of MASTER_ADDR, MASTER_PORT and OMP_NUM_THREADS
# are kept. Only srun's environment is needed, not scontrol, so it works inside a container.
set -eu

stop() {
    echo "slurm2ddp.sh: $1" >&2
    exit 2
}

[ $# -gt 0 ] || stop "no command; use: srun slurm2ddp.sh COMMAND [ARGUMENT ...]"

# A batch script, and the shell of an salloc on a node, have a rank but are not tasks: these are the numbers of SLURM's
# batch and interactive steps.
case ${SLURM_STEP_ID:-none} in
    none | 4294967290 | 4294967291)
        stop "not a task of a SLURM step; start it with srun: srun slurm2ddp.sh $1 ..." ;;
esac
for name in SLURM_JOB_ID SLURM_PROCID SLURM_LOCALID SLURM_NODEID SLURM_STEP_NUM_TASKS SLURM_STEP_NUM_NODES \
    SLURM_STEP_NODELIST; do
    eval "[ -n \"\${$name:-}\" ]" || stop "$name is not set, though srun sets it; does the container pass on SLURM's variables?"
done

# First name of a list such as rack[1-2]n[03-04,7],login: the first entry of each bracket, then up to the comma.
first_node() {
    printf '%s\n' "$1" | sed -e 's/\[\([^],-]*\)[^]]*\]/\1/g' -e 's/,.*//'
}

# Tasks per node, if equal on all nodes: 4 for 4(x2), nothing for 4,3.
tasks_per_node() {
    printf '%s\n' "${SLURM_STEP_TASKS_PER_NODE:-}" | sed -n -e 's/^\([0-9]\{1,\}\)\((x[0-9]\{1,\})\)\{0,1\}$/\1/p'
}

# A port for each step: two steps on a node would otherwise connect to each other and exchange weights. It is below the
# kernel's ephemeral ports, and changes after a requeue, since the first attempt may still be listening.
port() {
    echo $((12000 + (SLURM_JOB_ID * 61 + SLURM_STEP_ID + ${SLURM_RESTART_COUNT:-0} * 7919) % 18000))
}

# Processors of this task: those it was given, but no more than it can use.
threads() {
    per_node=$(tasks_per_node)
    per_node=${per_node:-$(((SLURM_STEP_NUM_TASKS + SLURM_STEP_NUM_NODES - 1) / SLURM_STEP_NUM_NODES))}
    usable=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    given=${SLURM_CPUS_PER_TASK:-$((${SLURM_CPUS_ON_NODE:-$usable} / per_node))}
    [ "$given" -le "$usable" ] || given=$usable
    [ "$given" -ge 1 ] || given=1
    echo "$given"
}

if [ -z "${MASTER_ADDR:-}" ]; then
    MASTER_ADDR=127.0.0.1
    [ "$SLURM_STEP_NUM_NODES" -eq 1 ] || MASTER_ADDR=$(first_node "$SLURM_STEP_NODELIST")
fi
MASTER_PORT=${MASTER_PORT:-$(port)}
OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(threads)}
RANK=$SLURM_PROCID
WORLD_RANK=$SLURM_PROCID
GLOBAL_RANK=$SLURM_PROCID
LOCAL_RANK=$SLURM_LOCALID
NODE_RANK=$SLURM_NODEID
WORLD_SIZE=$SLURM_STEP_NUM_TASKS
export RANK WORLD_RANK GLOBAL_RANK LOCAL_RANK NODE_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT OMP_NUM_THREADS

# Lightning refuses a job requested with --ntasks alone, and uses the job's number for the step.
SLURM_NTASKS_PER_NODE=$(tasks_per_node)
if [ -n "$SLURM_NTASKS_PER_NODE" ]; then
    export SLURM_NTASKS_PER_NODE
else
    unset SLURM_NTASKS_PER_NODE
fi

exec "$@"
