#!/bin/bash
# Put a backup in the place of a server's data; run by the role mysql_backup.
#   restore.sh BACKUP DATADIR SOCKET ADMIN SECONDS STOP START
# STOP and START are commands.  The data that was there is kept as DATADIR.before-TIME.  A slave
# has the position of the backup then; whom it follows it is told by the role mysql_replication.
set -euo pipefail
backup=$1 datadir=$2 socket=$3 admin=$4 seconds=$5 stop=$6 start=$7
new=$datadir.restoring
owner=$(stat --format %U:%G "$(dirname "$datadir")")

rm -rf "$new"
cp --archive --reflink=auto "$backup" "$new"
chown -R "$owner" "$new"
chmod 0700 "$new"

bash -c "$stop"
before=
if [[ -e $datadir ]]; then
  before=$datadir.before-$(date -u +%Y%m%dT%H%M%SZ)
  mv --no-target-directory "$datadir" "$before"
fi
mv --no-target-directory "$new" "$datadir"
bash -c "$start"

ask() { mariadb --no-defaults --batch --skip-column-names "--user=$admin" "--socket=$socket" --execute "$1"; }
fail() {
  echo "$1; the data that was there before is ${before:-nowhere}" >&2
  exit 1
}
for ((waited = 0; ; waited++)); do
  if ask 'SELECT 1' >/dev/null 2>&1; then break; fi
  ((waited < seconds * 5)) || fail "the server does not answer on the restored data"
  sleep 0.2
done
# shellcheck disable=SC2016
tables=$(cut -f1 "$datadir/lj-checksums" | sed 's/\([^.]*\)\.\(.*\)/`\1`.`\2`/')
if [[ -n $tables ]]; then
  ask "CHECKSUM TABLE ${tables//$'\n'/, }" | cmp --quiet - "$datadir/lj-checksums" ||
    fail "tables have not what the backup had"
fi
# Written by mariadb-backup --slave-info: SET GLOBAL gtid_slave_pos = '...'; CHANGE MASTER ...
for info in "$datadir"/{xtrabackup,mariadb_backup}_slave_info; do
  if [[ -e $info ]]; then
    position=$(grep --only-matching "gtid_slave_pos *= *'[^']*'" "$info" | head -n 1)
    # Its own binary log is new, and has nothing that could contradict.
    ask "RESET MASTER; SET GLOBAL $position"
  fi
done
echo "the data of $backup is in place, $(wc -l <"$datadir/lj-checksums") tables are what they were; what was there before is ${before:-nothing}"
