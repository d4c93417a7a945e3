# shellcheck shell=bash
# Every variable of the TPU VM scripts, with its default; the environment wins.
# To keep settings of your own, export them, or: `TPU_NAME=mine tpu_scripts/create.sh`.

# --- What is rented -------------------------------------------------------------------
: "${TPU_NAME:=unimod}"       # the queued resource, and the TPU VM in it
: "${TPU_PROJECT:=}"          # Google Cloud project; empty: the one gcloud is set to
: "${TPU_ZONE:=us-east5-a}"   # a zone that has the type, and where you have quota
: "${TPU_TYPE:=v5p-32}"       # v4-N, v5p-N, tpu7x-N count cores, two per chip;
                              # v5litepod-N (v5e) and v6e-N count chips
: "${TPU_RUNTIME:=}"          # image of the VMs; empty: the one that belongs to TPU_TYPE
: "${TPU_SPOT:=yes}"          # yes: cheap, and taken away at any time; no: on demand
: "${TPU_CREATE_FLAGS:=}"     # more words for `queued-resources create`, such as
                              # "--valid-until-duration=6h --network=mine"
: "${CHIP_HOUR_CENTS:=}"      # your price of a chip-hour in US cents, for the reminders;
                              # see https://cloud.google.com/tpu/pricing

# --- What is trained ------------------------------------------------------------------
: "${EXPERIMENT:=toy/digits_masked_image}"  # where the command line names no experiment
: "${BUCKET:=}"               # Cloud Storage bucket, without gs://, near the zone;
                              # every worker mounts it at /mnt/bucket
: "${RUN_DIR:=/mnt/bucket/runs/$TPU_NAME}"  # checkpoints and metrics; all workers see it
: "${TRAIN_ENVIRONMENT:=}"    # words NAME=VALUE for the training process
: "${REVISION:=HEAD}"         # the commit that is copied to the workers

# --- Patience -------------------------------------------------------------------------
: "${POLL_SECONDS:=60}"       # babysit asks this often
: "${RETRIES:=5}"             # how often a call that may yet succeed is repeated
: "${RETRY_SECONDS:=15}"      # wait before the first repetition; doubles each time
: "${RESTARTS:=100}"          # babysit: restarts after preemption (75) or a lost host (76)
: "${FAILURES:=3}"            # babysit: restarts after any other end, such as a crash
: "${STOP_SECONDS:=300}"      # how long a stopped training may take to save and end
