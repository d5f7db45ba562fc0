"""A loopback W&B server for tests: it speaks to the real, unmodified client and records what that sends.

It is strict. A GraphQL operation is checked against wandb_schema.graphql; an operation, field or address that
is not known is answered with HTTP 400 and listed in `refused`, which a test asserts to be empty. It chooses
sweep points with W&B's own engine, puts preempted runs back, and invents nothing: what it holds of a run is
what the client sent. What the real server decides by rules of its own is listed in docs/wandb.md.

    with Server() as server:
        subprocess.run([...], env=os.environ | server.env(folder))
        server.run("some-id").rows

By hand: `python -m tests.wandb_server` prints the environment to set and serves until Ctrl-C.
"""

import base64
import collections
import contextlib
import dataclasses
import gzip
import hashlib
import json
import secrets
import socket
import tempfile
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import graphql
import yaml

ENTITY, KEY = "tester", "local-" + "0123456789abcdef" * 3
SCHEMA = graphql.build_schema((Path(__file__).parent / "wandb_schema.graphql").read_text())
NOW = "2026-01-01T00:00:00Z"  # nothing that is tested depends on the server's clock


def new_id() -> str:
    return secrets.token_hex(4)


def base64_id(kind: str, *parts: str) -> str:
    return base64.b64encode(":".join([kind, *parts]).encode()).decode()


@dataclasses.dataclass
class Run:
    """What the client has sent about one run. Attributes have the schema's names, in camelCase."""

    server: "Server"
    project: "Project"
    name: str
    displayName: str | None = None
    description: str | None = None
    notes: str | None = None
    config: str = "{}"
    sweepName: str | None = None
    group: str | None = None
    jobType: str | None = None
    commit: str | None = None
    tags: list[str] = dataclasses.field(default_factory=list)
    state: str = "running"
    exitcode: int | None = None
    preempting: bool = False
    stop_asked: bool = False
    starts: int = 0  # processes that have opened this run
    lines: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # the file stream
    files: "Files" = None
    used: list["Artifact"] = dataclasses.field(default_factory=list)
    alerts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    history_states: list[str] = dataclasses.field(default_factory=list)  # every state it was in

    createdAt = heartbeatAt = NOW
    readOnly, projectId = False, "1"

    def __post_init__(self) -> None:
        self.files = Files(self)

    systemMetrics = historyKeys = None

    @property
    def id(self) -> str:
        return base64_id("Run", "v1", self.name, self.project.name, ENTITY)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, a dict for each row, in the order of the server's lines."""
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    @property
    def settings(self) -> dict[str, Any]:
        """The config as the user sees it."""
        return {k: v["value"] for k, v in json.loads(self.config).items() if k != "_wandb"}

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.summaryMetrics)

    @property
    def summaryMetrics(self) -> str:
        return "".join(self.lines.get("wandb-summary.json", [])[-1:]) or "{}"

    @property
    def logged(self) -> list["Artifact"]:
        return [a for a in self.server.artifacts.values() if a.createdBy is self and a.state == "COMMITTED"]

    def _count(self, name: str) -> int:
        return len(self.lines.get(name, []))

    def _tail(self, name: str) -> str:
        return json.dumps(self.lines.get(name, [])[-1:])

    fileCount = property(lambda self: len(self.files))
    historyLineCount = property(lambda self: self._count("wandb-history.jsonl"))
    eventsLineCount = property(lambda self: self._count("wandb-events.jsonl"))
    logLineCount = property(lambda self: self._count("output.log"))
    historyTail = property(lambda self: self._tail("wandb-history.jsonl"))
    eventsTail = property(lambda self: self._tail("wandb-events.jsonl"))
    user = property(lambda self: self.server.viewer)
    failed = property(lambda self: self.state in ("failed", "crashed"))
    stopped = property(lambda self: self.stop_asked)
    running = property(lambda self: self.state == "running")
    shouldStop = property(lambda self: self.stop_asked)

    def wandbConfig(self, info: Any, keys: list[str] | None = None) -> str:
        """What the client stores about itself in the config; without its "t" it would take the run for a new
        one.
        """
        kept = json.loads(self.config).get("_wandb", {}).get("value", {})
        return json.dumps({k: v for k, v in kept.items() if k in (keys or kept)})

    def sampledHistory(self, info: Any, specs: list[str]) -> list[Any]:
        return [[] for _ in specs]

    def history(self, info: Any, minStep: int = 0, maxStep: int = 2**60, samples: int = 0) -> list[str]:
        return [json.dumps(row) for row in self.rows if minStep <= row["_step"] < maxStep]

    def set_state(self, state: str) -> None:
        self.state = state
        self.history_states.append(state)


class Files(dict[str, bytes]):
    """The files of a run by name; a query asks for those that it names."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def __call__(self, info: Any, names: list[str] | None = None, **_: Any) -> dict[str, Any]:
        folder = f"run/{self.run.project.name}/{self.run.name}"
        return connection(
            [self.run.server._file(f"{folder}/{name}", name) for name in names or self if name in self]
        )


@dataclasses.dataclass
class Project:
    server: "Server"
    name: str

    createdAt, readOnly, isBenchmark, internalId, entityName = NOW, False, False, "1", ENTITY

    @property
    def id(self) -> str:
        return base64_id("Project", "v1", self.name, ENTITY)

    @property
    def entity(self) -> dict[str, Any]:
        return self.server.entity(None, ENTITY)

    def bucket(self, info: Any, name: str, missingOk: bool = False) -> Run | None:
        return self.server.runs.get((self.name, name))

    def run(self, info: Any, name: str) -> Run | None:
        return self.server.runs.get((self.name, name))

    def _matching(self, filters: str | None) -> list[Run]:
        known = [run for (project, _), run in self.server.runs.items() if project == self.name]
        return [run for run in known if matches(run, json.loads(filters or "{}"))]

    def runs(self, info: Any, filters: str | None = None, **_: Any) -> dict[str, Any]:
        return connection(self._matching(filters))

    def runCount(self, info: Any, filters: str | None = None) -> int:
        return len(self._matching(filters))

    def sweep(self, info: Any, sweepName: str) -> "Sweep | None":
        return self.server.sweeps.get(sweepName)

    def sweeps(self, info: Any, **_: Any) -> dict[str, Any]:
        return connection([sweep for sweep in self.server.sweeps.values() if sweep.project is self])

    @property
    def totalSweeps(self) -> int:
        return len(self.sweeps(None)["edges"])

    @property
    def user(self) -> dict[str, Any]:
        return self.server.viewer

    def allViews(
        self, info: Any, viewType: str = "runs", viewName: str | None = None, userName: str | None = None
    ) -> dict[str, Any]:
        views = [v for v in self.server.views.values() if v.project is self and v.type == viewType]
        by_user = userName in (None, "", ENTITY)
        return connection([v for v in views if by_user and viewName in (None, v.name)])

    def artifactType(self, info: Any, name: str) -> dict[str, Any]:
        return {"name": name, "artifactCollection": lambda info, name: self.artifactCollection(info, name)}

    def artifactCollection(self, info: Any, name: str) -> "Collection | None":
        return self.server.collections.get((self.name, name))

    def artifactCollectionMembership(self, info: Any, name: str) -> "Membership | None":
        collection, _, alias = name.partition(":")
        found = self.server.collections.get((self.name, collection))
        return found and found.artifactMembership(info, alias or "latest")

    def artifact(self, info: Any, name: str) -> "Artifact | None":
        found = self.artifactCollectionMembership(info, name)
        return found and found.artifact


def connection(nodes: list[Any]) -> dict[str, Any]:
    edges = [{"node": node, "cursor": str(i)} for i, node in enumerate(nodes)]
    return {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}


def matches(run: Run, filters: dict[str, Any]) -> bool:
    """Mongo-like filters, as far as the client sends them here."""
    for key, value in filters.items():
        if key in ("$or", "$and"):
            one = any if key == "$or" else all
            if not one(matches(run, part) for part in value):
                return False
        elif key in ("name", "group", "sweep", "state", "jobType"):
            got = getattr(run, {"sweep": "sweepName"}.get(key, key))
            allowed = value["$in"] if isinstance(value, dict) and "$in" in value else [value]
            if got not in allowed:
                return False
        else:
            raise graphql.GraphQLError(f"filter {key} is not known")
    return True


# ------------------------------------------------------------------------------------------------ sweeps


@dataclasses.dataclass
class Sweep:
    """A sweep; points come from W&B's engine, in the order in which agents ask."""

    server: "Server"
    project: Project
    name: str
    config: str  # YAML
    displayName: str | None = None
    description: str | None = None
    state: str = "RUNNING"
    prior: list[str] = dataclasses.field(default_factory=list)  # names of runs attached at its creation
    given: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # run name -> its flags
    waiting: list[str] = dataclasses.field(default_factory=list)  # preempted runs to be resumed
    agents: dict[str, str | None] = dataclasses.field(default_factory=dict)  # agent -> its run
    orders: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # (run or resume, run name)

    createdAt = updatedAt = heartbeatAt = NOW
    controller = scheduler = bestLoss = runCountExpected = priorRuns = None
    earlyStopJobRunning = False

    @property
    def id(self) -> str:
        return base64_id("Sweep", "v1", self.name)

    @property
    def method(self) -> str:
        return yaml.safe_load(self.config)["method"]

    @property
    def members(self) -> list[Run]:
        """Runs that belong to the sweep: started by its agents, or naming it."""
        runs = self.server.runs.values()
        return [run for run in runs if run.sweepName == self.name or run.name in self.prior]

    @property
    def runs(self) -> dict[str, Any]:
        return connection(self.members)

    @property
    def runCount(self) -> int:
        return len(self.members)

    def commands(self, agent: str, run_states: dict[str, bool]) -> list[dict[str, Any]]:
        """What the agent should do next. An agent has one run at a time; it is told to exit only when it is
        idle.
        """
        stops = [name for name in run_states if (run := self._run(name)) and run.stop_asked]
        if run_states:
            return [{"type": "stop", "run_id": name} for name in stops]
        if self.state != "RUNNING":
            return [{"type": "exit"}]
        if self.waiting:
            name = self.waiting.pop(0)
            return [self._order("resume", agent, name)]
        flags = self._next_point()
        if flags is None:
            busy = any((run := self._run(n)) is None or run.state == "running" for n in self.given)
            return [] if busy and not self.server.impatient else [{"type": "exit"}]
        name = new_id()
        self.given[name] = flags
        return [self._order("run", agent, name)]

    def _order(self, kind: str, agent: str, name: str) -> dict[str, Any]:
        self.agents[agent] = name
        self.orders.append((kind, name))
        args = {k: {"value": v} for k, v in self.given[name].items()}
        program = yaml.safe_load(self.config).get("program")
        return {"type": kind, "run_id": name, "args": args, "program": program}

    def _run(self, name: str) -> Run | None:
        return self.server.runs.get((self.project.name, name))

    def _next_point(self) -> dict[str, Any] | None:
        from sweeps import RunState, SweepRun, next_run

        content = yaml.safe_load(self.config)
        if len(self.given) >= content.get("run_cap", float("inf")):
            return None
        seen = []
        for name, flags in self.given.items():
            run = self._run(name)
            state = RunState.running if run is None else RunState(run.state.replace("preempting", "running"))
            summary = run.summary if run else {}
            config = {k: {"value": v} for k, v in flags.items()}
            seen.append(SweepRun(name=name, config=config, state=state, summary_metrics=summary))
        for name in self.prior:  # a point that an attached run has tried is not tried again
            if (run := self._run(name)) and name not in self.given:
                names = content["parameters"]
                config = {k: {"value": v} for k, v in run.settings.items() if k in names}
                seen.append(SweepRun(name=name, config=config, state=RunState.finished))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            point = next_run({k: v for k, v in content.items() if k in self._ENGINE}, seen)
        if point is None:
            return None
        return {k: getattr(e["value"], "item", lambda e=e: e["value"])() for k, e in point.config.items()}

    _ENGINE = ("method", "metric", "parameters")


# --------------------------------------------------------------------------------------------- artifacts


@dataclasses.dataclass
class Collection:
    """An artifact's name within a project, with its versions."""

    project: Project
    name: str
    kind: str
    versions: list["Artifact"] = dataclasses.field(default_factory=list)
    aliased: dict[str, "Artifact"] = dataclasses.field(default_factory=dict)
    digestAlgorithm = None

    @property
    def id(self) -> str:
        return base64_id("ArtifactCollection", self.project.name, self.name)

    @property
    def latestArtifact(self) -> "Artifact | None":
        return self.versions[-1] if self.versions else None

    def artifactMembership(self, info: Any, aliasName: str) -> "Membership | None":
        names = {f"v{a.versionIndex}": a for a in self.versions} | self.aliased
        return Membership(self, names[aliasName]) if aliasName in names else None


@dataclasses.dataclass
class Membership:
    artifactCollection: Collection
    artifact: "Artifact"
    createdAt = NOW

    @property
    def id(self) -> str:
        return base64_id("Membership", self.artifact.id)

    versionIndex = property(lambda self: self.artifact.versionIndex)
    aliases = property(lambda self: self.artifact.aliases)

    def files(self, info: Any, **_: Any) -> dict[str, Any]:
        return connection(list(self.artifact.files.values()))


@dataclasses.dataclass
class Artifact:
    server: "Server"
    id: str
    artifactSequence: Collection
    digest: str
    createdBy: Run | None
    metadata: str | None
    description: str | None
    wanted: list[str]
    state: str = "PENDING"
    manifests: list[str] = dataclasses.field(default_factory=list)
    files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    users: list[Run] = dataclasses.field(default_factory=list)
    versionIndex: int | None = None

    ttlDurationSeconds, ttlIsInherited, historyStep, commitHash = -2, True, None, None
    digestAlgorithm, createdAt, updatedAt, tags = "MANIFEST_MD5", NOW, NOW, ()

    @property
    def artifactType(self) -> dict[str, Any]:
        return {"name": self.artifactSequence.kind}

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads(self.server.stored[f"manifest/{self.manifests[-1]}"])

    @property
    def content(self) -> dict[str, bytes]:
        """Its files by name."""
        return {name: self.server.stored[f["storagePath"]] for name, f in self.files.items()}

    @property
    def currentManifest(self) -> dict[str, Any] | None:
        return self.server.manifest(self.manifests[-1]) if self.manifests else None

    @property
    def aliases(self) -> list[dict[str, Any]]:
        collection = self.artifactSequence
        return [
            {
                "id": base64_id("Alias", name),
                "alias": name,
                "artifactCollection": collection,
                "__typename": "ArtifactAlias",
            }
            for name, artifact in collection.aliased.items()
            if artifact is self
        ]

    @property
    def usedBy(self) -> dict[str, Any]:
        return connection(self.users)

    fileCount = property(lambda self: len(self.files))
    size = property(lambda self: sum(map(len, self.content.values())))


# ------------------------------------------------------------------------------------------------- views


@dataclasses.dataclass
class View:
    """A saved workspace (type project-view) or a report (type runs)."""

    id: str
    project: Project
    name: str
    type: str
    displayName: str = ""
    description: str = ""
    spec: str = "{}"  # JSON, as the client sent it

    createdAt = updatedAt = NOW


# ------------------------------------------------------------------------------------------------ server


class Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = True  # a paused server's port stays bound


class Server:
    """The server, on a free port of 127.0.0.1, in threads of this process; `stop` or leave the `with`."""

    def __init__(self, port: int = 0):
        self.runs: dict[tuple[str, str], Run] = {}  # by project and name
        self.projects: dict[str, Project] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.collections: dict[tuple[str, str], Collection] = {}
        self.views: dict[str, View] = {}
        self.stored: dict[str, bytes] = {}  # what was PUT, by its path below /storage/
        self.refused: list[str] = []
        self.requests: collections.Counter[str] = collections.Counter()  # operation or address -> how many
        self.delay_s = 0.0  # before every answer
        self.fault: Callable[[str], int | None] = lambda what: None  # an HTTP status instead of an answer
        self.impatient = False  # True: an agent that has nothing to do exits while others still work
        self.lock = threading.RLock()
        self.connections: set[socket.socket] = set()  # those that are open
        self._http = Http(("127.0.0.1", port), handler_of(self))
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def env(self, home: Path) -> dict[str, str]:
        """The environment of a client that is logged in here and keeps all its files under `home`."""
        home.mkdir(parents=True, exist_ok=True)
        folders = {f"WANDB_{k}_DIR": str(home / k.lower()) for k in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
        return folders | {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "HOME": str(home),
            "WANDB_DIR": str(home),
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",  # instead of every 15 s
            **{
                f"WANDB_X_{k}_RETRY_WAIT_MAX_SECONDS": "2"
                for k in ("FILE_STREAM", "FILE_TRANSFER", "GRAPHQL")
            },
            "WANDB_AGENT_DISABLE_FLAPPING": "true",
            "WANDB_AGENT_MAX_INITIAL_FAILURES": "1000",
        }

    # ------------------------------------------------------------------------------- what tests ask and do

    def run(self, name: str) -> Run:
        """The run with this name, in any project."""
        (found,) = [run for (_, known), run in self.runs.items() if known == name]
        return found

    def stop_run(self, name: str) -> None:
        """Like a click on Stop in the dashboard."""
        with self.lock:
            self.run(name).stop_asked = True

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A `with` block in which connections are closed and refused, as by a server that
        is being restarted.
        """
        with socket.socket() as held:  # bound, so that nobody else gets the port; not listening
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind(("127.0.0.1", self.port))
            self.stop()
            for connection in list(self.connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            yield
            self._http = Http(("127.0.0.1", self.port), handler_of(self))
        self._serve()

    def lose(self, name: str) -> None:
        """What the server does some minutes after a run's last sign of life: crashed, or put back."""
        with self.lock:
            run = self.run(name)
            if run.state in ("running", "preempting"):
                self._ended(run, None)

    # ---------------------------------------------------------------------------------------- GraphQL

    def graphql(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(HTTP status, answer) of one operation; an operation that the schema does not know gives 400 and is
        refused.
        """
        text, variables = body["query"], body.get("variables") or {}
        with self.lock:
            result = graphql.graphql_sync(
                SCHEMA,
                text,
                self,
                variable_values=variables,
                type_resolver=lambda value, *_: "ArtifactSequence",
            )
        if result.errors:
            name = body.get("operationName") or text.strip().split("(")[0].split("{")[0]
            for error in result.errors:
                self.refused.append(f"{name.strip()}: {error.message}")
            return 400, {"errors": [{"message": error.message} for error in result.errors]}
        return 200, {"data": result.data}

    @property
    def viewer(self) -> dict[str, Any]:
        return {
            "id": base64_id("User", "1"),
            "entity": ENTITY,
            "username": ENTITY,
            "name": ENTITY,
            "email": None,
            "admin": False,
            "flags": "{}",
            "deletedAt": None,
            "apiKeys": {"edges": []},
            "teams": connection([{"id": base64_id("Entity", ENTITY), "name": ENTITY}]),
        }

    serverInfo = property(lambda self: {"features": []})

    def entity(self, info: Any, name: str) -> dict[str, Any]:
        return {
            "id": base64_id("Entity", name),
            "name": name,
            "organization": None,
            "xxhashDigestsEnabled": False,
        }

    def project(self, info: Any, name: str | None = None, entityName: str | None = None) -> Project | None:
        return self.projects.get(name) if entityName in (None, "", ENTITY) else None

    model = project

    def artifact(self, info: Any, id: str) -> Artifact | None:
        return self.artifacts.get(id)

    def clientIDMapping(self, info: Any, clientID: str) -> None:
        return None

    def _project(self, name: str | None) -> Project:
        return self.projects.setdefault(name or "uncategorized", Project(self, name or "uncategorized"))

    def upsertBucket(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        if input.get("id"):
            run, inserted = next(run for run in self.runs.values() if run.id == input["id"]), False
        else:
            project = self._project(input.get("modelName"))
            key = (project.name, input.get("name") or new_id())
            inserted = key not in self.runs
            run = self.runs.setdefault(key, Run(self, project, key[1]))
        names = {"groupName": "group", "sweep": "sweepName"}
        for key in (
            "groupName",
            "description",
            "displayName",
            "notes",
            "commit",
            "config",
            "jobType",
            "sweep",
            "tags",
        ):
            if input.get(key) is not None:
                setattr(run, names.get(key, key), input[key])
        if input.get("summaryMetrics"):
            run.lines["wandb-summary.json"] = [input["summaryMetrics"]]
        if inserted or run.state not in ("running", "preempting"):
            run.preempting, run.exitcode = False, None
            run.set_state("running")
            run.starts += 1
        return {"bucket": run, "inserted": inserted}

    def createRunFiles(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[input["projectName"], input["runName"]]
        files = [self._file(f"run/{run.project.name}/{run.name}/{name}", name) for name in input["files"]]
        return {"runID": run.id, "uploadHeaders": [], "files": files}

    def notifyScriptableRunAlert(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        self.runs[input["projectName"], input["runName"]].alerts.append(input)
        return {"success": True}

    def stopRun(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        next(run for run in self.runs.values() if run.id == input["id"]).stop_asked = True
        return {"success": True}

    def _file(self, path: str, name: str) -> dict[str, Any]:
        url = f"{self.url}/storage/{urllib.parse.quote(path)}"
        return {
            "id": path,
            "name": name,
            "uploadUrl": url,
            "directUrl": url,
            "url": lambda info, upload=False: url,
            "uploadHeaders": [],
            "storagePath": path,
            "uploadMultipartUrls": None,
            "artifact": None,
        }

    # ----------------------------------------------------------------------------------------- sweeps

    def upsertSweep(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        if input.get("id"):
            sweep = next(s for s in self.sweeps.values() if input["id"] in (s.id, s.name))
            sweep.state = input.get("state") or sweep.state
            sweep.config = input.get("config") or sweep.config
            if input.get("priorRunsFilters") and sweep.agents:
                raise graphql.GraphQLError("a sweep is updated only before its agents start")
        else:
            sweep = Sweep(self, self._project(input.get("projectName")), new_id(), input["config"])
            sweep.displayName, sweep.description = input.get("displayName"), input.get("description")
            self.sweeps[sweep.name] = sweep
        if input.get("priorRunsFilters"):
            sweep.prior = [part["name"] for part in json.loads(input["priorRunsFilters"])["$or"]]
        return {"sweep": sweep, "configValidationWarnings": []}

    def createAgent(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        agent = f"{input['sweep']}/{new_id()}"
        self.sweeps[input["sweep"]].agents[agent] = None
        return {"agent": {"id": agent}}

    def agentHeartbeat(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps[input["id"].split("/")[0]]
        commands = sweep.commands(input["id"], json.loads(input.get("runState") or "{}"))
        return {"agent": {"id": input["id"]}, "commands": json.dumps(commands)}

    # -------------------------------------------------------------------------------------- artifacts

    def createArtifact(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        project = self._project(input["projectName"])
        name = input.get("artifactCollectionName") or input["artifactCollectionNames"][0]
        key = (project.name, name)
        collection = self.collections.setdefault(key, Collection(project, name, input["artifactTypeName"]))
        wanted = [alias["alias"] for alias in input.get("aliases") or []]
        for artifact in collection.versions:
            if input.get("enableDigestDeduplication") and artifact.digest == input["digest"]:
                collection.aliased |= dict.fromkeys(wanted, artifact)
                return {"artifact": artifact}
        run = self.runs.get((project.name, input.get("runName")))
        ident = base64_id("Artifact", name, new_id())
        made = Artifact(
            self,
            ident,
            collection,
            input["digest"],
            run,
            input.get("metadata"),
            input.get("description"),
            wanted,
        )
        self.artifacts[ident] = made
        return {"artifact": made}

    def manifest(self, ident: str) -> dict[str, Any]:
        return {"id": ident, "file": self._file(f"manifest/{ident}", "wandb_manifest.json")}

    def createArtifactManifest(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        ident = new_id()
        self.artifacts[input["artifactID"]].manifests.append(ident)
        return {"artifactManifest": self.manifest(ident)}

    def updateArtifactManifest(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        return {"artifactManifest": self.manifest(input["artifactManifestID"])}

    def createArtifactFiles(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        files = []
        for spec in input["artifactFiles"]:
            artifact = self.artifacts[spec["artifactID"]]
            path = f"artifact/{hashlib.sha256(artifact.id.encode()).hexdigest()[:12]}/{spec['name']}"
            artifact.files[spec["name"]] = self._file(path, spec["name"]) | {"artifact": artifact}
            files.append(artifact.files[spec["name"]])
        return {"files": connection(files)}

    def commitArtifact(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[input["artifactID"]]
        collection = artifact.artifactSequence
        if artifact.state != "COMMITTED":
            missing = [n for n, f in artifact.files.items() if f["storagePath"] not in self.stored]
            if missing:
                raise graphql.GraphQLError(f"commit without the content of {missing}")
            artifact.state, artifact.versionIndex = "COMMITTED", len(collection.versions)
            collection.versions.append(artifact)
        collection.aliased |= dict.fromkeys(["latest", *artifact.wanted], artifact)
        return {"artifact": artifact}

    def useArtifact(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[input["artifactID"]]
        run = self.runs[input["projectName"], input["runName"]]
        run.used.append(artifact)
        artifact.users.append(run)
        return {"artifact": artifact}

    # ------------------------------------------------------------------------------------------ views

    def models(self, info: Any, entityName: str | None = None, **_: Any) -> dict[str, Any]:
        return connection([p for p in self.projects.values() if entityName in (None, ENTITY)])

    def view(self, info: Any, id: str) -> View | None:
        return self.views.get(id)

    def upsertView(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:
        inserted = not input.get("id")
        if inserted:
            project = self.project(info, input["projectName"], input["entityName"])
            if project is None or not input.get("name"):
                raise graphql.GraphQLError(f"no project or no name for the view: {input}")
            view = View(base64_id("View", new_id()), project, input["name"], input["type"])
            self.views[view.id] = view
        else:
            view = self.views[input["id"]]
        for key in ("displayName", "description", "spec"):
            setattr(view, key, input.get(key) or getattr(view, key))
        return {"view": view, "inserted": inserted}

    # ------------------------------------------------------------------------------------ file stream

    def file_stream(self, project: str, name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        unknown = set(body) - {"files", "uploaded", "preempting", "complete", "exitcode", "dropped"}
        if unknown:
            self.refused.append(f"file_stream: {sorted(unknown)}")
            return 400, {"error": f"unknown: {sorted(unknown)}"}
        with self.lock:
            run = self.runs.get((project, name))
            if run is None:
                return 404, {"error": "no such run"}
            for file, chunk in (body.get("files") or {}).items():
                lines, offset = run.lines.setdefault(file, []), chunk["offset"]
                if file == "wandb-summary.json":
                    lines[:] = chunk["content"]
                    continue
                if offset > len(lines) and file == "wandb-history.jsonl":
                    self.refused.append(f"{file} of {name}: offset {offset} after {len(lines)} lines")
                lines += [""] * (offset - len(lines))
                lines[offset : offset + len(chunk["content"])] = chunk["content"]
            if body.get("preempting") and run.state == "running":
                run.preempting = True
                run.set_state("preempting")
            if body.get("complete"):
                self._ended(run, body.get("exitcode"))
            return 200, {"stopped": True} if run.stop_asked else {}

    def _ended(self, run: Run, exitcode: int | None) -> None:
        """By W&B's documented rule: exit code 0 is finished; anything else after `preempting` goes back."""
        run.exitcode = exitcode
        if exitcode == 0:
            return run.set_state("finished")
        if not run.preempting:
            return run.set_state("crashed" if exitcode is None else "failed")
        run.set_state("preempted")
        sweep = self.sweeps.get(run.sweepName or "")
        if sweep and run.name in sweep.given and run.name not in sweep.waiting:
            sweep.waiting.append(run.name)
        return None


def handler_of(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            server.connections.add(self.request)
            super().setup()

        def finish(self) -> None:
            server.connections.discard(self.request)
            with contextlib.suppress(OSError):  # closed by the other side, or by a pause
                super().finish()

        def log_message(self, *_: Any) -> None:
            pass

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                data = b""
                while size := int(self.rfile.readline().strip(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

        def reply(self, status: int, content: Any) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def faulty(self, what: str) -> bool:
            server.requests[what] += 1
            time.sleep(server.delay_s)
            status = server.fault(what)
            if status:
                message = {403: "permission denied"}.get(status, "fault on purpose")
                self.reply(status, {"errors": [{"message": message}]})
            return bool(status)

        def refuse(self) -> None:
            server.refused.append(f"{self.command} {self.path}")
            self.reply(400, {"error": f"{self.command} {self.path} is not known"})

        def known_user(self) -> bool:
            expected = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
            if self.headers.get("Authorization") == expected:
                return True
            self.reply(401, {"errors": [{"message": "user is not logged in"}]})
            return False

        def do_POST(self) -> None:
            data, parts = self.body(), self.path.strip("/").split("/")
            if self.path == "/graphql":
                body = json.loads(data)
                words = body["query"].split("(")[0].split("{")[0].split()
                name = body.get("operationName") or (words or ["?"])[-1]
                if not self.faulty(name) and self.known_user():
                    self.reply(*server.graphql(body))
            elif parts[0] == "files" and parts[-1] == "file_stream" and len(parts) == 5:
                if not self.faulty("file_stream") and self.known_user():
                    self.reply(*server.file_stream(parts[2], parts[3], json.loads(data)))
            elif self.path.startswith("/sdk/otel/v1/"):  # the client's own telemetry: not what is tested
                self.reply(200, b"")
            else:
                self.refuse()

        def do_PUT(self) -> None:
            data, path = self.body(), urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            if not path.startswith("/storage/"):
                return self.refuse()
            if self.faulty("PUT"):
                return None
            path = path.removeprefix("/storage/")
            with server.lock:
                server.stored[path] = data
                if path.startswith("run/"):
                    _, project, run, name = path.split("/", 3)
                    server.runs[project, run].files[name] = data
            return self.reply(200, b"")

        def do_GET(self) -> None:
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            data = server.stored.get(path.removeprefix("/storage/"))
            if data is None:
                return self.refuse()
            return None if self.faulty("GET") else self.reply(200, data)

    return Handler


if __name__ == "__main__":
    with Server(8899) as by_hand:
        for name, value in by_hand.env(Path(tempfile.gettempdir(), "wandb-loopback")).items():
            print(f"export {name}={value}")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"refused: {by_hand.refused}")
