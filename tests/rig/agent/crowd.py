"""Many callers at once, each over a connection of its own: prints as JSON how they ended, and when the last one did.

    crowd.py HOST PORT COUNT
"""

import asyncio
import errno
import json
import resource
import sys
import time

TIMEOUT_SECONDS = 30
REQUEST = b"GET / HTTP/1.1\r\nhost: crowd\r\n\r\n"


async def ask(host, port):
    """The end of the connection: "answer", "end", the name of an error, or "timeout"; and after how many seconds."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(REQUEST)
            end = "answer" if await reader.read(1) else "end"
            writer.transport.abort()
    except TimeoutError as error:
        end = errno.errorcode.get(error.errno, "timeout") if isinstance(error, OSError) and error.errno else "timeout"
    except OSError as error:
        end = errno.errorcode.get(error.errno, str(error))
    return end, time.monotonic() - began


async def crowd(host, port, count):
    ends = await asyncio.gather(*(ask(host, port) for _ in range(count)))
    kinds = {}
    for end, _ in ends:
        kinds[end] = kinds.get(end, 0) + 1
    print(json.dumps({"ends": kinds, "slowest": round(max(seconds for _, seconds in ends), 3)}))


if __name__ == "__main__":
    host, port, count = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(crowd(host, int(port), int(count)))
