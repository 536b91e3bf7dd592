"""The faults of the table: how each is seeded and mended, and what must be said of it, where.

A fault of one Service has a Service of its own, so that several can be seeded beside each other.
"""

import contextlib
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, ContextManager

from . import agents
from .agents import NAMESPACE
from .cluster import check, eventually
from .faults import configure, process, processes
from .world import SYSTEM

# What stands behind the Services of the table; and behind that which loses its pods.
BACKEND, LOST = "table-backend", "table-lost"
# The Service that the clients of `bank` use, behind which stands a pod of `edge`.
HOME = "table-home"
# Where nobody listens.
CLOSED_PORT = 8099
NOT_THERE = {"adit-test/nowhere": "yes"}


@dataclass(frozen=True)
class Fault:
    """One row. `says` are patterns by eye (see `watching`): each must be seen, and no line was there before."""

    name: str
    seed: Callable[..., ContextManager]
    # Whose callers are looked at, as `callers/key`; empty where none are refused.
    caller: str
    # By cluster: a line that names what is wrong and on which side.
    status: dict[str, str]
    condition: tuple[str, str] | None
    event: tuple[str, str] | None
    metric: tuple[str, str] | None
    # Why something above is not asked for.
    note: str = ""
    service: str = field(default="")


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


# What there must be before.


def served_by(name, backend):
    made = agents.service(name)
    made["spec"]["selector"] = {"app": "kagent", "kagent": backend}
    return made


def lines(name, **said):
    return {cluster: rf"{name}\b.*{what}" for cluster, what in said.items()}


def of_service(name, seed, service, status, condition, event, metric, note=""):
    key = service.removeprefix("table-")
    where = {cluster: rf"{service} .*({what})" for cluster, what in status.items()}
    return Fault(
        name, lambda world: seed(world, service), f"edge/{key}", where,
        condition and (condition[0], rf"{service} {condition[1]}"), event and (event[0], rf"{service} {event[1]}"),
        metric and (metric[0], metric[1].replace("SERVICE", f'[^ ]*{service}"[^ ]*')), note, service,
    )


READY_0 = ("edge", "adit_import_ready{SERVICE} 0")


def services():
    """Those of one Service each."""
    def bad(reason):
        return ("edge", f"Ready=False {reason}")

    return [
        of_service("another's slice fills an imported Service", foreign_slice, "table-foreign",
                   {"edge": r"by-hand \(managed by mesh.example\)"}, bad("ServiceHasOwnEndpoints"), ("edge", "ServiceHasOwnEndpoints"), READY_0),
        of_service("an export is withdrawn", withdrawn, "table-withdrawn",
                   {"edge": "bank has withdrawn its export"}, bad("Withdrawn"), ("edge", "Withdrawn"), READY_0),
        of_service("grants of import and export never meet", never_meet, "table-never",
                   {"edge": "here it is for .*nobody-here.*and bank grants it to .*support-bot"}, bad("NobodyAllowed"), ("edge", "NobodyAllowed"), READY_0),
        of_service("the export does not allow the caller", denied, "table-denied",
                   {"edge": "support-bot( are)? refused.*no grant.*export in bank"}, ("edge", "Refusing=True Denied"), ("edge", "CallersRefused"),
                   ("edge", 'adit_streams_ended_total{.*code="denied".*SERVICE}'), "bank is as it was told to be, and says so as doubtful"),
        of_service("the backends are gone", scaled_away, LOST,
                   {"edge": "bank.*no ready backend", "bank": "no ready|NoBackend"}, bad("NoBackend"), ("edge", "CallersRefused|NoBackend"), READY_0),
        of_service("nobody listens at the backend's port", nobody_listens, "table-closed",
                   {"edge": "bank.*refuse", "bank": "refuse"}, ("edge", "False.*efuse|True.*efuse"), ("edge", "CallersRefused|BackendRefused"), READY_0),
        of_service("the Service names a port that its pods do not have", no_such_port, "table-port",
                   {"edge": "bank.*no ready backend", "bank": "no ready|NoBackend"}, bad("NoBackend"), ("edge", "CallersRefused|NoBackend"), READY_0),
        of_service("the backend's address is one that no node dials", forbidden, "table-forbidden",
                   {"edge": "bank.*forbidden|may not", "bank": "forbidden|may not|never dial"}, ("edge", "False.*orbid|True.*orbid"), ("edge", "CallersRefused|Forbidden"), READY_0),
        of_service("the exported Service is deleted", deleted, "table-deleted",
                   {"edge": "bank has withdrawn|no Service|not export", "bank": "there is no Service"}, bad("Withdrawn|NoService"), ("edge", "Withdrawn|NoService"), READY_0),
    ]


def link(name, seed, status, condition, event, metric, caller="edge/fraud-bot", note=""):
    return Fault(name, lambda world: seed(world, None), caller, status, condition, event, metric, note)


UP_0 = ("edge", 'adit_link_up{link="bank"} 0')


def links():
    """Those of the link, and of the parts."""
    down = ("edge", "Link bank Up=False LinkDown")
    told = ("edge", "Link bank LinkDown")

    def because(reason):
        """The condition and the Event on edge with a reason of their own."""
        return ("edge", f"Link bank Up=False {reason}"), ("edge", f"Link bank {reason}")
    return [
        link("one importing node of two is cut off", node_cut_off, {"bank": "edge.*1 of 2 nodes.*bank-2"},
             ("bank", "Link edge NodesDown=True.*bank-2"), ("bank", "Link edge NodesCutOff"),
             ("bank bank-2", 'adit_link_up{link="edge"} 0'), "bank-2/home"),
        link("the link's UDP is lost both ways", cut, {"edge": "bank .*(UDP|no answer)", "bank": "edge .*(UDP|no answer)"}, down, told, UP_0),
        link("UDP from edge to bank is lost", cut_outward, {"edge": "bank .*(UDP|no answer)", "bank": "edge .*(UDP|no answer)"}, *because("OneWay"), UP_0),
        link("UDP from bank to edge is lost", cut_inward, {"edge": "bank .*(UDP|no answer)", "bank": "edge .*(UDP|no answer)"}, down, told, UP_0),
        link("edge has a wrong bundle for bank", wrong_bundle("edge", "bank"),
             {"edge": "bank .*(certificate|bundle|trust)", "bank": "edge .*(certificate|bundle|trust)"}, *because("CertificateRefused"), UP_0),
        link("bank has a wrong bundle for edge", wrong_bundle("bank", "edge"),
             {"edge": "bank .*(certificate|bundle|trust)", "bank": "edge .*(certificate|bundle|trust)"}, *because("RefusedByPeer"), UP_0),
        link("edge has unlinked bank", unlinked("edge", "bank"), {"edge": r"NotLinked|no link to bank", "bank": r"edge .*(no trust bundle|does not know|not linked|unlinked)"},
             ("bank", "Link edge Up=False"), ("bank", "Link edge RefusedByPeer"), ("bank", 'adit_link_up{link="edge"} 0')),
        link("bank has unlinked edge", unlinked("bank", "edge"), {"edge": r"bank .*(no trust bundle|does not know|not linked|unlinked)", "bank": "NotLinked|no link to edge"}, *because("RefusedByPeer"), UP_0),
        link("bank has no daemon any more", no_daemons("bank"), {"edge": "bank .*(UDP|no answer)", "bank": "adit-node has no pods"}, down, told, UP_0),
        link("one daemon of bank hangs", frozen_daemon, {"bank": "1 of 2 node"}, ("bank", "Link edge NodesDown"), ("bank", "Node"), ("bank bank-2", "up 0"), note="callers may be answered by the other"),
        link("edge has no daemon any more", no_daemons("edge"), {"edge": "adit-node has no pods", "bank": "edge .*(UDP|no answer)"},
             ("bank", "Link edge Up=False"), ("bank", "Link edge LinkDown"), ("edge", "up 0")),
        link("edge has no controller any more", no_controller, {"edge": "0 of 2 controller pods|no controller is active"}, ("edge", "Deployment adit-controller Available=False"), ("edge", "FailedScheduling"),
             ("edge", "adit_controller"), caller="", note="condition and Event are Kubernetes' own: nobody is there to write ours"),
        link("a key of bank's ConfigMap has an error", bad_configuration, {"bank": "zz-table.yaml"}, ("bank", "Configured=False BadConfiguration"), ("bank", "BadConfiguration"), ("bank", "adit_config_rejected 1"), caller=""),
    ]
