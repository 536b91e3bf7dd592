"""Adit comes, changes and goes."""

import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

from . import agents, scenario
from .agents import NAMESPACE, Steady, refused, served
from .cluster import Failure, Skip, check, condition, eventually, here, run
from .faults import configure, restart
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
    world.link("--import", NAMESPACE)
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
        left += [rule for rule in rules if rule.startswith(("103:", "104:"))]
        left += world.on(machine, "ip", family, "route", "show", "table", "1984", check=False).stdout.splitlines()
    kept = world.on(machine, "ls", "-A", f"/var/lib/adit/{machine}").split()
    left += [name for name in kept if name != "node.secret"]
    return left + [line for line in world.on(machine, "ss", "-Hlun").splitlines() if ":7843" in line]


def upgraded(world):
    """The manifests as they were before their last change, and then the present ones: nothing is lost."""
    with tempfile.TemporaryDirectory() as folder:
        previous = unpack_previous(folder)
        for cluster in world.both:
            world.remove(cluster)
        for cluster in world.both:
            world.install(cluster, Path(folder) / "daemonset/overlays/kind")
    world.link("--import", NAMESPACE)
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


class Callers(agents.Load):
    """What people have who must not notice."""

    RATE = 20


def upgraded_by_command(world):
    """`adit upgrade` from an older build, installed by its own manifests: it says what changes, and 20 requests a second and open streams lose nothing."""
    previous = os.environ.get("ADIT_PREVIOUS")
    if not previous:
        raise Skip("ADIT_PREVIOUS names no folder with an older build: adit, adit.tar and daemonset/")
    previous = Path(previous)
    for cluster in world.both:
        world.rig("load", cluster.name, previous / "adit.tar")
        world.remove(cluster)
    for cluster in world.both:
        world.install(cluster, previous / "daemonset/overlays/kind")
    names = ["--name-a", "edge", "--name-b", "bank"]
    run(previous / "adit", "link", world.edge.context, world.bank.context, *names, "--import", NAMESPACE)
    run(previous / "adit", "export", f"{NAMESPACE}/fraud-bot", "--context", world.bank.context, "--to", "edge", "--allow", "support-bot")
    eventually("the older build serves", lambda: served(world.edge))
    before = kept(world)
    upgrade = ["upgrade", *world.contexts(), "--image", "localhost/adit:dev"]
    generation = lambda: [one.get("daemonset", "adit-node", "-n", SYSTEM)["metadata"]["generation"] for one in world.both]
    generations = generation()
    with Callers(world.edge) as load:
        # Who installed by kubectl holds the fields.
        refused = world.adit(*upgrade, "--yes", check=False)
        check(refused.returncode in (0, 1), f"exit {refused.returncode}: {refused.stdout}{refused.stderr}")
        if refused.returncode:
            check("nothing was changed" in refused.stderr and "--force-conflicts" in refused.stderr, refused.stderr)
            check(generation() == generations, "something was changed")
            upgrade.append("--force-conflicts")
        said = world.adit(*upgrade, "--dry-run")
        check("~ DaemonSet adit-node" in said and "localhost/adit:dev" in said, said)
        began = time.monotonic()
        done = world.adit(*upgrade, "--yes")
        seconds = time.monotonic() - began
        time.sleep(5)
    seen = load.seen
    check(done.count("upgraded, controller and nodes are ready") == 2, done)
    check(not seen["failures"] and seen["alive"] == seen["streams"], f"{load.say()}\n{seen['failures'][:5]}\n{seen['ended'][:5]}")
    after = kept(world)
    differing = [key for key in before if before[key] != after.get(key)]
    check(not differing, f"changed: {[(key, before[key], after.get(key)) for key in differing]}")
    again = world.adit("upgrade", *world.contexts(), "--dry-run")
    check(again.count("0 objects are created, 0 changed") == 2, again)
    versions = world.adit("version", *world.contexts())
    return f"both clusters in {seconds:.0f} s: {load.say()}; {versions.strip().splitlines()[-1]}"


def by_chart(world):
    """The Helm chart installs, upgrades without a lost request, and removes all but the kinds."""
    helm = shutil.which("helm") or os.environ.get("ADIT_HELM")
    if not helm:
        raise Skip("helm is not on PATH, and ADIT_HELM does not name it")
    for cluster in world.both:
        world.remove(cluster)
    with tempfile.TemporaryDirectory() as folder:
        chart = Path(folder) / "adit.tgz"
        run(here("daemonset/chart/pack"), "--output", chart)

        def release(verb, cluster, *args):
            given = ["--set", "image.repository=localhost/adit", "--set", "image.tag=dev", "--set", f"cluster={cluster.name}"]
            return run(helm, verb, "adit", chart, "--kube-context", cluster.context, "--namespace", "kube-system", *given, *args)

        began = time.monotonic()
        for cluster in world.both:
            release("install", cluster)
        world.link("--import", NAMESPACE)
        world.installed()
        world.export("fraud-bot", "--allow", "support-bot")
        eventually("it is served", lambda: served(world.edge))
        first = time.monotonic() - began
        before = kept(world)
        with Callers(world.edge) as load:
            for cluster in world.both:
                release("upgrade", cluster, "--set-string", "node.podAnnotations.adit-test=upgraded", "--set-string", "controller.podAnnotations.adit-test=upgraded")
            # Old pods are waited for by no one: they may have an hour for their streams.
            eventually("every node has the new annotation", lambda: all(annotated(one) for one in world.both), 120)
            time.sleep(5)
        seen = load.seen
        check(not seen["failures"] and seen["alive"] == seen["streams"], f"{load.say()}\n{seen['failures'][:5]}\n{seen['ended'][:5]}")
        check(kept(world) == before, f"was {before}, is {kept(world)}")
        for cluster in world.both:
            run(helm, "uninstall", "adit", "--kube-context", cluster.context, "--namespace", "kube-system", "--wait", "--timeout", "5m")
    for cluster in world.both:
        kinds = lambda: [name for name in leftovers(cluster) if not name.startswith("customresourcedefinition")]
        eventually(f"nothing but the kinds is left in {cluster.name}", lambda: nothing(kinds()))
    seconds = install_again(world)
    return f"an answer {first:.0f} s after the first helm install; helm upgrade: {load.say()}; nothing left but kinds; installed again in {seconds:.0f} s"


def annotated(cluster):
    """True if the newest pod on each node, and each controller, is of the new manifests and ready."""
    cluster.rolled_out(SYSTEM, "deployment/adit-controller")
    pods = [one for one in cluster.get("pods", "-n", SYSTEM) if "deletionTimestamp" not in one["metadata"]]
    new = [one for one in pods if one["metadata"].get("annotations", {}).get("adit-test") == "upgraded"]
    is_ready = lambda one: any(of["type"] == "Ready" and of["status"] == "True" for of in one["status"].get("conditions", []))
    ready = {one["spec"]["nodeName"] for one in new if is_ready(one) and one["metadata"]["name"].startswith("adit-node-")}
    return ready == {name.split("/")[1] for name in cluster.names("nodes")}


def unpack_previous(folder):
    """Puts the manifests of before into a folder, and says which those are."""
    done = run("git", "log", "--format=%h", "--", *MANIFESTS, cwd=here("."), check=False)
    commits = done.stdout.split()
    if len(commits) > 1:
        packed = run("git", "archive", commits[1], "daemonset", cwd=here("."), text=False)
        tarfile.open(fileobj=io.BytesIO(packed)).extractall(folder, filter="data")
        return commits[1]
    # A checkout without history: what an upgrade does to pods can be seen nevertheless.
    shutil.copytree(here("daemonset"), Path(folder) / "daemonset")
    with open(Path(folder) / "daemonset/overlays/kind/kustomization.yaml", "a", encoding="utf-8") as overlay:
        overlay.write("commonAnnotations: {adit.dev/previous: 'yes'}\n")
    return "the same manifests with another annotation"


def node_addresses(world):
    """Imports at the nodes' own addresses, on a cluster of two nodes: pods of each are known by name and served."""
    bank, edge = world.bank, world.edge
    edge.create(*agents.webhook())
    edge.rolled_out(NAMESPACE, "deployment/webhook")
    world.export("webhook", "--allow", "caller", owner=edge, to="bank")
    nodes = {one["metadata"]["name"]: one["status"]["addresses"][0]["address"] for one in bank.get("nodes")}
    check(len(nodes) == 2, f"nodes of bank: {nodes}")
    for node in nodes:
        for name in ("caller", "other"):
            account, pod = agents.client(name)
            pod["metadata"]["name"], pod["spec"]["nodeName"] = f"{name}-{node}", node
            bank.create(account, pod)
    world.adit("import", f"{NAMESPACE}/webhook", "--from", "edge", "--context", bank.context)
    world.imported("webhook", bank)
    before = slice_addresses(bank, str([f"{ip}/32" for ip in nodes.values()]))
    configure(bank, "zz-network.yaml", "network: {mode: nodeAddress}\n")
    try:
        eventually("nodes say that it takes a restart", lambda: "waits for a restart" in world.node_status(bank))
        eventually("adit status says so of all nodes", lambda: waiting(world.status(bank)), 15)
        check(world.slices(bank), "slices went though no node has the new network")
        bank.kubectl("-n", SYSTEM, "rollout", "restart", "daemonset/adit-node")
        eventually("no slice stands while nodes differ", lambda: not world.slices(bank), pause=0.05)
        bank.rolled_out(SYSTEM, "daemonset/adit-node")
        filled = eventually("slices stand again", lambda: world.slices(bank))
        world.imported("webhook", bank)
        found = {one["nodeName"]: one["addresses"] for one in filled[0]["endpoints"]}
        check(found == {node: [ip] for node, ip in nodes.items()}, found)
        for node in nodes:
            pods = (f"caller-{node}", f"other-{node}")
            for pod in pods:
                bank.wait(NAMESPACE, f"pod/{pod}")
            eventually(f"a pod of {node} is served", lambda: served(bank, pod=pods[0], name="webhook"))
            for _ in range(6):
                served(bank, pod=pods[0], name="webhook")
            refused(bank, pod=pods[1], name="webhook")
        eventually("no node waits for a restart any more", lambda: not waiting(world.status(bank)), 15)
        crowds_are_refused(world, nodes)
        for node in nodes:
            bank.delete("-n", NAMESPACE, f"pod/caller-{node}", f"pod/other-{node}")
        eventually("what bank exports is served", lambda: served(edge))
    finally:
        world.adit("import", f"{NAMESPACE}/webhook", "--remove", "--context", bank.context)
        configure(bank, "zz-network.yaml", None)
        slice_addresses(bank, before)
        restart(bank, "daemonset/adit-node")
        world.withdraw("webhook", edge)
        edge.delete("-n", NAMESPACE, "service/webhook", "deployment/webhook")
    eventually("it is served again", lambda: served(edge))
    return f"endpoints {sorted(found.items())}; each node's pods are served by their own node"


def waiting(status):
    """The keys that a cluster's nodes take only when they start, and have not yet, as its status says it."""
    return [one for one in status["troubles"] if "changed, and waits for a restart" in one]


def crowds_are_refused(world, nodes):
    """While nothing is ready each node still gets its own pods' callers, and refuses all of them."""
    world.edge.scale(NAMESPACE, "webhook", 0)
    ready = lambda: condition(world.bank.get("import.adit.dev", f"{NAMESPACE}.webhook"), "Ready")[0]
    eventually("it is not ready", lambda: ready() == "False")
    for node in nodes:
        pod = f"caller-{node}"
        eventually("callers reach the listener", lambda: "eset" in refused(world.bank, pod=pod, name="webhook")["error"])
        seen = agents.crowd(world.bank, 100, pod=pod, name="webhook")
        check(seen["ends"] == {"ECONNRESET": 100}, f"{pod}: {seen}")
    reason = f"edge offers no ready backend of {NAMESPACE}/webhook"
    for node in nodes:
        check(reason in world.node_status(world.bank, node), f"{node} did not refuse its own: {world.node_status(world.bank, node)}")


def slice_addresses(cluster, ranges):
    """Has our slices lead into these ranges; gives those of before."""
    policy = ["validatingadmissionpolicy", "adit-slice-addresses"]
    before = cluster.get(*policy)["spec"]["variables"][0]["expression"]
    patch = [{"op": "replace", "path": "/spec/variables/0/expression", "value": ranges}]
    cluster.kubectl("patch", *policy, "--type=json", "-p", json.dumps(patch))
    return before


def kept(world):
    """The objects that an upgrade must not change."""
    found = {}
    for cluster in world.both:
        for kind, name in (("secret", "adit-ca"), ("configmap", "adit"), ("configmap", "adit-trust")):
            found[cluster.name, name] = cluster.get(kind, name, "-n", SYSTEM).get("data")
        found[cluster.name, "imports"] = [one["spec"] for one in cluster.get("import.adit.dev")]
        found[cluster.name, "slices"] = [one["metadata"]["uid"] for one in world.slices(cluster)]
    return found
