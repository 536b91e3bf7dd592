"""The cases: which exchanges make one up, and what a transcript of each must say.

Owns the expectations. The same ones hold for every SDK and for both ways, direct and through the tunnel;
that the two are also equal is checked by the caller.
"""

import hashlib
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Exchange:
    """A run of a client program: `name` is its word for it, `params` what it gets with it."""

    name: str
    params: dict
    # Seconds that the exchange lasts by its nature; the deadline is put on top.
    lasts: float = 0
    # Takes much memory and a whole core: one at a time.
    heavy: bool = False


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    exchanges: list[Exchange]


def stream(binding, count, interval_ms, name="stream"):
    params = {"binding": binding, "count": count, "interval_ms": interval_ms, "gate": count // 2}
    return Exchange(name, params, lasts=count * interval_ms / 1000)


def send(binding, text="echo hello from edge"):
    return Exchange("send", {"binding": binding, "text": text})


def file(binding, answer_size=64 * MIB):
    params = {"binding": binding, "size": 64 * MIB, "answer_size": answer_size}
    return Exchange("file", params, heavy=True)


def binding_exchanges(binding, answer_size=64 * MIB):
    """The exchange with a binding other than JSON-RPC."""
    return [
        send(binding),
        stream(binding, 20, 100),
        stream(binding, 20, 100, name="resubscribe"),
        file(binding, answer_size),
    ]


def cases(slow: bool, grpc_answer_limit: int | None) -> list[Case]:
    silence = 600 if slow else 8
    quiet = Exchange("send", {"binding": "JSONRPC", "text": f"silence {silence}"}, lasts=silence)
    long_stream = stream("JSONRPC", 600, 500) if slow else stream("JSONRPC", 100, 250)
    card, old_card = "/.well-known/agent-card.json", "/.well-known/agent.json"
    return [
        Case("card", f"card at {card}", [Exchange("card", {"path": card})]),
        Case("card-old", f"card at {old_card}", [Exchange("card", {"path": old_card})]),
        Case("send", "blocking send", [send("JSONRPC")]),
        Case("stream", f"{long_stream.lasts:.0f} s of server-sent events", [long_stream]),
        Case("silence", f"{silence} s of silence before an answer", [quiet]),
        Case("resubscribe", "resubscribe after a broken stream", [stream("JSONRPC", 20, 100, name="resubscribe")]),
        Case("file", "64 MiB file part each way", [file("JSONRPC")]),
        Case("push", "push notifications through a reverse import", [Exchange("push", {"binding": "JSONRPC", "count": 3})]),
        Case("rest", "REST binding: send, stream, resubscribe, file", binding_exchanges("HTTP+JSON")),
        Case("grpc", "gRPC binding (HTTP/2): send, stream, resubscribe, file",
             binding_exchanges("GRPC", grpc_answer_limit or 64 * MIB)),
    ]


def expected(exchange: Exchange, transcript: dict) -> dict:
    """The expected transcript. Takes from the given one only what SDKs may differ in."""
    params = exchange.params
    match exchange.name:
        case "card":
            return transcript
        case "send":
            answer = params["text"].replace("silence", "after")
            return {"answer": "message " + answer}
        case "stream":
            return {"events": before(params) + after(params), "result": finished(params)}
        case "resubscribe":
            # 1.x gives the task as it stands before its events, 0.3 the events alone.
            snapshot = [f"task working artifacts={params['gate']}"]
            given = transcript.get("after", [])[:1] == snapshot
            resumed = ["status working waiting", *after(params)]
            return {"before": before(params), "after": snapshot * given + resumed, "result": finished(params)}
        case "file":
            return {
                "agent": received(b"client", params["size"]),
                "client": received(b"agent", params["answer_size"]),
            }
        case "push":
            return {"answer": f"task completed artifacts={params['count']}", "result": finished(params)}


def before(params):
    """A stream as far as its gate."""
    return ["task submitted artifacts=0", "status working", *chunks(0, params["gate"]), "status working waiting"]


def after(params):
    """A stream from its gate on."""
    return [*chunks(params["gate"], params["count"]), "status completed"]


def chunks(start, end):
    return [f"artifact chunk {number}" for number in range(start, end)]


def finished(params):
    return {"state": "completed", "artifacts": [f"chunk {number}" for number in range(params["count"])]}


def received(sender: bytes, size: int) -> str:
    """A side's account of the payload that the other made: its length and digest."""
    payload = hashlib.shake_256(sender).digest(size)
    return f"received {size} {hashlib.sha256(payload).hexdigest()}"
