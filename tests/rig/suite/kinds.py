"""Exports and imports of Services that are no plain ones: aliases, ExternalNames, what scales to zero, kagent's Agents."""

import json
import shlex
import threading
import time

from . import agents
from .agents import NAMESPACE, served
from .cluster import check, condition, eventually, run
from .faults import configure
from .joining import TO_EDGE, service

ALIAS, ALIAS_PORT = "bank-fraud-bot", 8083
SLEEPER, BY_NAME, ASKED = "sleeper", "by-name", "asked-for"
KEY = "zz-kinds.yaml"
# Longer than a pod of the agent takes to begin, on a busy machine.
WAIT_SECONDS = 60


def aliased(world):
    """An export under another name and port: one URL is valid in both clusters, for whom it is granted, until it is taken back."""
    bank, edge = world.bank, world.edge
    name, host = f"{NAMESPACE}/{ALIAS}", f"{ALIAS}.{NAMESPACE}:{ALIAS_PORT}"
    world.export("fraud-bot", "--as", f"{ALIAS}:{ALIAS_PORT}", "--make-alias", "--allow", "support-bot")
    world.adit("import", name, "--from", "bank", "--context", edge.context)
    # A tenant's annotation asks for the same name.
    configure(bank, KEY, f"optIn:\n  - {{namespaces: [{NAMESPACE}], exportTo: [edge]}}\n")
    bank.create(service("thief", NAMESPACE, annotations=TO_EDGE | {"adit.dev/export-as": ALIAS}))
    try:
        world.imported(ALIAS)
        eventually("the URL leads to bank from edge", lambda: card(edge, "support-bot", host))
        eventually("and on bank itself", lambda: card(bank, "deploy/fraud-bot", host))
        check(not card(edge, "stranger", host), "a pod without a grant is served")
        told = eventually("an Event says that the name is taken", lambda: told_of(bank, "thief", "NameTaken"))
        items = world.status(bank)["exports"]
        check(any(one["name"] == name and "from" in one["detail"] and not one["problem"] for one in items), items)
        world.withdraw(ALIAS)
        eventually("its Service is gone", lambda: gone(bank, ALIAS))
        eventually("it is refused", lambda: not card(edge, "support-bot", host))
        served(edge)
    finally:
        bank.delete("-n", NAMESPACE, "service/thief")
        configure(bank, KEY, None)
        world.withdraw(ALIAS)
        world.adit("import", name, "--remove", "--context", edge.context)
    eventually("its Service on edge is gone", lambda: gone(edge, ALIAS))
    return f"http://{host} answered on both, and nobody once it was taken back; Event: {told[0]!r}"


def woken(world):
    """A request waits for the first pod of a Service that is scaled to zero; an ExternalName leads to the Service that it names."""
    bank, edge = world.bank, world.edge
    allow = f"allow: [{{cluster: edge, namespace: {NAMESPACE}, serviceAccount: support-bot}}]"
    configure(bank, KEY, f"exports:\n  - {{service: {NAMESPACE}/{SLEEPER}, whenEmpty: hold, {allow}}}\n"
              f"  - {{service: {NAMESPACE}/{BY_NAME}, {allow}}}\n")
    bank.create(*agents.agent(SLEEPER, replicas=0), external_name(BY_NAME, f"fraud-bot.{NAMESPACE}.svc.cluster.local"))
    for name in (SLEEPER, BY_NAME):
        world.adit("import", f"{NAMESPACE}/{name}", "--from", "bank", "--context", edge.context)
    answers = []
    try:
        world.imported(BY_NAME)
        eventually("an ExternalName leads there", lambda: card(edge, "support-bot", f"{BY_NAME}.{NAMESPACE}:{agents.PORT}"))
        # Ready, though there is no pod: callers wait.
        world.imported(SLEEPER)
        began = time.monotonic()
        host = f"{SLEEPER}.{NAMESPACE}:{agents.PORT}"
        caller = threading.Thread(target=lambda: answers.append(card(edge, "support-bot", host, WAIT_SECONDS)))
        caller.start()
        time.sleep(2)
        check(not answers, "answered or refused while there is no pod")
        bank.scale(NAMESPACE, SLEEPER, 1)
        caller.join()
        seconds = time.monotonic() - began
        check(answers == [True], "the first request was refused")
        # Elsewhere it leads nowhere, and says so.
        bank.create(external_name(BY_NAME, "metadata.google.internal"))
        refused = eventually("another name is not followed", lambda: invalid(bank, BY_NAME, "UnsupportedService"))
    finally:
        configure(bank, KEY, None)
        bank.delete("-n", NAMESPACE, f"service/{BY_NAME}", f"service/{SLEEPER}", f"deployment/{SLEEPER}", f"serviceaccount/{SLEEPER}")
        for name in (SLEEPER, BY_NAME):
            world.adit("import", f"{NAMESPACE}/{name}", "--remove", "--context", edge.context)
    eventually("their Services are gone", lambda: gone(edge, SLEEPER) and gone(edge, BY_NAME))
    return f"the first request was answered after {seconds:.1f} s, by a pod that was not there; {refused!r}"


def asked_for(world):
    """An Agent of kagent without pods is made for an import that asks for it, and goes with it."""
    edge = world.edge
    agents.define_agents(edge)
    name = f"{NAMESPACE}/{ASKED}"
    world.export("fraud-bot", "--as", ASKED, "--allow", "support-bot")
    world.adit("import", name, "--from", "bank", "--kagent-agent", "Finds fraud.", "--context", edge.context)
    try:
        made = eventually("the Agent is made", lambda: edge.get(agents.AGENT_KIND, "-n", NAMESPACE, ASKED))
        check(made["spec"]["description"] == "Finds fraud." and made["spec"]["byo"]["deployment"]["replicas"] == 0, made)
        check(gone(edge, ASKED), "a Service of ours is in kagent's way")
        # As kagent's controller does.
        edge.create(agents.stub_service(edge, ASKED))
        world.imported(ASKED)
        eventually("it is served", lambda: card(edge, "support-bot", f"{ASKED}.{NAMESPACE}:{agents.PORT}"))
    finally:
        world.withdraw(ASKED)
        world.adit("import", name, "--remove", "--context", edge.context)
    eventually("the Agent is gone, and its Service with it", lambda: gone(edge, ASKED, agents.AGENT_KIND) and gone(edge, ASKED))
    return "made with its description, filled, and gone with the import"


def agents_of_others(world):
    """A Service that went away with an Agent comes back while it is imported; a caller made before its tool is found, and touched as it is said."""
    edge, name = world.edge, f"{NAMESPACE}/{ASKED}"
    agents.define_agents(edge)
    world.export("fraud-bot", "--as", ASKED, "--allow", "support-bot")
    tools = [{"type": "Agent", "agent": {"name": ASKED}}]
    message = f'failed to compile agent {NAMESPACE}/early-bot: Agent.kagent.dev "{ASKED}" not found'
    refusal = {"conditions": [{"type": "Accepted", "status": "False", "reason": "ReconcileFailed", "message": message}]}
    early = agents.thing(
        "kagent.dev/v1alpha2", "Agent", "early-bot", spec={"type": "Declarative", "declarative": {"tools": tools}}, status=refusal,
    )
    edge.create(early)
    world.adit("import", name, "--from", "bank", "--context", edge.context)
    host = f"{ASKED}.{NAMESPACE}:{agents.PORT}"
    try:
        world.imported(ASKED)
        eventually("it is served", lambda: card(edge, "support-bot", host))
        # As kagent does with a Service that it finds under the name of its Agent.
        agents.stub(edge, ASKED)
        eventually("it is served with the Agent's Service", lambda: card(edge, "support-bot", host))
        said = doctor(world, name, f"{NAMESPACE}/early-bot")
        found = next(one for one in said["findings"] if one["outcome"] == "failed")
        check(found["hop"] == "caller" and "does not look again" in found["seen"], said)
        before = edge.get(agents.AGENT_KIND, "-n", NAMESPACE, "early-bot")["metadata"].get("labels", {})
        run(*shlex.split(found["mend"]))
        after = edge.get(agents.AGENT_KIND, "-n", NAMESPACE, "early-bot")["metadata"]["labels"]
        check(after != before, after)
        # kagent, which does see a label, accepts it now.
        early["status"]["conditions"][0] |= {"status": "True", "message": ""}
        edge.create(early)
        check("early-bot" not in str(doctor(world, name, f"{NAMESPACE}/support-bot")["findings"]), "it is still said to be early")
        edge.delete("-n", NAMESPACE, f"{agents.AGENT_KIND}/{ASKED}", f"deployment/{ASKED}")
        eventually("kagent's Service is gone", lambda: not owned(edge, ASKED))
        eventually("ours is back, and served", lambda: card(edge, "support-bot", host))
    finally:
        edge.delete("-n", NAMESPACE, agents.AGENT_KIND, "early-bot", ASKED)
        edge.delete("-n", NAMESPACE, f"deployment/{ASKED}", f"serviceaccount/{ASKED}")
        world.withdraw(ASKED)
        world.adit("import", name, "--remove", "--context", edge.context)
    eventually("its Service is gone", lambda: gone(edge, ASKED))
    return f"served again by a Service of ours; {found['mend']!r}"


def doctor(world, service, caller):
    done = world.adit("doctor", service, *world.contexts(), "--from", caller, "--json", check=False)
    return json.loads(done.stdout)[0]


def owned(cluster, name) -> bool:
    """True if the Service is still that of an Agent."""
    return any("ownerReferences" in one["metadata"] and one["metadata"]["ownerReferences"][0]["kind"] == "Agent"
               for one in cluster.get("services", "-n", NAMESPACE) if one["metadata"]["name"] == name)


def card(cluster, pod, host, seconds=5) -> bool:
    """Whether a pod gets a card from this host."""
    ask = f"import urllib.request; urllib.request.urlopen('http://{host}/.well-known/agent-card.json', timeout={seconds})"
    return cluster.exec(NAMESPACE, pod, "python3", "-c", ask, check=False).returncode == 0


def gone(cluster, name, kind="service") -> bool:
    return not cluster.names(kind, "-n", NAMESPACE, name, "--ignore-not-found")


def told_of(cluster, name, reason):
    """What Events of this reason say of a Service."""
    return [one["note"] for one in cluster.events(NAMESPACE) if one["reason"] == reason and one["regarding"]["name"] == name]


def invalid(cluster, name, reason):
    """The message of an Export that is not valid for this reason."""
    status, why, message = condition(cluster.get("export.adit.dev", f"{NAMESPACE}.{name}"), "Valid")
    return status == "False" and why == reason and message


def external_name(name, to):
    return agents.thing("v1", "Service", name, spec={"type": "ExternalName", "externalName": to})
