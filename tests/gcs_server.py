"""A Cloud Storage on loopback: as much of its JSON API as gcsfs and TensorStore speak, objects in memory.

Clients find it by STORAGE_EMULATOR_HOST and TENSORSTORE_GCS_HTTP_URL. Unlike emulators on PyPI it holds its clients to
generation preconditions, which the lock rests on, and answers many requests at a time.
"""

import dataclasses
import datetime
import http.server
import itertools
import json
import threading
import time
import urllib.parse
from http import HTTPStatus

BUCKET = "music-bucket"


@dataclasses.dataclass(frozen=True)
class Object:
    data: bytes
    generation: int
    updated: str


class Storage:
    """One bucket.

    Attributes:
      objects: name -> what it holds.
      latency: seconds before each answer.
      together: answers wait until so many requests have been under way at a time, or a minute.
      most_under_way: the highest number of requests that waited for their answers at a time.
      refusal: a status that every request gets for an answer.
      log: (method, path) of every request, in order.
    """

    def __init__(self):
        self.objects: dict[str, Object] = {}
        self.latency, self.together, self.most_under_way, self._under_way = 0.0, 0, 0, 0
        self.refusal: HTTPStatus | None = None
        self.log: list[tuple[str, str]] = []
        self.uploads: dict[str, tuple[str, dict[str, str], bytearray]] = {}
        self.lock = threading.RLock()
        self._more = threading.Condition(self.lock)
        self._generations = itertools.count(1000)
        storage = self

        class Bound(_Handler):
            pass

        Bound.storage = storage
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.handle_error = lambda *_: None  # a client that was killed in the middle
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process take this for Google's, as nobody in particular."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks another service what kind of bucket it is
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def under_way(self, change: int) -> None:
        with self.lock:
            self._under_way += change
            self.most_under_way = max(self.most_under_way, self._under_way)
            self._more.notify_all()

    def wait(self) -> None:
        with self.lock:
            self._more.wait_for(lambda: self.most_under_way >= self.together, timeout=60)

    def put(self, name: str, data: bytes) -> Object:
        now = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        with self.lock:
            self.objects[name] = Object(bytes(data), next(self._generations), now)
            return self.objects[name]

    def meets(self, name: str, query: dict[str, str]) -> HTTPStatus | None:
        """None where the request's preconditions hold of what is there; generation 0 is nothing there."""
        found = self.objects[name].generation if name in self.objects else 0
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != found:
            return HTTPStatus.PRECONDITION_FAILED
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == found:
            return HTTPStatus.NOT_MODIFIED
        return None

    def resource(self, name: str) -> dict[str, str]:
        kept = self.objects[name]
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": BUCKET,
            "size": str(len(kept.data)),
            "generation": str(kept.generation),
            "metageneration": "1",
            "timeCreated": kept.updated,
            "updated": kept.updated,
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    storage: Storage
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def _handle(self):
        storage, address = self.storage, urllib.parse.urlsplit(self.path)
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size)
        self.query = {name: values[-1] for name, values in urllib.parse.parse_qs(address.query).items()}
        storage.under_way(1)
        try:
            time.sleep(storage.latency)
            storage.wait()
            with storage.lock:
                storage.log.append((self.command, urllib.parse.unquote(address.path)))
                if storage.refusal:
                    self._answer(storage.refusal, b'{"error": {"message": "no access"}}')
                else:
                    self._route(address.path)
        finally:
            storage.under_way(-1)

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _route(self, path: str):
        parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
        match parts:
            case ["upload", "resumable", session]:
                self._continue(session)
            case ["upload", "storage", "v1", "b", bucket, "o"] if bucket == BUCKET:
                self._upload()
            case ["storage", "v1", "b", bucket] if bucket == BUCKET:
                self._json({"kind": "storage#bucket", "name": BUCKET})
            case ["storage", "v1", "b", bucket, "o"] if bucket == BUCKET:
                self._list()
            case ["storage", "v1", "b", bucket, "o", name, "rewriteTo", "b", to, "o", target] if bucket == to == BUCKET:
                self._copy(name, target, remove=False)
            case ["storage", "v1", "b", bucket, "o", name, "moveTo", "o", target] if bucket == BUCKET:
                self._copy(name, target, remove=True)
            case [*_, "storage", "v1", "b", bucket, "o", name] if bucket == BUCKET:
                self._object(name)
            case _:
                self._answer(HTTPStatus.NOT_FOUND)

    def _object(self, name: str):
        storage = self.storage
        if refused := storage.meets(name, self.query):
            self._answer(refused)
        elif name not in storage.objects:
            self._answer(HTTPStatus.NOT_FOUND)
        elif self.command == "DELETE":
            del storage.objects[name]
            self._answer(HTTPStatus.NO_CONTENT)
        elif self.query.get("alt") == "media":
            self._media(storage.objects[name])
        else:
            self._json(storage.resource(name))

    def _media(self, kept: Object):
        headers = {"x-goog-generation": str(kept.generation), "Content-Type": "application/octet-stream"}
        data, total = kept.data, len(kept.data)
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            start = int(first) if first else max(0, total - int(last))
            stop = min(int(last) + 1, total) if first and last else total
            if start >= total:
                return self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
            return self._answer(HTTPStatus.PARTIAL_CONTENT, data[start:stop], headers)
        self._answer(HTTPStatus.OK, data, headers)

    def _list(self):
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        start, end = self.query.get("startOffset", ""), self.query.get("endOffset")
        items, prefixes = [], set()
        for name in sorted(self.storage.objects):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            inner = name[len(prefix) :]
            if delimiter and delimiter in inner:
                prefixes.add(prefix + inner.partition(delimiter)[0] + delimiter)
            else:
                items.append(self.storage.resource(name))
        self._json({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _upload(self):
        kind, name = self.query["uploadType"], self.query.get("name", "")
        if kind == "resumable":
            name = name or json.loads(self.body)["name"]
            session = str(len(self.storage.uploads))
            self.storage.uploads[session] = (name, self.query, bytearray())
            return self._answer(
                HTTPStatus.OK, headers={"Location": f"{self.storage.url}/upload/resumable/{session}?keep=me"}
            )
        data = self.body
        if kind == "multipart":
            boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
            facts, data = [part.partition(b"\n\n")[2] for part in data.split(b"--" + boundary)[1:3]]
            name, data = json.loads(facts)["name"], data[:-1]  # the newline is the boundary's
        self._put(name, data, self.query)

    def _continue(self, session: str):
        name, query, data = self.storage.uploads[session]
        data += self.body
        total = self.headers["Content-Range"].rpartition("/")[2]
        if total == "*":
            return self._answer(HTTPStatus.PERMANENT_REDIRECT, headers={"Range": f"bytes=0-{len(data) - 1}"})
        self._put(name, bytes(data), query)

    def _put(self, name: str, data: bytes, query: dict[str, str]):
        if refused := self.storage.meets(name, query):
            return self._answer(refused)
        self.storage.put(name, data)
        self._json(self.storage.resource(name))

    def _copy(self, name: str, target: str, remove: bool):
        if name not in self.storage.objects:
            return self._answer(HTTPStatus.NOT_FOUND)
        self.storage.put(target, self.storage.objects[name].data)
        if remove:
            del self.storage.objects[name]
            return self._json(self.storage.resource(target))
        self._json({"done": True, "resource": self.storage.resource(target)})

    def _json(self, value):
        self._answer(HTTPStatus.OK, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: HTTPStatus, data: bytes = b"", headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.wfile.write(data)
