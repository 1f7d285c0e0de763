#!/bin/sh
# The command line as a user meets it: usage errors, messages, exit codes. No root, no network, nothing mounted. TAP.
set -u

top=${top_srcdir:-$(dirname "$0")/..}
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
expect option__misspelt__nearest_named 2 "is halt_timeout=TIME meant?" -o ro,hault_timeout=1s "$dir/src" "$dir/mnt"
expect option__part_of_a_name__that_one_named 2 "is halt_linger=TIME meant?" -o linger=1s "$dir/src" "$dir/mnt"
expect option__remount__says_what_to_do 2 "cannot be remounted: umount it" -o remount,ro "$dir/src" "$dir/mnt"
expect option__unknown_with_value__named 2 'unknown option "hault_timeout=1s"' -o ro,hault_timeout=1s "$dir/src" "$dir/mnt"
expect option__value_missing__usage 2 "option state_dir needs a value" -o state_dir "$dir/src" "$dir/mnt"
expect option__value_too_many__usage 2 "option ro takes no value" -o ro=1 "$dir/src" "$dir/mnt"
expect option__bad_time__says_what_is_expected 2 "a time such as" -o halt_timeout=ten "$dir/src" "$dir/mnt"
expect option__bad_size__says_what_is_expected 2 "a size such as" -o spool_threshold=16X "$dir/src" "$dir/mnt"
expect option__https__says_what_is_expected 2 "no https" -o litefs_url=https://localhost "$dir/src" "$dir/mnt"
expect option__hold_beyond_the_locks_life__usage 2 "out of bounds: from 0 to 15s" -o halt_max_hold=30s "$dir/src" "$dir/mnt"
expect option__no_time_at_all__usage 2 "out of bounds: from 10ms to 24h" -o halt_timeout=0 "$dir/src" "$dir/mnt"
expect option__size_out_of_bounds__usage 2 "out of bounds: from 0 to 64G" -o spool_threshold=1000G "$dir/src" "$dir/mnt"
expect option__config_missing__failed 1 "No such file" -o "litefs_config=$dir/none.yml" "$dir/src" "$dir/mnt"
expect gateway__no_address__says_what_is_expected 2 "an address and a port" -o gateway=here:1 "$dir/src" "$dir/mnt"
expect gateway__open_to_others__says_what_to_do 1 "give gateway_secret=FILE" -o gateway=0.0.0.0:1 "$dir/src" "$dir/mnt"
expect gateway_secret__missing__failed 1 "No such file" -o "gateway_secret=$dir/none" "$dir/src" "$dir/mnt"

printf 0123456789abcdef >"$dir/secret"
chmod 640 "$dir/secret"
expect gateway_secret__others_may_read__says_what_to_do 1 "chmod 600" -o "gateway_secret=$dir/secret" "$dir/src" "$dir/mnt"
printf 123 >"$dir/short"
chmod 600 "$dir/short"
expect gateway_secret__too_short__says_what_is_expected 1 "16 to 256 bytes" -o "gateway_secret=$dir/short" "$dir/src" "$dir/mnt"

# litefwd.conf
conf() { printf '%s\n' "$@" >"$dir/litefwd.conf"; }
conf "# comment" "halt_timout = 1s"
expect conf__misspelt_option__file_line_and_nearest 2 "litefwd.conf:2: unknown option \"halt_timout=1s\": is halt_timeout=TIME meant?" \
	-o "config=$dir/litefwd.conf" "$dir/src" "$dir/mnt"
conf "allow_other" "" "wait = soon"
expect conf__bad_value__file_line_and_what_is_expected 2 "litefwd.conf:3: wait=soon: expected a time" \
	-o "config=$dir/litefwd.conf" "$dir/src" "$dir/mnt"
conf "allow_other,ro"
expect conf__mount_options_in_a_line__says_what_to_do 2 "one option a line" -o "config=$dir/litefwd.conf" "$dir/src" "$dir/mnt"
conf "config = /etc/other.conf"
expect conf__another_one_in_it__refused 2 "one file does not read another" -o "config=$dir/litefwd.conf" "$dir/src" "$dir/mnt"
conf "ro"
chmod 666 "$dir/litefwd.conf"
expect conf__everybody_may_write__says_what_to_do 2 "chmod o-w" -o "config=$dir/litefwd.conf" "$dir/src" "$dir/mnt"
expect conf__missing__named 2 "none.conf: No such file" -o "config=$dir/none.conf" "$dir/src" "$dir/mnt"

# litefs.yml
expect litefs_dir__left_out_without_litefs_config__usage 2 "may be left out with litefs_config=FILE" "$dir/mnt"
expect litefs_dir__none_without_litefs_config__usage 2 "needs litefs_config=FILE" none "$dir/mnt"
printf 'fuse: {dir: here}\nlease: {type: static}\n' >"$dir/litefs.yml"
expect litefs_config__relative_dir__says_what_to_do 1 'fuse.dir "here" depends on where LiteFS was started: give LITEFS_DIR' \
	-o "litefs_config=$dir/litefs.yml" "$dir/mnt"
printf 'fuse:\n  dir: [a]\n' >"$dir/litefs.yml"
expect litefs_config__broken__file_and_line 1 "litefs.yml: line 2: must be a single value" -o "litefs_config=$dir/litefs.yml" "$dir/mnt"
printf 'lease: {type: paxos}\n' >"$dir/litefs.yml"
expect litefs_config__unknown_lease__says_what_to_do 1 "say where the primary is with -o primary_url=" \
	-o "litefs_config=$dir/litefs.yml" "$dir/mnt"
printf 'lease: {type: consul, consul: {url: "https://c:8501", key: k}}\n' >"$dir/litefs.yml"
expect litefs_config__consul_over_https__says_what_to_do 1 "primary_url" -o "litefs_config=$dir/litefs.yml" "$dir/mnt"
printf 'fuse: {dir: here}\nlease: {type: static, hostname: $LFT_UNSET}\n' >"$dir/litefs.yml"
expect litefs_config__variable_not_set__named 1 "the variable LFT_UNSET is not set here" -o "litefs_config=$dir/litefs.yml" "$dir/mnt"
expect command_options__unknown_format__usage 2 "usage: litefwd options" options --nonsense

# Every default of the example of a litefwd.conf is accepted where it stands: then the directory is what is complained about.
sed -n 's/^#\([a-z_]* = [^A-Z]*\)$/\1/p' "$top/docs/litefwd.conf" >"$dir/litefwd.conf"
chmod 644 "$dir/litefwd.conf"
[ "$(wc -l <"$dir/litefwd.conf")" -ge 8 ] || exit 1

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
litefs_missing conf__defaults_of_the_example__accepted "nothing is mounted there" -f -o "config=$dir/litefwd.conf,$fast" "$dir/src" "$dir/mnt"
printf 'fuse: {dir: "%s"}\nlease: {type: static}\n' "$dir/src" >"$dir/litefs.yml"
litefs_missing litefs_dir__left_out__that_of_litefs_yml "$dir/src is no LiteFS mount" -f -o "$fast,litefs_config=$dir/litefs.yml" "$dir/mnt"
litefs_missing litefs_dir__none__that_of_litefs_yml "$dir/src is no LiteFS mount" -f -o "$fast,litefs_config=$dir/litefs.yml" none "$dir/mnt"
litefs_missing litefs_dir__plain_directory__exit_3 "nothing is mounted there" -f -o "$fast" "$dir/src" "$dir/mnt"
litefs_missing litefs_dir__missing__exit_3 "it does not exist" -f -o "$fast" "$dir/none" "$dir/mnt"
litefs_missing litefs_dir__other_file_system__exit_3 "is not LiteFS" -f -o "$fast" /proc "$dir/mnt"
litefs_missing litefs_dir__daemon__exit_3 "nothing is mounted there" -o "$fast" "$dir/src" "$dir/mnt"
litefs_missing mount_options__of_fstab__accepted "nothing is mounted there" \
	-o "rw,noatime,nosuid,nodev,_netdev,noauto,nofail,x-systemd.requires=litefs.service,comment=a,dev,suid,exec,noexec,auto,user,$fast" \
	"$dir/src" "$dir/mnt"

echo "1..$n"
