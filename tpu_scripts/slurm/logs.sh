#!/usr/bin/env bash
# Usage: tpu_scripts/slurm/logs.sh [--dry-run] [--no-follow]
#
# Prints the last 100 lines of the job's log, each with the number of its process, and then
# what is added, until Ctrl-C.
#
# Variables (tpu_scripts/slurm/env.sh): JOB_NAME LOG_FOLDER
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

follow=(-F)
if [[ ${arguments[*]} == --no-follow ]]; then
  follow=()
else
  expect_no_arguments
fi

run cd "$repository"
[[ $dry_run == yes || -e $log_file ]] ||
  fail "There is no $log_file; has $JOB_NAME been submitted, and started?"
run tail -n 100 "${follow[@]}" "$log_file"
