#!/usr/bin/env bash
# Usage: tpu_scripts/logs.sh [--dry-run] [--no-follow] [WORKER]
#
# Prints the last 100 lines of the training's log on one worker (a number; 0 by default) or
# on `all`, and then what is added, until Ctrl-C. The training does not notice.
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

worker=0
how=--follow
for word in "${arguments[@]}"; do
  case $word in
    --no-follow) how=--no-follow ;;
    all) worker=all ;;
    *) [[ $word =~ ^[0-9]+$ ]] ||
      fail "'$word' is no worker; name one by its number, or all of them by: all." 2
      worker=$word ;;
  esac
done

need_active_resource
on_workers "$worker" "$(worker_script show_log.sh "$how")" ||
  fail "There is no log to be read on worker $worker; has tpu_scripts/train.sh started it?"
