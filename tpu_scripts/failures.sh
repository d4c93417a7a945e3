# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # the scripts and the files they source share variables
# Why gcloud, kubectl and Slurm refuse, told apart by what they say: what may pass is
# repeated, for the rest there is one sentence. Sourced after command_line.sh by files that
# say in four hints what to do: quota_hint, permission_hint, exists_hint, missing_hint.

# What kind of failure `complaint` tells of, in one word.
kind_of_failure() {
  case ${complaint,,} in
    *"per minute"* | *"rate limit"*) echo passing ;;
    *quota*exceed* | *exceed*quota* | *quota*exhaust* | *insufficient*quota* | *"qos policy"*)
      echo quota
      ;;
    *permission* | *forbidden*) echo permission ;;
    *"active account"* | *reauth* | *"auth login"* | *"default credentials"*) echo login ;;
    *already_exists* | *"already exists"* | *alreadyexists*) echo exists ;;
    *not_found* | *"not found"* | *notfound*) echo missing ;;
    *unavailable* | *"internal error"* | *deadline* | *"timed out"* | *timeout* | *connect* | \
      *capacity* | *stockout* | *aborted* | *"try again"*) echo passing ;;
    *) echo other ;;
  esac
}

# fail_with_reason WHAT: the end, with one sentence on why it was refused.
fail_with_reason() {
  local said=${complaint##*$'\n'}
  said="It said: ${said:-nothing}"
  case $(kind_of_failure) in
    quota) fail "$1: $quota_hint. $said" ;;
    permission) fail "$1: $permission_hint. $said" ;;
    login) fail "$1: you are not logged in; run: gcloud auth login" ;;
    exists) fail "$1: $exists_hint." ;;
    missing) fail "$1: $missing_hint." ;;
    passing) fail "$1: no success in $((RETRIES + 1)) attempts; try later. $said" ;;
    *) fail "$1 was refused. $said" ;;
  esac
}

# ask_patiently COMMAND...: `ask`, repeated while the failure is one that passes.
ask_patiently() {
  local times
  for ((times = 0; ; times++)); do
    ! ask "$@" || return 0
    [[ $(kind_of_failure) == passing ]] || return 1
    ((times < RETRIES)) || return 1
    note "${complaint##*$'\n'}"
    back_off "$times"
  done
}

# patiently WHOSE COMMAND...: repeats while ssh cannot reach a worker (status 255).
patiently() {
  local whose=$1 times status
  shift
  for ((times = 0; ; times++)); do
    status=0
    "$@" || status=$?
    ((status == 255)) || return "$status"
    if ((times == RETRIES)); then
      note "A worker of $whose could not be reached in $((RETRIES + 1)) attempts."
      return 255
    fi
    note "A worker of $whose cannot be reached."
    back_off "$times"
  done
}

# back_off TIMES: waits before repetition TIMES + 1, twice as long each time.
back_off() {
  local seconds=$((RETRY_SECONDS * (1 << ($1 > 6 ? 6 : $1))))
  note "Trying again in $seconds s ($(($1 + 1)) of $RETRIES)."
  pause "$seconds"
}
