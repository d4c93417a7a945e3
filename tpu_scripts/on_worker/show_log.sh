#!/usr/bin/env bash
# Usage, on a worker: show_log.sh --follow | --no-follow
#
# Prints the last 100 lines of the training's log, each with the name of the worker, and
# with --follow goes on with what is added.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=training_files.sh
source "$(dirname "${BASH_SOURCE[0]}")/training_files.sh"

lines=(tail -n 100)
[[ $1 != --follow ]] || lines+=(-F)
[[ -e $log ]] || {
  echo "worker $(hostname): no log" >&2
  exit 1
}
"${lines[@]}" "$log" | while IFS= read -r line; do
  printf '%s: %s\n' "$(hostname)" "$line"
done
