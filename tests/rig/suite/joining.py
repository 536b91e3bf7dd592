"""Joining clusters without access to both, and exporting and importing Services."""

import contextlib
import re
import subprocess
import tempfile
import time
from pathlib import Path

from .agents import AGENT_KIND, NAMESPACE, agent_definition, client, refused, served, url
from .agents import service as agent_service
from .cluster import check, condition, eventually
from .faults import configure
from .world import IMPORT, SYSTEM

OPEN, CLOSED = "team-open", "team-closed"
TO_EDGE = {"adit.dev/export": "edge", "adit.dev/allow": f"edge/{NAMESPACE}/support-bot"}
FROM_BANK = {"adit.dev/import-from": "bank"}


def linked_by_hand(world):
    """Unlinked, nothing is left of a link; bundles carried by hand join the clusters anew, with no imports by themselves."""
    said = world.adit("unlink", world.edge.context, world.bank.context)
    for cluster in world.both:
        eventually("its Link is gone", lambda: not cluster.names("link.adit.dev"))
    eventually("the slice is gone", lambda: not world.slices(world.edge))
    refused(world.edge)
    check("nothing to change" in world.adit("unlink", world.edge.context, world.bank.context).lower(), "unlink again changes something")
    with tempfile.TemporaryDirectory() as folder:
        for here, there, more in ((world.bank, world.edge, ["--no-import"]), (world.edge, world.bank, [])):
            bundle = Path(folder) / here.name
            world.adit("link", "export", "--context", here.context, "--output", bundle)
            check("PRIVATE KEY" not in bundle.read_text(), "the bundle has a key in it")
            # Without a terminal nobody is asked, and nothing is opened.
            imported = world.adit("link", "import", bundle, "--context", there.context, *more)
            check(f"{here.name} may fill no Service by itself" in imported, imported)
            imported = world.adit("link", "import", bundle, "--context", there.context, *more)
            check("nothing to change" in imported.lower(), imported)

    def up():
        return all(condition(cluster.get("link.adit.dev", other.name), "Up")[0] == "True" for cluster, other in (world.both, world.both[::-1]))

    eventually("both Links are up", up)
    # Longer than an import takes.
    time.sleep(5)
    check(not world.slices(world.edge), "imported by itself into a namespace that nobody opened")
    world.link("--import", "*")
    eventually("it is served again", lambda: served(world.edge))
    return said.strip().splitlines()[-1] + "; bundles joined them again; nothing imported by itself"


def invited(world):
    """Two operators with access to their own cluster alone link them by a token; one that is late, damaged or used changes nothing."""
    world.adit("unlink", world.edge.context, world.bank.context)
    eventually("the slice is gone", lambda: not world.slices(world.edge))
    refused(world.edge)
    rules = {cluster.name: cluster.get("configmap", "-n", SYSTEM, "adit")["data"] for cluster in world.both}

    def nothing_changed():
        for cluster in world.both:
            check(cluster.get("configmap", "-n", SYSTEM, "adit")["data"] == rules[cluster.name], f"{cluster.name} was changed")

    # Nobody can be asked, and nobody said that nobody need be.
    unasked = world.adit("invite", "--context", world.bank.context, check=False)
    check(unasked.returncode == 1 and "--yes" in unasked.stderr, unasked.stderr)
    with invitation(world, "--timeout", "1s") as (late, _):
        time.sleep(1.5)
    said = joined_in_vain(world, late)
    check("the token ended at" in said, said)
    said = joined_in_vain(world, late[:-9])
    check("the token is damaged" in said, said)
    with invitation(world) as (withdrawn, _):
        said = joined_in_vain(world, withdrawn, world.bank)
        check("made the token itself" in said, said)
    said = joined_in_vain(world, withdrawn)
    check("was withdrawn" in said, said)
    nothing_changed()

    with invitation(world) as (token, inviting):
        took = time.monotonic()
        joined = world.adit("join", "-", "--context", world.edge.context, "--import", "*", given=token)
        took = time.monotonic() - took
        invited, _ = inviting.communicate(timeout=60)
        check(inviting.returncode == 0, invited)
    fingerprints = [set(re.findall(r"(?:[0-9a-f]{4}-){4}[0-9a-f]{4}", said)) for said in (invited, joined)]
    check(len(fingerprints[0]) == 2 and fingerprints[0] == fingerprints[1], (invited, joined))
    eventually("it is served again", lambda: served(world.edge))
    said = joined_in_vain(world, token)
    check("was used already" in said, said)
    world.link("--import", "*")
    return f"linked by a token in {took:.1f} s; late, damaged, withdrawn, own and used ones changed nothing"


@contextlib.contextmanager
def invitation(world, *args):
    """A token of bank's, and the command that waits for its use; it is ended in the end."""
    command = [world.adit_program, "invite", "--context", world.bank.context, "--yes", "--import", "*", *args]
    inviting = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield inviting.stdout.readline().strip(), inviting
    finally:
        inviting.terminate()
        inviting.wait()


def joined_in_vain(world, token, cluster=None):
    """What is said to an operator, of edge if not told otherwise, whose token is of no use."""
    done = world.adit("join", token, "--context", (cluster or world.edge).context, check=False)
    check(done.returncode == 1 and "nothing was changed" in done.stderr and token not in done.stderr, done.stderr)
    return done.stderr


def opted_in(world):
    """Annotations of Services and Agents, and labels, export and import where an administrator lets them, and nowhere else."""
    bank, edge = world.bank, world.edge
    world.link("--no-import")
    eventually("the slice is gone", lambda: not world.slices(edge))
    theirs = not bank.names("crd", AGENT_KIND, "--ignore-not-found")
    if theirs:
        bank.create(agent_definition())
        eventually("Agents are known", lambda: bank.names(AGENT_KIND, "-A") is not None)
    for cluster in world.both:
        cluster.create(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (OPEN, CLOSED)))
    configure(bank, "zz-open.yaml", f"optIn:\n  - {{namespaces: [{OPEN}], exportTo: [edge]}}\n"
              f"exports:\n  - select: {{namespaces: [{CLOSED}], labels: {{kagenti.io/type: agent}}}}\n"
              f"    allow: [{{cluster: edge, namespace: {NAMESPACE}, serviceAccount: support-bot}}]\n")
    configure(edge, "zz-open.yaml", f"optIn:\n  - {{namespaces: [{OPEN}, {NAMESPACE}], importFrom: [bank]}}\n")
    try:
        exported = exports_by_annotation(world)
        imported = imports_by_annotation(world)
    finally:
        for cluster in world.both:
            cluster.delete("namespace", OPEN, CLOSED)
            configure(cluster, "zz-open.yaml", None)
        edge.kubectl("-n", NAMESPACE, "annotate", AGENT_KIND, "fraud-bot", "adit.dev/import-from-", check=False)
        if theirs:
            bank.delete("crd", AGENT_KIND)
        world.link("--import", "*")
    eventually("it is served again", lambda: served(edge))
    eventually("their slices are gone", lambda: len(world.slices(edge)) == 1)
    return f"{exported}; {imported}"


def said_once(world):
    """A link says once who may use all its imports, and makes Services: both are taken back as they were given."""
    bank, edge = world.bank, world.edge
    edge.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPEN}})
    elsewhere = client("support-bot")
    for one in elsewhere:
        one["metadata"]["namespace"] = OPEN
    edge.create(*elsewhere)
    world.export("fraud-bot", "--allow", f"{OPEN}/support-bot")
    bank.create(agent_service("made-there"))
    world.export("made-there", "--allow", "support-bot")
    made = lambda: edge.names("service", "-n", NAMESPACE, "made-there", "--ignore-not-found")
    try:
        edge.wait(OPEN, "pod/support-bot")
        check(not answered(edge), "a namespace that nobody allows is served")
        world.link("--import", "*", "--also-allow", f"{OPEN}/support-bot")
        eventually("a workload of another namespace is served", lambda: answered(edge))
        world.link("--import", "*", "--no-also-allow")
        eventually("it is refused again", lambda: not answered(edge))
        check(not made(), "a Service was made though nobody asked for it")
        world.link("--import", "*", "--create-services")
        eventually("a Service is made", made)
        world.link("--import", "*", "--no-create-services")
        eventually("it is gone", lambda: not made())
        check(edge.names("service", "-n", NAMESPACE, "fraud-bot"), "somebody else's Service is gone, too")
    finally:
        world.adit("export", f"{NAMESPACE}/fraud-bot", "--to", "edge", "--allow", f"{OPEN}/support-bot", "--remove", "--context", bank.context)
        world.withdraw("made-there")
        bank.delete("-n", NAMESPACE, "service/made-there")
        world.link("--import", "*", "--no-also-allow", "--no-create-services")
        edge.delete("namespace", OPEN)
    eventually("it is served", lambda: served(edge))
    return "alsoAllow served another namespace and was taken back; a Service was made and removed"


def answered(cluster):
    """Whether the client in another namespace gets fraud-bot's card."""
    ask = f"import urllib.request; urllib.request.urlopen('{url('fraud-bot')}/.well-known/agent-card.json', timeout=5)"
    return cluster.exec(OPEN, "support-bot", "python3", "-c", ask, check=False).returncode == 0


def exports_by_annotation(world):
    bank = world.bank
    bank.create(service("annotated", OPEN, annotations=TO_EDGE))
    bank.create(service("annotated", CLOSED, annotations=TO_EDGE))
    bank.create(service("labelled", CLOSED, labels={"kagenti.io/type": "agent"}))
    # Like kagent's controller, which makes the Service of an Agent and copies nothing at first.
    bank.create(agent("by-agent", OPEN, TO_EDGE))
    uid = bank.get(AGENT_KIND, "-n", OPEN, "by-agent")["metadata"]["uid"]
    owner = {"apiVersion": "kagent.dev/v1alpha2", "kind": "Agent", "name": "by-agent", "uid": uid, "controller": True}
    bank.create(service("by-agent", OPEN, ownerReferences=[owner]))
    wanted = {f"{OPEN}.annotated", f"{OPEN}.by-agent", f"{CLOSED}.labelled", IMPORT}
    found = lambda: {one.split("/", 1)[1] for one in bank.names("export.adit.dev")}
    eventually(f"exactly {sorted(wanted)} are exported", lambda: found() == wanted)
    told = eventually("an Event says why the other is not", lambda: [
        one["note"] for one in bank.events(CLOSED)
        if one["reason"] == "NotPermitted" and one["regarding"]["name"] == "annotated"
    ])
    bank.create(agent("by-agent", OPEN, {}))
    eventually("an Agent's export ends with its annotation", lambda: found() == wanted - {f"{OPEN}.by-agent"})
    return f"3 exported; Event: {told[0]!r}"


def imports_by_annotation(world):
    edge = world.edge
    # The Agent that owns the Service has the word: kagent's controller takes back what is written on the Service.
    edge.kubectl("-n", NAMESPACE, "annotate", AGENT_KIND, "fraud-bot", *(f"{key}={value}" for key, value in FROM_BANK.items()))
    world.imported()
    eventually("it is served", lambda: served(edge))
    # Ports of every shape; on the importing side a Service may name and number its own otherwise.
    edge.create(service("annotated", OPEN, annotations=FROM_BANK))
    edge.create(service("labelled", CLOSED, annotations=FROM_BANK))
    [filled] = eventually("the stub has its slice", lambda: world.slices(edge, "-n", OPEN))
    ports = sorted((port.get("name"), port.get("appProtocol")) for port in filled["ports"])
    check(ports == [("a2a", "kgateway.dev/a2a"), ("metrics", None)], filled["ports"])
    check(len({port["port"] for port in filled["ports"]}) == 2, filled["ports"])
    check(not world.slices(edge, "-n", CLOSED), "a namespace that was not opened has imported")
    told = eventually("an Event says why the other is not", lambda: [
        one["note"] for one in edge.events(CLOSED) if one["reason"] == "NotPermitted"
    ])
    edge.kubectl("-n", NAMESPACE, "annotate", AGENT_KIND, "fraud-bot", "adit.dev/import-from-")
    eventually("its slice is gone", lambda: not world.slices(edge, "-n", NAMESPACE))
    return f"imported with ports {ports}; Event: {told[0]!r}"


def service(name, namespace, **meta):
    """A Service without pods and with two ports, of which one says its protocol."""
    ports = [
        {"name": "a2a", "port": 8080, "appProtocol": "kgateway.dev/a2a"},
        {"name": "metrics", "port": 9090, "targetPort": 9091},
    ]
    metadata = {"name": name, "namespace": namespace} | meta
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}}


def agent(name, namespace, annotations):
    metadata = {"name": name, "namespace": namespace, "annotations": annotations}
    return {"apiVersion": "kagent.dev/v1alpha2", "kind": "Agent", "metadata": metadata, "spec": {"type": "BYO"}}

