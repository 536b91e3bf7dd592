"""`adit install` where something is in its way: it is refused and changes nothing, or a second run does the rest."""

import contextlib
import http.server
import json
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from . import scenario
from .agents import NAMESPACE, served
from .cluster import Failure, check, eventually, here
from .world import SYSTEM

# Exit statuses, as `adit install --help` has them.
DONE, REFUSED, UNFINISHED = 0, 1, 3
OF_ADIT = "app.kubernetes.io/part-of=adit"
# What an installation consists of, without the parts that change by themselves.
KINDS = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,serviceaccounts,configmaps,services," \
    "deployments,daemonsets,validatingadmissionpolicies"
# When a first run is killed, in seconds after its start: among the objects, after them, while it waits or links.
KILLED_AFTER = [0.3, 0.6, 3]
# Somebody who may look at all and change nothing, and somebody who may nothing.
LOOKER, NOBODY = "looker", "nobody-in-particular"


def installs_refused(world):
    """A wrong context, a server that is away or too old, and missing rights are said, and nothing is changed."""
    edge, bank = world.both
    before = versions(world)
    said = []

    def refused(*words, args, env=None):
        done = attempt(world, *args, env=env)
        text = done.stdout + done.stderr
        check(done.returncode == REFUSED and "nothing was changed" in text, f"exit {done.returncode}: {text}")
        missing = [word for word in words if word not in text]
        check(not missing, f"{missing} not in: {text}")
        said.append(text)

    with tempfile.TemporaryDirectory() as folder:
        both = ["--context", edge.context, "--context", "no-such-context"]
        refused("no-such-context", edge.context, args=both)
        away = kubeconfig(world, Path(folder) / "away", server="https://127.0.0.1:9")
        refused("Connection refused", args=["--context", edge.context, "--kubeconfig", away])
        with old_server("1.30.4") as (address, asked):
            old = kubeconfig(world, Path(folder) / "old", server=address)
            refused("1.30.4", "1.33", args=["--context", edge.context, "--kubeconfig", old])
            check(asked == ["/version"], f"it was asked for {asked}")
        bank.kubectl("create", "clusterrolebinding", LOOKER, "--clusterrole=view", f"--user={LOOKER}")
        try:
            looker = kubeconfig(world, Path(folder) / "looker", user=LOOKER)
            # Those that it has are not named.
            rights = ["create, patch on ", "deployments.apps in adit-system"]
            refused(*rights, args=["--context", edge.context, "--context", bank.context, "--kubeconfig", looker])
        finally:
            bank.delete("clusterrolebinding", LOOKER)
        nobody = kubeconfig(world, Path(folder) / "nobody", user=NOBODY)
        refused("create, get, patch on ", "auth whoami", args=["--context", edge.context, "--kubeconfig", nobody])
        for command in (["upgrade"], ["uninstall", "--yes"]):
            done = world.adit(*command, "--context", edge.context, "--kubeconfig", nobody, check=False)
            text = done.stdout + done.stderr
            check(done.returncode == REFUSED and "nothing was changed" in text, f"{command}: exit {done.returncode}: {text}")
    after = versions(world)
    changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    check(not changed, f"changed: {changed}")
    return f"{len(said)} refused, {len(before)} objects as before"


def installs_completed(world):
    """Killed at any moment, begun with the definitions alone, met by another of its kind: run again, it is all there."""
    edge, bank = world.both
    lines = []
    for seconds in KILLED_AFTER:
        world.adit("uninstall", *world.contexts(), "--yes")
        first = start(world)
        time.sleep(seconds)
        first.kill()
        first.communicate()
        lines.append(f"killed after {seconds} s with {len(versions(world))} objects there, done {complete(world):.0f} s later")
    world.adit("uninstall", *world.contexts(), "--yes")
    for cluster in world.both:
        cluster.kubectl("apply", "--server-side", "-k", here("daemonset/crds"))
    lines.append(f"from the definitions alone {complete(world):.0f} s")
    world.adit("uninstall", *world.contexts(), "--yes")
    lines.append(side_by_side(world))
    world.adit("uninstall", *world.contexts(), "--yes")
    lines.append(being_deleted(world))
    scenario.restore(world)
    return "; ".join(lines)


def side_by_side(world):
    """Two people install at once: each ends well, or says that the other is in its way and nothing worse."""
    pair = [start(world) for _ in range(2)]
    ends = [(process.communicate(), process.returncode) for process in pair]
    for (out, err), status in ends:
        check(status in (DONE, REFUSED, UNFINISHED), f"exit {status}: {out}{err}")
        check(status == DONE or "same command again" in err, f"exit {status}: {out}{err}")
    check(any(status == DONE for _, status in ends) or complete(world), "neither has installed")
    seconds = complete(world)
    return f"two at once ended with {[status for _, status in ends]}, and once more took {seconds:.0f} s"


def being_deleted(world):
    """A namespace that is going is not filled again, in no cluster; once it is gone, all is done."""
    edge, bank = world.both
    held = {"metadata": {"finalizers": ["adit-test/held"]}}
    bank.kubectl("create", "namespace", SYSTEM)
    bank.kubectl("-n", SYSTEM, "create", "configmap", "held")
    bank.kubectl("-n", SYSTEM, "patch", "configmap", "held", "--type=merge", "-p", json.dumps(held))
    bank.kubectl("delete", "namespace", SYSTEM, "--wait=false")
    try:
        done = attempt(world, *world.contexts())
        check(done.returncode == REFUSED and "is being removed" in done.stderr, f"exit {done.returncode}: {done.stdout}{done.stderr}")
        check(not edge.names("namespace", SYSTEM, "--ignore-not-found"), "the other cluster was changed")
    finally:
        held["metadata"]["finalizers"] = None
        bank.kubectl("-n", SYSTEM, "patch", "configmap", "held", "--type=merge", "-p", json.dumps(held))
    eventually("it is gone", lambda: not bank.names("namespace", SYSTEM, "--ignore-not-found"))
    return f"refused while the namespace went, done {complete(world):.0f} s after it was gone"


def attempt(world, *args, env=None):
    return world.adit("install", *args, check=False, env=env)


def arguments(world):
    names = [word for one in world.both for word in ("--name", f"{one.context}={one.name}")]
    return ["install", *world.contexts(), *names, "--import", NAMESPACE]


def start(world):
    return subprocess.Popen(
        [world.adit_program, *arguments(world)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )


def complete(world):
    """Runs the command until its end; the export as well, and a request is answered. Gives the seconds."""
    began = time.monotonic()
    world.adit(*arguments(world))
    seconds = time.monotonic() - began
    world.export("fraud-bot", "--allow", "support-bot")
    eventually("it is served", lambda: served(world.edge))
    world.installed()
    return seconds


def versions(world):
    """All objects of Adit, with what tells whether anybody wrote them."""
    found = {}
    for cluster in world.both:
        for one in cluster.get(KINDS, "-A", "-l", OF_ADIT):
            meta = one["metadata"]
            at = meta.get("generation") or meta["resourceVersion"]
            found[cluster.name, one["kind"], meta["name"]] = (meta["uid"], at)
    return found


def kubeconfig(world, file, server=None, user=None):
    """The clusters' own, with another server, or as another user."""
    text = world.edge.kubectl("config", "view", "--raw", "--flatten", "-o", "json")
    config = json.loads(text)
    for one in config["clusters"]:
        if server:
            one["cluster"] = {"server": server}
    for one in config["users"]:
        if user:
            one["user"]["as"] = user
    file.write_text(json.dumps(config))
    return file


@contextlib.contextmanager
def old_server(version):
    """An API server of that version, which writes down what it is asked."""
    asked = []
    major, minor, _ = version.split(".")
    body = json.dumps({
        "major": major, "minor": minor, "gitVersion": f"v{version}", "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "",
        "compiler": "", "platform": "",
    }).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path == "/version" else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
