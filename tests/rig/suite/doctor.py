"""Faults that are mended with nothing but what `adit doctor` prints, done to the letter.

Each is seeded while all is well. The doctor must name the hop at which a request ends, and what it says mends it must do so: a
command is run as it stands, and what a person would do by hand is done as the line says.
"""

import contextlib
import json
import re
import shlex
import tempfile
import time
from pathlib import Path

from . import agents, certificates, seeds
from .agents import NAMESPACE, served
from .cluster import Failure, check, eventually, run
from .faults import restart
from .world import SYSTEM

SERVICE = "fraud-bot"
# Words of the mend where packets are lost.
UDP = "UDP port 7843"
CALLER = f"{NAMESPACE}/support-bot"
# What a controller, a link or a node takes to say so.
SAID_SECONDS = 30
# What the way back takes: a link is dialled again, a pod starts.
MENDED_SECONDS = 60


class Case:
    """A fault: how it is seeded, the hop at which it is found, words of what was seen, and who mends it where that is no command.

    `then` are those that are found one after the other when the one before is mended, where several are seeded.
    """

    def __init__(self, name, hop, seed, seen="", mend=None, caller=CALLER, then=(), options=()):
        self.name, self.hop, self.seed, self.seen, self.mend, self.caller = name, hop, seed, seen, mend, caller
        self.then, self.options = then, options


def ask(world, caller=CALLER, options=()):
    """The exit status of the doctor, and what it found."""
    contexts = ["--context", world.edge.context, "--context", world.bank.context]
    done = world.adit("doctor", f"{NAMESPACE}/{SERVICE}", *contexts, "--from", caller, "--json", *options, check=False)
    if done.returncode == 2 and not done.stdout:
        raise Failure(f"adit doctor: {done.stderr}")
    [found] = json.loads(done.stdout)
    return done.returncode, found


def first(found):
    """The first hop that fails, as it was found."""
    return next((one for one in found["findings"] if one["outcome"] == "failed"), None)


def well(world, caller=CALLER):
    status, found = ask(world, caller)
    check(status == 0, f"exit {status}: {first(found) or found}")
    return True


def literally(world, text):
    """Runs a command as it was printed: a comment behind it is for the reader."""
    command = re.sub(r"\s+# .*$", "", text)
    check(command.split()[0] in ("adit", "kubectl"), f"no command: {text}")
    words = shlex.split(command)
    if words[:2] == ["adit", "upgrade"]:
        # It asks whoever is at a terminal, who says yes.
        words.append("--yes")
    return run(*([world.adit_program] if words[0] == "adit" else ["kubectl"]), *words[1:])


@contextlib.contextmanager
def stub_deleted(world):
    # With its Agent: where that is left, kagent makes the Service again, and Adit none.
    world.edge.delete("-n", NAMESPACE, f"{agents.AGENT_KIND}/{SERVICE}", f"service/{SERVICE}", f"deployment/{SERVICE}")
    yield
    # The stub that kagent makes takes the place of the Service that an import by name has made.
    world.adit("import", f"{NAMESPACE}/{SERVICE}", "--remove", "--context", world.edge.context)
    world.edge.delete("-n", NAMESPACE, f"service/{SERVICE}")
    agents.stub(world.edge, SERVICE)


@contextlib.contextmanager
def pods_here(world):
    world.edge.kubectl("-n", NAMESPACE, "scale", f"deployment/{SERVICE}", "--replicas=1")
    world.edge.rolled_out(NAMESPACE, f"deployment/{SERVICE}")
    yield
    world.edge.scale(NAMESPACE, SERVICE, 0)


@contextlib.contextmanager
def other_port(world):
    # Without its old ports, which a patch by name would keep.
    world.edge.kubectl(
        "-n", NAMESPACE, "patch", "service", SERVICE, "--type=json",
        "-p", json.dumps([{"op": "replace", "path": "/spec/ports", "value": [{"name": "web", "port": 9090, "protocol": "TCP"}]}]),
    )
    yield
    world.edge.delete("-n", NAMESPACE, f"service/{SERVICE}")
    agents.stub(world.edge, SERVICE)


@contextlib.contextmanager
def foreign(world):
    world.edge.create(seeds.hand_written(SERVICE, "10.244.0.250"))
    yield


@contextlib.contextmanager
def host_caller(world):
    _, pod = agents.client("support-bot")
    pod["metadata"]["name"] = "host-bot"
    pod["spec"]["hostNetwork"] = True
    world.edge.create(pod)
    world.edge.wait(NAMESPACE, "pod/host-bot")
    yield
    world.edge.delete("-n", NAMESPACE, "pod/host-bot")


def own_network(world, text):
    """As it says: a pod's network cannot be changed, so it is made again."""
    check("`hostNetwork: false`" in text, text)
    world.edge.delete("-n", NAMESPACE, "pod/host-bot")
    _, pod = agents.client("support-bot")
    pod["metadata"]["name"] = "host-bot"
    world.edge.create(pod)
    world.edge.wait(NAMESPACE, "pod/host-bot")


@contextlib.contextmanager
def kept_in(world):
    spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"protocol": "UDP", "port": 53}]}]}
    world.edge.create(agents.thing("networking.k8s.io/v1", "NetworkPolicy", "only-dns", spec=spec))
    yield
    world.edge.delete("-n", NAMESPACE, "networkpolicy/only-dns")


def let_out(world, text):
    """The rule that the line names is added where it says."""
    cidr = re.search(r"cidr: ([0-9a-f.:]+/\d+)", text)[1]
    rule = [{"op": "add", "path": "/spec/egress/-", "value": {"to": [{"ipBlock": {"cidr": cidr}}]}}]
    world.edge.kubectl("-n", NAMESPACE, "patch", "networkpolicy", "only-dns", "--type=json", "-p", json.dumps(rule))


@contextlib.contextmanager
def for_others_here(world):
    world.adit("import", f"{NAMESPACE}/{SERVICE}", "--from", "bank", "--allow", "nobody-here", "--context", world.edge.context)
    yield
    world.adit("import", f"{NAMESPACE}/{SERVICE}", "--remove", "--context", world.edge.context)


@contextlib.contextmanager
def withdrawn(world):
    world.withdraw(SERVICE)
    yield
    world.export(SERVICE, "--allow", "support-bot")


@contextlib.contextmanager
def for_others_there(world):
    with seeds.denied(world, SERVICE):
        yield


@contextlib.contextmanager
def pods_gone(world):
    world.bank.scale(NAMESPACE, SERVICE, 0)
    yield
    world.bank.scale(NAMESPACE, SERVICE, 2)


@contextlib.contextmanager
def bad_key_and_withdrawn(world):
    """Two at once: what withdrew the export is a key that takes the whole ConfigMap out of force."""
    with withdrawn(world), seeds.bad_configuration(world, None):
        yield


@contextlib.contextmanager
def meshed(world):
    """A mesh is asked to take the Service over, and does."""
    label = "solo.io/service-takeover"
    world.edge.kubectl("-n", NAMESPACE, "label", "service", SERVICE, f"{label}=true")
    world.edge.create(seeds.hand_written(SERVICE, "10.244.0.250", "by-mesh"))
    yield
    world.edge.kubectl("-n", NAMESPACE, "label", "service", SERVICE, f"{label}-")


@contextlib.contextmanager
def no_daemon_here(world):
    with seeds.no_daemons("edge")(world, None):
        yield


@contextlib.contextmanager
def rewritten(world):
    """What pods send to the addresses of imports comes to the node from its own address, as some networks do it."""
    [node] = seeds.addresses(world.edge)
    rule = ("INPUT", "-p", "tcp", "-d", "198.18.0.0/15", "-j", "SNAT", "--to-source", node)
    world.on("edge-1", "iptables", "-t", "nat", "-I", *rule)
    try:
        for _ in range(3):
            agents.refused(world.edge)
        yield
    finally:
        world.on("edge-1", "iptables", "-t", "nat", "-D", *rule)


@contextlib.contextmanager
def no_definitions(world):
    """Somebody has deleted a kind, and with it all Imports."""
    world.edge.delete("crd", "imports.adit.dev")
    yield


@contextlib.contextmanager
def new_authority(world):
    """bank has another CA, and nobody has swapped bundles."""
    with tempfile.TemporaryDirectory() as folder:
        other = certificates.made(world, Path(folder) / "other", "1825d")
    certificates.keep(world, other, [])
    # At once, and not when their certificates are due.
    restart(world.bank, "daemonset/adit-node")
    yield


@contextlib.contextmanager
def both(world, *seeded):
    with contextlib.ExitStack() as stack:
        for seed in seeded:
            stack.enter_context(seed(world))
        yield


def pair(*seeded):
    """Several at once."""
    return lambda world: both(world, *seeded)


def key_taken_out(world, text):
    check("edit configmap adit" in text, text)
    patch = {"data": {"zz-table.yaml": None}}
    world.bank.kubectl("-n", SYSTEM, "patch", "configmap", "adit", "--type=merge", "-p", json.dumps(patch))


def of(seed):
    """A seed of the table of faults."""
    return lambda world: seed(world, SERVICE)


class Network(Case):
    """A fault of the network: the seed's own end is the mend that the line asks for, and `mend` are words of the line."""


CASES = [
    # First: with the Imports goes the word that a Service is theirs, and one that others have filled meanwhile is left alone.
    Case("a kind's definition is gone", "installation", no_definitions, "imports.adit.dev"),
    Case("the stub Service is missing", "service", stub_deleted, "there is no Service"),
    Case("the Service selects pods of this cluster", "service", pods_here, "finds pods of this cluster"),
    Case("the Service has another port", "service", other_port, "web 9090"),
    Case("another slice fills the Service", "endpoints", foreign, "mesh.example"),
    Case("the caller is on its node's network", "caller", host_caller, "hostNetwork", own_network, f"{NAMESPACE}/host-bot"),
    Case("a NetworkPolicy keeps the caller in", "caller", kept_in, "only-dns", let_out),
    Case("the import is for others", "import-grant", for_others_here, "not for"),
    Case("the export is withdrawn", "export", withdrawn, "does not export"),
    Case("the daemon is absent on the caller's node", "installation", no_daemon_here, "no pods"),
    Case("a mesh fills the Service", "endpoints", meshed, "solo.io/service-takeover"),
    Case("bank has a new CA, which was not swapped", "link", new_authority, "edge refuses"),
    Network("the caller's address is rewritten", "caller", rewritten, "address of nobody", "rewriting (SNAT"),
    Case("a bad key, and the export is withdrawn", "peer-installation", bad_key_and_withdrawn, "zz-table.yaml", key_taken_out,
         then=[Case("the rest", "export", None, "does not export")]),
    Case("the stub Service is missing, and the agent is scaled to nothing", "service", pair(stub_deleted, pods_gone), "there is no Service",
         then=[Case("the rest", "backend", None, "no pod in bank")]),
    Case("bank has unlinked edge, and the export is withdrawn", "link", pair(withdrawn, of(seeds.unlinked("bank", "edge"))), "bank has no link",
         then=[Case("the rest", "export", None, "does not export")]),
    Case("the export is for others", "export-grant", for_others_there, "not for"),
    Case("the agent is scaled to nothing", "backend", pods_gone, "no pod in bank"),
    Case("nobody listens at the Service's port", "backend", of(seeds.nobody_listens), "nobody listens"),
    Case("the Service names a port that no pod has", "backend", of(seeds.no_such_port), "no-such-port"),
    Case("edge has a wrong bundle for bank", "link", of(seeds.wrong_bundle("edge", "bank")), "edge refuses"),
    Case("bank has a wrong bundle for edge", "link", of(seeds.wrong_bundle("bank", "edge")), "bank refuses"),
    Case("bank has unlinked edge", "link", of(seeds.unlinked("bank", "edge")), "bank has no link"),
    Case("edge has unlinked bank", "link", of(seeds.unlinked("edge", "bank")), "edge has no link"),
    Network("UDP is lost both ways", "link", of(seeds.cut), "neither edge nor bank", UDP),
    Network("UDP from edge to bank is lost", "link", of(seeds.cut_outward), "from edge to bank are lost", UDP),
    Network("UDP from bank to edge is lost", "link", of(seeds.cut_inward), "from bank to edge are lost", UDP),
]


def found_at(world, case):
    """Waits until the doctor finds the fault at its hop, and says what was seen; gives what mends it."""
    def is_found():
        status, found = ask(world, case.caller, case.options)
        failed = first(found)
        check(status == 1 and failed, f"exit {status}: {found['findings']}")
        check(failed["hop"] == case.hop and case.seen in failed["seen"], failed)
        return failed

    return eventually(f"the doctor finds: {case.name}", is_found, SAID_SECONDS)


def doctor_mends(world):
    """Faults of every hop are found by `adit doctor`, and mended by doing what it prints."""
    eventually("all is well before", lambda: well(world), MENDED_SECONDS)
    chosen = [one for one in CASES if not world.chosen_faults or any(word in one.name for word in world.chosen_faults)]
    wrong, lines = [], []
    for case in chosen:
        began = time.monotonic()
        try:
            lines.append(attempt(world, case))
            print(f"{case.name}: {lines[-1]} ({time.monotonic() - began:.0f} s)", flush=True)
        except Failure as failure:
            wrong.append(f"{case.name}: {failure}")
            print(wrong[-1], flush=True)
        eventually(f"all is well after: {case.name}", lambda: well(world), MENDED_SECONDS)
    check(not wrong, "\n".join(wrong))
    eventually("it is served", lambda: served(world.edge))
    return f"{len(chosen)} faults found at their hop and mended"


def attempt(world, case):
    with case.seed(world):
        for one in (case, *case.then):
            one.caller = case.caller
            said = found_at(world, one)["mend"]
            if isinstance(one, Network):
                check(one.mend in said, said)
                return said
            (one.mend or literally)(world, said)
        eventually("mended", lambda: well(world, case.caller), MENDED_SECONDS)
        return said


def doctor_alone(world):
    """An export and a link are well or not, each by itself."""
    def said(status, *args):
        done = world.adit("doctor", *args, "--json", check=False)
        check(done.returncode == status, f"{args}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    bank, service = ["--context", world.bank.context], f"{NAMESPACE}/{SERVICE}"
    eventually("all is well", lambda: said(0, "link", *world.contexts()) and said(0, "export", service, *bank))
    check(len(said(0, "link", *world.contexts())) == 2, "not both ends are told")
    with pods_gone(world):
        [export, *links] = eventually("the export is not", lambda: said(1, "export", service, *bank))
        check(first(export)["hop"] == "backend" and all(one["isAnswered"] for one in links), (export, links))
        said(0, "link", "edge", *bank)
        literally(world, first(export)["mend"])
        eventually("the export is mended", lambda: said(0, "export", service, *bank))
    with seeds.unlinked("bank", "edge")(world, None):
        [link] = eventually("the link is not", lambda: said(1, "link", "bank", "--context", world.edge.context))
        check(first(link)["hop"] == "link", link)
        ends = said(1, "link", *world.contexts())
        literally(world, next(filter(None, map(first, ends)))["mend"])
        eventually("the link is mended", lambda: said(0, "link", *world.contexts()))
    eventually("it is served", lambda: served(world.edge))
    return f"an export and a link by themselves: {first(export)['seen']!r}, {first(link)['seen']!r}"
