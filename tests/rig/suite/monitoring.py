"""Who may read the metrics of nodes, and what a real Prometheus makes of them with the alerts and dashboards that ship."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from . import agents, scenario
from .agents import NAMESPACE, converse, refused, served
from .cluster import Failure, Skip, check, eventually, here, run
from .faults import configure
from .world import SYSTEM

LABELLED = "adit-test-monitoring"
MONITORING = here("daemonset/monitoring")
# Prints what came, or how it ended.
FETCH = (
    "import sys, urllib.request as u\n"
    "try: print(u.urlopen(f'http://{sys.argv[1]}/metrics', timeout=10).read().decode())\n"
    "except Exception as error: print('ENDED', getattr(error, 'reason', error))"
)


def addresses(cluster):
    """Of each node, by name."""
    found = cluster.get("nodes")
    return {
        one["metadata"]["name"]: next(a["address"] for a in one["status"]["addresses"] if a["type"] == "InternalIP") for one in found
    }


def page(cluster, namespace, pod, at) -> str:
    return cluster.exec(namespace, pod, "python3", "-c", FETCH, at)


def scraped(world):
    """A pod of a labelled namespace reads every node of its cluster; pods of others, the other cluster and the LAN get nothing."""
    bank, nodes = world.bank, addresses(world.bank)
    bank.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LABELLED, "labels": {"adit.dev/metrics": "true"}}})
    try:
        reader = pod_in(bank, LABELLED, "prometheus")
        for node, address in nodes.items():
            text = eventually(f"{node} is read", lambda: whole(page(bank, LABELLED, reader, f"{address}:7844")), 15)
            check(f'adit_link_up{{link="edge"}} 1' in text, text[:500])
        # Where the network rewrites addresses, a pod of another node looks like that node (`nodes`).
        stranger = next(one for one in bank.get("pods", "-n", NAMESPACE, "-l", "kagent=fraud-bot"))
        name, own = stranger["metadata"]["name"], stranger["spec"]["nodeName"]
        said = page(bank, NAMESPACE, name, f"{nodes[own]}:7844")
        check(said.startswith("ENDED"), f"a pod without the label reads its node: {said[:200]}")
        outside = []
        if world.rig_program:
            for where in (["ip", "netns", "exec", "rig-edge-1"], []):
                done = run(*where, "curl", "-sS", "-m", "5", f"http://{nodes[own]}:7844/metrics", check=False)
                check(done.returncode in (52, 56) and not done.stdout, f"{where or 'the LAN'}: {done.returncode} {done.stdout[:200]}")
                outside.append(done.stderr.strip())
        bank.kubectl("label", "namespace", LABELLED, "adit.dev/metrics-")
        fresh = pod_in(bank, LABELLED, "later", own)
        late = page(bank, LABELLED, fresh, f"{nodes[own]}:7844")
        check(late.startswith("ENDED"), f"the label was taken back: {late[:200]}")
        counted = counter(world, own, "adit_metrics_readers_refused_total") if world.rig_program else "unknown"
        check(counted == "unknown" or float(counted) >= 4, f"{counted} were counted")
    finally:
        bank.delete("namespace", LABELLED)
    return f"{len(nodes)} nodes read; others: {said.strip()}; outside: {outside}; {counted} counted"


def pod_in(cluster, namespace, name, node=None):
    """A pod that waits, in a namespace of its own."""
    _, made = agents.client(name)
    made["metadata"]["namespace"] = namespace
    made["spec"]["serviceAccountName"] = "default"
    if node:
        made["spec"]["nodeName"] = node
    # The account comes a moment after its namespace.
    eventually("the pod is taken", lambda: cluster.create(made) or True)
    cluster.wait(namespace, f"pod/{name}")
    return name


def whole(text):
    if text.startswith("ENDED"):
        raise Failure(text)
    return text


def counter(world, node, name):
    text = world.on(node, "curl", "-s", "http://127.0.0.1:7844/metrics")
    return next(line for line in text.splitlines() if line.startswith(name + " ")).split()[1]


class Prometheus:
    """A real one beside a cluster's nodes, in the network of the first; it waits for seconds where the alerts that ship wait for minutes."""

    PORT = 19090

    def __init__(self, world, cluster, program):
        self.cluster, self.folder = cluster, tempfile.TemporaryDirectory()
        nodes = addresses(cluster)
        self.netns = ["ip", "netns", "exec", f"rig-{min(nodes)}"]
        controllers = cluster.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=adit-controller")
        jobs = {
            "adit-node": {f"{address}:7844": node for node, address in nodes.items()},
            "adit-controller": {f"{one['status']['podIP']}:7845": one["metadata"]["name"] for one in controllers},
        }
        rules = re.sub(r"for: \d+[mh]", "for: 2s", (MONITORING / "rules.yaml").read_text())
        Path(self.folder.name, "rules.yaml").write_text(rules)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [at], "labels": {"instance": name}} for at, name in targets.items()]}
                for job, targets in jobs.items()
            ],
        }
        # JSON is YAML.
        file = Path(self.folder.name, "prometheus.yaml")
        file.write_text(json.dumps(config))
        self.process = subprocess.Popen(
            [*self.netns, program, f"--config.file={file}", f"--storage.tsdb.path={self.folder.name}/data", f"--web.listen-address=127.0.0.1:{self.PORT}"],
            stdout=open(f"{self.folder.name}/log", "w"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.folder.cleanup()

    def query(self, expr):
        """The samples, or a Failure."""
        done = run(*self.netns, "curl", "-sS", "-m", "10", f"http://127.0.0.1:{self.PORT}/api/v1/query", "--data-urlencode", f"query={expr}", check=False)
        if done.returncode:
            raise Failure(f"Prometheus: {done.stderr}{Path(self.folder.name, 'log').read_text()[-1500:]}")
        answer = json.loads(done.stdout)
        check(answer["status"] == "success", f"{expr}: {answer}")
        return answer["data"]["result"]

    def firing(self):
        return {one["metric"]["alertname"] for one in self.query('ALERTS{alertstate="firing"}')}

    def fires(self, alert, seconds=45):
        eventually(f"{alert} fires on {self.cluster.name}", lambda: alert in self.firing(), seconds, 1)
        return alert

    def silent(self, *alerts):
        eventually(f"{alerts} are silent on {self.cluster.name}", lambda: not self.firing() & set(alerts), 90, 1)


def queries():
    """Those of every panel, by where they are."""
    for file in sorted((MONITORING / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                expr = target["expr"].replace("$__rate_interval", "20s")
                yield f"{file.stem}: {panel['title']}", re.sub(r'"\$\w+"', '".+"', expr)


def monitored(world):
    """A real Prometheus of each cluster: every query of every dashboard finds something, and alerts come and go with what is wrong."""
    program = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
    if not program:
        raise Skip("no prometheus here (Debian: package prometheus; PROMETHEUS names the program)")
    if not world.rig_program:
        raise Skip("Prometheus runs on the rig's machines")
    with Prometheus(world, world.edge, program) as edge, Prometheus(world, world.bank, program) as bank:
        eventually("all are scraped", lambda: all(min_up(one) for one in (edge, bank)), 60, 1)
        for _ in range(10):
            served(world.edge)
            refused(world.edge, pod="stranger")
        converse(world.edge, "send", {"text": "echo hello"})
        said = [edge.fires("AditCallersRefused")]
        time.sleep(5)
        # Edge exports nothing, and bank imports nothing; what is shown only where it is more than 0 may be absent.
        finds = lambda expr: "> 0" in expr or any(one.query(expr) for one in (edge, bank))
        panels = list(queries())
        empty = [(where, expr) for where, expr in panels if not finds(expr)]
        quiet = edge.firing() | bank.firing()
        check(quiet <= {"AditCallersRefused"}, f"fires though all is well: {quiet}")
        said += break_things(world, edge, bank)
        # Connections that end are counted once one has.
        still = [f"{where}: {expr}" for where, expr in empty if not finds(expr.replace("[20s]", "[2m]"))]
        check(not still, "no data:\n" + "\n".join(still))
    return f"{len(panels)} queries have data; fired in their faults, and all but the first silent after: {', '.join(said)}"


def min_up(prometheus):
    found = [float(one["value"][1]) for one in prometheus.query("up")]
    return len(found) >= 2 and all(found)


def break_things(world, edge, bank):
    """Faults one by one, each until it is mended and told no more."""
    said = []
    world.bank.scale(NAMESPACE, "fraud-bot", 0)
    said += [bank.fires("AditExportNotReady"), edge.fires("AditImportNotReady")]
    world.bank.scale(NAMESPACE, "fraud-bot", 2)
    world.bank.rolled_out(NAMESPACE, "deployment/fraud-bot")
    bank.silent("AditExportNotReady")
    edge.silent("AditImportNotReady")
    configure(world.bank, "zz-test.yaml", "exports:\n  - service: nowhere\n    alow: []\n")
    said.append(bank.fires("AditConfigRejected"))
    configure(world.bank, "zz-test.yaml", None)
    bank.silent("AditConfigRejected")
    world.bank.scale(SYSTEM, "adit-controller", 0)
    said.append(bank.fires("AditNoActiveController"))
    world.bank.scale(SYSTEM, "adit-controller", 2)
    world.bank.rolled_out(SYSTEM, "deployment/adit-controller")
    world.rig("wan", "--cut")
    try:
        said += [edge.fires("AditLinkDown"), bank.fires("AditLinkDown")]
    finally:
        world.rig("wan")
    edge.silent("AditLinkDown", "AditImportNotReady")
    bank.silent("AditLinkDown")
    eventually("it is served again", lambda: served(world.edge))
    scenario.restore(world)
    return said
