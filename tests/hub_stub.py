"""The part of the Hub's HTTP API that pushing and loading a model or a data set needs, in memory and on localhost.

What the real one refuses is refused here too: writing without a token, reading what is private without one, a token
that it does not know, a name that is taken, metadata of a README.md that is no YAML or has an incomplete model-index,
a large file that was not uploaded first. As there, a model and a data set may have the same name: "me/300w" is a
model, "datasets/me/300w" a data set.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, ModelCard

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "stub"
USER = "me"
LARGE = (".safetensors", ".bin", ".pt", ".pth", ".parquet")  # kept by LFS, as the Hub's .gitattributes has it
MAX_REGULAR = 10_000_000


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "", errors=()):
        super().__init__(message)
        self.status, self.code, self.errors = status, code, [{"message": text} for text in errors]


class Repository:
    """Files of each commit by its hash, and branches by name. A file is its bytes, or the hash of a large one."""

    def __init__(self, private: bool):
        self.private = private
        self.commits, self.branches = {}, {}
        self.commit("main", {})

    def commit(self, branch: str, changes: dict) -> str:
        files = {**self.commits.get(self.branches.get(branch), {}), **changes}
        commit = secrets.token_hex(20)
        self.commits[commit] = {name: content for name, content in files.items() if content is not None}
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> str:
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.storage = f"http://localhost:{self.server_port}"  # another host, as the real one's; it gets no token
        self.repositories, self.large, self.requests = {}, {}, []
        self.broken = ""  # a pattern: requests that it matches are answered by hanging up

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision by name."""
        found = self.repositories[repository]
        files = found.commits[found.resolve(revision)]
        return {name: self.large[file] if isinstance(file, str) else file for name, file in files.items()}


@contextmanager
def running_hub():
    """A `Hub` at `hub.url`, with an account `USER` whose token is `TOKEN`."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def run_with_hub(hub: Hub, folder: Path, home: str, code: str, *options: str, **environment: str) -> str:
    """Runs Python in `folder` with `hub` for the Hub and a cache of its own; returns what it prints.

    `environment` replaces or adds to what the process gets, "" removes.
    """
    given = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    given |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(folder / home), "HOME": str(folder)}
    given |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    given |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    given = {name: value for name, value in given.items() if value}
    command = [sys.executable, *options, "-c", code]
    result = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def metadata_errors(content: str, kind: str = "model") -> tuple[list[str], list[str]]:
    """Errors and warnings of the metadata of the README.md of a `kind`, "model" or "dataset"."""
    block = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", content, re.DOTALL)
    if block is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(block[1])
        card = {"model": ModelCard, "dataset": DatasetCard}[kind](content)
        if kind == "dataset":
            MetadataConfigs.from_dataset_card_data(card.data)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        return [str(error)], []
    errors = [f'"{key}" must be a string' for key in ("library_name", "pipeline_tag") if not _is_text(data, key)]
    for key in ("tags", "task_categories"):
        if not all(isinstance(tag, str) for tag in data.get(key) or []):
            errors.append(f'"{key}" must be a list of strings')
    if data.get("license") == "other" and not re.fullmatch(r"[a-z0-9.-]+", data.get("license_name") or ""):
        errors.append('"license_name" must be there, in lower case and without spaces')
    for model in data.get("model-index") or []:
        if not model.get("name") or not isinstance(model.get("results"), list):  # empty ones the Trainer writes
            errors.append('"model-index" must have names and lists of results')
        for result in model.get("results") or []:
            errors += _result_errors(result)
    return errors, []


def _is_text(data: dict, key: str) -> bool:
    return isinstance(data.get(key, ""), str)


def _result_errors(result: dict) -> list[str]:
    needed = {"task.type": result.get("task", {}).get("type")}
    needed |= {f"dataset.{key}": result.get("dataset", {}).get(key) for key in ("type", "name")}
    for metric in result.get("metrics") or [{}]:
        needed |= {"metrics.type": metric.get("type"), "metrics.value": metric.get("value")}
    return [f'"model-index.results.{key}" is required' for key, value in needed.items() if value is None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def handle_request(self):
        self.server.requests.append(f"{self.command} {self.path}")
        self.query = parse_qs(urlsplit(self.path).query)
        body = self._read()
        if self.path != "/stub/broken" and self.server.broken and re.search(self.server.broken, self.requestline):
            self.close_connection = True
            return None
        try:
            if "Authorization" in self.headers and not self.path.startswith("/storage/"):
                self._check_token()
            for method, pattern, action in ROUTES:
                match = re.fullmatch(pattern, unquote(urlsplit(self.path).path))
                if match and self.command in method:
                    groups = match.groupdict()
                    kind = groups.pop("kind", None)
                    groups |= {"name": f"datasets/{groups['name']}"} if kind == "datasets" else {}
                    return getattr(self, action)(body, **groups)
            raise Refusal(404, f"the stub knows no {self.command} {self.path}")
        except Refusal as refusal:
            headers = {"X-Error-Message": str(refusal)} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            self._send({"error": str(refusal), "errors": refusal.errors}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, content, status: int = 200, headers=()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send_content(self, content: bytes, headers: dict):
        """A file, or the part of it that a header asks for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self._send(content, headers=headers | {"Accept-Ranges": "bytes"})
        start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
        if start >= len(content):
            raise Refusal(416, "Range Not Satisfiable")
        part = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        self._send(content[start:stop], 206, headers | part)

    def _check_token(self):
        if "Authorization" not in self.headers:
            raise Refusal(401, "Invalid username or password.")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            raise Refusal(401, "Invalid credentials in Authorization header")

    def _repository(self, name: str) -> Repository:
        found, known = self.server.repositories.get(name), "Authorization" in self.headers
        if found is None or found.private and not known:  # which of both, only who is known learns
            raise Refusal(404 if known else 401, "Repository not found", "RepoNotFound")
        return found

    def hang_up(self, body):
        """Of the stub alone: `broken`, for a process that the Hub is to fail at a certain step."""
        self.server.broken = body.decode()
        self._send(b"")

    # What the API answers

    def whoami(self, body):
        self._check_token()
        self._send({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"type": "access_token"}})

    def create(self, body):
        self._check_token()
        asked = json.loads(body)
        kind, owner = asked.get("type") or "model", asked.get("organization") or USER
        if owner != USER:
            raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        name = "datasets/" * (kind == "dataset") + f"{owner}/{asked['name']}"
        link = {"name": f"{owner}/{asked['name']}", "url": f"{self.server.url}/{name}"}
        if name in self.server.repositories:
            return self._send({"error": f"You already created this {kind} repo"} | link, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.repositories[name] = Repository(private)
        self._send(link)

    def validate(self, body):
        asked = json.loads(body)
        errors, warnings = metadata_errors(asked["content"], asked.get("repoType") or "model")
        answer = {"errors": [{"message": text} for text in errors]}
        answer["warnings"] = [{"message": text} for text in warnings]
        self._send(answer, 400 if errors else 200)

    def info(self, body, name, revision="main"):
        repository = self._repository(name)
        commit = repository.resolve(revision)
        siblings = [{"rfilename": file} for file in sorted(repository.commits[commit])]
        own = name.removeprefix("datasets/")
        answer = {"_id": "0", "id": own, "modelId": own, "sha": commit, "private": repository.private}
        self._send(answer | {"author": own.split("/")[0], "tags": [], "downloads": 0, "siblings": siblings})

    def tree(self, body, name, revision, folder=""):
        repository = self._repository(name)
        files = repository.commits[repository.resolve(revision)]
        start = f"{folder}/" if folder else ""
        below = sorted(path for path in files if path.startswith(start))
        if folder and not below:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        folders = {start + path[len(start) :].rpartition("/")[0] for path in below if "/" in path[len(start) :]}
        if self.query.get("recursive") not in (["true"], ["True"]):
            folders = {start + path[len(start) :].partition("/")[0] for path in folders}
            below = [path for path in below if "/" not in path[len(start) :]]
        entries = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        self._send([*entries, *(self._entry(path, files[path]) for path in below)])

    def paths_info(self, body, name, revision):
        repository = self._repository(name)
        files = repository.commits[repository.resolve(revision)]
        asked = parse_qs(body.decode()).get("paths", [])
        self._send([self._entry(path, files[path]) for path in asked if path in files])

    def _entry(self, path: str, file) -> dict:
        if isinstance(file, bytes):
            return {"type": "file", "path": path, "size": len(file), "oid": _git_hash(file)}
        size = len(self.server.large[file])
        lfs = {"oid": file, "size": size, "pointerSize": 130}
        return {"type": "file", "path": path, "size": size, "oid": file[:40], "lfs": lfs}

    def branch(self, body, name, revision):
        self._check_token()
        repository = self._repository(name)
        if revision in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[revision] = repository.resolve(json.loads(body or b"{}").get("startingPoint", "main"))
        self._send({})

    def preupload(self, body, name, revision):
        self._check_token()
        repository = self._repository(name)
        present = repository.commits[repository.resolve(revision)]
        files = []
        for file in json.loads(body)["files"]:
            large = file["path"].endswith(LARGE) or file["size"] > MAX_REGULAR
            mode = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            known = present.get(file["path"])
            files.append(mode | ({"oid": known if large else _git_hash(known)} if known is not None else {}))
        self._send({"files": files})

    def lfs_batch(self, body, name):
        self._check_token()
        self._repository(name)
        objects = []
        for asked in json.loads(body)["objects"]:
            target = {"href": f"{self.server.storage}/storage/{asked['oid']}"}
            objects.append(asked if asked["oid"] in self.server.large else asked | {"actions": {"upload": target}})
        self._send({"transfer": "basic", "objects": objects})

    def store(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content is not that of its hash")
        self.server.large[oid] = body
        self._send(b"", headers={"ETag": f'"{oid}"'})

    def load(self, body, oid):
        if "Authorization" in self.headers:
            raise Refusal(400, "the token must not leave the Hub")
        self._send_content(self.server.large[oid], {"ETag": f'"{oid}"'})

    def commit(self, body, name, revision):
        self._check_token()
        repository = self._repository(name)
        repository.resolve(revision)
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if lines[0]["key"] != "header" or not header.get("summary"):
            raise Refusal(400, "a commit must have a summary")
        kind = "dataset" if name.startswith("datasets/") else "model"
        changes = dict(self._change(line["key"], line["value"], kind) for line in lines[1:])
        commit = repository.commit(revision, changes)
        self._send({"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{name}/commit/{commit}"})

    def _change(self, key: str, value: dict, kind: str) -> tuple:
        path = value["path"]
        if key == "deletedFile":
            return path, None
        if key == "lfsFile":
            if value["oid"] not in self.server.large:
                raise Refusal(400, f"{path} points to an LFS file that was not uploaded")
            return path, value["oid"]
        content = base64.b64decode(value["content"])
        if len(content) > MAX_REGULAR or path.endswith(LARGE):
            raise Refusal(400, f"{path} must be kept by LFS")
        if path == "README.md" and (errors := metadata_errors(content.decode(), kind)[0]):
            raise Refusal(400, "Invalid metadata in README.md", errors=errors)
        return path, content

    def resolve(self, body, name, revision, path):
        repository = self._repository(name)
        commit = repository.resolve(revision)
        headers = {"X-Repo-Commit": commit}
        file = repository.commits[commit].get(path)
        if file is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        if isinstance(file, bytes):
            return self._send_content(file, headers | {"ETag": f'"{_git_hash(file)}"'})
        linked = {"X-Linked-Etag": f'"{file}"', "X-Linked-Size": len(self.server.large[file])}
        self._send(b"", 302, headers | linked | {"Location": f"{self.server.storage}/storage/{file}"})


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_NAME = r"(?P<name>[^/]+/[^/]+)"
_REPOSITORY = rf"/api/(?P<kind>models|datasets)/{_NAME}"
_ADDRESS = r"/(?P<name>(?:datasets/)?[^/]+/[^/]+)"
ROUTES = (
    ("PUT", r"/stub/broken", "hang_up"),
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", rf"{_REPOSITORY}/revision/(?P<revision>.+)", "info"),
    ("GET", rf"{_REPOSITORY}/tree/(?P<revision>[^/]+)", "tree"),
    ("GET", rf"{_REPOSITORY}/tree/(?P<revision>[^/]+)/(?P<folder>.+)", "tree"),
    ("POST", rf"{_REPOSITORY}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("GET", _REPOSITORY, "info"),
    ("POST", rf"{_REPOSITORY}/branch/(?P<revision>.+)", "branch"),
    ("POST", rf"{_REPOSITORY}/preupload/(?P<revision>.+)", "preupload"),
    ("POST", rf"{_REPOSITORY}/commit/(?P<revision>.+)", "commit"),
    ("POST", rf"{_ADDRESS}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", "store"),
    ("GET", r"/storage/(?P<oid>[0-9a-f]{64})", "load"),
    ("GET HEAD", rf"{_ADDRESS}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)
