"""The part of the hub's HTTP interface that uploads and downloads need, on this machine; it can fail on request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WRITE, READ = "hf_" + "w" * 34, "hf_" + "r" * 34
DROP = "drop"  # in place of a status: the connection breaks without an answer


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0
    earlier: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        return hashlib.sha1(f"{self.commits}".encode()).hexdigest()

    def commit(self, files: dict[str, bytes]) -> str:
        """Replace all files, and keep those of before under their commit; returns the new one."""
        self.earlier[self.sha], self.files = self.files, files
        self.commits += 1
        return self.sha

    def at(self, revision: str | None) -> tuple[str, dict[str, bytes]]:
        """(commit, files) of a commit, or the newest of a branch."""
        return (revision, self.earlier[revision]) if revision in self.earlier else (self.sha, self.files)


@dataclass
class LoopbackHub:
    """What is stored, what was asked, and what is to fail: (method, pattern of the path) -> status or DROP."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    failures: dict[tuple[str, str], int | str] = field(default_factory=dict)
    url: str = ""

    def __enter__(self) -> LoopbackHub:
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked(self, method: str, pattern: str) -> list[str]:
        return [path for verb, path in self.requests if verb == method and re.search(pattern, path)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: LoopbackHub

    def do_GET(self):
        self._serve("GET")

    def do_HEAD(self):
        self._serve("HEAD")

    def do_POST(self):
        self._serve("POST")

    def do_PUT(self):
        self._serve("PUT")

    def log_message(self, *_):
        """Nothing on the terminal."""

    def _serve(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        path = self.path.partition("?")[0]
        self.state.requests.append((method, path))
        for (verb, pattern), failure in self.state.failures.items():
            if verb == method and re.search(pattern, path):
                if failure == DROP:
                    self.close_connection = True
                    self.connection.close()
                    return
                return self._answer({"error": "as asked"}, failure)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not path.startswith("/large/"):  # those addresses are signed
            if token not in (WRITE, READ):
                return self._answer({"error": "Invalid username or password."}, 401)
            if method == "POST" and token == READ and path != "/api/validate-yaml":
                return self._answer({"error": "You don't have the rights"}, 403)
        for verb, pattern, answer in self._routes():
            if verb == method.replace("HEAD", "GET") and (match := re.fullmatch(pattern, path)):
                return answer(body, *match.groups())
        self._answer({"error": f"no such address: {method} {path}"}, 404)

    def _routes(self):
        model = r"/api/models/([\w.-]+/[\w.-]+)"
        return (
            ("POST", "/api/repos/create", self._create),
            ("POST", "/api/validate-yaml", lambda body: self._answer({"errors": [], "warnings": []})),
            ("GET", "/api/whoami-v2", lambda body: self._answer({"type": "user", "name": "me"})),
            ("POST", rf"{model}/branch/[\w.-]+", lambda body, name: self._answer({})),
            ("GET", rf"{model}(?:/revision/([\w.-]+))?", self._info),
            ("GET", rf"{model}/tree/[\w.-]+", self._tree),
            ("POST", rf"{model}/preupload/[\w.-]+", self._preupload),
            ("POST", r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/large/(\w+)", self._put),
            ("POST", rf"{model}/commit/[\w.-]+", self._commit),
            ("GET", r"/([\w.-]+/[\w.-]+)/resolve/(\w+)/(.+)", self._resolve),
        )

    def _create(self, body):
        asked = json.loads(body)
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        status = 409 if name in self.state.repositories else 200
        self.state.repositories.setdefault(name, Repository(asked.get("visibility") == "private"))
        self._answer({"url": f"{self.state.url}/{name}"}, status)

    def _repository(self, name: str) -> Repository | None:
        found = self.state.repositories.get(name)
        if found is None:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        return found

    def _info(self, _, name, revision):
        if repository := self._repository(name):
            commit, files = repository.at(revision)
            siblings = [{"rfilename": path} for path in files]
            self._answer({"id": name, "private": repository.private, "sha": commit, "siblings": siblings})

    def _tree(self, _, name):
        if repository := self._repository(name):
            self._answer(
                [
                    {"type": "file", "path": path, "size": len(content), "oid": _digest(content)}
                    for path, content in repository.files.items()
                ]
            )

    def _preupload(self, body, name):
        if self._repository(name):
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            self._answer({"files": files})

    def _batch(self, body, _):
        objects = []
        for asked in json.loads(body)["objects"]:
            missing = {"actions": {"upload": {"href": f"{self.state.url}/large/{asked['oid']}"}}}
            objects.append(asked | ({} if asked["oid"] in self.state.large else missing))
        self._answer({"transfer": "basic", "objects": objects})

    def _put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.state.large[oid] = body
        self._answer({})

    def _commit(self, body, name):
        repository = self.state.repositories[name]
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                repository.files[value["path"]] = self.state.large[value["oid"]]
            elif operation["key"] == "deletedFile":
                del repository.files[value["path"]]
        repository.commits += 1
        self._answer({"commitUrl": f"{self.state.url}/{name}/commit/{repository.sha}", "commitOid": repository.sha})

    def _resolve(self, _, name, revision, path):
        if (repository := self._repository(name)) is None:
            return
        commit, files = repository.at(revision)
        if path not in files:
            return self._answer({"error": "no such file"}, 404, {"X-Error-Code": "EntryNotFound"})
        self._answer(files[path], headers={"X-Repo-Commit": commit, "ETag": f'"{_digest(files[path])}"'})

    def _answer(self, content, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
