"""The stacks: how each is installed into the build tree, and how its application is started. Refuses to know what is tested.

An application: ARGV scenario DB, or ARGV work DB WORKER COUNT. `scenario` prints "version NAME VERSION", "sqlite VERSION", and "STEP ok"
after each step; before `busy` it prints "hold" and waits for a line, for by then another node holds the lock. An application that finds
anything else than it must ends with another status than 0. ARGV pool DB, where there is one: it opens two pools of connections, prints "restart", reads
a line with the name of what was done to litefwd meanwhile, tries one transaction in each until it gets through, and prints "seen plain ERROR..."
and "seen replacing ERROR... ok"; then again, until the line is empty.

Whatever is downloaded or built goes below `build`, but for the package clients' own caches; sources are copied there first, so
that the source tree stays as it is. What is installed is installed anew when manifest or lock file have changed; builds know by themselves what to do.
"""
import filecmp
import hashlib
import os
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
MANIFESTS = ("install.sh", "package.json", "package-lock.json", "requirements.txt", "pom.xml", "lib.sha256")
STEPS = ("migrations", "crud", "transaction", "bulk", "constraint", "busy", "reader")


class NotInstalled(Exception):
    """Why a stack could not be installed or built."""


class Stack:
    """name: as in the matrix, and of its database. directory: in tests/stacks, shared by stacks of one ecosystem.
    journal: what its application uses. install, build: commands, run in the copy. argv: of the application. pooled: it knows `pool`, too."""

    def __init__(self, name, directory, argv, install=(), build=(), journal="wal", pooled=False):
        self.name = name
        self.directory = directory
        self.install = install
        self.build = build
        self.journal = journal
        self.argv = argv
        self.pooled = pooled

    def copy(self, build):
        return os.path.join(build, self.directory)

    def command(self, build):
        """How the application is started."""
        return [fill(word, self.copy(build)) for word in self.argv]

    def prepare(self, build):
        """Copies and installs, or finds that it has been done; the seconds that it took. NotInstalled with the end of what was said."""
        begin = time.monotonic()
        source, copy = os.path.join(HERE, self.directory), self.copy(build)
        stamp, now = os.path.join(copy, ".installed"), repr(self.install) + digest(source)
        shutil.copytree(source, copy, dirs_exist_ok=True, copy_function=copy_changed)
        if self.install and read(stamp) != now:
            self.run(copy, self.install)
            with open(stamp, "w", encoding="utf-8") as file:
                file.write(now)
        self.run(copy, self.build)
        return time.monotonic() - begin

    @staticmethod
    def run(copy, commands):
        for command in commands:
            command = [fill(word, copy) for word in command]
            try:
                done = subprocess.run(command, cwd=copy, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      text=True, errors="replace", check=False, env=build_env())
            except OSError as error:
                raise NotInstalled(f"{command[0]}: {error}") from None
            if done.returncode:
                raise NotInstalled(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-3000:]}")


def fill(word, copy):
    """Not str.format(): programs given by -e have braces of their own."""
    return word.replace("{dir}", copy).replace("{top}", TOP).replace("{python}", sys.executable)


def copy_changed(source, target):
    """Leaves alone what is the same, so that builds find it old."""
    if not os.path.exists(target) or not filecmp.cmp(source, target, shallow=False):
        shutil.copyfile(source, target)
    return target


def build_env():
    """Without what a `make` above us would tell compilers' own makefiles."""
    return {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CFLAGS", "CPPFLAGS", "LDFLAGS")}


def digest(directory):
    """Of the manifests and lock files in a directory."""
    found = hashlib.sha256()
    for name in MANIFESTS:
        found.update(name.encode() + b"\0" + (read(os.path.join(directory, name)) or "").encode())
    return found.hexdigest()


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


# pip's requirements with hashes; a virtual environment of its own for each of the two.
PIP = (["{python}", "-m", "venv", "venv"],
       ["venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes", "-r", "requirements.txt"])

# better-sqlite3 compiles its SQLite: its prebuilt ones are no part of the package. Node.js' own headers, which are downloaded otherwise.
NPM = (["sh", "{dir}/install.sh"],)


def go(program):
    return (["sh", "{dir}/build.sh", "{top}/scripts/find-go", program],)


STACKS = (
    Stack("sqlite3 shell", "shell", ["bash", "{dir}/app.sh"], journal="delete"),
    Stack("Python sqlite3", "python", ["{python}", "{dir}/app.py"]),
    Stack("Django", "django", ["{dir}/venv/bin/python", "{dir}/app.py"], PIP, pooled=True),
    Stack("SQLAlchemy", "sqlalchemy", ["{dir}/venv/bin/python", "{dir}/app.py"], PIP, pooled=True),
    Stack("better-sqlite3", "node", ["node", "{dir}/app.js"], NPM),
    Stack("Drizzle", "node", ["node", "{dir}/drizzle.js"], NPM),
    Stack("Go mattn", "go", ["{dir}/bin/mattn"], build=go("mattn"), pooled=True),
    Stack("Go modernc", "go", ["{dir}/bin/modernc"], build=go("modernc")),
    Stack("ActiveRecord", "ruby", ["ruby", "{dir}/app.rb"], build=(["ruby", "-ractive_record", "-rsqlite3", "-e", ""],), journal="delete",
          pooled=True),
    Stack("PHP PDO", "php", ["php", "{dir}/app.php"], build=(["php", "-r", "new PDO('sqlite::memory:');"],), journal="delete"),
    Stack("Ecto's SQL", "ecto", ["elixir", "{dir}/app.exs"], build=(["elixir", "-e", "{:ok, _} = :sqlite3.open(:anonymous, [:in_memory])"],)),
    # Only where somebody has it: no registry that the tests may use has ecto_sqlite3.
    Stack("Ecto", "ecto", ["elixir", "{dir}/ecto.exs"], build=(["elixir", "-e", "{:ok, _} = Application.ensure_all_started(:ecto_sqlite3)"],)),
    Stack("Rust rusqlite", "rust", ["{dir}/target/debug/litefwd-stack"], build=(["nice", "cargo", "build", "--locked", "--quiet"],)),
    Stack("Java sqlite-jdbc", "java", ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", "{dir}/classes:{dir}/lib/*", "shop.App"],
          install=(["mvn", "--batch-mode", "--quiet", "dependency:copy-dependencies", "-DoutputDirectory=lib"],
                   ["sha256sum", "--check", "--strict", "lib.sha256"]),
          build=(["sh", "-c", "javac -d classes -cp 'lib/*' src/main/java/shop/*.java"],), pooled=True),
    Stack("Perl DBD::SQLite", "perl", ["perl", "{dir}/app.pl"], build=(["perl", "-MDBD::SQLite", "-e", "1"],)),
    Stack("Tcl", "tcl", ["tclsh", "{dir}/app.tcl"], build=(["sh", "-c", "echo 'package require sqlite3' | tclsh"],)),
)
