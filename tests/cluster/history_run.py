"""A history in the making: a cluster whose nodes reach each other through proxies, clients at work on it, and what they were told.

What it is for: start clients, let a test lead single transactions (Victim), write down restarts and takeovers, and at the end hand all of
it to the checker (history.py). It refuses to know which faults there are: fault_kinds.py.

Every node has a proxy of its own in front of each other node's LiteFS and gateway, and of its own LiteFS; so a request that a proxy has hit was
that node's, and while a Victim holds the right to write its node's /tx can only be the victim's.
"""
import contextlib
import glob
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time

import history
import history_client
from cluster import HERE, Cluster, HarnessError, Port, SqlError, slow_factor, wait_until
from failover import DB
from faults import FaultProxy

HALT, GATEWAY, SELF = "halt", "gateway", "self"
UPSTREAMS = (HALT, GATEWAY, SELF)
_UNKNOWN = re.compile(r" (commit_unknown|commit_verdict) db=(\S+) txid=([0-9a-f]+) checksum=([0-9a-f]+)(?: verdict=(\S+))?")
_LOOK = r"""
import json, sqlite3, sys, time
sys.path.insert(0, sys.argv[2])
from history_client import ENTRIES
for attempt in range(50):
    try:
        db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
        db.execute("SELECT count(*) FROM entry").fetchone()
        break
    except sqlite3.OperationalError:  # LiteFS' own mount on a replica: opening -shm can race with an apply
        db.close()
        if attempt == 49:
            raise
        time.sleep(0.05)
integrity = [row[0] for row in db.execute("PRAGMA integrity_check")]
db.execute("BEGIN")
state = db.execute("SELECT n, digest FROM chain").fetchone()
rows = db.execute(ENTRIES).fetchall()
stray = db.execute("SELECT count(*) FROM part WHERE id NOT IN (SELECT id FROM entry)").fetchone()[0]
json.dump({"integrity": integrity, "state": state, "rows": rows, "stray": stray}, sys.stdout)
"""


class Network:
    """The proxies. streams: LiteFS' own replication goes through them, too (with Consul, which tells its address)."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.stack = contextlib.ExitStack()
        self.fronts, self.local, self.streams = {}, {}, {}
        addresses = [node.address for node in cluster.nodes]
        for asker in cluster.nodes:
            ports = {kind: Port(addresses) for kind in (HALT, GATEWAY)}
            for kind, port in ports.items():
                self.stack.callback(port.close)
                for target in cluster.nodes:
                    self.fronts[asker, target, kind] = self._proxy(target, port=cluster.gateway_port if kind == GATEWAY else None,
                                                                   listen=(target.address, port.number))
            self.local[asker] = self._proxy(asker)
            asker.local_url = self.local[asker].url
            asker.primary_url = f"http://{{hostname}}:{ports[HALT].number}"
            if asker.gateway_url:
                asker.gateway_url = f"http://{{hostname}}:{ports[GATEWAY].number}"
            if cluster.consul_ttl:
                self.streams[asker] = self._proxy(asker)
                asker.advertise_url = self.streams[asker].url

    def _proxy(self, node, **options):
        return self.stack.enter_context(FaultProxy(node, **options))

    def front(self, node, upstream):
        """Through which node's litefwd reaches that upstream now."""
        return self.local[node] if upstream == SELF else self.fronts[node, self.cluster.primary, upstream]

    def upstream(self, node):
        """Which one node's litefwd has asked last for the right to write."""
        if node is self.cluster.primary:
            return SELF
        gateway, halt = (self.fronts[node, self.cluster.primary, kind].last.get(("POST", "/halt"), 0) for kind in (GATEWAY, HALT))
        return GATEWAY if gateway > halt else HALT

    def close(self):
        self.stack.close()


class HistoryCluster(Cluster):
    """Three nodes; where the gateway is asked by nodes 0 and 1 only, so that node 2 goes by HALT. small: {node index: bytes of its
    LiteFS' disk}; spool: bytes of every litefwd's, None: unlimited."""

    def __init__(self, small=None, spool=None, **options):
        if os.environ.get("LITEFWD_TEST_DIRECT") == "1":
            raise HarnessError("this test is about litefwd itself")
        super().__init__(n=3, gateway={"serve": range(3), "ask": (0, 1)}, **options)
        self.small, self.spool = small or {}, spool
        self.network = Network(self)

    def start_litefs(self):
        for node in self.nodes:
            if node.index in self.small:
                self._mount(node.data_dir, self.small[node.index])
            if self.spool:
                self._mount(node.spool_dir, self.spool)
        super().start_litefs()

    @staticmethod
    def _mount(path, size):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)

    def close(self, check=True):
        try:
            super().close(check)
        finally:
            self.network.close()


def ltx_positions(node):
    """{TXID: checksum} of the transactions whose LTX files its LiteFS has, running or not."""
    found = {}
    for path in glob.glob(os.path.join(node.data_dir, "dbs", DB, "ltx", "*.ltx")):
        first, last = (int(word, 16) for word in os.path.basename(path)[:-4].split("-"))
        with contextlib.suppress(OSError):  # LiteFS removes old ones
            if first == last:
                with open(path, "rb") as file:
                    file.seek(-16, os.SEEK_END)
                    found[first] = struct.unpack(">Q", file.read(8))[0]
    return found


class Victim:
    """A transaction that the test leads itself, on the node's own connection. Each call writes down what it was told."""

    def __init__(self, run, node):
        self.run, self.node = run, node
        self.conn, self.name = run.connection(node)
        self.id = f"victim {next(run.numbers)} n{node.index}"
        self.said = None  # what it was told at last: "ok", "busy", "io", "error"
        self.error = ""
        self.sent = False

    def _say(self, event, **what):
        self.run.say(self.node, event, conn=self.name, **what)

    def _failed(self, error, step):
        self.said, self.error = history_client.verdict(error.code), error.name
        self._say(self.said, id=self.id, step=step, name=error.name, text=str(error))
        if self.said == "busy":
            with contextlib.suppress(SqlError):
                self.conn("ROLLBACK")
        else:
            self.run.forget(self.node)

    def begin(self, blob=None):
        """All but COMMIT; False if that failed."""
        try:
            history_client.write(self.conn, self._say, self.id, self.run.rng, blob)
            return True
        except SqlError as error:
            self._failed(error, "write")
            return False

    def send_begin(self):
        self._say("begin", id=self.id)
        self.conn.send("BEGIN IMMEDIATE")

    def send(self):
        self.sent = True
        self._say("sent", id=self.id)
        self.conn.send("COMMIT")

    def commit(self, timeout=90):
        """What COMMIT says; it may have been sent before."""
        try:
            if not self.sent:
                self.send()
            self.conn.result(timeout)
            self.said = "ok"
            self._say("ok", id=self.id)
        except SqlError as error:
            self._failed(error, "commit")
        return self.said

    def answered(self, seconds=0):
        return not self.conn.pending(seconds)

    def send_kill(self):
        """In COMMIT it does not die before its write is answered: a commit is not interrupted."""
        self.conn.process.kill()

    def kill(self):
        if not self.sent:
            self._say("error", id=self.id, step="killed")
        self.run.forget(self.node)


class HistoryRun:
    """with HistoryRun(cluster, seed) as run: the database is made; start() clients; judge() at the end."""

    def __init__(self, cluster, seed):
        self.cluster, self.net = cluster, cluster.network
        self.rng = random.Random(seed)
        self.seed = seed
        self.numbers = iter(range(1, 1 << 30))
        self.directory = os.path.join(cluster.logs, "history")
        os.makedirs(self.directory)
        self.clients = []  # (process, node, log)
        self.conns = {}  # node -> (Conn, name)
        self.events = []  # (node index, event): of the test's own
        self.restarts = {node.index: [] for node in cluster.nodes}  # (killed, gone) of litefwd
        self.takeovers = []  # failover.Takeover, with old and kept: (fault_kinds.py)
        self.unknown, self.said = [], []  # (when, node, TXID), (node, TXID, checksum, verdict): of the logs
        self.effects = []  # (kind, upstream, id): faults that took effect
        self._ending = threading.Event()
        self._tail = threading.Thread(target=self._follow_logs, daemon=True)

    def __enter__(self):
        cluster = self.cluster
        cluster.find_primary()
        cluster.sql_direct(cluster.primary, DB, history_client.SCHEMA)
        self.txid0 = cluster.wait_converged(DB)[0]
        self._tail.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._tail.join(20)

    # -- clients

    def start(self, node, kind, pause):
        name = f"{kind} {len(self.clients)} n{node.index}"
        log = os.path.join(self.directory, name.replace(" ", "-"))
        argv = [sys.executable, "-B", os.path.join(HERE, "history_client.py"), kind, name, node.path(DB), node.direct_path(DB) + "-pos", log,
                str(pause), str(self.rng.randrange(1 << 30))]
        self.clients.append((self.cluster.spawn(argv, name="history", stdout=subprocess.DEVNULL), node, log))
        wait_until(f"{name} has begun", lambda: os.path.exists(log), 60)  # and knows its signals

    def stop(self, timeout=60):
        for process, *_ in self.clients:
            process.send_signal(signal.SIGTERM)
        for process, _, log in self.clients:
            assert process.wait(timeout * slow_factor()) == 0, f"{os.path.basename(log)} ended with {process.returncode}"
        for node in list(self.conns):
            self.forget(node)

    def say(self, node, event, **what):
        self.events.append((node.index, {"e": event, "t": time.monotonic(), **what}))

    def connection(self, node):
        if node not in self.conns:
            self.conns[node] = (node.conn(DB, busy_ms=3000), f"victims {next(self.numbers)} n{node.index}")
        return self.conns[node]

    def forget(self, node):
        """Its connection, which may be dead or in a dead mount."""
        if node in self.conns:
            self.conns.pop(node)[0].kill()

    # -- what happens to nodes

    def restart_litefwd(self, node):
        """kill -9. Its clients open their databases anew, as programs must that keep connections."""
        killed = time.monotonic()
        node.kill_litefwd()
        self.restarts[node.index].append((killed, time.monotonic()))
        node.start_litefwd()
        for process, where, _ in self.clients:
            if where is node:
                process.send_signal(signal.SIGHUP)

    def took_effect(self, kind, upstream, victim):
        self.effects.append((kind, upstream, victim.id))

    def _follow_logs(self):
        """When litefwd says "unknown" is known to a tenth of a second: enough to tell two transactions of one TXID apart."""
        at = dict.fromkeys(self.cluster.nodes, 0)
        while True:
            last = self._ending.is_set()
            for node in self.cluster.nodes:
                with contextlib.suppress(FileNotFoundError), open(node.litefwd_log, "rb") as file:
                    file.seek(at[node])
                    data = file.read()
                    data = data[:data.rfind(b"\n") + 1]
                    at[node] += len(data)
                    for match in _UNKNOWN.finditer(data.decode(errors="replace")):
                        self._heard(node, *match.groups())
            if last:
                return
            self._ending.wait(0.05)

    def _heard(self, node, event, db, txid, checksum, verdict):
        if db != DB:
            return
        if event == "commit_unknown":
            self.unknown.append((time.monotonic(), node.index, int(txid, 16)))
        else:
            self.said.append((node.index, int(txid, 16), int(checksum, 16), verdict))

    # -- the judge

    def _all_events(self):
        """(node index, event), each client's in its order."""
        for _, node, log in self.clients:
            with contextlib.suppress(FileNotFoundError), open(log, encoding="utf-8") as file:
                for line in file:
                    yield node.index, json.loads(line)
        yield from self.events

    def history(self):
        writes, reads, sent, undecided = {}, [], {}, []
        for node, event in self._all_events():
            kind, ident = event["e"], event.get("id")
            if kind == "read":
                life = sum(killed <= event["since"] for killed, _ in self.restarts[node])
                died = [killed for killed, _ in self.restarts[node]][life:]
                reads.append(history.Read(node, event["conn"], life, event["began"], event["t"], event["n"], event["digest"], event["entries"],
                                          tuple(event["again"]), event["count"], event["pos"] and tuple(event["pos"]),
                                          bool(died) and event["t"] > died[0]))
            elif kind == "begin":
                writes[ident] = history.Write(ident, node, event["conn"], event["t"], float("inf"), history.FAILED)
            elif kind == "open":
                write = writes[ident]
                write.n, write.digest, write.prev, write.verdict = event["n"], event["digest"], event["prev"], history.OPEN
                sent[ident] = event["t"]  # sent after that
            elif kind == "sent":
                sent[ident] = event["t"]
            elif ident in writes:
                writes[ident].ended = event["t"]
                writes[ident].verdict = self._verdict(writes[ident], event, sent.get(ident))
                if event["e"] == "io" and event["step"] == "commit" and writes[ident].verdict == history.FAILED:
                    undecided.append((writes[ident], sent[ident]))
        self._find_unknown(undecided)
        positions = {}
        for takeover in self.takeovers:
            positions = {txid: checksum for txid, checksum in {**positions, **takeover.kept}.items() if txid <= takeover.txid}
        files = [(node.index, *found) for node in self.cluster.nodes for found in ltx_positions(node).items()]
        positions.update((txid, checksum) for node, txid, checksum in files if node == self.cluster.primary.index)
        takeovers = [history.Takeover(t.began, t.ended, t.txid, t.old) for t in self.takeovers]
        return history.History(self.txid0, list(writes.values()), reads, takeovers, self._views(), positions, files, self.said)

    def _verdict(self, write, event, sent):
        said = event["e"]
        if said == "ok":
            return history.ACKNOWLEDGED
        if said == "busy":
            return history.BUSY
        if said == "io" and event["step"] == "commit":
            if any(killed <= write.ended and sent <= gone for killed, gone in self.restarts[write.node]):
                return history.OPEN  # its litefwd was killed under it, and cannot say anything
        return history.FAILED

    def _find_unknown(self, undecided):
        """An I/O error of COMMIT is "unknown" if its litefwd has said so of that TXID then; it is said just before the error is."""
        for when, node, txid in self.unknown:
            there = [(max(0, when - write.ended), write.began, write) for write, its in undecided
                     if write.node == node and self.txid0 + write.n == txid and its <= when]
            if there:
                min(there, key=lambda found: found[:2])[2].verdict = history.UNKNOWN

    def _views(self):
        views = []
        for node in self.cluster.nodes:
            for path in (node.path(DB), node.direct_path(DB)):
                found = json.loads(self.cluster.run([sys.executable, "-B", "-c", _LOOK, path, HERE], timeout=120))
                views.append(history.View(os.path.relpath(path, self.cluster.base), found["integrity"], tuple(found["state"]),
                                          [tuple(row) for row in found["rows"]], found["stray"], node.pos(DB)[0]))
        return views

    def judge(self):
        """Ends the clients; history.Result. The history is kept beside the logs when something is wrong."""
        self.stop()
        self.cluster.assert_alive()
        self.cluster.wait_converged(DB)
        self._ending.set()
        self._tail.join(20)
        found = self.history()
        result = history.check(found)
        if result.problems:
            with open(os.path.join(self.cluster.logs, "history.json"), "w", encoding="utf-8") as file:
                json.dump(found, file, default=lambda x: x.__dict__, indent=1)
        return result, found


__all__ = ["DB", "HALT", "GATEWAY", "SELF", "UPSTREAMS", "HistoryCluster", "HistoryRun", "Victim", "ltx_positions"]
