"""Callers of several addresses, each again and again over new connections, and a line for each that has ended.

    callers.py FILE RATE KEY=HOST:PORT…

So many a second of each address, whether or not those before have ended, until FILE.stop is there. A line of FILE is
JSON: {"key", "at" (when it began, Unix time), "seconds", "end"}; the end is "answer", "closed", "hangs" or an error's name.
"""

import asyncio
import errno
import json
import os
import sys
import time

# A caller who has nothing by then hangs.
PATIENCE_SECONDS = 5
REQUEST = b"GET /.well-known/agent-card.json HTTP/1.1\r\nhost: caller\r\nconnection: close\r\n\r\n"


async def ask(host, port):
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(REQUEST)
                return "answer" if await reader.read(1) else "closed"
            finally:
                writer.transport.abort()
    except TimeoutError as error:
        return errno.errorcode.get(error.errno, "hangs") if error.errno else "hangs"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


async def one(file, key, host, port):
    at, began = time.time(), time.monotonic()
    end = await ask(host, port)
    line = {"key": key, "at": round(at, 3), "seconds": round(time.monotonic() - began, 3), "end": end}
    file.write(json.dumps(line) + "\n")


async def main(name, rate, targets):
    running = set()
    with open(name, "a", buffering=1) as file:
        while not os.path.exists(name + ".stop"):
            for target in targets:
                key, where = target.split("=", 1)
                host, port = where.rsplit(":", 1)
                task = asyncio.create_task(one(file, key, host, int(port)))
                running.add(task)
                task.add_done_callback(running.discard)
                # Evenly: none waits for the others.
                await asyncio.sleep(1 / rate / len(targets))
        await asyncio.gather(*running)


if __name__ == "__main__":
    name, rate, *targets = sys.argv[1:]
    asyncio.run(main(name, float(rate), targets))
