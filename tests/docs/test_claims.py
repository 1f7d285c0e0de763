"""What the documents claim and can be compared with the source: no root, nothing is started. See blocks.py for their commands."""
import os
import re
import unittest

import blocks

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Names of tests, as `subject__condition__outcome`.
TEST_NAME = re.compile(r"`([a-z0-9_]+__[a-z0-9_]+)`")
# The rows of docs/troubleshooting.md: | `event` ... |
EVENT_ROW = re.compile(r"^\| `([a-z_]+)`", re.M)
EVENT_CALL = re.compile(r'\blog_(?:warn|error)\((?:"([a-z_]+)"|[^";]*?\? "([a-z_]+)" : "([a-z_]+)")')


def files(folder, *suffixes):
    found = [os.path.join(where, name) for where, _, names in os.walk(os.path.join(TOP, folder)) for name in names if name.endswith(suffixes)]
    assert found, folder
    return sorted(found)


def text_of(*paths):
    return "\n".join(open(os.path.join(TOP, path), encoding="utf-8").read() for path in paths)


def names_of_tests():
    found = set()
    for path in files("tests", ".py", ".c", ".sh"):
        text = text_of(path)
        found |= set(re.findall(r"^(?:def|static void) ([a-z0-9_]+__[a-z0-9_]+)\(", text, re.M))
        found |= set(re.findall(r"^(?:expect|same|ok|litefs_missing) ([a-z0-9_]+__[a-z0-9_]+) ", text, re.M))
    # Made by tests/cluster/test_docs.py for each document.
    return found | {"test_docs__commands_of_" + re.sub(r"[^a-z0-9]+", "_", name[:-3].lower()) + "__run_and_print_what_it_says"
                    for name in blocks.documents(TOP)}


class Claims(unittest.TestCase):
    def test_blocks__of_commands__run_or_marked_with_a_reason(self):
        found = [block for document in blocks.documents(TOP) for block in blocks.parse(document, blocks.read(TOP, document))]
        wrong = [f"{block.document}:{block.line}: {why}" for block in found for why in [blocks.complaint(block)] if why]
        self.assertEqual([], wrong)
        run = [block for block in found if blocks.commands(block)]
        left_out = [f"{block.document}:{block.line}: {block.mark}" for block in found if (block.mark or "").startswith("not run")]
        self.assertGreater(len(run), 20)
        self.assertLess(len(left_out), len(run) / 3, left_out)

    def test_blocks__run_by_another_test__it_exists_and_knows_the_document(self):
        for document in blocks.documents(TOP):
            for by in {block.mark[len("run by "):] for block in blocks.parse(document, blocks.read(TOP, document)) if (block.mark or "").startswith("run by ")}:
                if by.startswith("make "):
                    self.assertRegex(text_of("Makefile.am"), rf"(?m)^{re.escape(by[len('make '):])}:", document)
                else:
                    self.assertIn(os.path.basename(document), text_of(by), document)

    def test_tests__named_in_documents__exist(self):
        exist = names_of_tests()
        self.assertGreater(len(exist), 500)
        for document in [*blocks.documents(TOP), "SECURITY.md", "ARCHITECTURE.md"]:
            missing = sorted(set(TEST_NAME.findall(text_of(document))) - exist)
            self.assertEqual([], missing, document)

    def test_limitations__each_row__names_a_test_or_a_document(self):
        rows = [line for line in text_of("docs/limitations.md").splitlines() if line.startswith("| ") and not line.startswith(("| limitation", "| ---"))]
        self.assertGreater(len(rows), 20)
        self.assertEqual([], [row for row in rows if not TEST_NAME.search(row.split(" | ")[-1]) and "](" not in row.split(" | ")[-1]])

    def test_log_lines__warnings_and_errors__all_in_troubleshooting_and_no_others(self):
        logged = {name for path in files("src", ".c") for call in EVENT_CALL.findall(text_of(path)) for name in call if name}
        calls = sum(len(re.findall(r"\blog_(?:warn|error)\(", text_of(path))) for path in files("src", ".c"))
        self.assertEqual(calls, sum(len(EVENT_CALL.findall(text_of(path))) for path in files("src", ".c")), "a call that this test cannot read")
        rows = EVENT_ROW.findall(text_of("docs/troubleshooting.md"))
        self.assertEqual(sorted(logged), sorted(rows))

    def test_benchmarks__options_and_filters__exist(self):
        document = text_of("docs/BENCHMARKS.md")
        options = set(re.findall(r"--[a-z]+(?=[ ,`'])", document))
        known = re.findall(r'add_argument\("(--[a-z]+)"', text_of("tests/bench/bench.py", "tests/bench/bench_gateway.py"))
        self.assertGreater(len(options), 4)
        self.assertEqual([], sorted(options - set(known)))
        for part in re.findall(r"CLUSTER_ARGS=(\w+)", document):
            self.assertTrue([name for name in names_of_tests() if part in name], part)
        for target in re.findall(r"`make ([a-z-]+)", document):
            self.assertRegex(text_of("Makefile.am"), rf"(?m)^{target}:")

    def test_functions__named_in_architecture__exist(self):
        source = text_of(*files("src", ".c", ".h"), *files("tests/unit", ".c"))  # faults have names there
        named = set(re.findall(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?:\(\))?`", text_of("ARCHITECTURE.md")))
        self.assertGreater(len(named), 60)
        self.assertEqual([], sorted(name for name in named if not re.search(rf"\b{name}\b", source)))

    def test_files__named_in_architecture__exist(self):
        there = {os.path.basename(path) for path in [*files("src", ".c", ".h"), *files("tests", ".c", ".h", ".py", ".sh")]}
        named = set(re.findall(r"`([a-z0-9_]+\.(?:c|h|py|sh))`", text_of("ARCHITECTURE.md")))
        self.assertGreater(len(named), 15)
        self.assertEqual([], sorted(named - there))

    def test_links__relative__lead_somewhere(self):
        wrong = []
        for document in [*blocks.documents(TOP), "SECURITY.md", "ARCHITECTURE.md", "HACKING.md"]:
            for link in re.findall(r"\]\(([^)]*)\)", text_of(document)):
                path, _, anchor = link.partition("#")
                if re.match(r"[a-z]+:", path):
                    continue
                target = os.path.normpath(os.path.join(os.path.dirname(document), path)) if path else document
                if not os.path.exists(os.path.join(TOP, target)) or (anchor and anchor not in anchors(target)):
                    wrong.append(f"{document}: {link}")
        self.assertEqual([], wrong)

    def test_documents__in_docs__led_to_by_the_readme(self):
        linked, seen = ["README.md"], set()
        while linked:
            document = linked.pop()
            if document in seen or not os.path.isfile(os.path.join(TOP, document)):
                continue
            seen.add(document)
            linked += [os.path.normpath(os.path.join(os.path.dirname(document), link)) for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", text_of(document))]
        self.assertEqual([], sorted(set(blocks.documents(TOP)) - seen))


def anchors(document):
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text_of(document), re.M)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Blocks(unittest.TestCase):
    """blocks.py itself."""

    def parse(self, text):
        return blocks.parse("x.md", text)

    def test_parse__mark_and_fence__block_with_its_text(self):
        (block,) = self.parse("text\n\n<!-- run on every node -->\n```sh\na\nb\n```\n")
        self.assertEqual(("sh", "run on every node", "a\nb\n", 4), (block.language, block.mark, block.text, block.line))
        self.assertEqual([("every node", "a\nb\n", None)], [command[:3] for command in blocks.commands(block)])

    def test_parse__text_between_mark_and_fence__no_mark(self):
        (block,) = self.parse("<!-- run on here -->\nand then\n```sh\na\n```\n")
        self.assertEqual("neither run nor marked with a reason", blocks.complaint(block))

    def test_parse__no_end__error(self):
        self.assertRaises(ValueError, self.parse, "```sh\na\n")

    def test_parse__every_block_is_run_by_another_test__its_mark_unless_it_has_its_own(self):
        first, second, third = self.parse("<!-- every block is run by tests/x.py -->\n# X\n```sh\na\n```\n<!-- run on here -->\n```sh\nb\n```\n```yaml\nc\n```\n")
        self.assertEqual(("run by tests/x.py", "run on here", None), (first.mark, second.mark, third.mark))
        self.assertEqual([None, None, None], [blocks.complaint(block) for block in (first, second, third)])
        self.assertEqual([], blocks.commands(first))

    def test_complaint__marks_that_say_nothing__told(self):
        for mark in ("not run", "not run: no", "run", "run on the moon"):
            self.assertIsNotNone(blocks.complaint(self.parse(f"<!-- {mark} -->\n```sh\na\n```\n")[0]), mark)
        for text in ("<!-- run -->\n```console\nno prompt\n```\n", "<!-- run on here -->\n```console\n$ a\n```\n", "<!-- run -->\n```yaml\na: b\n```\n"):
            self.assertIsNotNone(blocks.complaint(self.parse(text)[0]), text)

    def test_session__prompts__commands_with_what_they_print(self):
        (block,) = self.parse("<!-- run -->\n```console\nprimary$ a \\\n  b\none\ntwo\nreplica$ c\n$ d\n```\n")
        self.assertIsNone(blocks.complaint(block))
        self.assertEqual([("primary", "a \\\n  b", ["one", "two"]), ("replica", "c", None), ("here", "d", None)],
                         [command[:3] for command in blocks.commands(block)])

    def test_matches__ellipsis__anything_in_its_line_or_any_lines(self):
        self.assertTrue(blocks.matches(["a … c"], "a b c\n"))
        self.assertFalse(blocks.matches(["a … c"], "a b\nc\n"))
        self.assertTrue(blocks.matches(["…", "x"], "1\n2\nx\n"))
        self.assertTrue(blocks.matches(["…", "x"], "x\n"))
        self.assertFalse(blocks.matches(["x"], "x\ny\n"))
        self.assertFalse(blocks.matches(["x.y"], "x+y\n"))


if __name__ == "__main__":
    unittest.main()
