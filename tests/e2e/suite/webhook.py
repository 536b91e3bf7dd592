"""The webhook that agents push to: a server on the clients' side, which notes what it is told.

Owns no expectation; a path of its own per test keeps tests apart.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Made anew by every run, so that two runs cannot agree on them. Times go the same way.
RANDOM = {"id", "taskId", "contextId", "messageId", "artifactId", "timestamp"}


class Webhook:
    """Serves until the process ends."""

    def __init__(self, host: str):
        self.posts: dict[str, list[dict]] = {}
        self.arrived = threading.Condition()
        self.server = ThreadingHTTPServer((host, 0), self.handler())
        self.address = f"{host}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handler(webhook):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                if "Content-Length" in self.headers:
                    body = self.rfile.read(int(self.headers["Content-Length"]))
                else:
                    body = read_chunks(self.rfile)
                webhook.note(self.path, {
                    "type": self.headers["Content-Type"],
                    "token": self.headers["X-A2A-Notification-Token"],
                    "body": without_random(json.loads(body)),
                })
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        return Handler

    def note(self, path: str, post: dict):
        with self.arrived:
            self.posts.setdefault(path, []).append(post)
            self.arrived.notify_all()

    def wait_for_end(self, path: str, seconds: float) -> list[dict]:
        """All posts to `path` once one of them says that the task is complete, or what came until then."""
        with self.arrived:
            self.arrived.wait_for(lambda: any(is_end(post) for post in self.posts.get(path, [])), seconds)
            return list(self.posts.get(path, []))


def read_chunks(stream) -> bytes:
    """A body in chunked transfer coding, which http.server leaves to its user."""
    body = b""
    while size := int(stream.readline().split(b";")[0], 16):
        body += stream.read(size)
        stream.readline()
    stream.readline()
    return body


def is_end(post: dict) -> bool:
    return any(state in json.dumps(post["body"]) for state in ('"state": "completed"', "TASK_STATE_COMPLETED"))


def without_random(value):
    match value:
        case dict():
            return {key: "…" if key in RANDOM else without_random(inner) for key, inner in value.items()}
        case list():
            return [without_random(inner) for inner in value]
    return value
