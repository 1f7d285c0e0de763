#!/usr/bin/env python3
"""The checker checked: differ with a plain file on both sides must find nothing, and whatever --sabotage does.

DIFFER=... or ./tests/clients/differ.
"""
import json
import os
import signal
import subprocess
import tempfile
import unittest

DIFFER = os.environ.get("DIFFER", "./tests/clients/differ")
JOURNALS = ("wal", "delete", "truncate", "persist", "mix")


def differ(directory, seed, *args, statements=800, journal="wal"):
    return subprocess.run([DIFFER, "--plain", os.path.join(directory, "a.db"), "--fwd", os.path.join(directory, "b.db"),
                           "--seed", str(seed), "--statements", str(statements), "--journal", journal, *args],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, check=False)


class Alike(unittest.TestCase):
    def clean(self, *args, **options):
        for journal in JOURNALS:
            with self.subTest(journal=journal), tempfile.TemporaryDirectory() as directory:
                run = differ(directory, 1, *args, journal=journal, **options)
                self.assertEqual(run.returncode, 0, run.stderr[-3000:])
                answer = json.loads(run.stdout)
                self.assertEqual((answer["differences"], answer["repeated"], answer["waits"]), (0, 0, 0), answer)
                self.assertGreater(answer["commits"], 0)
                self.assertGreater(answer["busy"], 0, "connections never met")
                self.assertGreater(len(answer["codes"]), 4, "no errors were compared")

    def test_plain_files__connections_of_one_process__no_difference(self):
        self.clean()

    def test_plain_files__processes__no_difference(self):
        self.clean("--processes", "--connections", "4")

    def test_plain_files__page_sizes__no_difference(self):
        for size in (512, 65536):
            self.clean("--page-size", str(size), "--auto-vacuum", "FULL", "--encoding", "UTF-16le", statements=400)

    def test_seed__twice__the_same_statements(self):
        said = []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as directory:
                said.append(differ(directory, 5, "--trace").stderr)
        self.assertEqual(said[0], said[1])


class Death(unittest.TestCase):
    def test_death__in_the_middle_of_a_transaction__next_part_finds_the_same_content(self):
        for journal in JOURNALS:
            for extra in ((), ("--processes",)):
                with self.subTest(journal=journal, extra=extra), tempfile.TemporaryDirectory() as directory:
                    for part in range(3):
                        run = differ(directory, part, "--die-at", "100", *extra, journal=journal)
                        self.assertEqual(run.returncode, -signal.SIGKILL, run.stderr[-3000:])
                    run = differ(directory, 7, *extra, journal=journal, statements=200)
                    self.assertEqual(run.returncode, 0, run.stderr[-3000:])


class Sabotage(unittest.TestCase):
    def found(self, kind, word):
        for journal in ("wal", "mix"):
            with self.subTest(journal=journal), tempfile.TemporaryDirectory() as directory:
                run = differ(directory, 3, "--sabotage", kind, journal=journal)
                self.assertEqual(run.returncode, 1, run.stderr[-3000:])
                self.assertTrue(json.loads(run.stdout)["sabotaged"])
                self.assertEqual(json.loads(run.stdout)["differences"], 1)
                self.assertIn("DIFFERENCE of answers: seed 3, statement", run.stderr)
                self.assertIn(word, run.stderr)

    def test_sabotage__another_value_is_written__found_in_the_content(self):
        self.found("value", "sabotage")

    def test_sabotage__commit_is_lost__found_in_the_content(self):
        self.found("lost", "#dump")

    def test_sabotage__row_is_missing__found_in_the_answer(self):
        self.found("read", "SELECT")

    def test_sabotage__error__found_in_the_answer(self):
        self.found("error", "no such column")


if __name__ == "__main__":
    unittest.main()
