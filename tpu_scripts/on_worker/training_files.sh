# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # the scripts and the files they source share variables
# Where a worker keeps what it knows of its training, and whether it still runs.
# Sourced by the scripts beside it, which all run on the workers themselves.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$HOME/unimod_jax_training
log=$folder/log
command_file=$folder/command      # the words of the training, one quoted line
process_file=$folder/process      # its process number
exit_code_file=$folder/exit_code  # written when it has ended

# True while the training of this worker runs. A number alone is not believed: after a
# reboot another process may have it.
training_runs() {
  local process
  [[ -s $process_file && ! -e $exit_code_file ]] || return 1
  process=$(<"$process_file")
  [[ -r /proc/$process/cmdline ]] &&
    [[ $(tr '\0' ' ' <"/proc/$process/cmdline") == *experiments.train* ]]
}

# same_training WORD...: true if these are the words it was last started with.
same_training() {
  [[ -e $command_file && $(<"$command_file") == "$(printf '%q ' "$@")" ]]
}
