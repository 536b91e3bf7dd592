"""Certificates that end, and CAs that are replaced, under traffic."""

import base64
import json
import tempfile
import time
from pathlib import Path

from .agents import Steady, served
from .cluster import check, eventually
from .world import SYSTEM

# So long lives the CA that stands for one whose end is near; a certificate of it never longer.
SHORT_SECONDS = 420


def certificates(world):
    """An operator's CA of seven minutes, replaced by one that lasts: nodes renew what is due, and with overlap no request fails."""
    with tempfile.TemporaryDirectory() as folder:
        short = made(world, Path(folder) / "short", f"{SHORT_SECONDS}s")
        lasting = made(world, Path(folder) / "lasting", "1825d")
        # Without overlap: the nodes' certificates are worth nothing at once, and asked for anew.
        began = time.monotonic()
        keep(world, short, [])
        eventually("every node has a certificate of it", lambda: lives(world, SHORT_SECONDS), 120)
        world.link()
        eventually("it is served again", lambda: served(world.edge), 120)
        replaced = time.monotonic() - began
        with Steady(world.edge) as steady:
            # With overlap: believed before it signs, and the one before as long as its certificates live.
            keep(world, short, [lasting])
            world.link()
            keep(world, lasting, [short])
            signs = time.monotonic()
            # Nothing makes them ask for one but that what they have is due: certificates begin ten minutes before they
            # are made, so that those of so short a CA are past half of their lives.
            eventually("every node has renewed", lambda: renewed(world), SHORT_SECONDS, 5)
            took = time.monotonic() - signs
            keep(world, lasting, [])
            world.link()
            time.sleep(max(0, SHORT_SECONDS - (time.monotonic() - began)) + 20)
        check(not steady.failures, steady.say())
        check(not world.status(world.bank)["errors"], world.status(world.bank))
    return f"served {replaced:.0f} s after the CA was replaced without overlap; with overlap: all renewed within {took:.0f} s, {steady.say()}"


def made(world, folder, life):
    """A CA of bank's trust domain: its certificate and key."""
    domain = "bank.adit.internal"
    world.adit("pki", "init", "--trust-domain", domain, "--dir", folder, "--valid-for", life)
    return (folder / "ca.pem").read_bytes(), (folder / "ca.key.pem").read_bytes()


def keep(world, ca, also):
    """Puts a CA, and certificates that are believed beside it, into the Secret; waits until that is published."""
    certificate, key = ca
    encoded = lambda content: base64.b64encode(content).decode()
    data = {"tls.crt": encoded(certificate), "tls.key": encoded(key)}
    data["also-trusted.pem"] = encoded(b"".join(one for one, _ in also)) if also else None
    world.bank.kubectl("-n", SYSTEM, "patch", "secret", "adit-ca", "--type=merge", "-p", json.dumps({"data": data}))

    def published():
        bundle = world.bank.get("configmap", "adit-trust", "-n", SYSTEM)["data"]["ca.pem"]
        return bundle.count("BEGIN CERTIFICATE") == 1 + len(also) and body(certificate) in bundle.replace("\n", "")

    eventually("the bundle is published", published)


def body(pem):
    return "".join(line for line in pem.decode().splitlines() if not line.startswith("-"))


def ends(world):
    """When each node's certificate ends, by node."""
    pods = world.bank.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=adit-node")
    found = {}
    for pod in pods:
        said = world.bank.kubectl("-n", SYSTEM, "exec", pod["metadata"]["name"], "-c", "node", "--", "/adit", "status", check=False).stdout
        [line] = [line for line in said.splitlines() if line.strip().startswith("identity")]
        found[pod["spec"]["nodeName"]] = line.split("until ")[1].split(" ")[0]
    return found


def soon(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def lives(world, seconds):
    """True if all certificates end so soon."""
    return all(end <= soon(seconds) for end in ends(world).values())


def renewed(world):
    """True if all live longer than the short CA."""
    return all(end > soon(2 * SHORT_SECONDS) for end in ends(world).values())
