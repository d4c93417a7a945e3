#!/usr/bin/env bash
# Usage, on a worker: stop.sh SECONDS
#
# Asks the training to save and end (SIGTERM), and ends it by force if it has not after
# that many seconds.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=training_files.sh
source "$(dirname "${BASH_SOURCE[0]}")/training_files.sh"

if ! training_runs; then
  echo "worker $(hostname): nothing runs"
  exit 0
fi
process=$(<"$process_file")
kill -TERM "$process"
deadline=$((SECONDS + $1))
while training_runs && ((SECONDS < deadline)); do sleep 0.2; done
if training_runs; then
  echo "worker $(hostname): did not end within $1 s; killed."
  kill -KILL "$process"
  while training_runs; do sleep 0.2; done
fi
# The code is written a moment after the process is gone.
for _ in {1..50}; do
  [[ ! -e $exit_code_file ]] || break
  sleep 0.1
done
code=$(cat "$exit_code_file" 2>/dev/null) || code=unknown
echo "worker $(hostname): ended with exit code $code"
