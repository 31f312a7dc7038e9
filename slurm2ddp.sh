#!/bin/sh
# Tells every task of a SLURM step which rank it is, as torch's and Lightning's launchers would:
#
#     srun slurm2ddp.sh anemoi-training train --config-name=tnbd
#
# exports RANK, WORLD_RANK, GLOBAL_RANK, LOCAL_RANK, NODE_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, OMP_NUM_THREADS and
# the step's SLURM_NTASKS_PER_NODE, and becomes the command. Ranks are those of the step, not of the job: a job may run
# several steps, at once, each on a part of its nodes. MASTER_ADDR, MASTER_PORT and OMP_NUM_THREADS are left alone where
# they are set. What is needed is srun's environment; neither scontrol nor the name of a node has to be known, so that
# it works inside a container.
set -eu

stop() {
    echo "slurm2ddp.sh: $1" >&2
    exit 2
}

[ $# -gt 0 ] || stop "no command; write: srun slurm2ddp.sh COMMAND [ARGUMENT ...]"

# A batch script, and the shell of an salloc that runs on a node, have a rank of their own but no tasks: the numbers
# are those of SLURM's batch and interactive steps.
case ${SLURM_STEP_ID:-none} in
    none | 4294967290 | 4294967291)
        stop "this is no task of a SLURM step; start it with srun: srun slurm2ddp.sh $1 ..." ;;
esac
for name in SLURM_JOB_ID SLURM_PROCID SLURM_LOCALID SLURM_NODEID SLURM_STEP_NUM_TASKS SLURM_STEP_NUM_NODES \
    SLURM_STEP_NODELIST; do
    eval "[ -n \"\${$name:-}\" ]" || stop "$name is not set, though srun sets it; does the container pass on SLURM's variables?"
done

# The first name of a list like rack[1-2]n[03-04,7],login: of each bracket what stands first, then up to the comma.
first_node() {
    printf '%s\n' "$1" | sed -e 's/\[\([^],-]*\)[^]]*\]/\1/g' -e 's/,.*//'
}

# Tasks on each node, where it is the same number: 4 of 4(x2), none of 4,3.
tasks_per_node() {
    printf '%s\n' "${SLURM_STEP_TASKS_PER_NODE:-}" | sed -n -e 's/^\([0-9]\{1,\}\)\((x[0-9]\{1,\})\)\{0,1\}$/\1/p'
}

# Of its own for each step: two on one node would meet at one port, and exchange their weights. Below the ports that
# the kernel gives away; another one after a requeue, since what is left of the first attempt may still listen.
port() {
    echo $((12000 + (SLURM_JOB_ID * 61 + SLURM_STEP_ID + ${SLURM_RESTART_COUNT:-0} * 7919) % 18000))
}

# Processors of this task: what it was given, at most what it may run on.
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

# Lightning refuses a job that was asked for with --ntasks alone, and takes the job's number for that of the step.
SLURM_NTASKS_PER_NODE=$(tasks_per_node)
if [ -n "$SLURM_NTASKS_PER_NODE" ]; then
    export SLURM_NTASKS_PER_NODE
else
    unset SLURM_NTASKS_PER_NODE
fi

exec "$@"
