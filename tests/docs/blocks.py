"""The commands of the documents: fenced blocks of Markdown, and what the comment above each says of it.

A block of language `sh` holds commands; one of language `console` a session: lines that begin with a prompt, and under
each what it prints. Other languages (text, yaml, ini ...) are not commands. Above each of the two stands, invisible to readers,

    <!-- run -->                console: each prompt says where: `primary$ `, `replica$ `, or `$ ` where there is one node only
    <!-- run on every node -->  sh: in turn; or: on primary, on replica, here
    <!-- not run: why -->       the reason is for whoever looks for what is not tested

A document whose commands another test runs says so once, at its top: `<!-- every block is run by WHAT -->`, WHAT being a file of tests/ or
a target of the makefile (`make check-…`).

tests/docs/test_claims.py demands that, tests/cluster/test_docs.py runs them.
"""
import collections
import os
import re

COMMANDS = ("sh", "console")
PLACES = ("every node", "primary", "replica", "here")

Block = collections.namedtuple("Block", "document line language mark text")

# where: as in PLACES. expected: lines that it must print, in which "…" stands for anything; None: not looked at, but it must succeed.
Command = collections.namedtuple("Command", "where text expected line")

_FENCE = re.compile(r"^( *)```+ *(\w*)")
_MARK = re.compile(r"^ *<!-- ((?:not )?run\b.*?) *-->$")
_ELSEWHERE = re.compile(r"^<!-- every block is (run by .*?) *-->$")
_PROMPT = re.compile(r"^(primary|replica|)[$] (.*)$")


def documents(top):
    """README.md and what is below docs/, as paths relative to top."""
    found = ["README.md"]
    for folder, folders, files in os.walk(os.path.join(top, "docs")):
        folders.sort()
        found += [os.path.relpath(os.path.join(folder, file), top) for file in sorted(files) if file.endswith(".md")]
    return found


def read(top, document):
    with open(os.path.join(top, document), encoding="utf-8") as file:
        return file.read()


def parse(document, text):
    """Every fenced block, in order. mark: None where there is none. Its text has the fence's indentation taken off."""
    blocks, mark, lines, begin, fence, elsewhere = [], None, [], 0, None, None
    for number, line in enumerate(text.splitlines(), 1):
        match = _FENCE.match(line)
        if fence is None and match:
            fence, lines, begin = match, [], number
        elif fence is not None and line.strip() == "```":
            blocks.append(Block(document, begin, fence[2], mark or (elsewhere if fence[2] in COMMANDS else None), "".join(lines)))
            fence = mark = None
        elif fence is not None:
            lines.append((line[len(fence[1]):] if line.startswith(fence[1]) else line) + "\n")
        elif _ELSEWHERE.match(line) and not blocks:
            elsewhere = _ELSEWHERE.match(line)[1]
        elif _MARK.match(line):
            mark = _MARK.match(line)[1]
        elif line.strip():
            mark = None
    if fence is not None:
        raise ValueError(f"{document}:{begin}: this block has no end")
    return blocks


def complaint(block):
    """What is wrong with its mark, None if nothing is."""
    if block.language not in COMMANDS:
        return "a mark above a block that holds no commands" if block.mark else None
    if block.mark is None:
        return "neither run nor marked with a reason"
    if block.mark.startswith("run by "):
        return None
    if block.mark.startswith("not run"):
        return None if re.match(r"not run: .{10,}", block.mark) else "no reason"
    if block.language == "console":
        return None if block.mark == "run" and _session(block) else "a session is marked 'run' and has a prompt on its first line"
    return None if block.mark in [f"run on {place}" for place in PLACES] else f"a mark that says nothing: {block.mark}"


def _session(block):
    commands = []
    for offset, line in enumerate(block.text.splitlines(), 1):
        match = _PROMPT.match(line)
        if match:
            commands.append(Command(match[1] or "here", match[2], [], block.line + offset))
        elif not commands:
            return []
        elif commands[-1].text.endswith("\\"):
            commands[-1] = commands[-1]._replace(text=commands[-1].text + "\n" + line)
        else:
            commands[-1].expected.append(line)
    return [command._replace(expected=command.expected or None) for command in commands]


def commands(block):
    """What is to be run of a block without a complaint()."""
    if block.language not in COMMANDS or block.mark.startswith(("not run", "run by ")):
        return []
    if block.language == "console":
        return _session(block)
    return [Command(block.mark[len("run on "):], block.text, None, block.line)]


def matches(expected, output):
    """expected: lines; "…" is anything within a line, and a line of "…" alone any number of lines."""
    pattern = "".join(r"(?:.*\n)*?" if line.strip() == "…" else ".*".join(map(re.escape, line.split("…"))) + "\n" for line in expected)
    lines = [line.rstrip() for line in output.splitlines()]
    return re.fullmatch(pattern, "".join(line + "\n" for line in lines)) is not None
