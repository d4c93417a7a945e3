#!/usr/bin/env bash
# Usage: tpu_scripts/slurm/status.sh [--dry-run]
#
# Prints the job as squeue sees it: its state, how often it was requeued, time, reason.
#
# Variables (tpu_scripts/slurm/env.sh): JOB_NAME RETRIES RETRY_SECONDS
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
need_program squeue "it comes with Slurm: run this on a login node"

ask_patiently squeue --me --name="$JOB_NAME" \
  --Format=JobID,Name,State,RestartCnt,TimeUsed,TimeLimit,NumNodes,Reason ||
  fail_with_reason "Looking for $JOB_NAME"
[[ $dry_run == yes ]] || printf '%s\n' "$answer"
