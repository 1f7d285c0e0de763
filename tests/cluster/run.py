#!/usr/bin/env python3
"""Runs the cluster tests: functions test_* in tests/cluster/test_*.py.

    run.py [--soak] [--list] [--repeat N] [--directory DIR] [FILTER ...]

FILTER: part of "file:function"; several mean any. Without a filter, all but those that are
marked @soak. --soak: all, with LITEFWD_SOAK=1, which makes the others longer as well.

Each test runs in a process of its own with a time bound (@bound(seconds), 180 by default), so
that a hanging mount takes one test with it and not the run. One line per test; logs of failed ones are
kept and their directory is printed. The last line is "N passed, N failed". A test that
raises Skip is reported as skipped, with its reason, and counts as neither.
"""
import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
DEFAULT_BOUND = 180
SKIPPED = 77


def load(path):
    sys.path.insert(0, HERE)
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def discover(directory):
    """[(id, path, function)] in the order of the source."""
    tests = []
    for file in sorted(os.listdir(directory)):
        if file.startswith("test_") and file.endswith(".py"):
            path = os.path.join(directory, file)
            for name, value in vars(load(path)).items():
                if name.startswith("test_") and callable(value):
                    tests.append((f"{file[:-3]}:{name}", path, value))
    return tests


def run_one(path, name):
    """In the child: exit status 0 passed, 77 skipped, else failed."""
    import marks
    sys.stdout.reconfigure(line_buffering=True)
    try:
        getattr(load(path), name)()
    except marks.Skip as reason:
        print(f"skipped: {reason}")
        return SKIPPED
    except SystemExit:
        traceback.print_exc()
        return 1
    except BaseException:  # pylint: disable=broad-except
        traceback.print_exc()
        return 1
    return 0


def run_bounded(path, name, bound, grace, log_path, env):
    """(exit status or None when it took too long)."""
    with open(log_path, "wb") as log:
        child = subprocess.Popen([sys.executable, "-B", os.path.abspath(__file__), "--one", path, name], stdout=log, stderr=log,
                                 stdin=subprocess.DEVNULL, env=env)
        try:
            return child.wait(bound)
        except subprocess.TimeoutExpired:
            child.terminate()
            try:
                child.wait(grace)
            except subprocess.TimeoutExpired:
                child.kill()
                kill_started_by(env)  # the test itself may hang in a mount until its server is gone
                child.wait()
            return None
        except BaseException:
            child.send_signal(signal.SIGTERM)
            child.wait(60)
            raise


def kill_started_by(env):
    """Ends what a test has started, but for the harness' watcher, which then unmounts and removes."""
    mark = f"LITEFWD_TEST_LOGS={env['LITEFWD_TEST_LOGS']}".encode()
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/environ", "rb") as environ, open(f"/proc/{entry}/cmdline", "rb") as cmdline:
                if entry.isdigit() and mark in environ.read().split(b"\0") and b"--watch" not in cmdline.read().split(b"\0"):
                    os.kill(int(entry), signal.SIGKILL)
        except OSError:
            pass


def tail(path, lines=25):
    with open(path, encoding="utf-8", errors="replace") as file:
        return "".join("    " + line for line in file.readlines()[-lines:])


def notes(path):
    """Lines that a test printed as results: "note: ..."."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return [line[6:].rstrip() for line in file if line.startswith("note: ")]


def main():
    # Started in the background by a shell we would ignore it, and all that we start, which tests send it to.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(description="runs the cluster tests")
    parser.add_argument("--soak", action="store_true", help="also the long ones")
    parser.add_argument("--list", action="store_true", help="only name the tests")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--grace", type=float, default=40, help="seconds that a test which took too long has to clean up")
    parser.add_argument("--directory", default=HERE, help="where the test files are")
    parser.add_argument("--one", nargs=2, metavar=("FILE", "FUNCTION"), help=argparse.SUPPRESS)
    parser.add_argument("filters", nargs="*", metavar="FILTER")
    options = parser.parse_args()
    if options.one:
        return run_one(*options.one)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    env = dict(os.environ)
    if options.soak:
        env["LITEFWD_SOAK"] = "1"
    os.environ.update(env)
    slow = float(env.get("LITEFWD_TEST_SLOW", "1"))
    chosen = [test for test in discover(options.directory)
              if (any(part in test[0] for part in options.filters) if options.filters
                  else options.soak or not getattr(test[2], "soak", False))]
    if options.list:
        for test_id, _, _ in chosen:
            print(test_id)
        return 0
    if not chosen:
        print("no test matches; 0 passed, 1 failed")
        return 1

    root = tempfile.mkdtemp(prefix="litefwd-test-logs-")
    passed = failed = skipped = 0
    try:
        for test_id, path, function in chosen * options.repeat:
            directory = tempfile.mkdtemp(prefix=test_id.replace(":", ".") + "-", dir=root)
            log = os.path.join(directory, "test.log")
            env["LITEFWD_TEST_LOGS"] = directory
            begin = time.monotonic()
            bound = getattr(function, "bound", DEFAULT_BOUND) * slow
            status = run_bounded(path, function.__name__, bound, options.grace, log, env)
            took = f"{time.monotonic() - begin:6.1f} s"
            if status == 0:
                passed += 1
                print(f"ok      {took}  {test_id}", flush=True)
            elif status == SKIPPED:
                skipped += 1
                print(f"skipped {took}  {test_id}", tail(log, 1).strip(), flush=True)
            else:
                failed += 1
                why = f"took more than {bound:.0f} s" if status is None else f"exit status {status}"
                print(f"FAILED  {took}  {test_id}: {why}; logs: {directory}", tail(log), sep="\n", flush=True)
            for note in notes(log):
                print(f"          {note}", flush=True)
            if status in (0, SKIPPED):
                shutil.rmtree(directory, ignore_errors=True)
    finally:
        if not os.listdir(root):
            os.rmdir(root)
    if skipped:
        print(f"{skipped} skipped")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
