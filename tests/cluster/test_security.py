"""What SECURITY.md says of users of the node, of files and of secrets. The harness runs as root; "nobody" is a user without rights."""
import os
import re
import stat
import sys

from cluster import Cluster
from gatewaytest import reach_gateway
from test_dangers import create

DB = "app.db"
NOBODY = 65534

# Runs a piece of Python as nobody; prints what it returns, or the error's name.
AS_NOBODY = r"""
import errno, fcntl, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    print(eval(sys.argv[1], {"os": os, "fcntl": fcntl, "path": sys.argv[2], "open": open}))
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def as_nobody(cluster, expression, path):
    return cluster.run([sys.executable, "-I", "-c", AS_NOBODY, expression, path], timeout=40).strip()


def start(n=1, **options):
    """A cluster with a database, whose directories nobody could walk into: what stops it then is what is tested."""
    cluster = Cluster(n=n, litefwd_opts=options)
    cluster.with_litefwd = False
    return cluster


def begin(cluster):
    os.chmod(cluster.base, 0o711)
    cluster.sql_direct(cluster.primary, DB, "PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    cluster.wait_converged(DB)


def places_of(pid, what):
    """The VmFlags of each mapping of a process in which these bytes are."""
    found = []
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as smaps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in smaps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) (r\S*)?", line)
            if match:
                begin_at, end = int(match[1], 16), int(match[2], 16)
                here = False
                if match[3]:
                    try:
                        memory.seek(begin_at)
                        here = what in memory.read(end - begin_at)
                    except (OSError, OverflowError, ValueError):
                        here = False
            elif line.startswith("VmFlags:") and here:
                found.append(line.split()[1:])
    return found


def test_other_user__no_allow_other__not_even_looks():
    with start() as cluster:
        begin(cluster)
        node = cluster.primary
        node.start_litefwd()
        for expression in ("os.listdir(path)", "os.stat(path + '/app.db')", "open(path + '/.litefwd').read()"):
            assert as_nobody(cluster, expression, node.mount) == "EACCES", expression


def test_other_user__allow_other__reads_what_the_modes_say_and_changes_nothing():
    with start(allow_other=True, umask="022") as cluster:
        begin(cluster)
        node = cluster.primary
        node.start_litefwd()
        before = node.pos(DB)
        assert as_nobody(cluster, "open(path, 'rb').read(15).decode()", node.path(DB)) == "SQLite format 3"
        assert as_nobody(cluster, "'\"role\"' in open(path).read()", os.path.join(node.mount, ".litefwd")) == "True"
        for expression in ("open(path, 'r+b')", "open(path + '-wal', 'r+b')", "open(path + '-shm', 'r+b')", "open(path + '-new', 'wb')",
                           "open(path + '-lock', 'r+b')", "os.truncate(path, 0)", "os.unlink(path)", "open(path + '-journal', 'wb')"):
            assert as_nobody(cluster, expression, node.path(DB)) == "EACCES", expression
        for expression in ("os.chmod(path, 0o666)", "os.chown(path, 65534, 65534)"):
            assert as_nobody(cluster, expression, node.path(DB)) == "EPERM", expression
        # A write lock asks for a file that is open for writing; so nobody keeps a writer away.
        lock = "fcntl.lockf(open(path, 'rb'), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0x40000001)"
        assert as_nobody(cluster, lock, node.path(DB)) == "EBADF"
        node.sql(DB, "INSERT INTO t VALUES (2)")
        assert node.pos(DB)[0] == before[0] + 1


def test_other_user__allow_other_and_umask_077__nothing_but_the_status():
    with start(allow_other=True, umask="077") as cluster:
        begin(cluster)
        node = cluster.primary
        node.start_litefwd()
        for expression in ("os.listdir(path)", "open(path + '/app.db', 'rb')", "open(path + '/.litefwd')"):
            assert as_nobody(cluster, expression, node.mount) == "EACCES", expression


def test_mount__what_is_no_database__is_not_made():
    with start() as cluster:
        begin(cluster)
        node = cluster.primary
        node.start_litefwd()
        for make in (lambda path: os.symlink("/etc/passwd", path), lambda path: os.link(node.path(DB), path), os.mkdir, os.mkfifo,
                     lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))):
            path = os.path.join(node.mount, "thing")
            try:
                make(path)
                raise AssertionError("it was made")
            except OSError:
                pass
            assert not os.path.lexists(path)
        names = cluster.run(["ls", "-A", node.mount]).split()
        assert "thing" not in names and DB in names, names


def test_state_dir__other_user__neither_reads_nor_locks():
    with start() as cluster:
        begin(cluster)
        node = cluster.primary
        os.chmod(node.state_dir, 0o755)
        node.start_litefwd()
        files = os.listdir(node.state_dir)
        assert any(name.endswith(".lock") for name in files) and any(name.startswith("halts-") for name in files), files
        for name in files:
            path = os.path.join(node.state_dir, name)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, name
            assert as_nobody(cluster, "fcntl.flock(open(path, 'rb'), fcntl.LOCK_EX | fcntl.LOCK_NB)", path) == "EACCES", name


def test_privileges__serving__few_and_no_new_ones():
    with start() as cluster:
        begin(cluster)
        node = cluster.primary
        node.start_litefwd()
        children = cluster.run(["cat", f"/proc/{node.litefwd.pid}/task/{node.litefwd.pid}/children"]).split()
        assert children, "there is an aborter"
        tasks = [f"/proc/{node.litefwd.pid}/task/{task}" for task in os.listdir(f"/proc/{node.litefwd.pid}/task")]
        assert len(tasks) > 5
        for task in tasks + [f"/proc/{pid}" for pid in children]:
            with open(os.path.join(task, "status"), encoding="utf-8", errors="replace") as file:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            assert status["NoNewPrivs"] == "1", task
            # SYS_ADMIN, SYS_PTRACE, DAC_OVERRIDE, DAC_READ_SEARCH
            assert int(status["CapEff"], 16) & ~(1 << 21 | 1 << 19 | 1 << 1 | 1 << 2) == 0, (task, status["CapEff"])


def test_secret__gateway_in_use__in_no_log_status_or_command_line():
    secret = "a-secret-that-nobody-may-see-0123456789"
    with Cluster(n=2, gateway=True, secret=secret) as cluster:
        create(cluster)
        node = cluster.replicas[0]
        reach_gateway(node)
        assert cluster.primary.status()["gateway"]["authenticates"] is True
        seen = [str(other.status()) + other.litefwd_text() for other in cluster.nodes]
        for other in cluster.nodes:
            for name in ("cmdline", "environ"):
                with open(f"/proc/{other.litefwd.pid}/{name}", "rb") as file:
                    seen.append(file.read().decode(errors="replace"))
        for text in seen:
            assert len(text) > 20
            assert secret not in text and secret.encode().hex() not in text.lower()


def test_secret__in_memory__not_in_a_core_dump():
    secret = "a-secret-that-nobody-may-see-0123456789"
    with Cluster(n=2, gateway=True, secret=secret) as cluster:
        create(cluster)
        reach_gateway(cluster.replicas[0])
        for node in cluster.nodes:
            places = places_of(node.litefwd.pid, secret.encode())
            assert places, "it is somewhere, or this looks for the wrong thing"
            assert all("dd" in flags for flags in places), places
