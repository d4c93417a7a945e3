#!/usr/bin/env bash
# Usage: tpu_scripts/stop.sh [--dry-run]
#
# Has the training on all workers save a checkpoint and end (exit code 75), by force after
# STOP_SECONDS. The machines stay, and cost: tpu_scripts/delete.sh ends that.
#
# Variables (tpu_scripts/env.sh): TPU_NAME TPU_PROJECT TPU_ZONE STOP_SECONDS RETRIES
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

need_active_resource
stop_training || fail "Not every worker of $TPU_NAME answered; what they said stands above."
