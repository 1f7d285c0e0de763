"""docs/monitoring.md, done: each of its commands is run, and a real Prometheus scrapes two nodes with its configuration, the rules and the dashboard."""
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request

from cluster import HERE, Cluster, HarnessError, Port, is_mounted, slow_factor, unmount, wait_until
from marks import bound, note
from test_dangers import DB, create, insert_until_ok

sys.path.insert(0, os.path.join(os.path.dirname(HERE), "monitoring"))
import monitoring  # noqa: E402

OF_GATEWAYS = {"litefwd_gateway_sessions", "litefwd_gateway_answers_total"}


def fetch(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20 * slow_factor()) as answer:
        return answer.read().decode()


def promtool(cluster, *argv, text=None):
    code, out, err = cluster.run(["promtool", *argv], check=False, input=text)
    assert code == 0 and not err.strip(), f"promtool {' '.join(argv)}: exit {code}\n{out}{err}"


def localized(cluster, node, text):
    """A piece of the page, for this node: paths and addresses as they are here."""
    address = f"{node.address}:{cluster.metrics_port.number}"
    for there, here in (("litefs_config=/etc/litefs.yml", node.litefwd_options(metrics=None)), ("127.0.0.1:20204", address),
                        ("/usr/share/litefwd/prometheus", os.path.dirname(monitoring.RULES))):
        text = text.replace(there, here)
    text = re.sub(r"(?<=[ '])/data\b", node.mount, text)
    return re.sub(r"(?<=[ '])/litefs\b", node.litefs_dir, text)


def run_documented(cluster, node, line):
    """One command; --watch, which does not end by itself, until it has said something."""
    command = localized(cluster, node, line)
    env = dict(os.environ, PATH=os.path.join(cluster.base, "bin") + ":" + os.environ["PATH"])
    if "--watch" not in command:
        child = subprocess.run(["sh", "-c", command], env=env, capture_output=True, timeout=60 * slow_factor(), stdin=subprocess.DEVNULL)
        assert child.returncode == 0, f"{command}: exit {child.returncode}\n{child.stdout.decode()}{child.stderr.decode()}"
        return child.stdout.decode()
    with subprocess.Popen(["sh", "-c", "exec " + command], env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as child:
        said = child.stdout.readline().decode() + child.stdout.readline().decode()
        child.terminate()
        assert child.wait(20 * slow_factor()) == 0, f"{command} ended with {child.returncode}"
    return said


@bound(120)
def test_documented_commands__each_of_them__works():
    cluster = Cluster(n=1, metrics=True)
    cluster.with_litefwd = False
    with cluster:
        node = cluster.primary
        cluster.sql_direct(node, DB, "PRAGMA journal_mode = wal; CREATE TABLE t(x)")
        os.mkdir(os.path.join(cluster.base, "bin"))
        os.symlink(cluster.litefwd_binary, os.path.join(cluster.base, "bin", "litefwd"))
        lines = [line for block in monitoring.docs_blocks("sh") for line in block.splitlines()]
        mounts = [line for line in lines if line.startswith("litefwd -o ")]
        assert len(mounts) == 1 and len(lines) >= 9, lines
        try:
            said = {}
            run_documented(cluster, node, mounts[0])  # a daemon: what the others look at
            assert is_mounted(node.mount)
            cluster.shell(os.path.join(node.mount, DB), "INSERT INTO t VALUES (1)")
            for line in lines:
                if line != mounts[0]:
                    said[line] = run_documented(cluster, node, line)
            assert all(said.values()), f"said nothing: {said}"
            # The same, wherever one looks.
            file = json.loads(said["cat /data/.litefwd"])
            assert file.keys() == json.loads(said["litefwd status --json /data"]).keys()
            assert file["health"]["state"] == "well" and file["databases"][DB]["transactions"]["self"]["committed"] == 1
            assert said["litefwd status /data"].startswith(f"{node.mount}: well\n")
            assert said["litefwd status --watch /data"].startswith(f"{node.mount}: well\n")
            assert said["curl -s http://127.0.0.1:20204/healthz"] == "well\n"
            promtool(cluster, "check", "metrics", text=said["curl -s http://127.0.0.1:20204/metrics"])
        finally:
            unmount(node.mount)


class Prometheus:
    def __init__(self, cluster, config):
        self.port = Port(["127.0.0.1"])
        self.url = f"http://127.0.0.1:{self.port.number}"
        self.log = os.path.join(cluster.logs, "prometheus.log")
        self.process = cluster.spawn(["prometheus", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{self.port.number}",
                                      f"--storage.tsdb.path={os.path.join(cluster.base, 'tsdb')}", "--log.level=warn"], log=self.log)
        wait_until("Prometheus is ready or has ended", lambda: self.process.poll() is not None or fetch(self.url + "/-/ready"), 60, every=0.1)
        if self.process.poll() is not None:
            with open(self.log, encoding="utf-8") as log:
                raise HarnessError("Prometheus does not start:\n" + log.read()[-2000:])

    def get(self, path, **query):
        answer = json.loads(fetch(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expr):
        return self.get("query", query=expr)["result"]

    def close(self):
        self.process.terminate()
        self.process.wait(20 * slow_factor())
        self.port.close()


def write_config(cluster):
    """The page's, with these nodes as targets, and scraped and evaluated more often."""
    (config,) = monitoring.docs_blocks("yaml")
    targets = "".join(f"          - {node.address}:{cluster.metrics_port.number}\n" for node in cluster.nodes)
    config = config.replace("          - 127.0.0.1:20204\n", targets)
    config = config.replace("/usr/share/litefwd/prometheus/", os.path.dirname(monitoring.RULES) + "/")
    config = config.replace("scrape_interval: 15s", "scrape_interval: 500ms\n  scrape_timeout: 500ms\n  evaluation_interval: 500ms")
    path = os.path.join(cluster.base, "prometheus.yml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(config)
    promtool(cluster, "check", "config", path)
    return path


@bound(180)
def test_real_prometheus__two_nodes__metrics_rules_and_dashboard_work():
    with Cluster(n=2, gateway=True, metrics=True) as cluster:
        create(cluster)
        prometheus = Prometheus(cluster, write_config(cluster))
        try:
            for node in cluster.nodes:
                insert_until_ok(node, f"by n{node.index}")
            seen = {}
            for node in cluster.nodes:
                page = fetch(node.metrics_url + "/metrics")
                promtool(cluster, "check", "metrics", text=page)
                for name, labels in monitoring.scraped(page).items():
                    seen.setdefault(name, set()).update(labels)
            # What is documented is there, with its labels, and nothing else is.
            assert seen == monitoring.docs_metrics(), compare(seen, monitoring.docs_metrics())

            wait_until("both are scraped", lambda: len(prometheus.query('up{job="litefwd"} == 1')) == 2, 60, every=0.2)
            stored = wait_until("Prometheus has each metric", lambda: names_stored(prometheus) >= set(seen) and names_stored(prometheus), 60, 0.2)
            for title, expr in monitoring.dashboard_expressions():
                prometheus.query(expr)  # an error, if it is none
                missing = monitoring.names_in(expr) - stored
                assert not missing, f"dashboard, {title}: {missing} are not scraped"
            rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
            assert {rule["name"] for rule in rules if rule["type"] == "alerting"} == set(monitoring.alerts())
            wait_until("each rule was evaluated", lambda: all(rule["health"] == "ok" for group in prometheus.get("rules")["groups"]
                                                              for rule in group["rules"]), 60, every=0.2)
            wait_until("the recording rules have values", lambda: len(prometheus.query("litefwd:lag_transactions")) == 2, 60, every=0.2)

            def committed(upstream):
                found = prometheus.query(f'sum(litefwd_transactions_total{{outcome="committed", upstream="{upstream}", db="{DB}"}})')
                return found and float(found[0]["value"][1])
            wait_until("the replica's commit is counted on both sides", lambda: committed("gateway") == committed("served") == 1, 60, every=0.2)

            replica = cluster.replicas[0]
            assert replica.stop_litefwd() == 0
            instance = f"{replica.address}:{cluster.metrics_port.number}"
            wait_until("the alert waits for its minute", lambda: prometheus.query(f'ALERTS{{alertname="LitefwdDown", instance="{instance}"}}'), 60, every=0.2)
            note(f"{len(stored)} series' names stored, {len(rules)} rules, {len(monitoring.dashboard_expressions())} expressions of the dashboard")
        finally:
            prometheus.close()


def names_stored(prometheus):
    return monitoring.names_in("\n".join(prometheus.get("label/__name__/values")))


def compare(seen, documented):
    return (f"not documented: {sorted(set(seen) - set(documented))}; not there: {sorted(set(documented) - set(seen))}; labels differ: "
            f"{[(name, seen[name], documented[name]) for name in set(seen) & set(documented) if seen[name] != documented[name]]}")


@bound(120)
def test_metrics_address_taken__mount__fails_with_what_to_do():
    with Cluster(n=1, metrics=True) as cluster:
        node = cluster.primary
        assert node.stop_litefwd() == 0
        other = shutil.which("python3")
        squatter = cluster.spawn([other, "-c", "import socket, sys, time; s = socket.socket(); s.setsockopt(1, 2, 1);"
                                  f"s.bind(('{node.address}', {cluster.metrics_port.number})); s.listen(); print('ready', flush=True); time.sleep(600)"],
                                 stdout=subprocess.PIPE, name="squatter")
        assert squatter.stdout.readline() == b"ready\n"
        begin = time.monotonic()
        code, _, err = cluster.run(node.litefwd_argv(), timeout=40, check=False)
        assert code == 1 and "metrics_bind" in err and "another program has this port" in err, (code, err)
        assert not is_mounted(node.mount) and time.monotonic() - begin < 20 * slow_factor()
