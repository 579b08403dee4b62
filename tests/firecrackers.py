"""A stand-in for Firecracker's API, made from Firecracker's own description of it.

The stand-in is no mock of our client's expectations: what it takes and answers is what the description says. It refuses
what the description does not allow (unknown keys too, as Firecracker does), and can be told to fail, hang or babble.
"""

import json
import os
import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

DESCRIPTION = Path(__file__).parents[2] / "shared" / "firecracker" / "firecracker.yaml"
_KINDS = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


class Api:
    """The description: which requests there are, what they hold, and what is answered."""

    def __init__(self, document):
        self.definitions = document["definitions"]
        self._paths = [
            (re.compile(re.sub(r"\{\w+\}", "([A-Za-z0-9_]+)", path)), verbs)
            for path, verbs in document["paths"].items()
        ]

    def operation(self, method, path):
        for pattern, verbs in self._paths:
            if (found := pattern.fullmatch(path)) and method.lower() in verbs:
                return verbs[method.lower()], found.groups()
        return None, ()

    def refusal(self, method, path, body):
        """Why Firecracker would answer 400; None where it wouldn't."""
        operation, identifiers = self.operation(method, path)
        if operation is None:
            return f"Invalid request method and/or path: {method} {path}."
        schema = next((p for p in operation.get("parameters", ()) if p["in"] == "body"), None)
        if schema is None:
            return None if body is None else "a body is not allowed"
        if body is None:
            return "the body is missing" if schema.get("required") else None
        if identifiers and identifiers[0] not in body.values():
            return "the id in the path differs from the one in the body"
        return self.breach(body, schema["schema"])

    def breach(self, value, schema, where="body"):
        """Where `value` is not of `schema`; None where it is."""
        if "$ref" in schema:
            return self.breach(value, self.definitions[schema["$ref"].rpartition("/")[2]], where)
        if type(value) is not _KINDS[schema["type"]]:
            return f"{where}: {value!r} is no {schema['type']}"
        if "enum" in schema and value not in schema["enum"]:
            return f"{where}: {value!r} is none of {schema['enum']}"
        if schema["type"] == "integer" and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            return f"{where}: {value} is out of range"
        parts = ()
        if schema["type"] == "array":
            parts = (self.breach(item, schema["items"], where) for item in value)
        elif schema["type"] == "object" and not schema.get("additionalProperties"):
            parts = (self._member_breach(value, schema, where),)
        return next(filter(None, parts), None)

    def _member_breach(self, value, schema, where):
        known = schema.get("properties", {})
        for key in {*value, *schema.get("required", ())}:
            if key not in known:
                return f"{where}: unknown field `{key}`"
            if key not in value:
                return f"{where}: missing field `{key}`"
            if breach := self.breach(value[key], known[key], f"{where}.{key}"):
                return breach
        return None

    def answer(self, method, path):
        """The status and body of success: a value of the answer's schema."""
        operation, _ = self.operation(method, path)
        status = next(status for status in operation["responses"] if str(status) in {"200", "204"})
        schema = operation["responses"][status].get("schema")
        return int(status), None if schema is None else self._example(schema)

    def _example(self, schema):
        if "$ref" in schema:
            return self._example(self.definitions[schema["$ref"].rpartition("/")[2]])
        if "enum" in schema:
            return schema["enum"][0]
        if schema["type"] == "object":
            return {key: self._example(schema["properties"][key]) for key in schema.get("required", ())}
        return {"string": "text", "integer": schema.get("minimum", 1), "boolean": True, "array": []}[schema["type"]]


def load_description():
    """Firecracker's description of its API; the test is skipped where it is not there."""
    import pytest  # the stand-in programs have no need of it

    yaml = pytest.importorskip("yaml")
    if not DESCRIPTION.is_file():
        pytest.skip("Firecracker's description of its API is not here")
    return yaml.safe_load(DESCRIPTION.read_text())


def programs(folder):
    """Make stand-ins for firecracker and jailer in a folder; the environment in which they are found and run."""
    description = folder / "api.json"
    description.write_text(json.dumps(load_description()))
    text = Path(__file__).with_name("firecracker_program.py").read_text()
    for name in ("firecracker", "jailer"):
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parent),
        "STANDIN_API": str(description),
    }


def first_words(guest):
    """What the stand-in's guest says of what it sees."""
    from firekiln.machine.guest.agent import Agent
    from firekiln.machine.guest.reports import Output

    guest.channel.setblocking(True)
    guest.channel.settimeout(20)
    with Agent(guest.channel.accept()[0]) as agent:
        while True:
            for event in agent.wait(20):
                if isinstance(event, Output):
                    return json.loads(event.data)


class ApiServer(ThreadingMixIn, UnixStreamServer):
    """Listens at `path`. `faults` maps "PUT /vsock" to what happens instead of an answer; see Handler."""

    daemon_threads = True

    def __init__(self, api, path, faults=None):
        self.api = api
        self.faults = faults or {}
        self.requests = []
        self.over = threading.Event()
        super().__init__(str(path), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def handle_error(self, request, client_address):
        """A client that hung up is a matter of its test."""

    def __exit__(self, *error):
        self.over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.requests.append((self.command, self.path, body))
        fault = self.server.faults.get(f"{self.command} {self.path}")
        if fault is not None:
            fault(self)
        elif refusal := self.server.api.refusal(self.command, self.path, body):
            self.answer(400, {"fault_message": refusal})
        else:
            self.answer(*self.server.api.answer(self.command, self.path))

    do_GET = do_PUT = do_PATCH = _serve  # noqa: N815 - the standard library's names

    def answer(self, status, value=None):
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self):
        return "unix"

    def log_message(self, *_):
        """Quiet."""


def refuse(status, message):
    return lambda handler: handler.answer(status, {"fault_message": message})


def hang(handler):
    handler.server.over.wait(20)
    handler.close_connection = True


def drip(handler):
    """An answer that never ends: a byte every few milliseconds."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    try:
        while not handler.server.over.wait(0.005):
            handler.wfile.write(b" ")
    except OSError:
        handler.close_connection = True


def babble(data):
    """Write `data` in place of an answer, and hang up."""

    def fault(handler):
        handler.close_connection = True
        try:
            handler.wfile.write(data)
            handler.connection.shutdown(socket.SHUT_WR)
        except OSError:
            return

    return fault
