"""Adit comes, changes and goes."""

import io
import tarfile
import tempfile
import time
from pathlib import Path

from . import agents, scenario
from .agents import NAMESPACE, Steady, served
from .cluster import Failure, Skip, check, eventually, here, run
from .world import OURS, SYSTEM

MANIFESTS = ["daemonset/base", "daemonset/crds", "daemonset/overlays"]


def removed(world):
    """Deleting the manifests leaves nothing on either cluster or its nodes; what is not ours stays, and it installs again."""
    # Something of every kind that the controller makes, a Service too.
    world.edge.create(agents.service("made"))
    world.export("made", "--allow", "fraud-bot", owner=world.edge, to="bank")
    world.adit("import", f"{NAMESPACE}/made", "--from", "edge", "--context", world.bank.context)
    eventually("its Service is made on bank", lambda: world.bank.names("service", "-n", NAMESPACE, "made"))
    for cluster in world.both:
        world.remove(cluster)
    for cluster in world.both:
        eventually(f"nothing is left in {cluster.name}", lambda: nothing(leftovers(cluster)))
    machines = ["edge-1", "bank-1", "bank-2"] if world.rig_program else []
    for machine in machines:
        eventually(f"nothing is left on {machine}", lambda: nothing(machine_leftovers(world, machine)))
    theirs = [world.edge.names("service", "-n", NAMESPACE, name) for name in ("fraud-bot", "made")]
    check(all(theirs), f"Services of others: {theirs}")
    world.edge.delete("-n", NAMESPACE, "service/made")
    seconds = install_again(world)
    return f"nothing left in both clusters and on {len(machines)} nodes; installed again, an answer after {seconds:.0f} s"


def install_again(world):
    began = time.monotonic()
    for cluster in world.both:
        world.install(cluster)
    world.link()
    scenario.restore(world)
    return time.monotonic() - began


def nothing(left):
    if left:
        raise Failure(", ".join(left))
    return True


def leftovers(cluster):
    kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,priorityclasses,certificatesigningrequests," \
        "validatingadmissionpolicies,validatingadmissionpolicybindings"
    left = [name for name in cluster.names(kinds) if "adit" in name]
    left += cluster.names("endpointslices", "-A", "-l", OURS)
    left += cluster.names("services", "-A", "-l", "app.kubernetes.io/managed-by=adit-controller")
    return left + [name for name in cluster.names("leases", "-A") if "adit" in name]


def machine_leftovers(world, machine):
    left = []
    for family in ("-4", "-6"):
        rules = world.on(machine, "ip", family, "rule").splitlines()
        left += [rule for rule in rules if rule.startswith(("1983:", "1984:"))]
        left += world.on(machine, "ip", family, "route", "show", "table", "1984", check=False).stdout.splitlines()
    return left + [line for line in world.on(machine, "ss", "-Hlun").splitlines() if ":7843" in line]


def upgraded(world):
    """The manifests as they were before their last change, and then the present ones: nothing is lost."""
    commits = run("git", "log", "--format=%h", "--", *MANIFESTS, cwd=here(".")).split()
    if len(commits) < 2:
        raise Skip("this checkout has no history of the manifests")
    previous = commits[1]
    with tempfile.TemporaryDirectory() as folder:
        packed = run("git", "archive", previous, "daemonset", cwd=here("."), text=False)
        tarfile.open(fileobj=io.BytesIO(packed)).extractall(folder, filter="data")
        for cluster in world.both:
            world.remove(cluster)
        for cluster in world.both:
            world.install(cluster, Path(folder) / "daemonset/overlays/kind")
    world.link()
    world.export("fraud-bot", "--allow", "support-bot")
    eventually("the previous version serves", lambda: served(world.edge))
    before = kept(world)
    with Steady(world.edge) as steady:
        for cluster in world.both:
            world.install(cluster)
        world.installed()
        time.sleep(5)
    check(kept(world) == before, f"was {before}, is {kept(world)}")
    check(not steady.failures, steady.say())
    return f"from {previous}: {steady.say()}; configuration, CAs, addresses and slices as before"


def kept(world):
    """What an upgrade must not change."""
    found = {}
    for cluster in world.both:
        for kind, name in (("secret", "adit-ca"), ("configmap", "adit"), ("configmap", "adit-trust")):
            found[cluster.name, name] = cluster.get(kind, name, "-n", SYSTEM).get("data")
        found[cluster.name, "imports"] = [one["spec"] for one in cluster.get("import.adit.dev")]
        found[cluster.name, "slices"] = [one["metadata"]["uid"] for one in world.slices(cluster)]
    return found
