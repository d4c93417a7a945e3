#!/usr/bin/env bash
# Usage: tpu_scripts/gke/stop.sh [--dry-run]
#
# Takes the JobSet away: its training saves a checkpoint and ends, by force after
# STOP_SECONDS. The machines stay, and cost: tpu_scripts/gke/delete.sh ends that.
#
# Variables (tpu_scripts/gke/env.sh): JOB_NAME CLUSTER LOCATION TPU_PROJECT RETRIES
# RETRY_SECONDS
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# shellcheck source-path=SCRIPTDIR source=../command_line.sh
source "$(dirname "${BASH_SOURCE[0]}")/../command_line.sh"
read_options "$@"
# shellcheck source-path=SCRIPTDIR source=../failures.sh
source "$(dirname "${BASH_SOURCE[0]}")/../failures.sh"
# shellcheck source-path=SCRIPTDIR source=kubernetes_commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/kubernetes_commands.sh"

expect_no_arguments

connect
kubernetes "Stopping $JOB_NAME" delete jobsets "$JOB_NAME" --cascade=foreground --wait
