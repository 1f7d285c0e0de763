#!/bin/sh
# The command line as a user meets it: usage errors, messages, exit codes. No root, no network, nothing mounted. TAP.
set -u

litefwd=${LITEFWD:-./litefwd}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0

# Runs litefwd and demands its exit code and a text in what it says on stderr (or stdout when it exits with 0).
expect() { # NAME CODE TEXT ARGUMENT...
	name=$1 code=$2 text=$3
	shift 3
	n=$((n + 1))
	timeout 60 "$litefwd" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	got=$?
	if [ "$code" = 0 ]; then said=$dir/out; else said=$dir/err; fi
	if [ "$got" = "$code" ] && grep -qF -- "$text" "$said"; then
		echo "ok $n - $name"
	else
		echo "not ok $n - $name"
		echo "# exit $got, expected $code, and this in the message: $text"
		sed 's/^/# /' "$dir/out" "$dir/err"
	fi
}

mkdir "$dir/src" "$dir/mnt"
fast=wait=0,state_dir=$dir/state

echo "1..35"
expect help__asked__exit_0 0 "usage: litefwd" --help
expect help__short_letter__exit_0 0 "usage: litefwd" -h
expect help__beside_other_arguments__exit_0 0 "usage: litefwd" -f "$dir/src" --help
expect version__asked__exit_0 0 "litefwd 0." --version
expect arguments__none__usage 2 "LITEFS_DIR and MOUNTPOINT are missing"
expect arguments__one__usage 2 "MOUNTPOINT is missing" "$dir/src"
expect arguments__three__usage 2 "too many arguments" "$dir/src" "$dir/mnt" "$dir/x"
expect arguments__empty__usage 2 "no directory" "" "$dir/mnt"
expect letter__unknown__named 2 'unknown option "-Z"' -Z "$dir/src" "$dir/mnt"
expect letter__o_without_value__usage 2 "-o needs options" "$dir/src" "$dir/mnt" -o
expect option__unknown__named 2 'unknown option "linger"' -o linger "$dir/src" "$dir/mnt"
expect option__unknown_with_value__named 2 'unknown option "hault_timeout=1s"' -o ro,hault_timeout=1s "$dir/src" "$dir/mnt"
expect option__value_missing__usage 2 "option state_dir needs a value" -o state_dir "$dir/src" "$dir/mnt"
expect option__value_too_many__usage 2 "option ro takes no value" -o ro=1 "$dir/src" "$dir/mnt"
expect option__bad_time__says_what_is_expected 2 "a time such as" -o halt_timeout=ten "$dir/src" "$dir/mnt"
expect option__bad_size__says_what_is_expected 2 "a size such as" -o spool_threshold=16X "$dir/src" "$dir/mnt"
expect option__https__says_what_is_expected 2 "no https" -o litefs_url=https://localhost "$dir/src" "$dir/mnt"
expect option__hold_beyond_the_locks_life__usage 2 "out of bounds: from 0 to 15s" -o halt_max_hold=30s "$dir/src" "$dir/mnt"
expect option__config_missing__failed 1 "No such file" -o "litefs_config=$dir/none.yml" "$dir/src" "$dir/mnt"
expect gateway__no_address__says_what_is_expected 2 "an address and a port" -o gateway=here:1 "$dir/src" "$dir/mnt"
expect gateway__open_to_others__says_what_to_do 1 "give gateway_secret=FILE" -o gateway=0.0.0.0:1 "$dir/src" "$dir/mnt"
expect gateway_secret__missing__failed 1 "No such file" -o "gateway_secret=$dir/none" "$dir/src" "$dir/mnt"

expect status__help__exit_0 0 "usage: litefwd status" status --help
expect status__no_mountpoint__usage 3 "usage: litefwd status" status --json
expect status__plain_directory__not_mounted 2 "no litefwd is mounted there" status "$dir/src"
echo '{"version": "1", "health": {"state": "well"}}' >"$dir/src/.litefwd"
expect status__copy_of_the_file_in_a_backup__not_mounted 2 "no litefwd is mounted there" status "$dir/src"
rm "$dir/src/.litefwd"
expect check__help__exit_0 0 "usage: litefwd check" check --help
expect check__letter__usage 3 "usage: litefwd check" check -f "$dir/src"
expect check__no_directory__usage 3 "needs litefs_config=FILE" check
expect metrics__no_address__says_what_is_expected 2 "an address and a port" -o metrics=here:1 "$dir/src" "$dir/mnt"

# From here on litefwd gets as far as looking at /dev/fuse, which may be missing where this runs.
litefs_missing() { # NAME TEXT ARGUMENT...
	name=$1 text=$2
	shift 2
	if [ -r /dev/fuse ] && [ -w /dev/fuse ]; then
		expect "$name" 3 "$text" "$@"
	else
		expect "$name" 1 "/dev/fuse" "$@"
	fi
}
litefs_missing litefs_dir__plain_directory__exit_3 "nothing is mounted there" -f -o "$fast" "$dir/src" "$dir/mnt"
litefs_missing litefs_dir__missing__exit_3 "it does not exist" -f -o "$fast" "$dir/none" "$dir/mnt"
litefs_missing litefs_dir__other_file_system__exit_3 "is not LiteFS" -f -o "$fast" /proc "$dir/mnt"
litefs_missing litefs_dir__daemon__exit_3 "nothing is mounted there" -o "$fast" "$dir/src" "$dir/mnt"
litefs_missing mount_options__of_fstab__accepted "nothing is mounted there" \
	-o "rw,noatime,nosuid,nodev,_netdev,noauto,nofail,x-systemd.requires=litefs.service,comment=a,dev,suid,exec,noexec,auto,user,$fast" \
	"$dir/src" "$dir/mnt"
