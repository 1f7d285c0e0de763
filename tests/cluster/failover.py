"""What the tests of failover share: clients that write down what they were told, who watches the change of primary, and the judge.

The table has one row per transaction and nothing else is written, so a row's id tells its TXID: ledger.txid0 + id. With that the
judge tells what LiteFS itself drops from what litefwd loses. LiteFS replicates asynchronously: a transaction that the old primary
applied, and that the new one had not received when it took over at TXID P, is gone, acknowledged or not, if its TXID is above P.
Such rows are counted as dropped. An acknowledged row at or below P that is missing is lost, and a failure.
"""
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

from cluster import Cluster, SqlError, slow_factor, wait_until
from faults import FaultProxy
from marks import note

DB = "app.db"
HANDOFF_S = 10  # LiteFS gives a handoff up after 5 s, having said that it was successful
COUNTS = ("ok", "dropped", "busy", "failed", "unknown", "unknown_there", "open")

_CLIENT = r"""
import json, signal, sqlite3, sys, time
path, kind, name, log, pause = sys.argv[1:5] + [float(sys.argv[5])]
out = open(log, "a", buffering=1)
going = True
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
def say(**what):
    out.write(json.dumps({"t": time.monotonic(), **what}) + "\n")
db, n, errors = None, 0, 0
while going:
    n += 1
    value, step, row = f"{name} {n}", "open", None
    try:
        if db is None:
            db = sqlite3.connect(path, timeout=1, isolation_level=None)
        if kind == "writer":
            step = "begin"
            db.execute("BEGIN IMMEDIATE")
            step = "insert"
            row = db.execute("INSERT INTO t(v) VALUES (?) RETURNING id", (value,)).fetchall()[0][0]
            say(v=value, id=row, e="open")
            step = "commit"
            db.execute("COMMIT")
            say(v=value, id=row, e="ok")
        else:
            step = "read"
            top = db.execute("SELECT max(id), count(*) FROM t").fetchall()[0]
            say(e="read", max=top[0] or 0, count=top[1])
        errors = 0
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        say(v=value, id=row, e="busy" if code and code & 255 in (5, 6) else "io" if code and code & 255 == 10 else "error", step=step,
            name=getattr(error, "sqlite_errorname", str(error)), text=str(error))
        errors += 1
        try:
            if db is not None and db.in_transaction:
                db.execute("ROLLBACK")
        except sqlite3.Error:
            pass
        if db is not None and errors >= 5 and kind == "writer":
            db.close()
            db = None
    time.sleep(pause)
if db is not None:
    db.close()
"""


@contextlib.contextmanager
def consul_cluster(n=3, gateway=False, **options):
    """(cluster, fronts, gateway_fronts): every node's LiteFS, and its gateway, are reached by the others through a FaultProxy."""
    cluster = Cluster(n=n, consul=True, gateway=gateway, **options)
    with contextlib.ExitStack() as stack:
        fronts = {}
        gateways = {}
        for node in cluster.nodes:
            fronts[node] = stack.enter_context(FaultProxy(node))
            node.advertise_url = fronts[node].url
        if gateway:
            for node in cluster.nodes:
                gateways[node] = stack.enter_context(FaultProxy(node, port=cluster.gateway_port, listen=(node.address, cluster.front_port.number)))
                node.gateway_url = f"http://{{hostname}}:{cluster.front_port.number}"
        stack.enter_context(cluster)
        cluster.find_primary()
        cluster.sql_direct(cluster.primary, DB, "PRAGMA journal_mode = wal; CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT)")
        cluster.wait_converged(DB)
        yield cluster, fronts, gateways


class Takeover:
    """Watches some nodes until one of them is primary. txid: where the new one stood then, never above it."""

    def __init__(self, cluster, nodes, why):
        self.why, self.began, self.ended, self.new, self.txid = why, time.monotonic(), None, None, None
        self._nodes = nodes
        self._last = {node: node.pos(DB)[0] for node in nodes}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._stop = False
        self._thread.start()

    def _watch(self):
        while not self._stop and self.new is None:
            for node in self._nodes:
                with contextlib.suppress(OSError, ValueError):
                    txid = node.pos(DB)[0]
                    if node.info()["isPrimary"]:
                        self.txid, self.ended, self.new = self._last[node], time.monotonic(), node
                        return
                    self._last[node] = txid
            time.sleep(0.005)

    def wait(self, cluster, timeout=90):
        try:
            wait_until(f"a new primary after: {self.why}", lambda: self.new, timeout)
        finally:
            self._stop = True
            self._thread.join(20)
        cluster.primary = self.new
        return self


class Ledger:
    """Clients of one test and what they were told; takeovers in order."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.txid0 = cluster.primary.pos(DB)[0]
        self.takeovers = []
        self.clients = []  # (process, node, kind, log)
        self.retired = []  # likewise: those that were killed
        self.started = 0
        self.rows = {}  # value -> {"e", "id", "t", "node"}: what the test itself wrote
        self.directory = os.path.join(cluster.base, "ledger")
        os.makedirs(self.directory, exist_ok=True)

    def start(self, node, kind, pause=0.03):
        name = f"{kind} {self.started} n{node.index}"
        self.started += 1
        log = os.path.join(self.directory, name.replace(" ", "-"))
        process = self.cluster.spawn([sys.executable, "-c", _CLIENT, node.path(DB), kind, name, log, str(pause)], name="ledger",
                                     stdout=subprocess.DEVNULL)
        self.clients.append((process, node, kind, log))
        return log

    @staticmethod
    def events(log):
        try:
            with open(log, encoding="utf-8") as file:
                return [json.loads(line) for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []

    def wait_all_go_on(self, since, timeout=60, but=None):
        """Each client (of another node than but) has succeeded after that moment."""
        for process, node, kind, log in self.clients:
            if process.poll() is None and node is not but:
                wait_until(f"{os.path.basename(log)} goes on",
                           lambda log=log: any(e["e"] in ("ok", "read") and e["t"] > since for e in self.events(log)[-200:]), timeout, every=0.1)

    def stop(self, kind=None, timeout=60):
        """All of them, or those of one kind."""
        ending = [entry for entry in self.clients if kind in (None, entry[2]) and entry[0].returncode is None]
        for process, *_ in ending:
            process.send_signal(signal.SIGTERM)
        for process, _, _, log in ending:
            code = process.wait(timeout * slow_factor())
            assert code == 0, f"{os.path.basename(log)} ended with {code}"

    def kill_clients_of(self, node):
        for entry in [entry for entry in self.clients if entry[1] is node]:
            if entry[0].poll() is None:
                entry[0].kill()
                entry[0].wait(20)
            self.clients.remove(entry)
            self.retired.append(entry)

    # -- one transaction of the test's own

    def begin(self, conn, node, value):
        """BEGIN and INSERT; the row's id, or None when that failed (it is in the ledger as failed then)."""
        try:
            conn("BEGIN IMMEDIATE")
            row = conn("INSERT INTO t(v) VALUES (?) RETURNING id", value)[0][0]
        except SqlError as error:
            self._note(value, "error", None, node, str(error), "begin")
            with contextlib.suppress(SqlError):
                conn("ROLLBACK")
            return None
        self._note(value, "open", row, node, "", "insert")
        return row

    def commit(self, conn, value, sent=False, timeout=120):
        entry = self.rows[value]
        try:
            if not sent:
                conn.send("COMMIT")
            conn.result(timeout)
            entry.update(e="ok", t=time.monotonic())
        except SqlError as error:
            print(f"COMMIT of {value}: {error}")
            entry.update(e="busy" if error.is_busy else "io" if error.code and error.code & 0xff == 10 else "error", step="commit",
                         t=time.monotonic())
            with contextlib.suppress(SqlError):
                conn("ROLLBACK")
        return entry["e"]

    def _note(self, value, verdict, row, node, text, step):
        if text:
            print(f"{value}: {step}: {text}")
        self.rows[value] = {"e": verdict, "id": row, "t": time.monotonic(), "node": node, "step": step}

    def write_until_ok(self, node, value, timeout=60):
        """A user who tries again: each try is a value of its own. Returns seconds."""
        begin = time.monotonic()
        tries = []

        def once():
            tries.append(f"{value} n{node.index} try {len(tries)}")
            with node.conn(DB, busy_ms=1000) as conn:
                return self.begin(conn, node, tries[-1]) is not None and self.commit(conn, tries[-1]) == "ok"
        wait_until(f"{value} is written on n{node.index}", once, timeout, every=0.05)
        return time.monotonic() - begin

    # -- the judge

    def _all_rows(self):
        rows = dict(self.rows)
        for _, node, kind, log in self.clients + self.retired:
            for event in self.events(log) if kind == "writer" else []:
                rows[event["v"]] = {**event, "node": node}
        return rows

    def _dropped(self, txid, before):
        """A takeover after that moment began below that TXID."""
        return any(takeover.txid < txid and before <= takeover.ended for takeover in self.takeovers)

    def judge(self, what):
        """Everything that must hold; call stop() before. Prints and returns the counts."""
        cluster = self.cluster
        cluster.assert_alive()
        top = cluster.wait_converged(DB)[0]
        seen = {}
        for node in cluster.nodes:
            for path in {node.path(DB) if node.litefwd else node.direct_path(DB), node.direct_path(DB)}:
                out = cluster.shell(path, "PRAGMA integrity_check; SELECT id || ' ' || v FROM t ORDER BY id").split("\n")[:-1]
                assert out[0] == "ok", f"{path}: {out[:3]}"
                seen.setdefault(tuple(out[1:]), []).append(path)
        assert len(seen) == 1, f"the nodes differ: {[(len(rows), paths) for rows, paths in seen.items()]}"
        there = [line.split(" ", 1) for line in next(iter(seen))]
        assert [int(row) for row, _ in there] == list(range(1, len(there) + 1)), "rows are missing in the middle or there twice"
        assert self.txid0 + len(there) == top, f"TXID {top} with {len(there)} rows from {self.txid0} on: an id does not tell its TXID"
        place = {value: int(row) for row, value in there}
        assert len(place) == len(there), f"a value is there twice: {[row for row in there if place[row[1]] != int(row[0])]}"
        counts = dict.fromkeys(COUNTS, 0)
        problems = []
        rows = self._all_rows()
        for value in place:
            if value not in rows:
                problems.append(f"{value!r} is there, and nobody has written it")
        for value, row in rows.items():
            self._judge_row(value, row, place.get(value), counts, problems)
        self._judge_readers(problems)
        note(f"{what}: {counts}, takeovers {[(t.why, 'n%d' % t.new.index, 'TXID %d' % t.txid, '%.1f s' % (t.ended - t.began)) for t in self.takeovers]}")
        assert not problems, "\n".join(problems[:20])
        return counts

    def _judge_row(self, value, row, place, counts, problems):
        verdict, step = row["e"], row.get("step")
        if verdict == "ok":
            if place == row["id"]:
                counts["ok"] += 1
            elif place is None and self._dropped(self.txid0 + row["id"], row["t"]):
                counts["dropped"] += 1
            else:
                problems.append(f"{value!r} was acknowledged as row {row['id']} (TXID {self.txid0 + row['id']}) and is {place or 'lost'}")
        elif verdict == "open":  # its client was killed in COMMIT
            counts["open"] += 1
            if place not in (None, row["id"]):
                problems.append(f"{value!r} was written as row {row['id']} and is {place}")
        elif verdict == "io" and step == "commit" and self._said_unknown(row):
            counts["unknown"] += 1
            counts["unknown_there"] += place is not None
        else:
            counts["busy" if verdict == "busy" else "failed"] += 1
            if place is not None:
                problems.append(f"{value!r} failed ({row}) and is there all the same")

    def _said_unknown(self, row):
        """Its node's litefwd has said so of that TXID: an I/O error of which it has not is a failure like any other."""
        txid = f"{self.txid0 + row['id']:016x}"
        return any("commit_unknown" in line and txid in line for line in row["node"].litefwd_text().splitlines())

    def _judge_readers(self, problems):
        for _, _, kind, log in self.clients + self.retired:
            last = 0
            for event in self.events(log) if kind == "reader" else []:
                if event["e"] != "read":
                    continue
                if event["max"] != event["count"]:
                    problems.append(f"{os.path.basename(log)}: saw {event}")
                if event["max"] < last and not any(t.began <= event["t"] and t.txid < self.txid0 + last for t in self.takeovers):
                    problems.append(f"{os.path.basename(log)}: went back from row {last} to {event['max']}")
                last = event["max"]


def promote(cluster, ledger, node):
    """The planned handoff to node, tried again where LiteFS asks for that. The takeover."""
    takeover = Takeover(cluster, [node], f"promotion of n{node.index}")
    asked = -HANDOFF_S

    def ask():
        nonlocal asked
        if not takeover.new and time.monotonic() - asked > HANDOFF_S:
            node.request("POST", "/promote", b"", timeout=20)
            asked = time.monotonic()
        return takeover.new
    wait_until(f"n{node.index} is promoted", ask, 90, every=0.2)
    ledger.takeovers.append(takeover.wait(cluster))
    return takeover


def kill_primary(cluster, ledger, why, litefwd=False, expire=True):
    """kill -9 of the primary's LiteFS, and of its litefwd; expire: without waiting for its lease's end. (dead node, takeover)."""
    dead = cluster.primary
    _, session = cluster.consul.holder()
    takeover = Takeover(cluster, [node for node in cluster.nodes if node is not dead and node.litefs], why)
    if litefwd:
        dead.kill_litefwd()
    dead.kill_litefs()
    if expire and session:
        cluster.consul.expire(session)
    return dead, takeover


def end_takeover(cluster, ledger, takeover):
    ledger.takeovers.append(takeover.wait(cluster))
    return takeover


def come_back(node):
    node.start_litefs()
    if node.litefwd is None:
        node.start_litefwd()


__all__ = ["COUNTS", "DB", "Ledger", "Takeover", "consul_cluster", "promote", "kill_primary", "end_takeover", "come_back", "note"]
