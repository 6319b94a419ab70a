#!/bin/bash
# hello.sh SITE_FILE: where the site is, and what to try next.
set -euo pipefail

url=$(sed -n '/^\[journal\]/,/^\[/s/^url = "\(.*\)"$/\1/p' "$1")
cat <<END

The site runs at  $url

  open it in a browser, sign up, write something; add ?debug=1 to see which
  cluster and which cache server answered
  make status         what runs
  make logs           what it says
  .venv/bin/lj perlbal console show pool webs   what the load balancer sends where
  .venv/bin/lj users list
  .venv/bin/lj memcached stats
  .venv/bin/lj users move NAME 2   to cluster 2, while they write; lj moves shows it
  make down           stop it; the data stays in var/

END
