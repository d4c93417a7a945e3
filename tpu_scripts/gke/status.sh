#!/usr/bin/env bash
# Usage: tpu_scripts/gke/status.sh [--dry-run]
#
# Prints the node pools of the cluster, the JobSet with its restarts, and its pods.
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
ask_patiently "${pools[@]}" list "${where[@]}" ||
  fail_with_reason "Listing the node pools of $CLUSTER"
[[ $dry_run == yes ]] || printf '%s\n' "$answer"
if [[ " ${answer//$'\n'/ } " == *" $NODE_POOL "* ]]; then
  remember_the_bill "exists"
else
  left_behind=
fi
kubernetes "Looking for $JOB_NAME" get jobsets "$JOB_NAME" --ignore-not-found \
  --output=custom-columns=JOBSET:.metadata.name,STATE:.status.terminalState,RESTARTS:.status.restarts,COUNTED:.status.restartsCountTowardsMax
kubernetes "Looking at the pods of $JOB_NAME" get pods "${pods[@]}" --output=wide
