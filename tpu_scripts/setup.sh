#!/usr/bin/env bash
# Usage: tpu_scripts/setup.sh [--dry-run]
#
# Copies the last commit to all workers, makes a virtual environment there with what
# requirements.txt pins and jax[tpu], and mounts the bucket at /mnt/bucket. Running it again
# brings a newer commit.
#
# Variables (tpu_scripts/env.sh): TPU_NAME TPU_PROJECT TPU_ZONE BUCKET REVISION RETRIES
# RETRY_SECONDS
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

expect_no_arguments
need_value BUCKET my-bucket

need_active_resource
set_up_workers || fail "Setting up $TPU_NAME failed on a worker; what it said stands above."
