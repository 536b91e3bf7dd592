"""A Docker engine: the one that runs here, or one of our own, from Debian's package, that leaves no trace.

Ours keeps to itself: its own socket, its own folder, no rule in this machine's packet filter, and networks that are not
those on which another program may have put clusters.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

from .shell import Failure, sh, wait_for, works

RUNTIME = Path("/run/adit-kind")
# Docker's own choice would begin with 172.17.0.0/16.
BRIDGE, POOL = "172.28.0.1/24", {"base": "172.28.16.0/20", "size": 24}
# A node has many watchers, and all nodes share what this machine allows: 128 are gone with the third.
WATCHERS = Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH_WATCHERS = 1024
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def start(cache: Path):
    """From here on `docker` finds an engine."""
    if int(WATCHERS.read_text()) < ENOUGH_WATCHERS:
        WATCHERS.write_text(str(ENOUGH_WATCHERS))
    if works("docker", "info"):
        return "the one that runs here"
    os.environ["DOCKER_HOST"] = f"unix://{RUNTIME}/docker.sock"
    if works("docker", "info"):
        return "ours runs already"
    RUNTIME.mkdir(parents=True, exist_ok=True)
    (RUNTIME / "ip_forward").write_text(FORWARD.read_text())
    config = {
        "bip": BRIDGE, "default-address-pools": [POOL], "iptables": False, "ip6tables": False,
        "data-root": str(cache / "docker"), "exec-root": str(RUNTIME / "exec"), "pidfile": str(RUNTIME / "pid"),
        "hosts": [os.environ["DOCKER_HOST"]], "log-level": "warn",
        "runtimes": {"bounded": {"path": str(Path(__file__).parent / "bounded-runc")}}, "default-runtime": "bounded",
    }
    (RUNTIME / "daemon.json").write_text(json.dumps(config))
    log = open(cache / "dockerd.log", "wb")
    subprocess.Popen(
        ["dockerd", "--config-file", RUNTIME / "daemon.json"],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )
    try:
        wait_for("an engine", lambda: works("docker", "info"))
    except Failure as failure:
        raise Failure(f"{failure}\n{(cache / 'dockerd.log').read_text()[-3000:]}") from None
    return f"Docker {sh('docker', 'version', '--format', '{{.Server.Version}}').strip()}, started"


def use():
    """Finds the engine that `start` has left, if it is ours."""
    if (RUNTIME / "docker.sock").exists() and not works("docker", "info"):
        os.environ["DOCKER_HOST"] = f"unix://{RUNTIME}/docker.sock"


def stop():
    """Ends the engine if it is ours, with all that it made but its images."""
    try:
        pid = int((RUNTIME / "pid").read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return
    wait_for("our engine to end", lambda: not Path(f"/proc/{pid}/exe").exists())
    with contextlib.suppress(OSError):
        FORWARD.write_text((RUNTIME / "ip_forward").read_text())
    works("ip", "link", "del", "docker0")
    shutil.rmtree(RUNTIME, ignore_errors=True)
