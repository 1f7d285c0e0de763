"""litefwd under a service manager: the test is the one that NOTIFY_SOCKET and WATCHDOG_USEC come from. A real one: make check-debian."""
import contextlib
import os
import select
import signal
import socket
import time

from cluster import Cluster, SqlError, is_mounted, slow_factor, wait_until

DB = "app.db"


class Manager:
    """Hears what litefwd says. watchdog_ms: asked for."""

    def __init__(self, cluster, watchdog_ms=None):
        path = os.path.join(cluster.base, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.heard = []  # (monotonic time, {key: value})
        cluster.env["NOTIFY_SOCKET"] = path
        if watchdog_ms:
            cluster.env["WATCHDOG_USEC"] = str(round(watchdog_ms * 1000))

    def listen(self, seconds=0.0):
        """What has come, and comes in so many seconds at most: at the first message it returns."""
        while select.select([self.socket], [], [], seconds)[0]:
            text = self.socket.recv(4096).decode()
            self.heard.append((time.monotonic(), dict(line.split("=", 1) for line in text.strip().split("\n"))))
            seconds = 0.0
        return self.heard

    def said(self, key):
        self.listen()
        return [message[key] for _, message in self.heard if key in message]

    def beats(self):
        return len(self.said("WATCHDOG"))

    def wait(self, what, predicate, timeout=40):
        return wait_until(what, lambda: self.listen(0.05) is not None and predicate(), timeout)

    def close(self):
        self.socket.close()


def create(cluster, mode="wal"):
    cluster.sql_direct(cluster.primary, DB, f"PRAGMA journal_mode = {mode}; CREATE TABLE t(x); INSERT INTO t VALUES (0)")
    cluster.wait_converged(DB)


@contextlib.contextmanager
def managed(watchdog_ms=None, **options):
    """(cluster, manager): LiteFS on two nodes, litefwd not started yet."""
    cluster = Cluster(n=2, litefwd_opts=options)
    cluster.with_litefwd = False
    with cluster:
        manager = Manager(cluster, watchdog_ms)
        try:
            yield cluster, manager
        finally:
            manager.close()


def test_ready__litefs_comes_later__waiting_is_said_and_ready_when_mounted():
    with managed() as (cluster, manager):
        node = cluster.replicas[0]
        node.stop_litefs()
        node.start_litefwd(wait=False)
        manager.wait("it says that it waits", lambda: manager.said("STATUS") == ["waiting for LiteFS"])
        assert int(manager.said("EXTEND_TIMEOUT_USEC")[0]) >= 60_000_000  # wait= twice
        manager.listen(1)
        assert not manager.said("READY"), "ready without LiteFS"
        node.start_litefs()
        manager.wait("it is ready", lambda: manager.said("READY") == ["1"])
        assert is_mounted(node.mount), "ready, and not mounted"
        assert manager.said("STATUS")[1:] == [f"replica, the primary is {cluster.primary.hostname}"]
        create(cluster)
        node.sql(DB, "INSERT INTO t VALUES (1)")
        assert manager.said("WATCHDOG") == [], "nobody asked for it"
        node.stop_litefwd()
        assert manager.said("STOPPING") == ["1"] and manager.heard[-1][1]["STOPPING"] == "1"
        assert manager.said("READY") == ["1"]


def test_status__primary_and_litefs_go_and_come__told():
    with managed() as (cluster, manager):
        primary, node = cluster.primary, cluster.replicas[0]
        create(cluster)
        node.start_litefwd()
        first = f"replica, the primary is {primary.hostname}"
        manager.wait("it is ready", lambda: manager.said("STATUS")[-1:] == [first])
        primary.stop_litefs()
        manager.wait("no primary", lambda: manager.said("STATUS")[-1].startswith("no primary"))
        primary.start_litefs()
        manager.wait("the primary is back", lambda: manager.said("STATUS")[-1] == first)
        node.stop_litefs()
        manager.wait("no LiteFS", lambda: manager.said("STATUS")[-1].startswith("LiteFS does not answer"))
        node.start_litefs()
        manager.wait("LiteFS is back", lambda: manager.said("STATUS")[-1] == first)
        node.stop_litefwd()


def test_watchdog__load_and_a_litefs_that_stands_still__kept_up():
    """A watchdog that ended litefwd for what LiteFS does would make it worse."""
    watchdog_ms = 900 * slow_factor()
    with managed(watchdog_ms, halt_timeout="500ms") as (cluster, manager):
        create(cluster)
        node = cluster.replicas[0]
        node.start_litefwd()
        manager.wait("beats", lambda: manager.beats() >= 2)
        for i in range(10):
            node.sql(DB, f"INSERT INTO t VALUES ({i})")
        before = manager.beats()
        for stopped in (node.litefs, cluster.primary.litefs):
            stopped.send_signal(signal.SIGSTOP)
            try:
                with node.conn(DB, busy_ms=0) as conn:
                    conn.send("INSERT INTO t VALUES (99)")  # somebody waits in it
                    count = manager.beats()
                    manager.wait("more beats while LiteFS stands still", lambda: manager.beats() >= count + 5)
                    stopped.send_signal(signal.SIGCONT)
                    with contextlib.suppress(SqlError):  # BUSY, or it went through
                        conn.result()
            finally:
                stopped.send_signal(signal.SIGCONT)
        assert manager.beats() > before
        wait_until("writes go through again", lambda: cluster.run(
            ["sqlite3", "-cmd", ".timeout 20000", node.path(DB), "INSERT INTO t VALUES (100)"], check=False)[0] == 0)
        node.stop_litefwd()


def test_watchdog__fuse_loop_hangs__silence_until_it_goes_on():
    """The loop is made to hang where nothing else does: in a log line of its own, on a pipe that nobody reads."""
    with managed(300) as (cluster, manager):
        create(cluster, "delete")
        node = cluster.replicas[0]
        reader, writer = os.pipe()
        node.litefwd = cluster.spawn(node.litefwd_argv(), stdout=writer, stderr=writer)
        node.litefwd_expected = True
        node.wait_litefwd()
        manager.wait("beats", lambda: manager.beats() >= 3)
        filler = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(filler, b"x")
        # Refused, and logged by the thread that serves the mount.
        writing = cluster.spawn(["sqlite3", node.path(DB), "PRAGMA journal_mode = off; UPDATE t SET x = 1"])
        wait_until("nothing is said any more", lambda: is_silent(manager, 1.5))
        count = manager.beats()
        log = drain(reader)
        assert "x" * 1000 in log
        wait_until("it beats again", lambda: (drain(reader), manager.beats() >= count + 3)[1])
        assert writing.wait(30 * slow_factor()) != 0
        os.close(filler)
        node.stop_litefwd()
        os.close(reader)
        os.close(writer)


def is_silent(manager, seconds):
    """True if nothing is said for so many seconds from now."""
    manager.listen()
    return not select.select([manager.socket], [], [], seconds)[0]


def drain(reader):
    text = b""
    while select.select([reader], [], [], 0)[0]:
        text += os.read(reader, 1 << 16)
    return text.decode(errors="replace")
