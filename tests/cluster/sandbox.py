"""A root directory of its own for the commands of one node, so that documents can say /data, /litefs and /etc/litefs.yml.

A mount namespace in which a tmpfs is the root: the programs of this machine, a copy of its /etc, litefwd and LiteFS in its
/sbin, and nothing else of it can be changed. What is mounted there, nobody else sees, and it is gone with the namespace.
Commands that start daemons find them alive at the next command. Needs root.
"""
import os
import signal
import subprocess

from cluster import HarnessError, find_binary, slow_factor, wait_until

# $1: the new root; then pairs SOURCE TARGET to be bound into it. Says "ready" when that is its own root, too, and stays.
_SETUP = r"""
root=$1
shift
mount --make-rprivate /
mount -t tmpfs -o mode=755 litefwd-docs "$root"
mkdir "$root/sbin" "$root/etc" "$root/tmp" "$root/run" "$root/var" "$root/var/tmp" "$root/root"
chmod 1777 "$root/tmp" "$root/var/tmp"
for name in usr bin lib lib32 lib64 libx32 opt dev sys proc; do
	[ -e "/$name" ] || continue
	if [ -L "/$name" ]; then cp -P "/$name" "$root/$name"; continue; fi
	mkdir "$root/$name"
	mount --rbind "/$name" "$root/$name"
done
cp -a /etc/. "$root/etc" 2>/dev/null || :
ln -s /usr/sbin/* "$root/sbin"
while [ $# -gt 0 ]; do
	if [ -d "$1" ]; then mkdir -p "$root$2"; mount --rbind "$1" "$root$2"; else rm -f "$root$2"; cp "$1" "$root$2"; fi
	shift 2
done
ln -sf litefwd "$root/sbin/mount.litefwd"
exec chroot "$root" sh -c 'echo ready; exec cat >/dev/null'
"""


class Sandbox:
    """with Sandbox(cluster, directory, {source: target}) as sandbox: ...

    directory: an empty one, of the caller's. Directories are bound, files copied. The cluster's processes do not see it, and
    its sweep ends what a document has left running.
    """

    def __init__(self, cluster, directory, files):
        self.cluster = cluster
        self.directory = directory
        files = {find_binary("LITEFWD", "litefwd"): "/sbin/litefwd", cluster.litefs_binary: "/sbin/litefs", **files}
        self.holder = cluster.spawn(["unshare", "--mount", "sh", "-euc", _SETUP, "sh", directory, *sum(files.items(), ())],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, name="sandbox")
        if self.holder.stdout.readline() != b"ready\n":
            raise HarnessError(f"no sandbox: {self._errors()}")

    def _errors(self):
        with open(os.path.join(self.cluster.logs, "sandbox.err"), encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:]

    def run(self, text, timeout=60):
        """(exit status, what it printed on both) of a script in sh; the first command that fails ends it."""
        output = os.path.join(self.cluster.base, "output")
        with open(output, "wb") as file:  # no pipe: a daemon that it starts would hold it
            child = self.cluster.spawn(["nsenter", f"--target={self.holder.pid}", "--mount", "--root", "env", "--chdir=/root",
                                        "PATH=/sbin:/usr/sbin:/usr/bin:/bin", "HOME=/root", "LC_ALL=C", "no_proxy=*", "sh", "-euc", text],
                                       stdout=file, stderr=file)
            try:
                code = child.wait(timeout * slow_factor())
            except subprocess.TimeoutExpired:
                child.kill()
                code = None
        with open(output, encoding="utf-8", errors="replace") as file:
            said = file.read()
        if code is None:
            raise HarnessError(f"hangs for more than {timeout} s: {text}\n{said}")
        return code, said

    def pids(self):
        """Who lives in it, but for the one that keeps it open."""
        mine = os.readlink(f"/proc/{self.holder.pid}/ns/mnt")
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and int(entry) != self.holder.pid and os.readlink(f"/proc/{entry}/ns/mnt") == mine:
                    found.append(int(entry))
            except OSError:
                pass
        return found

    def close(self):
        """Ends what is left in it as an administrator would, then for good."""
        if self.holder.poll() is None:
            for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
                for pid in self.pids():
                    try:
                        os.kill(pid, number)
                    except ProcessLookupError:
                        pass
                try:
                    wait_until("the sandbox is empty", lambda: not self.pids(), seconds)
                    break
                except HarnessError:
                    if number == signal.SIGKILL:
                        raise
            self.holder.stdin.close()
            self.holder.wait(20 * slow_factor())

    def __enter__(self):
        return self

    def __exit__(self, kind, _value, _traceback):
        try:
            self.close()
        except HarnessError:
            if kind is None:
                raise
