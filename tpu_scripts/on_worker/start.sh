#!/usr/bin/env bash
# Usage, on a worker: start.sh [NAME=VALUE ...] -- EXPERIMENT [options of experiments.train]
#
# Starts the training in the background, where it outlives the connection. Its output goes
# to ~/unimod_jax_training/log, and when it ends, its exit code to a file beside that.
# Started twice with the same words, it runs once.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=training_files.sh
source "$(dirname "${BASH_SOURCE[0]}")/training_files.sh"

environment=(PYTHONUNBUFFERED=1)
while [[ $1 != -- ]]; do
  environment+=("$1")
  shift
done
shift

if training_runs; then
  if same_training "$@"; then
    echo "worker $(hostname): runs already"
    exit 0
  fi
  echo "worker $(hostname): another training runs; stop it first." >&2
  exit 2
fi

mkdir -p "$folder"
rm -f "$exit_code_file" "$process_file"
printf '%q ' "$@" >"$command_file"
cd "$repository"
(
  trap '' HUP
  date -u "+=== %Y-%m-%d %H:%M:%S UTC: experiments.train $*"
  env "${environment[@]}" .venv/bin/python -m experiments.train "$@" &
  echo $! >"$process_file"
  status=0
  wait $! || status=$?
  echo "$status" >"$exit_code_file.part"
  mv "$exit_code_file.part" "$exit_code_file"
) >>"$log" 2>&1 </dev/null &
until training_runs || [[ -e $exit_code_file ]]; do sleep 0.05; done
echo "worker $(hostname): started"
