#!/usr/bin/env bash
# Usage: tpu_scripts/create.sh [--dry-run]
#
# Asks for a TPU slice as a queued resource, spot or on demand. It waits in Google's queue,
# at no cost, until there is room; tpu_scripts/status.sh shows when it is ACTIVE.
#
# Variables (tpu_scripts/env.sh): TPU_NAME TPU_PROJECT TPU_ZONE TPU_TYPE TPU_RUNTIME
# TPU_SPOT TPU_CREATE_FLAGS CHIP_HOUR_CENTS RETRIES RETRY_SECONDS
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

announce "Asking for $TPU_TYPE in $TPU_ZONE ..."
create_resource || fail_with_reason "Creating $TPU_NAME"
