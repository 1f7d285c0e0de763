"""An application's own HALT: byte 72 of NAME-lock, exclusively, by fcntl, as litefs-go's Halt() takes it."""
import contextlib
import errno
import fcntl
import os
import struct
import subprocess
import sys
import time

from cluster import Cluster, wait_until
from marks import note

DB = "app.db"
HALT_BYTE = 72
F_OFD_SETLK, F_OFD_SETLKW = 37, 38


def lock(fd, kind, command=F_OFD_SETLKW, byte=HALT_BYTE):
    fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))


@contextlib.contextmanager
def halted(node):
    fd = os.open(node.path(DB) + "-lock", os.O_RDWR)
    try:
        lock(fd, fcntl.F_WRLCK)
        yield fd
    finally:
        os.close(fd)


def create(cluster, journal="wal"):
    cluster.primary.sql(DB, f"PRAGMA journal_mode = {journal}; CREATE TABLE t(x)")
    cluster.wait_converged(DB)


def writer(cluster, node, value):
    return cluster.spawn(["sqlite3", "-batch", "-cmd", ".timeout 20000", node.path(DB), f"INSERT INTO t VALUES ({value})"],
                         stdout=subprocess.PIPE, name=f"writer-{value}")


def count(node):
    return int(node.sql(DB, "SELECT count(*) FROM t"))


def keeps_others_out(journal):
    with Cluster() as cluster:
        create(cluster, journal)
        for round_, (node, other) in enumerate(((cluster.nodes[1], cluster.primary), (cluster.primary, cluster.nodes[2]))):
            txid = cluster.primary.pos(DB)[0]
            with halted(node) as fd:
                begins = node.counters(DB)["begins"]
                with node.conn(DB) as conn:
                    for value in range(20):
                        conn("INSERT INTO t VALUES (?)", value)
                        time.sleep(0.02)  # longer than halt_linger, and in sum than halt_max_hold
                assert node.counters(DB)["begins"] == begins, "upstream was given back meanwhile"
                assert cluster.primary.pos(DB)[0] == txid + 20
                late = writer(cluster, other, 100 + round_)
                time.sleep(0.5)
                assert late.poll() is None, "another node wrote under HALT"
                lock(fd, fcntl.F_UNLCK)
                assert late.wait(30) == 0
            assert cluster.wait_converged(DB)[0] == txid + 21
        assert count(cluster.nodes[2]) == 42


def test_application_halt__held_in_wal_mode__this_node_writes_and_others_wait():
    keeps_others_out("wal")


def test_application_halt__held_in_rollback_mode__this_node_writes_and_others_wait():
    keeps_others_out("delete")


def test_application_halt__taken_while_behind__has_the_latest_state():
    with Cluster() as cluster:
        create(cluster)
        for value in range(10):
            cluster.primary.sql(DB, f"INSERT INTO t VALUES ({value})")
            with halted(cluster.nodes[1]):
                assert cluster.nodes[1].pos(DB) == cluster.primary.pos(DB)
                assert count(cluster.nodes[1]) == value + 1


def test_application_halt__descriptor_closed_or_process_killed__others_go_on():
    with Cluster() as cluster:
        create(cluster)
        for node in (cluster.nodes[1], cluster.primary):
            with halted(node):
                pass
            cluster.nodes[2].sql(DB, "INSERT INTO t VALUES (1)")
            holder = cluster.spawn([sys.executable, "-c", f"""
import sys, time
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
import fcntl, os, test_application_halt as t
fd = os.open({node.path(DB)!r} + "-lock", os.O_RDWR)
t.lock(fd, fcntl.F_WRLCK)
print("ready", flush=True)
time.sleep(600)"""], stdout=subprocess.PIPE, name="holder")
            assert holder.stdout.readline().strip() in ("ready", b"ready")
            holder.kill()
            holder.wait(20)
            cluster.nodes[2].sql(DB, "INSERT INTO t VALUES (2)")
        assert count(cluster.primary) == 4


def test_application_halt__second_one_on_the_same_node__waits_for_the_first():
    with Cluster(n=2) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        second = os.open(node.path(DB) + "-lock", os.O_RDWR)
        try:
            with halted(node):
                begin = time.monotonic()
                try:
                    lock(second, fcntl.F_WRLCK, F_OFD_SETLK)
                    raise AssertionError("two HALTs at once")
                except OSError as error:
                    assert error.errno in (errno.EAGAIN, errno.EACCES), error
                note(f"refused after {time.monotonic() - begin:.2f} s")
            lock(second, fcntl.F_WRLCK)
            lock(second, fcntl.F_UNLCK)
            for byte in (0, 71, 73):  # no other byte means anything
                try:
                    lock(second, fcntl.F_WRLCK, F_OFD_SETLK, byte)
                    raise AssertionError(f"byte {byte} was locked")
                except OSError as error:
                    assert error.errno == errno.ENOLCK, error
        finally:
            os.close(second)
        wait_until("upstream is given back", lambda: node.status()["databases"][DB]["upstream"] == "idle")
        cluster.primary.sql(DB, "INSERT INTO t VALUES (1)")


def test_application_halt__no_primary__fails_within_the_bound_and_nothing_is_held():
    with Cluster(n=2, litefwd_opts={"halt_timeout": "1s"}) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        cluster.primary.stop_litefwd()
        cluster.primary.stop_litefs()
        fd = os.open(node.path(DB) + "-lock", os.O_RDWR)
        try:
            begin = time.monotonic()
            try:
                lock(fd, fcntl.F_WRLCK)
                raise AssertionError("HALT without a primary")
            except OSError as error:
                assert error.errno in (errno.EAGAIN, errno.EACCES), error
            assert time.monotonic() - begin < 20
        finally:
            os.close(fd)
        assert count(node) == 0
        cluster.primary.start_litefs()
        cluster.primary.start_litefwd()
        node.sql(DB, "INSERT INTO t VALUES (1)")
