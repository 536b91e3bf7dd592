"""A client that asks a URL once, or again and again until it is told to stop, each time over a new connection.

    steady.py URL               prints the answer as JSON: {"body"} or {"error"}, and {"seconds"}
    steady.py URL NAME [PAUSE]  until the file NAME.stop is there; then writes NAME.json
"""

import json
import os
import sys
import time
import urllib.request

TIMEOUT_SECONDS = 30


def ask(url):
    began = time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            result = {"body": answer.read().decode()}
    except Exception as error:  # Whatever it is, it is what the client sees.
        result = {"error": str(error)}
    return result | {"seconds": round(time.monotonic() - began, 3)}


def steadily(url, name, pause):
    asked, slowest, failures = 0, 0, []
    while not os.path.exists(name + ".stop"):
        began = time.time()
        result = ask(url)
        asked += 1
        if "error" in result:
            failures.append({"at": began, **result})
        else:
            slowest = max(slowest, result["seconds"])
        time.sleep(pause)
    with open(name + ".part", "w") as file:
        json.dump({"asked": asked, "slowest": slowest, "failures": failures}, file)
    os.rename(name + ".part", name + ".json")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [url]:
            print(json.dumps(ask(url)))
        case [url, name, *pause]:
            steadily(url, name, float(pause[0]) if pause else 0.1)
