"""Addresses that a tenant can have the nodes of his cluster dial, by EndpointSlices that he writes himself."""

import json
import time

from . import agents
from .agents import NAMESPACE, refused, served
from .cluster import check, eventually
from .faults import configure
from .world import SYSTEM

NAME = "forged"
SLICE = f"{NAME}-by-hand"


def forged_slices(world):
    """By annotation a tenant's slice leads to pods of his namespace, each dialled by its node, and nowhere else."""
    bank, edge = world.both[::-1]
    pods = [pod for pod in bank.get("pods", "-n", NAMESPACE, "-l", "kagent=fraud-bot") if pod["status"].get("podIP")]
    dns = next(pod for pod in bank.get("pods", "-n", "kube-system") if "dns" in pod["metadata"]["name"])
    api = bank.get("service", "-n", "default", "kubernetes")["spec"]["clusterIP"]
    configure(bank, "zz-tenant.yaml", f"optIn:\n  - {{namespaces: [{NAMESPACE}], exportTo: [edge]}}\n")
    allow = f"edge/{NAMESPACE}/support-bot"
    tenants = agents.service(NAME, annotations={"adit.dev/export": "edge", "adit.dev/allow": allow})
    del tenants["spec"]["selector"]
    bank.create(tenants)
    world.adit("import", f"{NAMESPACE}/{NAME}", "--from", "bank", "--context", edge.context)
    try:
        for pod in pods:
            lead(bank, pod["status"]["podIP"], agents.PORT, pod["spec"]["nodeName"])
            eventually(f"{pod['metadata']['name']} is served", lambda: served(edge, name=NAME))
        said = []
        for what, address, port in (
            ("the API server", api, 443),
            ("a kubelet, by the bridge", bridge(pods[0]), 10250),
            ("another namespace's pod", dns["status"]["podIP"], 9153),
        ):
            # Said to be where another node is asked for it, and where the one that is told of it looks itself.
            for node in sorted({pod["spec"]["nodeName"] for pod in pods}):
                lead(bank, address, port, node)
                time.sleep(1)
                check(not dialled(bank), f"{what} is a backend: {dialled(bank)}")
                for _ in range(3):
                    said.append(f"{what}: {refused(edge, name=NAME)['error']}")
    finally:
        world.adit("import", f"{NAMESPACE}/{NAME}", "--remove", "--context", edge.context)
        bank.delete("-n", NAMESPACE, f"endpointslice/{SLICE}", f"service/{NAME}")
        configure(bank, "zz-tenant.yaml", None)
    eventually("fraud-bot is served", lambda: served(edge))
    return f"{len(pods)} pods served; " + "; ".join(dict.fromkeys(said))


def lead(cluster, address, port, node):
    """As a tenant may write it: a pod of his, on that node."""
    endpoint = {
        "addresses": [address], "nodeName": node, "conditions": {"ready": True},
        "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": "any"},
    }
    cluster.create(agents.thing(
        "discovery.k8s.io/v1", "EndpointSlice", SLICE, meta={"labels": {"kubernetes.io/service-name": NAME}},
        addressType="IPv4", ports=[{"name": "http", "port": port}], endpoints=[endpoint],
    ))


def bridge(pod):
    """The address of the pods' bridge on a pod's node, as the rig and most networks have it."""
    return pod["status"]["podIP"].rsplit(".", 1)[0] + ".1"


def dialled(cluster):
    """The backends of the forged Service that a node dials itself, as it says; those that it says it may not dial are none."""
    found = []
    for pod in cluster.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=adit-node"):
        said = cluster.kubectl("-n", SYSTEM, "exec", pod["metadata"]["name"], "-c", "node", "--", "/adit", "status", "--json", check=False)
        ports = [port for one in json.loads(said.stdout)["exports"] if one["service"] == f"{NAMESPACE}/{NAME}" for port in one["ports"]]
        own = [one for port in ports for one in port["backends"] if one["node"] == pod["spec"]["nodeName"]]
        found += [one["address"] for one in own if one["state"] != "forbidden"]
    return found
