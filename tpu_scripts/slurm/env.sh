# shellcheck shell=bash
# Every variable of the Slurm scripts, with its default; the environment wins.

# --- What is asked for ----------------------------------------------------------------
: "${JOB_NAME:=unimod}"         # one job of a name at a time: it has one run directory
: "${NODES:=1}"                 # machines
: "${GPUS_PER_NODE:=8}"         # A100 or H100 per machine, with one process for each
: "${CPUS_PER_GPU:=12}"         # cores for each of these processes
: "${TIME_LIMIT:=24:00:00}"     # after it, the job saves and queues again
: "${PARTITION:=}"              # empty: the cluster's own choice
: "${ACCOUNT:=}"                # empty: yours
: "${SBATCH_FLAGS:=}"           # more words for sbatch, such as "--constraint=h100 --qos=low"

# --- What is trained ------------------------------------------------------------------
: "${EXPERIMENT:=toy/digits_masked_image}"  # where the command line names no experiment
: "${RUN_DIR:=runs/$JOB_NAME}"  # checkpoints and metrics, on a disk that all nodes share
: "${PYTHON:=.venv/bin/python}" # as setup.sh makes it; relative to the repository
: "${LOG_FOLDER:=runs/slurm}"   # one log for each name

# --- Patience -------------------------------------------------------------------------
: "${RETRIES:=5}"               # how often a call that may yet succeed is repeated
: "${RETRY_SECONDS:=15}"        # wait before the first repetition; doubles each time
: "${RESTARTS:=100}"            # requeues after preemption or the time limit (75) or a lost
                                # host (76)
: "${FAILURES:=3}"              # requeues after any other end, such as a crash
: "${STOP_SECONDS:=300}"        # warning before the time limit, to save and end in
