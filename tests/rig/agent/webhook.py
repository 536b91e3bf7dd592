"""A webhook on port 8080: keeps what is posted to it, and gives it to whoever asks."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Webhook(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    posts: list[dict] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posts.append({
            "path": self.path,
            "token": self.headers["X-A2A-Notification-Token"],
            "from": self.client_address[0],
            "body": json.loads(body),
        })
        self.reply(b"")

    def do_GET(self):
        self.reply(json.dumps(self.posts).encode())

    def reply(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8080), Webhook).serve_forever()
