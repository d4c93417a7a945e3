# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # the scripts and the files they source share variables
# A queued resource and the TPU VM in it, as shell functions over `gcloud`: create, look,
# delete, copy to its workers, and run on them. Sourced after env.sh, command_line.sh and
# failures.sh.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

need_program gcloud https://cloud.google.com/sdk/docs/install
need_yes_or_no TPU_SPOT
need_numbers POLL_SECONDS RETRIES RETRY_SECONDS RESTARTS FAILURES STOP_SECONDS
[[ -z $CHIP_HOUR_CENTS ]] || need_numbers CHIP_HOUR_CENTS

# Each generation has its image, and its own way of counting in the name of a type:
# https://cloud.google.com/tpu/docs/runtimes.
case $TPU_TYPE in
  v4-*) runtime=tpu-ubuntu2204-base cores_per_unit=2 ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite cores_per_unit=1 ;;
  v5p-*) runtime=v2-alpha-tpuv5 cores_per_unit=2 ;;
  v6e-*) runtime=v2-alpha-tpuv6e cores_per_unit=1 ;;
  tpu7x-*) runtime=v2-alpha-tpu7-ubuntu2404 cores_per_unit=2 ;;
  *) fail "TPU_TYPE is '$TPU_TYPE'; set it to v4-N, v5litepod-N, v5p-N, v6e-N or tpu7x-N." 2 ;;
esac
[[ ${TPU_TYPE##*-} =~ ^[0-9]+$ ]] ||
  fail "TPU_TYPE is '$TPU_TYPE', whose last part is no number; see the list in env.sh." 2
chips=$((${TPU_TYPE##*-} / cores_per_unit))

place=(--zone="$TPU_ZONE" --quiet)
[[ -z $TPU_PROJECT ]] || place=(--project="$TPU_PROJECT" "${place[@]}")
# A host that is gone is noticed within a minute, instead of after hours.
ssh_flags=(--ssh-flag=-oConnectTimeout=30 --ssh-flag=-oServerAliveInterval=15)
queued=(gcloud compute tpus queued-resources)
delete_command=("${queued[@]}" delete "$TPU_NAME" --force "${place[@]}")

# remember_the_bill VERB: what every end of the script says from now on.
remember_the_bill() {
  local price=
  if [[ -n $CHIP_HOUR_CENTS ]]; then
    local cents=$((chips * CHIP_HOUR_CENTS))
    price=$(printf ' (about $%d.%02d an hour)' $((cents / 100)) $((cents % 100)))
  fi
  [[ $dry_run == yes ]] ||
    left_behind="The queued resource $TPU_NAME ($TPU_TYPE, $TPU_ZONE) $1. While it is ACTIVE \
its $chips chips are billed by the hour$price, and in any state it holds quota. Delete it with: \
$(quote "${delete_command[@]}")"
}

quota_hint="your quota in $TPU_ZONE does not allow $TPU_TYPE; ask for more at \
https://console.cloud.google.com/iam-admin/quotas, or change TPU_TYPE, TPU_ZONE or TPU_SPOT"
permission_hint="your account may not do this in the project; you need the role TPU Admin \
(roles/tpu.admin), and the TPU API switched on"
exists_hint="it exists already; look with tpu_scripts/status.sh, go on with \
tpu_scripts/setup.sh, or choose another TPU_NAME"
missing_hint="there is no $TPU_NAME in $TPU_ZONE; make it with tpu_scripts/create.sh"

# Asks Google for the resource; it waits in a queue until there is room. False, with the
# reason in `complaint`, if it was refused.
create_resource() {
  local flags=() extra
  [[ $TPU_SPOT == no ]] || flags+=(--spot)
  read -ra extra <<<"$TPU_CREATE_FLAGS"
  # From the first attempt on: a call that was cut off may have succeeded.
  remember_the_bill "may exist (the script ended while asking for it)"
  if ! ask_patiently "${queued[@]}" create "$TPU_NAME" --node-id="$TPU_NAME" \
    --accelerator-type="$TPU_TYPE" --runtime-version="${TPU_RUNTIME:-$runtime}" \
    "${flags[@]}" "${extra[@]}" "${place[@]}"; then
    case $(kind_of_failure) in
      quota | permission | login) left_behind= ;;
      exists) remember_the_bill "exists" ;;
    esac
    return 1
  fi
  remember_the_bill "exists"
}

# Its state to `state`: ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ..., or MISSING.
look_at_resource() {
  if ask_patiently "${queued[@]}" describe "$TPU_NAME" --format='value(state.state)' \
    "${place[@]}"; then
    state=$answer
    remember_the_bill "exists"
  elif [[ $(kind_of_failure) == missing ]]; then
    state=MISSING left_behind=
  else
    remember_the_bill "may exist (asking for its state failed)"
    fail_with_reason "Looking at $TPU_NAME"
  fi
}

# Stops with a sentence unless the workers can be used.
need_active_resource() {
  look_at_resource
  [[ $dry_run == no ]] || return 0
  case $state in
    ACTIVE) ;;
    MISSING) fail "There is no $TPU_NAME in $TPU_ZONE; make it with tpu_scripts/create.sh." ;;
    SUSPEND* | FAILED) fail "$TPU_NAME is $state: its machines are gone; run \
tpu_scripts/delete.sh and tpu_scripts/create.sh, or let tpu_scripts/babysit.sh do it." ;;
    *) fail "$TPU_NAME is $state: it has no machines yet; wait until tpu_scripts/status.sh \
says ACTIVE." ;;
  esac
}

# Deletes the resource with its TPU VM. That it is not there is as good.
delete_resource() {
  if ! ask_patiently "${delete_command[@]}" && [[ $(kind_of_failure) != missing ]]; then
    remember_the_bill "may still exist (deleting it failed)"
    fail_with_reason "Deleting $TPU_NAME"
  fi
  left_behind=
}

# on_workers WORKER COMMAND: runs a line of shell on one worker (a number) or `all`.
on_workers() {
  patiently "$TPU_NAME" run gcloud compute tpus tpu-vm ssh "$TPU_NAME" --worker="$1" \
    --command="$2" "${ssh_flags[@]}" "${place[@]}"
}

# worker_script NAME WORD...: the line of shell that runs one of on_worker/ there.
worker_script() {
  printf 'bash unimod_jax/tpu_scripts/on_worker/%s\n' "$(quote "$@")"
}

# Copying commits is reproducible; a forgotten commit is worth a word.
say_what_is_not_committed() {
  [[ $dry_run == no ]] || return 0
  local changed
  changed=$(git status --porcelain --untracked-files=no | wc -l)
  ((changed == 0)) ||
    note "$((changed)) files differ from the last commit; the workers get $REVISION without that."
}

# Copies the repository to all workers and installs what it needs on each.
set_up_workers() {
  local archive=build/unimod_jax.tar.gz
  run cd "$repository" && run mkdir -p build &&
    run git archive --format=tar.gz --output="$archive" "$REVISION" &&
    say_what_is_not_committed &&
    patiently "$TPU_NAME" run gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:" --worker=all \
      "${ssh_flags[@]/ssh/scp}" "${place[@]}" &&
    on_workers all "mkdir -p unimod_jax && tar -xzf unimod_jax.tar.gz -C unimod_jax && \
$(worker_script install.sh "${BUCKET#gs://}")"
}

# Starts the same training on every worker, in the background.
start_training() {
  local environment
  read -ra environment <<<"$TRAIN_ENVIRONMENT"
  on_workers all "$(worker_script start.sh "${environment[@]}" -- "${training[@]}")"
}

# Has the training on every worker save and end.
stop_training() {
  on_workers all "$(worker_script stop.sh "$STOP_SECONDS")"
}
