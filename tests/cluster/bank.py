"""The bank that tests/clients/stress.c works on, and the exact check of what it left.

A database of accounts and a log of transfers; see the top of stress.c. verify() is the
judge: it looks through every litefwd mount and through every LiteFS' own mount.
"""
import json
import os
import signal
import subprocess
import sys

from cluster import HarnessError, client, slow_factor, wait_until
from marks import note

ACCOUNTS = 100
BALANCE = 1000
SUM = ACCOUNTS * BALANCE


def create(cluster, db, page_size=4096, journal="wal"):
    """By a direct client on the primary; returns when every node has it."""
    cluster.sql_direct(cluster.primary, db, f"""
        PRAGMA page_size = {page_size};
        PRAGMA journal_mode = {journal};
        CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
        WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {ACCOUNTS})
            INSERT INTO accounts SELECT i, {BALANCE} FROM c;
        CREATE TABLE log(client INT, thread INT, seq INT, part INT, parts INT, src INT, dst INT, amount INT, pad BLOB);
        CREATE TABLE t(x);""")
    cluster.wait_converged(db)


class Load:
    """Stress processes of one test: start some, end them, collect their reports."""

    def __init__(self, cluster, db):
        self.cluster = cluster
        self.db = db
        self.running = []  # (process, node index, direct, id)
        self.killed = 0
        self.terminated = False
        self.next_id = 1
        self.reports = []  # dicts with "node" and "direct" added
        self.ack_dir = os.path.join(cluster.base, "acks")
        os.makedirs(self.ack_dir, exist_ok=True)

    def start(self, node, direct=False, **options):
        """options: stress' own, pause_ms=15 as --pause-ms 15; True for a flag."""
        number = self.next_id
        self.next_id += 1
        path = node.direct_path(self.db) if direct else node.path(self.db)
        argv = [client("stress"), "--db", path, "--id", str(number), "--sum", str(SUM), "--accounts", str(ACCOUNTS),
                "--ack", os.path.join(self.ack_dir, str(number))]
        options.setdefault("seed", int(os.environ.get("LITEFWD_TEST_SEED", "1")))
        for name, value in options.items():
            argv.append("--" + name.replace("_", "-"))
            if value is not True:
                argv.append(str(value))
        process = self.cluster.spawn(argv, stdout=subprocess.PIPE, name=f"stress-{number}")
        self.running.append((process, node.index, direct, number))
        return process

    def kill(self, process):
        process.kill()
        process.wait(20 * slow_factor())
        self.running = [entry for entry in self.running if entry[0] is not process]
        self.killed += 1

    def terminate(self):
        self.terminated = True
        for process, *_ in self.running:
            process.send_signal(signal.SIGTERM)

    def wait(self, timeout):
        """Until all have ended by themselves; HarnessError names one that does not."""
        for process, index, direct, number in self.running:
            try:
                out, _ = process.communicate(timeout=timeout * slow_factor())
            except subprocess.TimeoutExpired:
                raise HarnessError(f"stress client {number} on n{index} ({'direct' if direct else 'litefwd'}) hangs") from None
            if self.terminated and process.returncode == -signal.SIGTERM:
                continue  # it had not come to its signal handler yet
            if direct and process.returncode == -signal.SIGBUS:
                # LiteFS' own doing, seen without litefwd too: a HALT or drop_caches while a client has its -shm mapped
                note(f"direct client {number} died of SIGBUS in LiteFS' -shm")
                self.killed += 1
                continue
            if process.returncode not in (0, 1):
                raise HarnessError(f"stress client {number} on n{index} ended with {process.returncode}")
            report = json.loads(out)
            report.update(node=index, direct=direct)
            self.reports.append(report)
        self.running = []

    # -- judgement

    def total(self, field, **where):
        return sum(report[field] for report in self.reports if all(report[key] == value for key, value in where.items()))

    def commits_per_node(self):
        return [self.total("commits", node=node.index, direct=False) for node in self.cluster.nodes]

    def describe(self):
        lines = []
        for report in self.reports:
            lines.append(f"client {report['id']:2} n{report['node']} {'direct ' if report['direct'] else 'litefwd'}: "
                         f"{report['commits']} commits, {report['reads']} reads, busy {report['busy']}, "
                         f"write p50/p99/max {report['write_us']['p50'] / 1000:.1f}/{report['write_us']['p99'] / 1000:.0f}/"
                         f"{report['write_us']['max'] / 1000:.0f} ms, "
                         f"read {report['read_us']['p50'] / 1000:.1f}/{report['read_us']['p99'] / 1000:.0f}/"
                         f"{report['read_us']['max'] / 1000:.0f} ms, errors {report['error_list']}")
        return "\n".join(lines)

    def assert_clean(self, busy_allowed=False):
        """No violation, no error but BUSY, and no BUSY unless it is allowed."""
        problems = []
        for report in self.reports:
            who = f"client {report['id']} on n{report['node']} ({'direct' if report['direct'] else 'litefwd'})"
            if report["violations"]:
                problems.append(f"{who}: VIOLATION {report['violation_list']}")
            if report["errors"]:
                problems.append(f"{who}: {report['error_list']}")
            if report["busy"] and not busy_allowed:
                problems.append(f"{who}: {report['busy']} BUSY")
        assert not problems, "\n".join(problems)

    def acks(self):
        """{"A": {(client, thread, seq): parts}, "N": ..., "U": ...}"""
        verdicts = {"A": {}, "N": {}, "U": {}}
        for name in os.listdir(self.ack_dir):
            with open(os.path.join(self.ack_dir, name), encoding="ascii") as file:
                for line in file:
                    fields = line.split()
                    if len(fields) == 5:
                        verdicts[fields[0]][tuple(map(int, fields[1:4]))] = int(fields[4])
        return verdicts


_LOOK = r"""
import hashlib, json, sqlite3, sys, time
for attempt in range(50):
    try:
        db = sqlite3.connect(sys.argv[1], timeout=20)
        db.execute("SELECT count(*) FROM log").fetchone()
        break
    except sqlite3.OperationalError as e:  # LiteFS' own mount on a replica: opening -shm can race with an apply
        db.close()
        if attempt == 49:
            raise
        time.sleep(0.05)
integrity = [row[0] for row in db.execute("PRAGMA integrity_check")]
db.execute("BEGIN")
accounts = db.execute("SELECT id, balance FROM accounts ORDER BY id").fetchall()
log = db.execute("SELECT client, thread, seq, part, parts, src, dst, amount, length(pad), rowid FROM log ORDER BY rowid").fetchall()
schema = db.execute("SELECT * FROM sqlite_schema ORDER BY rowid").fetchall()
t = db.execute("SELECT rowid, x FROM t ORDER BY rowid").fetchall()
digest = hashlib.sha256(repr((accounts, log, schema, t)).encode()).hexdigest()
db.rollback()
json.dump({"integrity": integrity, "accounts": accounts, "log": log, "digest": digest}, sys.stdout)
"""


def look(cluster, path):
    return json.loads(cluster.run([sys.executable, "-c", _LOOK, path], timeout=120))


def verify(cluster, db, load):
    """Everything that must hold afterwards, on every node and through both mounts. Returns the number of rows."""
    cluster.assert_alive()
    cluster.wait_converged(db)
    seen = {}
    for node in cluster.nodes:
        seen[f"n{node.index} LiteFS"] = look(cluster, node.direct_path(db))
        if node.litefwd:
            seen[f"n{node.index} litefwd"] = look(cluster, node.path(db))
    cluster.wait_converged(db)
    problems = []
    digests = {}
    for where, found in seen.items():
        if found["integrity"] != ["ok"]:
            problems.append(f"{where}: integrity_check {found['integrity'][:5]}")
        digests.setdefault(found["digest"], []).append(where)
    if len(digests) != 1:
        problems.append(f"contents differ: {sorted(digests.values())}")
    verdicts = load.acks()
    for where in [places[0] for places in digests.values()]:
        problems += [f"{where}: {text}" for text in judge(seen[where], verdicts)]
    assert not problems, "\n".join(problems)
    return len(seen[f"n{cluster.primary.index} LiteFS"]["log"])


def judge(found, verdicts):
    """Problems of one view of the database, given the verdicts that clients were told."""
    problems = []
    balances = {number: BALANCE for number, _ in found["accounts"]}
    groups = {}
    for client_id, thread, seq, part, parts, src, dst, amount, *_ in found["log"]:
        groups.setdefault((client_id, thread, seq), []).append((part, parts))
        balances[src] -= amount
        balances[dst] += amount
    if sum(balance for _, balance in found["accounts"]) != SUM:
        problems.append(f"sum is {sum(balance for _, balance in found['accounts'])} and not {SUM}")
    wrong = [(number, balance, balances[number]) for number, balance in found["accounts"] if balance != balances[number]]
    if wrong:
        problems.append(f"{len(wrong)} balances are not what the log says (lost updates), e.g. (id, has, should) {wrong[:3]}")
    broken = [key for key, rows in groups.items() if sorted(rows) != [(part, rows[0][1]) for part in range(rows[0][1])]]
    if broken:
        problems.append(f"{len(broken)} transactions are there twice or in part, e.g. {[(key, groups[key]) for key in broken[:3]]}")
    lost = [key for key, parts in verdicts["A"].items() if len(groups.get(key, [])) != parts]
    if lost:
        problems.append(f"{len(lost)} acknowledged transactions are missing, e.g. {lost[:5]}")
    ghosts = [key for key in verdicts["N"] if key in groups]
    if ghosts:
        problems.append(f"{len(ghosts)} failed transactions are there all the same, e.g. {ghosts[:5]}")
    return problems


def jain(values):
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


def assert_halt_succeeds(cluster, db, within=2.0):
    """A stranger's HALT on the primary is granted within that time: nobody sits on a lock."""
    import random
    import time
    number = random.SystemRandom().randrange(1, 1 << 62)
    begin = time.monotonic()
    try:
        cluster.primary.halt(db, number, timeout=max(12, within))
        took = time.monotonic() - begin
    finally:
        cluster.primary.unhalt(db, number)
    assert took < within * slow_factor(), f"HALT took {took:.1f} s"
    return took


def assert_one_txid_per_commit(cluster, db, load, txid_before):
    """Only where every commit was acknowledged and nobody else wrote: LiteFS counted exactly as many transactions as the clients."""
    moved = cluster.wait_converged(db)[0] - txid_before
    assert moved == load.total("commits"), f"{load.total('commits')} commits acknowledged, but the TXID rose by {moved}"
    for node in cluster.nodes:
        if node.litefwd:
            counters = node.counters(db)
            names = ("commits_remote", "commits_gateway") if node is not cluster.primary else ("commits_self",)
            forwarded = sum(counters.get(name, 0) for name in names)
            mine = load.total("commits", node=node.index, direct=False)
            assert forwarded == mine, f"n{node.index}: {mine} commits by its clients, {counters}"


def wait_txid(node, db, txid, timeout=30):
    return wait_until(f"n{node.index} has TXID {txid} of {db}", lambda: node.pos(db)[0] >= txid, timeout)
