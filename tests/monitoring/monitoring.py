"""What rules, dashboard and docs/monitoring.md say, for the tests that compare them with each other and with a live scrape.

    monitoring.py alerts | dashboard-rules | metrics-of rules | metrics-of dashboard | metrics-of docs

Prints lines. It parses what it has to and nothing more: promtool says whether an expression is one.
"""
import json
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RULES = os.path.join(TOP, "packaging", "prometheus", "litefwd.rules.yml")
DASHBOARD = os.path.join(TOP, "packaging", "grafana", "litefwd.json")
DOCS = os.path.join(TOP, "docs", "monitoring.md")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def alerts():
    return re.findall(r"^ *- alert: (\w+)$", read(RULES), re.M)


def panels():
    dashboard = json.loads(read(DASHBOARD))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def dashboard_expressions():
    """[(panel's title, PromQL)], Grafana's variables filled in."""
    found = []
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "5m")
            found.append((panel["title"], re.sub(r"\$\w+", ".*", expr)))
    return found


def dashboard_rules():
    """As a rules file: promtool parses each expression of one."""
    groups = {"groups": [{"name": "dashboard", "rules": [
        {"record": f"dashboard:panel:{index}", "expr": expr} for index, (_, expr) in enumerate(dashboard_expressions())]}]}
    return json.dumps(groups)  # JSON is YAML


def names_in(text):
    """Metrics, of a histogram the name without suffix; "litefwd:..." are recording rules."""
    names = set(re.findall(r"\b(litefwd_[a-z0-9_]+)\b", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def rule_metrics():
    text = re.sub(r"^ *(summary|description|- name|#).*$", "", read(RULES), flags=re.M)
    return names_in(re.sub(r"#.*", "", text))


def dashboard_metrics():
    return names_in("\n".join(expr for _, expr in dashboard_expressions()))


def docs_metrics():
    """{name: set of labels}, of the table."""
    rows = re.findall(r"^\| `(litefwd_\w+)` \|([^|]*)\|", read(DOCS), re.M)
    assert len(rows) == len({name for name, _ in rows}), "a metric stands twice in docs/monitoring.md"
    return {name: {label for label in re.split(r"[, ]+", labels) if label} for name, labels in rows}


def docs_blocks(language):
    """Contents of the fenced blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(DOCS), re.M | re.S)


def scraped(text):
    """{name: set of labels} of a page of /metrics, histograms without suffix and le."""
    found, types = {}, dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.M):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        base = base if types.get(base) == "histogram" else name
        assert base in types, f"{name} has no TYPE"
        found.setdefault(base, set()).update(set(re.findall(r'(\w+)="', labels)) - {"le"})
    return found


def main():
    command = sys.argv[1:]
    if command == ["alerts"]:
        print("\n".join(alerts()))
    elif command == ["dashboard-rules"]:
        print(dashboard_rules())
    elif len(command) == 2 and command[0] == "metrics-of":
        names = {"rules": rule_metrics, "dashboard": dashboard_metrics, "docs": docs_metrics}[command[1]]()
        print("\n".join(sorted(names)))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
