#!/usr/bin/env bash
# Usage: tpu_scripts/slurm/submit.sh [--dry-run] [EXPERIMENT] [options of experiments.train]
#
# Submits a job that trains with one process per GPU, and that queues itself again when it
# is preempted, reaches its time limit or loses a node. The same command resumes a run that
# was stopped.
#
# Variables (tpu_scripts/slurm/env.sh): all.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# shellcheck source-path=SCRIPTDIR source=../command_line.sh
source "$(dirname "${BASH_SOURCE[0]}")/../command_line.sh"
read_options "$@"
# shellcheck source-path=SCRIPTDIR source=../failures.sh
source "$(dirname "${BASH_SOURCE[0]}")/../failures.sh"
# shellcheck source-path=SCRIPTDIR source=slurm_commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/slurm_commands.sh"

need_program sbatch "it comes with Slurm: run this on a login node"
read_training_command

flags=(--parsable --job-name="$JOB_NAME" --chdir="$repository" --nodes="$NODES"
  --ntasks-per-node="$GPUS_PER_NODE" --gpus-per-node="$GPUS_PER_NODE"
  --cpus-per-task="$CPUS_PER_GPU" --time="$TIME_LIMIT" --signal="TERM@$STOP_SECONDS"
  --requeue --open-mode=append --output="$log_file"
  --export="ALL,PYTHON=$PYTHON,RESTARTS=$RESTARTS,FAILURES=$FAILURES,STOP_FILE=$stop_file")
[[ -z $PARTITION ]] || flags+=(--partition="$PARTITION")
[[ -z $ACCOUNT ]] || flags+=(--account="$ACCOUNT")
read -ra extra <<<"$SBATCH_FLAGS"

run cd "$repository"
run mkdir -p "$LOG_FOLDER"
look_at_job
[[ -z $job ]] ||
  fail "$JOB_NAME is job $job already ($state); stop it with tpu_scripts/slurm/stop.sh, or \
choose another JOB_NAME and RUN_DIR."
run rm -f "$stop_file"
for ((times = 0; ; times++)); do
  ! ask sbatch "${flags[@]}" "${extra[@]}" tpu_scripts/slurm/train.sbatch "${training[@]}" ||
    break
  if [[ $(kind_of_failure) != passing ]] || ((times == RETRIES)); then
    fail_with_reason "Submitting $JOB_NAME"
  fi
  note "${complaint##*$'\n'}"
  back_off "$times"
  # A call that timed out may have succeeded.
  look_at_job
  answer=$job
  [[ -z $job ]] || break
done
announce "$JOB_NAME is job ${answer%%;*}; its log is $log_file. It asks \
for $((NODES * GPUS_PER_NODE)) GPUs until it is done or stopped: tpu_scripts/slurm/stop.sh."
