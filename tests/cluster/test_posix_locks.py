"""POSIX record locks on the files of a mount, step by step against a plain file, which says what is right.

Each scenario is a list of steps of two or three processes; every answer goes into a trace, and the traces of
the mount and of the plain file must be equal. What litefwd refuses, for SQLite's locks mean more to it
than to a kernel (src/db/db_locks.c), has tests of its own at the end.
"""
import contextlib
import os
import signal
import time

from cluster import Cluster, wait_until
from locker import Locker
from test_basic import DB, assert_same_everywhere, create

PENDING, RESERVED, SHARED, SHARED_SIZE = 0x40000000, 0x40000001, 0x40000002, 510
WRITE, CKPT, RECOVER, READ0, DMS = 120, 121, 122, 123, 128


class Bytes:
    """What the scenarios may use of one kind of file.

    byte: takes any lock without further meaning. exclusive: (first, n) neighbours that one may lock exclusively.
    shared: (first, n) neighbours for shared locks.
    """

    def __init__(self, byte, exclusive, shared):
        self.byte, self.exclusive, self.shared = byte, exclusive, shared


SHM = Bytes(DMS, (READ0 + 1, 5), (CKPT, 2))
WAL_DATABASE = Bytes(PENDING, (PENDING, 1), (PENDING, 2))
ROLLBACK_DATABASE = Bytes(PENDING, (PENDING, 1), (PENDING, 2))


class Stage:
    """Processes on one file, and the trace of what they were answered."""

    def __init__(self, cluster, path, stack):
        self.cluster, self.path, self.stack, self.trace = cluster, path, stack, []
        self.names = {}

    def process(self, name, opened=True, **open_args):
        actor = Actor(self, Locker(self.cluster, name, self.path))
        self.names[actor.pid] = name
        if opened:
            actor.open(**open_args)
        return actor

    def say(self, who, what, answer):
        if isinstance(answer, list):
            answer = answer[:3] + [self.names.get(answer[3], answer[3])]
        self.trace.append(f"{who}.{what} = {answer}")
        return answer


class Actor:
    """A Locker whose calls are traced."""

    def __init__(self, stage, locker):
        self.stage, self.locker, self.pid = stage, locker, locker.pid

    def __getattr__(self, method):
        def call(*args, **kwargs):
            answer = getattr(self.locker, method)(*args, **kwargs)
            told = ", ".join([str(arg) for arg in args] + [f"{key}={value}" for key, value in kwargs.items() if key != "path"])
            return self.stage.say(self.locker.name, f"{method}({told})", answer)
        return call

    def killed(self):
        self.locker.kill()

    def ended(self):
        self.locker.end()


# ---------------------------------------------------------------- scenarios

def two_processes(stage, b):
    x, y = stage.process("x"), stage.process("y")
    for mine in "rw":
        for other in "rw":
            x.lock(mine, b.byte)
            y.getlk(other, b.byte)
            y.lock(other, b.byte)
            y.lock("u", b.byte)
            x.lock("u", b.byte)
    x.lock("u", b.byte)  # not held
    y.getlk("w", b.byte)


def two_descriptors_are_one_owner(stage, b):
    x, y = stage.process("x"), stage.process("y")
    x.open("second")
    x.lock("w", b.byte)
    x.lock("w", b.byte, fd="second")
    x.getlk("w", b.byte, fd="second")
    x.lock("r", b.byte, fd="second")  # downgrades what the first one took
    y.lock("r", b.byte)
    y.lock("u", b.byte)
    x.lock("u", b.byte, fd="second")
    y.lock("w", b.byte)


def a_closed_descriptor_drops_all(stage, b):
    x, y = stage.process("x"), stage.process("y")
    x.open("second", flags=os.O_RDONLY)
    x.lock("w", b.byte)
    y.lock("r", b.byte)
    x.close("second")
    y.lock("r", b.byte)
    y.lock("u", b.byte)
    x.dup("a", "copy")
    x.lock("w", b.byte)
    x.close("copy")
    y.lock("w", b.byte)


def upgrade_and_downgrade(stage, b):
    x, y = stage.process("x"), stage.process("y")
    x.lock("r", b.byte)
    y.lock("r", b.byte)
    x.lock("w", b.byte)  # refused, and keeps what it has
    y.lock("u", b.byte)
    y.getlk("w", b.byte)
    x.lock("w", b.byte)
    y.getlk("r", b.byte)
    y.lock("r", b.byte)
    x.lock("r", b.byte)
    y.lock("r", b.byte)
    y.getlk("w", b.byte)
    x.lock("u", b.byte)
    y.lock("w", b.byte)


def ranges(stage, b):
    x, y = stage.process("x"), stage.process("y")
    first, n = b.exclusive
    x.lock("w", first, n)
    for i in range(n):
        y.getlk("w", first + i)
        y.lock("r", first + i) if first + i == b.byte else None
    y.getlk("w", 0, 0)
    y.getlk("w", first - 5, n + 10)
    if n > 2:
        x.lock("u", first + 1)  # a hole
        y.lock("w", first + 1)
        y.getlk("w", first, n)
        y.getlk("w", first + 1, n - 1)
        y.lock("w", first, n)  # all or nothing
        y.lock("u", first + 1)
    x.lock("u", first, n)
    y.getlk("w", first, n)
    first, n = b.shared
    x.lock("r", first, n)
    y.getlk("w", first, n)
    y.getlk("r", first, n)
    y.lock("r", first)
    x.getlk("w", first, n)
    x.lock("u", first + n - 1)
    y.getlk("w", first + n - 1)
    y.lock("u", 0, 0)
    x.lock("u", 0, 0)
    y.getlk("w", 0, 0)


def to_the_end_of_the_file(stage, b):
    x, y = stage.process("x"), stage.process("y")
    x.lock("w", b.byte)
    x.lock("r", b.shared[0])
    x.lock("u", 0, 0)
    y.getlk("w", b.byte)
    y.getlk("w", 0, 0)
    y.lock("w", b.byte)


def a_descriptor_for_reading(stage, b):
    x, y = stage.process("x", flags=os.O_RDONLY), stage.process("y")
    x.lock("r", b.byte)
    x.lock("w", b.byte)  # EBADF
    y.lock("w", b.byte)
    y.getlk("w", b.byte)


def open_file_description_locks(stage, b):
    x, y = stage.process("x"), stage.process("y")
    x.open("second")
    x.lock("w", b.byte, ofd=True)
    x.lock("w", b.byte, fd="second", ofd=True)  # an owner of its own
    x.lock("r", b.byte)  # so is the process
    y.lock("r", b.byte)
    x.lock("r", b.byte, ofd=True)
    x.lock("r", b.byte, fd="second", ofd=True)
    x.lock("w", b.byte, ofd=True)
    x.close("second")  # its own go, and only they
    y.lock("w", b.byte)
    x.lock("w", b.byte, ofd=True)
    x.dup("a", "copy")
    x.close("a")  # the description is still open
    y.lock("r", b.byte)
    x.lock("u", b.byte, fd="copy", ofd=True)
    y.lock("w", b.byte)
    y.lock("u", b.byte)
    x.lock("w", b.byte, fd="copy", ofd=True)
    y.lock("w", b.byte)
    x.close("copy")
    gone(stage, y, b.byte)


def fork(stage, b):
    x = stage.process("x")
    x.lock("w", b.byte)
    x.lock("r", b.byte, where="fork")  # not inherited
    x.close(where="fork")  # drops nothing of the parent's
    y = stage.process("y")
    y.lock("r", b.byte)
    x.lock("u", b.byte)
    x.lock("w", b.byte, ofd=True)
    x.lock("r", b.byte, ofd=True, where="fork")  # shared with the child: a downgrade
    y.lock("r", b.byte)
    y.lock("u", b.byte)
    x.lock("u", b.byte, ofd=True, where="fork")
    y.lock("w", b.byte)


def threads(stage, b):
    x, y = stage.process("x"), stage.process("y")
    x.lock("w", b.byte)
    x.lock("w", b.byte, where="thread")  # the same owner
    y.getlk("w", b.byte)
    x.lock("u", b.byte, where="thread")
    y.lock("w", b.byte)


def death(stage, b):
    x, y = stage.process("x"), stage.process("y")
    for kind in "rw":
        x.lock(kind, b.byte)
        y.lock("w", b.byte)
        x.killed()
        gone(stage, y, b.byte)
        x = stage.process("x")
    x.lock("w", b.byte, ofd=True)
    y.lock("w", b.byte)
    x.killed()
    gone(stage, y, b.byte)
    x = stage.process("x")
    x.lock("w", b.byte)
    x.ended()
    gone(stage, y, b.byte)


def waiting(stage, b):
    x, y, z = stage.process("x"), stage.process("y"), stage.process("z")
    for mine in "rw":
        x.lock(mine, b.byte)
        y.start_lock("w", b.byte)
        still(stage, y)
        x.lock("u", b.byte)
        y.answer()
        z.getlk("w", b.byte)
        y.lock("u", b.byte)
    x.lock("w", b.byte)
    y.start_lock("r", b.byte)
    z.start_lock("r", b.byte)
    still(stage, y)
    x.lock("r", b.byte)  # a downgrade lets both in
    y.answer()
    z.answer()
    y.lock("u", b.byte)
    z.start_lock("w", b.byte)  # an upgrade waits, too
    still(stage, z)
    x.lock("u", b.byte)
    z.answer()
    y.start_lock("r", b.byte)
    still(stage, y)
    z.killed()
    y.answer()
    y.lock("r", b.byte, wait=True)  # free: at once
    y.lock("u", b.byte, wait=True)


def interrupted_waiting(stage, b):
    x, y, z = stage.process("x"), stage.process("y"), stage.process("z")
    x.lock("w", b.byte)
    y.start_lock("w", b.byte)
    still(stage, y)
    begin = time.monotonic()
    y.locker.kill(signal.SIGUSR1)
    y.answer()
    assert time.monotonic() - begin < 5, "EINTR comes at once"
    y.start_lock("w", b.byte)
    still(stage, y)
    y.killed()  # while it waits: must not be granted to a dead one
    x.lock("u", b.byte)
    gone(stage, z, b.byte)


def still(stage, actor):
    """It goes on waiting. (No bound decides here but for how long a false grant may stay unnoticed.)"""
    stage.say(actor.locker.name, "answered early", actor.locker.answered(0.3))


def gone(stage, actor, byte):
    """The lock becomes free, if not at once: the kernel releases a file after the process has been waited for."""
    wait_until("the lock is free", lambda: actor.locker.lock("w", byte) == "ok", 10)
    stage.say(actor.locker.name, f"at last locked {byte}", "ok")
    actor.lock("u", byte)


SCENARIOS = [two_processes, two_descriptors_are_one_owner, a_closed_descriptor_drops_all, upgrade_and_downgrade, ranges,
             to_the_end_of_the_file, a_descriptor_for_reading, open_file_description_locks, fork, threads, death, waiting,
             interrupted_waiting]


def play(cluster, scenario, path, which):
    """The trace."""
    with contextlib.ExitStack() as stack:
        stage = Stage(cluster, path, stack)
        scenario(stage, which)
        for child in cluster.children:
            if child.poll() is None and child.pid in stage.names:
                child.kill()
                child.wait(20)
        return stage.trace


def compare(cluster, path, which):
    plain = os.path.join(cluster.base, "plain")
    with open(plain, "wb") as file:
        file.write(bytes(8192))
    problems = []
    for scenario in SCENARIOS:
        right, ours = play(cluster, scenario, plain, which), play(cluster, scenario, path, which)
        assert len(right) > 4, scenario.__name__
        different = [f"plain: {one}\nmount: {two}" for one, two in zip(right, ours) if one != two]
        if right != ours:
            problems.append(f"{scenario.__name__}:\n" + "\n".join(different or ["one is longer"]))
    assert not problems, "\n".join(problems)


def test_posix_locks__shm__as_on_a_plain_file():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in cluster.nodes:
            compare(cluster, node.path(DB) + "-shm", SHM)
        assert_same_everywhere(cluster)


def test_posix_locks__wal_database__as_on_a_plain_file():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in cluster.nodes:
            compare(cluster, node.path(DB), WAL_DATABASE)
        assert_same_everywhere(cluster)


def test_posix_locks__rollback_database__as_on_a_plain_file():
    with Cluster(n=2) as cluster:
        create(cluster, journal="delete")
        for node in cluster.nodes:
            compare(cluster, node.path(DB), ROLLBACK_DATABASE)
        assert_same_everywhere(cluster)
