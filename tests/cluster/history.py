"""The history checker: what clients were told and what they read, against what is there at the end.

What it is for: given a History, says which promise was broken by which transaction, and what became of each. It refuses to know
clusters, processes and files: history_run.py collects, tests/history/test_history.py spoils histories on purpose.

The database is a chain (history_client.py): transaction number n makes state (n, digest), and digest = digest_after(the one before,
id). So one number names all that was written before it; nothing else is written, and n tells the TXID: txid0 + n. States are a
tree: its trunk is what survived, its branches what LiteFS' asynchronous failover has dropped. A branch is recognised by position: the old primary had
that TXID with one checksum (Takeover.old), the surviving history has it with another, or ends before. A second failover may drop a
branch in favour of one that the first had dropped, where a node comes back with it: then what was rightly said to have failed is
brought back, which is recognised in the same way, and counted. Times are one clock's, seconds.

What is said of each broken promise (Problem.kind):
    lost            acknowledged, was seen or built upon, and is gone
    false success   acknowledged, and was never there
    false failure   an error other than BUSY and unknown, or BUSY, and it is there
    doubled         there more than once, or the TXID has counted more transactions than there are
    nobody's        there, and nobody has written it
    broken chain    a lost update: two transactions have built on the same state, or on none; partial: rows of it are missing
    write order     began after another was acknowledged, and stands before it
    nodes differ, integrity     at the end, through any mount
    torn read       a reader's tables do not fit each other, or its snapshot has changed
    dirty read      a reader saw what failed; vanished read: what is gone; without a failover that dropped it: the old primary may have
                    had what is rightly said to have failed, and may show it until it follows the new one
    back in time    a connection read an older state than before; node order: the node did, from one connection to another
    stale read      a read does not have what was acknowledged on its node before it began
    diverged        two checksums of one TXID, without a failover between; position back: a node's LiteFS went back without one
    false verdict   the log's commit_verdict says what is not so
"""
import collections
import dataclasses
import hashlib

START = (0, 0)
ACKNOWLEDGED, FAILED, BUSY, UNKNOWN, OPEN = "acknowledged", "failed", "busy", "unknown", "open"
VERDICTS = (ACKNOWLEDGED, FAILED, BUSY, UNKNOWN, OPEN)
OUTCOMES = ("committed", "not committed", "busy", "unknown", "dropped", "brought back")

Problem = collections.namedtuple("Problem", "kind text")


def digest_after(digest, ident):
    return int.from_bytes(hashlib.sha256(f"{digest} {ident}".encode()).digest()[:7], "big")


@dataclasses.dataclass
class Write:
    """began: before BEGIN; ended: the answer. n, digest, prev: None if it failed before. OPEN: its client was killed, or its litefwd."""
    id: str
    node: int
    conn: str
    began: float
    ended: float
    verdict: str
    n: int = None
    digest: int = None
    prev: int = None

    @property
    def state(self):
        return None if self.n is None else (self.n, self.digest)


@dataclasses.dataclass
class Read:
    """
    One read transaction. entries: the last rows, newest first, (n, digest, id, parts, parts found). again: (n, digest) at its end.
    count: of all rows, where it was asked. pos: LiteFS' position before it. life: which litefwd of that node its connection was opened in,
    counted; dead: that one was dead when it ended, so it is SQLite's and the kernel's caches that have answered, as they were.
    """
    node: int
    conn: str
    life: int
    began: float
    ended: float
    n: int
    digest: int
    entries: list
    again: tuple
    count: int = None
    pos: tuple = None
    dead: bool = False

    @property
    def state(self):
        return (self.n, self.digest)


@dataclasses.dataclass
class Takeover:
    """txid: where the new primary stood, at least. old: {TXID: checksum} of the old one's LTX files when it was over; {}: it kept nothing."""
    began: float
    ended: float
    txid: int
    old: dict


@dataclasses.dataclass
class View:
    """Everything at the end, through one mount. rows: (n, digest, id, parts, parts found) in the order of the table."""
    where: str
    integrity: list
    state: tuple
    rows: list
    stray_parts: int
    txid: int


@dataclasses.dataclass
class History:
    """
    positions: {TXID: checksum} that survived, as far as LTX files tell. files: (node, TXID, checksum) of all nodes' at the end.
    said: (node, TXID, checksum, verdict) of commit_verdict lines.
    """
    txid0: int
    writes: list
    reads: list
    takeovers: list
    views: list
    positions: dict
    files: list = dataclasses.field(default_factory=list)
    said: list = dataclasses.field(default_factory=list)


class Result:
    def __init__(self):
        self.problems = []
        self.outcome = {}  # id -> of OUTCOMES
        self.unknown_there = 0

    def add(self, kind, text):
        self.problems.append(Problem(kind, text))

    def count(self, *kinds):
        return sum(problem.kind in kinds for problem in self.problems)

    def outcomes(self):
        return {name: list(self.outcome.values()).count(name) for name in OUTCOMES}

    def text(self, most=20):
        return "\n".join(f"{p.kind}: {p.text}" for p in self.problems[:most]) + (f"\n... {len(self.problems)} in all" if self.problems else "")


def check(history):
    return _Checker(history).run()


class _Checker:
    def __init__(self, history):
        self.h = history
        self.result = Result()
        self.trunk = [START]
        self.place = {}  # id -> n
        self.parent, self.by_state = {}, {}
        self.claims = {}  # (takeover's number, n) -> the state that it dropped: there is one
        for write in history.writes:
            if write.state:
                self.parent[write.state] = (write.n - 1, write.prev)
                self.by_state[write.state] = write

    def run(self):
        self._views()
        self.seen = {read.state for read in self.h.reads} | {parent for parent in self.parent.values()}
        self._writes()
        self._write_order()
        good = [read for read in self.h.reads if self._read(read)]
        self._connections(good)
        self._nodes(good)
        self._positions()
        self._said()
        return self.result

    # -- the end

    def _views(self):
        add = self.result.add
        first = self.h.views[0]
        for view in self.h.views:
            if view.integrity != ["ok"]:
                add("integrity", f"{view.where}: {view.integrity[:3]}")
            if (view.rows, view.state) != (first.rows, first.state):
                at = next((i for i, pair in enumerate(zip(view.rows, first.rows)) if pair[0] != pair[1]), min(len(view.rows), len(first.rows)))
                add("nodes differ", f"{view.where} has {len(view.rows)} rows and {view.state}, {first.where} {len(first.rows)} and "
                                    f"{first.state}; from row {at + 1} on")
            if view.txid != first.txid:
                add("nodes differ", f"{view.where} is at TXID {view.txid}, {first.where} at {first.txid}")
        for n, digest, ident, parts, found in first.rows:
            if ident in self.place:
                add("doubled", f"{ident} is there as number {self.place[ident]} and {n}")
            self.place.setdefault(ident, n)
            if n != len(self.trunk) or digest != digest_after(self.trunk[-1][1], ident):
                add("broken chain", f"{ident}, number {n}, stands after number {len(self.trunk) - 1} and is not built on it")
            if parts != found:
                add("partial", f"{ident} has {found} of {parts} parts")
            self.trunk.append((n, digest))
        if first.stray_parts:
            add("partial", f"{first.stray_parts} parts of transactions that are not there")
        if first.state != self.trunk[-1]:
            add("broken chain", f"the chain says {first.state}, its last row {self.trunk[-1]}")
        if first.txid != self.h.txid0 + len(first.rows):
            add("doubled", f"TXID {first.txid} after {len(first.rows)} transactions from {self.h.txid0} on")

    def _survived(self, state):
        return state[0] < len(self.trunk) and self.trunk[state[0]] == state

    # -- branches

    def _dropped_by(self, state):
        """
        The takeover that dropped that state, which was acknowledged or read, by position; None. Where the new primary stood says nothing if
        a checksum does: it may have come back with a branch of its own, and stand at the same TXID with another.
        """
        if self._survived(state):
            return None
        txid, write = self.h.txid0 + state[0], self.by_state.get(state)
        for number, takeover in enumerate(self.h.takeovers):
            there, survived = takeover.old.get(txid), self.h.positions.get(txid)
            if there is None or (txid <= takeover.txid if survived is None else survived == there):
                continue
            if write and write.began <= takeover.ended and self.claims.setdefault((number, state[0]), state) == state:
                return takeover
        return None

    def _brought_back(self, txid, since):
        """After that moment LiteFS dropped another transaction of that TXID, in favour of the one that survived."""
        survived = self.h.positions.get(txid)
        return survived is not None and any(t.old.get(txid, survived) != survived and t.ended >= since for t in self.h.takeovers)

    def _descends(self, state, from_state):
        while state and state[0] > from_state[0]:
            state = self.trunk[from_state[0]] if self._survived(state) else self.parent.get(state)
        return state == from_state

    def _fork(self, state):
        while state and not self._survived(state):
            state = self.parent.get(state)
        return state or START

    def _may_follow(self, state, before):
        """before was read, or acknowledged, and then state."""
        if self._descends(state, before):
            return True
        if self._survived(before):
            return False
        fork = self._fork(before)
        if self._survived(state):
            return state[0] >= fork[0]
        return self._descends(state, fork) and not self._descends(before, state)

    # -- writes

    def _writes(self):
        known = set()
        for write in self.h.writes:
            known.add(write.id)
            self.result.outcome[write.id] = self._outcome(write)
        for ident in self.place.keys() - known:
            self.result.add("nobody's", f"{ident} is there")

    def _outcome(self, write):
        add, n = self.result.add, self.place.get(write.id)
        there = n is not None
        if there and write.n != n and write.verdict in (ACKNOWLEDGED, UNKNOWN, OPEN):
            add("broken chain", f"{write.id} was number {write.n} to its writer and is number {n}")
        if write.verdict == ACKNOWLEDGED:
            if there:
                return "committed"
            if write.state and self._dropped_by(write.state):
                return "dropped"
            add("lost" if write.state in self.seen else "false success", f"{write}")
            return "not committed"
        if write.verdict == UNKNOWN:
            self.result.unknown_there += there
            return "unknown"
        if write.verdict == OPEN:
            return "committed" if there else "not committed"
        if there and write.verdict == FAILED and write.n == n and self._brought_back(self.h.txid0 + n, write.began):
            return "brought back"
        if there:
            add("false failure", f"{write} is there as number {n}")
        return "busy" if write.verdict == BUSY else "not committed"

    def _write_order(self):
        ends = sorted((w.ended, self.place[w.id], w.id) for w in self.h.writes if w.verdict == ACKNOWLEDGED and w.id in self.place)
        latest, i = (0, ""), 0
        for write in sorted((w for w in self.h.writes if w.id in self.place), key=lambda w: w.began):
            while i < len(ends) and ends[i][0] < write.began:
                latest = max(latest, ends[i][1:])
                i += 1
            if self.place[write.id] < latest[0]:
                self.result.add("write order", f"{write.id}, number {self.place[write.id]}, began after {latest[1]}, number {latest[0]}, was acknowledged")

    # -- reads

    def _read(self, read):
        """True if its state is one that can be ordered."""
        torn = self._torn(read)
        if torn:
            self.result.add("torn read", f"{torn}: {read}")
            return False
        if self._survived(read.state):
            return True
        write = self.by_state.get(read.state)
        if write is None:
            self.result.add("torn read", f"a state that nobody has made: {read}")
            return False
        if write.verdict != BUSY and self._dropped_by(read.state):
            return True
        self.result.add("dirty read" if write.verdict in (FAILED, BUSY) else "vanished read", f"of {write}: {read}")
        return False

    @staticmethod
    def _torn(read):
        if tuple(read.again) != read.state:
            return f"its snapshot became {read.again}"
        if read.count is not None and read.count != read.n:
            return f"{read.count} rows"
        if read.n and (not read.entries or tuple(read.entries[0][:2]) != read.state):
            return "its last row is another"
        for newer, older in zip(read.entries, read.entries[1:]):
            if newer[0] != older[0] + 1 or newer[1] != digest_after(older[1], newer[2]):
                return f"rows {older} and {newer}"
        for entry in read.entries:
            if entry[3] != entry[4]:
                return f"{entry[4]} of {entry[3]} parts of {entry[2]}"
        return None

    def _connections(self, reads):
        last = {}
        for read in sorted(reads, key=lambda r: r.began):
            before = last.get(read.conn)
            if before and not self._may_follow(read.state, before.state):
                self.result.add("back in time", f"{read} after {before}")
            last[read.conn] = read

    def _nodes(self, reads):
        for node in sorted({read.node for read in reads}):
            mine = sorted((r for r in reads if r.node == node), key=lambda r: r.began)
            self._floor(mine, mine, "node order", by_life=True)
            writes = [w for w in self.h.writes if w.verdict == ACKNOWLEDGED and w.node == node]
            self._floor([r for r in mine if not r.dead], writes, "stale read", by_life=False)

    def _floor(self, reads, before, kind, by_life):
        """Each read has what ended before it began."""
        ends = sorted(before, key=lambda x: x.ended)
        floors, i = {}, 0
        for read in reads:
            while i < len(ends) and ends[i].ended < read.began:
                life = ends[i].life if by_life else 0
                if life not in floors or self._may_follow(ends[i].state, floors[life].state):
                    floors[life] = ends[i]
                i += 1
            floor = floors.get(read.life if by_life else 0)
            if floor and not self._may_follow(read.state, floor.state):
                self.result.add(kind, f"{read} after {floor}")

    # -- positions and what the log says

    def _another(self, txid, checksum):
        """Not what survived, nor what a failover dropped."""
        there = self.h.positions.get(txid)
        return there is not None and there != checksum and not any(t.old.get(txid) == checksum for t in self.h.takeovers)

    def _positions(self):
        for node, txid, checksum in self.h.files:
            if self._another(txid, checksum):
                self.result.add("diverged", f"TXID {txid} is {self.h.positions[txid]:016x}, and {checksum:016x} on n{node}")
        last = {}
        for read in sorted((r for r in self.h.reads if r.pos), key=lambda r: r.began):
            txid, checksum = read.pos
            if self._another(txid, checksum):
                self.result.add("diverged", f"TXID {txid} is {self.h.positions[txid]:016x} and was {checksum:016x}: {read}")
            before = last.get(read.conn)
            if before and txid < before.pos[0] and not any(t.txid < before.pos[0] and t.began <= read.ended for t in self.h.takeovers):
                self.result.add("position back", f"{read} after {before}")
            last[read.conn] = read

    def _said(self):
        for node, txid, checksum, verdict in self.h.said:
            there = self.h.positions.get(txid)
            old = any(t.old.get(txid) == checksum for t in self.h.takeovers)
            if there is None:
                continue
            if (verdict == "committed" and there != checksum and not old) or (
                    verdict == "not_committed" and there == checksum and not self._brought_back(txid, 0)):
                self.result.add("false verdict", f"n{node} said {verdict} of TXID {txid}, {checksum:016x}, and it is {there:016x}")
