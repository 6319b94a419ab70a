#!/bin/bash
# packages.sh LIST: Debian packages that the tests need, one name a line.
# Root gets what is missing; anybody else is told.
set -euo pipefail

missing=()
while read -r name; do
  state=$(dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null || true)
  [[ $state == installed ]] || missing+=("$name")
done < <(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$1")

if (( ${#missing[@]} == 0 )); then
  exit 0
fi
if (( EUID != 0 )); then
  printf '%s\n' "The tests need Debian packages that are not installed. As root:" \
    "  apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

# Servers that packages bring must not start: tests start their own.  A policy
# that is there already is left alone.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet
apt-get install --quiet --yes --no-install-recommends "${missing[@]}"
