"""The test agent on Python a2a-sdk 1.x: JSON-RPC, REST and gRPC from one executor.

Owns the commands of ../README.md and nothing else; the SDK owns every byte on the wire.
"""

import argparse
import asyncio
import hashlib
import json
import logging
import os
import socket
import sys

import grpc
import httpx
import uvicorn
from a2a.helpers import (
    get_message_text,
    get_raw_parts,
    new_message,
    new_raw_part,
    new_task_from_user_message,
    new_text_message,
    new_text_part,
)
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler, GrpcHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import (
    BasePushNotificationSender,
    InMemoryPushNotificationConfigStore,
    InMemoryTaskStore,
    TaskUpdater,
)
from a2a.types import a2a_pb2_grpc
from a2a.types.a2a_pb2 import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, TaskState
from starlette.applications import Starlette

# Longer than any pause a client may make at a gate, so that a lost `go` fails a test, not hangs it.
GATE_SECONDS = 60


class Commands(AgentExecutor):
    """Answers the text commands of ../README.md."""

    def __init__(self):
        self.gates: dict[str, asyncio.Event] = {}

    async def execute(self, context, event_queue):
        words = get_message_text(context.message).split()
        if words[0] == "stream":
            await self.stream(context, event_queue, *words[1:])
        else:
            await event_queue.enqueue_event(await self.answer(context, words))

    async def answer(self, context, words):
        """The single message that answers a command which makes no task."""
        match words:
            case ["echo", *rest]:
                return new_text_message("echo " + " ".join(rest))
            case ["go", token]:
                self.gates.setdefault(token, asyncio.Event()).set()
                return new_text_message("going")
            case ["silence", seconds]:
                await asyncio.sleep(float(seconds))
                return new_text_message("after " + seconds)
            case ["file", size]:
                received = get_raw_parts(context.message.parts)[0]
                seen = hashlib.sha256(received).hexdigest()
                payload = hashlib.shake_256(b"agent").digest(int(size))
                return new_message([
                    new_text_part(f"received {len(received)} {seen}"),
                    new_raw_part(payload, media_type="application/octet-stream", filename="agent.bin"),
                ])
            case _:
                return new_text_message("unknown command")

    async def stream(self, context, event_queue, count, interval_ms, gate, token):
        await event_queue.enqueue_event(new_task_from_user_message(context.message))
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        for number in range(int(count)):
            if number == int(gate) > 0:
                await self.wait_at_gate(updater, token)
            await updater.add_artifact([new_text_part(f"chunk {number}")], name=f"chunk-{number}")
            await asyncio.sleep(int(interval_ms) / 1000)
        await updater.complete()

    async def wait_at_gate(self, updater, token):
        """Says `waiting` until the client said `go`: every such event was sent before what follows."""
        opened = self.gates.setdefault(token, asyncio.Event())
        async with asyncio.timeout(GATE_SECONDS):
            while not opened.is_set():
                await updater.update_status(
                    TaskState.TASK_STATE_WORKING, updater.new_agent_message([new_text_part("waiting")])
                )
                await asyncio.sleep(0.1)

    async def cancel(self, context, event_queue):
        raise NotImplementedError("no command is cancelled")


def card(http_address, grpc_address):
    return AgentCard(
        name="python-1",
        description="End-to-end test agent",
        version="1",
        supported_interfaces=[
            AgentInterface(url=f"http://{http_address}/", protocol_binding="JSONRPC", protocol_version="1.0"),
            AgentInterface(url=f"http://{http_address}/rest", protocol_binding="HTTP+JSON", protocol_version="1.0"),
            AgentInterface(url=grpc_address, protocol_binding="GRPC", protocol_version="1.0"),
        ],
        capabilities=AgentCapabilities(streaming=True, push_notifications=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="commands", name="commands", description="Text commands", tags=["test"])],
    )


async def serve(options, commands):
    listener = socket.create_server((options.listen, options.port))
    http_address = f"{options.listen}:{listener.getsockname()[1]}"
    grpc_server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    )
    grpc_address = f"{options.listen}:{grpc_server.add_insecure_port(options.listen + ':0')}"

    agent_card = card(options.advertise_http or http_address, options.advertise_grpc or grpc_address)
    push_configs = InMemoryPushNotificationConfigStore()
    handler = DefaultRequestHandler(
        agent_executor=commands,
        task_store=InMemoryTaskStore(),
        agent_card=agent_card,
        push_config_store=push_configs,
        push_sender=BasePushNotificationSender(httpx.AsyncClient(), push_configs),
    )
    app = Starlette(routes=[
        *create_agent_card_routes(agent_card),
        # 1.x serves the current path only: the old one is its card route mounted a second time.
        *create_agent_card_routes(agent_card, card_url="/.well-known/agent.json"),
        *create_jsonrpc_routes(handler, "/"),
        *create_rest_routes(handler, path_prefix="/rest"),
    ])
    a2a_pb2_grpc.add_A2AServiceServicer_to_server(GrpcHandler(handler), grpc_server)
    await grpc_server.start()
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    print(json.dumps({"http": http_address, "grpc": grpc_address}), flush=True)
    await server.serve(sockets=[listener])


async def main(commands):
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="for HTTP; any, by default")
    parser.add_argument("--advertise-http", help="HOST:PORT the card shows instead of the bound one")
    parser.add_argument("--advertise-grpc", help="the same for gRPC")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    # The driver holds our standard input; its end, however it ends, is ours.
    asyncio.get_running_loop().run_in_executor(None, lambda: (sys.stdin.buffer.read(), os._exit(0)))
    await serve(options, commands)


if __name__ == "__main__":
    asyncio.run(main(Commands()))
