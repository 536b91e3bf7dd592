"""A thousand imports: how soon a slice follows a change, and what a node takes. Figures are printed, counts are checked."""

import statistics
import subprocess
import threading
import time

from . import agents
from .agents import NAMESPACE, served
from .cluster import check, eventually
from .faults import configure, processes

SCALE = "adit-scale"
COUNT = 1000
SINGLE = 40
SELECTED = {"kagenti.io/type": "agent"}
BURST_SECONDS = 300


class Watch:
    """When each object of a kind was first seen, and last gone."""

    def __init__(self, cluster, kind):
        self.seen: dict[str, float] = {}
        command = ["kubectl", "--context", cluster.context, "-n", SCALE, "get", kind, "-w", "--no-headers"]
        command += ["--output-watch-events", "-o", "custom-columns=TYPE:.type,NAME:.object.metadata.name"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            now = time.monotonic()
            event, name = line.split()
            if event == "ADDED":
                self.seen[name] = now

    def stop(self):
        self.process.terminate()
        self.process.wait()


def services(first, last):
    items = []
    for number in range(first, last):
        one = agents.service(f"agent-{number}")
        one["metadata"] |= {"namespace": SCALE, "labels": SELECTED}
        items.append(one)
    return {"apiVersion": "v1", "kind": "List", "items": items}


def thousand_imports(world):
    """A thousand Services are exported by a label and imported in a burst; then one by one."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SCALE}}
    for cluster in world.both:
        cluster.create(space)
    rule = f"exports:\n  - select:\n      namespaces: [{SCALE}]\n      labels: {{kagenti.io/type: agent}}\n" \
        f"    allow:\n      - {{cluster: edge, namespace: {NAMESPACE}, serviceAccount: support-bot}}\n"
    configure(world.bank, "zz-scale.yaml", rule)
    watches = stubs, slices = Watch(world.edge, "services"), Watch(world.edge, "endpointslices")
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
    world.edge.create(services(0, COUNT))
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
        world.edge.create(services(number, number + 1))
        eventually("it has a slice", lambda: f"agent-{number}" in ours(), pause=0.05)
    single = delays(stubs, slices, (f"agent-{number}" for number in range(COUNT, COUNT + SINGLE)))
    given = [address for one in world.edge.get("import.adit.dev") for address in one["spec"]["addresses"]]
    check(len(given) == len(set(given)) > COUNT, "an address is given twice")
    return f"exported in {exported:.1f} s, imported in {imported:.1f} s; change → slice in the burst {say(burst)}; " \
        f"one by one at {COUNT} imports {say(single)}; {memory(world)}"


def listening(world):
    """Whether the node has a listener for each import."""
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
    """What daemon and controllers of edge take, and how much CPU at rest."""
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
