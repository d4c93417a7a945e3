# shellcheck shell=bash
# Every variable of the GKE scripts, with its default; the environment wins.

# --- What is rented -------------------------------------------------------------------
: "${JOB_NAME:=unimod}"        # the JobSet
: "${NODE_POOL:=$JOB_NAME}"    # the node pool of TPU machines made for it
: "${CLUSTER:=unimod}"         # a GKE Standard cluster; README.md says how to make one
: "${LOCATION:=us-east5}"      # region (or zone) of the cluster
: "${NODE_ZONE:=us-east5-a}"   # zone of the machines
: "${TPU_PROJECT:=}"           # Google Cloud project; empty: the one gcloud is set to
: "${TPU_GENERATION:=v5p}"     # v4, v5e, v5p, v6e or tpu7x
: "${TPU_TOPOLOGY:=2x2x4}"     # chips along each axis; machines have four chips each
: "${TPU_SPOT:=yes}"           # yes: cheap, and taken away at any time; no: on demand
: "${TPU_CREATE_FLAGS:=}"      # more words for `node-pools create`
: "${CHIP_HOUR_CENTS:=}"       # your price of a chip-hour in US cents, for the reminders;
                               # see https://cloud.google.com/tpu/pricing
: "${JOBSET_VERSION:=v0.10.1}" # 0.10 is the first that tells exit codes apart

# --- What is trained ------------------------------------------------------------------
: "${IMAGE:=}"                 # where setup.sh puts the image and the machines find it, as
                               # us-docker.pkg.dev/PROJECT/REPOSITORY/unimod_jax:TAG
: "${REVISION:=HEAD}"          # the commit that goes into the image
: "${EXPERIMENT:=toy/digits_masked_image}"  # where the command line names no experiment
: "${BUCKET:=}"                # Cloud Storage bucket, without gs://, near the zone;
                               # every machine mounts it at /mnt/bucket
: "${TRAIN_ENVIRONMENT:=}"      # words NAME=VALUE for the training process
: "${KUBERNETES_ACCOUNT:=default}"  # service account that may write to the bucket
: "${RUN_DIR:=/mnt/bucket/runs/$JOB_NAME}"  # checkpoints and metrics

# --- Patience -------------------------------------------------------------------------
: "${POLL_SECONDS:=60}"        # babysit asks this often
: "${RETRIES:=5}"              # how often a call that may yet succeed is repeated
: "${RETRY_SECONDS:=15}"       # wait before the first repetition; doubles each time
: "${FAILURES:=3}"             # restarts after a crash; those after preemption (75) or a
                               # lost host (76) are not counted
: "${STOP_SECONDS:=300}"       # how long a stopped training may take to save and end
