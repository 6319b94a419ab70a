#!/bin/bash
# Make a backup of a running MariaDB, try it, and drop old ones; run by the role mysql_backup, and
# by its timer.
#   backup.sh CONFIG SOCKET ADMIN FOLDER KEPT SECONDS slave|master
# Prints, as its last line, what it made.  What it had begun when it failed is removed; what
# the programs said is in FOLDER/last.log.  FOLDER/failed tells why the last one is none; where it
# is not there, the newest one is the last.
set -euo pipefail
config=$1 socket=$2 admin=$3 folder=$4 kept=$5 seconds=$6 kind=$7
name=$(date -u +%Y%m%dT%H%M%SZ)
part=$folder/.part trial=$folder/.trial log=$folder/last.log failed=$folder/failed
server=

exec 9>"$folder/.lock"
flock --nonblock 9 || { echo "another backup is being made in $folder" >&2; exit 1; }
end() {
  if [[ -n $server ]]; then kill -KILL "$server" 2>/dev/null || true; fi
  rm -rf "$part" "$trial"
}
trap end EXIT
fail() {
  echo "$name: $1" >"$failed"
  echo "$1" >&2
  exit 1
}
# True until something better is known, whatever ends it.
echo "$name: it did not end" >"$failed"
rm -rf "$part" "$trial"
echo "$name" >"$log"

# Before a full disk stops somebody: room for the copy, and for the second one unless the file system
# lets both share their blocks.
live() { mariadb --no-defaults --batch --skip-column-names "--user=$admin" "--socket=$socket" --execute "$1"; }
datadir=$(live 'SELECT @@datadir' 2>>"$log") || fail "the server does not answer: see $log"
size=$(du -sm "$datadir" | cut -f1) room=$(df -m --output=avail "$folder" | tail -n 1)
cp --reflink=always "$log" "$part" 2>/dev/null || size=$((2 * size))
rm -f "$part"
((room > size)) || fail "no room: a backup and its trial take $size MB, and $folder has ${room// /} MB"

words=(--backup "--target-dir=$part" "--socket=$socket" "--user=$admin")
if [[ $kind == slave ]]; then words+=(--slave-info); fi
mariadb-backup "--defaults-file=$config" "${words[@]}" >>"$log" 2>&1 9>&- || fail "the server can't be copied: see $log"
mariadb-backup --prepare "--target-dir=$part" >>"$log" 2>&1 9>&- || fail "the copy can't be made whole: see $log"

# A server on a second copy, reachable by its socket alone; it follows nobody.
cp --archive --reflink=auto "$part" "$trial"
mariadbd --no-defaults "--user=$admin" "--datadir=$trial" "--tmpdir=$trial" "--socket=$trial/s" \
  "--pid-file=$trial/pid" --skip-networking --loose-wsrep-node-address=127.0.0.1 --skip-slave-start \
  --innodb-use-native-aio=OFF \
  >>"$log" 2>&1 9>&- &
server=$!
ask() { mariadb --no-defaults --batch --skip-column-names "--user=$admin" "--socket=$trial/s" --execute "$1"; }
for ((waited = 0; ; waited++)); do
  if ask 'SELECT 1' >/dev/null 2>&1; then break; fi
  kill -0 "$server" 2>/dev/null || fail "no server comes up on the copy: see $log"
  ((waited < seconds * 5)) || fail "no server comes up on the copy in $seconds seconds: see $log"
  sleep 0.2
done
if mariadb-check --no-defaults "--user=$admin" "--socket=$trial/s" --all-databases --check --extended --silent >>"$log" 2>&1; then
  damaged=$(grep --count '^error' "$log" || true)
  [[ $damaged == 0 ]] || fail "tables of the copy are damaged: see $log"
else
  fail "tables of the copy are damaged: see $log"
fi

# What is in the tables, to be compared with what is restored.
tables=$(ask "SELECT CONCAT('\`', table_schema, '\`.\`', table_name, '\`') FROM information_schema.tables
  WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')
  ORDER BY 1")
: >"$part/lj-checksums"
if [[ -n $tables ]]; then ask "CHECKSUM TABLE ${tables//$'\n'/, }" >"$part/lj-checksums"; fi
kill "$server"
wait "$server" || true
server=
rm -rf "$trial"

sync -f "$part"
mv --no-target-directory "$part" "$folder/$name"
rm -f "$failed"
# Oldest first; names are times.
mapfile -t old < <(find "$folder" -mindepth 1 -maxdepth 1 -type d -name '2*Z' | sort | head -n "-$kept")
if ((${#old[@]})); then rm -rf "${old[@]}"; fi
echo "$folder/$name: $(du -sm "$folder/$name" | cut -f1) MB; a server came up on it and read $(wc -l <"$folder/$name/lj-checksums") tables"
