#!/usr/bin/env bash
# Usage: tpu_scripts/gke/babysit.sh [--dry-run]
#
# Waits for the end of the training that train.sh has started, asking every POLL_SECONDS,
# and deletes the node pool when it is done. Restarting is Kubernetes' task. If the training
# fails for good, the machines stay, for a look at the logs. Ctrl-C ends the watch only.
#
# Variables (tpu_scripts/gke/env.sh): JOB_NAME NODE_POOL CLUSTER LOCATION TPU_PROJECT
# POLL_SECONDS CHIP_HOUR_CENTS RETRIES RETRY_SECONDS
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

look_at_jobset() {
  ask_patiently kubectl get jobsets "$JOB_NAME" \
    --output='jsonpath={.status.terminalState}/{.status.restarts}' ||
    fail_with_reason "Looking at $JOB_NAME"
}

connect
if [[ $dry_run == yes ]]; then
  explain "Every $POLL_SECONDS s:"
  look_at_jobset
  explain "When it says Completed:"
  delete_node_pool
  exit 0
fi

shown=
while true; do
  look_at_jobset
  state=${answer%/*} restarts=${answer#*/}
  [[ $answer == "$shown" ]] || note "$JOB_NAME: ${state:-running} (restarts: ${restarts:-0})"
  shown=$answer
  case $state in
    Completed)
      delete_node_pool
      note "The training is done and the node pool $NODE_POOL deleted; the cluster $CLUSTER \
has a fee of its own."
      exit 0
      ;;
    Failed) fail "$JOB_NAME has failed for good after $restarts restarts; see \
tpu_scripts/gke/logs.sh." ;;
  esac
  pause "$POLL_SECONDS"
done
