"""New requests at a fixed rate, each over a new connection, beside streams that stay open.

    load.py HOST PORT NAME RATE STREAMS   until the file NAME.stop is there; then writes NAME.json

A request is sent when its time has come, however long those before it take, so that an outage of a second is
seen by RATE of them.
"""

import http.client
import json
import os
import sys
import threading
import time
import uuid

TIMEOUT_SECONDS = 30
# The request to an agent: so many pieces, one each second.
PIECES = 3600


class Load:
    def __init__(self, host, port, streams):
        self.host, self.port = host, int(port)
        self.lock = threading.Lock()
        self.asked, self.times, self.failures = 0, [], []
        self.streams = [{"pieces": 0, "last": 0.0, "ended": None} for _ in range(streams)]

    def ask(self):
        began, started = time.time(), time.monotonic()
        try:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_SECONDS)
            connection.request("GET", "/.well-known/agent-card.json", headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read()
            error = None if answer.status == 200 and body else f"status {answer.status}"
            connection.close()
        except Exception as wrong:  # Whatever it is, it is what the client sees.
            error = f"{type(wrong).__name__}: {wrong}"
        took = time.monotonic() - started
        with self.lock:
            self.asked += 1
            self.times.append((round(took, 3), round(began, 2)))
            if error:
                self.failures.append({"at": began, "error": error, "seconds": round(took, 3)})

    def stream(self, seen):
        """Reads one stream; notes how it ended, if it did."""
        text = f"stream {PIECES} 1000 0 {uuid.uuid4().hex}"
        message = {"messageId": uuid.uuid4().hex, "role": "ROLE_USER", "parts": [{"text": text}]}
        asks = {"jsonrpc": "2.0", "id": "1", "method": "SendStreamingMessage", "params": {"message": message}}
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "A2A-Version": "1.0"}
        try:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_SECONDS)
            connection.request("POST", "/", json.dumps(asks), headers)
            answer = connection.getresponse()
            while line := answer.readline():
                if b"chunk " in line:
                    seen["pieces"] += 1
                    seen["last"] = time.time()
            seen["ended"] = "an end"
        except Exception as wrong:
            seen["ended"] = f"{type(wrong).__name__}: {wrong}"

    def run(self, name, rate):
        for seen in self.streams:
            threading.Thread(target=self.stream, args=(seen,), daemon=True).start()
        threads, begun, sent = [], time.monotonic(), 0
        while not os.path.exists(name + ".stop"):
            due = begun + sent / rate
            time.sleep(max(0, due - time.monotonic()))
            one = threading.Thread(target=self.ask)
            one.start()
            threads = [thread for thread in threads if thread.is_alive()] + [one]
            sent += 1
        for thread in threads:
            thread.join()
        now = time.time()
        alive = [s for s in self.streams if s["ended"] is None and now - s["last"] < 5]
        found = {
            "asked": self.asked, "failures": self.failures, "slowest": sorted(self.times)[-5:],
            "slow": sum(took > 1 for took, _ in self.times), "streams": len(self.streams), "alive": len(alive),
            "ended": [s for s in self.streams if s not in alive],
        }
        with open(name + ".part", "w") as file:
            json.dump(found, file)
        os.rename(name + ".part", name + ".json")


if __name__ == "__main__":
    host, port, name, rate, streams = sys.argv[1:]
    threading.stack_size(256 * 1024)
    Load(host, port, int(streams)).run(name, float(rate))
