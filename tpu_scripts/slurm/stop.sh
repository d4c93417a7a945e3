#!/usr/bin/env bash
# Usage: tpu_scripts/slurm/stop.sh [--dry-run]
#
# Has the job save a checkpoint and end, and not queue again. One that still waits leaves
# the queue.
#
# Variables (tpu_scripts/slurm/env.sh): JOB_NAME LOG_FOLDER RETRIES RETRY_SECONDS
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

expect_no_arguments
need_program scancel "it comes with Slurm: run this on a login node"

run cd "$repository"
look_at_job
if [[ $dry_run == yes ]]; then
  explain "If it runs, or with plain scancel if it waits:"
  job=JOB
elif [[ -z $job ]]; then
  note "There is no job $JOB_NAME; nothing is used."
  exit 0
fi
run mkdir -p "$LOG_FOLDER"
run touch "$stop_file"
signal=(--signal=TERM)
[[ $dry_run == yes || $state == RUNNING ]] || signal=()
ask_patiently scancel "${signal[@]}" "$job" ||
  fail_with_reason "Stopping job $job ($JOB_NAME), which still holds its GPUs,"
announce "Job $job ($JOB_NAME) was told to end; it was $state. Follow it \
with tpu_scripts/slurm/logs.sh; if it does not end: scancel $job"
