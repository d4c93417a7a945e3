#!/usr/bin/env bash
# Usage: tpu_scripts/slurm/setup.sh [--dry-run]
#
# Makes .venv in the repository, on a disk that all nodes share, with what requirements.txt
# pins and jax[cuda13]. Needs python3.12, and a driver for CUDA 13 on the nodes.
#
# Variables (tpu_scripts/slurm/env.sh): none.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# shellcheck source-path=SCRIPTDIR source=../command_line.sh
source "$(dirname "${BASH_SOURCE[0]}")/../command_line.sh"
read_options "$@"
# shellcheck source-path=SCRIPTDIR source=../failures.sh
source "$(dirname "${BASH_SOURCE[0]}")/../failures.sh"
# shellcheck source-path=SCRIPTDIR source=slurm_commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/slurm_commands.sh"

expect_no_arguments

run cd "$repository"
run python3.12 -m venv .venv || fail "There is no python3.12; load its module or install it."
run .venv/bin/python -m pip install -r requirements.txt 'jax[cuda13]'
