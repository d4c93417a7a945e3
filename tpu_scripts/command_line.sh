# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # the scripts and the files they source share variables
# What a script here is: --help, --dry-run, one sentence when it fails, patience with what
# may pass, and a reminder of what it leaves behind. Sourced by every script.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "These scripts need bash 4.4 or later, and this is $BASH_VERSION." >&2
  exit 2
fi

dry_run=no
quiet=no         # whether commands run without being shown
arguments=()     # what follows the script's own options
left_behind=     # a sentence about what still exists, printed however the script ends
sleeper=         # the process of a wait that is under way
scratch=$(mktemp -d)

end_script() {
  local status=$?
  [[ -z $sleeper ]] || kill "$sleeper" 2>/dev/null || true
  rm -rf "$scratch"
  [[ -z $left_behind ]] || note "$left_behind"
  exit "$status"
}
trap end_script EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# pause SECONDS: sleeps, and still hears a signal at once.
pause() {
  sleep "$1" &
  sleeper=$!
  wait "$sleeper"
  sleeper=
}

# note SENTENCE: to the terminal, away from what pipes read.
note() { printf '%s\n' "$1" >&2; }

# announce SENTENCE: a note, unless nothing is done.
announce() { [[ $dry_run == yes ]] || note "$1"; }

# fail SENTENCE [STATUS]: the end, with one sentence.
fail() {
  note "${0##*/}: $1"
  exit "${2:-1}"
}

# read_options "$@": takes --help and --dry-run out; the rest goes to `arguments`.
read_options() {
  local word
  for word in "$@"; do
    case $word in
      --dry-run) dry_run=yes ;;
      -h | --help) print_help && exit 0 ;;
      *) arguments+=("$word") ;;
    esac
  done
}

# The comment at the head of the running script.
print_help() {
  local line
  while IFS= read -r line; do
    [[ $line != '#!'* && $line != '# shellcheck'* ]] || continue
    [[ $line == '#'* ]] || break
    line=${line#\#}
    printf '%s\n' "${line# }"
  done <"$0"
}

# expect_no_arguments: for scripts that take options only.
expect_no_arguments() {
  ((${#arguments[@]} == 0)) ||
    fail "'${arguments[0]}' is not an option of this script; see --help." 2
}

# need_numbers NAME...: the variables hold whole numbers.
need_numbers() {
  local name
  for name in "$@"; do
    [[ ${!name} =~ ^[0-9]+$ ]] ||
      fail "$name is '${!name}', which is not a whole number; set it to one." 2
  done
}

# need_value NAME EXAMPLE: the variable is set.
need_value() {
  [[ -n ${!1} ]] || fail "$1 is not set; name it, as in $1=$2." 2
}

# need_yes_or_no NAME: the variable is a switch.
need_yes_or_no() {
  [[ ${!1} == yes || ${!1} == no ]] || fail "$1 is '${!1}'; set it to yes or no." 2
}

# need_program NAME WHERE: it is on the PATH, or this is a dry run.
need_program() {
  [[ $dry_run == yes ]] || command -v "$1" >/dev/null ||
    fail "$1 was not found; install it ($2)."
}

# quote WORD...: the words as one line that a shell reads back as the same words.
quote() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

# explain COMMENT: a heading between the commands of a dry run.
explain() {
  [[ $dry_run == no ]] || printf '# %s\n' "$1"
}

# run COMMAND...: shows (unless quiet) and runs it; in a dry run only shows it.
run() {
  if [[ $dry_run == yes ]]; then
    quote "$@"
  else
    [[ $quiet == yes ]] || note "+ $(quote "$@")"
    "$@"
  fi
}

# ask COMMAND...: runs a quick command; its output goes to `answer`, and what it says
# on stderr to `complaint`. In a dry run only shows it.
ask() {
  answer='' complaint=''
  if [[ $dry_run == yes ]]; then
    quote "$@"
    return
  fi
  local status=0
  answer=$("$@" 2>"$scratch/stderr") || status=$?
  complaint=$(<"$scratch/stderr")
  return "$status"
}

# read_training_command: `arguments` to `training`, the words after experiments.train.
read_training_command() {
  local chosen=$EXPERIMENT
  if ((${#arguments[@]})) && [[ ${arguments[0]} != -* ]]; then
    chosen=${arguments[0]}
    arguments=("${arguments[@]:1}")
  fi
  training=("$chosen" --run-dir "$RUN_DIR" "${arguments[@]}")
}
