"""All that an operator can look at, looked at all the while: status, conditions, Events, metrics, and callers.

Owns when which line was seen first. Knows nothing of faults.
"""

import contextlib
import json
import re
import subprocess
import threading
import time
import urllib.request
import uuid

from . import agents
from .cluster import Failure, eventually, run
from .world import SYSTEM

# Between two looks at the same thing.
PAUSE_SECONDS = 0.4
API = "/apis/adit.dev/v1alpha1"
# Samples that say how something is; those that only count up all the time are told by their first step.
SAMPLES = re.compile(
    r"adit_(import_ready|import_backends|link_up|link_degraded|link_doubled_nodes|link_view_age_seconds|export_ready|"
    r"export_backends|connections|problems|config_rejected|ready|certificate_left_seconds|controller_\w+|"
    r"streams_ended_total|connections_closed_total|dials_total|handshakes_total|peers_refused_total)\b"
)


class Watch:
    """Threads that look, and what they saw: for each eye the times and lines of its looks."""

    def __init__(self, world):
        self.world, self.ended, self.threads, self.proxies = world, threading.Event(), [], []
        self.looks: dict[str, list[tuple[float, frozenset[str]]]] = {}

    def __enter__(self):
        for cluster in self.world.both:
            api = self.proxy(cluster)
            self.open(f"status {cluster.name}", lambda cluster=cluster: self.status(cluster))
            self.open(f"conditions {cluster.name}", lambda api=api: conditions(api))
            self.open(f"events {cluster.name}", lambda api=api: events(api))
            for node in (one.removeprefix("node/") for one in cluster.names("nodes")):
                self.open(f"metrics {cluster.name} {node}", lambda node=node: metrics(node))
            self.open(f"metrics {cluster.name} controllers", lambda api=api: controllers(api))
        eventually("all eyes have seen something", lambda: all(self.looks.values()))
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()
        for proxy in self.proxies:
            proxy.terminate()
            proxy.wait()

    def proxy(self, cluster) -> str:
        """The URL of a way to a cluster's API server that needs no new process for each question."""
        command = ["kubectl", "--context", cluster.context, "proxy", "--port=0"]
        proxy = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.proxies.append(proxy)
        return "http://" + proxy.stdout.readline().split()[-1]

    def open(self, name, look):
        self.looks[name] = []
        thread = threading.Thread(target=self.keep_looking, args=(name, look), daemon=True)
        self.threads.append(thread)
        thread.start()

    def keep_looking(self, name, look):
        while not self.ended.is_set():
            try:
                lines = frozenset(look())
            except Exception as error:  # Whatever it is, nothing could be seen.
                lines = frozenset([f"cannot be seen: {error}"])
            # When an operator would have had the answer.
            self.looks[name].append((time.time(), lines))
            self.ended.wait(PAUSE_SECONDS)

    def status(self, cluster):
        done = self.world.adit("status", "--context", cluster.context, check=False, seconds=60)
        return [*done.stdout.splitlines(), *done.stderr.splitlines(), f"exit status {done.returncode}"]

    def now(self, eye) -> frozenset[str]:
        return self.looks[eye][-1][1]

    def news(self, eye, since, begin=None) -> list[tuple[float, str]]:
        """Lines that were not there at `begin`, or else `since`, each with the seconds from `since` until it was seen
        first, and 0 where that was before."""
        looks, begin = self.looks[eye][:], since if begin is None else begin
        before = [lines for at, lines in looks if at < begin]
        known, found = set(before[-1] if before else ()), {}
        for at, lines in looks:
            for line in lines if at >= begin else ():
                if line not in known:
                    found.setdefault(line, max(0, round(at - since, 1)))
        return sorted((seconds, line) for line, seconds in found.items())

    def soonest(self, eye, pattern, since):
        """Seconds until a line that matches was there, new or not; None where there is none."""
        found = (at - since for at, lines in self.looks[eye][:] if at >= since and any(re.search(pattern, one) for one in lines))
        return next((round(seconds, 1) for seconds in found), None)

    def first(self, eyes, pattern, since, begin=None):
        """(seconds, line, eye) of the first new line that matches; None where there is none."""
        found = [
            (seconds, line, eye) for eye in self.looks if re.search(eyes, eye)
            for seconds, line in self.news(eye, since, begin) if re.search(pattern, line)
        ]
        return min(found, default=None)


def ask(api, path):
    with urllib.request.urlopen(api + path, timeout=10) as answer:
        return json.load(answer)["items"]


def conditions(api):
    for kind in ("links", "exports", "imports"):
        for one in ask(api, f"{API}/{kind}"):
            name = one["metadata"]["name"]
            yield f"{kind[:-1].title()} {name}"
            for found in one.get("status", {}).get("conditions", []):
                said = "{type}={status} {reason}: {message}".format(**found)
                yield f"{kind[:-1].title()} {name} {said}"
    # Conditions of our own parts in Kubernetes, which cannot say it themselves.
    for kind, path in (("Deployment", "/apis/apps/v1/namespaces/{}/deployments"), ("Pod", "/api/v1/namespaces/{}/pods")):
        for one in ask(api, path.format(SYSTEM)):
            for found in one.get("status", {}).get("conditions", []):
                yield f"{kind} {one['metadata']['name']} " + "{type}={status} {reason}".format(**{"reason": "", **found})


def events(api):
    for one in ask(api, "/apis/events.k8s.io/v1/events"):
        about = one["regarding"]
        if str(one.get("reportingController", "")).startswith("adit.dev") or about.get("namespace") == SYSTEM:
            # Each Event is news, though it says what another has said.
            said = f"{about['kind']} {about['name']} {one['reason']}: {one.get('note', '')}"
            yield f"{said} [{one['metadata']['uid'][:8]}]"


def controllers(api):
    for pod in ask(api, f"/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io/name=adit-controller"):
        if address := pod["status"].get("podIP"):
            lines = metrics(pod["spec"]["nodeName"], f"{address}:7845")
            yield from (f"{line} [{pod['metadata']['name']}]" for line in lines if not line.startswith("up "))


def metrics(node, where="127.0.0.1:7844"):
    page = run("ip", "netns", "exec", f"rig-{node}", "curl", "-sf", "-m", "2", f"http://{where}/metrics", check=False)
    if page.returncode:
        return ["up 0"]
    return ["up 1", *(line for line in page.stdout.splitlines() if SAMPLES.match(line))]


class Callers:
    """Callers of several addresses, in one pod; `ends` gives those of one address that began in some time."""

    RATE = 5

    def __init__(self, cluster, pod, targets):
        self.cluster, self.pod, self.file = cluster, pod, f"/tmp/{uuid.uuid4().hex}"
        where = " ".join(f"{key}={address}" for key, address in targets.items())
        self.start = f"nohup python3 /app/callers.py {self.file} {self.RATE} {where} >{self.file}.log 2>&1 &"

    def __enter__(self):
        self.cluster.exec(agents.NAMESPACE, self.pod, "sh", "-c", self.start)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Failure):
            self.cluster.exec(agents.NAMESPACE, self.pod, "touch", self.file + ".stop")

    def ends(self, key, since, until=float("inf")):
        read = self.cluster.exec(agents.NAMESPACE, self.pod, "grep", f'"key": "{key}"', self.file, check=False).stdout
        lines = (json.loads(line) for line in read.splitlines() if line.endswith("}"))
        return [line for line in lines if since <= line["at"] < until]
