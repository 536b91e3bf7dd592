"""A thousand imports, five thousand Pods: how soon a slice follows a change, what a node takes, what the API server is asked.

Figures are printed, counts are checked.
"""

import json
import re
import statistics
import subprocess
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from . import agents
from .agents import NAMESPACE, Steady, served
from .cluster import Skip, check, eventually
from .faults import configure, processes, restart

SCALE = "adit-scale"
COUNT = 1000
SINGLE = 40
SELECTED = {"kagenti.io/type": "agent"}
BURST_SECONDS = 300


class Watch:
    """The lines that `kubectl get -w` prints, and when each came."""

    def __init__(self, cluster, namespace, *what):
        self.lines: list[tuple[float, str]] = []
        command = ["kubectl", "--context", cluster.context, "-n", namespace, "get", "-w", "--no-headers", *what]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.note(time.time(), line)

    def note(self, when, line):
        self.lines.append((when, line))

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Made(Watch):
    """When each object of a kind was made."""

    def __init__(self, cluster, kind):
        self.seen: dict[str, float] = {}
        columns = "custom-columns=TYPE:.type,NAME:.object.metadata.name"
        super().__init__(cluster, SCALE, kind, "--output-watch-events", "-o", columns)

    def note(self, when, line):
        event, name = line.split()
        if event == "ADDED":
            self.seen[name] = when


def services(first, last, make=agents.service):
    items = []
    for number in range(first, last):
        one = make(f"agent-{number}")
        one["metadata"] |= {"namespace": SCALE, "labels": SELECTED}
        items.append(one)
    return {"apiVersion": "v1", "kind": "List", "items": items}


def thousand_imports(world):
    """A thousand Services are exported by a label and imported in a burst; then one by one."""
    world.link("--import", "*")
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SCALE}}
    for cluster in world.both:
        cluster.create(space)
    rule = f"exports:\n  - select:\n      namespaces: [{SCALE}]\n      labels: {{kagenti.io/type: agent}}\n" \
        f"    allow:\n      - {{cluster: edge, namespace: {NAMESPACE}, serviceAccount: support-bot}}\n"
    configure(world.bank, "zz-scale.yaml", rule)
    watches = stubs, slices = Made(world.edge, "services"), Made(world.edge, "endpointslices")
    try:
        said = measure(world, stubs.seen, slices.seen)
    finally:
        for watch in watches:
            watch.stop()
        configure(world.bank, "zz-scale.yaml", None)
        for cluster in world.both:
            cluster.delete("namespace", SCALE)
    eventually("the imports have ended", lambda: len(world.slices(world.edge)) == 1)
    served(world.edge)
    return said


def measure(world, stubs, slices):
    ours = lambda: {name.removesuffix("-adit-ipv4") for name in slices if name.endswith("-adit-ipv4")}
    began = time.monotonic()
    world.bank.create(services(0, COUNT))
    eventually("all are exported", lambda: len(world.bank.names("export.adit.dev")) == COUNT + 1, BURST_SECONDS)
    exported = time.monotonic() - began
    began = time.monotonic()
    world.edge.create(services(0, COUNT, agents.open_service))
    eventually("all have a slice", lambda: len(ours()) == COUNT, BURST_SECONDS)
    imported = time.monotonic() - began
    burst = delays(stubs, slices, (f"agent-{number}" for number in range(COUNT)))
    eventually("the node listens for all", lambda: listening(world), 60, 2)
    served(world.edge)

    # One stub after the other, each when the one before has its slice.
    world.bank.create(services(COUNT, COUNT + SINGLE))
    eventually("these are exported", lambda: len(world.bank.names("export.adit.dev")) == COUNT + SINGLE + 1)
    time.sleep(5)
    for number in range(COUNT, COUNT + SINGLE):
        world.edge.create(services(number, number + 1, agents.open_service))
        eventually("it has a slice", lambda: f"agent-{number}" in ours(), pause=0.05)
    single = delays(stubs, slices, (f"agent-{number}" for number in range(COUNT, COUNT + SINGLE)))
    given = [address for one in world.edge.get("import.adit.dev") for address in one["spec"]["addresses"]]
    check(len(given) == len(set(given)) > COUNT, "an address is given twice")
    return f"exported in {exported:.1f} s, imported in {imported:.1f} s; change → slice in the burst {say(burst)}; " \
        f"one by one at {COUNT} imports {say(single)}; {memory(world)}"


TIMES = 5


def backend_gone(world):
    """The time until no new stream reaches a backend after the API server said that it is none any more."""
    took = []
    for _ in range(TIMES):
        columns = "custom-columns=READY:.endpoints[*].conditions.ready"
        selector = "kubernetes.io/service-name=fraud-bot"
        watch = Watch(world.bank, NAMESPACE, "endpointslices", "-l", selector, "-o", columns)
        unready = lambda: [when for when, line in watch.lines if "true" not in line]
        with Steady(world.edge, pause=0.01) as steady:
            # The pods live on and would answer: only the API server's word keeps streams away from them.
            select(world, "nobody")
            eventually("no backend is ready", unready)
            time.sleep(2)
        watch.stop()
        check(steady.failures, "nothing was refused")
        took.append(steady.failures[0]["at"] - unready()[0])
        select(world, "fraud-bot")
        eventually("it is served again", lambda: served(world.edge))
    world.imported()
    return "refused after " + ", ".join(f"{seconds * 1000:.0f} ms" for seconds in took)


def select(world, name):
    patch = json.dumps({"spec": {"selector": {"kagent": name}}})
    world.bank.kubectl("-n", NAMESPACE, "patch", "service", "fraud-bot", "--type=merge", "-p", patch)


PODS = 5000
CHANGES = 500


def big_cluster(world):
    """Five thousand Pods of others cost neither node nor controller anything: what they are told by the API server does not grow."""
    if not world.rig_program:
        raise Skip("only the rig (ADIT_RIG) lets a test count what a process receives")
    bank = world.bank
    bank.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SCALE}})
    try:
        few = beginning(world)
        with Proxy(bank) as proxy:
            proxy.all("POST", "pods", (pod(number) for number in range(PODS)))
            check(len(bank.names("pods", "-n", SCALE)) == PODS, "not all Pods were made")
            many = beginning(world)
            before = received(world)
            proxy.all("PUT", "pods", (pod(number, changed="yes") for number in range(CHANGES)))
            time.sleep(10)
            after = received(world)
    finally:
        bank.delete("namespace", SCALE)
    said = []
    for part in few:
        check(many[part] < few[part] * 1.5 + 65536, f"{part} received {few[part]} bytes at its start, {many[part]} beside {PODS} Pods")
        grown = after[part] - before[part]
        # Their traffic meanwhile: Leases, bookmarks.
        check(grown < 65536, f"{part} received {grown} bytes while {CHANGES} Pods of others changed")
        said.append(f"{part}: {few[part] / 1024:.0f} KiB at its start, {many[part] / 1024:.0f} KiB beside {PODS} Pods, "
                    f"{grown / 1024:.1f} KiB while {CHANGES} of them changed")
    return "; ".join(said)


def beginning(world):
    """Bytes that node and leading controller of bank have received when they have just begun."""
    restart(world.bank, "daemonset/adit-node", "deployment/adit-controller")
    eventually("it is served", lambda: served(world.edge))
    time.sleep(10)
    return received(world)


def received(world):
    """Bytes that processes of bank received from the API server over the connections that they have, by part; of several the most."""
    found = {}
    for part in ("node", "controller"):
        for _, node, pid in processes(world, world.bank, part):
            lines = world.on(node, "nsenter", "-t", pid, "-n", "ss", "-Htinp", "state", "established").splitlines()
            total = 0
            for head, detail in zip(lines, lines[1:]):
                if f"pid={pid}," in head and re.search(r":(443|6443)\s", head):
                    total += sum(int(n) for n in re.findall(r"bytes_received:(\d+)", detail))
            found[part] = max(total, found.get(part, 0))
    check(all(found.values()), f"no connection to the API server was found: {found}")
    return found


def pod(number, **labels):
    """A pod that nobody schedules."""
    container = {"name": "nothing", "image": "localhost/nothing:1"}
    spec = {"schedulerName": "nobody", "containers": [container], "serviceAccountName": "default"}
    metadata = {"name": f"pod-{number}", "labels": {"app": "nothing"} | labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class Proxy:
    """Many requests in a short time, which kubectl would spread over minutes."""

    def __init__(self, cluster):
        command = ["kubectl", "--context", cluster.context, "proxy", "--port=0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def all(self, method, plural, objects):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda thing: self.one(method, plural, thing), objects))

    def one(self, method, plural, thing):
        name = "/" + thing["metadata"]["name"] if method == "PUT" else ""
        url = f"http://127.0.0.1:{self.port}/api/v1/namespaces/{SCALE}/{plural}{name}"
        if method == "PUT":
            stored = json.load(urllib.request.urlopen(url))
            stored["metadata"]["labels"] = thing["metadata"]["labels"]
            thing = stored
        request = urllib.request.Request(url, json.dumps(thing).encode(), {"Content-Type": "application/json"}, method=method)
        urllib.request.urlopen(request).close()


def listening(world):
    """True if the node has a listener for each import."""
    lines = [line for line in world.node_status(world.edge).splitlines() if line.strip().startswith(f"{SCALE}/agent-")]
    check(len(lines) == COUNT, f"adit status on the node lists {len(lines)}, such as {lines[:2]}")
    return True


def delays(stubs, slices, names):
    return sorted(slices[f"{name}-adit-ipv4"] - stubs[name] for name in names)


def say(times):
    """Median, 99th percentile and the worst, in milliseconds."""
    worst = times[min(len(times) - 1, len(times) * 99 // 100)]
    return f"median {statistics.median(times) * 1000:.0f} ms, p99 {worst * 1000:.0f} ms, worst {times[-1] * 1000:.0f} ms"


def memory(world):
    """Memory of daemon and controllers of edge, and their CPU at rest."""
    if not world.rig_program:
        return "memory not looked at"
    found = []
    for part in ("node", "controller"):
        for _, node, pid in processes(world, world.edge, part):
            status = world.on(node, "cat", f"/proc/{pid}/status")
            [resident] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")]
            before = ticks(world, node, pid)
            time.sleep(10)
            used = (ticks(world, node, pid) - before) / 10
            found.append(f"{part} {resident / 1024:.0f} MiB, {used:.1f} % CPU at rest")
    return ", ".join(found)


def ticks(world, node, pid):
    """Hundredths of a second that a process has run."""
    fields = world.on(node, "cat", f"/proc/{pid}/stat").rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])
