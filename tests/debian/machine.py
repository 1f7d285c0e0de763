"""A fresh Debian 12, booted: debootstrap's tree with systemd as process 1, by systemd-nspawn.

What it is for: to do on a machine what an administrator does, with the packages and the documents alone. It refuses to know
what a test tests.

- Trees are layers of overlayfs. The first (debootstrap) is kept in the build directory, for it takes a minute and a mirror.
- The machine has a network of its own, which is loopback alone: what it needs of Debian's mirror is fetched before it is booted.
- Nothing outlives close(): the machine's processes are all below nspawn's cgroup, its mounts in its own namespace. If the
  harness is killed by -9 nspawn goes with it (PR_SET_PDEATHSIG).

Needs root, /dev/fuse, debootstrap, systemd-container. Its own kernel is the host's: that of a fresh Debian is not shown.
"""
import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SUITE = "bookworm"
# What every installed Debian has, what LiteFS needs (fuse3), and the user's own applications.
INCLUDE = "systemd,systemd-sysv,dbus,procps,fuse3,sqlite3,python3"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MachineError(AssertionError):
    pass


def slow_factor():
    return float(os.environ.get("LITEFWD_TEST_SLOW", "1"))


def wait_until(what, predicate, timeout=60):
    deadline = time.monotonic() + timeout * slow_factor()
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise MachineError(f"timed out after {timeout} s: {what}")
        time.sleep(0.05)


def host(argv, **more):
    """Runs on this machine: its output; MachineError with what it said if it fails."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **more)
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        raise MachineError(f"exit {done.returncode}: {argv}\n{text}")
    return text


def mirror():
    """The one that this machine uses."""
    for line in host(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)"]).splitlines():
        site, release, component = (line.split() + ["", ""])[:3]
        if release == SUITE and component == "main":
            return site
    raise MachineError(f"no Debian mirror for {SUITE} is configured here")


def base_tree(directory):
    """A fresh Debian, made once: the finished one has the name without a suffix."""
    tree = os.path.join(directory, "debian-" + SUITE)
    if not os.path.isdir(tree):
        shutil.rmtree(tree + ".tmp", ignore_errors=True)
        host(["debootstrap", "--variant=minbase", "--include=" + INCLUDE, SUITE, tree + ".tmp", mirror()])
        shutil.rmtree(os.path.join(tree + ".tmp", "var/cache/apt/archives"), ignore_errors=True)
        os.rename(tree + ".tmp", tree)
    return tree


class Tree:
    """Layers, the last one on top and written to. As a directory: .root."""

    def __init__(self, base, *lower):
        self.base = base
        self.root = os.path.join(base, "root")
        self.upper = os.path.join(base, "upper")
        for path in (self.root, self.upper, os.path.join(base, "work")):
            os.makedirs(path)
        layers = ":".join(reversed(lower))
        host(["mount", "-t", "overlay", "overlay", "-o",
              f"lowerdir={layers},upperdir={self.upper},workdir={os.path.join(base, 'work')}", self.root])

    def path(self, path):
        return os.path.join(self.root, path.lstrip("/"))

    def write(self, path, text, mode=0o644):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(self.path(path), mode)

    def copy(self, source, path, mode=0o755):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        shutil.copyfile(source, self.path(path))
        os.chmod(self.path(path), mode)

    def chroot(self, script):
        """With this machine's network: only for what fetches packages. Nothing is started in it."""
        shutil.copyfile("/etc/resolv.conf", self.path("/etc/resolv.conf"))
        self.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
        try:
            return host(["unshare", "--mount", "--pid", "--fork", "--kill-child", "chroot", self.root, "/bin/sh", "-ec",
                         "mount -t proc proc /proc\n" + script],
                        env={"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "HOME": "/root"})
        finally:
            os.unlink(self.path("/usr/sbin/policy-rc.d"))

    def close(self):
        subprocess.run(["umount", "-q", self.root], check=False)


def _cgroups():
    """Directories of this process in the hierarchies that systemd cares for: its own (v1), and the unified one."""
    mounts = {}
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        for line in table:
            fields, _, rest = line.partition(" - ")
            kind, _, options = rest.split()[:3]
            if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
                mounts[kind] = fields.split()[4]
    with open("/proc/self/cgroup", encoding="utf-8") as table:
        for line in table:
            number, names, path = line.rstrip("\n").split(":", 2)
            kind = "cgroup2" if number == "0" else "cgroup" if names == "name=systemd" else None
            if kind in mounts:
                yield mounts[kind] + path.rstrip("/")


def _children(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]
    return []


class Machine:
    """with Machine(tree) as machine: booted."""

    def __init__(self, tree, log):
        self.tree = tree
        self.log = log
        self.nspawn = None
        self.leader = None
        self.cgroups = []

    def __enter__(self):
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind, value, traceback):
        if kind is not None and self.leader:
            with contextlib.suppress(Exception):
                print(self.run("journalctl --no-pager -q -n 120 -o short-monotonic; systemctl list-units --failed --no-pager", check=False))
        self.close()

    def boot(self):
        for directory in _cgroups():
            path = os.path.join(directory, f"litefwd-check-{os.getpid()}")
            os.makedirs(path, exist_ok=True)
            self.cgroups.append(path)
        libc = ctypes.CDLL(None)

        def in_child():
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            for path in self.cgroups:
                with open(os.path.join(path, "cgroup.procs"), "w", encoding="ascii") as file:
                    file.write("0")
        with open(self.log, "ab") as log:
            self.nspawn = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--directory", self.tree.root, "--boot", "--register=no", "--keep-unit",
                 "--private-network", "--bind=/dev/fuse", "--capability=all", "--console=pipe", "--machine=fresh",
                 "--resolv-conf=off", "--link-journal=no"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=in_child, start_new_session=True)
        self.leader = wait_until("systemd is process 1 of the machine", self._find_leader)
        wait_until("the machine has booted", lambda: self.run(
            "systemctl is-system-running --wait || true", check=False).strip() in ("running", "degraded"), 120)

    def _find_leader(self):
        if self.nspawn.poll() is not None:
            raise MachineError(f"systemd-nspawn has ended with {self.nspawn.returncode}:\n{open(self.log, encoding='utf-8').read()[-3000:]}")
        todo = [self.nspawn.pid]
        while todo:
            pid = todo.pop()
            with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
                ids = re.search(r"^NSpid:(.*)$", file.read(), re.M)[1].split()
                with open(f"/proc/{pid}/comm", encoding="utf-8") as comm:
                    if len(ids) > 1 and ids[-1] == "1" and comm.read().strip() == "systemd":
                        return pid
            todo += _children(pid)
        return None

    def _argv(self, script):
        return ["nsenter", "--target", str(self.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wdns=/", "--",
                "/usr/bin/env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8", "HOME=/root", "TERM=dumb", "DEBIAN_FRONTEND=noninteractive",
                "/bin/sh", "-ec", script]

    def run(self, script, check=True, timeout=120):
        """As root on the machine, by its shell: stdout and stderr; MachineError if it fails."""
        try:
            done = subprocess.run(self._argv(script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  check=False, timeout=timeout * slow_factor())
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"hangs for more than {timeout} s: {script}\n{(error.stdout or b'').decode(errors='replace')}") from None
        text = done.stdout.decode(errors="replace")
        if check and done.returncode:
            raise MachineError(f"exit {done.returncode}: {script}\n{text}")
        return text

    def fails(self, script):
        """The script must fail: what it said."""
        done = subprocess.run(self._argv(script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              check=False, timeout=120 * slow_factor())
        text = done.stdout.decode(errors="replace")
        assert done.returncode, f"it was to fail, and did not: {script}\n{text}"
        return text

    def start(self, script):
        """The same, in the background."""
        return subprocess.Popen(self._argv(script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def reboot(self):
        self.power_off()
        self.nspawn = self.leader = None
        self.boot()

    def power_off(self):
        """As an administrator would: units are stopped in order."""
        self.run("systemctl poweroff", check=False)
        try:
            self.nspawn.wait(90 * slow_factor())
        except subprocess.TimeoutExpired:
            raise MachineError("the machine does not end within 90 s of poweroff") from None

    def close(self):
        if self.nspawn and self.nspawn.poll() is None:
            self.nspawn.kill()
            self.nspawn.wait(30)
        for path in self.cgroups:
            self._empty(path)

    @staticmethod
    def _empty(path):
        for _ in range(200):
            pids = []
            for directory, _, _ in os.walk(path):
                with contextlib.suppress(OSError), open(os.path.join(directory, "cgroup.procs"), encoding="ascii") as file:
                    pids += [int(pid) for pid in file.read().split()]
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.05)
        for directory, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def temporary(directory):
    return tempfile.mkdtemp(prefix="check-", dir=directory)


if __name__ == "__main__":
    sys.exit("a module; run tests/debian/check.py")
