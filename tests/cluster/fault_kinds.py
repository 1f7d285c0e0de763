"""The kinds of faults that a history is run under (test_history.py), each around one transaction, a victim.

A kind's function injects it once: inject(run, node, upstream) is True if it took effect, which the function itself has seen: the proxy has
cut that request, the process that was killed had a transaction in that state, nobody answered while it was stopped. Else it
is not counted. Whatever the victim is told is written down, and judged by the checker like every other transaction.
"""
import collections
import contextlib
import os
import signal
import time

from cluster import SqlError, slow_factor, wait_until
from failover import DB, come_back, kill_primary, promote
from history_run import GATEWAY, HALT, SELF, Victim, ltx_positions

Kind = collections.namedtuple("Kind", "name upstreams inject")
AWAY = (HALT, GATEWAY)
ALL = (HALT, GATEWAY, SELF)
SEEN_S = 3  # a request that has not come by then does not come
BLOB = 12 << 20  # does not fit into the spool


@contextlib.contextmanager
def armed(front, action, method, path, **options):
    """Nothing is held any more afterwards."""
    fault = front.add(action, method=method, path=path, **options)
    try:
        yield fault
    finally:
        front.remove(fault)
        fault.lose()


def begun(run, node, upstream):
    """A victim with all but COMMIT, by that upstream; None: not now."""
    victim = Victim(run, node)
    if not victim.begin():
        return None
    if run.net.upstream(node) != upstream:
        victim.commit()
        return None
    return victim


def happened(run, name, upstream, victim, took_effect):
    if took_effect:
        run.took_effect(name, upstream, victim)
    return took_effect


# ---------------------------------------------------------------- single requests

def at_begin(name, action):
    def inject(run, node, upstream):
        """A lock that is kept needs no request: some victims until one does."""
        with armed(run.net.front(node, upstream), action, "POST", "/halt") as fault:
            for _ in range(5):
                victim = Victim(run, node)
                began = victim.begin()
                if fault.seen.is_set():
                    break
                if began:
                    victim.commit()
                    began = False
                time.sleep(0.03)
        if began:
            victim.commit()
        return happened(run, name, upstream, victim, fault.seen.is_set())
    return Kind(name, AWAY, inject)


def at_commit(name, action, upstreams=ALL, after=lambda fault, victim: None, **options):
    """after: once it was hit, and before the victim is asked what it was told."""
    def inject(run, node, upstream):
        victim = begun(run, node, upstream)
        if not victim:
            return False
        with armed(run.net.front(node, upstream), action, "POST", "/tx", **options) as fault:
            victim.send()
            hit = fault.seen.wait(SEEN_S * slow_factor())
            if hit:
                after(fault, victim)
            victim.commit()
        return happened(run, name, upstream, victim, hit)
    return Kind(name, upstreams, inject)


def at_release(name, action):
    def inject(run, node, upstream):
        victim = begun(run, node, upstream)
        if not victim:
            return False
        with armed(run.net.front(node, upstream), action, "DELETE", "/halt") as fault:
            victim.commit()
            hit = fault.seen.wait(SEEN_S * slow_factor())
        return happened(run, name, upstream, victim, hit)
    return Kind(name, AWAY, inject)


def late(fault, victim):
    time.sleep(0.3)
    fault.release.set()


def connections_cut(run, node, upstream):
    victim = begun(run, node, upstream)
    if not victim:
        return False
    cut = run.net.front(node, upstream).cut()
    victim.commit()
    return happened(run, "network cut with the lock held", upstream, victim, cut > 0)


# ---------------------------------------------------------------- clients

def client_killed_waiting(run, node, upstream):
    other = next(n for n in run.cluster.nodes if n is not node)
    blocker = Victim(run, other)
    if not blocker.begin():
        return False
    victim = Victim(run, node)
    victim.send_begin()
    waits = not victim.answered(0.1)
    victim.kill()
    blocker.commit()
    return happened(run, "client killed waiting for the lock", upstream, victim, waits)


def client_killed_in_transaction(run, node, upstream):
    victim = begun(run, node, upstream)
    if not victim:
        return False
    victim.kill()
    return happened(run, "client killed in its transaction", upstream, victim, True)


def client_killed_in_commit(name, action):
    def inject(run, node, upstream):
        victim = begun(run, node, upstream)
        if not victim:
            return False
        with armed(run.net.front(node, upstream), action, "POST", "/tx") as fault:
            victim.send()
            hit = fault.seen.wait(SEEN_S * slow_factor()) and not victim.answered()
            victim.send_kill()
            fault.release.set()
            victim.kill()
        return happened(run, name, upstream, victim, hit)
    return Kind(name, ALL, inject)


# ---------------------------------------------------------------- processes

class Held:
    """A victim with all but COMMIT, or, with an action, in COMMIT with its /tx held in that way. victim: None: not now."""

    def __init__(self, run, node, upstream, action):
        self.front, self.fault = run.net.front(node, upstream), None
        self.victim = begun(run, node, upstream)
        if not self.victim or not action:
            return
        self.fault = self.front.add(action, method="POST", path="/tx")
        self.victim.send()
        if not self.fault.seen.wait(SEEN_S * slow_factor()) or self.victim.answered():
            self.let_go()
            self.victim.commit()
            self.victim = None

    def let_go(self):
        """What is held is lost."""
        if self.fault:
            self.front.remove(self.fault)
            self.fault.lose()


def process_killed(name, action, which, upstreams, kill_and_restart):
    """which: the node it is of, given the victim's; kill_and_restart(run, node)."""
    def inject(run, node, upstream):
        held = Held(run, node, upstream, action)
        if not held.victim:
            return False
        killed = which(run, node)
        kill_and_restart(run, killed)
        held.let_go()
        held.victim.commit()
        run.forget(killed)
        return happened(run, name, upstream, held.victim, True)
    return Kind(name, upstreams, inject)


def here(run, node):
    return node


def at_the_primary(run, node):
    return run.cluster.primary


def litefwd_restarted(run, node):
    run.restart_litefwd(node)


def litefs_restarted(run, node):
    node.kill_litefs()
    node.start_litefs()


def process_stopped(name, upstreams, program):
    """program: its attribute of the primary's node. Stopped when COMMIT is sent, goes on while nobody has answered."""
    def inject(run, node, upstream):
        victim = begun(run, node, upstream)
        if not victim:
            return False
        pid = getattr(run.cluster.primary, program).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            victim.send()
            silent = not victim.answered(0.7)
        finally:
            os.kill(pid, signal.SIGCONT)
        said = victim.commit()
        return happened(run, name, upstream, victim, silent or said != "ok")
    return Kind(name, upstreams, inject)


# ---------------------------------------------------------------- disks and readers

def spool_full(run, node, upstream):
    victim = Victim(run, node)
    if victim.begin(blob=BLOB):
        victim.commit()
    upstream_now = run.net.upstream(node)
    return upstream_now == upstream and happened(run, "spool disk full", upstream, victim,
                                                 victim.said in ("io", "error") and victim.error in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"))


def fill(path):
    """All that is left of it, in a file of its own."""
    name = os.path.join(path, "filler")
    with contextlib.suppress(OSError), open(name, "wb", buffering=0) as file:
        left = os.statvfs(path)
        with contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, left.f_bavail * left.f_frsize)
        file.seek(0, os.SEEK_END)
        while file.write(b"x" * 4096):
            pass
    return name


def litefs_disk_full(run, node, upstream):
    victim = Victim(run, node)
    if not victim.begin(blob=50000):
        return False
    if run.net.upstream(node) != upstream:
        victim.commit()
        return False
    filler = fill(run.cluster.primary.data_dir)
    try:
        said = victim.commit()
    finally:
        os.unlink(filler)
    return happened(run, "disk of the primary's LiteFS full", upstream, victim, said != "ok")


def readers_overlap(run, node, upstream):
    """There is always one, so that LiteFS here cannot apply anything; others write, and then the victim here."""
    behind = 0
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(node.conn(DB, busy_ms=3000)) for _ in range(2)]
        for turn in range(8):
            reader, other = readers[turn % 2], readers[1 - turn % 2]
            with contextlib.suppress(SqlError):
                reader("BEGIN")
                reader("SELECT n FROM chain")
                if turn:
                    other("COMMIT")
            time.sleep(0.08)
            behind += node.pos(DB)[0] < run.cluster.primary.pos(DB)[0]
        victim = Victim(run, node)
        if victim.begin():
            victim.commit()
    return happened(run, "readers overlap and LiteFS here is behind", upstream, victim, behind >= 2 and run.net.upstream(node) == upstream)


# ---------------------------------------------------------------- roles (Consul)

def keep_branch(takeover, old):
    """What the old primary had, before it follows the new one: by it the checker knows what LiteFS has dropped. kept: the new one's."""
    takeover.old = ltx_positions(old)


def hand_over(run, new):
    old = run.cluster.primary
    takeover = promote(run.cluster, run, new)
    keep_branch(takeover, old)
    takeover.kept = ltx_positions(new)


def handed_over(name, action, upstreams):
    """Planned; a node that is not the victim's becomes primary."""
    def inject(run, node, upstream):
        old = run.cluster.primary
        new = next(n for n in run.cluster.nodes if n not in (old, node))
        # One that needs a snapshot cannot take over: LiteFS waits for WRITE to make it, and so for the victim.
        wait_until(f"n{new.index} follows n{old.index}", lambda: new.pos(DB) == old.pos(DB), 60)
        held = Held(run, node, upstream, action)
        if not held.victim:
            return False
        hand_over(run, new)
        held.let_go()
        held.victim.commit()
        return happened(run, name, upstream, held.victim, True)
    return Kind(name, upstreams, inject)


def failed_over(name, action, upstreams, unreplicated=False, acknowledged=False):
    """kill -9 of the primary's LiteFS; another takes over, and the old one comes back. acknowledged: COMMIT has returned before."""
    def inject(run, node, upstream):
        old = run.cluster.primary
        front = run.net.front(node, upstream)
        victim = begun(run, node, upstream)
        if not victim:
            return False
        fault = front.add(action, method="POST", path="/tx") if action else None
        if unreplicated:
            run.net.streams[old].hold_streams()
        hit = True
        if fault:
            victim.send()
            hit = fault.seen.wait(SEEN_S * slow_factor())
        if acknowledged:
            hit = victim.commit() == "ok"
        dead, takeover = kill_primary(run.cluster, run, name)
        keep_branch(takeover, dead)
        if fault:
            front.remove(fault)
            fault.lose()
        run.takeovers.append(takeover.wait(run.cluster))
        takeover.kept = ltx_positions(takeover.new)
        run.net.streams[old].hold_streams(False)
        if not acknowledged:
            victim.commit()
        come_back(dead)
        return happened(run, name, upstream, victim, hit)
    return Kind(name, upstreams, inject)


REQUESTS = [
    at_begin("begin: request lost", "drop_request"),
    at_begin("begin: answer lost", "drop_answer"),
    at_begin("begin: black hole", "hold_request"),
    at_commit("commit: request lost", "drop_request"),
    at_commit("commit: cut within the body", "stall_body", after=lambda fault, victim: fault.lose()),
    at_commit("commit: answer lost after the apply", "drop_answer"),
    at_commit("commit: answer late", "hold_answer", after=late),
    # LiteFS here is waited for whatever commit_timeout is; test_db_faults.c has these for self
    at_commit("commit: black hole", "hold_request", AWAY),
    at_commit("commit: half open within the body", "stall_body", AWAY),
    at_release("release: request lost", "drop_request"),
    at_release("release: answer lost", "drop_answer"),
    Kind("network cut with the lock held", AWAY, connections_cut),
]
CLIENTS = [
    Kind("client killed waiting for the lock", ALL, client_killed_waiting),
    Kind("client killed in its transaction", ALL, client_killed_in_transaction),
    client_killed_in_commit("client killed in COMMIT, before the apply", "hold_request"),
    client_killed_in_commit("client killed in COMMIT, after the apply", "hold_answer"),
]
PROCESSES = [
    process_killed("litefwd here killed in a transaction", None, here, ALL, litefwd_restarted),
    process_killed("litefwd here killed in COMMIT, applied", "hold_answer", here, ALL, litefwd_restarted),
    process_killed("gateway killed with the lock held", None, at_the_primary, (GATEWAY,), litefwd_restarted),
    process_killed("gateway killed in COMMIT, applied", "hold_answer", at_the_primary, (GATEWAY,), litefwd_restarted),
    process_killed("LiteFS here killed in a transaction", None, here, AWAY, litefs_restarted),
    process_killed("LiteFS here killed in COMMIT, applied", "hold_answer", here, AWAY, litefs_restarted),
    process_killed("primary's LiteFS killed in a transaction", None, at_the_primary, ALL, litefs_restarted),
    process_killed("primary's LiteFS killed in COMMIT, applied", "hold_answer", at_the_primary, ALL, litefs_restarted),
    process_stopped("primary's LiteFS stopped", ALL, "litefs"),
    process_stopped("gateway stopped", (GATEWAY,), "litefwd"),
]
PLACES = [
    Kind("spool disk full", ALL, spool_full),
    Kind("disk of the primary's LiteFS full", ALL, litefs_disk_full),
    Kind("readers overlap and LiteFS here is behind", AWAY, readers_overlap),
]
STATIC = REQUESTS + CLIENTS + PROCESSES + PLACES
CONSUL = [
    handed_over("planned handoff in a transaction", None, ALL),
    handed_over("planned handoff in COMMIT, applied", "hold_answer", ALL),
    failed_over("failover in a transaction", None, ALL),
    failed_over("failover in COMMIT, not applied", "hold_request", ALL),
    failed_over("failover in COMMIT, applied", "hold_answer", ALL),
    failed_over("failover in COMMIT, applied, not replicated", "hold_answer", AWAY, unreplicated=True),
    failed_over("failover after COMMIT, not replicated", None, (SELF,), unreplicated=True, acknowledged=True),
]

__all__ = ["Kind", "STATIC", "CONSUL", "hand_over"]
