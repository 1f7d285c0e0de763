#!/usr/bin/env python3
"""Does on a fresh, booted Debian 12 what docs/RUNNING.md says, with the package, and looks at what comes of it.

    check.py --work DIR [FILTER ...]

DIR keeps debootstrap's tree for the next time; DEB, RPM (packages), LITEFS (binary), CONTAINER (packaging/container) and RUNNING (the document)
are in the environment, see Makefile.am. One machine per test. FILTER: part of a test's name. The last line is "N passed, N failed".

Not shown: the kernel of a fresh Debian (it is this machine's), a network between nodes (the other node is a second LiteFS on the same machine),
and a container engine (the Dockerfile's steps are done one after the other in a directory).
"""
import argparse
import glob
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback

from machine import Machine, MachineError, Tree, base_tree, host, slow_factor, temporary, wait_until

DEB, LITEFS, RUNNING = (os.environ.get(name, "") for name in ("DEB", "LITEFS", "RUNNING"))
CONTAINER = os.environ.get("CONTAINER", "")
RPM, SPEC, RPMLINTRC = (os.environ.get(name, "") for name in ("RPM", "SPEC", "RPMLINTRC"))
VERSION = "0.1.0-1"

REPLICA_YML = """fuse:
  dir: "/litefs"
data:
  dir: "/var/lib/litefs"
http:
  addr: "127.0.0.1:20202"
lease:
  type: "static"
  hostname: "other"
  advertise-url: "http://127.0.0.2:20202"
  candidate: false
"""
PRIMARY_YML = REPLICA_YML.replace("/litefs\"", "/other/litefs\"").replace("/var/lib/other/litefs", "/other/data") \
    .replace("127.0.0.1", "127.0.0.2").replace("candidate: false", "candidate: true")
# Another machine, in life.
PRIMARY_UNIT = """[Unit]
Before=litefs.service
[Service]
ExecStartPre=/bin/mkdir -p /other/litefs /other/data
ExecStart=/usr/local/bin/litefs mount -config /etc/other/litefs.yml
[Install]
WantedBy=multi-user.target
"""
# Commits one row after the other, with connections of its own, and notes what was acknowledged. Any error: again, with another row.
CLIENT = r"""
import os, sqlite3, sys, time
path, name, acknowledged = sys.argv[1:]
n = errors = 0
db = None
while not os.path.exists("/run/client-stop"):
    n += 1
    try:
        if db is None:
            db = sqlite3.connect("file:%s?mode=rw" % path, uri=True, timeout=20, isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO t VALUES (?, ?)", (name, n))
        db.execute("COMMIT")
    except sqlite3.Error as error:
        errors += 1
        print(error, flush=True)
        try:
            db and db.close()
        except sqlite3.Error:
            pass
        db = None
        time.sleep(0.05)
        continue
    with open(acknowledged, "a") as file:
        file.write("%d\n" % n)
print("end", n, errors, flush=True)
"""


# ---------------------------------------------------------------- the document

def blocks(language):
    """{heading: [block, ...]}"""
    found, heading = {}, ""
    text = open(RUNNING, encoding="utf-8").read()
    for match in re.finditer(r"^## ([^\n]*)$|^```(\w+)\n(.*?)^```$", text, re.M | re.S):
        if match[1]:
            heading = match[1]
        elif match[2] == language:
            found.setdefault(heading, []).append(match[3])
    return found


def doc(heading, index=0, language="sh"):
    return blocks(language)[heading][index]


# ---------------------------------------------------------------- machines

class Place:
    """The trees that the tests begin with."""

    def __init__(self, work):
        self.work = work
        self.base = temporary(work)
        self.trees = []
        self._fresh = self._installed = None

    @property
    def fresh(self):
        """debootstrap's, with LiteFS and its settings, and what the package depends on downloaded, not installed."""
        if not self._fresh:
            self._fresh = self._make_fresh(base_tree(self.work))
        return self._fresh

    def _make_fresh(self, base):
        tree = self.tree(base)
        tree.copy(LITEFS, "/usr/local/bin/litefs")
        tree.copy(DEB, "/root/" + os.path.basename(DEB), 0o644)
        tree.write("/etc/litefs.yml", REPLICA_YML)
        tree.write("/etc/other/litefs.yml", PRIMARY_YML)
        tree.write("/etc/systemd/system/other.service", PRIMARY_UNIT)
        tree.write("/root/client.py", CLIENT)
        os.makedirs(tree.path("/litefs"))
        tree.chroot("apt-get update -qq; cd /root; apt-get install -y -qq --download-only --no-install-recommends ./litefwd_*.deb;"
                    "systemctl enable -q other.service")
        return [base, tree.upper]

    def tree(self, *lower):
        directory = os.path.join(self.base, str(len(self.trees)))
        os.mkdir(directory)
        tree = Tree(directory, *lower)
        self.trees.append(tree)
        return tree

    def machine(self, tree):
        return Machine(tree, os.path.join(tree.base, "console.log"))

    @property
    def installed(self):
        """The same with the package and LiteFS' unit, as the document says."""
        if not self._installed:
            tree = self.tree(*self.fresh)
            with self.machine(tree) as machine:
                install(machine)
                machine.power_off()
            tree.close()
            self._installed = [*self.fresh, tree.upper]
        return self._installed

    def close(self):
        for tree in reversed(self.trees):
            tree.close()
        shutil.rmtree(self.base, ignore_errors=True)


def install(machine):
    machine.run("cd /root; " + doc("The package").replace("install", "install -y -qq --no-install-recommends"))
    machine.run(doc("LiteFS as a unit"))
    wait_until("LiteFS is mounted", lambda: machine.run("ls /litefs/.primary", check=False).strip() == "/litefs/.primary")
    machine.run("sqlite3 /other/litefs/app.db 'PRAGMA journal_mode = wal; CREATE TABLE t(who, n)'")
    wait_until("the replica has it", lambda: position(machine, "/litefs") == position(machine, "/other/litefs"))


def position(machine, directory):
    return machine.run(f"cat {directory}/app.db-pos", check=False).strip()


def txid(machine):
    return int(position(machine, "/other/litefs").split("/")[0], 16)


def with_unit(machine, change="true"):
    """The document's steps, and what they promise. change: of /etc/litefwd/data.conf."""
    steps = doc("litefwd as a unit")
    assert "\nsystemctl" in steps
    machine.run(steps.replace("\nsystemctl", f"\n{change}\nsystemctl"))
    assert machine.run("systemctl is-active litefwd@data").strip() == "active"


def show(machine, *properties):
    text = machine.run("systemctl show litefwd@data " + " ".join("-p " + name for name in properties))
    return dict(line.split("=", 1) for line in text.splitlines())


def write_here(machine, n):
    """By the shell, on the replica; the primary must have moved by it."""
    before = txid(machine)
    machine.run(f"sqlite3 -cmd '.timeout 20000' /data/app.db \"INSERT INTO t VALUES ('shell', {n})\"")
    assert txid(machine) == before + 1, "nothing was forwarded"
    assert machine.run(f"sqlite3 /other/litefs/app.db 'SELECT count(*) FROM t WHERE n = {n}'").strip() == "1"


def check_acknowledged(machine, names):
    """Every acknowledged row is there, once; nobody has another history."""
    wait_until("both nodes have the same position", lambda: position(machine, "/litefs") == position(machine, "/other/litefs"))
    for name in names:
        acknowledged = [int(line) for line in machine.run(f"cat /root/{name}.ack").split()]
        rows = [int(line) for line in machine.run(
            f"sqlite3 /other/litefs/app.db \"SELECT n FROM t WHERE who = '{name}' ORDER BY rowid\"").split()]
        assert len(rows) == len(set(rows)), f"{name}: a row is there twice"
        missing = set(acknowledged) - set(rows)
        assert not missing, f"{name}: acknowledged and lost: {sorted(missing)[:10]}"
        assert acknowledged, f"{name}: nothing was written"
    assert machine.run("sqlite3 /data/app.db 'PRAGMA integrity_check'").strip() == "ok"


def acknowledged(machine, name):
    return int(machine.run(f"cat /root/{name}.ack 2>/dev/null | wc -l"))


def start_clients(machine, names):
    """Each a unit with everything private that a unit can have: a mount namespace of its own, made before litefwd's mount is."""
    for name in names:
        machine.run(f"systemd-run -q --unit={name} -p PrivateTmp=yes -p ProtectHome=no -p ProtectSystem=full -p PrivateDevices=yes "
                    f"python3 /root/client.py /data/app.db {name} /root/{name}.ack")
    progress(machine, names, 5)


def progress(machine, names, more):
    before = {name: acknowledged(machine, name) for name in names}
    wait_until(f"each client commits {more} more",
               lambda: all(acknowledged(machine, name) >= before[name] + more for name in names))


def stop_clients(machine, names):
    machine.run("touch /run/client-stop")
    wait_until("the clients have ended", lambda: all(
        machine.run(f"systemctl is-active {name}", check=False).strip() != "active" for name in names))


def newer_deb(place, version):
    """The package with another version number."""
    directory = os.path.join(place.base, "newer")
    host(["dpkg-deb", "-R", DEB, directory])
    control = os.path.join(directory, "DEBIAN/control")
    text = open(control, encoding="utf-8").read()
    with open(control, "w", encoding="utf-8") as file:
        file.write(re.sub(r"^Version: .*$", "Version: " + version, text, flags=re.M))
    path = os.path.join(place.base, "litefwd_newer.deb")
    host(["dpkg-deb", "--root-owner-group", "-b", directory, path])
    return path


# ---------------------------------------------------------------- tests

def test_install__fresh_debian__nothing_runs_and_everything_is_there(place):
    with place.machine(place.tree(*place.fresh)) as machine:
        install(machine)
        assert machine.run("systemctl list-units --all --plain --no-legend 'litefwd@*'").strip() == ""
        assert machine.run("litefwd --version").startswith("litefwd ")
        assert machine.run("stat -c '%a %U' /run/litefwd").strip() == "700 root", "tmpfiles.d"
        machine.run("test -x /sbin/mount.litefwd; test -e /usr/share/man/man8/mount.litefwd.8.gz; test -d /etc/litefwd")
        said = machine.run("systemd-analyze verify --man=no litefwd@data.service litefs.service || true")
        assert said == "", said
        assert machine.run("dpkg --audit; dpkg --verify litefwd") == ""


def test_unit__replica__ready_writable_and_seen_by_other_units(place):
    with place.machine(place.tree(*place.installed)) as machine:
        with_unit(machine, "printf 'umask = 0\\n" + re.search(r"`(metrics = [^`]*)`", open(RUNNING, encoding="utf-8").read())[1] +
                  "\\n' >>/etc/litefwd/data.conf")
        # Ready is when the local LiteFS answers; whether that has found its primary yet is another matter.
        wait_until("the status says what it is", lambda: show(machine, "StatusText")["StatusText"] == "replica, the primary is other")
        shown = show(machine, "Type", "MainPID", "WatchdogUSec")
        assert shown["WatchdogUSec"] not in ("0", "infinity")
        pid = shown["MainPID"]
        assert machine.run(f"readlink /proc/{pid}/ns/mnt /proc/1/ns/mnt | uniq | wc -l").strip() == "1", "a mount namespace of its own"
        said = machine.run(doc("litefwd as a unit", 1))
        assert "replica" in said, said
        machine.run(doc("litefwd as a unit", 2))  # litefwd check: exit status 0, all is well
        # Not the shell that started it: a unit of another user, with a mount namespace of its own.
        before = txid(machine)
        machine.run("systemd-run -q --wait --pipe -p User=nobody -p PrivateTmp=yes -p ProtectSystem=strict -p ReadWritePaths=/data "
                    "sqlite3 -cmd '.timeout 20000' /data/app.db \"INSERT INTO t VALUES ('unit', 1)\"")
        assert txid(machine) == before + 1
        write_here(machine, 2)
        metrics = machine.run("python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:20204/metrics\").read().decode())'")
        assert 'litefwd_commit_phase_duration_seconds_count{phase="replicate"} 2\n' in metrics, metrics
        assert "200" in machine.run("python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:20204/healthz\").status)'")
        limits = machine.run(f"grep -E '^(NoNewPrivs|Seccomp|CapBnd)' /proc/{pid}/status")
        machine.run("systemd-analyze security --no-pager --threshold=52 litefwd@data.service")  # 5.1: what a shared mount lets one have
        assert re.search(r"NoNewPrivs:\s1", limits) and re.search(r"Seccomp:\s2", limits), limits


def test_unit__stopped_in_order__says_so_and_leaves_no_mount(place):
    with place.machine(place.tree(*place.installed)) as machine:
        with_unit(machine)
        write_here(machine, 1)
        machine.run("systemctl stop litefwd@data")
        shown = show(machine, "Result", "ActiveState", "ExecMainStatus")
        assert shown == {"Result": "success", "ActiveState": "inactive", "ExecMainStatus": "0"}, shown
        machine.fails("mountpoint -q /data")
        machine.fails("touch /data/x")  # the document's chattr +i
        assert machine.run("systemctl is-active litefs").strip() == "active"


def test_unit__litefs_restarts_or_stands_still__instance_stays(place):
    with place.machine(place.tree(*place.installed)) as machine:
        machine.run("mkdir -p /etc/systemd/system/litefwd@data.service.d; "
                    "printf '[Service]\\nWatchdogSec=3s\\n' >/etc/systemd/system/litefwd@data.service.d/watchdog.conf; systemctl daemon-reload")
        with_unit(machine)
        write_here(machine, 1)
        pid = show(machine, "MainPID")["MainPID"]
        machine.run("systemctl restart litefs")
        wait_until("LiteFS is back", lambda: "replica" in show(machine, "StatusText")["StatusText"]
                   and machine.run("ls /litefs/.primary", check=False).strip() == "/litefs/.primary")
        write_here(machine, 2)
        # A LiteFS that answers nothing, for longer than the watchdog has patience with litefwd.
        machine.run("systemctl kill --signal=STOP litefs")
        wait_until("the status says so", lambda: "does not answer" in show(machine, "StatusText")["StatusText"])
        time.sleep(5 * slow_factor())
        machine.run("systemctl kill --signal=CONT litefs")
        wait_until("LiteFS is back", lambda: "replica" in show(machine, "StatusText")["StatusText"])
        write_here(machine, 3)
        assert show(machine, "MainPID", "NRestarts") == {"MainPID": pid, "NRestarts": "0"}


def test_unit__hangs_or_is_killed__started_anew_over_the_dead_mount(place):
    with place.machine(place.tree(*place.installed)) as machine:
        machine.run("mkdir -p /etc/systemd/system/litefwd@data.service.d; "
                    "printf '[Service]\\nWatchdogSec=2s\\n' >/etc/systemd/system/litefwd@data.service.d/watchdog.conf; systemctl daemon-reload")
        with_unit(machine)
        write_here(machine, 1)
        for round_, signal_name in enumerate(("KILL", "STOP")):  # a stopped one says nothing: the watchdog's
            machine.run(f"systemctl kill --kill-whom=main --signal={signal_name} litefwd@data")
            wait_until("it is back", lambda n=str(round_ + 1): show(machine, "NRestarts", "ActiveState") == {
                "NRestarts": n, "ActiveState": "active"})
            write_here(machine, round_ + 2)
        assert machine.run("grep -c ' /data fuse.litefwd ' /proc/mounts").strip() == "1", "a dead mount was left below"


def test_unit__no_litefs__not_ready_and_tried_again(place):
    with place.machine(place.tree(*place.installed)) as machine:
        machine.run("systemctl disable -q --now litefs; mkdir -p /etc/systemd/system/litefwd@data.service.d; "
                    "printf '[Unit]\\nWants=\\n' >/etc/systemd/system/litefwd@data.service.d/alone.conf; "
                    "mv /etc/systemd/system/litefs.service /root/; systemctl daemon-reload")
        steps = doc("litefwd as a unit").replace("systemctl enable --now", "echo wait = 1s >>/etc/litefwd/data.conf; "
                                                 "systemctl enable -q litefwd@data; systemctl start --no-block")
        machine.run(steps)
        wait_until("it has been tried twice", lambda: int(show(machine, "NRestarts")["NRestarts"]) >= 2)
        machine.fails("mountpoint -q /data")
        machine.run("mv /root/litefs.service /etc/systemd/system/; systemctl daemon-reload; systemctl start litefs")
        wait_until("it is active", lambda: show(machine, "ActiveState")["ActiveState"] == "active")
        write_here(machine, 1)


def test_unit__reboot__mounted_again_after_litefs(place):
    with place.machine(place.tree(*place.installed)) as machine:
        with_unit(machine)
        write_here(machine, 1)
        machine.reboot()
        wait_until("it is active", lambda: show(machine, "ActiveState")["ActiveState"] == "active")
        write_here(machine, 2)


def test_fstab__mounted_and_after_a_reboot__writable(place):
    with place.machine(place.tree(*place.installed)) as machine:
        machine.run("mkdir -p /data; cat >>/etc/fstab <<'END'\n" + doc("In fstab", 0, "fstab") + "END\n" + doc("In fstab"))
        write_here(machine, 1)
        machine.reboot()
        wait_until("it is mounted", lambda: machine.run("mountpoint -q /data && echo yes", check=False).strip() == "yes")
        write_here(machine, 2)
        machine.run("umount /data")
        wait_until("litefwd has ended", lambda: machine.run("pgrep -x litefwd || echo none").strip() == "none")


def test_upgrade__under_load__no_acknowledged_transaction_is_lost(place):
    names = ["one", "two"]
    tree = place.tree(*place.installed)
    tree.copy(newer_deb(place, VERSION + "+newer"), "/root/newer.deb", 0o644)
    with place.machine(tree) as machine:
        with_unit(machine)
        start_clients(machine, names)
        before = show(machine, "MainPID")
        said = machine.run("apt-get install -y -qq /root/newer.deb")
        assert "go on with version" in said, said
        assert machine.run("dpkg-query -W -f '${Version}' litefwd") == VERSION + "+newer"
        progress(machine, names, 5)
        assert show(machine, "MainPID") == before, "the upgrade restarted it"
        for name in names:
            assert "error" not in machine.run(f"journalctl -q -u {name} --no-pager", check=False), "the upgrade was felt"
        # Now by the administrator, and by fate.
        machine.run(doc("Upgrades"))
        assert show(machine, "MainPID") != before
        progress(machine, names, 5)
        machine.run("systemctl kill --kill-whom=main --signal=KILL litefwd@data")
        progress(machine, names, 5)
        stop_clients(machine, names)
        check_acknowledged(machine, names)
        assert "unknown" not in machine.run("journalctl -q -u litefwd@data --no-pager | grep commit_unknown || true")


def test_remove__mount_in_use__refused_and_nothing_changed(place):
    with place.machine(place.tree(*place.installed)) as machine:
        with_unit(machine)
        start_clients(machine, ["one"])
        pid = show(machine, "MainPID")
        said = machine.fails("apt-get remove -y -qq litefwd")
        assert "/data" in said and "in use" in said, said
        assert show(machine, "MainPID") == pid
        progress(machine, ["one"], 5)
        stop_clients(machine, ["one"])
        check_acknowledged(machine, ["one"])
        # Now it can: without anybody having stopped it before.
        machine.run("apt-get remove -y -qq litefwd")
        machine.fails("mountpoint -q /data")
        assert machine.run("pgrep -x litefwd || echo none").strip() == "none"


def test_purge__as_documented__leaves_nothing(place):
    tree = place.tree(*place.fresh)
    with place.machine(tree) as machine:
        listing = "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /var/log -o -path /var/cache -o -path /var/lib/dpkg " \
                  "-o -path /var/lib/systemd -o -path /var/lib/apt -o -path /var/lib/litefs -o -path /tmp -o -path /var/tmp -o -path /other \\) -prune -o -print | sort"
        install(machine)
        # What it depends on stays, and so does LiteFS.
        machine.run("dpkg -P litefwd; touch /root/before /root/after; " + listing + " >/root/before; cd /root; apt-get install -y -qq ./litefwd_*.deb")
        with_unit(machine)
        write_here(machine, 1)
        machine.run(doc("Removal").replace("purge", "purge -y -qq"))
        machine.run("chattr -i /data && rmdir /data")
        machine.run(listing + " >/root/after")
        left = machine.run("diff /root/before /root/after || true")
        assert left.strip() == "", left
        assert "litefwd" not in machine.run("cat /proc/mounts; ls /run /run/systemd/units 2>/dev/null; dpkg -l | cat")
        assert machine.run("systemctl is-active litefs").strip() == "active"


# ---------------------------------------------------------------- the packages themselves

def test_deb__lintian__neither_errors_nor_warnings(_place):
    changes = glob.glob(os.path.join(os.path.dirname(DEB), "*.changes"))
    assert len(changes) == 1, changes
    host(["lintian", "--allow-root", "--fail-on", "error,warning", "--info", changes[0]])


def test_rpm__rpmlint__no_errors(_place):
    host(["rpmlint", "--rpmlintrc", RPMLINTRC, RPM, SPEC])


def test_rpm__built_from_the_same_tarball__has_what_the_deb_has(_place):
    """Not installed anywhere: there is no distribution with rpm here."""
    def files(lines):
        """[(mode as ls -l has it, path)]: paths, but for directories and what distributions put elsewhere."""
        found = set()
        for mode, path in lines:
            path = re.sub(r"^/lib/", "/usr/lib/", path)
            path = re.sub(r"(/man/.*)\.gz$", r"\1", path)
            if mode[0] != "d" and not re.match(r"/usr/(share/(doc|licenses|lintian)/|lib/\.build-id|lib/debug)", path):
                found.add(path)
        return found
    debs = files((line.split()[0], line.split()[5][1:]) for line in host(["dpkg-deb", "-c", DEB]).splitlines())
    rpms = files(line.split() for line in host(
        ["rpm", "-qp", "--nosignature", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\n]", RPM]).splitlines())
    assert debs == rpms and "/usr/sbin/litefwd" in debs, debs ^ rpms
    needs = host(["rpm", "-qp", "--nosignature", "--requires", RPM])
    assert "fuse3" in needs and "libfuse3.so" in needs, needs
    scripts = host(["rpm", "-qp", "--nosignature", "--scripts", RPM])
    for part in re.split(r"^\w+ scriptlet.*$", scripts, flags=re.M)[1:]:
        subprocess.run(["sh", "-n"], input=part.encode(), check=True)
    assert "fuse.litefwd" in scripts


def test_install__rpm__scriptlets_run_and_erasing_leaves_nothing(place):
    """By this machine's rpm into a Debian's tree, without its dependencies: a distribution with rpm is not to be had here."""
    tree = place.tree(place.fresh[0])
    rpm = ["rpm", "--root", tree.root, "--nodeps", "--nosignature"]
    host([*rpm, "-i", RPM])
    assert os.path.exists(tree.path("/usr/sbin/litefwd"))
    host([*rpm, "-e", "litefwd"])
    left = [os.path.join(directory, name) for directory, _, names in os.walk(tree.upper) for name in names if "litefwd" in name]
    assert left == [], left


# ---------------------------------------------------------------- the container recipe

def dockerfile(path):
    """[(instruction, rest)] with continued lines joined."""
    text = re.sub(r"\\\n", " ", open(path, encoding="utf-8").read())
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def build_image(place):
    """What `docker build` would do, of the instructions that are used: one step after the other, on debootstrap's tree."""
    context = os.path.join(temporary(place.base), "context")
    shutil.copytree(CONTAINER, context)
    shutil.copy(DEB, context)
    tree, entrypoint = None, None
    for instruction, rest in dockerfile(os.path.join(context, "Dockerfile")):
        if instruction == "FROM" and rest.startswith("debian:12"):
            tree = place.tree(place.fresh[0])
        elif instruction == "FROM":
            assert rest.endswith(" AS litefs"), rest
        elif instruction == "COPY" and rest.startswith("--from=litefs "):
            tree.copy(LITEFS, rest.split()[2])
        elif instruction == "COPY":
            source, target = rest.split()
            for path in glob.glob(os.path.join(context, source)):
                name = target + os.path.basename(path) if target.endswith("/") else target
                tree.copy(path, name, os.stat(path).st_mode & 0o777)
        elif instruction == "RUN":
            tree.chroot(rest)
        elif instruction == "ENTRYPOINT":
            entrypoint = re.findall(r'"([^"]*)"', rest)
        else:
            raise MachineError(f"an instruction that this test does not know: {instruction}")
    return tree, entrypoint


class Container:
    """The entry point in namespaces of its own, as process 1, with the other node's LiteFS beside it."""

    def __init__(self, tree, entrypoint, log):
        script = ("mount -t proc proc /proc; mount -t devtmpfs none /dev 2>/dev/null || true; ip link set lo up 2>/dev/null || "
                  "python3 -c 'import fcntl,socket,struct; s=socket.socket(); fcntl.ioctl(s, 0x8914, struct.pack(\"16sh14x\", b\"lo\", 0x49))'; "
                  "mkdir -p /other/litefs /other/data; litefs mount -config /etc/other/litefs.yml >/other.log 2>&1 & "
                  "exec " + shlex.join(entrypoint))
        self.log = log
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "chroot", tree.root, "/bin/sh", "-ec", script],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
        (self.pid,) = wait_until("it has a process 1", self._children)

    def _children(self):
        if self.process.poll() is not None:
            raise MachineError(f"it has ended with {self.process.returncode}:\n{self.text()}")
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]

    def run(self, script, check=True):
        done = subprocess.run(["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--root", "--wdns=/", "--", "/bin/sh", "-ec", script],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60 * slow_factor())
        text = done.stdout.decode(errors="replace")
        if check and done.returncode:
            raise MachineError(f"exit {done.returncode}: {script}\n{text}\n{self.text()[-3000:]}")
        return text

    def text(self):
        return open(self.log, encoding="utf-8", errors="replace").read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)


def container(place, application="sleep infinity"):
    """application: what stands for the user's, as a line of a shell script."""
    tree, entrypoint = build_image(place)
    tree.write("/usr/local/bin/app", f"#!/bin/sh\n{application}\n", 0o755)
    elsewhere = lambda text: text.replace("127.0.0.2:20202", "127.0.0.2:20203")  # the recipe's LiteFS takes 20202 on all addresses
    tree.write("/etc/other/litefs.yml", elsewhere(PRIMARY_YML))
    text = open(tree.path("/etc/litefs.yml"), encoding="utf-8").read()
    assert "litefwd-entry sleep infinity" in text
    # The example's lease is a Consul's: this one's is static, as its comment says.
    text = re.sub(r"(?ms)^lease:.*", elsewhere(REPLICA_YML[REPLICA_YML.index("lease:"):]), text).replace("sleep infinity", "app")
    tree.write("/etc/litefs.yml", text)
    box = Container(tree, entrypoint, os.path.join(tree.base, "console.log"))
    try:
        wait_until("litefwd is mounted in it", lambda: box.run("cat /data/.litefwd", check=False).startswith("{"))
    except MachineError:
        print(box.text()[-3000:])
        box.__exit__()
        raise
    return box


def test_container__built_and_run_as_the_recipe_says__writable_and_stopped_in_order(place):
    with container(place) as box:
        box.run("sqlite3 /other/litefs/app.db 'PRAGMA journal_mode = wal; CREATE TABLE t(who, n)'")
        wait_until("the replica has it", lambda: box.run("ls /litefs/app.db", check=False).strip() == "/litefs/app.db")
        before = int(box.run("cut -d/ -f1 /other/litefs/app.db-pos"), 16)
        box.run("sqlite3 -cmd '.timeout 20000' /data/app.db \"INSERT INTO t VALUES ('box', 1)\"")
        assert int(box.run("cut -d/ -f1 /other/litefs/app.db-pos"), 16) == before + 1
        os.kill(box.pid, signal.SIGTERM)  # docker stop
        box.process.wait(60 * slow_factor())
        assert "unmounted" in box.text(), "litefwd was not stopped in order:\n" + box.text()[-2000:]


def test_container__litefwd_dies__container_ends(place):
    with container(place) as box:
        box.run("pkill -KILL -x litefwd")
        assert box.process.wait(60 * slow_factor()) == 1
        assert "litefwd has ended" in box.text()


def test_container__application_ends__container_ends_as_it_did(place):
    with container(place, "while [ ! -e /end ]; do sleep 0.1; done; exit 7") as box:
        box.run("touch /end")
        assert box.process.wait(60 * slow_factor()) == 7, box.text()[-2000:]


# ---------------------------------------------------------------- run

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True)
    parser.add_argument("filters", nargs="*")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.makedirs(args.work, exist_ok=True)
    tests = [(name, function) for name, function in globals().items()
             if name.startswith("test_") and callable(function) and (not args.filters or any(f in name for f in args.filters))]
    passed = failed = 0
    place = None
    try:
        place = Place(args.work)
        for name, function in tests:
            start = time.monotonic()
            try:
                function(place)
                passed += 1
                result = "PASS"
            except Exception:  # pylint: disable=broad-except
                traceback.print_exc(file=sys.stdout)
                failed += 1
                result = "FAIL"
            print(f"{result} {name} ({time.monotonic() - start:.1f} s)", flush=True)
    except MachineError as error:
        print(error)
        failed += 1
    finally:
        if place:
            place.close()
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
