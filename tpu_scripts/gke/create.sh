#!/usr/bin/env bash
# Usage: tpu_scripts/gke/create.sh [--dry-run]
#
# Makes the node pool: the TPU machines of one slice, in a cluster that exists. Installs the
# JobSet controller in the cluster, too.
#
# Variables (tpu_scripts/gke/env.sh): NODE_POOL CLUSTER LOCATION NODE_ZONE TPU_PROJECT
# TPU_GENERATION TPU_TOPOLOGY TPU_SPOT TPU_CREATE_FLAGS JOBSET_VERSION CHIP_HOUR_CENTS
# RETRIES RETRY_SECONDS
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
kubernetes "Installing JobSet $JOBSET_VERSION" apply --server-side --filename \
  "https://github.com/kubernetes-sigs/jobset/releases/download/$JOBSET_VERSION/manifests.yaml"
announce "Asking for $hosts machines with $TPU_GENERATION chips; this takes minutes ..."
create_node_pool
