#!/usr/bin/env bash
# Usage: tpu_scripts/delete.sh [--dry-run]
#
# Deletes the queued resource and its machines, and with them the bill. Checkpoints in the
# bucket stay. A training that still runs is cut off: tpu_scripts/stop.sh saves it first.
#
# Variables (tpu_scripts/env.sh): TPU_NAME TPU_PROJECT TPU_ZONE RETRIES RETRY_SECONDS
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

delete_resource
announce "Deleted: $TPU_NAME in $TPU_ZONE costs nothing any more."
