"""A real LiteFS cluster with litefwd in front of each node, in a private directory.

What it is for: start, stop, kill (-9) and restart LiteFS nodes and litefwd processes,
and take everything down again whatever happens. It refuses to know what a test tests.

Promises:
- Private mkdtemp, and ports that stay reserved: node i listens on 127.0.0.(i+2), the
  same port on all, so that `primary_url=http://{hostname}:PORT` follows a change of role;
  its litefwd's gateway, where it has one, likewise on a second port.
- Nothing outlives the harness: leaving the `with` block, an exception, a signal and atexit
  all end in close(); if the harness itself is killed by -9, a small watcher process notices
  (its stdin ends) and does the same. Processes are found by id: each one carries
  LITEFWD_CLUSTER_DIR=<private directory> in its environment.
- With consul=True LiteFS' leases are a real Consul's (an agent in development mode on 127.0.0.1, with ports of its own and
  its data in memory), every node is a candidate, and Cluster.primary is whoever find_primary() last saw.
- The end of every `with` block asserts that each LiteFS and litefwd that the test did not
  end itself is still alive, that litefwd ends with 0 on SIGTERM, and that no log
  contains a suspicious word.

Environment: LITEFS, LITEFWD, CONSUL (binaries), TEST_BIN (build tree's tests directory: C clients in clients/),
LITEFWD_TEST_LOGS (where logs are kept), LITEFWD_TEST_SLOW (a factor on every time bound), sanitizers'
*_OPTIONS (passed through). LITEFWD_TEST_DIRECT=1: no litefwd; what would use a litefwd mount uses the primary's
LiteFS mount, the control experiment that shows what a test says of LiteFS alone.

The harness never opens a database in its own process: POSIX locks belong to processes,
and a file system that hangs would hang the harness. SQL runs in children, see Conn.
"""
import atexit
import base64
import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from marks import note

HERE = os.path.dirname(os.path.abspath(__file__))
TOP_SRC = os.path.dirname(os.path.dirname(HERE))
MARK = "LITEFWD_CLUSTER_DIR"

SUSPICIOUS = re.compile(
    r"AddressSanitizer|ThreadSanitizer|LeakSanitizer|UndefinedBehavior|MemorySanitizer|runtime error:"
    r"|assert|invariant|(?<![a-z])bug(?![a-z])|stack smashing|double free|corrupted size|buffer overflow detected", re.I)
LITEFS_SUSPICIOUS = re.compile(r"^panic:|^fatal error:|goroutine \d+ \[|^exiting with", re.M)


class HarnessError(AssertionError):
    """What the harness itself found wrong: a process gone, a suspicious log, a step that took for ever."""


# ---------------------------------------------------------------- small helpers

def slow_factor():
    """Stretches every time bound: for sanitizers and busy machines (LITEFWD_TEST_SLOW=3)."""
    return float(os.environ.get("LITEFWD_TEST_SLOW", "1"))


def readable(fd, seconds):
    """select() knows no descriptor above 1023, and a long soak has them."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def wait_until(what, predicate, timeout=30, every=0.01):
    """Calls predicate until it is true and returns its value; HarnessError after timeout seconds."""
    deadline = time.monotonic() + timeout * slow_factor()
    last = None
    while True:
        try:
            value = predicate()
            if value:
                return value
            last = None
        except (OSError, ValueError, KeyError) as error:
            last = error
        if time.monotonic() > deadline:
            raise HarnessError(f"timed out after {timeout} s: {what}" + (f" (last: {last!r})" if last else ""))
        time.sleep(every)


def find_binary(env, *relative):
    candidates = [os.environ[env]] if os.environ.get(env) else [
        os.path.join(top, path) for top in (os.getcwd(), TOP_SRC) for path in relative]
    for path in candidates:
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return os.path.abspath(path)
    raise HarnessError(f"no executable at {' or '.join(candidates)}: build it, or set {env}=")


def client(name):
    """Path of a C client of tests/clients; compiled to a private place when nobody has built it."""
    for top in filter(None, (os.environ.get("TEST_BIN"), os.path.join(os.getcwd(), "tests"))):
        path = os.path.join(top, "clients", name)
        if os.access(path, os.X_OK):
            return path
    path = os.path.join(_client_build_dir(), name)
    if not os.path.exists(path):
        sources = [os.path.join(TOP_SRC, "tests", "clients", file)
                   for file in sorted(os.listdir(os.path.join(TOP_SRC, "tests", "clients")))
                   if re.fullmatch(re.escape(name) + r"(_\w+)?\.c", file)]
        subprocess.run(["cc", "-O1", "-g", "-std=gnu11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-o", path, *sources,
                        "-lsqlite3", "-lpthread"], check=True)
    return path


_built = []


def _client_build_dir():
    if not _built:
        _built.append(tempfile.mkdtemp(prefix="litefwd-clients-"))
        atexit.register(shutil.rmtree, _built[0], True)
    return _built[0]


def mounts_below(directory):
    """Mount points in directory, innermost last; never touches the file systems themselves."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), line.split(" ")[4])
            if point == directory or point.startswith(directory.rstrip("/") + "/"):
                found.append(point)
    return found


def is_mounted(path):
    return path in mounts_below(path)


def unmount(path):
    for _ in range(8):
        if not is_mounted(path):
            return
        if subprocess.run(["fusermount3", "-uz", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            subprocess.run(["umount", "-l", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def marked_processes(base):
    """Ids of the living processes that carry base's mark."""
    mark = f"{MARK}={base}".encode()
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        pids.append(int(entry))
            except OSError:
                pass
    return pids


def sweep(base):
    """The last resort: kill what carries the mark, unmount what is below base."""
    for _ in range(50):
        for point in reversed(mounts_below(base)):
            unmount(point)
        pids = marked_processes(base)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not pids and not mounts_below(base):
            return True
        time.sleep(0.05)
    return False


def _watcher_main(base):
    """Runs as a process of its own: waits until the harness is gone, then sweeps after it."""
    os.environ.pop(MARK, None)
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)
    if sys.stdin.buffer.read():
        return  # told to go: the harness has cleaned up by itself
    sweep(base)
    shutil.rmtree(base, ignore_errors=True)


class Port:
    """One port number that is ours on several loopback addresses until close().

    A bound socket that does not listen, with SO_REUSEADDR, lets a server with
    SO_REUSEADDR (Go's) bind and listen, while the kernel hands the port to nobody else.
    """

    def __init__(self, addresses):
        for _ in range(100):
            self.sockets = []
            self.number = 0
            try:
                for address in addresses:
                    sock = socket.socket()
                    self.sockets.append(sock)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind((address, self.number))
                    self.number = sock.getsockname()[1]
                return
            except OSError:
                self.close()
        raise HarnessError("no free port found")

    def close(self):
        for sock in self.sockets:
            sock.close()
        self.sockets = []


# ---------------------------------------------------------------- Consul

class Consul:
    """One agent. ttl: of LiteFS' leases, seconds; Consul takes a lease for dead after twice that."""

    def __init__(self, cluster, ttl):
        self.cluster = cluster
        self.ttl = max(1, round(ttl * slow_factor()))
        self.key = "litefs/primary"
        self.log = os.path.join(cluster.logs, "consul.log")
        self.ports = []
        for _ in range(5):  # a UDP port of the same number may be taken
            self.close_ports()
            self.ports = [Port(["127.0.0.1"]) for _ in range(3)]
            http, server, serf = (port.number for port in self.ports)
            self.url = f"http://127.0.0.1:{http}"
            settings = (f"ports {{ http = {http} server = {server} serf_lan = {serf} serf_wan = -1 dns = -1 grpc = -1 https = -1 }} "
                        f'disable_update_check = true session_ttl_min = "1s" leave_on_terminate = false')
            self.process = cluster.spawn([find_binary("CONSUL", "tests/bin/consul"), "agent", "-dev", "-node=test", "-bind=127.0.0.1",
                                          "-client=127.0.0.1", "-log-level=warn", "-hcl=" + settings], log=self.log)
            wait_until("Consul is ready or has ended", lambda: self.process.poll() is not None or self._has_leader(), 60)
            if self.process.poll() is None:
                return
        raise HarnessError(f"Consul does not start:\n{_text(self.log)[-2000:]}")

    def close_ports(self):
        for port in self.ports:
            port.close()

    def request(self, method, path, body=None):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.url + path, data=body, method=method), timeout=10 * slow_factor()) as answer:
            return answer.read()

    def _has_leader(self):
        return json.loads(self.request("GET", "/v1/status/leader")) != ""

    def holder(self):
        """(the key's value decoded, its session), (None, None) where nobody has the lease."""
        try:
            entry = json.loads(self.request("GET", "/v1/kv/" + self.key))[0]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None, None
            raise
        return json.loads(base64.b64decode(entry["Value"])), entry.get("Session")

    def expire(self, session):
        """What Consul does by itself with the session of a LiteFS that is gone, after twice the TTL."""
        self.request("PUT", "/v1/session/destroy/" + session)


# ---------------------------------------------------------------- SQL in children

class SqlError(Exception):
    """An error of SQLite in a child: .name is its extended name, such as SQLITE_BUSY_SNAPSHOT."""

    def __init__(self, name, code, message):
        super().__init__(f"{name} ({code}): {message}")
        self.name, self.code, self.message = name, code, message

    @property
    def is_busy(self):
        return self.code is not None and self.code & 0xff == 5


_CONN_CHILD = r"""
import json, sqlite3, sys
path, busy = sys.argv[1], int(sys.argv[2])
db = None
def pack(v):
    return {"hex": v.hex()} if isinstance(v, bytes) else v
for line in sys.stdin:
    req = json.loads(line)
    try:
        if db is None:
            db = sqlite3.connect(path, timeout=0, isolation_level=None)
            db.execute("PRAGMA busy_timeout=%d" % busy)
        if "script" in req:
            db.executescript(req["script"]); rows = []
        else:
            args = [bytes.fromhex(a["hex"]) if isinstance(a, dict) else a for a in req.get("args", [])]
            rows = [[pack(v) for v in row] for row in db.execute(req["sql"], args)]
        answer = {"rows": rows}
    except sqlite3.Error as e:
        answer = {"error": str(e), "name": getattr(e, "sqlite_errorname", type(e).__name__), "code": getattr(e, "sqlite_errorcode", None)}
    print(json.dumps(answer), flush=True)
"""


class Conn:
    """One SQLite connection in a process of its own; can be killed by -9 in any state."""

    def __init__(self, cluster, path, busy_ms=20000):
        self.cluster = cluster
        self.path = path
        self.process = cluster.spawn([sys.executable, "-c", _CONN_CHILD, path, str(busy_ms)],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, name="conn")
        self.pid = self.process.pid
        self._buffer = b""

    def send(self, sql, *args, script=False):
        """Starts a statement; its answer is fetched by result()."""
        request = {"script": sql} if script else {"sql": sql, "args": args}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def result(self, timeout=40):
        deadline = time.monotonic() + timeout * slow_factor()
        fd = self.process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not readable(fd, left):
                raise HarnessError(f"no answer from SQLite within {timeout} s ({self.path})")
            data = os.read(fd, 1 << 16)
            if not data:
                raise HarnessError(f"the SQLite child of {self.path} is gone")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            raise SqlError(answer["name"], answer["code"], answer["error"])
        return [tuple(row) for row in answer["rows"]]

    def pending(self, seconds):
        """True if no answer has come after that many seconds."""
        return b"\n" not in self._buffer and not readable(self.process.stdout.fileno(), seconds)

    def __call__(self, sql, *args, timeout=40):
        self.send(sql, *args)
        return self.result(timeout)

    def script(self, sql, timeout=60):
        self.send(sql, script=True)
        return self.result(timeout)

    def kill(self):
        self.process.kill()
        self.process.wait(20)

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(20 * slow_factor())
            except subprocess.TimeoutExpired:
                self.kill()
                raise HarnessError(f"closing a connection hangs ({self.path})") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            try:
                self.process.wait(10 * slow_factor())
            except subprocess.TimeoutExpired:
                self.process.kill()


# ---------------------------------------------------------------- a node

class Node:
    """One LiteFS and the litefwd in front of it."""

    def __init__(self, cluster, index):
        self.cluster = cluster
        self.index = index
        self.address = f"127.0.0.{index + 2}"
        self.hostname = self.address
        self.url = f"http://{self.address}:{cluster.port.number}"
        self.advertise_url = self.url  # what its LiteFS tells Consul: a proxy's, perhaps
        self.local_url = None  # where its litefwd finds this LiteFS, and primary_url the primary's: proxies, perhaps
        self.primary_url = None
        self.gateway = False  # its litefwd answers other nodes'
        self.gateway_url = None  # where its litefwd asks: a template, or a proxy's
        self.gateway_secret = None  # a file
        self.base = os.path.join(cluster.base, f"n{index}")
        self.data_dir = os.path.join(self.base, "data")
        self.litefs_dir = os.path.join(self.base, "litefs")
        self.mount = os.path.join(self.base, "mnt")
        self.state_dir = os.path.join(self.base, "state")
        self.spool_dir = os.path.join(self.base, "spool")
        self.litefs = None
        self.litefwd = None
        self.litefs_expected = False
        self.litefwd_expected = False
        self.litefs_log = os.path.join(cluster.logs, f"n{index}-litefs.log")
        self.litefwd_log = os.path.join(cluster.logs, f"n{index}-litefwd.log")
        for path in (self.data_dir, self.litefs_dir, self.mount, self.state_dir, self.spool_dir):
            os.makedirs(path)

    # -- LiteFS

    @property
    def is_primary(self):
        return self.cluster.primary is self

    @property
    def config_path(self):
        return os.path.join(self.base, "litefs.yml")

    def lease_config(self):
        consul = self.cluster.consul
        if consul:
            return f"""  type: consul
  hostname: "{self.hostname}"
  advertise-url: "{self.advertise_url}"
  candidate: true
  reconnect-delay: 200ms
  consul:
    url: "{consul.url}"
    key: "{consul.key}"
    ttl: {consul.ttl}s
    lock-delay: 1s
"""
        return f"""  type: static
  hostname: "{self.cluster.primary.hostname}"
  advertise-url: "{self.cluster.primary.url}"
  candidate: {str(self.is_primary).lower()}
  reconnect-delay: 200ms
"""

    def write_config(self):
        path = self.config_path
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"""fuse:
  dir: "{self.litefs_dir}"
  allow-other: {str(self.cluster.litefs_allow_other).lower()}
data:
  dir: "{self.data_dir}"
  compress: {str(self.cluster.compress).lower()}
http:
  addr: "{self.address}:{self.cluster.port.number}"
lease:
{self.lease_config()}""")
        return path

    def start_litefs(self, wait=True):
        assert self.litefs is None, "LiteFS runs already"
        unmount(self.litefs_dir)
        self.litefs = self.cluster.spawn([self.cluster.litefs_binary, "mount", "-config", self.write_config()],
                                         log=self.litefs_log)
        self.litefs_expected = True
        if wait:
            self.wait_litefs()

    def wait_litefs(self, timeout=60):
        def ready():
            if self.litefs.poll() is not None:
                raise HarnessError(f"LiteFS n{self.index} ended with {self.litefs.returncode}:\n{self.litefs_text()[-2000:]}")
            info = self.info()
            primary = info.get("isPrimary") if self.cluster.consul else self.is_primary
            if info.get("isPrimary") != primary or not is_mounted(self.litefs_dir):
                return False
            return primary or os.path.exists(os.path.join(self.litefs_dir, ".primary"))
        wait_until(f"LiteFS n{self.index} is ready", ready, timeout)

    def stop_litefs(self):
        """SIGTERM; SIGKILL when that takes too long (an open file in the mount can hold it up)."""
        self.litefs_expected = False
        if self.litefs:
            _end(self.litefs, 8)
            self._reap_litefs()
        unmount(self.litefs_dir)

    def kill_litefs(self):
        self.litefs_expected = False
        self.litefs.kill()
        self._reap_litefs()
        unmount(self.litefs_dir)

    def _reap_litefs(self):
        """
        It has been killed. Where a thread of it was telling the kernel to forget a page that somebody, whoever it is, was reading
        from it, neither ends before the connection is aborted (docs/troubleshooting.md, "LiteFS does not end").
        """
        try:
            self.litefs.wait(5 * slow_factor())
        except subprocess.TimeoutExpired:
            note(f"LiteFS n{self.index} was killed and did not end: its connection is aborted")
            _abort_fuse(self.litefs_dir)
            self.litefs.wait(20 * slow_factor())
        self.litefs = None

    def litefs_text(self):
        return _text(self.litefs_log)

    # -- litefwd

    def litefwd_options(self, **more):
        options = {
            "litefs_url": self.local_url or self.url,
            "primary_url": self.primary_url or f"http://{{hostname}}:{self.cluster.port.number}",
            "state_dir": self.state_dir,
            "spool_dir": self.spool_dir,
        }
        if self.cluster.consul:  # where the primary is must come from there
            options.update(primary_url=self.primary_url, litefs_config=self.config_path)
        if self.gateway:
            options["gateway"] = f"{self.address}:{self.cluster.gateway_port.number}"
        if self.cluster.metrics_port:
            options["metrics"] = f"{self.address}:{self.cluster.metrics_port.number}"
        options["gateway_url"], options["gateway_secret"] = self.gateway_url, self.gateway_secret
        options.update(self.cluster.litefwd_opts)
        options.update(more)
        return ",".join(key if value is True else f"{key}={value}" for key, value in options.items() if value not in (None, False))

    @property
    def metrics_url(self):
        return f"http://{self.address}:{self.cluster.metrics_port.number}"

    def litefwd_argv(self, **more):
        return [self.cluster.litefwd_binary, "-f", "-o", self.litefwd_options(**more), self.litefs_dir, self.mount]

    def start_litefwd(self, wait=True, **more):
        assert self.litefwd is None, "litefwd runs already"
        self.litefwd = self.cluster.spawn(self.litefwd_argv(**more), log=self.litefwd_log)
        self.litefwd_expected = True
        if wait:
            self.wait_litefwd()

    def wait_litefwd(self, timeout=30):
        def ready():
            if self.litefwd.poll() is not None:
                raise HarnessError(f"litefwd n{self.index} ended with {self.litefwd.returncode}:\n{self.litefwd_text()[-2000:]}")
            # A predecessor's stale mount is a mount, too: only an answer counts.
            return is_mounted(self.mount) and self.cluster.run(["cat", os.path.join(self.mount, ".litefwd")], check=False)[0] == 0
        wait_until(f"litefwd n{self.index} is mounted", ready, timeout)
        self.status()

    def stop_litefwd(self, timeout=20):
        """SIGTERM; returns the exit code. HarnessError if it does not end in time."""
        self.litefwd_expected = False
        process, self.litefwd = self.litefwd, None
        process.terminate()
        try:
            return process.wait(timeout * slow_factor())
        except subprocess.TimeoutExpired:
            _abort_fuse(self.mount)
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            unmount(self.mount)
            raise HarnessError(f"litefwd n{self.index} did not end within {timeout} s of SIGTERM") from None

    def kill_litefwd(self):
        """kill -9; its mount stays behind, stale, as it would in life."""
        self.litefwd_expected = False
        self.litefwd.kill()
        self.litefwd.wait(20)
        self.litefwd = None

    def litefwd_text(self):
        return _text(self.litefwd_log)

    def status(self):
        """litefwd's virtual file as JSON, read by a child."""
        return json.loads(self.cluster.run(["cat", os.path.join(self.mount, ".litefwd")], timeout=20))

    def counters(self, db):
        return self.status().get("databases", {}).get(db, {})

    def write_secret(self, text):
        """A file of this node's with that secret, for its litefwd from its next start on."""
        self.gateway_secret = os.path.join(self.base, "secret")
        with open(os.open(self.gateway_secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(text + "\n")

    # -- both

    def path(self, db):
        """Where applications find the database."""
        return os.path.join(self.cluster.primary.litefs_dir if self.cluster.direct_only else self.mount, db)

    def direct_path(self, db):
        return os.path.join(self.litefs_dir, db)

    def pos(self, db):
        """(TXID, checksum) as LiteFS has it; (0, 0) where there is no such database."""
        try:
            with open(self.direct_path(db) + "-pos", encoding="ascii") as file:
                text = file.read()
        except FileNotFoundError:
            return (0, 0)
        txid, checksum = text.strip().split("/")
        return (int(txid, 16), int(checksum, 16))

    def sql(self, db, sql, timeout=60):
        """Through litefwd, by the sqlite3 shell; returns its output."""
        return self.cluster.shell(self.path(db), sql, timeout)

    def conn(self, db, busy_ms=20000):
        return Conn(self.cluster, self.path(db), busy_ms)

    def conn_direct(self, db, busy_ms=20000):
        return Conn(self.cluster, self.direct_path(db), busy_ms)

    # -- LiteFS' HTTP API, for tests that play another node

    def request(self, method, path, body=None, timeout=20, base=None):
        request = urllib.request.Request((base or self.url) + path, data=body, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=timeout * slow_factor()) as answer:
            return answer.read()

    def info(self):
        return json.loads(self.request("GET", "/info", timeout=5))

    def halt(self, db, id, timeout=20):
        return json.loads(self.request("POST", f"/halt?name={urllib.parse.quote(db)}&id={id}", b"", timeout))

    def unhalt(self, db, id):
        self.request("DELETE", f"/halt?name={urllib.parse.quote(db)}&id={id}")


def _text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _end(process, seconds):
    """SIGTERM, then SIGKILL; returns the exit code, None if the process is stuck in the kernel."""
    if process.poll() is None:
        process.terminate()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
    return process.poll()


def _abort_fuse(path):
    """Aborts the FUSE connection of a mount, so that those who wait in it come back."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split(" ")
            if fields[4] == path:
                minor = fields[2].split(":")[1]
                with contextlib.suppress(OSError), open(f"/sys/fs/fuse/connections/{minor}/abort", "w") as file:
                    file.write("1")


# ---------------------------------------------------------------- the cluster

_open_clusters = []


class Cluster:
    """with Cluster(n=3) as cluster: ...

    n: nodes, the first is primary. litefwd: start one on each node. compress: LiteFS' data.compress.
    litefwd_opts: -o options for all of them, {"halt_timeout": "2s"}; True for a flag, None to leave one out.
    gateway: True: each node's litefwd has one and asks the primary's; {"serve": indices, "ask": indices} for a mixed cluster;
    all of it can be changed per node before a litefwd is started (Node.gateway, gateway_url, write_secret). secret: a text, for all.
    env: for the started litefwds and clients, beside the caller's environment.
    litefs_allow_other: users other than root may enter LiteFS' directories.
    metrics: each litefwd answers at Node.metrics_url.
    consul: True: LiteFS' leases are a Consul's, with a TTL of consul_ttl seconds.
    """

    def __init__(self, n=3, litefwd=True, compress=True, litefwd_opts=None, env=None, litefwd_binary=None,
                 gateway=False, secret=None, consul=False, consul_ttl=4, litefs_allow_other=False, metrics=False):
        _install_signal_handlers()
        self.litefs_binary = find_binary("LITEFS", "tests/bin/litefs")
        self.direct_only = os.environ.get("LITEFWD_TEST_DIRECT") == "1"
        litefwd = litefwd and not self.direct_only
        self.litefwd_binary = litefwd_binary or (find_binary("LITEFWD", "litefwd") if litefwd else None)
        self.with_litefwd = litefwd
        self.compress = compress
        self.litefs_allow_other = litefs_allow_other
        self.litefwd_opts = dict(litefwd_opts or {})
        self.env = dict(env or {})
        self.problems = []
        self.allow_suspicious = None  # a compiled pattern that a test expects in litefwd's log
        self.children = []
        self.closed = False
        self.base = tempfile.mkdtemp(prefix="litefwd-cluster-")
        keep = os.environ.get("LITEFWD_TEST_LOGS")
        self.logs = tempfile.mkdtemp(prefix="logs-", dir=keep) if keep else os.path.join(self.base, "logs")
        os.makedirs(self.logs, exist_ok=True)
        self.watcher = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--watch", self.base],
                                        stdin=subprocess.PIPE, start_new_session=True)
        _open_clusters.append(self)
        self.port = Port([f"127.0.0.{i + 2}" for i in range(n)])
        self.gateway_port = Port([f"127.0.0.{i + 2}" for i in range(n)])
        self.front_port = Port([f"127.0.0.{i + 2}" for i in range(n)])  # for proxies in front of the gateways
        self.metrics_port = Port([f"127.0.0.{i + 2}" for i in range(n)]) if metrics else None
        self.gateway_template = f"http://{{hostname}}:{self.gateway_port.number}"
        self.nodes = [Node(self, i) for i in range(n)]
        self.primary = self.nodes[0]
        self.consul = None
        self.consul_ttl = consul_ttl if consul else None
        gateway = gateway or bool(os.environ.get("LITEFWD_TEST_GATEWAY"))
        roles = gateway if isinstance(gateway, dict) else {"serve": range(n), "ask": range(n)} if gateway else {}
        for node in self.nodes:
            node.gateway = node.index in roles.get("serve", ())
            node.gateway_url = self.gateway_template if node.index in roles.get("ask", ()) else None
            if secret and (node.gateway or node.gateway_url):
                node.write_secret(secret)

    @property
    def replicas(self):
        return [node for node in self.nodes if node is not self.primary]

    # -- life

    def start(self):
        if self.consul_ttl:
            self.consul = Consul(self, self.consul_ttl)
        self.start_litefs()
        if self.with_litefwd:
            self.start_litefwd()
        return self

    def start_litefs(self):
        for node in sorted(self.nodes, key=lambda node: not node.is_primary):
            node.start_litefs(wait=node.is_primary)
        for node in self.nodes:
            node.wait_litefs()

    def start_litefwd(self, **more):
        for node in self.nodes:
            node.start_litefwd(wait=False, **more)
        for node in self.nodes:
            node.wait_litefwd()

    def find_primary(self, timeout=90, but=None):
        """Waits until a node (another than but) says that it is primary; it is cluster.primary then."""
        def look():
            for node in self.nodes:
                if node.litefs and node is not but:
                    with contextlib.suppress(OSError):
                        if node.info()["isPrimary"]:
                            return node
            return None
        self.primary = wait_until("there is a primary", look, timeout)
        return self.primary

    def swap_primary(self, primary, db=None):
        """
        Restarts every LiteFS of the static cluster with another primary; litefwd stays.
        LiteFS replicates asynchronously: were the new primary to stop first, what the others go on to commit (and
        acknowledge) would be no part of its history. So it stops last, and when it has what the old one has of `db`.
        """
        old = self.primary
        for node in sorted(self.nodes, key=lambda n: (n is primary, n is old)):
            if node is old and db and primary is not old:
                wait_until("the new primary has what the old one has", lambda: primary.pos(db)[0] >= old.pos(db)[0])
            node.stop_litefs()
        self.primary = primary
        self.start_litefs()

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.close(check=False)
            raise

    def __exit__(self, kind, value, traceback):
        self.close(check=kind is None)
        if kind is not None and self.problems:
            print("found while cleaning up after the failure:", *self.problems, sep="\n  ", file=sys.stderr)

    def close(self, check=True):
        """Checks (see the top), ends everything, removes the directory. Raises HarnessError when a check fails."""
        if self.closed:
            return
        self.closed = True
        try:
            self.check_alive("at the end of the test")
            for child in self.children:
                kept = [n.litefs for n in self.nodes] + [n.litefwd for n in self.nodes] + [self.consul and self.consul.process]
                if child.poll() is None and child not in kept:
                    child.kill()
            for node in self.nodes:
                if node.litefwd:
                    expected = node.litefwd_expected and node.litefwd.poll() is None
                    try:
                        code = node.stop_litefwd()
                        if expected and code != 0:
                            self.problems.append(f"litefwd n{node.index} ended with {code} on SIGTERM")
                        if expected and is_mounted(node.mount):
                            self.problems.append(f"litefwd n{node.index} left its mount behind")
                    except HarnessError as error:
                        self.problems.append(str(error))
            self.check_alive("after litefwd was stopped")
        finally:
            for node in self.nodes:
                with contextlib.suppress(Exception):
                    unmount(node.mount)
                with contextlib.suppress(Exception):
                    node.stop_litefs()
            if not sweep(self.base):
                self.problems.append(f"processes or mounts of {self.base} could not be removed")
            for child in self.children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(5)
            self.check_logs()
            self.port.close()
            self.gateway_port.close()
            if self.metrics_port:
                self.metrics_port.close()
            self.front_port.close()
            if self.consul:
                self.consul.close_ports()
            with contextlib.suppress(OSError):
                self.watcher.stdin.write(b"done")
                self.watcher.stdin.close()
            self.watcher.wait()
            shutil.rmtree(self.base, ignore_errors=True)
            _open_clusters.remove(self)
        if check and self.problems:
            raise HarnessError("\n  ".join(["the cluster is not as it should be:"] + self.problems))

    def check_alive(self, when):
        for node in self.nodes:
            for name in ("litefs", "litefwd"):
                process = getattr(node, name)
                if getattr(node, name + "_expected") and process and process.poll() is not None:
                    self.problems.append(f"{name} n{node.index} is gone {when}: exit {process.returncode}\n"
                                         + _text(getattr(node, name + "_log"))[-1500:])
                    setattr(node, name + "_expected", False)

    def assert_alive(self):
        self.check_alive("during the test")
        if self.problems:
            raise HarnessError("\n  ".join(self.problems))

    def check_logs(self):
        for node in self.nodes:
            for line in node.litefwd_text().replace(self.base, "BASE").splitlines():  # a random name may hold any word
                if SUSPICIOUS.search(line) and not (self.allow_suspicious and self.allow_suspicious.search(line)):
                    self.problems.append(f"litefwd n{node.index} logged: {line}")
            match = LITEFS_SUSPICIOUS.search(node.litefs_text())
            if match:
                self.problems.append(f"LiteFS n{node.index} logged: {node.litefs_text()[match.start():][:400]}")

    # -- processes

    def spawn(self, argv, name=None, log=None, **popen):
        """A child that the sweep can find. log: a file that gets its stdout and stderr, appended."""
        env = dict(os.environ)
        env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        for name_ in ("ASAN_OPTIONS", "TSAN_OPTIONS"):  # a client's SIGBUS in LiteFS' own "-shm" is told by its status
            env.setdefault(name_, "handle_sigbus=0")
        env.update(self.env)
        env[MARK] = self.base
        if log is None and "stderr" not in popen:
            log_file = open(os.path.join(self.logs, f"{name or os.path.basename(argv[0])}.err"), "ab")
            popen["stderr"] = log_file
        elif log is not None:
            log_file = open(log, "ab")
            popen.setdefault("stdout", log_file)
            popen.setdefault("stderr", log_file)
        else:
            log_file = None
        popen.setdefault("stdin", subprocess.DEVNULL)
        try:
            child = subprocess.Popen(argv, env=env, start_new_session=True, **popen)
        finally:
            if log_file:
                log_file.close()
        self.children.append(child)
        return child

    def run(self, argv, timeout=60, check=True, input=None):
        """Runs to the end: its stdout as text. HarnessError with its stderr if it fails or hangs."""
        child = self.spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = child.communicate(input.encode() if input else None, timeout * slow_factor())
        except subprocess.TimeoutExpired:
            child.kill()
            raise HarnessError(f"hangs for more than {timeout} s: {argv}") from None
        child.text_err = err.decode(errors="replace")
        if check and child.returncode:
            raise HarnessError(f"exit {child.returncode}: {argv}\n{child.text_err}{out.decode(errors='replace')}")
        return out.decode(errors="replace") if check else (child.returncode, out.decode(errors="replace"), child.text_err)

    # -- SQL

    def shell(self, path, sql, timeout=60):
        return self.run(["sqlite3", "-batch", "-bail", "-cmd", ".timeout 20000", path, sql], timeout)

    def sql_direct(self, node, db, sql, timeout=60):
        """By the sqlite3 shell on LiteFS' own directory."""
        return self.shell(node.direct_path(db), sql, timeout)

    def wait_converged(self, db, timeout=60):
        """Until every node's LiteFS is at the primary's position; returns it."""
        def same():
            positions = {node.pos(db) for node in self.nodes}
            return positions.pop() if len(positions) == 1 else None
        pos = wait_until(f"all nodes have the same position of {db}", same, timeout)
        return pos


# ---------------------------------------------------------------- interruption

_handlers_installed = False


def _install_signal_handlers():
    """SIGTERM, SIGHUP as SystemExit, so that `with` blocks end; SIGINT does that already."""
    global _handlers_installed
    if _handlers_installed:
        return
    _handlers_installed = True

    def leave(number, _frame):
        raise SystemExit(128 + number)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    atexit.register(_close_all)


def _close_all():
    for cluster in list(_open_clusters):
        with contextlib.suppress(Exception):
            cluster.close(check=False)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--watch":
        _watcher_main(sys.argv[2])
    else:
        sys.exit("a module; run tests/cluster/run.py")
