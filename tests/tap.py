#!/usr/bin/env python3
"""tap.py FILE: runs the unittest cases of a Python file and says the results as TAP, for make check."""
import importlib.util
import os
import sys
import traceback
import unittest


class Result(unittest.TestResult):
    """One line per case; reasons as comments."""

    def line(self, ok, case, directive="", reason=""):
        print(f"{'ok' if ok else 'not ok'} {self.testsRun} - {case.id().rsplit('.', 1)[-1]}{directive}", flush=True)
        for text in reason.rstrip().splitlines():
            print("# " + text, flush=True)

    def addSuccess(self, test):
        self.line(True, test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.line(False, test, reason="".join(traceback.format_exception(*err)))

    def addError(self, test, err):
        super().addError(test, err)
        self.line(False, test, reason="".join(traceback.format_exception(*err)))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.line(True, test, directive=f" # SKIP {reason}")

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            self.line(False, subtest, reason="".join(traceback.format_exception(*err)))


def main(path):
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location("cases", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cases"] = module
    spec.loader.exec_module(module)
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    print(f"1..{suite.countTestCases()}", flush=True)
    result = Result()
    suite.run(result)
    # What failed has been said; make's driver reads that, and would count a status as one more error.
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: tap.py FILE")
    sys.exit(main(sys.argv[1]))
