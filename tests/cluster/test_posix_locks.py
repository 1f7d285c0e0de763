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


def compare(cluster, suffix, which):
    plain = os.path.join(cluster.base, "plain")
    with open(plain, "wb") as file:
        file.write(bytes(8192))
    problems = []
    for scenario in SCENARIOS:
        right = play(cluster, scenario, plain, which)
        assert len(right) > 4, scenario.__name__
        for node in cluster.nodes:
            ours = play(cluster, scenario, node.path(DB) + suffix, which)
            different = [f"plain: {one}\nmount: {two}" for one, two in zip(right, ours) if one != two]
            if right != ours:
                problems.append(f"{scenario.__name__}, n{node.index}:\n" + "\n".join(different or ["one is longer"]))
    assert not problems, "\n".join(problems)


def test_posix_locks__shm__as_on_a_plain_file():
    with Cluster(n=2) as cluster:
        create(cluster)
        compare(cluster, "-shm", SHM)
        assert_same_everywhere(cluster)


def test_posix_locks__wal_database__as_on_a_plain_file():
    with Cluster(n=2) as cluster:
        create(cluster)
        compare(cluster, "", WAL_DATABASE)
        assert_same_everywhere(cluster)


def test_posix_locks__rollback_database__as_on_a_plain_file():
    with Cluster(n=2) as cluster:
        create(cluster, journal="delete")
        compare(cluster, "", ROLLBACK_DATABASE)
        assert_same_everywhere(cluster)


# ---------------------------------------------------------------- where litefwd differs from a plain file

def obtained(locker, kind, start, length=1):
    """SQLite's way with a lock that may be refused for LiteFS' or the primary's sake: again, until it is had."""
    wait_until(f"{locker.name} has {start}", lambda: locker.lock(kind, start, length) == "ok", 20)


def test_posix_locks__what_litefwd_refuses__the_errno_of_the_header():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in cluster.nodes:
            x = Locker(cluster, "x", node.path(DB))
            x.open("db")
            x.open("shm", path=node.path(DB) + "-shm")
            x.open("wal", path=node.path(DB) + "-wal")
            for fd, start, length in (("db", SHARED, SHARED_SIZE), ("db", RESERVED, 1), ("db", PENDING, 2), ("db", 0, 0),
                                      ("shm", WRITE, 1), ("shm", CKPT, 1), ("shm", RECOVER, 1), ("shm", WRITE, 3),
                                      ("shm", 0, 0)):
                assert x.lock("w", start, length, fd=fd) == "EAGAIN", (fd, start, length)
                assert x.lock("w", start, length, fd=fd, wait=True) == "EAGAIN", "waiting would be for ever"
            for fd, start, length in (("db", 0, 1), ("db", PENDING - 1, 1), ("db", SHARED + SHARED_SIZE, 0), ("shm", 0, WRITE),
                                      ("shm", DMS + 1, 0)):
                for kind in "rw":
                    assert x.lock(kind, start, length, fd=fd) == "ENOLCK", (fd, start, length)
                    assert x.getlk(kind, start, length, fd=fd) == "free"
                assert x.lock("u", start, length, fd=fd) == "ok"
            assert x.lock("r", 0, fd="wal") == "ENOSYS"
            assert x.lock("u", 0, fd="wal") == "ok"
            x.end()


def test_posix_locks__part_of_the_shared_range__is_all_of_it():
    with Cluster(n=1) as cluster:
        create(cluster)
        x, y = Locker(cluster, "x", cluster.primary.path(DB)), Locker(cluster, "y", cluster.primary.path(DB))
        x.open()
        y.open()
        obtained(x, "r", SHARED + 100)
        assert y.getlk("w", SHARED) == ["r", SHARED, SHARED_SIZE, x.pid]
        assert x.lock("u", SHARED + 509) == "ok"
        assert y.getlk("w", SHARED, SHARED_SIZE) == "free"
        x.end()
        y.end()


def test_posix_locks__wal_write_lock__after_a_read_lock_and_gone_with_its_owner():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in cluster.nodes:
            before = cluster.primary.pos(DB)
            for how in ("unlock", "close", "kill"):
                x, y = Locker(cluster, "x", node.path(DB) + "-shm"), Locker(cluster, "y", node.path(DB) + "-shm")
                x.open()
                y.open()

                def both():
                    """A write lock that is not had gives up the read lock, too, as SQLite does."""
                    if x.lock("r", READ0 + 1) == "ok" and x.lock("w", WRITE) == "ok":
                        return True
                    x.lock("u", READ0 + 1)
                    return False
                wait_until("x may write", both, 20)
                assert x.lock("w", WRITE) == "ok", "again: it has it"
                assert y.getlk("r", WRITE) == ["w", WRITE, 1, x.pid]
                assert y.lock("w", READ0 + 1) == "EAGAIN"
                if how == "unlock":
                    x.lock("u", WRITE)
                    x.lock("u", READ0 + 1)
                elif how == "close":
                    x.close()
                else:
                    x.kill()
                wait_until("the lock is free", lambda y=y: y.getlk("w", 0, 0) == "free", 10)
                y.end()
                if how != "kill":
                    x.end()
            assert cluster.primary.pos(DB) == before, "nothing was written"
            node.sql(DB, "INSERT INTO t VALUES ('afterwards')")
        assert_same_everywhere(cluster)


def test_posix_locks__rollback_ladder__as_sqlite_climbs_it():
    with Cluster(n=2) as cluster:
        create(cluster, journal="delete")
        for node in cluster.nodes:
            before = cluster.primary.pos(DB)
            x, y, z = (Locker(cluster, name, node.path(DB)) for name in "xyz")
            for locker in (x, y, z):
                locker.open()
            for locker in (x, y):
                obtained(locker, "r", PENDING)
                obtained(locker, "r", SHARED, SHARED_SIZE)
                assert locker.lock("u", PENDING) == "ok"
            obtained(x, "w", RESERVED)
            assert y.getlk("w", RESERVED) == ["w", RESERVED, 1, x.pid]
            assert y.lock("w", RESERVED) == "EAGAIN"
            obtained(x, "w", PENDING)
            assert z.lock("r", PENDING) == "EAGAIN", "no new reader"
            assert x.lock("w", SHARED, SHARED_SIZE) == "EAGAIN", "y reads"
            assert x.lock("w", SHARED, SHARED_SIZE) == "EAGAIN", "and x has kept its own shared lock"
            assert z.getlk("w", SHARED, SHARED_SIZE)[0] == "r"
            assert y.lock("u", 0, 0) == "ok"
            obtained(x, "w", SHARED, SHARED_SIZE)
            assert z.getlk("r", 0, 0) == ["w", PENDING, 2 + SHARED_SIZE, x.pid]
            assert x.lock("r", SHARED, SHARED_SIZE) == "ok"
            assert x.lock("u", PENDING, 2) == "ok"
            obtained(y, "r", SHARED, SHARED_SIZE)
            assert z.getlk("w", 0, 0) == ["r", SHARED, SHARED_SIZE, z.getlk("w", SHARED)[3]]
            for locker in (x, y):
                locker.kill()
            wait_until("the locks are free", lambda z=z: z.getlk("w", 0, 0) == "free", 10)
            z.end()
            assert cluster.primary.pos(DB) == before, "nothing was written"
        assert_same_everywhere(cluster)
