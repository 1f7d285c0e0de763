"""Filesystem manners: what programs that are not SQLite meet in a mount. One test per row of litefwd(8), MANNERS.

@row(TEXT, ERRNOS) names the row; tests/test_docs.sh compares TEXT and ERRNOS with the man page, and the test
must have met exactly these errnos.
"""
import functools
import os
import sys

from cluster import Cluster, wait_until
from test_basic import DB, assert_same_everywhere, create

SEEN = set()  # errnos that the running test has met


def row(text, errnos=""):
    def mark(function):
        @functools.wraps(function)
        def test():
            SEEN.clear()
            function()
            assert SEEN == set(errnos.split()), (text, SEEN, errnos)
        return test
    return mark


class Desk:
    """A node of a cluster with one database, and somewhere to put plain files."""

    def __init__(self, cluster, node):
        self.cluster, self.node = cluster, node
        self.plain_dir = os.path.join(cluster.base, f"plain-{node.index}")
        self.plain = os.path.join(self.plain_dir, "plain.db")
        self.writes = False
        os.makedirs(self.plain_dir)
        cluster.shell(self.plain, "CREATE TABLE plain(x); INSERT INTO plain VALUES (41), (42)")

    def sh(self, command):
        """A shell in the mount: (exit code, output, errors). $D: the database; $P, $T: a plain one, its directory."""
        return self.cluster.run(["sh", "-c", 'cd "$1" && D=$2 P=$3 T=$4 && export LC_ALL=C && '
                                 'sqlite3() { command sqlite3 -cmd ".timeout 20000" "$@"; } && ' + command, "sh", self.node.mount,
                                 DB, self.plain, self.plain_dir], check=False)

    def ok(self, command):
        code, out, err = self.sh(command)
        assert code == 0 and not err, (command, code, out, err)
        return out

    def ok_when_free(self, command):
        """As ok(), for what does not heed busy_timeout: again while it says that the database is locked."""
        def done():
            code, out, err = self.sh(command)
            assert code == 0 or "locked" in err or "busy" in err, (command, code, out, err)
            return code == 0
        wait_until("the database is free", done, 20)

    def fails(self, command, message):
        code, out, err = self.sh(command)
        assert code != 0 and message in err, (command, code, out, err)

    def call(self, code):
        """Python in the mount: the errno's name of the first OSError, or what it printed. D, P, T as in sh()."""
        program = ("import errno, fcntl, mmap, os, sys\nos.chdir(sys.argv[1]); D, P, T = sys.argv[2:]\n"
                   "def run():\n" + "".join(f"    {line}\n" for line in code.strip().splitlines()) +
                   "try:\n    run()\nexcept OSError as e:\n    print(errno.errorcode[e.errno])\n")
        return self.cluster.run([sys.executable, "-c", program, self.node.mount, DB, self.plain, self.plain_dir]).strip()

    def refused(self, errno, code):
        answer = self.call(code)
        assert answer == errno, (code, answer)
        SEEN.add(errno)

    def sha(self):
        return self.ok('sha256sum "$D"').split()[0]

    def in_litefs(self):
        return sorted(os.listdir(os.path.join(self.cluster.primary.data_dir, "dbs")))


def on_each_node(journal="wal"):
    """A desk on a replica, then on the primary. After each, unless it said desk.writes, the database has neither content
    nor position changed and LiteFS has no new name; and it can be written as before."""
    with Cluster(n=2) as cluster:
        create(cluster, journal=journal)
        for node in reversed(cluster.nodes):
            desk = Desk(cluster, node)
            before = cluster.primary.pos(DB), desk.sha(), desk.in_litefs()
            yield desk
            if not desk.writes:
                assert (cluster.primary.pos(DB), desk.sha(), desk.in_litefs()) == before
            if journal == "wal":
                node.sql(DB, "INSERT INTO t VALUES ('afterwards')")
            if not desk.writes:
                assert_same_everywhere(cluster)


# ---------------------------------------------------------------- looking

@row("ls, find, stat, du, df")
def test_looking__all_tools__a_directory_of_files():
    for desk in on_each_node():
        names = desk.ok("ls -A").split()
        assert {DB, DB + "-wal", DB + "-shm", DB + "-pos", ".litefwd"} <= set(names), names
        assert sorted(names) == sorted(name[2:] for name in desk.ok("find . -type f").split())
        size, mode, links = desk.ok('stat -c "%s %a %h" "$D"').split()
        assert (int(size), mode, links) == (os.path.getsize(desk.node.direct_path(DB)), "644", "1")
        assert int(desk.ok('du -b "$D"').split()[0]) == int(size)
        assert desk.ok("df .").splitlines()[-1].split()[-1] == desk.node.mount
        assert desk.ok('head -c 15 "$D"') == "SQLite format 3"
        assert desk.ok("cat *-pos").strip() == open(desk.node.direct_path(DB) + "-pos", encoding="ascii").read().strip()


@row("ls -l: size and times")
def test_looking__after_commits_here_and_elsewhere__size_and_time_move():
    for desk in on_each_node():
        desk.writes = True
        for node in desk.cluster.nodes:
            size, changed = (float(word) for word in desk.ok('stat -c "%s %.Y" "$D"').split())
            node.sql(DB, "INSERT INTO t VALUES (zeroblob(20000))")
            desk.cluster.wait_converged(DB)

            def moved(desk=desk, size=size, changed=changed):
                new_size, new_changed = (float(word) for word in desk.ok('stat -c "%s %.Y" "$D"').split())
                return new_size >= size + 16000 and new_changed > changed
            wait_until("ls shows the new size and time", moved, 10)  # the kernel keeps attributes for a second


@row("cp, sha256sum, tar of a database")
def test_copying_out__nobody_writes__consistent_and_the_same_on_all_nodes():
    for desk in on_each_node():
        desk.writes = True
        for turn, node in enumerate(desk.cluster.nodes * 2):
            desk.sha()  # its pages are in the kernel's cache now
            node.sql(DB, f"INSERT INTO t VALUES (zeroblob({5000 * turn}))")
            desk.cluster.wait_converged(DB)
            rows = node.sql(DB, "SELECT count(*) FROM t")
            desk.ok('cp "$D" "$T/copy.db"')
            assert desk.cluster.shell(os.path.join(desk.plain_dir, "copy.db"), "PRAGMA integrity_check; SELECT count(*) FROM t") == "ok\n" + rows
            shas = {other.mount: desk.cluster.run(["sha256sum", other.path(DB)]).split()[0] for other in desk.cluster.nodes}
            shas["LiteFS"] = desk.cluster.run(["sha256sum", desk.cluster.primary.direct_path(DB)]).split()[0]
            assert len(set(shas.values())) == 1, (turn, shas)
        desk.ok('tar -cf "$T/all.tar" . && mkdir "$T/all" && tar -xf "$T/all.tar" -C "$T/all"')
        with open(os.path.join(desk.plain_dir, "all", DB), "rb") as copy, open(desk.node.direct_path(DB), "rb") as original:
            assert copy.read() == original.read()


@row("inotify")
def test_inotify__commit_here_and_elsewhere__events_of_this_node_alone():
    for desk in on_each_node():
        desk.writes = True
        here = desk.node
        elsewhere = next(node for node in desk.cluster.nodes if node is not here)
        watcher = desk.cluster.spawn([sys.executable, "-c", """if True:
            import ctypes, os, struct, sys
            libc = ctypes.CDLL(None, use_errno=True)
            fd = libc.inotify_init1(os.O_NONBLOCK)
            assert libc.inotify_add_watch(fd, os.fsencode(sys.argv[1]), 0xfff) > 0
            print("ready", flush=True)
            for _ in sys.stdin:
                try:
                    data = os.read(fd, 1 << 20)
                except BlockingIOError:
                    data = b""
                seen, at = set(), 0
                while at < len(data):
                    _, mask, _, length = struct.unpack_from("iIII", data, at)
                    name = data[at + 16:at + 16 + length].rstrip(b"\\0").decode()
                    seen.add("%x:%s" % (mask, name))
                    at += 16 + length
                print(" ".join(sorted(seen)), flush=True)
        """, here.mount], stdin=-1, stdout=-1, name="inotify")
        assert watcher.stdout.readline() == b"ready\n"

        def events(watcher=watcher):
            watcher.stdin.write(b"\n")
            watcher.stdin.flush()
            return watcher.stdout.readline().decode().split()
        elsewhere.sql(DB, "INSERT INTO t VALUES ('elsewhere')")
        desk.cluster.wait_converged(DB)
        assert events() == [], "a foreign commit is not seen"
        here.sql(DB, "INSERT INTO t VALUES ('here')")
        seen = events()
        assert f"20:{DB}" in seen and f"8:{DB}" in seen, ("IN_OPEN, IN_CLOSE_WRITE", seen)
        assert f"2:{DB}-wal" in seen, ("IN_MODIFY", seen)
        watcher.stdin.close()
        watcher.wait(20)


@row("flock(2)")
def test_flock__two_processes__kept_by_the_kernel_of_this_node():
    for desk in on_each_node():
        desk.ok('flock -n "$D" true')
        assert desk.sh(f"flock -n {DB} -c 'flock -n {DB} true'")[0] == 1, "the second one is refused"
        desk.ok(f"flock -n {DB} -c 'sqlite3 {DB} \"SELECT count(*) FROM t\"'")  # SQLite knows nothing of it


# ---------------------------------------------------------------- writing past SQLite

@row("echo > DATABASE, echo >> DATABASE, cp FILE DATABASE, dd of=DATABASE", "EACCES")
def test_overwriting__a_database_as_a_file__refused_and_intact():
    for desk in on_each_node():
        desk.fails('echo x > "$D"', "ermission denied")
        desk.refused("EACCES", "os.open(D, os.O_WRONLY | os.O_TRUNC)")
        desk.refused("EACCES", "os.write(os.open(D, os.O_WRONLY | os.O_APPEND), b'x')")
        desk.refused("EACCES", "os.pwrite(os.open(D, os.O_RDWR), b'x', 0)")
        desk.refused("EACCES", "os.sendfile(os.open(D, os.O_RDWR), os.open(P, os.O_RDONLY), 0, 4096)")
        desk.refused("EACCES", "os.write(os.open(D + '-wal', os.O_WRONLY | os.O_APPEND), b'x')")
        desk.refused("EACCES", "os.open(D + '-pos', os.O_WRONLY)")
        desk.refused("EACCES", "os.open('.litefwd', os.O_WRONLY)")
        desk.fails('cp "$P" "$D"', "ermission denied")
        desk.fails('dd if="$P" of="$D" conv=notrunc', "ermission denied")
        desk.fails('dd if="$P" of="$D" bs=1 count=1 conv=notrunc', "ermission denied")


@row("a shared mapping of DATABASE that is written to", "EACCES")
def test_overwriting__by_a_mapping__msync_fails_and_nobody_sees_it():
    for desk in on_each_node():
        sha = desk.sha()
        desk.refused("EACCES", "m = mmap.mmap(os.open(D, os.O_RDWR), 4096)\nm[0:4] = b'oops'\nm.flush()")
        wait_until("the kernel has dropped it", lambda desk=desk, sha=sha: desk.sha() == sha, 10)


@row("truncate DATABASE", "EACCES")
def test_truncate__another_size__refused():
    for desk in on_each_node():
        for size in ("0", "4096", "os.path.getsize(D) + 4096"):
            desk.refused("EACCES", f"os.truncate(D, {size})")
        assert desk.call("os.truncate(D, os.path.getsize(D))") == ""
        for suffix in ("-wal", "-shm"):  # SQLite's, and it means nothing here
            assert desk.call(f"n = os.path.getsize(D + '{suffix}')\nos.truncate(D + '{suffix}', 0)\n"
                             f"assert os.path.getsize(D + '{suffix}') == n") == "", suffix
        desk.refused("EACCES", "os.truncate(D + '-pos', 0)")


@row("fallocate DATABASE", "EACCES ENOTSUP")
def test_fallocate__database__not_supported():
    for desk in on_each_node():
        desk.refused("ENOTSUP", """import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.fallocate(os.open(D, os.O_RDWR), 0, ctypes.c_long(0), ctypes.c_long(1000000)) < 0:
    raise OSError(ctypes.get_errno(), '')""")
        desk.fails('fallocate -p -o 0 -l 4096 "$D"', "fallocate failed")
        desk.refused("EACCES", "os.posix_fallocate(os.open(D, os.O_RDWR), 0, 1000000)")  # glibc then writes


@row("SQLite with nolock=1 or vfs=unix-dotfile", "EPERM")
def test_sqlite_without_its_locks__writes__fail_and_intact():
    for desk in on_each_node():
        assert desk.sh('sqlite3 "file:$D?nolock=1" "INSERT INTO t VALUES (1)"')[0] != 0
        assert desk.sh('sqlite3 "file:$D?vfs=unix-dotfile" "INSERT INTO t VALUES (1)"')[0] != 0
        desk.refused("EPERM", "os.mkdir(D + '.lock')")  # what unix-dotfile tries


def test_sqlite_without_its_locks__rollback_database__writes_fail_and_intact():
    for desk in on_each_node(journal="delete"):
        assert desk.sh('sqlite3 "file:$D?nolock=1" "INSERT INTO t VALUES (1)"')[0] != 0
        assert desk.sh('sqlite3 "file:$D?vfs=unix-dotfile" "INSERT INTO t VALUES (1)"')[0] != 0
        assert desk.call("os.pwrite(os.open(D, os.O_RDWR), b'x', 0)") == "EACCES"
        assert desk.call("os.truncate(D, 0)") == "EACCES"
        assert desk.ok('sqlite3 "$D" "PRAGMA integrity_check; SELECT count(*) FROM t"') == "ok\n3\n"


# ---------------------------------------------------------------- names

@row("a file that is no database", "EACCES")
def test_foreign_file__text_under_a_new_name__refused_and_nothing_in_litefs():
    for desk in on_each_node():
        assert desk.sh("echo x > notes.txt")[0] != 0
        desk.refused("EACCES", "os.write(os.open('notes.txt', os.O_WRONLY | os.O_CREAT), b'x')")
        desk.refused("EACCES", "os.pwrite(os.open('notes.txt', os.O_RDWR | os.O_CREAT), b'x' * 8192, 0)")
        for node in desk.cluster.nodes:
            assert "notes.txt" not in os.listdir(node.litefs_dir)


@row("cp or mv of a database into the mount", "EACCES")
def test_copying_in__a_database__refused_and_nothing_in_litefs():
    for desk in on_each_node():
        desk.fails('cp "$P" new.db', "ermission denied")
        desk.fails('mv "$P" new.db', "ermission denied")
        desk.refused("EACCES", "os.write(os.open('new.db', os.O_WRONLY | os.O_CREAT), open(P, 'rb').read())")
        assert desk.cluster.shell(desk.plain, "SELECT sum(x) FROM plain") == "83\n", "mv has not removed it"
        for node in desk.cluster.nodes:
            assert "new.db" not in os.listdir(node.litefs_dir)


@row("names that LiteFS refuses", "ENOENT EINVAL ENAMETOOLONG")
def test_names__that_litefs_refuses__none_there_and_none_made():
    for desk in on_each_node():
        for name in (".hidden", "-wal", "x-shm-wal", "a\\x01b"):
            desk.refused("ENOENT", f"os.open('{name}', os.O_RDONLY)")
            desk.refused("EINVAL", f"os.open('{name}', os.O_RDWR | os.O_CREAT)")
        for name in ("'n' * 248", "'n' * 256"):
            desk.refused("ENAMETOOLONG", f"os.open({name}, os.O_RDWR | os.O_CREAT)")
            desk.refused("ENAMETOOLONG", f"os.open({name}, os.O_RDONLY)")


@row("rm", "EBUSY EPERM")
def test_unlink__database_and_the_files_beside_it__dropped_everywhere_or_refused():
    for desk in on_each_node():
        desk.writes = True
        name = f"gone-{desk.node.index}.db"
        desk.ok(f'sqlite3 {name} "PRAGMA journal_mode=wal; CREATE TABLE plain(x)"')
        desk.cluster.wait_converged(name)
        with desk.node.conn_direct(name) as direct:
            direct("SELECT * FROM plain")
            desk.refused("EBUSY", f"os.unlink('{name}')")
        desk.ok(f"rm {name}")
        for node in desk.cluster.nodes:
            wait_until("it is gone", lambda node=node, name=name: name not in os.listdir(node.litefs_dir) and not os.path.exists(node.path(name)), 10)
        desk.refused("EBUSY", "os.unlink(D + '-wal')")
        desk.refused("EBUSY", "os.unlink(D + '-shm')")
        desk.refused("EPERM", "os.unlink(D + '-pos')")
        desk.refused("EPERM", "os.unlink('.litefwd')")


@row("mv", "EPERM")
def test_rename__any_name__refused():
    for desk in on_each_node():
        desk.refused("EPERM", "os.rename(D, 'b.db')")
        desk.refused("EPERM", "os.rename(D, D + '-pos')")
        desk.refused("EPERM", "os.rename(D + '-wal', 'x-wal')")
        assert desk.call("os.stat(D)") == ""


@row("ln, ln -s, mkdir, mkfifo, mknod", "EPERM")
def test_other_kinds_of_files__made__refused():
    for desk in on_each_node():
        desk.refused("EPERM", "os.link(D, 'b.db')")
        desk.refused("EPERM", "os.symlink(D, 'b.db')")
        desk.refused("EPERM", "os.mkdir('directory')")
        desk.refused("EPERM", "os.mkfifo('fifo')")
        desk.refused("EPERM", "os.mknod('device', 0o20644, os.makedev(1, 3))")
        assert len(desk.ok("ls").split()) == 4, desk.ok("ls")


@row("chmod, chown, chgrp", "EPERM")
def test_owner_and_mode__changed__refused_and_unchanged_is_fine():
    for desk in on_each_node():
        for name in ("D", "D + '-wal'", "D + '-pos'", "'.'", "'.litefwd'"):
            desk.refused("EPERM", f"os.chmod({name}, 0o600)")
            desk.refused("EPERM", f"os.chown({name}, 12345, -1)")
            desk.refused("EPERM", f"os.chown({name}, -1, 12345)")
        for name in ("D", "D + '-wal'", "D + '-shm'", "'.'", "'.litefwd'"):
            same = f"s = os.stat({name})\nos.chmod({name}, s.st_mode & 0o7777)\nos.chown({name}, s.st_uid, s.st_gid)\nos.chown({name}, -1, -1)"
            assert desk.call(same) == "", name


@row("touch")
def test_touch__an_existing_file__fine_and_without_effect():
    for desk in on_each_node():
        for name in ('"$D"', '"$D-wal"', '"$D-pos"', ".litefwd", "."):
            before = desk.ok(f"stat -c %.Y {name}")
            desk.ok(f"touch {name}")
            desk.ok(f"touch -d 2001-01-01 {name}")
            assert desk.ok(f"stat -c %.Y {name}") == before


@row("setfattr, getfattr, setfacl", "ENOTSUP")
def test_extended_attributes__any__not_supported():
    for desk in on_each_node():
        desk.refused("ENOTSUP", "os.setxattr(D, 'user.x', b'1')")
        desk.refused("ENOTSUP", "os.getxattr(D, 'user.x')")
        desk.refused("ENOTSUP", "os.listxattr(D)")
        desk.ok('ls -l "$D" && cp -a "$D" "$T/a.db"')


# ---------------------------------------------------------------- the sqlite3 shell

@row(".backup, .restore, .clone, .dump, .import, VACUUM INTO of sqlite3(1)")
def test_sqlite3_shell__moves_data_in_and_out__as_with_a_plain_file():
    for desk in on_each_node():
        desk.writes = True
        desk.node.sql(DB, "DELETE FROM t; INSERT INTO t VALUES (1), (2)")
        desk.ok('sqlite3 "$D" ".backup $T/backup.db"')
        desk.ok('sqlite3 "$D" "VACUUM INTO \'$T/vacuum.db\'"')
        desk.ok('sqlite3 "$D" .dump | sqlite3 "$T/dump.db"')
        desk.ok('sqlite3 "$D" ".clone $T/clone.db"')
        for name in ("backup", "vacuum", "dump", "clone"):
            assert desk.ok(f'sqlite3 "$T/{name}.db" "PRAGMA integrity_check; SELECT sum(x) FROM t"') == "ok\n3\n", name
        desk.ok('printf "1\\n2\\n" > "$T/rows.csv" && sqlite3 -csv "$D" "CREATE TABLE i(x INTEGER)" ".import $T/rows.csv i"')
        desk.ok('sqlite3 "$P" .dump | sqlite3 "$D"')
        for node in desk.cluster.nodes:
            desk.cluster.wait_converged(DB)
            assert node.sql(DB, "SELECT (SELECT sum(x) FROM i), (SELECT sum(x) FROM plain)") == "3|83\n"
        for command in ('sqlite3 "$D" ".restore $P"', 'sqlite3 "$P" ".backup $D"'):
            desk.ok('sqlite3 "$D" "DROP TABLE IF EXISTS plain; CREATE TABLE gone(x)"')
            desk.ok_when_free(command)
            desk.cluster.wait_converged(DB)
            for node in desk.cluster.nodes:
                assert node.sql(DB, "PRAGMA integrity_check; PRAGMA journal_mode; SELECT sum(x) FROM plain; SELECT name FROM sqlite_schema") == \
                    "ok\nwal\n83\nplain\n", command
        desk.node.sql(DB, "DROP TABLE plain; CREATE TABLE t(x)")
        made = f"dump-{desk.node.index}.db", f"vacuum-{desk.node.index}.db"
        desk.ok(f'sqlite3 "$P" .dump | sqlite3 {made[0]}')
        desk.ok(f'sqlite3 "$P" "VACUUM INTO \'{made[1]}\'"')
        for name in made:
            desk.cluster.wait_converged(name)
            for node in desk.cluster.nodes:
                assert node.sql(name, "PRAGMA integrity_check; SELECT sum(x) FROM plain") == "ok\n83\n", name
