# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # the scripts and the files they source share variables
# A node pool of TPU machines and the JobSet that trains on it, as shell functions over
# `gcloud` and `kubectl`. Sourced after env.sh, command_line.sh and failures.sh.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
need_program gcloud https://cloud.google.com/sdk/docs/install
need_program kubectl "gcloud components install kubectl gke-gcloud-auth-plugin"
need_yes_or_no TPU_SPOT
need_numbers POLL_SECONDS RETRIES RETRY_SECONDS FAILURES STOP_SECONDS
[[ -z $CHIP_HOUR_CENTS ]] || need_numbers CHIP_HOUR_CENTS

# Machine types and labels: https://cloud.google.com/kubernetes-engine/docs/concepts/tpus
case $TPU_GENERATION in
  v4) machine=ct4p-hightpu-4t accelerator=tpu-v4-podslice ;;
  v5e) machine=ct5lp-hightpu-4t accelerator=tpu-v5-lite-podslice ;;
  v5p) machine=ct5p-hightpu-4t accelerator=tpu-v5p-slice ;;
  v6e) machine=ct6e-standard-4t accelerator=tpu-v6e-slice ;;
  tpu7x) machine=tpu7x-standard-4t accelerator=tpu7x ;;
  *) fail "TPU_GENERATION is '$TPU_GENERATION'; set it to v4, v5e, v5p, v6e or tpu7x." 2 ;;
esac
[[ $TPU_TOPOLOGY =~ ^[0-9]+x[0-9]+(x[0-9]+)?$ ]] ||
  fail "TPU_TOPOLOGY is '$TPU_TOPOLOGY'; set it to chips along each axis, as 2x2x4." 2
chips=$((${TPU_TOPOLOGY//x/*}))
((chips >= 4 && chips % 4 == 0)) ||
  fail "TPU_TOPOLOGY $TPU_TOPOLOGY has $chips chips, but a machine has four: choose another." 2
hosts=$((chips / 4))

project=()
[[ -z $TPU_PROJECT ]] || project=(--project="$TPU_PROJECT")
pools=(gcloud container node-pools)
where=(--cluster="$CLUSTER" --location="$LOCATION" "${project[@]}" --quiet)
delete_command=("${pools[@]}" delete "$NODE_POOL" "${where[@]}")
pods=(--selector="jobset.sigs.k8s.io/jobset-name=$JOB_NAME")

quota_hint="your quota in $NODE_ZONE does not allow $chips more chips of $TPU_GENERATION; ask for \
more at https://console.cloud.google.com/iam-admin/quotas, or change TPU_GENERATION, \
TPU_TOPOLOGY, NODE_ZONE or TPU_SPOT"
permission_hint="your account may not do this in the project; you need the role Kubernetes \
Engine Admin (roles/container.admin)"
exists_hint="it exists already; look with tpu_scripts/gke/status.sh, or choose another name"
missing_hint="it was not found; look with tpu_scripts/gke/status.sh, and make it with \
tpu_scripts/gke/create.sh (machines) or tpu_scripts/gke/train.sh (training)"

# remember_the_bill VERB: what every end of the script says from now on.
remember_the_bill() {
  local price=
  if [[ -n $CHIP_HOUR_CENTS ]]; then
    local cents=$((chips * CHIP_HOUR_CENTS))
    price=$(printf ' (about $%d.%02d an hour)' $((cents / 100)) $((cents % 100)))
  fi
  [[ $dry_run == yes ]] ||
    left_behind="The node pool $NODE_POOL of cluster $CLUSTER ($TPU_GENERATION $TPU_TOPOLOGY) $1. \
While it exists its $chips chips are billed by the hour$price, training or not. Delete it with: \
$(quote "${delete_command[@]}")"
}

# A TPU7x slice gets its shape from a workload policy, the others from a flag.
create_node_pool() {
  local flags=(--tpu-topology="$TPU_TOPOLOGY") extra
  if [[ $TPU_GENERATION == tpu7x ]]; then
    flags=(--placement-policy="$NODE_POOL")
    ask_patiently gcloud compute resource-policies create workload-policy "$NODE_POOL" \
      --type=HIGH_THROUGHPUT --accelerator-topology="$TPU_TOPOLOGY" --region="${NODE_ZONE%-*}" \
      "${project[@]}" --quiet || [[ $(kind_of_failure) == exists ]] ||
      fail_with_reason "Creating the workload policy $NODE_POOL"
  fi
  [[ $TPU_SPOT == no ]] || flags+=(--spot)
  read -ra extra <<<"$TPU_CREATE_FLAGS"
  # From the first attempt on: a pool that failed half-way exists, and costs.
  remember_the_bill "may exist (the script ended while asking for it)"
  if ! ask_patiently "${pools[@]}" create "$NODE_POOL" --machine-type="$machine" \
    --num-nodes="$hosts" --node-locations="$NODE_ZONE" "${flags[@]}" "${extra[@]}" \
    "${where[@]}"; then
    case $(kind_of_failure) in
      permission | login) left_behind= ;;
      exists) remember_the_bill "exists" ;;
    esac
    fail_with_reason "Creating the node pool $NODE_POOL"
  fi
  remember_the_bill "exists"
}

# Deletes the node pool. That it is not there is as good.
delete_node_pool() {
  if ! ask_patiently "${delete_command[@]}" && [[ $(kind_of_failure) != missing ]]; then
    remember_the_bill "may still exist (deleting it failed)"
    fail_with_reason "Deleting the node pool $NODE_POOL"
  fi
  left_behind=
}

# Points kubectl at the cluster. Whatever runs there runs on the node pool.
connect() {
  ask_patiently gcloud container clusters get-credentials "$CLUSTER" \
    --location="$LOCATION" "${project[@]}" --quiet ||
    fail_with_reason "Connecting to the cluster $CLUSTER"
  remember_the_bill "exists unless you have deleted it"
}

# kubernetes WHAT COMMAND...: kubectl, patiently, or the end with a sentence.
kubernetes() {
  local what=$1
  shift
  ask_patiently kubectl "$@" || fail_with_reason "$what"
  [[ $dry_run == yes || -z $answer ]] || printf '%s\n' "$answer"
}

# json WORD...: the words as a JSON list, which is YAML too.
json() {
  local word list=
  for word in "$@"; do
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    word=${word//$'\n'/\\n}
    list+=", \"${word//$'\t'/\\t}\""
  done
  printf '[%s]\n' "${list#, }"
}

# The JobSet with every @WORD@ filled in.
render_jobset() {
  local COMMAND ARGUMENTS HOSTS=$hosts ACCELERATOR=$accelerator environment text word value
  read -ra environment <<<"$TRAIN_ENVIRONMENT"
  COMMAND=$(json env PYTHONUNBUFFERED=1 "${environment[@]}" python -m experiments.train)
  ARGUMENTS=$(json "${training[@]}")
  text=$(<"$repository/tpu_scripts/gke/jobset.yaml")
  for word in JOB_NAME FAILURES HOSTS KUBERNETES_ACCOUNT STOP_SECONDS NODE_POOL ACCELERATOR \
    TPU_TOPOLOGY IMAGE BUCKET COMMAND ARGUMENTS; do
    value=${!word}
    text=${text//"@$word@"/"$value"}
  done
  printf '%s\n' "$text"
}
