"""What two tests of bytes on the wire talk to."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler


class Echo(BaseHTTPRequestHandler):
    """Answers every POST with its body and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
