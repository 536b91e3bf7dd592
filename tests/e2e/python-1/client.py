"""The test client on Python a2a-sdk 1.x: runs one exchange and prints its transcript as JSON.

Knows nothing of tunnels: it gets a URL, and what it prints is compared by the driver. The words of a
transcript are those of ../README.md.
"""

import asyncio
import hashlib
import json
import socket
import struct
import sys
import uuid

import grpc
import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.helpers import get_message_text, get_raw_parts, new_message, new_raw_part, new_text_part
from a2a.types.a2a_pb2 import (
    GetTaskRequest,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    SubscribeToTaskRequest,
    TaskPushNotificationConfig,
    TaskState,
)
from google.protobuf.json_format import MessageToDict

# The words that the agent repeats at the gate of a stream, until it is told to go.
WAITING = "status working waiting"


class Connection:
    """An SDK client and the sockets below it, so that a test can break them."""

    def __init__(self, card, binding, streaming):
        self.sockets = []
        # An agent may think for ten minutes: the SDK's default of five seconds is not for it.
        self.http = httpx.AsyncClient(timeout=None, event_hooks={"response": [self.remember]})
        self.channel = None
        self.client = ClientFactory(ClientConfig(
            streaming=streaming,
            httpx_client=self.http,
            grpc_channel_factory=self.open_channel,
            supported_protocol_bindings=[binding],
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


def request(text, *parts, push=None):
    configuration = SendMessageConfiguration(task_push_notification_config=push) if push else None
    message = new_message([new_text_part(text), *parts], role=Role.ROLE_USER)
    return SendMessageRequest(message=message, configuration=configuration)


def state(status):
    return TaskState.Name(status.state).removeprefix("TASK_STATE_").lower()


def word(event):
    """An event of a stream as one line of a transcript."""
    match event.WhichOneof("payload"):
        case "message":
            return "message " + get_message_text(event.message)
        case "task":
            return f"task {state(event.task.status)} artifacts={len(event.task.artifacts)}"
        case "status_update":
            status = event.status_update.status
            return f"status {state(status)} {get_message_text(status.message)}".strip()
        case "artifact_update":
            return "artifact " + event.artifact_update.artifact.parts[0].text


def task_of(event):
    return event.task.id or event.status_update.task_id or event.artifact_update.task_id


async def read(stream, words, until=None):
    """Notes the events of a stream (a run of waiting as one), to `until`. Returns the task's ID."""
    task = ""
    async for event in stream:
        task = task or task_of(event)
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
    events = connection.client.subscribe(SubscribeToTaskRequest(id=task))
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
    final = await connection.client.get_task(GetTaskRequest(id=task))
    return {"state": state(final.status), "artifacts": [a.parts[0].text for a in final.artifacts]}


async def file(card, params):
    payload = hashlib.shake_256(b"client").digest(params["size"])
    part = new_raw_part(payload, media_type="application/octet-stream", filename="client.bin")
    connection = Connection(card, params["binding"], streaming=False)
    answer = (await single(connection, request(f"file {params['answer_size']}", part))).message
    received = get_raw_parts(answer.parts)[0]
    return {
        "agent": get_message_text(answer),
        "client": f"received {len(received)} {hashlib.sha256(received).hexdigest()}",
    }


async def push(card, params):
    config = TaskPushNotificationConfig(url=params["webhook"], token=params["token"])
    connection = Connection(card, params["binding"], streaming=False)
    answer = await single(connection, request(f"stream {params['count']} 20 0 -", push=config))
    return {"answer": word(answer), "result": await result(connection, answer.task.id)}


async def card(card, params):
    return {"card": MessageToDict(card)}


async def main():
    url, exchange, params = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    async with httpx.AsyncClient(timeout=30) as http:
        agent_card = await A2ACardResolver(http, url).get_agent_card(params.get("path"))
    exchanges = {f.__name__: f for f in (card, send, stream, resubscribe, file, push)}
    print(json.dumps(await exchanges[exchange](agent_card, params)))


if __name__ == "__main__":
    asyncio.run(main())
