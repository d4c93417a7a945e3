#!/usr/bin/env bash
# Usage: tpu_scripts/gke/delete.sh [--dry-run]
#
# Deletes the node pool, and with it the bill for its chips. The cluster stays (README.md
# says how to delete it), and so do the checkpoints in the bucket. A training that still
# runs is cut off: tpu_scripts/gke/stop.sh saves it first.
#
# Variables (tpu_scripts/gke/env.sh): NODE_POOL CLUSTER LOCATION TPU_PROJECT RETRIES
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

delete_node_pool
announce "Deleted: the node pool $NODE_POOL costs nothing any more; the \
cluster $CLUSTER has a fee of its own."
