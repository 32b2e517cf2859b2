"""A server that answers as the REST API of Kubeflow Pipelines does, on a real socket.

Its paths, query parameters and fields are those of the published description
(`backend/api/v2beta1/swagger/kfp_api_single_file.swagger.json`, 2.17.0); what a request has besides them is refused.
What the description does not have, but back ends and the user interface's server answer, follows their source:
`tag_name` of healthz, the workflow of a run (v1beta1), logs and events of pods. Wrong replies are set with `faults`.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

V2 = "/apis/v2beta1"
PAGES = {"page_token", "page_size", "sort_by", "filter"}
ID = "([0-9a-f-]+)"
# method and path -> (query parameters, fields of the body) of the description
OPERATIONS: dict[str, tuple[set[str], set[str]]] = {
    f"GET {V2}/healthz": (set(), set()),
    f"GET {V2}/experiments": (PAGES | {"namespace"}, set()),
    f"POST {V2}/experiments": (set(), {"display_name", "description", "namespace"}),
    f"GET {V2}/pipelines": (PAGES | {"namespace"}, set()),
    f"POST {V2}/pipelines": (set(), {"display_name", "name", "description", "namespace", "tags"}),
    f"GET {V2}/pipelines/{ID}/versions": (PAGES, set()),
    f"POST {V2}/pipelines/upload_version": (
        {"name", "display_name", "pipelineid", "description", "tags", "code_source_url"},
        {"uploadfile"},
    ),
    f"POST {V2}/runs": (
        {"experiment_id"},
        {
            "experiment_id",
            "display_name",
            "description",
            "pipeline_spec",
            "pipeline_version_reference",
            "runtime_config",
            "service_account",
            "plugins_input",
        },
    ),
    f"GET {V2}/runs/{ID}": ({"experiment_id"}, set()),
    f"POST {V2}/runs/{ID}:terminate": ({"experiment_id"}, set()),
    f"POST {V2}/runs/{ID}:retry": ({"experiment_id"}, set()),
    f"GET /apis/v1beta1/runs/{ID}": (set(), set()),
    f"GET /apis/v1alpha1/runs/{ID}/nodes/([\\w.-]+)/log": ({"follow"}, set()),
    "GET /k8s/pod/logs": ({"podname", "runid", "podnamespace", "createdat"}, set()),
    "GET /k8s/pod/events": ({"podname", "podnamespace"}, set()),
}


@dataclass
class Request:
    """One request, as the server read it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class Handler(BaseHTTPRequestHandler):
    """One connection; `server.owner` is the `KubeflowServer`."""

    protocol_version = "HTTP/1.1"
    request_: Request

    def _serve(self) -> None:
        owner: KubeflowServer = self.server.owner  # type: ignore[attr-defined]
        length = int(self.headers.get("content-length") or 0)
        parts = urlsplit(self.path)
        path = parts.path.removeprefix(owner.prefix) if parts.path.startswith(owner.prefix) else "/elsewhere"
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_ = Request(self.command, path, query, headers, self.rfile.read(length))
        owner.requests.append(self.request_)
        fault = next((f for key, f in owner.faults.items() if re.match(key, f"{self.command} {path}")), None)
        (fault or owner.answer)(self)

    do_GET = do_POST = _serve  # noqa: N815

    def send(
        self, status: int, body: str | bytes | dict[str, Any], kind: str = "application/json", **headers: str
    ) -> None:
        data = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", headers.pop("length", str(len(data))))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, code: int, message: str) -> None:
        """As gRPC's gateway writes errors."""
        self.send(status, {"error": message, "code": code, "message": message, "details": []})

    def log_message(self, *_: Any) -> None:
        pass


Fault = Callable[[Handler], None]


def html(handler: Handler) -> None:
    handler.send(200, "<!doctype html><html><body>Log in to Your Account</body></html>", "text/html; charset=utf-8")


def redirect(handler: Handler) -> None:
    handler.send(302, "", "text/html", Location="https://auth.example/dex/auth?client_id=kubeflow")


def silent(handler: Handler) -> None:
    """Accept the request and never answer it."""
    handler.server.owner.closing.wait()  # type: ignore[attr-defined]
    handler.close_connection = True


def half(handler: Handler) -> None:
    """Half a reply, and the end of the connection."""
    handler.send(200, '{"run_id": "', length="1000")
    handler.close_connection = True


def drops(handler: Handler) -> None:
    """A reply that comes byte by byte and never ends."""
    owner: KubeflowServer = handler.server.owner  # type: ignore[attr-defined]
    handler.send(200, "{", length="100000000")
    while not owner.closing.wait(0.02):
        try:
            handler.wfile.write(b" ")
        except OSError:
            return


def sends(body: str, status: int = 200, kind: str = "application/json") -> Fault:
    return lambda handler: handler.send(status, body, kind)


@dataclass
class KubeflowServer:
    """The server; use it as a context manager.

    Args:
        tag: version that healthz names.
        user_interface: whether the server of the user interface is in front, as behind a gateway.
        multi_user: whether every user has a namespace.
        token: bearer token that requests must have.
        cookie: cookie that requests must have.
        prefix: path in front of all others, as behind a gateway.
        certificate: file with key and certificate; without one it speaks plain HTTP.
    """

    tag: str | None = "2.17.0"
    user_interface: bool = False
    multi_user: bool = False
    token: str = ""
    cookie: str = ""
    prefix: str = ""
    certificate: Path | None = None
    requests: list[Request] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    pipelines: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    script: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # run -> what each look at it changes
    workflows: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)  # pod -> text
    events: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    uploads: dict[str, str] = field(default_factory=dict)  # version -> compiled pipeline
    ids: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> KubeflowServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}{self.prefix}"

    def calls(self) -> list[str]:
        """Method and path of all requests, ids replaced."""
        return [re.sub(r"[0-9a-f]{8}-[0-9a-f-]+", "ID", f"{r.method} {r.path}") for r in self.requests]

    def add_run(self, state: str = "SUCCEEDED", **values: Any) -> str:
        """Add a run; returns its id."""
        run_id = self._new_id()
        row = {"run_id": run_id, "display_name": "demo", "state": state, "state_history": [{"state": state}]}
        self.runs[run_id] = row | values
        return run_id

    def answer(self, handler: Handler) -> None:
        """Answer a request."""
        request = handler.request_
        line = f"{request.method} {request.path}"
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return handler.send(401, "Unauthorized", "text/plain")
        if self.cookie and request.headers.get("cookie") != self.cookie:
            return redirect(handler)
        found = next(((op, m) for op in OPERATIONS if (m := re.fullmatch(op, line))), None)
        if found is None or (request.path.startswith("/k8s") and not self.user_interface):
            return handler.send(404, "404 page not found\n", "text/plain")
        query, fields = OPERATIONS[found[0]]
        if unknown := set(request.query) - query:
            return handler.refuse(400, 3, f"unknown query parameters: {sorted(unknown)}")
        is_upload = "upload" in request.path
        if not is_upload and request.body and (unknown := set(request.json) - fields):
            return handler.refuse(400, 3, f"unknown fields: {sorted(unknown)}")
        action = found[0].removeprefix(request.method + " ").removeprefix(V2)
        return self._actions()[f"{request.method} {action}"](handler, *found[1].groups())

    def _actions(self) -> dict[str, Callable[..., None]]:
        return {
            "GET /healthz": lambda handler: handler.send(200, self._health()),
            "GET /experiments": lambda handler: self._list(handler, "experiments", self.experiments),
            "POST /experiments": lambda handler: self._create(handler, self.experiments, "experiment_id"),
            "GET /pipelines": lambda handler: self._list(handler, "pipelines", self.pipelines),
            "POST /pipelines": lambda handler: self._create(handler, self.pipelines, "pipeline_id"),
            f"GET /pipelines/{ID}/versions": self._list_versions,
            "POST /pipelines/upload_version": self._upload_version,
            "POST /runs": self._create_run,
            f"GET /runs/{ID}": self._get_run,
            f"POST /runs/{ID}:terminate": self._terminate,
            f"POST /runs/{ID}:retry": self._retry,
            f"GET /apis/v1beta1/runs/{ID}": self._get_workflow,
            f"GET /apis/v1alpha1/runs/{ID}/nodes/([\\w.-]+)/log": self._log_of_node,
            "GET /k8s/pod/logs": lambda handler: self._log(handler, handler.request_.query["podname"]),
            "GET /k8s/pod/events": lambda handler: handler.send(
                200, {"items": self.events.get(handler.request_.query["podname"], [])}
            ),
        }

    def _health(self) -> dict[str, Any]:
        if self.user_interface:
            return {"apiServerReady": True, "apiServerTagName": self.tag, "apiServerMultiUser": self.multi_user}
        known = {"commit_sha": "unknown", "multi_user": self.multi_user, "pipeline_store": "database"}
        return known if self.tag is None else known | {"tag_name": self.tag}

    def _list(self, handler: Handler, key: str, rows: list[dict[str, Any]]) -> None:
        query = handler.request_.query
        if self.multi_user and key != "pipeline_versions" and not query.get("namespace"):
            return handler.refuse(400, 3, "Invalid input error: In multi-user mode, a namespace is required")
        (predicate,) = json.loads(unquote(query["filter"]))["predicates"]
        assert predicate["operation"] == "EQUALS"
        found = [row for row in rows if row.get(predicate["key"]) == predicate["string_value"]]
        return handler.send(200, {key: found, "total_size": len(found)} if found else {})

    def _list_versions(self, handler: Handler, pipeline: str) -> None:
        self._list(handler, "pipeline_versions", [row for row in self.versions if row["pipeline_id"] == pipeline])

    def _create(self, handler: Handler, rows: list[dict[str, Any]], key: str) -> None:
        rows.append(handler.request_.json | {key: self._new_id()})
        handler.send(200, rows[-1])

    def _upload_version(self, handler: Handler) -> None:
        request, query = handler.request_, handler.request_.query
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        (part,) = BytesParser(policy=HTTP).parsebytes(head + request.body).iter_parts()
        assert part.get_param("name", header="content-disposition") == "uploadfile"
        assert str(part.get_filename()).endswith(".yaml")
        if any((r["pipeline_id"], r["name"]) == (query["pipelineid"], query["name"]) for r in self.versions):
            return handler.send(409, {"error_message": "Failed to create a pipeline version", "error_details": ""})
        row = {"pipeline_id": query["pipelineid"], "name": query["name"], "display_name": query["name"]}
        row |= {"description": query["description"], "pipeline_version_id": self._new_id()}
        self.versions.append(row)
        self.uploads[row["pipeline_version_id"]] = part.get_payload(decode=True).decode()
        return handler.send(200, row)

    def _create_run(self, handler: Handler) -> None:
        body = handler.request_.json
        version = body["pipeline_version_reference"]["pipeline_version_id"]
        if version not in self.uploads or body["experiment_id"] not in [e["experiment_id"] for e in self.experiments]:
            return handler.refuse(404, 5, "the pipeline version or the experiment is not there")
        run_id = self.add_run("PENDING", **body)
        self.script[run_id] = [{}, {"state": "RUNNING"}, {"state": "SUCCEEDED"}]
        return handler.send(200, self.runs[run_id])

    def _get_run(self, handler: Handler, run_id: str) -> None:
        if run_id not in self.runs:
            return handler.refuse(404, 5, f"Failed to get a run: Run {run_id} not found")
        run, script = self.runs[run_id], self.script.get(run_id, [])
        change = script.pop(0) if script else {}
        if "workflow" in change:
            self.workflows[run_id] = change.pop("workflow")
        if "state" in change:
            run["state_history"] = [*run["state_history"], {"state": change["state"]}]
        run |= change
        return handler.send(200, run)

    def _get_workflow(self, handler: Handler, run_id: str) -> None:
        runtime = {"workflow_manifest": json.dumps(self.workflows[run_id])} if run_id in self.workflows else {}
        handler.send(200, {"run": {"id": run_id}, "pipeline_runtime": runtime})

    def _terminate(self, handler: Handler, run_id: str) -> None:
        """Pods end, and then the run has failed."""
        run = self.runs[run_id]
        run |= {"state": "CANCELING", "state_history": [*run["state_history"], {"state": "CANCELING"}]}
        self.script[run_id] = [{}, {"state": "FAILED"}]
        handler.send(200, {})

    def _retry(self, handler: Handler, run_id: str) -> None:
        run = self.runs[run_id]
        if run["state"] != "FAILED":
            return handler.refuse(400, 3, "Workflow must be Failed/Error to retry: workflow cannot be retried")
        run |= {"state": "RUNNING", "state_history": [*run["state_history"], {"state": "RUNNING"}]}
        return handler.send(200, {})

    def _log_of_node(self, handler: Handler, _run_id: str, pod: str) -> None:
        if self.user_interface:  # it hands nothing below v1alpha1 on
            return html(handler)
        return self._log(handler, pod)

    def _log(self, handler: Handler, pod: str) -> None:
        if pod in self.logs:
            return handler.send(200, self.logs[pod], "text/plain")
        if self.user_interface:
            return handler.send(404, "pod not found", "text/plain")
        # the API server has sent its status already when it finds that the pod is gone
        return handler.send(200, {"error_message": f"Failed to read logs from pod {pod}", "error_details": ""})

    def _new_id(self) -> str:
        self.ids += 1
        return f"{self.ids:08x}-0000-4000-8000-{self.ids:012x}"
