#!/usr/bin/env bash
# Makes the files that docker-compose.yaml takes its secrets from, where they are not there yet.
# Docker hands files in as they are: each must be readable for the user that its container runs as.
set -euo pipefail

folder="$(cd "$(dirname "$0")" && pwd)/secrets"
keys_command=${KEYS_COMMAND:-python -m selfilter_ray.service.http.keys}
mkdir -p "$folder"
chmod 0711 "$folder"

random() {
  head --bytes=32 /dev/urandom | od --address-radix=n --format=x1 | tr -d ' \n'
}

# owned NAME UID: the file for that user alone; without root, for this user and group.
owned() {
  chmod 0400 "$folder/$1"
  if [ "$(id -u)" -eq 0 ]; then
    chown "$2" "$folder/$1"
  elif [ "$(id -u)" -ne "$2" ]; then
    chmod 0444 "$folder/$1"
    echo "make_secrets.sh: $1 is readable for all users of this machine: run this as root" >&2
  fi
}

umask 077
for name in postgresql_password grafana_password; do
  [ -s "$folder/$name" ] || random >"$folder/$name"
done
if [ ! -s "$folder/pgpass" ]; then
  printf 'postgresql:5432:selfilter:selfilter:%s\n' "$(cat "$folder/postgresql_password")" >"$folder/pgpass"
fi
if [ ! -s "$folder/keys" ]; then
  # The lines hold hashes; the keys themselves are shown now, on the terminal, and never again.
  for scope in data admin; do
    $keys_command "$scope-$(date +%Y%m%d)" "$scope" >>"$folder/keys"
  done
fi
owned keys 1000
owned pgpass 1000
owned postgresql_password 70
owned grafana_password 472
