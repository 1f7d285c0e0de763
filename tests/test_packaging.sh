#!/bin/sh
# What can be said of the packaging without building or installing anything. The rest: make lint-deb, make check-debian. TAP.
set -u

top=${top_srcdir:-$(dirname "$0")/..}
litefwd=${LITEFWD:-./litefwd}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0

ok() { # NAME STATUS
	n=$((n + 1))
	if [ "$2" = 0 ]; then echo "ok $n - $1"; else echo "not ok $n - $1"; fi
}

echo "1..6"

# systemd.exec(5): each of these gives a unit a mount namespace, where others do not see what it mounts.
cat >"$dir/namespaces" <<'END'
BindPaths BindReadOnlyPaths DynamicUser ExecPaths ExtensionDirectories ExtensionImages InaccessiblePaths LogNamespace MountAPIVFS MountFlags
MountImages NoExecPaths PrivateDevices PrivateIPC PrivateMounts PrivateNetwork PrivateTmp PrivateUsers ProcSubset ProtectControlGroups
ProtectHome ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectProc ProtectSystem ReadOnlyPaths ReadWritePaths RootDirectory
RootImage TemporaryFileSystem
END
pattern=$(tr ' ' '\n' <"$dir/namespaces" | grep . | paste -s -d '|')
status=0
for unit in "litefwd@.service.in" litefs.service; do
	grep -q '^ExecStart=' "$top/packaging/systemd/$unit" || status=1
	if grep -nE "^($pattern)=" "$top/packaging/systemd/$unit" >"$dir/found"; then
		sed "s/^/# $unit: /" "$dir/found"
		status=1
	fi
done
ok unit__options__none_gives_it_a_mount_namespace $status

version=$("$litefwd" --version | awk '{ print $2 }')
status=1
[ -n "$version" ] && head -n 1 "$top/packaging/debian/changelog" | grep -qF "litefwd ($version-" &&
	grep -qE "^Version: +$version\$" "$top/packaging/rpm/litefwd.spec" && status=0
ok version__debian_and_rpm__same_as_the_program $status

# The example is read without a complaint: what is missing then is LiteFS' own file.
"$litefwd" -f -o "config=$top/packaging/systemd/data.conf,wait=0,state_dir=$dir,litefs_config=$dir/missing.yml" "$dir" >"$dir/said" 2>&1
if [ $? = 1 ] && grep -q "missing.yml.*No such file" "$dir/said"; then status=0; else
	status=1
	sed 's/^/# /' "$dir/said"
fi
ok example__data_conf__understood $status

# The image's LiteFS configuration, with what is given to the container.
HOSTNAME=node CONSUL_URL=http://consul:8500 "$litefwd" -f -o "litefs_config=$top/packaging/container/litefs.yml,wait=0,state_dir=$dir" "$dir/data" \
	>"$dir/said" 2>&1
if [ $? != 2 ] && grep -qE "^litefwd: (/litefs is no LiteFS mount|/dev/fuse|fusermount3)" "$dir/said"; then status=0; else
	status=1
	sed 's/^/# /' "$dir/said"
fi
ok example__container_litefs_yml__understood $status

status=0
for script in litefwd.prerm litefwd.postinst litefwd.postrm; do
	sh -n "$top/packaging/debian/$script" || status=1
done
bash -n "$top/packaging/container/litefwd-entry" || status=1
ok scripts__syntax__fine $status

# prerm and the spec's %preun read the mount table: blanks in a mountpoint are \040 there.
sed -n '/^mountpoints() {$/,/^}$/p' "$top/packaging/debian/litefwd.prerm" | sed "s,/proc/self/mountinfo,$dir/mountinfo," >"$dir/functions"
cat >"$dir/mountinfo" <<'END'
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 21 0:30 / /data rw,nosuid shared:5 - fuse.litefwd /litefs rw,user_id=0
31 21 0:31 / /litefs rw,nosuid shared:6 master:1 - fuse litefs rw
32 21 0:32 / /with\040blank rw - fuse.litefwd /litefs2 rw
33 21 0:33 / /sshfs - rw - fuse.sshfs host: rw
END
(. "$dir/functions" && mountpoints) >"$dir/found"
printf '/data\n/with\\040blank\n' | cmp -s - "$dir/found"
ok prerm__mount_table__its_own_mounts_are_found $?
