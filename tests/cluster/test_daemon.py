"""litefwd as a daemon and as mount(8) starts it: who waits for whom, and what the exit status says."""
import os
import signal

from cluster import Cluster, SqlError, is_mounted, marked_processes, wait_until

DB = "app.db"


def create(cluster):
    cluster.sql_direct(cluster.primary, DB, "PRAGMA journal_mode = wal; CREATE TABLE t(x)")
    cluster.wait_converged(DB)


def daemons(cluster):
    """Ids of this cluster's processes whose program is litefwd and that the harness did not start, without their aborters."""
    started = {child.pid for child in cluster.children}
    binary = os.path.realpath(cluster.litefwd_binary)
    found = []
    for pid in marked_processes(cluster.base):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as comm:
                aborter = comm.read().strip() == "litefwd-abort"
            if pid not in started and not aborter and os.path.realpath(os.readlink(f"/proc/{pid}/exe")) == binary:
                found.append(pid)
        except OSError:
            pass
    return found


def run(cluster, *argv):
    """Captures both outputs, so it ends only when nobody holds them any more: the daemon must not."""
    return cluster.run([cluster.litefwd_binary, *argv], timeout=40, check=False)


def stop(cluster, node, signal_number=signal.SIGTERM):
    (pid,) = daemons(cluster)
    os.kill(pid, signal_number)
    wait_until("the daemon has unmounted", lambda: not is_mounted(node.mount), 20)
    wait_until("the daemon is gone", lambda: not daemons(cluster), 20)


def with_litefs(n=1, **options):
    """A cluster on which the test starts litefwd."""
    cluster = Cluster(n=n, litefwd_opts=options)
    cluster.with_litefwd = False
    return cluster


def test_daemon__litefs_there__mounted_and_writable_when_the_command_returns():
    with with_litefs(n=2) as cluster:
        create(cluster)
        node = cluster.replicas[0]
        code, _, err = run(cluster, "-o", node.litefwd_options(), node.litefs_dir, node.mount)
        assert code == 0, (code, err)
        assert is_mounted(node.mount), "the command returned before its mount was there"
        before = cluster.primary.pos(DB)[0]
        node.sql(DB, "INSERT INTO t VALUES (1)")
        assert cluster.primary.pos(DB)[0] == before + 1
        (pid,) = daemons(cluster)
        assert os.getsid(pid) == pid and os.readlink(f"/proc/{pid}/cwd") == "/"
        for fd in range(3):
            assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
        stop(cluster, node)


def test_daemon__sighup__unmounts():
    with with_litefs() as cluster:
        create(cluster)
        node = cluster.primary
        code, _, err = run(cluster, "-o", node.litefwd_options(), node.litefs_dir, node.mount)
        assert code == 0, (code, err)
        stop(cluster, node, signal.SIGHUP)


def test_daemon__litefs_does_not_answer__command_fails_with_3_and_says_why():
    with with_litefs() as cluster:
        node = cluster.primary
        closed = f"http://127.0.0.99:{cluster.port.number}"
        code, _, err = run(cluster, "-o", node.litefwd_options(wait="300ms", litefs_url=closed), node.litefs_dir, node.mount)
        assert code == 3 and closed in err, (code, err)
        assert not is_mounted(node.mount) and not daemons(cluster)


def test_daemon__second_one__refused_and_first_unharmed():
    with with_litefs() as cluster:
        create(cluster)
        node = cluster.primary
        other = os.path.join(node.base, "mnt2")
        os.mkdir(other)
        code, _, err = run(cluster, "-o", node.litefwd_options(), node.litefs_dir, node.mount)
        assert code == 0, (code, err)
        code, _, err = run(cluster, "-o", node.litefwd_options(), node.litefs_dir, other)
        assert code == 1 and "another litefwd" in err, (code, err)
        assert not is_mounted(other)
        node.sql(DB, "INSERT INTO t VALUES (1)")
        stop(cluster, node)


def test_mount_helper__called_as_mount_does__mounted():
    with with_litefs() as cluster:
        create(cluster)
        node = cluster.primary
        helper = os.path.join(node.base, "mount.litefwd")
        os.symlink(os.path.abspath(cluster.litefwd_binary), helper)
        code, _, err = cluster.run([helper, node.litefs_dir, node.mount, "-n", "-o", "rw,noatime,_netdev," + node.litefwd_options()],
                                   timeout=40, check=False)
        assert code == 0, (code, err)
        node.sql(DB, "INSERT INTO t VALUES (1)")
        stop(cluster, node)


def test_start__before_litefs__waits_for_its_mount():
    with with_litefs() as cluster:
        create(cluster)
        node = cluster.primary
        node.stop_litefs()
        node.start_litefwd(wait=False)
        wait_until("litefwd says that it waits", lambda: "waiting for LiteFS" in node.litefwd_text(), 20)
        assert not is_mounted(node.mount)
        node.start_litefs()
        node.wait_litefwd()
        node.sql(DB, "INSERT INTO t VALUES (1)")


def test_start__told_to_stop_while_litefs_is_silent__ends_at_once():
    with with_litefs(wait="1h") as cluster:
        node = cluster.primary
        node.start_litefwd(wait=False, litefs_url=f"http://127.0.0.99:{cluster.port.number}")
        process, node.litefwd, node.litefwd_expected = node.litefwd, None, False
        wait_until("litefwd has found LiteFS silent", lambda: "litefs_away" in node.litefwd_text(), 20)
        process.terminate()
        assert process.wait(20) != 0
        assert not is_mounted(node.mount)


def test_start__litefs_dir_in_the_mounts_of_another_file_system__exit_3():
    with with_litefs() as cluster:
        node = cluster.primary
        code, _, err = run(cluster, "-f", "-o", node.litefwd_options(wait="0"), "/proc", node.mount)
        assert code == 3 and "not LiteFS" in err, (code, err)


def test_aborter__litefwd_stopped_and_killed__no_process_is_left():
    """The child that aborts a dead litefwd's connection ends with it, in either way."""
    def aborters(cluster):
        found = []
        for pid in marked_processes(cluster.base):
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8") as comm:
                    found += [pid] if comm.read().strip() == "litefwd-abort" else []
            except OSError:
                pass
        return found

    with with_litefs() as cluster:
        create(cluster)
        node = cluster.primary
        node.start_litefwd()
        assert len(aborters(cluster)) == 1
        assert node.stop_litefwd() == 0
        wait_until("the aborter has ended after an orderly end", lambda: not aborters(cluster), 5)
        node.start_litefwd()
        assert len(aborters(cluster)) == 1
        node.kill_litefwd()
        wait_until("the aborter has ended after a kill", lambda: not aborters(cluster), 5)
        node.start_litefwd()
        node.sql(DB, "INSERT INTO t VALUES ('after')")


def test_litefwd_killed__connections_that_are_kept__error_or_their_old_state_until_opened_anew():
    """
    SQLite's own: an unlock of "-shm" that fails, for its mount is dead, leaves it believing that it has the lock. It asks nobody
    any more then, and reads what it and the kernel have cached. It cannot write, and is never shown anything but what it had.
    """
    with Cluster(n=2) as cluster:
        create(cluster)
        node = cluster.replicas[0]
        node.sql(DB, "INSERT INTO t VALUES (1)")
        with node.conn(DB, busy_ms=0) as idle, node.conn(DB, busy_ms=0) as reading:
            for conn in (idle, reading):
                assert conn("SELECT count(*) FROM t") == [(1,)]
            reading("BEGIN")
            reading("SELECT count(*) FROM t")
            node.kill_litefwd()
            node.start_litefwd()
            node.sql(DB, "INSERT INTO t VALUES (2)")
            for name, conn in (("idle", idle), ("in a read transaction", reading)):
                for statement in ("COMMIT", "SELECT count(*) FROM t", "INSERT INTO t VALUES (3)", "SELECT count(*) FROM t"):
                    try:
                        rows = conn(statement)
                        assert not statement.startswith("INSERT"), f"{name}: a write into a dead mount"
                        assert rows in ([], [(1,)]), f"{name}: {statement}: {rows}"
                        print(f"{name}: {statement}: {rows}")
                    except SqlError as error:
                        print(f"{name}: {statement}: {error}")
        with node.conn(DB) as conn:
            assert conn("SELECT count(*) FROM t") == [(2,)]
            conn("INSERT INTO t VALUES (4)")
