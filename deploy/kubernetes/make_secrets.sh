#!/usr/bin/env bash
# Makes the secrets that the manifests name, with random values, where they are not there yet.
#   deploy/kubernetes/make_secrets.sh KEYS_FILE
# KEYS_FILE: lines of `python -m selfilter_ray.service.http.keys NAME data|admin [LAST_DAY]`.
# Keys of the object store come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, where set.
set -euo pipefail

namespace=${NAMESPACE:-selfilter}
keys_file=${1:?usage: make_secrets.sh KEYS_FILE}
test -s "$keys_file" || { echo "make_secrets.sh: $keys_file is empty: no one could call the API" >&2; exit 2; }
umask 077
folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT

# Values go by files, never by arguments, which other users of this machine may read.
make_secret() {
  local name=$1
  shift
  if kubectl --namespace "$namespace" get secret "$name" >/dev/null 2>&1; then
    echo "$name: there already"
    return
  fi
  kubectl --namespace "$namespace" create secret generic "$name" "$@"
}

random_file() {
  head --bytes=32 /dev/urandom | od --address-radix=n --format=x1 | tr -d ' \n' >"$folder/$1"
}

for name in token redis postgresql; do random_file "$name"; done
make_secret selfilter-token --from-file=auth_token="$folder/token"
make_secret selfilter-redis --from-file=password="$folder/redis"
make_secret selfilter-postgresql --from-file=password="$folder/postgresql"
make_secret selfilter-keys --from-file=keys="$keys_file"

if [ -n "${AWS_ACCESS_KEY_ID:-}" ]; then
  stored=()
  for variable in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_ENDPOINT_URL AWS_REGION; do
    [ -n "${!variable:-}" ] || continue
    printf '%s' "${!variable}" >"$folder/$variable"
    stored+=(--from-file="$variable=$folder/$variable")
  done
  make_secret selfilter-storage "${stored[@]}"
fi
