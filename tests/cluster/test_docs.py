"""Every command of README.md and docs/ runs as it stands, and prints what the document says that it prints.

How a block says where it runs is in tests/docs/blocks.py. Each node is a root of its own (sandbox.py) beside a real LiteFS,
with /litefs, /etc/litefs.yml and an empty /data; addresses and ports alone are not the document's, for those of this
machine may be taken. Where a document begins with a mount that is there, it is the README's own command that makes it.
"""
import contextlib
import os
import re
import subprocess
import sys

from cluster import TOP_SRC, Cluster, HarnessError, SqlError, find_binary
from marks import note
from sandbox import Sandbox

sys.path.insert(0, os.path.join(TOP_SRC, "tests", "docs"))
import blocks  # noqa: E402  pylint: disable=wrong-import-position

# What a document takes for given: "litefs": LiteFS runs on each node; "mounted": and litefwd, and there is an app.db;
# "nothing": one machine without either.
GIVEN = {"README.md": "litefs", "docs/tutorial.md": "nothing"}
GIVEN_ELSE = "mounted"

# A file that the document tells to copy to every node.
COPIED = "/etc/litefwd.secret"

START = "litefwd -o litefs_config=/etc/litefs.yml,allow_other /litefs /data"
# In this order: SQLite asks no busy handler on behalf of that PRAGMA, and litefwd waits longer for a database that is being made.
CREATE = ('sqlite3 -cmd ".timeout 20000" /data/app.db "PRAGMA journal_mode = WAL" && '
          'sqlite3 -cmd ".timeout 20000" /data/app.db "CREATE TABLE visits (id INTEGER PRIMARY KEY, at TEXT)"')


class Nodes:
    """The sandboxes of one cluster, by the names that documents use."""

    def __init__(self, cluster, given, stack):
        self.cluster = cluster
        self.replaced = {}
        self.rooms = {}
        if given == "nothing":
            self.rooms["here"] = self._enter(stack, "here", {})
            for i in (2, 3):
                self.replaced[f"127.0.0.{i}:20202"] = f"127.0.0.{i}:{cluster.port.number}"
            return
        for name, node in zip(("primary", "replica"), cluster.nodes):
            self.rooms[name] = self._enter(stack, name, {node.litefs_dir: "/litefs", self._config(node): "/etc/litefs.yml",
                                                         node.base: node.base})
            self.run(name, "mkdir -p /data")
        if given == "mounted":
            for name in self.rooms:
                self.run(name, START)
            self.run("replica", CREATE)

    def _enter(self, stack, name, files):
        directory = os.path.join(self.cluster.base, "room-" + name)
        os.mkdir(directory)
        return stack.enter_context(Sandbox(self.cluster, directory, files))

    @staticmethod
    def _config(node):
        path = os.path.join(node.base, "litefs.yml.docs")
        with open(node.config_path, encoding="utf-8") as old, open(path, "w", encoding="utf-8") as new:
            new.write(old.read().replace(node.litefs_dir, "/litefs"))
        return path

    def _local(self, name, text):
        """The addresses of this machine's nodes in the place of the document's."""
        if name == "here":
            for old, new in self.replaced.items():
                text = text.replace(old, new)
            return text
        node = self.cluster.nodes[list(self.rooms).index(name)]
        gateway = self.cluster.gateway_port.number
        text = text.replace("http://localhost:20202", node.url)
        text = re.sub(r"\b10\.0\.0\.[12]:20203\b", f"{node.address}:{gateway}", text)
        return text.replace("{hostname}:20203", f"{{hostname}}:{gateway}").replace("{hostname}:20202", f"{{hostname}}:{self.cluster.port.number}")

    def run(self, name, text, expected=None, where=""):
        code, said = self.rooms[name].run(self._local(name, text))
        if expected is None and code != 0:
            raise HarnessError(f"{where}on {name}, exit {code}:\n{text}\n{said}")
        if expected is not None and not blocks.matches(expected, said):
            raise HarnessError(f"{where}on {name}:\n{text}\nprinted:\n{said}\nand not:\n" + "\n".join(expected))
        return said

    def run_command(self, command, where):
        names = list(self.rooms) if command.where == "every node" else [command.where]
        for name in names:
            self.run(name, command.text, command.expected, where)
            if COPIED in command.text and name == "primary":
                secret = self.run(name, f"cat {COPIED}").strip()
                self.run("replica", f"umask 077; echo {secret} > {COPIED}")


def run_document(document):
    commands = [command for block in blocks.parse(document, blocks.read(TOP_SRC, document)) if not blocks.complaint(block)
                for command in blocks.commands(block)]
    assert commands, f"{document} has nothing to run: it needs no test here"
    given = GIVEN.get(document, GIVEN_ELSE)
    with contextlib.ExitStack() as stack:
        cluster = Cluster(n=2, litefwd=False)
        if given == "nothing":
            stack.callback(cluster.close)
        else:
            stack.enter_context(cluster)
        nodes = Nodes(cluster, given, stack)
        for command in commands:
            nodes.run_command(command, f"{document}:{command.line} ")
    note(f"{document}: {len(commands)} commands")


def test_docs__demo__shows_what_it_says():
    """What scripts/demo runs when it has built."""
    demo = subprocess.run([sys.executable, "-B", os.path.join(TOP_SRC, "tests", "cluster", "demo.py")], capture_output=True, text=True,
                          env={**os.environ, "LITEFWD": find_binary("LITEFWD", "litefwd"), "LITEFS": find_binary("LITEFS", "tests/bin/litefs")})
    assert demo.returncode == 0, demo.stdout + demo.stderr
    for text in ("A replica of LiteFS is read-only", "disk I/O error", "integrity ok", "Done: every row is on every node, exactly once."):
        assert text in demo.stdout, demo.stdout


def make_test(document):
    def test():
        run_document(document)
    test.__name__ = "test_docs__commands_of_" + re.sub(r"[^a-z0-9]+", "_", document[:-3].lower()) + "__run_and_print_what_it_says"
    return test


def has_commands(document):
    return any(blocks.commands(block) for block in blocks.parse(document, blocks.read(TOP_SRC, document)) if not blocks.complaint(block))


def test_restart__connection_from_before__fails_until_it_is_opened_anew():
    with Cluster(n=2) as cluster:
        replica = cluster.replicas[0]
        replica.sql("app.db", "PRAGMA journal_mode = WAL; CREATE TABLE t (x)")
        with replica.conn("app.db") as before:
            before("SELECT count(*) FROM t")
            assert replica.stop_litefwd() == 0
            replica.start_litefwd()
            try:
                before("SELECT count(*) FROM t")
                raise AssertionError("a connection from before the restart still reads")
            except SqlError as error:
                assert error.name == "SQLITE_PROTOCOL" or error.name.startswith("SQLITE_IOERR"), error
        replica.sql("app.db", "INSERT INTO t VALUES (1)")
        assert cluster.primary.sql("app.db", "SELECT count(*) FROM t") == "1\n"


globals().update({test.__name__: test for test in map(make_test, filter(has_commands, blocks.documents(TOP_SRC)))})
