#!/usr/bin/env bash
# Usage, on a worker: report.sh [EXPERIMENT ...]
#
# Prints one line on the training: running; exit CODE and the last line of its log; lost
# (it ended without a code, so the machine was restarted); or idle. Given the words of a
# training, one with other words is `other` while it runs and `idle` after.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=training_files.sh
source "$(dirname "${BASH_SOURCE[0]}")/training_files.sh"

report() { echo "worker $(hostname) $1"; }

# A training that ended this instant has its code in the next.
for _ in {1..20}; do
  training_runs || [[ -e $exit_code_file || ! -e $process_file ]] && break
  sleep 0.1
done

if (($#)) && ! same_training "$@"; then
  if training_runs; then report other; else report idle; fi
elif training_runs; then
  report running
elif [[ -e $exit_code_file ]]; then
  report "exit $(<"$exit_code_file"): $(tail -n 1 "$log")"
elif [[ -e $process_file ]]; then
  report lost
else
  report idle
fi
