#!/usr/bin/env bash
# Usage: tpu_scripts/babysit.sh [--dry-run] [EXPERIMENT] [options of experiments.train]
#
# Sees a run through: creates the queued resource, waits until it is ACTIVE, sets it up,
# trains, and looks again every POLL_SECONDS. What the training's exit code asks for:
#   0       deletes the resource and ends (0)
#   75, 76  preempted, or a host was lost: trains again from the last checkpoint
#   2       a mistake in the command: stops (1); the resource stays, for another try
#   others  a crash: trains again, at most FAILURES times
# A resource that was preempted or has failed is deleted and created again. Ctrl-C ends the
# watch and not the training; started again, it goes on watching.
#
# Variables (tpu_scripts/env.sh): all.
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

need_value BUCKET my-bucket
read_training_command

restarts=0 failures=0 unreachable=0
prepared=no  # whether this script has set the workers up
mine=no      # whether it has started the training, or seen it run
shown=       # the state that was printed last
known=no     # whether the resource was seen, and not deleted by this script since

# again WHY: counts a restart, up to the limit.
again() {
  ((++restarts <= RESTARTS)) ||
    fail "$1, and $RESTARTS restarts were already made; set RESTARTS to allow more."
  note "$1; restart $restarts of at most $RESTARTS."
}

# failed WHY: counts a failure, up to the limit.
failed() {
  ((++failures <= FAILURES)) ||
    fail "$1, and $FAILURES failures were already forgiven; see tpu_scripts/logs.sh."
  note "$1; failure $failures of at most $FAILURES."
}

recreate() {
  local reason=
  if [[ $state == FAILED ]] && ask_patiently "${queued[@]}" describe "$TPU_NAME" \
    --format='value(state.failedData.error.message)' "${place[@]}"; then
    reason=$answer
  fi
  delete_resource
  prepared=no mine=no known=no
  complaint=$reason
  [[ $(kind_of_failure) != quota ]] || fail_with_reason "Creating $TPU_NAME"
  again "$TPU_NAME was $state${reason:+ ($reason)}"
}

# Counts the workers of the last report by what they said.
count_reports() {
  local worker state code rest
  running=0 other=0 idle=0 lost=0 finished=0 interrupted=0 refused=0 crashed=0 last_words=
  while read -r worker _ state code rest; do
    [[ $worker == worker ]] || continue
    case $state:${code%:} in
      running:*) running=$((running + 1)) ;;
      other:*) other=$((other + 1)) ;;
      lost:*) lost=$((lost + 1)) ;;
      exit:0) finished=$((finished + 1)) ;;
      exit:75 | exit:76) interrupted=$((interrupted + 1)) ;;
      exit:2) refused=$((refused + 1)) last_words=$rest ;;
      exit:*) crashed=$((crashed + 1)) last_words="exit code ${code%:}: $rest" ;;
      *) idle=$((idle + 1)) ;;
    esac
  done <<<"$1"
}

begin_training() {
  if [[ $prepared == no ]]; then
    set_up_workers || { failed "Setting up the workers failed" && return; }
    prepared=yes
  fi
  if start_training; then mine=yes; else failed "The training did not start everywhere"; fi
}

care_for_training() {
  local reports status=0
  reports=$(
    quiet=yes
    on_workers all "$(worker_script report.sh "${training[@]}")" 2>"$scratch/report"
  ) || {
    status=$?
    cat "$scratch/report" >&2
  }
  if ((status == 255)); then
    # Preempted since? Its state will say so; if it stays ACTIVE, this is no passing fault.
    ((++unreachable <= FAILURES)) ||
      fail "$TPU_NAME is ACTIVE, but a worker has been unreachable $unreachable times in a row."
    return
  fi
  unreachable=0
  count_reports "$reports"
  ((other == 0)) ||
    fail "Another training runs on $TPU_NAME; wait for it, or end it with tpu_scripts/stop.sh."
  if ((running)); then
    mine=yes
    if ((interrupted + refused + crashed + lost + idle)); then
      note "Some workers have ended and the others have not: ending those."
      stop_training || note "Not every worker could be told."
    fi
  elif [[ $mine == no ]]; then
    begin_training
  elif ((status || finished + interrupted + refused + crashed + lost + idle == 0)); then
    failed "A worker of $TPU_NAME gave no report"
    prepared=no
    begin_training
  elif ((refused)); then
    fail "The training will not run like this: $last_words"
  elif ((crashed)); then
    failed "The training ended with $last_words"
    begin_training
  elif ((interrupted + lost + idle)); then
    again "The training was interrupted"
    begin_training
  else
    delete_resource
    note "The training is done and $TPU_NAME deleted; the run is in $RUN_DIR of the workers, \
which is bucket $BUCKET if it starts with /mnt/bucket."
    exit 0
  fi
}

if [[ $dry_run == yes ]]; then
  explain "If there is no $TPU_NAME:"
  create_resource
  explain "Every $POLL_SECONDS s, until it is ACTIVE and from then on:"
  look_at_resource
  explain "If it is SUSPENDED (preempted) or FAILED, before creating it again, and at the end:"
  delete_resource
  explain "Once it is ACTIVE:"
  set_up_workers
  explain "After that, and again after exit codes 75 and 76:"
  start_training
  explain "Every $POLL_SECONDS s:"
  on_workers all "$(worker_script report.sh "${training[@]}")"
  explain "If some workers have ended and others have not:"
  stop_training
  exit 0
fi

while true; do
  look_at_resource
  [[ $state == "$shown" ]] || note "$TPU_NAME is $state."
  shown=$state
  [[ $state == MISSING ]] || known=yes
  case $state in
    ACTIVE) care_for_training ;;
    MISSING)
      [[ $known == no ]] ||
        fail "$TPU_NAME was deleted by somebody else; it is not created again, and costs nothing."
      create_resource || [[ $(kind_of_failure) == exists ]] ||
        fail_with_reason "Creating $TPU_NAME"
      continue
      ;;
    SUSPENDED | FAILED) recreate && continue ;;
  esac
  pause "$POLL_SECONDS"
done
