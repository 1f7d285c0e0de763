"""The examples in docs/stacks are pieces of the tested applications; no root, nothing is started.

A block there stands under `<!-- tests/stacks/FILE: NAME -->`: what is between "begin NAME" and "end NAME" in comments of that file.
`make check-stacks` runs the applications.
"""
import os
import re
import sys
import textwrap
import unittest

import blocks

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDER = os.path.join(TOP, "docs", "stacks")
MARK = re.compile(r"<!-- (tests/stacks/\S+): (\w+) -->\n+```(\w+)\n(.*?)^```$", re.M | re.S)

sys.path.insert(0, os.path.join(TOP, "tests", "stacks"))
import stacks  # noqa: E402


def documents():
    return sorted("docs/stacks/" + name for name in os.listdir(FOLDER))


def region(path, name):
    """The lines between the marks, without their common indentation."""
    text = blocks.read(TOP, path)
    found = re.findall(rf"^.*\bbegin {name}\n(.*?)^.*\bend {name}$", text, re.M | re.S)
    return textwrap.dedent(found[0].expandtabs(4)).strip("\n") if len(found) == 1 else None


class Stacks(unittest.TestCase):
    def test_examples__of_each_stack__are_what_is_tested(self):
        compared = 0
        for document in documents():
            text = blocks.read(TOP, document)
            examples = MARK.findall(text)
            self.assertEqual(len(examples), len(blocks.parse(document, text)), f"{document}: a block without a mark of where it comes from")
            for path, name, _, example in examples:
                wanted = region(path, name)
                self.assertIsNotNone(wanted, f"{document}: {path} has not one region {name}")
                self.assertEqual(wanted, example.expandtabs(4).strip("\n"), f"{document}: {path}: {name}")
                compared += 1
        self.assertGreater(compared, 30)

    def test_documents__of_each_stack__there_and_in_the_list(self):
        index = blocks.read(TOP, "docs/stacks/README.md")
        for stack in stacks.STACKS:
            row = re.search(rf"^\| {re.escape(stack.name)} \|.*\]\((\w+\.md)\)", index, re.M)
            self.assertIsNotNone(row, stack.name)
            text = blocks.read(TOP, "docs/stacks/" + row[1])
            self.assertIn(f"tests/stacks/{stack.directory}/", text, row[1])
            for word in ("busy_timeout", "BEGIN IMMEDIATE", "BUSY", "pool"):
                self.assertIn(word, text, f"{row[1]}: not a word about {word}")

    def test_versions__in_the_list__are_those_of_the_manifests(self):
        index = blocks.read(TOP, "docs/stacks/README.md")
        pinned = {
            "Django": re.search(r"^django==(\S+)", blocks.read(TOP, "tests/stacks/django/requirements.txt"), re.M)[1],
            "SQLAlchemy": re.search(r"^sqlalchemy==(\S+)", blocks.read(TOP, "tests/stacks/sqlalchemy/requirements.txt"), re.M)[1],
            "better-sqlite3": re.search(r'"better-sqlite3": "([^"]+)"', blocks.read(TOP, "tests/stacks/node/package.json"))[1],
            "Drizzle": re.search(r'"drizzle-orm": "([^"]+)"', blocks.read(TOP, "tests/stacks/node/package.json"))[1],
            "Go mattn": re.search(r"mattn/go-sqlite3 v(\S+)", blocks.read(TOP, "tests/stacks/go/go.mod"))[1],
            "Go modernc": re.search(r"modernc.org/sqlite v(\S+)", blocks.read(TOP, "tests/stacks/go/go.mod"))[1],
            "Rust rusqlite": re.search(r'rusqlite = \{ version = "=([^"]+)"', blocks.read(TOP, "tests/stacks/rust/Cargo.toml"))[1],
            "Java sqlite-jdbc": re.search(r"sqlite-jdbc</artifactId>\s*<version>([^<]+)", blocks.read(TOP, "tests/stacks/java/pom.xml"))[1],
        }
        for name, version in pinned.items():
            row = re.search(rf"^\| {re.escape(name)} \|.*$", index, re.M)[0]
            self.assertIn(version, row)


if __name__ == "__main__":
    unittest.main()
