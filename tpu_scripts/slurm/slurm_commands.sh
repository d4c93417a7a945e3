# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # the scripts and the files they source share variables
# One job of a name, as shell functions over `squeue` and its like. Sourced after env.sh,
# command_line.sh and failures.sh.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
need_numbers NODES GPUS_PER_NODE CPUS_PER_GPU RETRIES RETRY_SECONDS RESTARTS FAILURES STOP_SECONDS

log_file=$LOG_FOLDER/$JOB_NAME.log
stop_file=$LOG_FOLDER/$JOB_NAME.stop  # while it is there, the job does not queue again
quota_hint="a limit of your account or of the partition is reached; see: sacctmgr show assoc \
user=\$USER"
permission_hint="your account may not use this partition; see PARTITION and ACCOUNT"
exists_hint="it exists already; see tpu_scripts/slurm/status.sh"
missing_hint="there is no such job; see tpu_scripts/slurm/status.sh"

# Number and state of the job to `job` and `state`; both empty if there is none.
look_at_job() {
  job='' state=''
  ask_patiently squeue --me --name="$JOB_NAME" --noheader --format='%A %T' ||
    fail_with_reason "Looking for $JOB_NAME"
  read -r job state <<<"${answer%%$'\n'*}" || true
}
