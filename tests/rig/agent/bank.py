"""An agent of the bank: the commands of tests/e2e, one that says which pod answers, and one that asks another agent."""

import asyncio
import socket

import httpx
from a2a.client import A2ACardResolver
from a2a.helpers import new_text_message

import client
from agent import Commands, main


class Bank(Commands):
    """Answers `where` and `escalate URL WORDS` besides the commands of tests/e2e/README.md."""

    async def answer(self, context, words):
        match words:
            case ["where"]:
                return new_text_message(socket.gethostname())
            case ["escalate", url, *rest]:
                async with httpx.AsyncClient(timeout=30) as http:
                    card = await A2ACardResolver(http, url).get_agent_card()
                answer = await client.send(card, {"binding": "JSONRPC", "text": " ".join(rest)})
                return new_text_message("escalated " + answer["answer"])
            case _:
                return await super().answer(context, words)


if __name__ == "__main__":
    asyncio.run(main(Bank()))
