"""The TrustUsBank scenario: what it promises while nothing breaks."""

import json
import subprocess
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from . import agents
from .agents import NAMESPACE, converse, fetch, refused, served
from .cluster import Skip, check, condition, eventually, run
from .world import IMPORT, OURS, OVERLAY, SYSTEM

# Many more than the kernel refuses in a second, and how long all of them may take on a busy machine of two cores.
CROWD = 1000
CROWD_SECONDS = 5
# The promise for an empty pair of clusters.
PROMISED_SECONDS = 60


def from_nothing(world):
    """Two commands make the scenario answer, within a minute of an empty pair of clusters."""
    # Where kagent runs its kind is there.
    agents.define_agents(world.edge)
    began = time.monotonic()
    linked = world.install_both("--import", NAMESPACE)
    ready = time.monotonic() - began
    check(f"may fill Services in namespace {NAMESPACE} that cannot have pods" in linked, linked)
    for cluster in world.both:
        cluster.create(agents.namespace())
    world.bank.create(*agents.agent("fraud-bot", replicas=2))
    agents.stub(world.edge, "fraud-bot")
    world.edge.create(*agents.client("support-bot"), *agents.client("stranger"))
    world.export("fraud-bot", "--allow", "support-bot")
    for pod in ("support-bot", "stranger"):
        world.edge.wait(NAMESPACE, f"pod/{pod}")
    eventually("support-bot gets an answer", lambda: served(world.edge))
    seconds = time.monotonic() - began
    check(seconds < PROMISED_SECONDS, f"took {seconds:.0f} s")
    check("up" in linked.lower(), f"adit link says nothing of the link: {linked}")
    world.bank.rolled_out(NAMESPACE, "deployment/fraud-bot")
    world.installed()
    again = world.install_both()
    check(again.count("applied already") == 2 and again.count("nothing to change") == 2, again)
    return f"installed and linked after {ready:.0f} s, first answer {seconds:.0f} s after the first command"


def restore(world):
    """The scenario as `from_nothing` has made it, after a case that failed halfway."""
    for cluster in world.both:
        world.install(cluster)
    world.bank.create(*agents.agent("fraud-bot", replicas=2))
    agents.stub(world.edge, "fraud-bot")
    world.export("fraud-bot", "--allow", "support-bot")
    world.bank.rolled_out(NAMESPACE, "deployment/fraud-bot")
    world.installed()
    eventually("it is served again", lambda: served(world.edge))


def agents_converse(world):
    """A client of the SDK gets card, message and stream."""
    card = converse(world.edge, "card", {"path": "/.well-known/agent-card.json"})["card"]
    check(card["supportedInterfaces"][0]["url"] == agents.url("fraud-bot") + "/", card)
    answer = converse(world.edge, "send", {"text": "echo hello from edge"})["answer"]
    check(answer == "message echo hello from edge", answer)
    # Without a gate, which a second connection would have to open, at perhaps another agent.
    streamed = converse(world.edge, "stream", {"count": 20, "interval_ms": 50, "gate": 0})
    chunks = [f"artifact chunk {number}" for number in range(20)]
    check([word for word in streamed["events"] if word.startswith("artifact")] == chunks, streamed)
    check(streamed["result"]["state"] == "completed", streamed)
    return "card unchanged, a message, a stream of 20 artifacts"


def nothing_in_clear(world):
    """Between the clusters there is QUIC on one UDP port, and no agent byte in clear."""
    if not world.rig_program:
        raise Skip("only on the rig there is a device that all traffic between the clusters passes")
    marker = f"marker{uuid.uuid4().hex}"
    with TemporaryDirectory() as folder:
        between, inside = Path(folder) / "wan", Path(folder) / "pods"
        # This machine's own kubectl crosses the same link.
        captures = [
            capture("rig-lan-edge", "wan", between, "ip and not host 172.18.0.1"),
            capture("rig-edge-1", "any", inside, "tcp port 8080"),
        ]
        time.sleep(1)
        try:
            answer = converse(world.edge, "send", {"text": f"echo {marker}"})["answer"]
            time.sleep(1)
        finally:
            for tcpdump in captures:
                tcpdump.terminate()
                tcpdump.wait()
        check(marker in answer, answer)
        check(marker.encode() in inside.read_bytes(), "the capture of the pods' side does not show the marker either")
        for secret in (marker, "fraud-bot", "agent-card"):
            check(secret.encode() not in between.read_bytes(), f"{secret!r} crosses in clear")
        total = len(packets(between, ""))
        others = packets(between, "not (udp port 7843)")
        check(total > 10, f"only {total} packets crossed")
        check(not others, "other traffic crosses:\n" + "\n".join(others[:10]))
    return f"{total} packets crossed, all UDP 7843; marker seen at the pod, not between the clusters"


def capture(netns, device, file, expression):
    command = ["ip", "netns", "exec", netns, "tcpdump", "-U", "-s", "0", "-ni", device, "-w", file, expression]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def packets(file, expression):
    return run("tcpdump", "-nr", file, expression).splitlines()


def not_granted(world):
    """A pod without a grant is refused, and its node says why."""
    result = refused(world.edge, pod="stranger")
    check(result["seconds"] < 5, f"refused only after {result['seconds']} s")
    reason = f"no grant lets {NAMESPACE}/stranger@edge use {NAMESPACE}/fraud-bot"
    eventually("adit status on the node says so", lambda: reason in world.node_status(world.edge), 15)
    served(world.edge)
    return f"stranger: {result['error']} after {result['seconds']} s; status: {reason!r}"


def host_network(world):
    """A pod on the host's network, whose address is its node's, is refused at once, and log and status say why."""
    _, pod = agents.client("support-bot")
    pod["metadata"]["name"] = name = "on-host"
    pod["spec"] |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    world.edge.create(pod)
    try:
        world.edge.wait(NAMESPACE, f"pod/{name}")
        result = refused(world.edge, pod=name)
        check(result["seconds"] < 5, f"refused only after {result['seconds']} s")
        reason = "is an address of a node"
        eventually("adit status on the node says so", lambda: reason in world.node_status(world.edge), 15)
        logged = [line for line in world.node_log(world.edge).splitlines() if reason in line]
        check(any("source-unknown" in line for line in logged), world.node_log(world.edge))
    finally:
        world.edge.delete("-n", NAMESPACE, f"pod/{name}")
    served(world.edge)
    return f"{result['error']} after {result['seconds']} s; source-unknown: {reason}"


def withdrawn(world):
    """Removing the export leaves the import in sight: refused, not ready, with its reason, until somebody deletes it."""
    before = world.imported()["spec"]["addresses"]
    world.withdraw("fraud-bot")
    began = time.monotonic()
    said = eventually("the Import says so", lambda: not_ready(world, "Withdrawn"), 10)
    metric = eventually("the metric is 0", lambda: import_ready(world) in ("0", "unknown") and import_ready(world), 10)
    seconds = time.monotonic() - began
    told = eventually("an Event says so", lambda: told_of(world.edge, "Withdrawn"), 10)
    result = refused(world.edge)
    check(result["seconds"] < 2, f"refused only after {result['seconds']} s")
    problems = [one["problem"] or "" for one in world.status(world.edge)["imports"]]
    check(any("(Withdrawn)" in problem for problem in problems), f"adit status does not say it: {problems}")
    world.export("fraud-bot", "--allow", "support-bot")
    after = world.imported()["spec"]["addresses"]
    eventually("it is served again", lambda: served(world.edge))
    check(before == after, f"the address changed from {before} to {after}")
    return (
        f"said {seconds:.1f} s after, {result['error']}; {said}; adit_import_ready {metric}; "
        f"{told} Event; same address again"
    )


def displaced(world):
    """A slice that somebody writes by hand takes the import's place: condition, Event, metric and status say so until it is gone."""
    name = "by-hand"
    # Nobody is there.
    endpoint = {"addresses": ["10.244.0.250"], "conditions": {"ready": True}}
    meta = {"labels": {"kubernetes.io/service-name": "fraud-bot", "endpointslice.kubernetes.io/managed-by": "mesh.example"}}
    ports = [{"name": "http", "port": agents.PORT, "protocol": "TCP"}]
    given = agents.thing(
        "discovery.k8s.io/v1", "EndpointSlice", name, meta=meta, addressType="IPv4", endpoints=[endpoint], ports=ports,
    )
    world.edge.create(given)
    began = time.monotonic()
    try:
        said = eventually("the Import says so", lambda: not_ready(world, "ServiceHasOwnEndpoints"), 10)
        check(f"EndpointSlice {name} (managed by mesh.example)" in said, said)
        metric = eventually("the metric is 0", lambda: import_ready(world) in ("0", "unknown") and import_ready(world), 10)
        eventually("an Event says so", lambda: told_of(world.edge, "ServiceHasOwnEndpoints"), 10)
        seconds = time.monotonic() - began
        problems = [one["problem"] or "" for one in world.status(world.edge)["imports"]]
        check(any("(ServiceHasOwnEndpoints)" in problem for problem in problems), f"adit status does not say it: {problems}")
    finally:
        world.edge.delete("-n", NAMESPACE, f"endpointslice/{name}")
    world.imported()
    eventually("it is served again", lambda: served(world.edge))
    return f"all said within {seconds:.1f} s, metric {metric}: {said}; served again when the slice was gone"


def not_ready(world, *reasons):
    """The condition of the Import, once it is one of these reasons for which it is not ready."""
    status, reason, message = condition(world.edge.get("import.adit.dev", IMPORT), "Ready")
    return status == "False" and reason in reasons and f"Ready={status} {reason}: {message}"


def export_not_ready(world, *reasons):
    """The condition of the Export over there, once it is one of these reasons for which it is not ready."""
    status, reason, message = condition(world.bank.get("export.adit.dev", IMPORT), "Ready")
    return status == "False" and reason in reasons and f"Ready={status} {reason}: {message}"


def told_of(cluster, reason):
    """The number of Events about the agent that have this reason."""
    return sum(event.get("reason") == reason for event in cluster.events(NAMESPACE))


def import_ready(world):
    """The metric `adit_import_ready` of the agent on a node of edge, where this machine can read it."""
    if not world.rig_program:
        return "unknown"
    page = world.on(world.edge.names("nodes")[0].split("/")[1], "curl", "-s", "http://127.0.0.1:7844/metrics")
    lines = [line for line in page.splitlines() if line.startswith("adit_import_ready{") and "fraud-bot" in line]
    return lines[0].split()[-1] if lines else "absent"


def no_backend(world):
    """When every pod of the agent is gone a thousand callers are refused at once, and served again when one returns."""
    world.bank.scale(NAMESPACE, "fraud-bot", 0)
    eventually("the pods are gone", lambda: not world.bank.names("pods", "-n", NAMESPACE, "-l", "kagent=fraud-bot"))

    said = eventually("the Import says so", lambda: not_ready(world, "NoBackend"), 10)
    metric = eventually("the metric is 0", lambda: import_ready(world) in ("0", "unknown") and import_ready(world), 10)
    there = eventually("the Export says so", lambda: export_not_ready(world, "NoBackend"), 10)
    eventually("an Event there says so", lambda: told_of(world.bank, "NoBackend"), 10)
    problems = [one["problem"] or "" for one in world.status(world.bank)["exports"]]
    check(any("(NoBackend)" in problem for problem in problems), f"adit status of bank does not say it: {problems}")
    result = refused(world.edge)
    check(result["seconds"] < 2, f"refused only after {result['seconds']} s")
    at_once = crowd_is_refused(world, f"bank offers no ready backend of {NAMESPACE}/fraud-bot")
    problem = [one["problem"] for one in world.status(world.edge)["imports"]]
    check(any(problem), f"adit status finds nothing wrong: {problem}")
    world.bank.scale(NAMESPACE, "fraud-bot", 2)
    world.bank.rolled_out(NAMESPACE, "deployment/fraud-bot")
    began = time.monotonic()
    eventually("it is served again", lambda: served(world.edge))
    again = time.monotonic() - began
    world.imported()
    eventually("the Export says so", lambda: condition(world.bank.get("export.adit.dev", IMPORT), "Ready")[0] == "True", 15)
    return (
        f"{result['error']} after {result['seconds']} s; {at_once}; {said}; there {there}; adit_import_ready {metric}; "
        f"served {again:.1f} s after the pods were ready"
    )


def crowd_is_refused(world, reason) -> str:
    """A thousand callers at once reach our listener, though no endpoint is ready, and are refused by it with this reason."""
    [filled] = world.slices(world.edge, "-n", NAMESPACE)
    [conditions] = [one["conditions"] for one in filled["endpoints"]]
    check(conditions == {"ready": False, "serving": True, "terminating": True}, conditions)
    # kube-proxy has been told, and has it.
    eventually("callers reach the listener", lambda: "eset" in refused(world.edge)["error"])
    before = refusals(world)
    seen = agents.crowd(world.edge, CROWD)
    check(seen["ends"] == {"ECONNRESET": CROWD}, seen)
    check(seen["slowest"] < CROWD_SECONDS, seen)
    check(refusals(world) == before + CROWD, f"{refusals(world) - before} were counted of {CROWD}")
    logged = world.node_log(world.edge)
    check(reason in logged, f"no line says {reason!r}:\n{logged}")
    return f"{CROWD} at once: {seen['ends']}, the last after {seen['slowest']} s, all counted"


def refusals(world) -> int:
    """The number of callers that the node of edge has refused."""
    imports = json.loads(world.node_status(world.edge, None, "--json"))["imports"]
    [ours] = [one for one in imports if one["service"] == f"{NAMESPACE}/fraud-bot"]
    return sum(port["streams"]["refused"] for port in ours["ports"])


def there_and_back(world):
    """edge → bank → edge: an agent asks its neighbour, and posts a notification to a webhook on edge."""
    world.bank.create(*agents.agent("triage-bot"))
    agents.stub(world.edge, "triage-bot")
    world.edge.create(*agents.webhook())
    world.bank.rolled_out(NAMESPACE, "deployment/triage-bot")
    world.edge.rolled_out(NAMESPACE, "deployment/webhook")
    world.export("triage-bot", "--allow", "support-bot")
    world.export("webhook", "--allow", "fraud-bot", owner=world.edge, to="bank")
    # No Service of that name on bank: this makes one.
    world.adit("import", f"{NAMESPACE}/webhook", "--from", "edge", "--context", world.bank.context)
    world.imported("webhook", world.bank)
    world.imported("triage-bot")
    eventually("triage-bot answers", lambda: served(world.edge, name="triage-bot"))

    escalated = converse(world.edge, "send", {"text": f"escalate {agents.url('triage-bot')} echo help"})["answer"]
    check(escalated == "message escalated message echo help", escalated)
    token = uuid.uuid4().hex
    pushed = converse(world.edge, "push", {"webhook": agents.url("webhook") + "/hook", "token": token, "count": 3})
    check(pushed["result"]["state"] == "completed", pushed)

    def posts():
        found = fetch(world.edge, name="webhook").get("body", "")
        return found.count(token) and '"TASK_STATE_COMPLETED"' in found and found.count(token)

    count = eventually("the webhook has been told of the end", posts)
    world.adit("import", f"{NAMESPACE}/webhook", "--remove", "--context", world.bank.context)
    eventually("its Service is gone from bank", lambda: not world.bank.names("service", "-n", NAMESPACE, "webhook", "--ignore-not-found"))
    for name, owner in (("triage-bot", world.bank), ("webhook", world.edge)):
        world.withdraw(name, owner)
        owner.delete("-n", NAMESPACE, f"deployment/{name}", f"service/{name}")
    world.edge.delete("-n", NAMESPACE, f"{agents.AGENT_KIND}/triage-bot", "service/triage-bot", "deployment/triage-bot")
    return f"escalated to triage-bot; {count} notifications reached the webhook"


def nothing_by_hand(world):
    """No NodePort, no LoadBalancer; slices of stubs are Adit's; what is applied or linked again changes nothing."""
    for cluster in world.both:
        kinds = {one["spec"]["type"] for one in cluster.get("services", "-A")}
        check(kinds == {"ClusterIP"}, f"{cluster.name} has Services of types {kinds}")
    slices = world.edge.get("endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=fraud-bot")
    full = [one for one in slices if one.get("endpoints")]
    key, value = OURS.split("=")
    check([one["metadata"]["labels"][key] for one in full] == [value], full)

    def versions():
        kinds = "daemonset,deployment,configmap,serviceaccount,service,networkpolicy"
        return {
            (cluster.name, one["kind"], one["metadata"]["name"]): one["metadata"].get("generation") or one["metadata"]["resourceVersion"]
            for cluster in world.both for one in cluster.get(kinds, "-n", SYSTEM)
        }

    # Whoever applies the same by another program is noted as one more manager of the fields, once.
    for cluster in world.both:
        cluster.kubectl("apply", "--server-side", "-k", OVERLAY)
    before = versions()
    for cluster in world.both:
        cluster.kubectl("apply", "--server-side", "-k", OVERLAY)
    world.install_both()
    said = world.link()
    exported = world.export("fraud-bot", "--allow", "support-bot")
    after = versions()
    changed = [key for key in before if before[key] != after.get(key)]
    check(not changed, f"changed: {changed}")
    for what in (said, exported):
        check("nothing to change" in what.lower(), what)
    return f"{len(full)} slice, ours; {len(before)} objects unchanged; link and export: nothing to change"


def bad_configuration(world):
    """A ConfigMap with an error changes nothing; condition, Event and status say so; mended, all is well."""
    bad = '{"data": {"zz-test.yaml": "exports:\\n  - service: nowhere\\n    alow: []\\n"}}'
    world.bank.kubectl("-n", SYSTEM, "patch", "configmap", "adit", "--type=merge", "-p", bad)
    try:
        wrong = eventually("adit status says so", lambda: world.status(world.bank)["errors"])
        check("zz-test.yaml" in str(wrong), wrong)

        notes = eventually("an Event says so", lambda: [
            one["note"] for one in world.bank.events() if "zz-test.yaml" in one.get("note", "")
        ])

        def untrue():
            status, reason, message = condition(world.bank.get("link.adit.dev", "edge"), "Configured")
            return status == "False" and "zz-test.yaml" in message and reason

        reason = eventually("a condition says so", untrue)
        said = eventually("nodes say so", lambda: [
            line.strip() for line in world.node_status(world.bank).splitlines() if "zz-test.yaml" in line
        ])
        served(world.edge)
        refused(world.edge, pod="stranger")
    finally:
        mended = '{"data": {"zz-test.yaml": null}}'
        world.bank.kubectl("-n", SYSTEM, "patch", "configmap", "adit", "--type=merge", "-p", mended)
    eventually("adit status finds nothing wrong", lambda: not world.status(world.bank)["errors"])
    eventually("nodes find nothing wrong", lambda: "zz-test.yaml" not in world.node_status(world.bank))
    served(world.edge)
    return f"served all the while; status: {wrong[0]!r}; Event: {notes[0]!r}; Configured=False {reason}; node: {said[0]!r}"
