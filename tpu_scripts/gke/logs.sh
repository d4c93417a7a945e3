#!/usr/bin/env bash
# Usage: tpu_scripts/gke/logs.sh [--dry-run] [--no-follow] [WORKER]
#
# Prints the last 100 lines of the training's log of one worker (a number; 0 by default) or
# of `all`, and then what is added, until Ctrl-C. Logs of pods that are gone are kept by
# Cloud Logging.
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

worker=0
flags=(--container=train --tail=100 --prefix --follow)
for word in "${arguments[@]}"; do
  case $word in
    --no-follow) unset 'flags[-1]' ;;
    all) worker=all ;;
    *) [[ $word =~ ^[0-9]+$ ]] ||
      fail "'$word' is no worker; name one by its number, or all of them by: all." 2
      worker=$word ;;
  esac
done
[[ $worker == all ]] ||
  pods=("${pods[0]},batch.kubernetes.io/job-completion-index=$worker")

connect
run kubectl logs "${pods[@]}" "${flags[@]}" --max-log-requests="$hosts" ||
  fail "There is no log to be read of worker $worker; see tpu_scripts/gke/status.sh."
