"""A process that takes POSIX and OFD record locks when it is told to, and says what the kernel answered.

What it is for: the same steps on a file of a litefwd mount and on a plain file, so that the plain file
says what is right. It refuses to know SQLite and litefwd.

In the test: Locker, one child process each; every call returns "ok", an errno's name, or F_GETLK's answer.
In the child: one JSON object a line on stdin, one answer a line on stdout.
"""
import errno
import fcntl
import json
import os
import select
import signal
import struct
import sys
import threading

TYPES = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK, "u": fcntl.F_UNLCK}
NAMES = {number: name for name, number in TYPES.items()}
FLOCK = "hhqqi4x"


class Locker:
    """One process. cluster: its spawn() makes the child; path: what open() opens if it is not told another."""

    def __init__(self, cluster, name, path, timeout=20):
        self.name, self.path, self.timeout = name, path, timeout
        self.process = cluster.spawn([sys.executable, "-B", os.path.abspath(__file__)], stdin=-1, stdout=-1, name="locker")
        self.pid = self.process.pid

    def send(self, op, **args):
        self.process.stdin.write(json.dumps(dict(args, op=op)).encode() + b"\n")
        self.process.stdin.flush()

    def answered(self, seconds):
        return bool(select.select([self.process.stdout.fileno()], [], [], seconds)[0])

    def answer(self):
        assert self.answered(self.timeout), f"{self.name}: no answer within {self.timeout} s"
        line = self.process.stdout.readline()
        assert line, f"{self.name} is gone"
        return json.loads(line)

    def call(self, op, **args):
        self.send(op, **args)
        return self.answer()

    def open(self, fd="a", path=None, flags=os.O_RDWR):
        return self.call("open", fd=fd, path=path or self.path, flags=flags)

    def lock(self, kind, start, length=1, fd="a", ofd=False, wait=False, where="here"):
        return self.call("lock", kind=kind, start=start, len=length, fd=fd, ofd=ofd, wait=wait, where=where)

    def start_lock(self, kind, start, length=1, fd="a", ofd=False):
        """Waits in the kernel (F_SETLKW); answer() has the result."""
        self.send("lock", kind=kind, start=start, len=length, fd=fd, ofd=ofd, wait=True, where="here")

    def getlk(self, kind, start, length=1, fd="a", ofd=False):
        """"free", or [type, start, length, pid]."""
        return self.call("getlk", kind=kind, start=start, len=length, fd=fd, ofd=ofd)

    def close(self, fd="a", where="here"):
        return self.call("close", fd=fd, where=where)

    def dup(self, fd="a", to="b"):
        return self.call("dup", fd=fd, to=to)

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(self.timeout)

    def end(self):
        self.process.stdin.close()
        self.process.wait(self.timeout)


class _Interrupted(Exception):
    pass


def _interrupted(_number, _frame):
    raise _Interrupted


def _flock(req):
    return struct.pack(FLOCK, TYPES[req["kind"]], os.SEEK_SET, req["start"], req["len"], 0)


def _do(req, fds):
    try:
        op = req["op"]
        if op == "open":
            fds[req["fd"]] = os.open(req["path"], req["flags"] | os.O_CLOEXEC)
        elif op == "dup":
            fds[req["to"]] = os.dup(fds[req["fd"]])
        elif op == "close":
            os.close(fds.pop(req["fd"]))
        elif op == "lock":
            command = (fcntl.F_OFD_SETLKW if req["wait"] else fcntl.F_OFD_SETLK) if req["ofd"] else \
                (fcntl.F_SETLKW if req["wait"] else fcntl.F_SETLK)
            fcntl.fcntl(fds[req["fd"]], command, _flock(req))
        elif op == "getlk":
            got = fcntl.fcntl(fds[req["fd"]], fcntl.F_OFD_GETLK if req["ofd"] else fcntl.F_GETLK, _flock(req))
            kind, _, start, length, pid = struct.unpack(FLOCK, got)
            return "free" if NAMES[kind] == "u" else [NAMES[kind], start, length, pid]
        else:
            raise ValueError(op)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
    except _Interrupted:  # PEP 475 would go on after a signal whose handler returns
        return "EINTR"


def _elsewhere(req, fds):
    """In a thread, or in a child of fork() that ends afterwards."""
    answers = []
    if req["where"] == "thread":
        thread = threading.Thread(target=lambda: answers.append(_do(req, fds)))
        thread.start()
        thread.join()
        return answers[0]
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write_end, json.dumps(_do(req, dict(fds))).encode())
        os._exit(0)
    os.close(write_end)
    answer = os.read(read_end, 4096)
    os.close(read_end)
    os.waitpid(pid, 0)
    return json.loads(answer)


def main():
    signal.signal(signal.SIGUSR1, _interrupted)
    fds = {}
    for line in sys.stdin:
        req = json.loads(line)
        answer = _do(req, fds) if req.get("where", "here") == "here" else _elsewhere(req, fds)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
