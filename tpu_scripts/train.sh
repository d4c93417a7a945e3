#!/usr/bin/env bash
# Usage: tpu_scripts/train.sh [--dry-run] [EXPERIMENT] [options of experiments.train]
#
# Starts the same `python -m experiments.train` on all workers, in the background; the
# connection may be closed. The same command resumes a run that was interrupted. See
# tpu_scripts/logs.sh and tpu_scripts/status.sh, or let tpu_scripts/babysit.sh do it all.
#
# Variables (tpu_scripts/env.sh): TPU_NAME TPU_PROJECT TPU_ZONE EXPERIMENT RUN_DIR
# TRAIN_ENVIRONMENT RETRIES RETRY_SECONDS
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

read_training_command
need_active_resource
start_training || fail "The training did not start on every worker; what they said stands \
above. Run tpu_scripts/stop.sh before another try, and tpu_scripts/setup.sh before the first."
