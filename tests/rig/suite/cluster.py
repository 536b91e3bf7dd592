"""A cluster as kubectl shows it, and waiting for a state of it.

Knows nothing of Adit.
"""

import json
import subprocess
import time
from pathlib import Path

# Much longer than anything here should take on a busy machine of two cores.
PATIENCE_SECONDS = 60


class Failure(Exception):
    """A case that failed, with what a reader needs to see."""


class Skip(Exception):
    """A case that cannot run here, and why."""


def run(*command, given=None, seconds=600, check=True, text=True, **options):
    """Standard output of a command; a Failure with all that it said when it fails. Unchecked, what became of it."""
    try:
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=text, input=given, timeout=seconds, **options
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(map(str, command))}: took longer than {seconds} s") from None
    except OSError as error:
        raise Failure(f"{command[0]}: {error}") from None
    if not check:
        return done
    if done.returncode:
        raise Failure(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check(condition, what):
    """A condition that must hold, and what was seen instead."""
    if not condition:
        raise Failure(str(what))


def eventually(what, probe, seconds=PATIENCE_SECONDS, pause=0.2):
    """Polls until the probe gives something true, and gives that; its last failure is the reason when it never does."""
    deadline, reason = time.monotonic() + seconds, ""
    while True:
        try:
            if result := probe():
                return result
        except Failure as failure:
            reason = f": {failure}"
        if time.monotonic() > deadline:
            raise Failure(f"not within {seconds} s: {what}{reason}")
        time.sleep(pause)


class Cluster:
    """kubectl, on one context."""

    def __init__(self, name: str, context: str):
        self.name, self.context = name, context

    def kubectl(self, *args, **options):
        return run("kubectl", "--context", self.context, *args, **options)

    def get(self, *args):
        """An object, or the list of what was asked for."""
        found = json.loads(self.kubectl("get", "-o", "json", *args))
        return found["items"] if found["kind"] == "List" else found

    def names(self, kind, *args):
        return self.kubectl("get", kind, "-o", "name", *args).split()

    def events(self, namespace=None):
        return self.get("events.events.k8s.io", *(["-n", namespace] if namespace else ["-A"]))

    def create(self, *things):
        for thing in things:
            self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=json.dumps(thing))

    def delete(self, *args):
        self.kubectl("delete", "--ignore-not-found", "--timeout=120s", *args)

    def exec(self, namespace, pod, *argv, **options):
        return self.kubectl("-n", namespace, "exec", pod, "--", *argv, **options)

    def wait(self, namespace, thing, condition="Ready", seconds=120):
        self.kubectl(*(["-n", namespace] if namespace else []), "wait", thing, f"--for=condition={condition}", f"--timeout={seconds}s")

    def rolled_out(self, namespace, thing, seconds=120):
        self.kubectl("-n", namespace, "rollout", "status", thing, f"--timeout={seconds}s")

    def scale(self, namespace, deployment, replicas):
        self.kubectl("-n", namespace, "scale", f"deployment/{deployment}", f"--replicas={replicas}")


def condition(thing, kind):
    """(status, reason, message) of one condition; all None where it is not there."""
    for one in thing.get("status", {}).get("conditions", []):
        if one["type"] == kind:
            return one["status"], one["reason"], one["message"]
    return None, None, None


def tail(text: str, lines: int = 25) -> str:
    return "\n".join(text.splitlines()[-lines:])


def here(path: str) -> Path:
    """A file of this repository."""
    return Path(__file__).resolve().parents[3] / path
