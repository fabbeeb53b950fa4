"""A server that answers by script."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@pytest.fixture
def serve():
    """Start a server of a list of (status, headers, body); the last one is repeated. Returns address and requests seen."""
    servers = []

    def start(*script):
        seen = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                status, headers, body = script[min(len(seen), len(script) - 1)]
                seen.append((time.monotonic(), self.path, dict(self.headers)))
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                self.close_connection |= headers.get("Content-Length", str(len(body))) != str(len(body))

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/x", seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
