"""Everything at once: clients on all three mounts and beside them, and nothing may be lost, twice, torn or starved.

LITEFWD_STRESS_SECONDS sets the length of each run (20, with --soak 60).
"""
import os
import random
import threading
import time

import bank
from cluster import Cluster, SqlError, wait_until
from marks import bound, is_soak, note

DB = "bank.db"
SECONDS = float(os.environ.get("LITEFWD_STRESS_SECONDS", "60" if is_soak() else "20"))
BOUND = SECONDS * 3 + 200


def start_everyone(load, **options):
    """Per node one process with four threads and two with one connection; a light direct load on the primary."""
    cluster = load.cluster
    for node in cluster.nodes:
        load.start(node, threads=4, **options)
        load.start(node, threads=1, **options)
        load.start(node, threads=1, **options)
    start_direct(load, options.get("seconds", SECONDS))


def start_direct(load, seconds):
    load.start(load.cluster.primary, direct=True, threads=1, pause_ms=100, write_percent=30, seconds=seconds)


def report(load, fair_part):
    """Notes commits per node; fair_part: what part of the fair share every node must get, None: do not judge."""
    print(load.describe())
    per_node = load.commits_per_node()
    rate = sum(per_node) / SECONDS
    note(f"commits per node {per_node}, {rate:.0f}/s, Jain {bank.jain(per_node):.3f}, "
         f"reads {[load.total('reads', node=n.index, direct=False) for n in load.cluster.nodes]}, "
         f"direct {load.total('commits', direct=True)}, busy {load.total('busy')}, errors {load.total('errors')}")
    if fair_part is not None:
        least = sum(per_node) / len(per_node) * fair_part
        assert min(per_node) >= least, f"starved: {per_node}, each should have at least {least:.0f}"
    for node in load.cluster.nodes:
        assert load.total("reads", node=node.index, direct=False) > 0, f"no reader got through on n{node.index}"


def all_mounts(fair_part, **options):
    with Cluster() as cluster:
        bank.create(cluster, DB)
        load = bank.Load(cluster, DB)
        txid = cluster.primary.pos(DB)[0]
        start_everyone(load, seconds=SECONDS, **options)
        load.wait(SECONDS + 60)
        report(load, fair_part)
        load.assert_clean()
        assert bank.verify(cluster, DB, load) > 0
        if not load.killed:
            bank.assert_one_txid_per_commit(cluster, DB, load, txid)
            assert load.total("commits", direct=True) > 0


@bound(BOUND)
def test_stress__all_mounts_with_pauses__exact_and_fair():
    all_mounts(1 / 2, pause_ms=15)


@bound(BOUND)
def test_stress__all_mounts_without_pauses__exact_and_nobody_starves():
    all_mounts(1 / 3, pause_ms=0)


@bound(BOUND)
def test_stress__rollback_journals_on_all_mounts__exact():
    with Cluster() as cluster:
        bank.create(cluster, DB, journal="delete")
        load = bank.Load(cluster, DB)
        txid = cluster.primary.pos(DB)[0]
        start_everyone(load, seconds=SECONDS, pause_ms=15)
        load.wait(SECONDS + 60)
        report(load, None)
        load.assert_clean()
        assert bank.verify(cluster, DB, load) > 0
        bank.assert_one_txid_per_commit(cluster, DB, load, txid)
        assert min(load.commits_per_node()) > 0, "a node got nothing through"


@bound(BOUND)
def test_stress__connections_reopened_for_each_transaction__exact():
    with Cluster() as cluster:
        bank.create(cluster, DB)
        load = bank.Load(cluster, DB)
        for node in cluster.nodes:
            load.start(node, threads=2, pause_ms=5, single_shot_opens=True, seconds=SECONDS)
            load.start(node, threads=1, pause_ms=5, single_shot_opens=True, seconds=SECONDS)
        start_direct(load, SECONDS)
        load.wait(SECONDS + 60)
        report(load, None)
        load.assert_clean()
        bank.verify(cluster, DB, load)


class Repeat:
    """Calls something every few moments in a thread until the `with` block ends; its error is the test's."""

    def __init__(self, every, what):
        self.every, self.what, self.error = every, what, None
        self.calls = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.ended.wait(self.every):
            try:
                self.what()
                self.calls += 1
            except BaseException as error:  # pylint: disable=broad-except
                self.error = error
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.ended.set()
        self.thread.join(30)
        if kind is None:
            if self.error:
                raise self.error
            assert self.calls > 0, "it never ran"


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


@bound(BOUND)
def test_stress__caches_dropped_all_the_time__exact():
    with Cluster() as cluster:
        bank.create(cluster, DB)
        load = bank.Load(cluster, DB)
        with Repeat(0.2, drop_caches):
            start_everyone(load, seconds=SECONDS, pause_ms=3)
            load.wait(SECONDS + 60)
        report(load, None)
        load.assert_clean()
        bank.verify(cluster, DB, load)


@bound(BOUND)
def test_stress__clients_killed_at_random__acknowledged_once_others_at_most_once():
    rng = random.Random(int(os.environ.get("LITEFWD_TEST_SEED", "1")))
    with Cluster() as cluster:
        bank.create(cluster, DB)
        load = bank.Load(cluster, DB)

        def start(node):
            load.start(node, threads=rng.choice((1, 1, 4)), pause_ms=rng.choice((0, 5)), write_percent=70, seconds=SECONDS + 60,
                       max_parts=30, pad=400)
        for node in cluster.nodes:
            start(node)
            start(node)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.05, 0.5))
            victim = rng.choice(load.running)
            load.kill(victim[0])
            start(cluster.nodes[victim[1]])
            cluster.assert_alive()
        load.terminate()
        load.wait(60)
        note(f"{load.killed} clients killed, {len(load.acks()['A'])} transactions acknowledged")
        load.assert_clean()
        bank.assert_halt_succeeds(cluster, DB)
        bank.verify(cluster, DB, load)


@bound(BOUND)
def test_stress__four_threads_on_primary_read_without_end__every_node_gets_through():
    with Cluster() as cluster:
        bank.create(cluster, DB)
        load = bank.Load(cluster, DB)
        load.start(cluster.primary, threads=4, mode="read", stall_us=2000, seconds=SECONDS)
        for node in cluster.nodes:
            load.start(node, threads=1, pause_ms=15, seconds=SECONDS)
        load.wait(SECONDS + 60)
        report(load, None)
        load.assert_clean()
        per_node = load.commits_per_node()
        assert min(per_node) >= SECONDS / 2, f"starved: {per_node}"
        bank.verify(cluster, DB, load)


@bound(BOUND)
def test_stress__four_threads_on_replica_read_without_end__every_node_gets_through():
    with Cluster() as cluster:
        bank.create(cluster, DB)
        load = bank.Load(cluster, DB)
        load.start(cluster.nodes[1], threads=4, mode="read", stall_us=2000, seconds=SECONDS)
        for node in cluster.nodes:
            load.start(node, threads=1, pause_ms=15, seconds=SECONDS)
        load.wait(SECONDS + 60)
        report(load, None)
        load.assert_clean()
        per_node = load.commits_per_node()
        assert min(per_node) >= SECONDS / 2, f"starved: {per_node}"
        bank.verify(cluster, DB, load)


def long_wal(writer_index):
    """One node writes much while a reader of the same node stays, looking again now and then."""
    frames = 5000
    with Cluster() as cluster:
        bank.create(cluster, DB)
        node = cluster.nodes[writer_index]
        load = bank.Load(cluster, DB)
        with node.conn(DB) as reader:
            reader("BEGIN")
            before = reader("SELECT sum(balance), (SELECT count(*) FROM log) FROM accounts")
            load.start(node, threads=2, mode="write", max_parts=40, pad=3000, seconds=300)
            largest = 0

            def grown():
                nonlocal largest
                assert reader("SELECT sum(balance), (SELECT count(*) FROM log) FROM accounts") == before, "the snapshot moved"
                largest = max(largest, os.path.getsize(node.path(DB) + "-wal"))
                return largest > frames * 4120
            wait_until(f"the WAL has more than {frames} frames", grown, 60 + SECONDS * 2, every=0.1)
            reader("COMMIT")
        load.terminate()
        load.wait(60)
        note(f"WAL of {largest // 4120} frames, {load.total('commits')} commits")
        load.assert_clean()
        bank.verify(cluster, DB, load)
        # and it is usable afterwards, from anywhere
        other = cluster.nodes[(writer_index + 1) % 3]
        other.sql(DB, "INSERT INTO t VALUES (1)")
        assert node.sql(DB, "SELECT count(*) FROM log").strip() == other.sql(DB, "SELECT count(*) FROM log").strip()
        bank.verify(cluster, DB, load)


@bound(BOUND + 60)
def test_stress__wal_of_thousands_of_frames_on_replica__reader_keeps_its_snapshot():
    long_wal(1)


@bound(BOUND + 60)
def test_stress__wal_of_thousands_of_frames_on_primary__reader_keeps_its_snapshot():
    long_wal(0)


@bound(BOUND)
def test_stress__large_transactions_everywhere__exact():
    with Cluster() as cluster:
        bank.create(cluster, DB)
        load = bank.Load(cluster, DB)
        for node in cluster.nodes:
            load.start(node, threads=2, pause_ms=5, max_parts=200, pad=2000, write_percent=60, seconds=SECONDS)
        load.wait(SECONDS + 60)
        report(load, None)
        load.assert_clean()
        bank.verify(cluster, DB, load)


@bound(BOUND)
def test_stress__deferred_transactions__busy_never_lost():
    with Cluster() as cluster:
        bank.create(cluster, DB)
        load = bank.Load(cluster, DB)
        for node in cluster.nodes:
            load.start(node, threads=3, pause_ms=5, deferred_percent=50, write_percent=60, seconds=SECONDS)
        start_direct(load, SECONDS)
        load.wait(SECONDS + 60)
        report(load, None)
        note(f"deferred: {load.total('busy_deferred')} BUSY, {load.total('busy_snapshot')} BUSY_SNAPSHOT")
        load.assert_clean()
        assert load.total("busy_deferred") + load.total("busy_snapshot") > 0, "no deferred transaction was ever refused"
        bank.verify(cluster, DB, load)


def test_stress__deferred_read_before_foreign_write__busy_then_succeeds_on_retry():
    with Cluster() as cluster:
        bank.create(cluster, DB)
        for reader_node in cluster.nodes:
            for writer_node, direct in [(node, False) for node in cluster.nodes if node is not reader_node] + (
                    [(cluster.primary, True)] if reader_node is not cluster.primary else []):
                with reader_node.conn(DB) as late, (writer_node.conn_direct(DB) if direct else writer_node.conn(DB)) as early:
                    late("BEGIN")
                    (seen,) = late("SELECT count(*) FROM t")[0]
                    early.send("INSERT INTO t VALUES ('early')")
                    # A HALT or LiteFS' write lock on the primary waits for the primary's readers, late among them.
                    if reader_node is not cluster.primary:
                        early.result()
                    else:
                        early.pending(0.2)
                    begin = time.monotonic()
                    try:
                        late("INSERT INTO t VALUES ('late')")
                        raise_if_stale = True
                    except SqlError as error:
                        assert error.is_busy, f"{error} on n{reader_node.index} after n{writer_node.index}"
                        raise_if_stale = False
                    assert time.monotonic() - begin < 12, "BUSY took too long"
                    if raise_if_stale:
                        # only right if the other one had not committed yet
                        assert reader_node is cluster.primary, "a write on a stale snapshot was accepted"
                        late("COMMIT")
                        early.result()
                    else:
                        late("ROLLBACK")
                        if reader_node is cluster.primary:
                            early.result()
                        late("BEGIN IMMEDIATE")
                        assert late("SELECT count(*) FROM t")[0][0] == seen + 1
                        late("INSERT INTO t VALUES ('late')")
                        late("COMMIT")
                    assert late("SELECT count(*) FROM t")[0][0] == seen + 2
        cluster.wait_converged(DB)
