"""Seeding and mending each fault of the table.

A fault of one Service has a Service of its own, so that several can be seeded beside each other.
"""

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from . import agents, certificates
from .agents import NAMESPACE, served
from .cluster import eventually, here
from .faults import configure, processes, replace
from .world import SYSTEM

# The pods behind the Services of the table, and behind the one that loses its pods.
BACKEND, LOST = "table-backend", "table-lost"
# The Service that the clients of `bank` use, behind which stands a pod of `edge`.
HOME = "table-home"
# Where nobody listens.
CLOSED_PORT = 8099
# So long lives a CA that ends while somebody looks: what must be done with it before takes half of that.
CA_SECONDS = 60
NOT_THERE = {"adit-test/nowhere": "yes"}
# The nodes' pods.
NODES = "app.kubernetes.io/name=adit-node"


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
def iptables(world, rules):
    """By node: these rules come before all others."""
    for node, its in rules.items():
        for rule in its:
            world.on(node, "iptables", "-I", *rule)
    try:
        yield
    finally:
        for node, its in rules.items():
            for rule in its:
                world.on(node, "iptables", "-D", *rule)


def dropped(world, nodes, peers, out=True, into=True):
    """UDP between these nodes and those addresses is lost, from here or to here or both."""
    rules = [rule for peer in peers for rule in (
        *([("OUTPUT", "-p", "udp", "-d", peer, "-j", "DROP")] if out else []),
        *([("INPUT", "-p", "udp", "-s", peer, "-j", "DROP")] if into else []),
    )]
    return iptables(world, {node: rules for node in nodes})


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
def patched_part(cluster, thing, patch, back):
    def put(value):
        cluster.kubectl("-n", SYSTEM, "patch", thing, "--type=merge", "-p", json.dumps(value))

    put(patch)
    try:
        yield
    finally:
        put(back)
    cluster.rolled_out(SYSTEM, thing)


def chosen_away(cluster):
    """No node is one on which its daemons may run, which an operator's selector does; those that run leave."""
    def selector(value):
        return {"spec": {"template": {"spec": {"nodeSelector": {key: value for key in NOT_THERE}}}}}

    return patched_part(cluster, "daemonset/adit-node", selector("yes"), selector(None))


def leaving_daemons(cluster):
    return lambda world, _: chosen_away(getattr(world, cluster))


def no_daemons(cluster):
    """Its daemons are gone from one moment to the next, without a word, and do not come back."""
    @contextlib.contextmanager
    def seed(world, _):
        its = getattr(world, cluster)
        running = processes(world, its, "node")
        with chosen_away(its):
            # A pod that the API server knows no more is not started again.
            its.kubectl("-n", SYSTEM, "delete", "pod", "-l", NODES, "--grace-period=0", "--force")
            for _, node, pid in running:
                world.on(node, "kill", "-KILL", pid, check=False)
            yield time.time()

    return seed


@contextlib.contextmanager
def frozen_daemon(world, _):
    [pid] = [pid for _, node, pid in processes(world, world.bank, "node") if node == "bank-2"]
    world.on("bank-2", "kill", "-STOP", pid)
    try:
        yield
    finally:
        world.on("bank-2", "kill", "-CONT", pid, check=False)


def no_controller(world, _):
    def patch(strategy, selector):
        return {"spec": {"strategy": strategy, "template": {"spec": {"nodeSelector": {key: selector for key in NOT_THERE}}}}}

    # Else the old ones stay while no new one can run.
    away = patch({"type": "Recreate", "rollingUpdate": None}, "yes")
    return patched_part(world.edge, "deployment/adit-controller", away, patch({"type": "RollingUpdate"}, None))


@contextlib.contextmanager
def no_api_server(world, _):
    """What the controllers of edge ask its API server is lost."""
    pods = world.edge.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=adit-controller")
    rules = [("INPUT", "-p", "tcp", "-s", pod["status"]["podIP"], "--dport", "6443", "-j", "DROP") for pod in pods]
    with iptables(world, {"edge-1": rules}):
        yield


@contextlib.contextmanager
def doubled(world, _):
    """Another machine runs with the identity of bank-1: its folder was copied."""
    # This machine is on the same network.
    listens = "172.18.0.1:7843"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "bank-1"
        shutil.copytree("/var/lib/adit/bank-1", copy, ignore=shutil.ignore_patterns("handover.*", "seen.json"))
        config = Path(folder) / "adit.yaml"
        node = {"name": "bank-1", "listen": listens, "advertise": [listens], "identity": str(copy), "endpoints": 1}
        link = {
            "cluster": "edge", "trustDomain": "edge.adit.internal", "trustBundle": str(copy / "bundles/edge.pem"),
            "addresses": [f"{addresses(world.edge)[0]}:7843"],
        }
        settings = {
            "cluster": "bank", "trustDomain": "bank.adit.internal", "node": node, "links": [link],
            "admin": {"socket": f"{folder}/admin.sock"},
        }
        config.write_text(json.dumps(settings))
        process = subprocess.Popen([world.adit_program, "node", "--config", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def ended_certificates(world, _):
    """bank has a CA that ends soon, and so do its nodes' certificates: the fault begins with their end."""
    secret = world.bank.get("secret", "adit-ca", "-n", SYSTEM)["data"]
    before = tuple(base64.b64decode(secret[key]) for key in ("tls.crt", "tls.key"))
    with tempfile.TemporaryDirectory() as folder:
        ends = time.time() + CA_SECONDS
        short = certificates.made(world, Path(folder) / "short", f"{CA_SECONDS}s")
        certificates.keep(world, short, [])
    try:
        eventually("every node has a certificate of it", lambda: certificates.lives(world, CA_SECONDS), 60)
        world.link()
        eventually("it is served", lambda: served(world.edge), 60)
        time.sleep(max(0, ends - time.time()))
        yield ends
    finally:
        certificates.keep(world, before, [])
        world.link()
        # Those that asked in vain would ask again in a minute.
        replace(world.bank)


@contextlib.contextmanager
def on_host(world, service):
    """A process on the network of edge's node, as of a pod with hostNetwork, calls the Service."""
    address = world.edge.get("service", "-n", NAMESPACE, service)["spec"]["clusterIP"]
    with tempfile.TemporaryDirectory() as folder:
        calls = ["python3", here("tests/rig/agent/callers.py"), f"{folder}/calls", "5", f"host={address}:{agents.PORT}"]
        process = subprocess.Popen(["ip", "netns", "exec", "rig-edge-1", *calls])
        try:
            yield
        finally:
            Path(f"{folder}/calls.stop").touch()
            process.wait()


# In the mount namespace of the process whose number it gets: a small disk, with what was in the folder, that is full.
FILL = """
import ctypes, os, sys
pid, folder, libc = sys.argv[1], "/var/lib/adit", ctypes.CDLL(None, use_errno=True)
if libc.setns(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY), 0):
    sys.exit("setns: " + os.strerror(ctypes.get_errno()))
if sys.argv[2] == "heal":
    sys.exit(libc.umount2(folder.encode(), 2))
kept = {}
for at, _, names in os.walk(folder):
    for path in (os.path.join(at, name) for name in names):
        if os.path.isfile(path):
            kept[path] = open(path, "rb").read()
if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=1m,uid=65532,gid=65532,mode=700"):
    sys.exit("mount: " + os.strerror(ctypes.get_errno()))
for path, content in kept.items():
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chown(path, 65532, 65532)
    os.chown(os.path.dirname(path), 65532, 65532)
try:
    with open(folder + "/filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError:
    pass
"""


@contextlib.contextmanager
def full_disk(world, _):
    """The disk of bank-2 is full, as its daemon sees it."""
    [pid] = [pid for _, node, pid in processes(world, world.bank, "node") if node == "bank-2"]
    world.on("bank-2", "python3", "-c", FILL, pid, "fill")
    try:
        yield
    finally:
        world.on("bank-2", "python3", "-c", FILL, pid, "heal", check=False)


# The state that must be there before.


def served_by(name, backend):
    made = agents.service(name)
    made["spec"]["selector"] = {"app": "kagent", "kagent": backend}
    return made
