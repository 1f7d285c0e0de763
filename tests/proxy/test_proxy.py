#!/usr/bin/env python3
"""Tests of the fault proxy: test_proxy.py [PROXY_BINARY] (or PROXY=..., default ./tests/proxy/proxy).

Each fault must do what proxy.c says, and be counted exactly when it did. Times are only ever
bounded from below, or by a timeout that means "stuck".
"""
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

PROXY = os.environ.get("PROXY", "./tests/proxy/proxy")
STUCK = 20  # seconds
QUIET = 0.15  # seconds in which something that must not come does not come
BODY = bytes(range(256)) * 2


class Server:
    """HTTP/1.1 on kept connections: answers with the number of body bytes; keeps all it has read."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.changed = threading.Condition()
        self.read, self.ends, self.requests = {}, {}, []
        self.socks, self.n = [], 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with self.changed:
                self.n += 1
                self.read[self.n], self.ends[self.n] = b"", None
                self.socks.append(sock)
            threading.Thread(target=self.serve, args=(self.n, sock), daemon=True).start()

    def serve(self, n, sock):
        done = 0
        try:
            while True:
                data = sock.recv(65536)
                with self.changed:
                    self.changed.notify_all()
                    if not data:
                        self.ends[n] = "fin"
                        sock.close()
                        return
                    self.read[n] += data
                    while True:
                        head, sep, rest = self.read[n][done:].partition(b"\r\n\r\n")
                        length = re.search(rb"(?i)content-length: *(\d+)", head)
                        size = int(length[1]) if length else 0
                        if not sep or len(rest) < size:
                            break
                        done += len(head) + 4 + size
                        self.requests.append((head.split(b" HTTP/")[0].decode(), rest[:size]))
                        text = b"%d" % size
                        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        except OSError:
            with self.changed:
                self.ends[n] = "reset"
                self.changed.notify_all()

    def wait(self, condition):
        with self.changed:
            if not self.changed.wait_for(condition, STUCK):
                raise AssertionError(f"stuck: {self.read} {self.ends}")

    def close(self):
        self.listener.close()
        for s in self.socks:
            s.close()


class Client:
    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), STUCK)
        self.buf = b""

    def send(self, method="POST", target="/tx?name=a", body=BODY):
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        self.sock.sendall(head + body)
        return len(head)

    def answer(self):
        while True:
            m = re.match(rb"HTTP/1.1 (\d+).*?Content-Length: (\d+)\r\n\r\n", self.buf, re.S)
            if m and len(self.buf) >= m.end() + int(m[2]):
                text = self.buf[m.end():m.end() + int(m[2])]
                self.buf = self.buf[m.end() + int(m[2]):]
                return int(m[1]), text
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self.buf += data

    def call(self, *args, **kw):
        self.send(*args, **kw)
        return self.answer()

    def silent(self):
        """True if nothing comes, no data and no end."""
        self.sock.settimeout(QUIET)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
            return False
        except socket.timeout:
            return True
        finally:
            self.sock.settimeout(STUCK)

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()


class ProxyTest(unittest.TestCase):
    args = []

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.server = Server()
        self.addCleanup(self.server.close)
        self.control = None
        self.start(self.server.port)

    def start(self, target):
        path = os.path.join(self.dir.name, "control")
        self.proc = subprocess.Popen([PROXY, *self.args, "--control", path, "127.0.0.1:0", f"127.0.0.1:{target}"],
                                     stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.stop, self.proc)
        self.port = int(re.fullmatch(r"listening (\d+)\n", self.proc.stdout.readline())[1])
        if self.control:
            self.control.close()
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(STUCK)
        sock.connect(path)
        self.control = sock.makefile("rw")
        sock.close()
        self.addCleanup(self.control.close)

    def stop(self, proc):
        proc.terminate()
        self.assertEqual(proc.wait(STUCK), 0)
        proc.stdout.close()

    def command(self, line):
        self.control.write(line + "\n")
        self.control.flush()
        got = self.control.readline()
        if got.startswith("counts "):
            self.counted = dict(kv.split("=") for kv in got.split()[1:])
            got = self.control.readline()
        return got.strip()

    def ok(self, line):
        self.assertEqual(self.command(line), "ok")

    def client(self):
        c = Client(self.port)
        self.addCleanup(c.close)
        return c

    def assert_counts(self, **want):
        """Exactly these faults took effect; connections are not looked at."""
        self.ok("counts")
        self.assertEqual({k: int(v) for k, v in self.counted.items() if v != "0" and k != "connections"},
                         {k.replace("_", "-"): v for k, v in want.items()})

    def assert_reset(self, client):
        with self.assertRaises(ConnectionResetError):
            while client.sock.recv(65536):
                pass
            raise EOFError

    def assert_works(self):
        c = self.client()
        self.assertEqual(c.call(), (200, b"512"))
        c.close()


class Faults(ProxyTest):
    def test_no_fault__several_requests__pass_and_nothing_counted(self):
        c = self.client()
        for i in range(20):
            self.assertEqual(c.call(body=b"x" * i), (200, b"%d" % i))
        c.close()
        self.server.wait(lambda: self.server.ends[1] == "fin")
        self.assert_counts()
        self.assertEqual(self.counted["connections"], "1")

    def test_large_bodies__both_ways__intact(self):
        c = self.client()
        body = os.urandom(3 << 20)
        for _ in range(4):
            self.assertEqual(c.call(body=body), (200, b"%d" % len(body)))
        self.assertTrue(all(r[1] == body for r in self.server.requests))

    def test_client_resets__server_sees_a_reset(self):
        c = self.client()
        c.call()
        c.reset()
        self.server.wait(lambda: self.server.ends[1] == "reset")

    def test_target_gone__client_is_reset_and_counted(self):
        self.server.close()
        s = socket.create_server(("127.0.0.1", 0))
        port = s.getsockname()[1]
        s.close()
        self.start(port)
        with self.assertRaises(ConnectionResetError):
            # the reset may come before connect() has returned
            self.client().answer()
        self.assert_counts(target_failed=1)

    def test_drop_connections__all_reset_and_new_ones_work(self):
        clients = [self.client() for _ in range(3)]
        for c in clients:
            c.call()
        self.ok("drop-connections")
        for c in clients:
            self.assert_reset(c)
        self.server.wait(lambda: all(self.server.ends[i] == "reset" for i in (1, 2, 3)))
        self.assert_works()
        self.assert_counts(drop_connections=3)

    def test_drop_connections__none_there__counts_zero(self):
        self.ok("drop-connections")
        self.assert_counts()

    def test_blackhole__old_and_new_connections__silence_until_pass(self):
        old, idle = self.client(), self.client()
        old.call()
        idle.call()
        self.ok("blackhole on")
        self.assert_counts()
        new = self.client()
        old.send()
        new.send()
        self.assertTrue(old.silent() and new.silent())
        self.assertEqual(len(self.server.requests), 2)
        self.assert_counts(blackhole=2)
        self.ok("blackhole off")
        old.send()
        self.assertTrue(old.silent())
        self.assertEqual(idle.call(), (200, b"512"))
        self.ok("pass")
        self.assert_reset(old)
        self.assert_reset(new)
        self.assert_works()

    def test_blackhole__client_closes__server_does_not_hear_of_it(self):
        c = self.client()
        c.call()
        self.ok("blackhole on")
        c.reset()
        time.sleep(QUIET)
        self.assertIsNone(self.server.ends[1])
        self.ok("pass")
        self.server.wait(lambda: self.server.ends[1] == "reset")

    def test_refuse__connect__refused_counted_and_port_kept(self):
        old = self.client()
        old.call()
        self.ok("refuse on")
        for _ in range(3):
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port), STUCK)
        self.assertEqual(old.call(), (200, b"512"))
        self.ok("counts")
        self.assertIn(self.counted["refuse"], ("3", "unknown") if os.geteuid() else ("3",))
        self.ok("refuse off")
        self.assert_works()
        self.ok("refuse on")
        self.ok("pass")
        self.assert_works()

    def test_hold_after__old_and_new_connection__stalls_there_until_release(self):
        old = self.client()
        old.call()
        before = len(self.server.read[1])
        self.ok("hold-after 50")
        self.assert_counts()
        new = self.client()
        old.send()
        new.send()
        self.server.wait(lambda: len(self.server.read[1]) >= before + 50 and len(self.server.read.get(2, b"")) >= 50)
        self.assertTrue(old.silent() and new.silent())
        self.assertEqual([len(self.server.read[1]) - before, len(self.server.read[2])], [50, 50])
        self.assert_counts(hold_after=2)
        self.ok("release")
        self.assertEqual([old.answer(), new.answer()], [(200, b"512")] * 2)
        self.assertEqual(old.call(), (200, b"512"))

    def test_hold_after__client_closes__fin_waits_behind_what_is_held(self):
        self.ok("hold-after 10")
        c = self.client()
        c.send()
        c.sock.shutdown(socket.SHUT_WR)
        self.server.wait(lambda: len(self.server.read.get(1, b"")) == 10)
        time.sleep(QUIET)
        self.assertIsNone(self.server.ends[1])
        self.ok("release")
        self.assertEqual(c.answer(), (200, b"512"))
        self.server.wait(lambda: self.server.ends[1] == "fin")

    def test_hold_after__client_resets__reset_replaces_what_is_held(self):
        self.ok("hold-after 10")
        c = self.client()
        c.send()
        self.server.wait(lambda: len(self.server.read.get(1, b"")) == 10)
        c.reset()
        self.server.wait(lambda: self.server.ends[1] == "reset")
        self.ok("release")
        self.assertEqual(len(self.server.read[1]), 10)

    def test_hold_answer__request_arrives_and_answer_waits(self):
        c = self.client()
        self.ok("hold-answer on")
        c.send()
        self.server.wait(lambda: len(self.server.requests) == 1)
        self.assertTrue(c.silent())
        self.assert_counts(hold_answer=1)
        self.ok("hold-answer off")
        self.assertEqual(c.answer(), (200, b"512"))
        self.assertEqual(c.call(), (200, b"512"))
        self.assert_counts(hold_answer=1)

    def test_lose_answer__matching_request_arrives_and_client_is_reset(self):
        self.ok("lose-answer POST /tx 2")
        c = self.client()
        self.assertEqual(c.call(target="/halt?name=a"), (200, b"512"))
        self.assertEqual(c.call(method="DELETE", target="/tx"), (200, b"512"))
        self.assert_counts()
        for n in (1, 2):
            c.send()
            self.assert_reset(c)
            self.assertEqual(self.server.requests[-1], ("POST /tx?name=a", BODY))
            self.assert_counts(lose_answer=n)
            c = self.client()
        self.assertEqual(c.call(), (200, b"512"))
        self.assert_counts(lose_answer=2)

    def test_lose_answer__no_body_and_no_answer_from_server__not_counted(self):
        self.ok("lose-answer GET /info 1")
        c = self.client()
        c.sock.sendall(b"GET /info HTTP/1.1\r\n")
        self.server.wait(lambda: self.server.read.get(1))
        self.assert_counts()
        c.sock.sendall(b"Host: x\r\n\r\n")
        self.assert_reset(c)
        self.assert_counts(lose_answer=1)

    def test_reset_after_header__exactly_100_bytes_of_the_body_then_both_reset(self):
        self.ok("reset-after-header POST /tx 1")
        c = self.client()
        self.assertEqual(c.call(target="/halt", body=b""), (200, b"0"))
        self.assertEqual(c.call(body=b"x" * 100), (200, b"100"))
        before = len(self.server.read[1])
        self.assert_counts()
        head = c.send()
        self.assert_reset(c)
        self.server.wait(lambda: self.server.ends[1] == "reset")
        self.assertEqual(self.server.read[1][before + head:], BODY[:100])
        self.assertEqual(len(self.server.requests), 2)
        self.assert_counts(reset_after_header=1)
        self.assert_works()

    def test_stall_body__exactly_100_bytes_then_nothing_until_release(self):
        self.ok("stall-body POST /tx 1")
        c, other = self.client(), self.client()
        self.assertEqual(c.call(target="/halt", body=b""), (200, b"0"))
        before = len(self.server.read[1])
        head = c.send()
        self.server.wait(lambda: len(self.server.read[1]) >= before + head + 100)
        self.assertTrue(c.silent())
        self.assertEqual(self.server.read[1][before + head:], BODY[:100])
        self.assert_counts(stall_body=1)
        self.assertEqual(other.call(), (200, b"512"))
        self.ok("release")
        self.assertEqual(c.answer(), (200, b"512"))
        self.assertEqual(c.call(), (200, b"512"))
        self.assert_counts(stall_body=1)

    def test_stall_body__head_and_body_byte_by_byte__same(self):
        self.ok("stall-body POST /tx 1")
        c = self.client()
        for byte in b"POST /tx HTTP/1.1\r\nconTENT-lengTH:120\r\n\r\n" + b"y" * 120:
            c.sock.sendall(bytes([byte]))
        self.server.wait(lambda: self.server.read.get(1, b"").endswith(b"y" * 100))
        self.assertTrue(c.silent())
        self.assertEqual(self.server.read[1].count(b"y"), 100)
        self.ok("release")
        self.assertEqual(c.answer(), (200, b"120"))

    def test_rules__pipelined_requests_in_one_write__the_right_one(self):
        self.ok("stall-body POST /b 1")
        c = self.client()
        one = b"POST /%s HTTP/1.1\r\nContent-Length: 200\r\n\r\n" + b"z" * 200
        c.sock.sendall(one % b"a" + one % b"b" + one % b"c")
        self.assertEqual(c.answer(), (200, b"200"))
        self.assertTrue(c.silent())
        self.assertEqual(self.server.read[1].count(b"z"), 300)
        self.ok("release")
        self.assertEqual([c.answer(), c.answer()], [(200, b"200")] * 2)

    def test_pass__rules_and_holds__all_forgotten(self):
        for line in ("stall-body POST / 9", "lose-answer POST / 9", "hold-after 3", "hold-answer on", "pass"):
            self.ok(line)
        self.assert_works()
        self.assert_counts()

    def test_chunked_body__then_looks_no_further(self):
        self.ok("lose-answer POST /later 1")
        c = self.client()
        c.sock.sendall(b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        c.answer()
        c.sock.sendall(b"POST /later HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        self.server.wait(lambda: b"later" in self.server.read[1])
        self.assert_counts()

    def test_control__nonsense__error_and_nothing_changes(self):
        for line in ("", "nonsense", "delay", "delay x", "delay -1", "delay 1 2", "refuse", "refuse maybe",
                     "lose-answer POST /tx", "lose-answer POST /tx x", "stall-body " + "M" * 20 + " / 1",
                     "hold-after 99999999999999999999", "release now"):
            self.assertRegex(self.command(line), "^error ", line)
        self.assert_works()

    def test_control__two_clients_and_commands_in_one_write__each_answered(self):
        other = socket.socket(socket.AF_UNIX)
        other.connect(os.path.join(self.dir.name, "control"))
        other.settimeout(STUCK)
        self.addCleanup(other.close)
        other.sendall(b"delay 1\ndelay 0\nbad\n")
        got = b""
        while got.count(b"\n") < 3:
            got += other.recv(100)
        self.assertEqual(got, b"ok\nok\nerror no such command\n")
        self.ok("pass")


class Delay(ProxyTest):
    args = ["--delay-ms", "60"]

    def timed(self, call):
        start = time.monotonic()
        got = call()
        return got, time.monotonic() - start

    def test_fresh_then_kept_connection__two_round_trips_then_one(self):
        def fresh():
            self.c = self.client()
            return self.c.call()

        got, fresh_s = self.timed(fresh)
        self.assertEqual(got, (200, b"512"))
        got, kept_s = self.timed(self.c.call)
        self.assertEqual(got, (200, b"512"))
        self.assertGreaterEqual(fresh_s, 0.120)
        self.assertGreaterEqual(kept_s, 0.060)

    def test_delay_changed__shorter_one_does_not_overtake(self):
        c = self.client()
        c.call()
        one = b"POST /%d HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
        for i in range(30):
            c.sock.sendall(one % i)
            self.ok(f"delay {60 - 2 * i}")
        for _ in range(30):
            self.assertEqual(c.answer(), (200, b"0"))
        self.assertEqual([r[0] for r in self.server.requests[1:]], [f"POST /{i}" for i in range(30)])

    def test_fin_and_reset__travel_behind_the_data(self):
        c = self.client()
        c.send()
        c.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(c.answer(), (200, b"512"))
        self.assertEqual(c.sock.recv(1), b"")
        c = self.client()
        c.call()
        c.send(body=b"r" * 300)
        c.reset()
        self.server.wait(lambda: self.server.ends.get(2) == "reset")
        self.assertEqual(self.server.requests[-1][1], b"r" * 300)

    def test_more_than_the_queue__waits_and_arrives_whole(self):
        c = self.client()
        body = os.urandom(12 << 20)
        self.assertEqual(c.call(body=body), (200, b"%d" % len(body)))
        self.assertEqual(self.server.requests[-1][1], body)

    def test_lose_answer_and_drop__with_bytes_on_the_way__counted(self):
        self.ok("lose-answer POST /tx 1")
        c = self.client()
        c.send()
        self.assert_reset(c)
        self.assert_counts(lose_answer=1)
        c = self.client()
        c.call()
        read = len(self.server.read[2])
        self.ok("delay 600000")
        c.send()
        self.ok("drop-connections")
        self.assert_reset(c)
        self.server.wait(lambda: self.server.ends[2] == "reset")
        self.assertEqual(len(self.server.read[2]), read)
        self.assert_counts(lose_answer=1, drop_connections=1)


class CommandLine(unittest.TestCase):
    def test_wrong_arguments__usage_and_exit_2(self):
        for args in ([], ["127.0.0.1:0"], ["x", "y"], ["--delay-ms", "-1", "127.0.0.1:0", "127.0.0.1:1"],
                     ["--what", "127.0.0.1:0", "127.0.0.1:1"]):
            done = subprocess.run([PROXY, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=STUCK)
            self.assertEqual((done.returncode, done.stdout), (2, b""), args)
            self.assertTrue(done.stderr)

    def test_port_taken__exit_1(self):
        with socket.create_server(("127.0.0.1", 0)) as s:
            done = subprocess.run([PROXY, f"127.0.0.1:{s.getsockname()[1]}", "127.0.0.1:1"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=STUCK)
        self.assertEqual((done.returncode, done.stdout), (1, b""))


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-") and os.path.exists(sys.argv[1]):
        PROXY = sys.argv.pop(1)
    unittest.main()
