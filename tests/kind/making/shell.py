"""Commands, and how long the steps that they make took. Knows nothing of what they do."""

import contextlib
import os
import subprocess
import time

STEPS: list[tuple[float, str]] = []


class Failure(Exception):
    """A step that failed, with what a reader needs to see."""


def sh(*argv, **options) -> str:
    """What a command prints; a Failure with all that it said where it fails."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, **options)
    if done.returncode:
        raise Failure(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def works(*argv) -> bool:
    """Whether a command succeeds; nothing of it is shown."""
    try:
        return subprocess.run([str(word) for word in argv], capture_output=True).returncode == 0
    except OSError:
        return False


def loud(*argv, **options):
    """A command that a reader watches."""
    if status := subprocess.run([str(word) for word in argv], **options).returncode:
        raise Failure(f"{' '.join(map(str, argv))}: exit {status}")


@contextlib.contextmanager
def step(name):
    """Says what is done, and how long it took."""
    print(f"=== {name}", flush=True)
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    STEPS.append((seconds, name))
    print(f"=== {name}: {seconds:.0f} s", flush=True)


def table():
    """All steps, at the end."""
    print("\n seconds  step")
    for seconds, name in STEPS:
        print(f"{seconds:8.0f}  {name}")
    print(f"{sum(seconds for seconds, _ in STEPS):8.0f}  all", flush=True)


def wait_for(what, probe, seconds=60):
    """Polls until the probe gives something true."""
    deadline = time.monotonic() + seconds
    while not (result := probe()):
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {seconds} s")
        time.sleep(0.3)
    return result


def packages(*pairs):
    """Installs from Debian what is missing, of pairs PROGRAM:PACKAGE. Services that come along are not started."""
    missing = sorted({pair.split(":")[1] for pair in pairs if not works("sh", "-c", f"command -v {pair.split(':')[0]}")})
    if missing:
        sh("apt-get", "update", "-qq")
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        sh("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=quiet)
