"""What litefwd takes for granted about LiteFS' HTTP API and files, asked of the real thing.

LiteFS promises none of it. A new release that changes one of these fails here, and not at
a user's. No litefwd runs; each test has a cluster of its own, which it may spoil, but none
of them may end a LiteFS: the harness checks that.
"""
import calendar
import datetime
import http.client
import json
import os
import re
import signal
import socket
import struct
import sys
import time
import urllib.parse

from cluster import Cluster, slow_factor, wait_until

DB = "f.db"
NODE = 0xFEEDFACE12345678  # ours: never a LiteFS node's
FLAG = 1 << 63
PAGE = 4096


# ---------------------------------------------------------------- LTX, written independently of litefwd's own encoder

def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0xD800000000000000 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def crc64(data):
    crc = ~0 & (1 << 64) - 1
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xff] ^ crc >> 8
    return crc ^ (1 << 64) - 1


def page_checksum(pgno, page):
    return crc64(struct.pack(">I", pgno) + page) | FLAG


def ltx(txid, pre, commit, pages, post, node_id=NODE, timestamp_ms=1700000000123):
    """An uncompressed LTX file; pages: {pgno: bytes}."""
    head = struct.pack(">4sIIIQQqQqqIIQ20x", b"LTX1", 0, PAGE, commit, txid, txid, timestamp_ms, pre, 0, 0, 0, 0, node_id)
    body = head + b"".join(struct.pack(">I", pgno) + page for pgno, page in sorted(pages.items())) + bytes(4)
    body += struct.pack(">Q", post)
    return body + struct.pack(">Q", crc64(body) | FLAG)


def next_ltx(node, pos, change=b"x", **more):
    """A transaction that follows pos on the node's database: page 1 with another user version at byte 60."""
    with open(os.path.join(node.data_dir, "dbs", DB, "database"), "rb") as file:
        old = file.read(PAGE)
    commit = os.path.getsize(os.path.join(node.data_dir, "dbs", DB, "database")) // PAGE
    new = bytearray(old)
    new[60:64] = (change * 4)[:4]
    post = (pos[1] ^ page_checksum(1, old) ^ page_checksum(1, bytes(new))) | FLAG
    return ltx(pos[0] + 1, pos[1], commit, {1: bytes(new)}, post, **more), (pos[0] + 1, post)


# ---------------------------------------------------------------- one HTTP call

class Answer:
    def __init__(self, response):
        self.status = response.status
        self.body = response.read()
        self.text = self.body.decode(errors="replace")
        self.headers = response.headers

    def json(self):
        return json.loads(self.body)

    def pos(self):
        pos = self.json()["pos"]
        return int(pos["TXID"], 16), int(pos["PostApplyChecksum"], 16)


def connect(node, timeout=20):
    return http.client.HTTPConnection(node.address, node.cluster.port.number, timeout=timeout * slow_factor())


def call(node, method, path, body=None, id=NODE, timeout=20):
    conn = connect(node, timeout)
    try:
        conn.request(method, path, body=body, headers={"Litefs-Id": f"{id:016X}"})
        return Answer(conn.getresponse())
    finally:
        conn.close()


def halt(node, id, name=DB, **more):
    return call(node, "POST", f"/halt?name={urllib.parse.quote(name)}&id={id}", b"", **more)


def unhalt(node, id, name=DB):
    return call(node, "DELETE", f"/halt?name={urllib.parse.quote(name)}&id={id}")


def tx(node, data, name=DB, **more):
    return call(node, "POST", f"/tx?name={name}&lockID=1", data, **more)


def granted(node, id, seconds):
    """True if /halt is granted within that time; given back at once."""
    try:
        answer = halt(node, id, timeout=seconds)
    except (socket.timeout, TimeoutError):
        return False
    finally:
        unhalt(node, id)
    return answer.status == 200


def make_db(cluster, mode="wal"):
    cluster.sql_direct(cluster.primary, DB, f"PRAGMA journal_mode={mode}; CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    return cluster.wait_converged(DB)


def alone():
    return Cluster(n=1, litefwd=False)


# ---------------------------------------------------------------- answers in general

def test_answers__all_but_debug__carry_the_same_id_and_a_date():
    with Cluster(n=2, litefwd=False) as cluster:
        make_db(cluster)
        ids = []
        for node in cluster.nodes:
            answers = [call(node, "GET", "/info"), halt(node, 1), unhalt(node, 1), tx(node, b"short"), tx(node, b"", name="nope")]
            seen = {answer.headers["Litefs-Id"] for answer in answers}
            assert len(seen) == 1 and re.fullmatch("[0-9A-F]{16}", seen.pop())
            assert all(answer.headers["Date"] for answer in answers)
            ids.append(answers[0].headers["Litefs-Id"])
            assert call(node, "GET", "/debug/vars").headers["Litefs-Id"] is None
        assert ids[0] != ids[1]


def test_info__primary_and_replica__fields():
    with Cluster(n=2, litefwd=False) as cluster:
        primary, replica = (call(node, "GET", "/info").json() for node in cluster.nodes)
        assert primary["isPrimary"] is True and replica["isPrimary"] is False
        assert replica["primary"]["hostname"] == cluster.primary.hostname
        assert replica["clusterID"] == primary["clusterID"] and primary["clusterID"].startswith("LFSC")
        assert [primary["path"], replica["path"]] == [node.data_dir for node in cluster.nodes]


def test_debug_vars__position_of_each_database():
    with alone() as cluster:
        pos = make_db(cluster)
        store = call(cluster.primary, "GET", "/debug/vars").json()["store"]
        assert store["isPrimary"] is True
        assert (store["dbs"][DB]["txid"], store["dbs"][DB]["checksum"]) == (f"{pos[0]:016x}", f"{pos[1]:016x}")


def test_debug_vars__locks__a_client_that_has_the_database_open_and_halt():
    """How litefwd knows of direct clients before it drops a database: in WAL mode an open one shows, and so does HALT."""
    def locks(node):
        shown = call(node, "GET", "/debug/vars").json()["store"]["dbs"][DB]["locks"]
        return shown["shared"], shown["dms"]

    def becomes(node, wanted):
        wait_until(f"locks {wanted}", lambda: locks(node) == wanted)

    for mode, open_, halted in (("wal", ("shared", "shared"), ("shared", "shared")),
                                ("delete", ("unlocked", "unlocked"), ("exclusive", "unlocked"))):
        with alone() as cluster:
            make_db(cluster, mode)
            node = cluster.primary
            becomes(node, ("unlocked", "unlocked"))
            with node.conn_direct(DB) as conn:
                conn("SELECT count(*) FROM t")
                becomes(node, open_)
                conn("BEGIN")
                conn("SELECT count(*) FROM t")
                assert locks(node)[0] == "shared"
                conn("ROLLBACK")
            becomes(node, ("unlocked", "unlocked"))
            assert halt(node, 5).status == 200
            assert locks(node) == halted
            unhalt(node, 5)
            becomes(node, ("unlocked", "unlocked"))


def test_pos_file__text():
    with Cluster(n=2, litefwd=False) as cluster:
        txid, checksum = make_db(cluster)
        for node in cluster.nodes:
            with open(node.direct_path(DB) + "-pos", "rb") as file:
                assert file.read() == f"{txid:016x}/{checksum:016x}\n".encode()
        answer = halt(cluster.primary, 5)
        assert answer.pos() == (txid, checksum)
        assert unhalt(cluster.primary, 5).status == 200


# ---------------------------------------------------------------- /halt

def test_halt__ttl__30_seconds_by_its_own_clock():
    with alone() as cluster:
        make_db(cluster)
        answer = halt(cluster.primary, 5)
        text = answer.json()["expires"]
        match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", text)
        assert match, text
        zone = match[3].replace("Z", "+00:00")
        expires = datetime.datetime.fromisoformat(match[1] + zone).timestamp() + float("0." + (match[2] or "0"))
        date = calendar.timegm(time.strptime(answer.headers["Date"], "%a, %d %b %Y %H:%M:%S GMT"))
        assert 28 < expires - date < 32
        unhalt(cluster.primary, 5)


def test_halt__same_id_again__same_lock_not_renewed():
    with alone() as cluster:
        make_db(cluster)
        first = halt(cluster.primary, 5)
        time.sleep(1.1)
        again = halt(cluster.primary, 5)
        assert (first.status, again.status) == (200, 200)
        assert first.json() == again.json()
        unhalt(cluster.primary, 5)


def test_halt__held__another_id_waits_and_unhalt_frees():
    with alone() as cluster:
        make_db(cluster)
        node = cluster.primary
        assert halt(node, 5).status == 200  # its connection is closed by now: the lock stays
        assert not granted(node, 6, 0.5)
        assert unhalt(node, 6).status == 200  # not the holder: nothing happens
        assert not granted(node, 7, 0.5)
        assert unhalt(node, 5).status == 200
        assert granted(node, 8, 5)
        assert unhalt(node, 5).status == 200  # idempotent


def test_halt__client_goes_away_while_waiting__wait_ends():
    with alone() as cluster:
        make_db(cluster)
        node = cluster.primary
        assert halt(node, 5).status == 200
        waiting = connect(node)
        waiting.request("POST", f"/halt?name={DB}&id=6", b"")
        time.sleep(0.3)
        waiting.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        waiting.close()  # a reset, as litefwd does it
        time.sleep(0.5)
        assert unhalt(node, 5).status == 200
        answer = halt(node, 7)  # waits for ever behind 6, if 6 has got it
        assert answer.status == 200 and answer.json()["id"] == 7
        unhalt(node, 7)


def test_halt__held__primarys_own_readers_shut_out_until_unhalt():
    with alone() as cluster:
        make_db(cluster)
        assert halt(cluster.primary, 5).status == 200
        with cluster.primary.conn_direct(DB) as reader:
            reader.send("SELECT x FROM t")
            assert reader.pending(1)
            unhalt(cluster.primary, 5)
            assert reader.result() == [(1,)]


def test_halt__unknown_name__creates_the_database_whatever_it_is():
    with alone() as cluster:
        node = cluster.primary
        for name in ("new.db", "new.db-wal"):
            answer = halt(node, 5, name=name)
            assert answer.status == 200 and answer.pos() == (0, 0)
            assert name in call(node, "GET", "/debug/vars").json()["store"]["dbs"]
            unhalt(node, 5, name=name)


def test_halt__own_id_or_bad_lock_id__refused():
    with alone() as cluster:
        node = cluster.primary
        own = int(call(node, "GET", "/info").headers["Litefs-Id"], 16)
        answer = call(node, "POST", f"/halt?name={DB}&id=5", b"", id=own)
        assert (answer.status, answer.text) == (400, "cannot remotely halt self\n")
        for bad in ("", "x", "9223372036854775808", "1.5"):
            assert call(node, "POST", f"/halt?name={DB}&id={bad}", b"").status == 400
        assert DB not in call(node, "GET", "/debug/vars").json()["store"]["dbs"]
        biggest = halt(node, 9223372036854775807)
        assert biggest.status == 200 and biggest.json()["id"] == 9223372036854775807
        unhalt(node, 9223372036854775807)


def test_unhalt__unknown_database__no_answer_but_alive():
    with alone() as cluster:
        node = cluster.primary
        try:
            unhalt(node, 5, name="never.db")
            raise AssertionError("answered")
        except (http.client.RemoteDisconnected, ConnectionResetError):
            pass
        assert call(node, "GET", "/info").status == 200
        os.truncate(node.litefs_log, 0)  # it has logged a panic, which is not to be held against it here


def test_halt__kept_in_memory_only__gone_after_a_restart():
    with alone() as cluster:
        make_db(cluster)
        node = cluster.primary
        before = halt(node, 5)
        assert before.status == 200
        node.kill_litefs()
        node.start_litefs()
        # A new id, which tells of the restart beside the lost connection.
        assert call(node, "GET", "/info").headers["Litefs-Id"] != before.headers["Litefs-Id"]
        assert granted(node, 6, 5)


# ---------------------------------------------------------------- /tx

def test_tx__fits__applied_and_replicated_with_our_node_id():
    with Cluster(n=2, litefwd=False) as cluster:
        pos = make_db(cluster)
        node = cluster.primary
        assert halt(node, 5).pos() == pos
        data, after = next_ltx(node, pos, b"\0\0\0\7", timestamp_ms=1700000000777)
        answer = tx(node, data)
        assert (answer.status, answer.body) == (200, b"")
        assert node.pos(DB) == after
        unhalt(node, 5)
        assert cluster.wait_converged(DB) == after
        for each in cluster.nodes:
            assert cluster.shell(each.direct_path(DB), "PRAGMA user_version").strip() == "7"
            name = f"{after[0]:016x}-{after[0]:016x}.ltx"
            with open(os.path.join(each.data_dir, "dbs", DB, "ltx", name), "rb") as file:
                head = file.read(100)
            assert struct.unpack(">q", head[32:40])[0] == 1700000000777
            assert struct.unpack(">Q", head[72:80])[0] == NODE


def test_tx__nobody_holds_halt__applied_all_the_same():
    with alone() as cluster:
        pos = make_db(cluster)
        halt(cluster.primary, 5)  # empties the WAL
        unhalt(cluster.primary, 5)
        data, after = next_ltx(cluster.primary, pos)
        assert tx(cluster.primary, data).status == 200
        assert cluster.primary.pos(DB) == after


def test_tx__on_a_replica__accepted_there_and_lost_again():
    with Cluster(n=2, litefwd=False) as cluster:
        pos = make_db(cluster)
        replica = cluster.replicas[0]
        assert halt(replica, 5).status == 200
        data, after = next_ltx(replica, pos)
        assert tx(replica, data).status == 200
        assert unhalt(replica, 5).status == 200
        assert replica.pos(DB) == after
        assert cluster.primary.pos(DB) == pos
        cluster.sql_direct(cluster.primary, DB, "INSERT INTO t VALUES(2)")
        assert cluster.wait_converged(DB) != after
        assert cluster.shell(replica.direct_path(DB), "SELECT sum(x) FROM t; PRAGMA user_version").split() == ["3", "0"]


def test_tx__refusals__exact_texts_and_nothing_applied():
    with alone() as cluster:
        pos = make_db(cluster)
        node = cluster.primary
        assert halt(node, 5).status == 200
        good, _ = next_ltx(node, pos)
        own = int(call(node, "GET", "/info").headers["Litefs-Id"], 16)
        late, _ = next_ltx(node, (pos[0] + 1, pos[1]))
        early, _ = next_ltx(node, (pos[0] - 1, pos[1]))
        other, _ = next_ltx(node, (pos[0], pos[1] ^ 1))
        spoilt = bytearray(good)
        spoilt[500] ^= 1
        want = f"expecting {pos[0] + 1:016x}\n"
        cases = [
            (late, DB, NODE, 500, f"write ltx file: non-sequential header minimum txid {pos[0] + 2:016x}, " + want),
            (early, DB, NODE, 500, f"write ltx file: non-sequential header minimum txid {pos[0]:016x}, " + want),
            (other, DB, NODE, 500, f"write ltx file: pre-apply checksum mismatch: {pos[1] ^ 1:016x}, expecting {pos[1]:016x}\n"),
            (b"", DB, NODE, 500, "write ltx file: read ltx header: n=0 "),
            (good[:99], DB, NODE, 500, "write ltx file: read ltx header: n=99 "),
            (bytes(200), DB, NODE, 500, "write ltx file: decode ltx header: "),
            (bytes(spoilt), DB, NODE, 500, "write ltx file: ltx validation error: "),
            (good[:-1], DB, NODE, 500, "write ltx file: ltx validation error: "),
            (good[:2000], DB, NODE, 500, "write ltx file: ltx validation error: "),
            (good, "nope.db", NODE, 404, 'database not found: "nope.db"\n'),
            (good, DB, own, 400, "cannot remotely halt self\n"),
        ]
        for data, name, id, status, text in cases:
            answer = tx(node, data, name=name, id=id)
            assert answer.status == status, (text, answer.text)
            assert answer.text == text if text.endswith("\n") else answer.text.startswith(text), (text, answer.text)
            assert node.pos(DB) == pos
        assert tx(node, good).status == 200  # and it was good
        unhalt(node, 5)


def test_tx__position__compared_when_the_header_has_come():
    """And never again: this is what makes a stalled transaction dangerous. Here it only leads to a refusal."""
    with alone() as cluster:
        pos = make_db(cluster)
        node = cluster.primary
        data, _ = next_ltx(node, (pos[0] + 1, pos[1]))  # not yet, and not by its checksum
        conn = connect(node)
        conn.putrequest("POST", f"/tx?name={DB}&lockID=1")
        conn.putheader("Content-Length", str(len(data)))
        conn.endheaders()
        conn.send(data[:100])
        time.sleep(0.3)
        cluster.sql_direct(node, DB, "INSERT INTO t VALUES(2)")
        assert node.pos(DB)[0] == pos[0] + 1
        conn.send(data[100:])
        answer = Answer(conn.getresponse())
        assert answer.status == 500
        assert answer.text.endswith(f"non-sequential header minimum txid {pos[0] + 2:016x}, expecting {pos[0] + 1:016x}\n")
        conn.close()


def test_tx__cut_off_by_a_reset__not_applied():
    with alone() as cluster:
        pos = make_db(cluster)
        node = cluster.primary
        assert halt(node, 5).status == 200
        data, after = next_ltx(node, pos)
        for cut in (100, 101, len(data) - 1):
            conn = connect(node)
            conn.putrequest("POST", f"/tx?name={DB}&lockID=1")
            conn.putheader("Content-Length", str(len(data)))
            conn.endheaders()
            conn.send(data[:cut])
            time.sleep(0.1)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            conn.close()
        time.sleep(0.3)
        assert node.pos(DB) == pos
        assert tx(node, data).status == 200
        assert node.pos(DB) == after
        unhalt(node, 5)


def image_of(node, name=DB):
    """{pgno: page} of a database whose WAL /halt has emptied."""
    with open(os.path.join(node.data_dir, "dbs", name, "database"), "rb") as file:
        data = file.read()
    return {i + 1: data[i * PAGE:(i + 1) * PAGE] for i in range(len(data) // PAGE)}


def database_checksum(pages):
    checksum = 0
    for pgno, page in pages.items():
        checksum ^= page_checksum(pgno, page)
    return checksum | FLAG


def test_tx__create_drop_create_again__by_three_ltx_files():
    with Cluster(n=2, litefwd=False) as cluster:
        make_db(cluster)
        node = cluster.primary
        halt(node, 5)
        unhalt(node, 5)
        pages = image_of(node)
        post = database_checksum(pages)

        def send(data, before, after):
            answer = halt(node, 6, name="copy.db")
            assert answer.pos() == before
            assert tx(node, data, name="copy.db").status == 200
            assert unhalt(node, 6, name="copy.db").status == 200
            wait_until("both are there", lambda: all(
                call(each, "GET", "/debug/vars").json()["store"]["dbs"].get("copy.db", {}).get("txid") == f"{after[0]:016x}"
                for each in cluster.nodes))

        def readable():
            return [cluster.shell(each.direct_path("copy.db"), "SELECT x FROM t").strip() for each in cluster.nodes]

        send(ltx(1, 0, len(pages), pages, post), (0, 0), (1, post))
        assert cluster.wait_converged("copy.db") == (1, post)
        assert readable() == ["1", "1"]

        send(ltx(2, post, 0, {}, FLAG), (1, post), (2, FLAG))
        for each in cluster.nodes:
            assert not [name for name in os.listdir(each.litefs_dir) if name.startswith("copy.db")]

        send(ltx(3, FLAG, len(pages), pages, post), (2, FLAG), (3, post))
        assert cluster.wait_converged("copy.db") == (3, post)
        assert readable() == ["1", "1"]


# ---------------------------------------------------------------- /events

class Events:
    """The stream of a node, an object at a time."""

    def __init__(self, node):
        self.conn = connect(node, 30)
        self.conn.request("GET", "/events")
        self.response = self.conn.getresponse()

    def next(self, wanted):
        while True:
            line = self.response.readline()
            if not line:
                raise AssertionError(f"the stream has ended before {wanted}")
            event = json.loads(line)
            if event["type"] == wanted:
                return event

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.conn.close()


def test_events__init_and_tx__one_json_object_a_line():
    with Cluster(n=2, litefwd=False) as cluster:
        make_db(cluster)
        with Events(cluster.primary) as on_primary, Events(cluster.replicas[0]) as on_replica:
            assert on_primary.next("init")["data"] == {"isPrimary": True}
            assert on_replica.next("init")["data"] == {"isPrimary": False, "hostname": cluster.primary.hostname}
            cluster.sql_direct(cluster.primary, DB, "INSERT INTO t VALUES(2)")
            txid, checksum = cluster.wait_converged(DB)
            for stream in (on_primary, on_replica):
                event = stream.next("tx")
                assert event["db"] == DB
                assert event["data"]["txID"] == f"{txid:016x}"
                assert event["data"]["postApplyChecksum"] == f"{checksum:016x}"


def test_events__primary_dies_and_returns__hostname_goes_and_comes():
    with Cluster(n=2, litefwd=False) as cluster:
        with Events(cluster.replicas[0]) as events:
            events.next("init")
            cluster.primary.kill_litefs()
            while events.next("primaryChange")["data"] != {"isPrimary": False}:
                pass
            cluster.primary.start_litefs()
            while events.next("primaryChange")["data"] != {"isPrimary": False, "hostname": cluster.primary.hostname}:
                pass


# ---------------------------------------------------------------- files and locks

def test_shm__on_a_replica__made_when_a_transaction_is_applied():
    with Cluster(n=2, litefwd=False) as cluster:
        make_db(cluster)
        cluster.sql_direct(cluster.primary, DB, "INSERT INTO t VALUES(2)")
        cluster.wait_converged(DB)
        replica = cluster.replicas[0]
        shm = os.path.join(replica.data_dir, "dbs", DB, "shm")
        wait_until("-shm is there", lambda: os.path.getsize(shm) >= 136)
        with open(shm, "rb") as file:
            head = file.read(136)
        assert head[:48] == head[48:96]
        assert struct.unpack("=I", head[16:20])[0] == 0  # mxFrame
        wal = os.path.join(replica.data_dir, "dbs", DB, "wal")
        assert not os.path.exists(wal) or os.path.getsize(wal) == 0


HOLDER = r"""
import fcntl, os, struct, sys, time
path, kind = sys.argv[1], sys.argv[2]
F_OFD_SETLK = 37
def lock(fd, type, start, length):
    command = F_OFD_SETLK if kind == "ofd" else fcntl.F_SETLK
    fcntl.fcntl(fd, command, struct.pack("hhqqi4x", type, os.SEEK_SET, start, length, 0))
# -shm first: at death WRITE is freed before SHARED, which keeps -wal from being unlinked.
shm = os.open(path + "-shm", os.O_RDWR | os.O_CREAT, 0o644)
db = os.open(path, os.O_RDWR)
wal = os.open(path + "-wal", os.O_RDWR | os.O_CREAT, 0o644)
lock(db, fcntl.F_RDLCK, 0x40000002, 510)  # SHARED
if kind == "posix-write":
    lock(shm, fcntl.F_WRLCK, 120, 1)  # WRITE
else:
    lock(shm, fcntl.F_RDLCK, 123, 1)  # READ0
print("held", flush=True)
time.sleep(600)
"""


def hold(cluster, kind):
    """A child that holds locks on LiteFS' own files; killed by the caller."""
    import subprocess
    child = cluster.spawn([sys.executable, "-c", HOLDER, cluster.primary.direct_path(DB), kind], stdout=subprocess.PIPE, name="holder")
    assert child.stdout.readline() == b"held\n"
    return child


def test_locks__posix__hold_off_halt_and_are_freed_by_kill_9():
    with alone() as cluster:
        make_db(cluster)
        for kind in ("posix-read", "posix-write"):
            child = hold(cluster, kind)
            assert not granted(cluster.primary, 5, 0.5)
            child.send_signal(signal.SIGKILL)
            child.wait()
            assert granted(cluster.primary, 6, 5)
        assert cluster.shell(cluster.primary.direct_path(DB), "INSERT INTO t VALUES(2); SELECT count(*) FROM t").strip() == "2"


def test_locks__ofd__never_freed_after_kill_9():
    """Why litefwd takes POSIX locks only."""
    with alone() as cluster:
        make_db(cluster)
        child = hold(cluster, "ofd")
        assert not granted(cluster.primary, 5, 0.5)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not granted(cluster.primary, 6, 3)
        cluster.primary.kill_litefs()  # only that helps
        cluster.primary.start_litefs()
        assert granted(cluster.primary, 7, 5)


def test_litefs_wal__write_released_with_an_empty_wal__harmless():
    """Danger 9, from its safe side: LiteFS commits its WAL when WRITE is released, and there is nothing to commit."""
    with alone() as cluster:
        pos = make_db(cluster)
        child = hold(cluster, "posix-write")
        assert os.path.exists(cluster.primary.direct_path(DB) + "-wal")
        child.send_signal(signal.SIGTERM)
        child.wait()
        assert granted(cluster.primary, 5, 5)
        assert cluster.primary.pos(DB) == pos
