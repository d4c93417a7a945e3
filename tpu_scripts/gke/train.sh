#!/usr/bin/env bash
# Usage: tpu_scripts/gke/train.sh [--dry-run] [EXPERIMENT] [options of experiments.train]
#
# Starts `python -m experiments.train` as a JobSet, one pod per machine. Kubernetes is the
# babysitter: preemption and lost hosts (exit codes 75, 76) restart it without limit,
# crashes FAILURES times, a mistake in the command (2) never. The same command resumes a run
# that was stopped. --dry-run prints the manifest, too.
#
# Variables (tpu_scripts/gke/env.sh): all but TPU_CREATE_FLAGS, REVISION and JOBSET_VERSION.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# shellcheck source-path=SCRIPTDIR source=../command_line.sh
source "$(dirname "${BASH_SOURCE[0]}")/../command_line.sh"
read_options "$@"
# shellcheck source-path=SCRIPTDIR source=../failures.sh
source "$(dirname "${BASH_SOURCE[0]}")/../failures.sh"
# shellcheck source-path=SCRIPTDIR source=kubernetes_commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/kubernetes_commands.sh"

need_value BUCKET my-bucket
need_value IMAGE us-docker.pkg.dev/my-project/my-repository/unimod_jax:1
BUCKET=${BUCKET#gs://}
read_training_command

connect
run cd "$repository"
run mkdir -p build
if [[ $dry_run == yes ]]; then
  printf "cat >build/jobset.yaml <<'END'\n%s\nEND\n" "$(render_jobset)"
else
  render_jobset >build/jobset.yaml
fi
exists_hint="it exists already, running or ended; see tpu_scripts/gke/status.sh, and take it \
away with tpu_scripts/gke/stop.sh first"
kubernetes "Starting $JOB_NAME" create --filename=build/jobset.yaml
