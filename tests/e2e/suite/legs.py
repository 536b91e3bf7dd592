"""An SDK over one way: an agent, and clients that reach it at the address which its card shows.

Owns running one case and what a transcript consists of. There are two legs for an SDK, direct and tunnel; this
module cannot tell them apart.
"""

import hashlib
import http.client
import json
import subprocess
import threading
import time
import uuid
from pathlib import Path

from .cases import Case, Exchange, expected
from .processes import Failure, Service, run, tail
from .sdks import Sdk
from .webhook import Webhook

# For starting an interpreter and for a busy machine; what an exchange lasts by its nature is added.
DEADLINE_SECONDS = 180
START_SECONDS = 60
# 64 MiB in base64, decoded, parsed and copied is most of a gigabyte in each of two processes.
heavy = threading.Lock()


class Leg:
    """An agent and the way to it."""

    def __init__(self, name: str, sdk: Sdk, webhook: Webhook, logs: Path, advertise: dict[str, str] | None = None):
        self.name, self.sdk, self.webhook = name, sdk, webhook
        # Where the agent's host sees the webhook; the tunnel puts its own address here.
        self.webhook_address = webhook.address
        flags = [f"--advertise-{kind}={address}" for kind, address in (advertise or {}).items()]
        self.agent = Service(
            f"{sdk.name} agent ({name})", sdk.agent + flags, logs / f"{sdk.name}-{name}.log", stdout=subprocess.PIPE
        )
        self.advertise = advertise

    def ready(self):
        """Learns where the agent listens, and where its clients find it."""
        self.bound = self.agent.first_line(START_SECONDS)
        self.seen = self.advertise or self.bound

    def run(self, case: Case) -> list[dict]:
        """The transcripts of a case, each as it has to be."""
        return [self.checked(exchange) for exchange in case.exchanges]

    def checked(self, exchange: Exchange) -> dict:
        transcript = self.transcript(exchange)
        # Only the client's own account has one form for all SDKs.
        if (wanted := expected(exchange, transcript["client"])) != transcript["client"]:
            raise Failure(f"{exchange.name} is not as expected\n{difference(wanted, transcript['client'])}")
        return transcript

    def transcript(self, exchange: Exchange) -> dict:
        self.agent.check()
        transcript, params = {}, dict(exchange.params)
        if exchange.name == "push":
            path = f"/{self.sdk.name}/{self.name}/{uuid.uuid4().hex}"
            params |= {"webhook": f"http://{self.webhook_address}{path}", "token": "e2e-token"}
        command = [*self.sdk.client, "http://" + self.seen["http"], exchange.name, json.dumps(params)]
        if exchange.heavy:
            with heavy:
                output = run(command, DEADLINE_SECONDS + exchange.lasts)
        else:
            output = run(command, DEADLINE_SECONDS + exchange.lasts)
        transcript["client"] = json.loads(self.neutral(output))
        if exchange.name == "push":
            transcript["posts"] = self.pushed(path)
        if exchange.name == "card":
            transcript["raw"] = self.raw_card(params["path"])
        return transcript

    def pushed(self, path: str) -> list[dict]:
        posts = self.webhook.wait_for_end(path, seconds=30)
        if not posts or not all(post["token"] == "e2e-token" for post in posts):
            raise Failure(f"the webhook got {json.dumps(posts, indent=1)}")
        return posts

    def raw_card(self, path: str) -> dict:
        """The card's bytes as they came, except for the address that two ways cannot share."""
        connection = http.client.HTTPConnection(self.seen["http"], timeout=30)
        connection.request("GET", path)
        response = connection.getresponse()
        body = self.neutral(response.read().decode())
        connection.close()
        return {
            "status": response.status,
            "type": response.headers["Content-Type"],
            "sha256": hashlib.sha256(body.encode()).hexdigest(),
        }

    def neutral(self, text: str) -> str:
        for kind, address in self.seen.items():
            text = text.replace(address, f"{kind}.agent")
        return text


def difference(wanted, got) -> str:
    """The first place where two transcripts part, with both sides of it."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key in sorted(wanted.keys() | got.keys()):
            if wanted.get(key) != got.get(key):
                return f"{key}: {difference(wanted.get(key), got.get(key))}"
    if isinstance(wanted, list) and isinstance(got, list):
        place = next((n for n, (w, g) in enumerate(zip(wanted, got)) if w != g), min(len(wanted), len(got)))
        return f"[{place}] {difference((wanted[place:] or ['(end)'])[0], (got[place:] or ['(end)'])[0])}"
    return f"wanted {json.dumps(wanted)[:500]}\n     got {json.dumps(got)[:500]}"


def both(case: Case, legs: list[Leg]) -> tuple[str, float]:
    """Runs a case over all legs at the same time: its digest and seconds, or a Failure that names the leg."""
    started, results, failures = time.monotonic(), {}, []

    def over(leg):
        try:
            results[leg.name] = leg.run(case)
        except Failure as failure:
            failures.append(f"{leg.name}: {failure}\n--- {leg.agent.name}:\n{tail(leg.agent.log)}")
        except Exception as error:  # A fault of the suite itself must not look like a passed case.
            failures.append(f"{leg.name}: {error!r}")

    threads = [threading.Thread(target=over, args=[leg]) for leg in legs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Failure("\n".join(failures))
    reference = results[legs[0].name]
    for name, transcripts in results.items():
        if transcripts != reference:
            raise Failure(f"{name} differs from {legs[0].name}\n{difference(reference, transcripts)}")
    digest = hashlib.sha256(json.dumps(reference, sort_keys=True).encode()).hexdigest()
    return digest, time.monotonic() - started

