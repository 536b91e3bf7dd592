"""The test client on Python a2a-sdk 0.3.x: runs one exchange and prints its transcript as JSON.

Knows nothing of tunnels: it gets a URL, and what it prints is compared by the driver. The words of a
transcript are those of ../README.md.
"""

import asyncio
import base64
import hashlib
import json
import socket
import struct
import sys
import uuid

import grpc
import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types import (
    FilePart,
    FileWithBytes,
    Message,
    Part,
    PushNotificationConfig,
    Role,
    TaskArtifactUpdateEvent,
    TaskIdParams,
    TaskQueryParams,
    TextPart,
)
from a2a.utils import get_file_parts, get_message_text

# The words that the agent repeats at the gate of a stream, until it is told to go.
WAITING = "status working waiting"


class Connection:
    """An SDK client and the sockets below it, so that a test can break them."""

    def __init__(self, card, binding, streaming, push=None):
        self.sockets = []
        # An agent may think for ten minutes: the SDK's default of five seconds is not for it.
        self.http = httpx.AsyncClient(timeout=None, event_hooks={"response": [self.remember]})
        self.channel = None
        self.client = ClientFactory(ClientConfig(
            streaming=streaming,
            httpx_client=self.http,
            grpc_channel_factory=self.open_channel,
            supported_transports=[binding],
            push_notification_configs=[push] if push else [],
        )).create(card)

    def open_channel(self, url):
        self.channel = grpc.aio.insecure_channel(
            url, options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        )
        return self.channel

    async def remember(self, response):
        self.sockets.append(response.extensions["network_stream"].get_extra_info("socket"))

    async def kill(self):
        """Breaks the connection: RST for HTTP; gRPC's C core owns its socket and closes it."""
        for connected in self.sockets:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.http.aclose()
        if self.channel:
            await self.channel.close()


def request(text, *parts):
    return Message(
        message_id=str(uuid.uuid4()), role=Role.user, parts=[Part(root=TextPart(text=text)), *parts]
    )


def word(event):
    """An event of a stream as one line of a transcript."""
    if isinstance(event, Message):
        return "message " + get_message_text(event)
    task, update = event
    if update is None:
        return f"task {task.status.state.value} artifacts={len(task.artifacts or [])}"
    if isinstance(update, TaskArtifactUpdateEvent):
        return "artifact " + update.artifact.parts[0].root.text
    said = get_message_text(update.status.message) if update.status.message else ""
    return f"status {update.status.state.value} {said}".strip()


async def read(stream, words, until=None):
    """Notes the events of a stream (a run of waiting as one), to `until`. Returns the task's ID."""
    task = ""
    async for event in stream:
        task = task or event[0].id
        if word(event) != WAITING or WAITING not in words[-1:]:
            words.append(word(event))
        if words[-1] == until:
            break
    return task


async def single(connection, message):
    """The one answer to a blocking send."""
    [answer] = [event async for event in connection.client.send_message(message)]
    return answer


async def send(card, params):
    answer = await single(Connection(card, params["binding"], streaming=False), request(params["text"]))
    return {"answer": word(answer)}


async def stream(card, params):
    """Reads to the gate, opens it by a second request, and reads to the end."""
    connection = Connection(card, params["binding"], streaming=True)
    token, words = uuid.uuid4().hex, []
    events = connection.client.send_message(request(stream_command(params, token)))
    task = await read(events, words, until=WAITING)
    await say_go(card, params, token)
    await read(events, words)
    return {"events": words, "result": await result(connection, task)}


async def resubscribe(card, params):
    """Breaks the connection at the gate, subscribes again on a new one, and only then opens the gate."""
    broken = Connection(card, params["binding"], streaming=True)
    token, before, after = uuid.uuid4().hex, [], []
    events = broken.client.send_message(request(stream_command(params, token)))
    task = await read(events, before, until=WAITING)
    await broken.kill()

    connection = Connection(card, params["binding"], streaming=True)
    events = connection.client.resubscribe(TaskIdParams(id=task))
    await read(events, after, until=WAITING)
    await say_go(card, params, token)
    await read(events, after)
    return {"before": before, "after": after, "result": await result(connection, task)}


def stream_command(params, token):
    return f"stream {params['count']} {params['interval_ms']} {params['gate']} {token}"


async def say_go(card, params, token):
    await single(Connection(card, params["binding"], streaming=False), request("go " + token))


async def result(connection, task):
    """The agent's account of the finished task: a second account, independent of the stream."""
    final = await connection.client.get_task(TaskQueryParams(id=task))
    texts = [artifact.parts[0].root.text for artifact in final.artifacts]
    return {"state": final.status.state.value, "artifacts": texts}


async def file(card, params):
    payload = base64.b64encode(hashlib.shake_256(b"client").digest(params["size"])).decode()
    file = FileWithBytes(bytes=payload, mime_type="application/octet-stream", name="client.bin")
    connection = Connection(card, params["binding"], streaming=False)
    answer = await single(connection, request(f"file {params['answer_size']}", Part(root=FilePart(file=file))))
    received = base64.b64decode(get_file_parts(answer.parts)[0].bytes)
    return {
        "agent": get_message_text(answer),
        "client": f"received {len(received)} {hashlib.sha256(received).hexdigest()}",
    }


async def push(card, params):
    config = PushNotificationConfig(url=params["webhook"], token=params["token"])
    connection = Connection(card, params["binding"], streaming=False, push=config)
    answer = await single(connection, request(f"stream {params['count']} 20 0 -"))
    return {"answer": word(answer), "result": await result(connection, answer[0].id)}


async def card(card, params):
    return {"card": card.model_dump(mode="json", exclude_none=True)}


async def main():
    url, exchange, params = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    async with httpx.AsyncClient(timeout=30) as http:
        agent_card = await A2ACardResolver(http, url).get_agent_card(params.get("path"))
    exchanges = {f.__name__: f for f in (card, send, stream, resubscribe, file, push)}
    print(json.dumps(await exchanges[exchange](agent_card, params)))


if __name__ == "__main__":
    asyncio.run(main())
