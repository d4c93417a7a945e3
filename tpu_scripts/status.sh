#!/usr/bin/env bash
# Usage: tpu_scripts/status.sh [--dry-run]
#
# Prints the state of the queued resource and, once it is ACTIVE, one line per worker:
# running; exit CODE with the last line of its log; lost (the machine was restarted); idle.
#
# Variables (tpu_scripts/env.sh): TPU_NAME TPU_PROJECT TPU_ZONE CHIP_HOUR_CENTS RETRIES
# RETRY_SECONDS
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# shellcheck source-path=SCRIPTDIR source=command_line.sh
source "$(dirname "${BASH_SOURCE[0]}")/command_line.sh"
read_options "$@"
# shellcheck source-path=SCRIPTDIR source=failures.sh
source "$(dirname "${BASH_SOURCE[0]}")/failures.sh"
# shellcheck source-path=SCRIPTDIR source=gcloud_commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud_commands.sh"

expect_no_arguments

look_at_resource
[[ $dry_run == yes ]] || echo "$TPU_NAME ($TPU_TYPE, $TPU_ZONE) is $state"
[[ $dry_run == no && $state != ACTIVE ]] ||
  on_workers all "$(worker_script report.sh)" ||
  fail "Not every worker of $TPU_NAME answered; before tpu_scripts/setup.sh none can."
