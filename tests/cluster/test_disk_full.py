"""Disks that are full: litefwd's spool, and LiteFS' data directory, each a small file system of its own.

The transaction that does not fit fails, and nothing else: no LiteFS ends, others go on, and with room again everything does.
"""
import contextlib
import os
import subprocess
import time

from cluster import Cluster, HarnessError, SqlError, wait_until
from gatewaytest import counters
from marks import bound, note
from test_dangers import DB, assert_verdicts, create, insert, insert_until_ok

MIB = 1 << 20


@contextlib.contextmanager
def small_disk(path, size):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(path):
    """All that is left of it, in a file of its own."""
    with contextlib.suppress(OSError), open(os.path.join(path, "filler"), "wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    return os.path.join(path, "filler")


def too_large(conn, size):
    """'full' or 'io': how an INSERT of so many bytes fails."""
    try:
        conn("INSERT INTO t VALUES (zeroblob(?))", size, timeout=90)
    except SqlError as error:
        print(f"{size} bytes: {error}")
        assert not error.is_busy, f"nothing gets better by trying again: {error}"
        with contextlib.suppress(SqlError):
            conn("ROLLBACK")
        return "full" if error.name == "SQLITE_FULL" else "io"
    raise AssertionError(f"{size} bytes went through")


def spool_full(node_index, journal):
    if os.environ.get("LITEFWD_TEST_DIRECT") == "1":
        raise HarnessError("this test is about litefwd itself")
    with Cluster(n=2, litefwd_opts={"spool_threshold": "64K"}) as cluster:
        create(cluster)
        other = "other.db"
        cluster.sql_direct(cluster.primary, other, f"PRAGMA journal_mode = {journal}; CREATE TABLE t(x)")
        cluster.wait_converged(other)
        node = cluster.nodes[node_index]
        assert node.stop_litefwd() == 0
        with small_disk(node.spool_dir, 2 * MIB):
            node.start_litefwd()
            verdicts = {}
            with node.conn(other, busy_ms=20000) as conn, node.conn(DB) as bystander:
                insert_until_ok(node, "small before", db=other)
                verdicts["small before"] = "ok"
                txid = node.pos(other)[0]
                how = too_large(conn, 8 * MIB)
                assert conn("SELECT count(*) FROM t") == [(1,)]
                assert node.pos(other)[0] == txid, "something of it was sent"
                assert bystander("SELECT count(*) FROM t") == [(0,)]
                assert insert(bystander, "bystander") == "ok"
                insert_until_ok(node, "small after", db=other)
                verdicts["small after"] = "ok"
                insert_until_ok(cluster.nodes[1 - node_index], "elsewhere", db=other)
                verdicts["elsewhere"] = "ok"
            found = counters(node, other)
            assert found["unknown"] == 0, found
            assert_verdicts(cluster, verdicts, other)
            assert_verdicts(cluster, {"bystander": "ok"})
            note(f"it fails as {how}")
            assert node.stop_litefwd() == 0
        node.start_litefwd()
        insert_until_ok(node, "with room", db=other)
        verdicts["with room"] = "ok"
        assert_verdicts(cluster, verdicts, other)


def test_spool_full__wal_on_a_replica__that_transaction_fails_and_nothing_else():
    spool_full(1, "wal")


def test_spool_full__wal_on_the_primary__that_transaction_fails_and_nothing_else():
    spool_full(0, "wal")


def test_spool_full__rollback_on_a_replica__that_transaction_fails_and_nothing_else():
    spool_full(1, "delete")


class OnSmallDisk(Cluster):
    """The data directory of node `small` is a file system of `size` bytes."""

    def __init__(self, small, size, **options):
        super().__init__(**options)
        self.small, self.size = small, size

    def start_litefs(self):
        path = self.nodes[self.small].data_dir
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", path], check=True)
        super().start_litefs()


@bound(240)
def test_litefs_disk_full__on_the_primary__refused_or_decided_and_goes_on_with_room():
    if os.environ.get("LITEFWD_TEST_DIRECT") == "1":
        raise HarnessError("this test is about litefwd itself")
    with OnSmallDisk(0, 16 * MIB, n=2, litefwd_opts={"commit_timeout": "8s", "halt_timeout": "4s"}) as cluster:
        create(cluster)
        verdicts = {}
        for node in cluster.nodes:
            insert_until_ok(node, f"before n{node.index}")
            verdicts[f"before n{node.index}"] = "ok"
        cluster.wait_converged(DB)
        time.sleep(1)  # locks that are kept after a commit are given back
        filler = fill(cluster.primary.data_dir)
        said = []
        for node in cluster.nodes[::-1]:
            with node.conn(DB, busy_ms=2000) as conn:
                value = f"full n{node.index} " + "x" * 50000
                verdicts[value] = insert(conn, value)
                said.append(verdicts[value])
                with contextlib.suppress(SqlError):
                    conn("ROLLBACK")
                assert conn("SELECT count(*) FROM t")[0][0] >= 2, "reading goes on"
        os.unlink(filler)
        cluster.assert_alive()
        for node in cluster.nodes:
            insert_until_ok(node, f"after n{node.index}")
            verdicts[f"after n{node.index}"] = "ok"
        wait_until("the counters say what happened", lambda: sum(sum(counters(node)[key] for key in ("refused", "unknown")) +
                   node.counters(DB)["not_committed"] for node in cluster.nodes) >= said.count("unknown"), 20)
        assert "ok" not in said, f"there was room: {said}"
        assert_verdicts(cluster, verdicts)
        note(f"replica: {said[0]}, primary: {said[1]}")
