"""Faults, and what a client sees of them meanwhile."""

import contextlib
import json
import time
import uuid

from . import agents, scenario
from .agents import NAMESPACE, Load, Steady, converse, refused, served
from .cluster import Failure, Skip, check, condition, eventually, here
from .world import SYSTEM

# The nodes' pods.
NODES = "app.kubernetes.io/name=adit-node"
# The same where the API server stands still, which the daemon waits for first.
FROM_DISK_SECONDS = 30
# After which a backend on a dead machine is not dialled any more, at the latest.
DETECTED_SECONDS = 30


def processes(world, cluster, part):
    """The containers of a part of Adit on the rig's nodes: (pod, node, its process there)."""
    pods = cluster.get("pods", "-n", SYSTEM, "-l", f"app.kubernetes.io/name=adit-{part}")
    pods = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return [(pod["metadata"]["name"], pod["spec"]["nodeName"], process(world, pod, part)) for pod in pods]


def process(world, pod, container):
    """The first process of a pod's container, as its node knows it."""
    [status] = [one for one in pod["status"].get("containerStatuses", []) if one["name"] == container]
    identity = status["containerID"].removeprefix("containerd://")
    tasks = world.on(pod["spec"]["nodeName"], "ctr", "-n", "k8s.io", "tasks", "ls").splitlines()
    [pid] = [line.split()[1] for line in tasks if line.startswith(identity)]
    return pid


@contextlib.contextmanager
def long_stream(world, seconds):
    """A stream of an agent that lasts longer than what happens meanwhile; a Failure unless it comes whole."""
    file = f"/tmp/{uuid.uuid4().hex}"
    given = json.dumps({"binding": "JSONRPC", "count": seconds * 5, "interval_ms": 200, "gate": 0})
    asks = f"python3 /app/client.py {agents.url('fraud-bot')} stream {json.dumps(given)}"
    world.edge.exec(NAMESPACE, "support-bot", "sh", "-c", f"nohup sh -c '{asks}; touch {file}.end' >{file} 2>&1 &")
    began = time.monotonic()
    yield
    left = seconds - (time.monotonic() - began)
    check(left > 0, f"what happened took longer than the stream of {seconds} s")
    ended = lambda: world.edge.exec(NAMESPACE, "support-bot", "ls", file + ".end", check=False).returncode == 0
    eventually("the stream has ended", ended, left + 30)
    said = world.edge.exec(NAMESPACE, "support-bot", "cat", file)
    check(f'"artifact chunk {seconds * 5 - 1}"' in said and '"completed"' in said, said[-2000:])


def restart(cluster, *things, namespace=SYSTEM):
    for thing in things:
        cluster.kubectl("-n", namespace, "rollout", "restart", thing)
    for thing in things:
        cluster.rolled_out(namespace, thing)


def agents_restart(world):
    """A rolling restart of the agents fails no request."""
    with Steady(world.edge) as steady:
        restart(world.bank, "deployment/fraud-bot", namespace=NAMESPACE)
        time.sleep(6)
    check(not steady.failures, steady.say())
    return steady.say()


def controllers_restart(world):
    """A rolling restart of both controllers is not seen: no request fails, a stream goes on, slices stay."""
    before = slices(world)
    with long_stream(world, 60), Steady(world.edge) as steady:
        for cluster in world.both:
            restart(cluster, "deployment/adit-controller")
        time.sleep(5)
    check(not steady.failures, steady.say())
    check(slices(world) == before, f"slices changed from {before} to {slices(world)}")
    return f"{steady.say()}; a stream of 60 s came whole; slices unchanged"


def state(pod):
    """A pod's condition Ready, by its type and status."""
    conditions = pod["status"].get("conditions", [])
    return next(({key: one[key] for key in ("type", "status")} for one in conditions if one["type"] == "Ready"), {})


def replaced(cluster):
    """Waits until every node has a pod of the newest revision that is ready, and no other but those that end. The
    DaemonSet's own status counts the oldest pod of a node, which ends with the last of its streams."""
    def newest():
        wanted = max(cluster.get("controllerrevisions", "-n", SYSTEM, "-l", NODES), key=lambda one: one["revision"])
        wanted = wanted["metadata"]["labels"]["controller-revision-hash"]
        pods = cluster.get("pods", "-n", SYSTEM, "-l", NODES)
        pods = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        new = [pod for pod in pods if pod["metadata"]["labels"]["controller-revision-hash"] == wanted]
        ready = [pod for pod in new if {"type": "Ready", "status": "True"}.items() <= state(pod).items()]
        return len(ready) == len(pods) == len(cluster.names("nodes"))

    eventually(f"the nodes of {cluster.name} are replaced", newest)


def replace(cluster):
    cluster.kubectl("-n", SYSTEM, "rollout", "restart", "daemonset/adit-node")
    replaced(cluster)


def rolling_updates(world, times=2):
    """Nodes of both sides are replaced under load, with streams open: no new request fails or waits, every stream goes on."""
    with Load(world.edge) as load:
        for _ in range(times):
            for cluster in world.both:
                replace(cluster)
        # A leftover of the last one would fail by now.
        time.sleep(3)
    seen = load.seen
    check(not seen["failures"] and not seen["slow"], f"{load.say()}; {seen['slowest']}, {seen['failures'][:5]}")
    check(seen["alive"] == seen["streams"], f"{load.say()}; {seen['ended']}")
    served(world.edge)
    return f"{times} of both sides: {load.say()}"


def rolling_updates_long(world):
    """The same ten times."""
    return rolling_updates(world, 10)


def node_pods_deleted(world):
    """The pod of a caller's node is deleted with streams open: its callers do not notice that either."""
    with Load(world.edge) as load:
        world.edge.delete("pod", "-n", SYSTEM, "-l", NODES, "--wait=false")
        eventually("the pod has a successor", lambda: len(world.edge.names("pods", "-n", SYSTEM, "-l", NODES)) == 2)
        replaced(world.edge)
        time.sleep(3)
    check(not load.seen["failures"] and not load.seen["slow"], f"{load.say()}; {load.seen['failures'][:5]}")
    check(load.seen["alive"] == load.seen["streams"], f"{load.say()}; {load.seen['ended']}")
    return load.say()


def slices(world):
    """The endpoints of our slices, and their versions."""
    return sorted(
        (one["metadata"]["namespace"], one["metadata"]["name"], one["metadata"]["resourceVersion"], str(one["endpoints"]))
        for one in world.slices(world.edge)
    )


def leader(cluster):
    lease = cluster.get("lease", "-n", SYSTEM, "adit-controller")
    return lease["spec"].get("holderIdentity") or ""


def leader_killed(world):
    """The active controller's pod is killed: the other takes over, writes nothing anew, and goes on with the work."""
    before, old = slices(world), leader(world.edge)
    pods = [name.removeprefix("pod/") for name in world.edge.names("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=adit-controller")]
    victim = [pod for pod in pods if old.startswith(pod)]
    check(len(victim) == 1, f"the Lease's holder {old!r} is none of {pods}")
    began = time.monotonic()
    world.edge.kubectl("-n", SYSTEM, "delete", "pod", victim[0], "--grace-period=0", "--force")
    eventually("another leads", lambda: leader(world.edge) not in ("", old))
    seconds = time.monotonic() - began
    check(slices(world) == before, f"slices changed from {before} to {slices(world)}")
    several_imports(world, 1)
    world.edge.rolled_out(SYSTEM, "deployment/adit-controller")
    return f"another leads after {seconds:.1f} s; slices unchanged; a new import is made"


def two_leaders(world):
    """The active controller stands still past its Lease and wakes up beside its successor: no address is given twice."""
    before, old = slices(world), leader(world.edge)
    [(pod, node, pid)] = [one for one in processes(world, world.edge, "controller") if old.startswith(one[0])]
    world.on(node, "kill", "-STOP", pid)
    try:
        began = time.monotonic()
        eventually("another leads", lambda: leader(world.edge) not in ("", old))
        seconds = time.monotonic() - began
        check(slices(world) == before, f"slices changed from {before} to {slices(world)}")
        with making(world, 20) as names:
            world.on(node, "kill", "-CONT", pid)
            all_ready(world, names)
            time.sleep(3)
            distinct(world, names)
    finally:
        world.on(node, "kill", "-CONT", pid, check=False)
    eventually("its pod is ready", lambda: world.edge.rolled_out(SYSTEM, "deployment/adit-controller") is None)
    check(slices(world) == before, f"slices changed from {before} to {slices(world)}")
    return f"another led after {seconds:.1f} s; 20 imports made while both ran have an address each; slices unchanged"


def several_imports(world, count):
    with making(world, count) as names:
        all_ready(world, names)
        distinct(world, names)


@contextlib.contextmanager
def making(world, count):
    """Further agents without pods on bank, and stubs for them on edge; gone again at the end."""
    names = [f"extra-{number}" for number in range(count)]
    fragment = "exports:\n" + "".join(
        f"  - service: {NAMESPACE}/{name}\n    allow:\n      - {{cluster: edge, namespace: {NAMESPACE}, serviceAccount: support-bot}}\n"
        for name in names
    )
    configure(world.bank, "zz-extra.yaml", fragment)
    for cluster, make in ((world.bank, agents.service), (world.edge, agents.open_service)):
        cluster.create({"apiVersion": "v1", "kind": "List", "items": [make(name) for name in names]})
    yield names
    for cluster in world.both:
        cluster.delete("-n", NAMESPACE, *(f"service/{name}" for name in names))
    configure(world.bank, "zz-extra.yaml", None)
    eventually("their slices are gone", lambda: not set(names) & {owner(one) for one in world.slices(world.edge)})


def configure(cluster, key, fragment):
    patch = json.dumps({"data": {key: fragment}})
    cluster.kubectl("-n", SYSTEM, "patch", "configmap", "adit", "--type=merge", "-p", patch)


def owner(found):
    return found["metadata"]["labels"]["kubernetes.io/service-name"]


def all_ready(world, names):
    wanted = set(names)
    eventually("every stub has its slice", lambda: wanted <= {owner(one) for one in world.slices(world.edge)})


def distinct(world, names):
    given = [address for one in world.edge.get("import.adit.dev") for address in one["spec"]["addresses"]]
    check(len(given) == len(set(given)) >= len(names), f"addresses: {sorted(given)}")


def made_again(world):
    """Services and namespaces go and come back, in several orders: it works again, and no slice is left over."""
    bank, edge = world.bank, world.edge
    fraud_bot, stub = agents.service("fraud-bot"), agents.stub_service(edge, "fraud-bot")
    # Clients would look for the old address for as long as their DNS remembers it.
    address = stub["spec"]["clusterIP"] = cluster_ip(edge)

    def filled():
        return [owner(one) for one in world.slices(edge)]

    def gone(cluster):
        cluster.delete("-n", NAMESPACE, "service/fraud-bot")

    def slice_gone():
        eventually("the slice is gone", lambda: not filled())

    def stub_again():
        gone(edge), slice_gone(), edge.create(stub)

    def export_again():
        gone(bank)
        eventually("callers are refused", lambda: refused(edge))
        bank.create(fraud_bot)

    def both_stub_first():
        gone(bank), gone(edge), slice_gone(), edge.create(stub), bank.create(fraud_bot)

    def both_export_first():
        gone(edge), gone(bank), slice_gone(), bank.create(fraud_bot), edge.create(stub)

    def at_once():
        gone(edge), edge.create(stub), gone(bank), bank.create(fraud_bot)

    def exporting_namespace():
        bank.delete("namespace", NAMESPACE)
        eventually("callers are refused", lambda: refused(edge))
        bank.create(agents.namespace(), *agents.agent("fraud-bot", replicas=2))
        bank.rolled_out(NAMESPACE, "deployment/fraud-bot")

    def importing_namespace():
        edge.delete("namespace", NAMESPACE)
        slice_gone()
        edge.create(agents.namespace())
        agents.stub(edge, "fraud-bot", clusterIP=address)
        edge.create(*agents.client("support-bot"), *agents.client("stranger"))
        for pod in ("support-bot", "stranger"):
            edge.wait(NAMESPACE, f"pod/{pod}")

    took = []
    for order in (stub_again, export_again, both_stub_first, both_export_first, at_once, exporting_namespace, importing_namespace):
        try:
            order()
            began = time.monotonic()
            eventually("it is served again", lambda: served(edge))
            world.imported()
            check(filled() == ["fraud-bot"], f"slices of {filled()}")
        except Failure as failure:
            raise Failure(f"{order.__name__}: {failure}") from None
        took.append(f"{order.__name__} {time.monotonic() - began:.1f} s")
    return "served again after: " + ", ".join(took)


def cluster_ip(cluster):
    return cluster.get("service", "-n", NAMESPACE, "fraud-bot")["spec"]["clusterIP"]


def api_server_away(world, seconds=60):
    """The API server of edge stands still under traffic: nothing fails; a daemon that is killed starts from its disk."""
    [pid] = world.on("edge-1", "pgrep", "-f", "kube apiserver").split()
    [(_, node, daemon)] = processes(world, world.edge, "node")
    # From the client's network, by the Service's address, without kubectl and without DNS: when the API server is
    # back, nodes that it has not heard of are NotReady for a moment, and so is DNS.
    client = process(world, world.edge.get("pod", "-n", NAMESPACE, "support-bot"), "client")
    address = cluster_ip(world.edge)
    card = f"http://{address}:{agents.PORT}/.well-known/agent-card.json"
    ask = ["timeout", "3", "nsenter", "-t", client, "-n", "python3", here("tests/rig/agent/steady.py"), card]

    def answers():
        said = world.on(node, *ask, check=False).stdout
        check('"body"' in said, said or "no answer within 3 s")
        return True

    with Steady(world.edge, host=address) as steady:
        world.on("edge-1", "kill", "-STOP", pid)
        try:
            stopped = time.time()
            time.sleep(seconds)
            answers()
            killed = time.time()
            world.on(node, "kill", "-KILL", daemon)
            time.sleep(1)
            eventually("the daemon serves from its disk", answers, FROM_DISK_SECONDS)
            replaced = time.time() - killed
            time.sleep(5)
        finally:
            world.on("edge-1", "kill", "-CONT", pid)
        back = time.time()
        eventually("the API server answers", lambda: world.edge.kubectl("get", "--raw", "/readyz") == "ok")
    # Requests that were on their way when the daemon was killed end with it.
    early = [failure for failure in steady.failures if failure["at"] < killed - 1]
    check(not early, f"failed before the daemon was killed: {early[:3]}; {steady.say()}")
    late = [failure for failure in steady.failures if failure["at"] > killed + replaced]
    check(not late, f"failed after the daemon was back: {late[:3]}; {steady.say()}")
    eventually("all is well again", lambda: served(world.edge) and world.imported())
    world.installed()
    return f"away {back - stopped:.0f} s: {steady.say()}; the killed daemon served from its disk after {replaced:.1f} s"


def api_servers_restart(world):
    """Both API servers die and begin anew: no request fails, nothing is written anew, and changes count again."""
    before = slices(world)
    with Steady(world.edge, host=cluster_ip(world.edge)) as steady:
        for cluster, node in ((world.edge, "edge-1"), (world.bank, "bank-1")):
            [pid] = world.on(node, "pgrep", "-f", "kube apiserver").split()
            world.on(node, "kill", "-KILL", pid)
            eventually("it answers again", lambda: cluster.kubectl("get", "--raw", "/readyz") == "ok")
        # Longer than watches wait before they are begun again.
        time.sleep(20)
    check(not steady.failures, steady.say())
    check(slices(world) == before, f"slices changed from {before} to {slices(world)}")
    several_imports(world, 2)
    return f"{steady.say()}; slices unchanged; new imports are made"


def api_server_away_long(world):
    """The same for five minutes."""
    return api_server_away(world, 300)


def node_killed(world):
    """A machine with a backend loses power: calls go to the other one, and to both when it is back."""
    if not world.rig_program:
        raise Skip("only the rig (ADIT_RIG) cuts a machine's power")
    eventually("both answer", lambda: len(answering(world, 6)) == 2)
    with Steady(world.edge) as steady:
        killed = time.time()
        world.rig("kill", "bank-2")
        try:
            time.sleep(DETECTED_SECONDS + 5)
            left = answering(world, 4)
        finally:
            world.rig("start", "bank-2")
        world.bank.wait(None, "node/bank-2")
    last = max((failure["at"] + failure["seconds"] - killed for failure in steady.failures), default=0)
    check(len(left) == 1, f"answered by {left}")
    check(max(last, steady.slowest) < DETECTED_SECONDS, f"failed until {last:.1f} s: {steady.say()}")
    world.bank.rolled_out(NAMESPACE, "deployment/fraud-bot")
    world.installed()
    eventually("both answer again", lambda: len(answering(world, 6)) == 2)
    return f"{steady.say()}; the last failure {last:.1f} s after the cut; both answer again"


def one_node_cut_off(world):
    """A node of two that loses the other cluster is named, by status and condition; the others go on."""
    if not world.rig_program:
        raise Skip("only the rig (ADIT_RIG) cuts a machine's packets")
    [edge] = [a["address"] for n in world.edge.get("nodes") for a in n["status"]["addresses"] if a["type"] == "InternalIP"]
    rules = [("OUTPUT", "-p", "udp", "-d", edge, "-j", "DROP"), ("INPUT", "-p", "udp", "-s", edge, "-j", "DROP")]

    def named():
        [link] = world.status(world.bank)["links"]
        check("1 of 2 nodes" in (link["problem"] or "") and "bank-2" in link["problem"], f"link: {link}")
        [link] = world.bank.get("links.adit.dev")
        down = condition(link, "NodesDown")
        check(down[0] == "True" and "bank-2" in down[2], f"NodesDown: {down}")
        return down[2]

    began = time.monotonic()
    for rule in rules:
        world.on("bank-2", "iptables", "-I", *rule)
    try:
        said = eventually("status and condition name it", named)
        seconds = time.monotonic() - began
        check(answering(world, 4), "the other node serves")
    finally:
        for rule in rules:
            world.on("bank-2", "iptables", "-D", *rule)

    def well():
        [link] = world.status(world.bank)["links"]
        check(not link["problem"], f"link: {link}")
        return True

    eventually("it is well again", well)
    return f"named after {seconds:.0f} s: {said}"


def no_backend_nftables(world):
    """The case `no_backend`, with the other mode of kube-proxy on the importing node."""
    if not world.rig_program:
        raise Skip("only the rig (ADIT_RIG) lets a test change kube-proxy")
    before = proxy_mode(world, "nftables")
    try:
        eventually("its rules are there", lambda: "fraud-bot" in world.on("edge-1", "nft", "list", "table", "ip", "kube-proxy", check=False).stdout)
        eventually("it is served", lambda: served(world.edge))
        return scenario.no_backend(world)
    finally:
        proxy_mode(world, before)
        eventually("it is served again", lambda: served(world.edge))


def proxy_mode(world, mode, machine="edge-1") -> str:
    """Has kube-proxy of a node begin anew in this mode; gives that of before."""
    pid, *words = world.on(machine, "pgrep", "-af", "kube proxy").split()
    [config] = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    [before] = [line.split()[1] for line in world.on(machine, "cat", config).splitlines() if line.startswith("mode:")]
    world.on(machine, "sed", "-i", f"s/^mode: .*/mode: {mode}/", config)
    world.on(machine, "kill", pid)
    eventually("kube-proxy is back", lambda: world.on(machine, "pgrep", "-f", "kube proxy", check=False).stdout.strip() not in ("", pid))
    return before


def answering(world, times):
    """Which pods answer."""
    return {converse(world.edge, "send", {"text": "where"})["answer"] for _ in range(times)}
