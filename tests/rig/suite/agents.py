"""The TrustUsBank agents and their clients as Kubernetes objects, the image they run from, and how clients ask.

Owns names and shapes: a stub and an agent look as kagent's controller makes them.
"""

import hashlib
import json
import shutil
import sys
import tempfile
import time
import uuid
from pathlib import Path

from .cluster import Failure, eventually, here, run

NAMESPACE = "trustusbank-bank-agents"
IMAGE = "localhost/adit-test/agent:1"
PORT = 8080
AGENT_KIND = "agents.kagent.dev"
# On a definition that is the tests' own.
OF_TEST = "adit-test"
# Where the base image's Python finds its wheels.
PLATFORMS = ["manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64"]


def url(name: str) -> str:
    """A client as kagent's callers use it."""
    return f"http://{name}.{NAMESPACE}:{PORT}"


def labels(name: str) -> dict:
    return {"app": "kagent", "kagent": name, "app.kubernetes.io/managed-by": "kagent", "app.kubernetes.io/name": name}


def thing(api, kind, name, **fields):
    meta = {"name": name, "namespace": NAMESPACE} | fields.pop("meta", {})
    return {"apiVersion": api, "kind": kind, "metadata": meta, **fields}


def service(name, **meta):
    spec = {
        "selector": {"app": "kagent", "kagent": name},
        "ports": [{"name": "http", "port": PORT, "targetPort": PORT, "appProtocol": "kgateway.dev/a2a"}],
    }
    return thing("v1", "Service", name, meta={"labels": labels(name)} | meta, spec=spec)


def deployment(name, replicas, command, image=IMAGE, probe=True):
    container = {
        # Standard input stays open: an agent of tests/e2e ends with it.
        "name": "kagent", "image": image, "imagePullPolicy": "IfNotPresent", "command": command, "stdin": True,
        "ports": [{"name": "http", "containerPort": PORT}],
    }
    if probe:
        container["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
    apart = [{
        "weight": 1,
        "podAffinityTerm": {
            "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"kagent": name}},
        },
    }]
    pod = {
        "serviceAccountName": name, "terminationGracePeriodSeconds": 5, "containers": [container],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": apart}},
        # A killed node's pods go elsewhere while the test still looks.
        "tolerations": [
            {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for key in ("not-ready", "unreachable")
        ],
    }
    selector = {"app": "kagent", "kagent": name}
    return thing("apps/v1", "Deployment", name, meta={"labels": labels(name)}, spec={
        "replicas": replicas, "selector": {"matchLabels": selector},
        "template": {"metadata": {"labels": labels(name)}, "spec": pod},
    })


def account(name):
    return thing("v1", "ServiceAccount", name)


def namespace():
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def agent(name, replicas=1):
    """A real agent, whose card says the name by which kagent's callers know it."""
    where = f"{name}.{NAMESPACE}:{PORT}"
    command = ["python3", "/app/bank.py", "--listen", "0.0.0.0", "--port", str(PORT), "--advertise-http", where]
    return [account(name), service(name), deployment(name, replicas, command)]


def stub(cluster, name, **spec):
    """The Service and object that stand for a remote agent, made as kagent's controller does for an Agent without replicas."""
    given = {"type": "BYO", "description": name, "byo": {"deployment": {"image": "none", "replicas": 0}}}
    cluster.create(thing("kagent.dev/v1alpha2", "Agent", name, spec=given), account(name))
    filled = stub_service(cluster, name)
    filled["spec"] |= spec
    cluster.create(deployment(name, 0, ["/pause"], image="localhost/rig/pause:1", probe=False), filled)


def stub_service(cluster, name):
    """The Service of a stub: it selects nothing, and its Agent owns it."""
    uid = cluster.get(AGENT_KIND, "-n", NAMESPACE, name)["metadata"]["uid"]
    owner = {"apiVersion": "kagent.dev/v1alpha2", "kind": "Agent", "name": name, "uid": uid, "controller": True}
    return service(name, ownerReferences=[owner])


def open_service(name):
    """A Service without a selector, which waits for somebody to fill it."""
    made = service(name)
    del made["spec"]["selector"]
    return made


def define_agents(cluster):
    """Makes kagent's kind known, where it is not."""
    if not cluster.names("crd", AGENT_KIND, "--ignore-not-found"):
        cluster.create(agent_definition())
        cluster.wait(None, f"crd/{AGENT_KIND}", "Established")


def agent_definition():
    """kagent's kind, as far as anybody here looks at it."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha2", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": AGENT_KIND, "labels": {OF_TEST: "yes"}},
        "spec": {
            "group": "kagent.dev", "scope": "Namespaced", "versions": [version],
            "names": {"plural": "agents", "singular": "agent", "kind": "Agent", "listKind": "AgentList"},
        },
    }


def webhook():
    """A pod that is told of by notifications, and shows what it was told."""
    return [account("webhook"), service("webhook"), deployment("webhook", 1, ["python3", "/app/webhook.py"])]


def client(name):
    """A pod that waits for what the suite has it do."""
    spec = {
        "serviceAccountName": name, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "client", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"]}],
    }
    return [account(name), thing("v1", "Pod", name, spec=spec)]


def build(rig) -> Path:
    """The archive of the agents' image."""
    pins = here("tests/e2e/python-1/requirements.txt")
    cache = Path.home() / ".cache/adit-e2e" / ("rig-" + hashlib.sha256(pins.read_bytes()).hexdigest()[:16])
    if not (cache / ".finished").exists():
        shutil.rmtree(cache, ignore_errors=True)
        options = [word for platform in PLATFORMS for word in ("--platform", platform)]
        options += ["--python-version", "3.11", "--only-binary", ":all:", "--target", cache / "site"]
        run(sys.executable, "-m", "pip", "install", "--quiet", *options, "-r", pins)
        (cache / ".finished").touch()
    rig("python-base")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(cache / "site", f"{folder}/site", copy_function=shutil.copy)
        programs = [pins.parent / "agent.py", pins.parent / "client.py", *here("tests/rig/agent").glob("*.py")]
        for program in programs:
            shutil.copy(program, folder)
        base = "BASE=localhost/rig/python:3.11"
        return rig("build", IMAGE, folder, "-f", here("tests/rig/agent/Dockerfile"), "--build-arg", base).strip()


# Asking.


def fetch(cluster, pod="support-bot", name="fraud-bot", seconds=60) -> dict:
    """A request for an agent's card over a new connection: {"body"} or {"error"}, and {"seconds"}."""
    card = url(name) + "/.well-known/agent-card.json"
    return json.loads(cluster.exec(NAMESPACE, pod, "python3", "/app/steady.py", card, seconds=seconds))


def served(cluster, **who) -> dict:
    """An answer, or a Failure."""
    result = fetch(cluster, **who)
    if "error" in result:
        raise Failure(f"{who.get('pod', 'support-bot')}: {result['error']} after {result['seconds']} s")
    return result


def refused(cluster, **who) -> dict:
    """A refusal, or a Failure."""
    result = fetch(cluster, **who)
    if "body" in result:
        raise Failure(f"{who.get('pod', 'support-bot')} got an answer: {result['body'][:100]}")
    return result


def crowd(cluster, count, pod="support-bot", name="fraud-bot") -> dict:
    """So many callers at once: {"ends": how many of each kind, "slowest": seconds}."""
    # By address: a thousand questions to DNS are another test.
    address = cluster.get("service", "-n", NAMESPACE, name)["spec"]["clusterIP"]
    return json.loads(cluster.exec(NAMESPACE, pod, "python3", "/app/crowd.py", address, PORT, count))


def converse(cluster, exchange, params, pod="support-bot", name="fraud-bot") -> dict:
    """An exchange of the SDK's client: its transcript."""
    given = json.dumps({"binding": "JSONRPC"} | params)
    return json.loads(cluster.exec(NAMESPACE, pod, "python3", "/app/client.py", url(name), exchange, given))


class Steady:
    """A client that asks all the while, in its pod, so that it does not depend on any API server.

    With the Service's address as `host` it does not depend on DNS either.
    """

    def __init__(self, cluster, pod="support-bot", name="fraud-bot", pause=0.1, host=None):
        self.cluster, self.pod, self.file = cluster, pod, f"/tmp/{uuid.uuid4().hex}"
        card = (f"http://{host}:{PORT}" if host else url(name)) + "/.well-known/agent-card.json"
        self.start = f"nohup python3 /app/steady.py {card} {self.file} {pause} >/dev/null 2>&1 &"

    def __enter__(self):
        self.cluster.exec(NAMESPACE, self.pod, "sh", "-c", self.start)
        time.sleep(1)
        return self

    def __exit__(self, kind, *_):
        if kind:
            self.cluster.exec(NAMESPACE, self.pod, "touch", self.file + ".stop", check=False)
            return
        self.cluster.exec(NAMESPACE, self.pod, "touch", self.file + ".stop")
        read = eventually("the client has stopped", lambda: self.cluster.exec(NAMESPACE, self.pod, "cat", self.file + ".json"))
        seen = json.loads(read)
        self.asked, self.slowest, self.failures = seen["asked"], seen["slowest"], seen["failures"]

    def say(self) -> str:
        kinds = {}
        for failure in self.failures:
            kinds[failure["error"]] = kinds.get(failure["error"], 0) + 1
        return f"{self.asked} requests, {len(self.failures)} failed{' ' + str(kinds) if kinds else ''}, slowest {self.slowest:.2f} s"


class Load:
    """Many callers in one pod: RATE new requests a second, and streams that stay open meanwhile."""

    RATE, STREAMS = 50, 20

    def __init__(self, cluster, pod="support-bot", name="fraud-bot"):
        self.cluster, self.pod, self.file = cluster, pod, f"/tmp/{uuid.uuid4().hex}"
        where = f"{name}.{NAMESPACE} {PORT} {self.file} {self.RATE} {self.STREAMS}"
        self.start = f"nohup python3 /app/load.py {where} >{self.file}.log 2>&1 &"

    def __enter__(self):
        self.cluster.exec(NAMESPACE, self.pod, "sh", "-c", self.start)
        time.sleep(5)
        return self

    def __exit__(self, kind, *_):
        self.cluster.exec(NAMESPACE, self.pod, "touch", self.file + ".stop", check=False)
        if kind:
            return
        read = eventually("the load has stopped", lambda: self.cluster.exec(NAMESPACE, self.pod, "cat", self.file + ".json"))
        self.seen = json.loads(read)

    def say(self) -> str:
        seen, kinds = self.seen, {}
        for failure in seen["failures"]:
            kinds[failure["error"]] = kinds.get(failure["error"], 0) + 1
        slowest = seen["slowest"][-1][0] if seen["slowest"] else 0
        return (
            f"{seen['asked']} new requests, {len(seen['failures'])} failed{' ' + str(kinds) if kinds else ''}, "
            f"slowest {slowest:.2f} s, {seen['slow']} over 1 s; {seen['alive']} of {seen['streams']} streams live on"
        )
