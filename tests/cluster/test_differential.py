"""SQLite's own behaviour as oracle: random statements on a plain file and through litefwd must answer alike.

The client is tests/clients/differ.c, whose top says what is compared. A run is a function of its seed: LITEFWD_TEST_SEED sets it
for all tests, otherwise each takes a fresh one and says it. A seed that found something goes into FOUND_SEEDS.
"""
import json
import os
import random
import signal
import subprocess

from cluster import Cluster, HarnessError, client, slow_factor
from marks import bound, is_soak, note

DB = "app.db"
STATEMENTS = 20000 if is_soak() else 2500
PARTS = 12 if is_soak() else 4  # of a run whose client is killed
PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
BOUND = STATEMENTS * 0.1 + 120

# (what was found, node's index, journal, processes, seed)
FOUND_SEEDS = [
    ("VACUUM, then growth: zeros that the kernel had read ahead behind the end", 1, "wal", True, 1),
    ("shorter by auto_vacuum in rollback mode: truncated after the journal's end", 1, "delete", False, 1),
    ("frames that SQLite never gave a salt, after ROLLBACK TO behind an overwritten one", 1, "wal", True, 2029027335),
    ("a journal that another connection unlinked under an open cursor", 1, "mix", True, 303),
]


class Run:
    """One database, its plain twin, and the seed that decides everything about them."""

    def __init__(self, cluster, node, journal, seed, processes, sizes=PAGE_SIZES):
        rng = random.Random(seed)
        self.cluster, self.node, self.seed, self.processes = cluster, node, seed, processes
        self.plain = os.path.join(cluster.base, "plain.db")
        self.page_size = rng.choice(sizes)
        self.encoding = rng.choice(("UTF-8", "UTF-8", "UTF-16le", "UTF-16be"))
        self.auto_vacuum = rng.choice(("NONE", "FULL", "INCREMENTAL"))
        self.connections = rng.choice((2, 3, 4))
        self.journal = journal
        self.die = random.Random(seed + 1)
        self.answers = []
        note(f"seed {seed}: n{node.index} {journal}, page_size {self.page_size}, {self.encoding}, auto_vacuum {self.auto_vacuum}, "
             f"{self.connections} {'processes' if processes else 'connections'}")

    def create(self):
        """By a direct client of the primary: the same settings as differ's own, which then creates neither. Without this, both."""
        sql = (f"PRAGMA page_size = {self.page_size}; PRAGMA encoding = '{self.encoding}'; PRAGMA auto_vacuum = {self.auto_vacuum}; "
               f"PRAGMA journal_mode = {'delete' if self.journal == 'mix' else self.journal}; CREATE TABLE base(x);")
        self.cluster.shell(self.plain, sql)
        self.cluster.sql_direct(self.cluster.primary, DB, sql)
        self.cluster.wait_converged(DB)

    def part(self, seed, statements, die_at=0):
        """One life of the client. Returns its counts; None when it was told to die and did."""
        argv = [client("differ"), "--plain", self.plain, "--fwd", self.node.path(DB), "--seed", str(seed),
                "--statements", str(statements), "--journal", self.journal, "--page-size", str(self.page_size),
                "--encoding", self.encoding, "--auto-vacuum", self.auto_vacuum, "--connections", str(self.connections),
                "--patience-ms", str(int(20000 * slow_factor()))]
        argv += ["--processes"] * self.processes
        argv += ["--die-at", str(die_at)] * bool(die_at)
        process = self.cluster.spawn(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=BOUND * slow_factor())
        if die_at and process.returncode == -signal.SIGKILL:
            print(err.decode(errors="replace").strip())
            return None
        if process.returncode:
            raise HarnessError(f"differ ended with {process.returncode}: {' '.join(argv)}\n{err.decode(errors='replace')}")
        answer = json.loads(out)
        self.answers.append(answer)
        assert answer["statements"] == statements and answer["differences"] == 0, answer
        return answer

    def verify(self):
        """The same content everywhere, and as the plain file has it."""
        self.cluster.assert_alive()
        self.cluster.wait_converged(DB)
        where = {"plain": self.plain}
        for node in self.cluster.nodes:
            where[f"n{node.index} LiteFS"] = node.direct_path(DB)
            where[f"n{node.index} litefwd"] = node.path(DB)
        found = {}
        for name, path in where.items():
            found.setdefault(self.cluster.run([client("differ"), "--dump", path]), []).append(name)
        assert len(found) == 1, f"contents differ: {found}"
        self.cluster.wait_converged(DB)

    def describe(self):
        total = {key: sum(answer[key] for answer in self.answers)
                 for key in ("statements", "rows", "commits", "busy", "repeated", "waits", "kills")}
        codes = sorted({code for answer in self.answers for code in answer["codes"]}, key=int)
        note(f"{total}, codes {' '.join(codes)}")


def fresh_seed():
    return int(os.environ.get("LITEFWD_TEST_SEED") or random.SystemRandom().randrange(1 << 31))


def forwarded(run, node, before):
    """That it was litefwd that committed, once per LiteFS transaction."""
    counters = node.counters(DB)
    commits = counters["commits_remote"] + counters["commits_self"]
    transactions = run.cluster.primary.pos(DB)[0] - before
    assert commits > 0 and commits == transactions, f"litefwd counts {commits} commits, LiteFS {transactions}"


def differential(index, journal, processes, seed=None, statements=STATEMENTS, direct=False):
    """direct: the database is created by a direct client, and not through litefwd."""
    with Cluster(n=2) as cluster:
        node = cluster.nodes[index]
        run = Run(cluster, node, journal, fresh_seed() if seed is None else seed, processes)
        if direct:
            run.create()
        before = cluster.primary.pos(DB)[0]
        run.part(run.seed, statements)
        run.describe()
        run.verify()
        forwarded(run, node, before)


def differential_with_deaths(index, journal, processes, seed=None, statements=STATEMENTS, parts=PARTS):
    """The client dies by -9 in the middle of transactions, and goes on with the next part of the seed."""
    with Cluster(n=2) as cluster:
        node = cluster.nodes[index]
        run = Run(cluster, node, journal, fresh_seed() if seed is None else seed, processes)
        run.create()
        before = cluster.primary.pos(DB)[0]
        died = 0
        for part in range(parts - 1):
            length = statements // parts
            died += run.part(run.seed + part, length, die_at=run.die.randrange(1, length * 3 // 4)) is None
        run.part(run.seed + parts, statements // parts)
        note(f"{died} deaths")
        run.describe()
        assert died > 0, "no part died"
        run.verify()
        forwarded(run, node, before)


# ---------------------------------------------------------------- WAL

@bound(BOUND)
def test_differential__wal_on_a_replica__as_on_a_plain_file():
    differential(1, "wal", processes=False)


@bound(BOUND)
def test_differential__wal_on_a_replica_by_processes__as_on_a_plain_file():
    differential(1, "wal", processes=True, direct=True)


@bound(BOUND)
def test_differential__wal_on_the_primary__as_on_a_plain_file():
    differential(0, "wal", processes=False, direct=True)


@bound(BOUND)
def test_differential__wal_on_the_primary_by_processes__as_on_a_plain_file():
    differential(0, "wal", processes=True)


@bound(BOUND)
def test_differential__wal_client_killed_on_a_replica__as_on_a_plain_file():
    differential_with_deaths(1, "wal", processes=False)


@bound(BOUND)
def test_differential__wal_client_killed_on_the_primary__as_on_a_plain_file():
    differential_with_deaths(0, "wal", processes=True)


# ---------------------------------------------------------------- rollback journals, and the switch to WAL

@bound(BOUND)
def test_differential__journals_on_a_replica__as_on_a_plain_file():
    differential(1, "mix", processes=False, direct=True)


@bound(BOUND)
def test_differential__journals_on_a_replica_by_processes__as_on_a_plain_file():
    differential(1, "mix", processes=True)


@bound(BOUND)
def test_differential__journals_on_the_primary__as_on_a_plain_file():
    differential(0, "mix", processes=False)


@bound(BOUND)
def test_differential__journals_on_the_primary_by_processes__as_on_a_plain_file():
    differential(0, "mix", processes=True, direct=True)


@bound(BOUND)
def test_differential__journals_client_killed_on_a_replica__as_on_a_plain_file():
    differential_with_deaths(1, "mix", processes=True)


@bound(BOUND)
def test_differential__journals_client_killed_on_the_primary__as_on_a_plain_file():
    differential_with_deaths(0, "mix", processes=False)


# ---------------------------------------------------------------- found once

@bound(BOUND)
def test_differential__seeds_that_found_something__as_on_a_plain_file():
    for what, index, journal, processes, seed in FOUND_SEEDS:
        note(what)
        differential(index, journal, processes, seed, 2500, direct=True)
