#!/bin/bash
# Put a backup in the place of a server's data; run by the role mysql_backup.
#   restore.sh BACKUP DATADIR SOCKET ADMIN SECONDS STOP START
# STOP and START are commands.  The server runs until the backup is copied, and nothing of it is touched
# where that can't be.  The data that was there is kept as DATADIR.before-TIME.  A slave
# has the position of the backup then; whom it follows it is told by the role mysql_replication.
set -euo pipefail
backup=$1 datadir=$2 socket=$3 admin=$4 seconds=$5 stop=$6 start=$7
new=$datadir.restoring folder=$(dirname "$datadir") before=
owner=$(stat --format %U:%G "$folder")

end() { rm -rf "$new"; }
trap end EXIT
fail() {
  echo "$1" >&2
  exit 1
}
unchanged() { fail "$1; nothing was changed"; }
# Of a server whose data are the restored ones.
unwell() {
  if [[ -z $before ]]; then fail "$1; there was no data before"; fi
  fail "$1; the data that was there before is $before.  To have it back: $stop; mv $datadir $datadir.restored; mv $before $datadir; $start"
}

# Before a full disk stops the server: room for the copy, unless the file system lets both share their blocks.
end
[[ -e $backup/lj-checksums ]] || unchanged "$backup is no backup of the kit: it has no lj-checksums"
size=$(du -sm "$backup" | cut -f1) room=$(df -m --output=avail "$folder" | tail -n 1)
if cp --reflink=always "$backup/lj-checksums" "$new" 2>/dev/null; then size=0; fi
end
((room > size)) || unchanged "no room: the backup takes $size MB, and $folder has ${room// /} MB"
cp --archive --reflink=auto "$backup" "$new" || unchanged "the backup can't be copied"
chown -R "$owner" "$new"
chmod 0700 "$new"

bash -c "$stop" || unchanged "the server can't be stopped"
swap() {
  if [[ -e $datadir ]]; then
    before=$datadir.before-$(date -u +%Y%m%dT%H%M%SZ)
    mv --no-target-directory "$datadir" "$before" || return
  fi
  mv --no-target-directory "$new" "$datadir"
}
if ! swap; then
  if [[ -n $before && ! -e $datadir ]]; then mv --no-target-directory "$before" "$datadir"; fi
  bash -c "$start" || true
  unchanged "$datadir can't be moved (is it a mount point? mount the folder above it instead)"
fi
bash -c "$start" || unwell "the server does not start on the restored data: see its log"

ask() { mariadb --no-defaults --batch --skip-column-names "--user=$admin" "--socket=$socket" --execute "$1"; }
for ((waited = 0; ; waited++)); do
  if ask 'SELECT 1' >/dev/null 2>&1; then break; fi
  ((waited < seconds * 5)) || unwell "the server does not answer on the restored data: see its log"
  sleep 0.2
done
# shellcheck disable=SC2016
tables=$(cut -f1 "$datadir/lj-checksums" | sed 's/\([^.]*\)\.\(.*\)/`\1`.`\2`/')
if [[ -n $tables ]]; then
  ask "CHECKSUM TABLE ${tables//$'\n'/, }" | cmp --quiet - "$datadir/lj-checksums" ||
    unwell "tables have not what the backup had"
fi
# Written by mariadb-backup --slave-info: SET GLOBAL gtid_slave_pos = '...'; CHANGE MASTER ...
for info in "$datadir"/{xtrabackup,mariadb_backup}_slave_info; do
  if [[ -e $info ]]; then
    position=$(grep --only-matching "gtid_slave_pos *= *'[^']*'" "$info" | head -n 1) ||
      unwell "$info has no gtid_slave_pos: the slave did not follow by GTID when the backup was made"
    # Its own binary log is new, and has nothing that could contradict.
    ask "RESET MASTER; SET GLOBAL $position" || unwell "the position $position can't be set"
  fi
done
echo "the data of $backup is in place, $(wc -l <"$datadir/lj-checksums") tables are what they were; what was there before is ${before:-nothing}"
