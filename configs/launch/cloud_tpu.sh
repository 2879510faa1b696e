#!/bin/bash
# A run on all hosts of a Cloud TPU: configs/launch/cloud_tpu.sh NAME ZONE gs://BUCKET/WHEEL.whl CONFIG.yaml [KEY=VALUE ...]
# The TPU is there (gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite).
# CONFIG.yaml, and the run_dir, model and data in it, are paths that all hosts see, as on a mounted bucket or a file store.
# Every host runs the same command; JAX finds the others by the TPU's own metadata. Given again, it resumes the run.
set -euo pipefail
name=$1 zone=$2 wheel=$3
shift 3
command=$(printf '%q ' jaxprompt train "$@" --timeout "${TIMEOUT:-300}")
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
set -e
export PATH=\$HOME/.local/bin:\$PATH
gcloud storage cp '$wheel' /tmp/ && pip install --quiet \"/tmp/\$(basename '$wheel')[tpu]\"
$command"
