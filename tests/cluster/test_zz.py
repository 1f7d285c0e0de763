from cluster import Cluster
import time, json, os
def test_first():
    with Cluster(n=3, gateway=True) as cluster:
        p, a, b = cluster.nodes
        cluster.sql(p, "app.db", "PRAGMA journal_mode=wal; CREATE TABLE t(x)") if hasattr(cluster,"sql") else None
        with a.conn("app.db") as ca, p.conn("app.db") as cp, b.conn("app.db") as cb:
            cp("PRAGMA journal_mode=wal"); cp("CREATE TABLE IF NOT EXISTS t(x)"); cluster.wait_converged("app.db")
            for i in range(5):
                ca("INSERT INTO t VALUES('a')")
                print(cp("SELECT count(*) FROM t"), cb("SELECT count(*) FROM t"))
                cb("INSERT INTO t VALUES('b')")
                cp("INSERT INTO t VALUES('p')")
                print(cp("SELECT count(*) FROM t"), cb("SELECT count(*) FROM t"), ca("SELECT count(*) FROM t"))
            cluster.wait_converged("app.db")
            pass
            for n in cluster.nodes:
                print(open(n.mount+"/.litefwd").read()[:6000])
                print(ca("PRAGMA integrity_check"), cp("PRAGMA integrity_check"))
            raise SystemExit("show")
