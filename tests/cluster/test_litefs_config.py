"""litefs.yml: litefwd reads what LiteFS itself reads. No cluster: two programs and many files.

tests/bin/litefs-config is LiteFS' own config.go with a main that prints JSON, tests/tools/litefsconfig the same with litefwd's
reader. What LiteFS refuses it does not start with, so such a file may be read here or not; whatever it accepts must be the same.
"""
import json
import os
import random
import shutil
import subprocess
import tempfile

from cluster import HarnessError, slow_factor
from marks import note

BIN = os.environ.get("TEST_BIN", os.path.join(os.getcwd(), "tests"))
SAME = ("fuse_dir", "data_dir", "lease_type", "lease_hostname", "lease_advertise_url", "lease_candidate",
        "lease_consul_url", "lease_consul_key")
ENV = {"A": "alpha", "B": "alpha", "C": "", "Q": "it's", "DQ": 'a"b', "LONG": "x" * 300, "YAML": "k: [v, 'w']\n#", "NL": "a\nb",
       "DOLLAR": "${A}", "BLANK": " a b ", "TRUE": "true", "N1": "1", "HOSTNAME": "db1", "_U": "u", "URL": "http://:tok@c:8500/p"}


def read_all(program, paths, *args, env=None):
    argv = [os.path.join(BIN, program), *args, *paths]
    result = subprocess.run(argv, env=ENV if env is None else env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100 * slow_factor(), check=True)
    lines = result.stdout.decode("utf-8").splitlines()
    if len(lines) != len(paths):
        raise HarnessError(f"{program}: {len(lines)} answers for {len(paths)} files")
    return [json.loads(line) for line in lines]


def reachable(addr):
    """The URL that reaches what LiteFS listens on; None: none can be told."""
    host, colon, port = addr.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        return None
    return f"http://{'localhost' if host in ('', '0.0.0.0', '[::]') else host}:{int(port)}"


def compare(texts, *args, env=None):
    """(how many LiteFS accepted, how many it did not); AssertionError where the two differ."""
    accepted, wrong = 0, []
    directory = tempfile.mkdtemp(prefix="litefwd-yml-")
    try:
        paths = []
        for number, text in enumerate(texts):
            paths.append(os.path.join(directory, f"{number}.yml"))
            with open(paths[-1], "wb") as file:
                file.write(text if isinstance(text, bytes) else text.encode())
        pairs = list(zip(texts, read_all("bin/litefs-config", paths, *args, env=env),
                         read_all("tools/litefsconfig", paths, *args, env=env)))
    finally:
        shutil.rmtree(directory)
    for text, theirs, ours in pairs:
        if not theirs["ok"]:
            continue
        url = reachable(theirs["http_addr"])
        if url is None:
            if ours["ok"] or "http.addr" not in ours["error"]:
                wrong.append((text, theirs, ours))
            continue
        accepted += 1
        if not ours["ok"] or ours["local_url"] != url or any(theirs[key] != ours[key] for key in SAME):
            wrong.append((text, theirs, ours))
    assert not wrong, "\n".join([f"{len(wrong)} files are read differently:"] + [repr(row) for row in wrong[:10]])
    return accepted, len(texts) - accepted


def test_litefs_config__litefs_own_example__same():
    with open(os.path.join(BIN, "bin/litefs-config.src/litefs.yml"), encoding="utf-8") as file:
        assert compare([file.read()]) == (1, 0)


def test_litefs_config__ways_to_write_it__same():
    texts = [
        "{}", "---\n{}\n", "fuse:\n", "fuse: ~\nhttp: null\nlease: Null\n", "fuse: {dir: }\nlease: {candidate: ~, type: }\n",
        "fuse:\n  dir: /a b\n", "fuse: {dir: 'it''s'}\n", 'fuse: {dir: "t\\tx\\u00e9\\x41"}\n', "fuse:\n  dir: >-\n    /a\n    b\n",
        "fuse:\n  dir: |-\n    /a\n", "fuse: {dir: 5}\nlease: {hostname: 1.50, consul: {key: 0x10}}\n", "lease: {hostname: yes}\n",
        "lease: {hostname: true}\n", "lease: {hostname: 2020-01-01}\n", "lease: {hostname: !!str 5}\n", "lease: {hostname: '~'}\n",
        "lease: {hostname: .inf}\n", "lease: {hostname: 1e3}\n", "lease: {hostname: 0o17}\n", "lease: {hostname: 1_000}\n",
        *(f"lease: {{candidate: {word}}}\n" for word in
          "true false True TRUE yes Yes YES no No NO on On ON off Off OFF y Y n N tRue 1 0 'true' \"yes\" 'x' x".split()),
        "fuse: &f\n  dir: /a\ndata:\n  <<: *f\n", "x-f: &f\n  dir: /a\nfuse: *f\n", "fuse: &f {dir: /a}\ndata: *f\n",
        "lease:\n  hostname: &h n1\n  advertise-url: *h\n",
        "fuse: &f {dir: /a}\ndata:\n  <<: *f\n  dir: /b\n", "fuse: &f {dir: /a}\ndata:\n  dir: /b\n  <<: *f\n",
        "fuse: &f {dir: /a}\ndata:\n  <<: [*f, {dir: /c}]\n", "data:\n  <<: [{dir: /c}, {dir: /d}]\n", "data:\n  <<: {<<: {dir: /e}}\n",
        "fuse: {dir: /a}\n---\nfuse: {dir: /b}\n", "\ufefffuse: {dir: /a}\n", "fuse: {dir: /a}\r\ndata: {dir: /b}\r\n", "%YAML 1.1\n---\nfuse: {dir: /a}\n",
        *(f"http: {{addr: '{addr}'}}\n" for addr in
          (":20202", ":1", "127.0.0.1:31", "0.0.0.0:31", "[::]:31", "[::1]:31", "node:65535", "::1:31", ":0", ":65536", "x", "", ":http")),
        "exec:\n  - cmd: a\n    if-candidate: true\nlease: {type: static, candidate: ${HOSTNAME == 'db1'}}\n",
        "exec: '$A $$ ${'\nlog: {format: json}\ntracing: {max-size: 64}\n",
    ]
    accepted, refused = compare(texts)
    assert accepted > len(texts) * 0.7, (accepted, refused)
    note(f"{accepted} files that LiteFS accepts, {refused} that it does not")


def test_litefs_config__expansion_written_at_random__same():
    rng = random.Random(20202)
    words = ["A", "B", "C", "Q", "DQ", "NONE", "HOSTNAME", "_U", "TRUE", "N1", "BLANK", "DOLLAR", "URL", "LONG", "NL", "YAML", "é"]
    glue = ["$", "{", "}", "${", " ", "==", "!=", " == ", " != ", "'", '"', "''", '""', "\t", "\v", "\f", "\u00a0", "\u0085", "\u2003", "\u3000", "=", "!", "-", ".", "/", "*", "#",
            "@", "?", "$$", "$1", "1", "alpha", "it's", "$A", "${A}", "${ A }", "${A == 'alpha'}", '${Q != "x"}', "${A==B}"]
    texts = []
    for _ in range(1500):
        value = "".join(rng.choice(words if rng.random() < 0.4 else glue) for _ in range(rng.randrange(1, 9)))
        # A block scalar takes what no other style takes; the indentation is for expansions to break.
        style = rng.choice(["fuse:\n  dir: |-\n    {}\n", "fuse:\n  dir: {}\n", "fuse: {{dir: '{}'}}\n", 'lease: {{consul: {{key: "{}"}}}}\n',
                            "lease: {{candidate: {}, type: static}}\n", "{}: {{dir: x}}\n"])
        texts.append(style.format(value))
    accepted, refused = compare(texts)
    assert accepted > 400 and refused > 100, (accepted, refused)
    note(f"{accepted} files that LiteFS accepts, {refused} that it does not")


def test_litefs_config__sections_put_together_at_random__same():
    rng = random.Random(5)
    scalars = ["/a", "'/b'", '"/c"', "~", "", "null", "5", "true", "no", "&x /d", "*x", "!!str 7", "$A", "'${A}'", "${TRUE}", "${NONE}", '"\\n"']
    keys = {"fuse": ["dir", "allow-other"], "data": ["dir", "compress"], "http": ["addr"],
            "lease": ["type", "hostname", "advertise-url", "candidate", "promote", "<<"]}
    texts = []
    for _ in range(1200):
        lines = ["tracing: &m {}"] if rng.random() < 0.1 else []
        for section in rng.sample(sorted(keys), rng.randrange(1, 5)):
            lines.append(f"{section}:" + (" &s" + section if rng.random() < 0.2 else ""))
            for key in rng.sample(keys[section], rng.randrange(0, len(keys[section]) + 1)):
                if key == "<<":
                    lines.append("  <<: {consul: {key: merged}, hostname: merged, candidate: false}")
                elif key in ("allow-other", "compress", "promote", "candidate"):
                    lines.append(f"  {key}: {rng.choice(['true', 'false', 'yes', 'off', '~', '${TRUE}', '${A == B}', '${A != B}'])}")
                elif key == "addr":
                    lines.append(f"  addr: {rng.choice(['~', ':1', '0.0.0.0:2', '127.0.0.1:3', ':${N1}2'])}")
                else:
                    lines.append(f"  {key}: {rng.choice(scalars)}")
            if section == "lease" and rng.random() < 0.5:
                lines += ["  consul:", f"    url: {rng.choice(scalars)}", f"    key: {rng.choice(scalars)}", "    ttl: 10s"]
        text = "\n".join(lines) + "\n"
        if text.count("&x") <= 1:  # an anchor twice is YAML, but not libyaml's
            texts.append(text)
    accepted, refused = compare(texts)
    assert accepted > 500 and refused > 50, (accepted, refused)
    note(f"{accepted} files that LiteFS accepts, {refused} that it does not")


def test_litefs_config__no_expand_env__same():
    accepted, _ = compare(["fuse: {dir: $A}\n", "fuse: {dir: '${A == B}'}\n", "lease: {hostname: $HOSTNAME}\n"], "-no-expand-env")
    assert accepted == 3


def test_litefs_config__hostname_not_in_the_environment__same():
    texts = ["lease: {hostname: $HOSTNAME}\n", "lease:\n  candidate: ${HOSTNAME == 'db1'}\n", "lease: {hostname: 'x${HOSTNAME}'}\n"]
    assert compare(texts, env={})[0] == 3
    assert compare(texts, env={"HOSTNAME": ""})[0] == 3
