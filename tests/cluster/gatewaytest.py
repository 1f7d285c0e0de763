"""What the tests of the gateway share: the proof that it was used, and that LiteFS' HALT was not."""
import contextlib
import os

from cluster import Cluster, HarnessError, SqlError, wait_until
from faults import FaultProxy
from test_dangers import DB, create, insert, insert_until_ok


def counters(node, db=DB):
    """All of them, 0 where litefwd has not opened the database yet."""
    found = node.counters(db)
    return {name: found.get(name, 0) for name in ("commits_gateway", "commits_remote", "commits_self", "gateway_commits", "bundles",
                                                  "busy_read", "poisons", "unknown", "refused")}


def rose(node, before, db=DB):
    after = counters(node, db)
    return {name: after[name] - before[name] for name in after}


@contextlib.contextmanager
def via_gateway(cluster, node, commits, db=DB):
    """The block sends exactly that many transactions from node, all through the primary's gateway, and none over HALT."""
    txid, here, there = cluster.primary.pos(db)[0], counters(node, db), counters(cluster.primary, db)
    yield
    moved, mine, theirs = cluster.primary.pos(db)[0] - txid, rose(node, here, db), rose(cluster.primary, there, db)
    assert moved == commits, f"n{node.index}: the TXID moved by {moved}, not by {commits}"
    assert mine["commits_gateway"] == commits and mine["commits_remote"] == 0, f"n{node.index}: {mine}, not {commits} by the gateway"
    assert theirs["gateway_commits"] == commits, f"n{cluster.primary.index}: {theirs}, not {commits} of others"


@contextlib.contextmanager
def over_halt(node, commits=1, db=DB):
    """The block commits that many from node, all over LiteFS' HALT."""
    before = counters(node, db)
    yield
    found = rose(node, before, db)
    assert found["commits_remote"] == commits and found["commits_gateway"] == 0, f"n{node.index}: {found}, not {commits} over HALT"


def reach_gateway(node, what="reach", timeout=60, db=DB):
    """Writes until one goes through the gateway, which is asked again some seconds after it was missed. The rows written."""
    written = {}
    before = counters(node, db)["commits_gateway"]

    def once():
        value = f"{what} n{node.index} {len(written)}"
        insert_until_ok(node, value, db=db)
        written[value] = "ok"
        return counters(node, db)["commits_gateway"] > before
    wait_until(f"n{node.index} writes through the gateway", once, timeout, every=0.2)
    return written


@contextlib.contextmanager
def cluster_with_gateway_proxy(n=2, behind=1, proxy_class=FaultProxy, **options):
    """Gateways everywhere; node `behind` reaches the primary's through a proxy, and its LiteFS directly."""
    if os.environ.get("LITEFWD_TEST_DIRECT") == "1":
        raise HarnessError("this test is about litefwd itself")
    with Cluster(n=n, gateway=True, **options) as cluster:
        create(cluster)
        node = cluster.nodes[behind]
        assert node.stop_litefwd() == 0
        with proxy_class(cluster.primary, port=cluster.gateway_port) as proxy:
            node.gateway_url = proxy.url
            node.start_litefwd()
            yield cluster, node, proxy
            if node.litefwd_expected:
                assert node.stop_litefwd() == 0, "litefwd ends cleanly before its gateway's address goes away"


def verdict_of(conn, sql="COMMIT", timeout=120):
    """Of a statement that was sent already if sql is None: 'ok', 'busy', 'unknown' (an I/O error) or 'error'."""
    try:
        if sql:
            conn(sql, timeout=timeout)
        else:
            conn.result(timeout)
        return "ok"
    except SqlError as error:
        print(f"{sql or 'sent before'}: {error}")
        return "busy" if error.is_busy else "unknown" if error.code and error.code & 0xff == 10 else "error"


__all__ = ["DB", "counters", "rose", "via_gateway", "over_halt", "reach_gateway", "cluster_with_gateway_proxy", "verdict_of",
           "create", "insert", "insert_until_ok"]
