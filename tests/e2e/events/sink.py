"""A sink of CloudEvents over HTTP: reads each request with the SDK, and answers with the event as JSON.

Prints {"http": "HOST:PORT"}, and ends when its standard input does.
"""

import http.server
import json
import sys
import threading

from cloudevents.core.bindings.http import HTTPMessage, from_http_event


class Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            event = from_http_event(HTTPMessage(headers=dict(self.headers), body=body))
        except Exception as wrong:  # Whatever the SDK finds wrong is the sender's answer.
            return self.answer(400, {"error": f"{type(wrong).__name__}: {wrong}"})
        attributes = {name: str(value) for name, value in sorted(event.get_attributes().items())}
        mode = "binary" if "ce-id" in self.headers else "structured"
        self.answer(200, {"mode": mode, "attributes": attributes, "data": event.get_data()})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((sys.argv[1], 0), Sink)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(json.dumps({"http": f"{sys.argv[1]}:{server.server_port}"}), flush=True)
sys.stdin.read()
