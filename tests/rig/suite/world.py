"""Two clusters, Adit's commands, and the machines below where there is the rig.

Owns how Adit is found, installed and removed, and what is shown of it when a case fails.
"""

import json
import os
import shlex
import time
from pathlib import Path

from . import agents
from .cluster import Cluster, Failure, Skip, condition, eventually, here, run, tail

SYSTEM = "adit-system"
OVERLAY = here("daemonset/overlays/kind")
OURS = "endpointslice.kubernetes.io/managed-by=adit-controller.adit.dev"
IMPORT = f"{agents.NAMESPACE}.fraud-bot"
BUILD_SECONDS = 3600


class World:
    """`edge` imports, `bank` exports."""

    def __init__(self):
        self.rig_program, missing = find_rig()
        contexts = os.environ.get("ADIT_CONTEXTS")
        if missing and not contexts:
            raise Skip(missing)
        if self.rig_program:
            self.enter_rig()
        self.edge, self.bank = (
            Cluster(name, context) for name, context in zip(("edge", "bank"), (contexts or "edge,bank").split(","))
        )
        self.adit_program = find_adit()
        # When a case began, for the logs.
        self.began = time.time()
        # Of the table of faults those whose names have one of these words; empty for all.
        self.chosen_faults: list[str] = []

    @property
    def both(self):
        return self.edge, self.bank

    def enter_rig(self):
        """Brings the rig up, and its kubectl and kubeconfig into our environment."""
        said = self.rig("up", "--nodes", "bank=2")
        for word in shlex.split(said.splitlines()[0])[1:]:
            name, value = word.split("=", 1)
            os.environ[name] = value.replace("$PATH", os.environ["PATH"])

    def rig(self, *args, **options):
        if not self.rig_program:
            raise Skip("only the rig (ADIT_RIG) lets a test at the machines")
        return run(self.rig_program, *args, **options)

    def on(self, node, *argv, **options):
        """A command on a node of the rig."""
        return self.rig("exec", node, *argv, **options)

    def load(self):
        """The images, into both clusters. Where there is no rig they are there already."""
        if not self.rig_program:
            return
        given = os.environ.get("ADIT_IMAGE")
        archive = given or run(here("daemonset/image/build"), seconds=BUILD_SECONDS).strip()
        agent = agents.build(self.rig)
        for cluster in self.both:
            for image in (archive, agent):
                self.rig("load", cluster.name, image)

    def adit(self, *args, **options):
        return run(self.adit_program, *args, **options)

    def contexts(self):
        """Both clusters, as options of a command."""
        return [word for cluster in self.both for word in ("--context", cluster.context)]

    def install_both(self, *args):
        """Both clusters by one command, which links them, too."""
        names = [word for one in self.both for word in ("--name", f"{one.context}={one.name}")]
        return self.adit("install", *self.contexts(), *names, *args)

    def export(self, service, *args, owner=None, to="edge"):
        owner = owner or self.bank
        return self.adit("export", f"{agents.NAMESPACE}/{service}", "--context", owner.context, "--to", to, *args)

    def withdraw(self, service, owner=None):
        owner = owner or self.bank
        return self.adit("export", f"{agents.NAMESPACE}/{service}", "--context", owner.context, "--remove")

    def link(self, *args):
        names = ["--name-a", "edge", "--name-b", "bank"]
        return self.adit("link", self.edge.context, self.bank.context, *names, *args)

    def status(self, cluster) -> dict:
        """The status of a cluster, as `adit status --context` prints it, well or not."""
        done = self.adit("status", "--context", cluster.context, "--json", check=False)
        if done.returncode == 2:
            raise Failure(f"adit status --context {cluster.context}: {done.stderr}")
        return json.loads(done.stdout)[0]

    def node_status(self, cluster, node=None, *args) -> str:
        pods = cluster.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=adit-node")
        # One that ends may have an hour for its streams.
        pods = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        [pod] = [p for p in pods if p["spec"]["nodeName"] == (node or p["spec"]["nodeName"])][:1]
        return cluster.kubectl(
            "-n", SYSTEM, "exec", pod["metadata"]["name"], "-c", "node", "--", "/adit", "status", *args, check=False
        ).stdout

    def node_log(self, cluster) -> str:
        """The recent log of its nodes."""
        selector = "app.kubernetes.io/name=adit-node"
        return cluster.kubectl("-n", SYSTEM, "logs", "-l", selector, "-c", "node", "--tail=300", "--since=60s")

    def slices(self, cluster, *args):
        """The slices that are ours."""
        return cluster.get("endpointslices", *(args or ["-A"]), "-l", OURS)

    def imported(self, name="fraud-bot", cluster=None):
        """Once the import is ready and its slice is there: the Import."""
        cluster = cluster or self.edge

        def ready():
            found = cluster.get("import.adit.dev", f"{agents.NAMESPACE}.{name}")
            return condition(found, "Ready")[0] == "True" and found

        return eventually(f"import {name} is ready", ready)

    def install(self, cluster, overlay=OVERLAY):
        def applied():
            # The first time, custom resources may be known a moment too late.
            return cluster.kubectl("apply", "--server-side", "-k", overlay) or True

        eventually(f"the manifests apply in {cluster.name}", applied)

    def installed(self):
        for cluster in self.both:
            cluster.rolled_out(SYSTEM, "daemonset/adit-node")
            cluster.rolled_out(SYSTEM, "deployment/adit-controller")

    def remove(self, cluster):
        # As the README says: a namespace that still has pods is looked at again after half of what they may take.
        cluster.kubectl(
            "-n", SYSTEM, "delete", "daemonset", "adit-node", "--ignore-not-found", "--cascade=foreground", "--timeout=120s",
        )
        cluster.kubectl("delete", "-k", OVERLAY, "--ignore-not-found", "--timeout=120s", "--wait=true")
        cluster.delete("namespace", SYSTEM)

    def keep(self, name, text):
        """Leaves a result where builds leave theirs."""
        folder = Path(os.environ.get("CARGO_TARGET_DIR") or here("target"))
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    def empty(self):
        """Both clusters as if nothing had been there."""
        for cluster in self.both:
            self.remove(cluster)
            cluster.delete("namespace", agents.NAMESPACE)
            cluster.delete("crd", "-l", agents.OF_TEST)

    def diagnosis(self) -> str:
        """Status, objects, events and logs, for a look after a failure."""
        since = f"--since={int(time.time() - self.began) + 1}s"
        parts = []
        for cluster in self.both:
            def ask(*args):
                return cluster.kubectl(*args, check=False, seconds=30)

            def show(title, done, lines=25):
                parts.append(f"--- {cluster.name}: {title}\n{tail(done.stdout + done.stderr, lines)}")

            try:
                show("adit status", self.adit("status", "--context", cluster.context, check=False, seconds=30))
                show("objects", ask("get", "pods,services,endpointslices,imports,exports,links", "-A", "--no-headers"), 40)
                show("events", ask("get", "events", "-A", "--sort-by=.lastTimestamp"), 12)
                for part in ("node", "controller"):
                    selector = f"app.kubernetes.io/name=adit-{part}"
                    show(f"adit-{part}", ask("-n", SYSTEM, "logs", "-l", selector, "-c", part, "--prefix", "--tail=20", since), 40)
            except Failure as failure:
                parts.append(f"--- {cluster.name}: {failure}")
        return "\n".join(parts)


def find_rig():
    """The rig's program, or why there is none."""
    folder = os.environ.get("ADIT_RIG")
    if not folder:
        return None, "neither ADIT_RIG nor ADIT_CONTEXTS names two clusters"
    if os.geteuid() != 0:
        return None, "the rig wants root"
    program = Path(folder) / "rig"
    if not program.exists():
        return None, f"{program} is not there"
    return program, None


def find_adit() -> str:
    """The command under test: ADIT_BIN, or the release build."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or here("target"))
    program = os.environ.get("ADIT_BIN") or target / "release/adit"
    if not Path(program).exists():
        raise Failure(f"{program} is not there: cargo build --release --bin adit")
    return str(program)
