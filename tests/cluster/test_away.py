"""The primary's LiteFS, or its litefwd, is stopped (SIGSTOP): its kernel accepts connections, and nobody answers.

Readers elsewhere never notice. Writers get BUSY, at once after the first. Afterwards everybody writes again, soon; the log
has some lines of it and not thousands; and nothing is lost.
"""
import os
import signal
import time

import bank
from cluster import Cluster, SqlError, slow_factor
from gatewaytest import reach_gateway
from marks import bound, note, soak
from test_dangers import DB, assert_verdicts, create, insert_until_ok

HALT_TIMEOUT_S = 4
LINES_MAX = 20  # in the log of a node, of an outage of any length


def read_all_the_time(conn, state):
    begin = time.monotonic()
    assert conn("SELECT count(*) FROM t")[0][0] >= 2
    state["reads"] += 1
    state["slowest"] = max(state["slowest"], time.monotonic() - begin)


def away(stop_litefs, gateway, seconds):
    """stop_litefs: the primary's LiteFS; else its litefwd."""
    with Cluster(n=3, gateway=gateway, litefwd_opts={"halt_timeout": f"{HALT_TIMEOUT_S}s", "commit_timeout": "20s"}) as cluster:
        create(cluster)
        verdicts = {}
        for node in cluster.nodes:
            insert_until_ok(node, f"before n{node.index}")
            verdicts[f"before n{node.index}"] = "ok"
        cluster.wait_converged(DB)
        readers = [node.conn(DB, busy_ms=0) for node in cluster.replicas]
        writers = [node.conn(DB, busy_ms=0) for node in cluster.replicas]
        for conn in readers + writers:
            conn("SELECT 1 FROM t")
        time.sleep(1)  # locks that are kept after a commit are given back
        lines = [len(node.litefwd_text().splitlines()) for node in cluster.nodes]
        pid = (cluster.primary.litefs if stop_litefs else cluster.primary.litefwd).pid
        reads = {"reads": 0, "slowest": 0}
        took = []
        os.kill(pid, signal.SIGSTOP)
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for writer in writers:
                    value = f"while away {len(took)}"
                    begin = time.monotonic()
                    writer.send("INSERT INTO t VALUES (?)", value)
                    for reader in readers:  # beside a writer that waits
                        read_all_the_time(reader, reads)
                    try:
                        writer.result()
                        verdicts[value] = "ok"
                    except SqlError as error:
                        assert error.is_busy, f"{value}: {error}"
                        verdicts[value] = "busy"
                    took.append(time.monotonic() - begin)
                time.sleep(0.05)
        finally:
            os.kill(pid, signal.SIGCONT)
        back = [insert_until_ok(node, f"after n{node.index}") for node in cluster.nodes]
        for node in cluster.nodes:
            verdicts[f"after n{node.index}"] = "ok"
        for conn in readers + writers:
            conn.close()
        written = [verdicts[f"while away {i}"] for i in range(len(took))].count("ok")
        if stop_litefs:
            assert written == 0, "written while the primary's LiteFS was stopped"
        bound_s = HALT_TIMEOUT_S * slow_factor()
        assert max(took) < bound_s + 1, f"a writer waited {max(took):.1f} s"
        assert sorted(took)[len(took) // 2] < 1, f"writers wait for the network: {sorted(took)[len(took) // 2]:.2f} s"
        assert reads["slowest"] < 1 * slow_factor(), f"a reader waited {reads['slowest']:.2f} s"
        for node, before in zip(cluster.nodes, lines):
            new = node.litefwd_text().splitlines()[before:]
            assert len(new) <= LINES_MAX, f"n{node.index} logged {len(new)} lines:\n" + "\n".join(new[:40])
        servers = [server for node in cluster.replicas for server in node.status()["servers"]]
        if stop_litefs:
            assert any(server["opened"] for server in servers), f"no breaker has opened: {servers}"
            assert gateway or all(server["state"] == "closed" for server in servers), servers
        for node in cluster.replicas if gateway else ():
            verdicts.update(reach_gateway(node, "by the gateway again"))
        time.sleep(0.5)  # locks that are kept after a commit are given back
        bank.assert_halt_succeeds(cluster, DB, within=10)
        assert_verdicts(cluster, verdicts)
        note(f"{reads['reads']} reads, slowest {reads['slowest'] * 1000:.0f} ms; {len(took)} writes, {written} done, first {took[0]:.2f} s, "
             f"slowest {max(took):.2f} s, median {sorted(took)[len(took) // 2] * 1000:.0f} ms; written again after "
             f"{', '.join(f'{s:.1f}' for s in back)} s")


@bound(180)
def test_primarys_litefs_stopped__halt__reads_go_on_and_writes_are_busy_at_once():
    away(True, False, 8)


@bound(180)
def test_primarys_litefs_stopped__gateway__reads_go_on_and_writes_are_busy_at_once():
    away(True, True, 8)


@bound(180)
def test_primarys_litefwd_stopped__gateway__reads_go_on_and_writes_do_not_wait():
    away(False, True, 8)


@soak
@bound(300)
def test_primarys_litefs_stopped__for_a_minute_halt__the_same():
    away(True, False, 60)


@soak
@bound(300)
def test_primarys_litefs_stopped__for_a_minute_gateway__the_same():
    away(True, True, 60)


@soak
@bound(300)
def test_primarys_litefwd_stopped__for_a_minute__the_same():
    away(False, True, 60)
