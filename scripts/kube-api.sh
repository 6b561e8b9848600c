#!/usr/bin/env bash
# Tests the Helm chart against a real API server of Kubernetes on loopback, without nodes. Arguments go
# to pytest. It needs etcd, kube-apiserver, kubectl and helm in PATH, or in KUBEBUILDER_ASSETS, the folder
# that setup-envtest makes. With kube-controller-manager it also sees each Deployment make its pods.
# USHER_KUBE_CRDS is a folder with the definitions of the Gateway API, cert-manager and Prometheus'
# operator. Without it the situations that need them are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

PATH=${KUBEBUILDER_ASSETS:+$KUBEBUILDER_ASSETS:}$PATH
for program in etcd kube-apiserver kubectl helm openssl; do
    command -v "$program" >/dev/null || {
        echo "kube-api: $program is missing: put it in PATH or in the folder KUBEBUILDER_ASSETS" >&2
        exit 1
    }
done

# No test here runs Usher, so it is not built.
export PATH USHER_BIN=${USHER_BIN:-$(type -P true)}
exec scripts/test-chart.sh tests/kube "$@"
