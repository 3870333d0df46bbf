"""A tiny HTTP server in Airflow's place, for the faults that the real one can't be made to have."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class AirflowStandIn:
    """Answers ``POST dagRuns`` as it is told to, and remembers what it was asked.

    ``answer`` is a status and a body, or a function that is given the request's body and returns that; None drops
    the connection without an answer. ``release`` lets go the answers that wait for it.
    """

    def __init__(self):
        self.answer = (200, {})
        self.seen = []
        self.release = threading.Event()
        self.release.set()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.reply(200, {"version": "3.3.2"})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                stand_in.seen.append({"path": self.path, "headers": dict(self.headers.items()), "body": body})
                answer = stand_in.answer(body) if callable(stand_in.answer) else stand_in.answer
                stand_in.release.wait(20)
                if answer is None:
                    self.close_connection = True
                    return
                self.reply(*answer)

            def reply(self, status, body):
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                """Clients that gave up are part of what is tested."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
