"""A proxy between a litefwd and a LiteFS, or a gateway, that loses, delays and spoils single calls of its HTTP API.

    with FaultProxy(cluster.primary) as proxy:
        node.start_litefwd(primary_url=proxy.url)
        fault = proxy.add("drop_answer", method="POST", path="/tx")
        ...
        assert fault.hits == 1

It forwards request by request, each client connection over one connection of its own to
LiteFS, so that "the connection is gone" means the same on both sides: when litefwd resets
its connection, LiteFS sees its own end. What a fault does to the request that it matches:

    drop_request   never forwarded; the connection is reset
    drop_answer    forwarded and answered by LiteFS; the answer is lost, the connection is reset
    hold_request   waits for fault.release.set(), then goes on
    hold_answer    forwarded at once; the answer waits for fault.release.set()
    stall_body     the header and the first fault.bytes bytes of the body; the rest after fault.release.set()
    answer         fault.answer (bytes, a whole HTTP response) instead of LiteFS'

A LiteFS that follows its primary through the proxy (HTTP/2) is passed on byte by byte; hold_streams() lets nothing more
through to those that do, and what was held is lost if their primary goes. listen: where it is, if not on a port of its own.

Every request seen is in proxy.requests: (method, path, query dict). FaultProxy(node, port=cluster.gateway_port) is
in front of a gateway; of what is said below of LiteFS, the same is true there.

NetProxy is tests/proxy: the network itself, with delays, black holes and half-open connections.
"""
import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.parse

from cluster import HERE, HarnessError


class Fault:
    def __init__(self, action, method=None, path=None, times=1, count_bytes=100, answer=None):
        self.action, self.method, self.path, self.times = action, method, path, times
        self.bytes, self.answer = count_bytes, answer
        self.hits = 0
        self.seen = threading.Event()  # set with the first hit
        self.release = threading.Event()
        self.lost = False

    def lose(self):
        """What is held is lost, what has passed has passed; both sides' connections are reset."""
        self.lost = True
        self.release.set()

    def matches(self, method, path):
        return self.hits < self.times and self.method in (None, method) and self.path in (None, path)


class Closed(Exception):
    """One side has closed its connection."""


class FaultProxy:
    def __init__(self, node, port=None, listen=("127.0.0.1", 0)):
        self.target = (node.address, (port or node.cluster.port).number)
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(listen)
        self.listener.listen(64)
        self.url = "http://%s:%d" % self.listener.getsockname()
        self.faults = []
        self.requests = []
        self.last = {}  # (method, path) -> when it was seen last
        self.mutex = threading.Lock()
        self.closing = threading.Event()
        self.sockets = set()
        self.streams = threading.Event()
        self.streams.set()

    def hold_streams(self, hold=True):
        if hold:
            self.streams.clear()
        else:
            self.streams.set()

    def cut(self):
        """Ends all connections that there are now, in both directions. How many sockets that were."""
        with self.mutex:
            for sock in self.sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            return len(self.sockets)

    def add(self, action, **options):
        fault = Fault(action, **options)
        with self.mutex:
            self.faults.append(fault)
        return fault

    def remove(self, fault):
        """It hits nothing any more; what it holds stays held."""
        with self.mutex:
            fault.times = 0
            self.faults.remove(fault)

    def seen(self, method, path):
        with self.mutex:
            return [query for m, p, query in self.requests if (m, p) == (method, path)]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.streams.set()
        for fault in self.faults:
            fault.release.set()
        self.listener.close()
        with self.mutex:
            for sock in self.sockets:
                sock.close()

    # -- one connection

    def _accept(self):
        while not self.closing.is_set():
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        server = None
        with self.mutex:
            self.sockets.add(client)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            buffer = b""
            while True:
                head, buffer = self._head(client, buffer)
                if head.startswith(b"PRI * HTTP/2"):
                    server = socket.create_connection(self.target, 5)
                    server.settimeout(None)
                    with self.mutex:
                        self.sockets.add(server)
                    server.sendall(head + buffer)
                    self._pump(client, server, self.streams)
                    return
                method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
                url = urllib.parse.urlsplit(target)
                length = int(_header(head, "content-length") or 0)
                with self.mutex:
                    self.requests.append((method, url.path, dict(urllib.parse.parse_qsl(url.query))))
                    self.last[method, url.path] = time.monotonic()
                    fault = next((f for f in self.faults if f.matches(method, url.path)), None)
                    if fault:
                        fault.hits += 1
                action = fault.action if fault else None
                if action == "drop_request":
                    fault.seen.set()
                    return
                if action == "answer":
                    while len(buffer) < length:
                        buffer += self._read(client)
                    buffer = buffer[length:]
                    fault.seen.set()
                    client.sendall(fault.answer)
                    continue
                if action == "hold_request":
                    fault.seen.set()
                    self._wait(fault, client)
                    if fault.lost:
                        return
                if server is None:
                    server = socket.create_connection(self.target, 5)
                    server.settimeout(None)
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    with self.mutex:
                        self.sockets.add(server)
                server.sendall(head)
                sent = 0
                while sent < length:
                    if not buffer:
                        buffer = self._read(client)
                    part = buffer[:length - sent]
                    if action == "stall_body" and sent + len(part) >= fault.bytes and not fault.seen.is_set():
                        part = part[:fault.bytes - sent]
                        server.sendall(part)
                        fault.seen.set()
                        self._wait(fault, client)
                        if fault.lost:
                            return
                    else:
                        server.sendall(part)
                    buffer = buffer[len(part):]
                    sent += len(part)
                if url.path in ("/events", "/stream"):
                    self._pump(client, server)
                    return
                self._answer(client, server, action, fault)
                if action == "drop_answer" or (fault and fault.lost):
                    return
        except (Closed, OSError, ValueError):
            pass
        finally:
            for sock in (client, server):
                if sock:
                    try:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    except OSError:
                        pass
                    sock.close()
                    with self.mutex:
                        self.sockets.discard(sock)

    def _answer(self, client, server, action, fault):
        head, rest = self._head(server, b"", other=client)
        length = _header(head, "content-length")
        body = rest
        if length is not None:
            while len(body) < int(length):
                body += self._read(server)
        elif "chunked" in (_header(head, "transfer-encoding") or ""):
            while not body.endswith(b"0\r\n\r\n"):
                body += self._read(server)
        if action == "drop_answer":
            fault.seen.set()
            return
        if action == "hold_answer":
            fault.seen.set()
            self._wait(fault, client)
            if fault.lost:
                return
        client.sendall(head + body)

    def _wait(self, fault, client):
        """Until released; Closed as soon as the client has gone."""
        while not fault.release.wait(0.02):
            if select.select([client], [], [], 0)[0]:
                if client.recv(1, socket.MSG_PEEK) == b"":
                    raise Closed
                fault.release.wait(0.02)  # it has sent more, such as the rest of a body

    def _head(self, sock, buffer, other=None):
        while b"\r\n\r\n" not in buffer:
            if other:  # waiting for LiteFS: a client that goes away takes its request with it
                ready = select.select([sock, other], [], [])[0]
                if sock not in ready and other.recv(1, socket.MSG_PEEK) == b"":
                    raise Closed
                if sock not in ready:
                    select.select([sock], [], [], 0.05)
                    continue
            buffer += self._read(sock)
        head, rest = buffer.split(b"\r\n\r\n", 1)
        return head + b"\r\n\r\n", rest

    @staticmethod
    def _read(sock):
        data = sock.recv(1 << 16)
        if not data:
            raise Closed
        return data

    @staticmethod
    def _pump(client, server, may_pass=None):
        while True:
            for sock in select.select([client, server], [], [])[0]:
                data = sock.recv(1 << 16)
                if not data:
                    return
                if sock is server and may_pass and not may_pass.is_set():
                    held = [data]
                    while not may_pass.wait(0.02):
                        if select.select([server], [], [], 0)[0]:
                            held.append(server.recv(1 << 16))
                            if not held[-1]:
                                return
                    data = b"".join(held)
                (server if sock is client else client).sendall(data)


class NetProxy:
    """tests/proxy in front of a node's LiteFS or gateway; the commands are at the top of proxy.c."""

    def __init__(self, node, port=None, name="netproxy", target=None):
        """target: "HOST:PORT" of something else instead."""
        cluster = node.cluster
        self.control = os.path.join(cluster.base, name)
        target = target or f"{node.address}:{(port or cluster.port).number}"
        argv = [_proxy_program(cluster), "--control", self.control, "127.0.0.1:0", target]
        self.process = cluster.spawn(argv, stdout=subprocess.PIPE, name=name)
        line = self.process.stdout.readline().split()
        if len(line) != 2:
            raise HarnessError(f"{name} does not start")
        self.url = f"http://127.0.0.1:{int(line[1])}"

    def __call__(self, command):
        """The answer's lines before its "ok"."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(self.control)
            sock.sendall(command.encode() + b"\n")
            answer = b""
            while not answer.endswith(b"ok\n"):
                data = sock.recv(1 << 12)
                if not data or answer.startswith(b"error"):
                    raise HarnessError(f"proxy: {command}: {answer!r}")
                answer += data
        return answer[:-3].decode()

    def counts(self):
        """{"accepted": 3, ...}"""
        return {key: int(value) for key, value in (word.split("=") for word in self("counts").split()[1:]) if value.isdigit()}

    def delay(self, milliseconds):
        self(f"delay {milliseconds}")

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _proxy_program(cluster):
    for top in filter(None, (os.environ.get("TEST_BIN"), os.path.join(os.getcwd(), "tests"))):
        path = os.path.join(top, "proxy", "proxy")
        if os.access(path, os.X_OK):
            return path
    path = os.path.join(cluster.base, "proxy-program")
    if not os.path.exists(path):
        subprocess.run(["cc", "-O2", "-std=gnu11", "-D_GNU_SOURCE", "-o", path,
                        os.path.join(os.path.dirname(HERE), "proxy", "proxy.c")], check=True)
    return path


def _header(head, name):
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip().lower()
    return None


def json_answer(body, status="200 OK"):
    body = body if isinstance(body, bytes) else body.encode()
    return (f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body
