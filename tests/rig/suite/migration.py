"""From a hand-written slice and a node port to Adit, and back, while clients look."""

import time

from . import agents
from .agents import NAMESPACE, served
from .cluster import Skip, check, eventually
from .faults import proxy_mode

NAME, NODE_PORT = "legacy-bot", 30090
MACHINES = ["edge-1", "bank-1", "bank-2"]


class Callers(agents.Load):
    """What people have who must not notice."""

    RATE = 100


def migrated(world):
    """A lateral hack becomes an import and again a hack, under 100 new requests a second and open streams: nothing is lost."""
    build_hack(world)
    try:
        with Callers(world.edge, name=NAME) as load:
            said = migrate(world, "--allow", "support-bot")
            took_over(world)
            time.sleep(5)
            streams = eventually("streams go through Adit, or none of the new ones did", lambda: world.node_status(world.edge))
            migrate(world, "--back")
            is_a_hack(world)
            time.sleep(5)
        seen = load.seen
        check(not seen["failures"] and seen["alive"] == seen["streams"], f"{load.say()}\n{seen['failures'][:5]}\n{seen['ended'][:5]}")
        check(NAME in streams, f"the node says nothing of {NAME}: {streams}")
        # A second time, and only forward: what it says of itself is done.
        migrate(world, "--allow", "support-bot")
        took_over(world)
        again = migrate(world, "--allow", "support-bot")
        check("stopped" not in again, again)
        migrate(world, "--back")
    finally:
        remove_hack(world)
    check("7/7 ok" in said, said)
    return f"{load.say()}; there and back"


def migrated_nftables(world):
    """The case `migrated`, with the other mode of kube-proxy on all nodes."""
    if not world.rig_program:
        raise Skip("only the rig (ADIT_RIG) lets a test change kube-proxy")
    before = {machine: proxy_mode(world, "nftables", machine) for machine in MACHINES}
    try:
        eventually("it is served", lambda: served(world.edge))
        return migrated(world)
    finally:
        for machine, mode in before.items():
            proxy_mode(world, mode, machine)
        eventually("it is served again", lambda: served(world.edge))


def migrate(world, *args):
    contexts = ["--from-context", world.bank.context, "--to-context", world.edge.context]
    return world.adit("migrate", f"{NAMESPACE}/{NAME}", *contexts, *args)


def build_hack(world):
    """As people do it without Adit: a node port, and a slice that leads to it."""
    account, service, deployment = agents.agent(NAME, replicas=2)
    service["spec"] |= {"type": "NodePort"}
    service["spec"]["ports"][0] |= {"nodePort": NODE_PORT}
    world.bank.create(account, service, deployment)
    agents.stub(world.edge, NAME)
    nodes = [address["address"] for node in world.bank.get("nodes") for address in node["status"]["addresses"] if address["type"] == "InternalIP"]
    world.edge.create(agents.thing(
        "discovery.k8s.io/v1", "EndpointSlice", f"{NAME}-lateral", meta={"labels": {"kubernetes.io/service-name": NAME}},
        addressType="IPv4", endpoints=[{"addresses": [node]} for node in nodes],
        ports=[{"name": "http", "port": NODE_PORT, "protocol": "TCP"}],
    ))
    world.bank.rolled_out(NAMESPACE, f"deployment/{NAME}")
    eventually("the hack is served", lambda: served(world.edge, name=NAME))


def remove_hack(world):
    for cluster in world.both:
        cluster.delete("-n", NAMESPACE, "service,deployment,serviceaccount", NAME)
        cluster.delete("-n", NAMESPACE, "configmap", f"adit-migration-{NAME}")
    world.edge.delete("-n", NAMESPACE, "endpointslice", f"{NAME}-lateral")
    world.edge.delete("-n", NAMESPACE, agents.AGENT_KIND, NAME)
    world.adit("import", f"{NAMESPACE}/{NAME}", "--context", world.edge.context, "--remove")
    world.withdraw(NAME)


def took_over(world):
    service = world.bank.get("service", "-n", NAMESPACE, NAME)["spec"]
    check(service["type"] == "ClusterIP" and "nodePort" not in service["ports"][0], service)
    slices = world.edge.names("endpointslice", "-n", NAMESPACE, "-l", f"kubernetes.io/service-name={NAME}")
    check(f"endpointslice.discovery.k8s.io/{NAME}-lateral" not in slices, slices)
    world.imported(NAME)


def is_a_hack(world):
    service = world.bank.get("service", "-n", NAMESPACE, NAME)["spec"]
    check((service["type"], service["ports"][0].get("nodePort")) == ("NodePort", NODE_PORT), service)
    slices = world.edge.names("endpointslice", "-n", NAMESPACE, "-l", f"kubernetes.io/service-name={NAME}")
    check(not any("-adit-" in name for name in slices) and f"endpointslice.discovery.k8s.io/{NAME}-lateral" in slices, slices)
