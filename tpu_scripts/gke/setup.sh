#!/usr/bin/env bash
# Usage: tpu_scripts/gke/setup.sh [--dry-run]
#
# Builds the image of the last commit on Google's machines and puts it where IMAGE says.
#
# Variables (tpu_scripts/gke/env.sh): IMAGE REVISION TPU_PROJECT RETRIES RETRY_SECONDS
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

expect_no_arguments
need_value IMAGE us-docker.pkg.dev/my-project/my-repository/unimod_jax:1

run cd "$repository"
run mkdir -p build
run git archive --format=tar.gz --add-file=tpu_scripts/gke/Dockerfile \
  --output=build/unimod_jax_image.tar.gz "$REVISION"
run gcloud builds submit build/unimod_jax_image.tar.gz --tag="$IMAGE" "${project[@]}" --quiet ||
  fail "Building $IMAGE failed; what Cloud Build said stands above."
