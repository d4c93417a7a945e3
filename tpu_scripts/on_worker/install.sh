#!/usr/bin/env bash
# Usage, on a worker: install.sh BUCKET
#
# Makes .venv with Python 3.12, what requirements.txt pins, and jax[tpu] of the same
# version, and mounts the bucket at /mnt/bucket. What is there already is kept, so running
# it again is quick.
set -euo pipefail

# The images up to v6e carry Ubuntu 22.04, whose Python is 3.10; uv brings a 3.12.
uv_version=0.13.9
bucket=$1
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  rm -rf .venv
  if python3.12 -c 'import ensurepip' >/dev/null 2>&1; then
    python3.12 -m venv .venv
  else
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user "uv==$uv_version"
    "$HOME/.local/bin/uv" venv --quiet --python 3.12 --seed .venv
  fi
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  -r requirements.txt 'jax[tpu]'

if ! mountpoint --quiet /mnt/bucket; then
  if ! command -v gcsfuse >/dev/null; then
    # https://cloud.google.com/storage/docs/cloud-storage-fuse/install
    key=/usr/share/keyrings/cloud.google.asc
    release=gcsfuse-$(. /etc/os-release && echo "$VERSION_CODENAME")
    sudo curl --fail --silent --show-error --output "$key" \
      https://packages.cloud.google.com/apt/doc/apt-key.gpg
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt $release main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    export DEBIAN_FRONTEND=noninteractive
    # A fresh VM updates itself and holds apt's lock meanwhile.
    sudo -E apt-get -qq -o DPkg::Lock::Timeout=600 update
    sudo -E apt-get -qq -y -o DPkg::Lock::Timeout=600 install gcsfuse >/dev/null
  fi
  sudo mkdir -p /mnt/bucket
  sudo chown "$USER" /mnt/bucket
  # Nothing is remembered of file names: a worker sees at once what another wrote.
  # Orbax finishes a checkpoint by renaming its folder.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
    --rename-dir-limit=100000 "$bucket" /mnt/bucket >/dev/null
fi
echo "worker $(hostname): installed"
