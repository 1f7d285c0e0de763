#!/usr/bin/env python3
"""Makes the LTX files in this directory anew, with a real LiteFS (v0.5.14).

    make_vectors.py LITEFS_BINARY [OUT_DIR]

Two static-lease nodes in a private directory, once without and once with
compression. Per page size one database lives through: creation in rollback
mode, switch to WAL, inserts, a VACUUM that truncates, a drop by unlink. The
LTX files are then taken from the primary's data directory. The file
"full-*" is the snapshot (TXID 1 to N) that the primary sends to a replica
that comes after the first LTX file is gone; it is taken from the replica's.

Needs root (FUSE). The names say what is in a file:
    WHAT-PAGESIZE-{plain,lz4}.ltx
"""
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

# Plain files of large pages would only be large: the format does not change with the size.
KEPT = {False: [512], True: [512, 4096, 65536]}

CONFIG = """
fuse: {{dir: "{mnt}"}}
data: {{dir: "{data}", compress: {compress}}}
http: {{addr: "127.0.0.1:{port}"}}
tracing: {{enabled: false}}
lease:
  type: static
  hostname: localhost
  advertise-url: "http://127.0.0.1:{primary_port}"
  candidate: {candidate}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Node:
    def __init__(self, binary, top, name, compress, primary=None):
        self.mnt, self.data = f"{top}/{name}-mnt", f"{top}/{name}-data"
        os.mkdir(self.mnt)
        self.port = free_port()
        config = f"{top}/{name}.yml"
        with open(config, "w") as f:
            f.write(CONFIG.format(mnt=self.mnt, data=self.data, port=self.port,
                                  compress=str(compress).lower(),
                                  primary_port=primary.port if primary else self.port,
                                  candidate=str(primary is None).lower()))
        self.log = open(f"{top}/{name}.log", "w+")
        self.proc = subprocess.Popen([binary, "mount", "-config", config], stdout=self.log, stderr=self.log)
        try:
            self.wait(lambda: os.path.ismount(self.mnt))
        except BaseException:
            self.stop()
            raise

    def wait(self, done):
        end = time.monotonic() + 20
        while not done():
            if time.monotonic() > end or self.proc.poll() is not None:
                self.log.seek(0)
                raise SystemExit("LiteFS: " + self.log.read())
            time.sleep(0.05)

    def stop(self):
        self.proc.terminate()
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        subprocess.run(["fusermount3", "-uzq", self.mnt], check=False)

    def ltx(self, db):
        d = f"{self.data}/dbs/{db}/ltx"
        return sorted(f"{d}/{n}" for n in os.listdir(d) if n.endswith(".ltx")) if os.path.isdir(d) else []


def connect(path):
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    db.execute("PRAGMA busy_timeout = 10000")
    return db


def live(node, name, page_size, keep):
    """Calls keep(what, path of the LTX file) after each transaction: one LTX file each, without gaps."""
    path = f"{node.mnt}/{name}"
    txid = 0

    def did(what):
        nonlocal txid
        txid += 1
        node.wait(lambda: len(node.ltx(name)) >= txid)
        if len(node.ltx(name)) != txid:
            raise SystemExit(f"{what}: not one transaction")
        keep(what, node.ltx(name)[-1])

    db = connect(path)
    db.execute(f"PRAGMA page_size = {page_size}")
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
    did("create")
    db.execute("INSERT INTO t (v) VALUES ('in a rollback journal')")
    did("journal")
    db.execute("PRAGMA journal_mode = WAL")
    did("towal")
    db.execute("INSERT INTO t (v) VALUES ('in the WAL')")
    did("wal")
    db.execute("BEGIN")
    for i in range(12):
        db.execute("INSERT INTO t (v) VALUES (?)", (bytes([i]) * (page_size // 3),))
    db.execute("COMMIT")
    did("grow")
    db.execute("DELETE FROM t WHERE id > 3")
    did("delete")
    db.execute("VACUUM")
    did("truncate")
    db.close()


def run(binary, out, top, compress):
    suffix = "lz4" if compress else "plain"
    primary = Node(binary, top, "p" + suffix, compress)
    try:
        for size in KEPT[compress]:
            name = f"v{size}"

            def keep(what, path):
                shutil.copy(path, f"{out}/{what}-{size}-{suffix}.ltx")

            live(primary, name, size, keep)
            if size == KEPT[compress][0]:
                os.unlink(primary.ltx(name)[0])
                replica = Node(binary, top, "r" + suffix, compress, primary)
                try:
                    replica.wait(lambda: replica.ltx(name))
                    keep("full", replica.ltx(name)[0])
                finally:
                    replica.stop()
            before = len(primary.ltx(name))
            os.unlink(f"{primary.mnt}/{name}")
            primary.wait(lambda: len(primary.ltx(name)) > before)
            keep("drop", primary.ltx(name)[-1])
    finally:
        primary.stop()


def main():
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    out = sys.argv[2] if len(sys.argv) == 3 else os.path.dirname(os.path.abspath(__file__))
    top = tempfile.mkdtemp(prefix="ltx-vectors.")
    try:
        for compress in KEPT:
            run(os.path.abspath(sys.argv[1]), out, top, compress)
    finally:
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    main()
