"""Seeding and mending each fault of the table.

A fault of one Service has a Service of its own, so that several can be seeded beside each other.
"""

import contextlib
import json
import tempfile
from pathlib import Path

from . import agents
from .agents import NAMESPACE
from .faults import configure, processes
from .world import SYSTEM

# The pods behind the Services of the table, and behind the one that loses its pods.
BACKEND, LOST = "table-backend", "table-lost"
# The Service that the clients of `bank` use, behind which stands a pod of `edge`.
HOME = "table-home"
# Where nobody listens.
CLOSED_PORT = 8099
NOT_THERE = {"adit-test/nowhere": "yes"}


def about(name):
    return f"{NAMESPACE}/{name}"


# Faults of one Service.


@contextlib.contextmanager
def patched(cluster, kind, name, patch, back):
    def put(value):
        cluster.kubectl("-n", NAMESPACE, "patch", kind, name, "--type=merge", "-p", json.dumps(value))

    put(patch)
    yield
    put(back)


def hand_written(service, address, name="by-hand"):
    """A slice as a person would write it, or a mesh."""
    meta = {"labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "mesh.example"}}
    endpoint = {"addresses": [address], "conditions": {"ready": True}}
    ports = [{"name": "http", "port": agents.PORT, "protocol": "TCP"}]
    return agents.thing(
        "discovery.k8s.io/v1", "EndpointSlice", f"{service}-{name}", meta=meta, addressType="IPv4", endpoints=[endpoint], ports=ports,
    )


@contextlib.contextmanager
def foreign_slice(world, service):
    # Nobody is there.
    world.edge.create(hand_written(service, "10.244.0.250"))
    yield
    world.edge.delete("-n", NAMESPACE, f"endpointslice/{service}-by-hand")


@contextlib.contextmanager
def withdrawn(world, service):
    world.withdraw(service)
    yield
    world.export(service, "--allow", "support-bot")


@contextlib.contextmanager
def never_meet(world, service):
    world.adit("import", about(service), "--from", "bank", "--allow", "nobody-here", "--context", world.edge.context)
    yield
    world.adit("import", about(service), "--remove", "--context", world.edge.context)


@contextlib.contextmanager
def denied(world, service):
    world.export(service, "--allow", "somebody-else")
    world.adit(
        "export", about(service), "--to", "edge", "--allow", "support-bot", "--remove", "--context", world.bank.context,
    )
    yield
    world.export(service, "--allow", "support-bot")


@contextlib.contextmanager
def scaled_away(world, service):
    world.bank.scale(NAMESPACE, LOST, 0)
    yield
    world.bank.scale(NAMESPACE, LOST, 1)


def port_of(world, service, target):
    def ports(port):
        return {"spec": {"ports": [{"name": "http", "port": agents.PORT, "targetPort": port, "appProtocol": "kgateway.dev/a2a"}]}}

    return patched(world.bank, "service", service, ports(target), ports(agents.PORT))


def nobody_listens(world, service):
    return port_of(world, service, CLOSED_PORT)


def no_such_port(world, service):
    return port_of(world, service, "no-such-port")


def backend_address(world):
    [pod] = world.bank.get("pods", "-n", NAMESPACE, "-l", f"kagent={BACKEND}")
    return pod["status"]["podIP"]


def forbidden(world, service):
    """Its only endpoint is an address of the node itself, where no daemon dials."""
    [node, *_] = world.bank.get("nodes")
    [address] = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]

    def endpoints(address):
        return {"endpoints": [{"addresses": [address], "conditions": {"ready": True}}]}

    return patched(world.bank, "endpointslice", f"{service}-by-hand", endpoints(address), endpoints(backend_address(world)))


@contextlib.contextmanager
def deleted(world, service):
    world.bank.delete("-n", NAMESPACE, f"service/{service}")
    yield
    world.bank.create(served_by(service, BACKEND))


# Faults of the link.


def addresses(cluster):
    return [
        a["address"] for node in cluster.get("nodes") for a in node["status"]["addresses"] if a["type"] == "InternalIP"
    ]


@contextlib.contextmanager
def dropped(world, nodes, peers, out=True, into=True):
    """UDP between these nodes and those addresses is lost, from here or to here or both."""
    rules = [rule for peer in peers for rule in (
        *([("OUTPUT", "-p", "udp", "-d", peer, "-j", "DROP")] if out else []),
        *([("INPUT", "-p", "udp", "-s", peer, "-j", "DROP")] if into else []),
    )]
    for node in nodes:
        for rule in rules:
            world.on(node, "iptables", "-I", *rule)
    try:
        yield
    finally:
        for node in nodes:
            for rule in rules:
                world.on(node, "iptables", "-D", *rule)


def node_cut_off(world, _):
    return dropped(world, ["bank-2"], addresses(world.edge))


def cut(world, _):
    return dropped(world, ["edge-1"], addresses(world.bank))


def cut_outward(world, _):
    return dropped(world, ["edge-1"], addresses(world.bank), into=False)


def cut_inward(world, _):
    return dropped(world, ["edge-1"], addresses(world.bank), out=False)


def link_key(cluster, other):
    return f"link-{other.name}.yaml"


def fragment(cluster, other):
    return cluster.get("configmap", "adit", "-n", SYSTEM)["data"][link_key(cluster, other)]


@contextlib.contextmanager
def written(cluster, key, text):
    before = cluster.get("configmap", "adit", "-n", SYSTEM)["data"].get(key)
    configure(cluster, key, text)
    try:
        yield
    finally:
        configure(cluster, key, before)


def wrong_bundle(cluster, other):
    def seed(world, _):
        here, there = getattr(world, cluster), getattr(world, other)
        text = fragment(here, there)
        begin, end = text.index("-----BEGIN"), text.rindex("-----END CERTIFICATE-----")
        indent = text[text.rindex("\n", 0, begin) + 1:begin]
        with tempfile.TemporaryDirectory() as folder:
            ca = Path(folder) / "ca"
            world.adit("pki", "init", "--trust-domain", f"{other}.adit.internal", "--dir", ca)
            pem = (ca / "ca.pem").read_text().strip()
        body = ("\n" + indent).join(pem.splitlines())
        return written(here, link_key(here, there), text[:begin] + body + text[end + len("-----END CERTIFICATE-----"):])

    return seed


def unlinked(cluster, other):
    def seed(world, _):
        here, there = getattr(world, cluster), getattr(world, other)
        return written(here, link_key(here, there), None)

    return seed


def bad_configuration(world, _):
    return written(world.bank, "zz-table.yaml", "exports:\n  - service: nowhere\n    alow: []\n")


# Faults of Adit's own parts.


@contextlib.contextmanager
def chosen_away(cluster, thing):
    """No node is one on which its pods may run."""
    def patch(selector):
        value = {"spec": {"template": {"spec": {"nodeSelector": selector}}}}
        cluster.kubectl("-n", SYSTEM, "patch", thing, "--type=merge", "-p", json.dumps(value))

    patch(NOT_THERE)
    try:
        yield
    finally:
        patch({key: None for key in NOT_THERE})


def no_daemons(cluster):
    @contextlib.contextmanager
    def seed(world, _):
        here = getattr(world, cluster)
        with chosen_away(here, "daemonset/adit-node"):
            pods = "app.kubernetes.io/name=adit-node"
            here.kubectl("-n", SYSTEM, "delete", "pod", "-l", pods, "--grace-period=0", "--force")
            yield
        here.rolled_out(SYSTEM, "daemonset/adit-node")

    return seed


@contextlib.contextmanager
def frozen_daemon(world, _):
    [pid] = [pid for _, node, pid in processes(world, world.bank, "node") if node == "bank-2"]
    world.on("bank-2", "kill", "-STOP", pid)
    try:
        yield
    finally:
        world.on("bank-2", "kill", "-CONT", pid, check=False)


@contextlib.contextmanager
def no_controller(world, _):
    with chosen_away(world.edge, "deployment/adit-controller"):
        pods = "app.kubernetes.io/name=adit-controller"
        world.edge.kubectl("-n", SYSTEM, "delete", "pod", "-l", pods, "--grace-period=0", "--force")
        yield
    world.edge.rolled_out(SYSTEM, "deployment/adit-controller")


# The state that must be there before.


def served_by(name, backend):
    made = agents.service(name)
    made["spec"]["selector"] = {"app": "kagent", "kagent": backend}
    return made
