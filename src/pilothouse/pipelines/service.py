"""The use cases of pipelines: define, save a spec, trigger."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import orjson
from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.model import SYSTEM, Principal
from pilothouse.access.quotas import DEFAULTS, Quotas, check_quota
from pilothouse.engine.checkout_store import checkout_of_commit
from pilothouse.engine.checkouts import RepositoryCommit, SourceTree
from pilothouse.engine.gates.parent import Parent
from pilothouse.engine.graph_json import decoded
from pilothouse.engine.model import Run
from pilothouse.engine.names import NamesUsed
from pilothouse.engine.problems import MAX_PROBLEMS, SpecError
from pilothouse.engine.service import Engine, NewRun, Origin
from pilothouse.expressions.values import insert_text
from pilothouse.identity.service import Identity
from pilothouse.identity.store import was_deleted
from pilothouse.journal import Journal
from pilothouse.pipelines import store
from pilothouse.pipelines.compiled import CompiledSpec
from pilothouse.pipelines.errors import (
    PipelineDisabled,
    PipelineExists,
    PipelineInvalid,
    PipelineNotFound,
    RequestReused,
    SpecMissing,
    SpecMoved,
)
from pilothouse.pipelines.model import Pipeline, SavedSpec
from pilothouse.pipelines.notifications.store import delete_of_pipeline
from pilothouse.pipelines.spec.inputs import Input, check_given
from pilothouse.pipelines.triggers.model import Trigger
from pilothouse.pipelines.triggers.service import Triggers
from pilothouse.storage import Tx
from pilothouse.wire.bounds import MAX_VARIABLES, MAX_VARIABLES_SIZE
from pilothouse.wire.specs import SpecFormat

COMPILED = ("spec", "graph", "names", "triggers")
"""The texts of a compiled spec that are stored with it."""

KEPT_OF_GIT = 20
"""Versions of a spec in a git repository that are stored here, too."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,127}")


@dataclass(frozen=True, slots=True)
class TriggerRequest:
    """How a pipeline is started. A ``spec`` given here is used in place of the saved one, for this run.

    ``definition``: the commit that it is from, if any.

    ``compiled``: the saved spec, compiled before the transaction; needed only where it was stored as text alone, as
    release 0.1 did. ``depth``: the number of runs that led to this one by their events.
    """

    variables: dict[str, str] = field(default_factory=dict)
    spec: CompiledSpec | None = None
    definition: str = ""
    compiled: CompiledSpec | None = None
    checkout: str = ""
    branch: str = ""
    commit_sha: str = ""
    repositories: tuple[RepositoryCommit, ...] = ()
    dirty: bool = False
    tag: str = ""
    trigger: str = "manual"
    parent: Parent | None = None
    checkout_of: dict[str, Any] | None = None
    asked: str = ""
    depth: int = 0
    sources: Mapping[str, SourceTree] = field(default_factory=dict)

    def digest(self) -> str:
        """Equal for requests that ask for the same run. ``asked``: what was asked of a git repository, in place of
        the commit that was found."""
        skipped = _NOT_ASKED | (_FOUND if self.definition else frozenset())
        asked = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in skipped}
        if not self.definition:
            asked["repositories"] = [asdict(one) for one in self.repositories]
            asked["spec"] = self.spec.text if self.spec else None
        return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()


_NOT_ASKED = frozenset({"spec", "compiled", "repositories", "parent", "sources"})
_FOUND = frozenset({"definition", "checkout", "branch", "commit_sha"})


CLEARED = 10
"""Pipelines of a deleted project that are deleted in one transaction."""


class Pipelines:
    """The pipelines of all projects. Every method is a use case in one transaction."""

    def __init__(
        self, engine: Engine, identity: Identity, journal: Journal, quotas: Quotas = DEFAULTS
    ) -> None:
        self.triggers = Triggers(identity, journal, self.start_triggered)
        self._quotas = quotas
        self._engine = engine
        self._identity = identity

    def create(self, tx: Tx, by: Principal, project: str, name: str, **fields: Any) -> Pipeline:
        """Create a pipeline without a spec. Raises :class:`PipelineExists`, :class:`PipelineInvalid`."""
        _check_name(name)
        self._identity.projects.check(tx.conn, project)
        if store.pipeline_named(tx.conn, project, name) is not None:
            raise PipelineExists(f"the project has a pipeline named '{name}' already")
        count = store.count_pipelines(tx.conn, project)
        check_quota("pipelines of this project", count, self._quotas.pipelines, "pipelines")
        pipeline = Pipeline(
            id=str(uuid7()),
            project=project,
            name=name,
            created_by=by.name,
            created_at=tx.now,
            updated_at=tx.now,
            **fields,
        )
        store.insert_pipeline(tx.conn, pipeline)
        self._identity.audit(tx, by, "pipeline.create", pipeline.id, {"name": name})
        return pipeline

    def change(self, tx: Tx, by: Principal, pipeline_id: str, **fields: Any) -> Pipeline:
        """Change some fields of a pipeline."""
        pipeline = require_pipeline(tx.conn, pipeline_id)
        name = fields.get("name", pipeline.name)
        _check_name(name)
        taken = store.pipeline_named(tx.conn, pipeline.project, name)
        if taken is not None and taken.id != pipeline_id:
            raise PipelineExists(f"the project has a pipeline named '{name}' already")
        changed = replace(pipeline, updated_at=tx.now, last_editor=by.name, **fields)
        if (pipeline.repo_url or changed.repo_url) and _source(pipeline) != _source(changed):
            changed = replace(changed, head="", synced_at=0, sync_message="")
            store.delete_specs(tx.conn, pipeline_id)
        store.save_pipeline(tx.conn, changed)
        self._identity.audit(tx, by, "pipeline.update", pipeline_id, {"fields": sorted(fields)})
        return changed

    def delete(self, tx: Tx, by: Principal, pipeline_id: str) -> None:
        """Delete a pipeline; its runs are kept."""
        require_pipeline(tx.conn, pipeline_id)
        self.triggers.forget(tx, by, pipeline_id)
        delete_of_pipeline(tx.conn, pipeline_id)
        store.delete_pipeline(tx.conn, pipeline_id)
        self._identity.audit(tx, by, "pipeline.delete", pipeline_id)

    def clear(self, tx: Tx, project: str) -> bool:
        """Delete some pipelines of a project that was deleted; whether there may be more."""
        some = store.ids_of_project(tx.conn, project, CLEARED)
        for pipeline_id in some:
            self.delete(tx, SYSTEM, pipeline_id)
        return len(some) == CLEARED

    def save_spec(
        self, tx: Tx, by: Principal, pipeline_id: str, spec: CompiledSpec, *, expected_head: str, message: str
    ) -> SavedSpec:
        """Make a spec the current one; its triggers have the rights of ``by`` from now on.

        Raises :class:`SpecMoved` if ``expected_head`` is not the head.
        """
        pipeline = require_pipeline(tx.conn, pipeline_id)
        if expected_head and expected_head != pipeline.head:
            raise SpecMoved(f"the spec was changed meanwhile: its head is {pipeline.head or 'empty'}")
        text = spec.text
        head = hashlib.sha256(text.encode()).hexdigest()[:40]
        compiled = {name: getattr(spec, name) for name in COMPILED}
        saved = SavedSpec(text, _written_in(text), head, by.name, message, tx.now, **compiled)
        self.triggers.follow(tx, by, pipeline, orjson.loads(spec.triggers or "[]"))
        if head == pipeline.head:  # perhaps saved by an older release, without triggers
            store.keep_compiled(tx.conn, pipeline_id, head, **compiled)
        else:
            store.add_spec(tx.conn, pipeline_id, saved)
            store.save_pipeline(tx.conn, replace(pipeline, head=head, last_editor=by.name, updated_at=tx.now))
            self._identity.audit(tx, by, "pipeline.save_spec", pipeline_id, {"head": head})
        return saved

    def synced(
        self,
        tx: Tx,
        read: Pipeline,
        spec: CompiledSpec,
        commit: str,
        *,
        editor: str,
        message: str,
        reader: Principal,
        by: Principal | None = None,
    ) -> None:
        """Make the spec at a commit of the pipeline's repository the current one.

        ``read``: the pipeline as it was when its repository was read; if another repository, branch or file was set
        meanwhile, nothing changes. ``reader``: for whom it was read; if they may start runs, the triggers of a new
        commit have their rights. ``by``: who pushed the commit, if it was saved here.
        """
        pipeline = store.pipeline(tx.conn, read.id)
        if pipeline is None or _source(pipeline) != _source(read):
            return
        if commit != pipeline.head:
            compiled = {name: getattr(spec, name) for name in COMPILED}
            saved = SavedSpec(spec.text, _written_in(spec.text), commit, editor, message, tx.now, **compiled)
            store.add_spec(tx.conn, pipeline.id, saved)
            store.forget_old_specs(tx.conn, pipeline.id, KEPT_OF_GIT)
            if reader.may("run.trigger", pipeline.project):
                self.triggers.follow(tx, reader, pipeline, orjson.loads(spec.triggers or "[]"))
        changed = replace(pipeline, head=commit, synced_at=tx.now, sync_message="")
        if by is not None:
            changed = replace(changed, last_editor=by.name, updated_at=tx.now)
            self._identity.audit(tx, by, "pipeline.save_spec", pipeline.id, {"head": commit})
        store.save_pipeline(tx.conn, changed)

    def not_synced(self, tx: Tx, read: Pipeline, reason: str) -> None:
        """Show why the pipeline's repository could not be read."""
        pipeline = store.pipeline(tx.conn, read.id)
        if pipeline is not None and _source(pipeline) == _source(read):
            store.save_pipeline(tx.conn, replace(pipeline, synced_at=tx.now, sync_message=reason))

    def trigger(self, tx: Tx, by: Principal, pipeline_id: str, request: TriggerRequest) -> Run:
        """Start a run. Raises ``SpecError``, also for missing variables and secrets, :class:`SpecMissing`,
        :class:`PipelineDisabled`.
        """
        pipeline = startable(tx.conn, pipeline_id)
        _check_variables(request.variables)
        compiled, definition = self._compiled(tx, pipeline, request)
        _check_inputs(compiled.inputs, request.variables)
        new = NewRun(
            kind="pipeline",
            name=pipeline.name,
            project=pipeline.project,
            graph=decoded(compiled.graph),
            stored=compiled.graph,
            names=compiled.names_used(),
            variables=request.variables,
            trigger=request.trigger,
            parent=request.parent,
            depth=request.depth,
            origin=Origin(
                pipeline_id=pipeline.id,
                definition=definition,
                branch=request.branch or pipeline.default_branch,
                commit_sha=request.commit_sha,
                tag=request.tag,
                checkout=request.checkout,
                repositories=request.repositories,
                dirty=request.dirty,
                checkout_of=request.checkout_of,
                sources=request.sources,
            ),
        )
        return self._engine.start(tx, by, new)

    def trigger_once(
        self, tx: Tx, by: Principal, pipeline_id: str, request: TriggerRequest, request_id: str
    ) -> str:
        """As :meth:`trigger`; returns the run's id. The same request of the same user with the same id within a day
        starts no other run. Raises also :class:`RequestReused` if it is another request.
        """
        if known := self.requested(tx.conn, by, pipeline_id, request, request_id, tx.now):
            return known
        run_id = self.trigger(tx, by, pipeline_id, request).id
        if request_id:
            digest = request.digest()
            store.keep_request(
                tx.conn, pipeline_id, by.key, request_id, digest=digest, run_id=run_id, now=tx.now
            )
        return run_id

    def requested(
        self,
        conn: Connection,
        by: Principal,
        pipeline_id: str,
        request: TriggerRequest,
        request_id: str,
        now: int,
    ) -> str:
        """The run that the same request of the same user with this id has started; empty if there is none. Raises
        :class:`RequestReused`."""
        known = store.requested_run(conn, pipeline_id, by.key, request_id, now) if request_id else None
        if known is None:
            return ""
        if known[1] != request.digest():
            raise RequestReused("the request id was used for another request")
        return known[0]

    def start_triggered(
        self, tx: Tx, by: Principal, trigger: Trigger, word: str, origin: Mapping[str, Any]
    ) -> Run:
        """Start a run for a trigger. Raises as :meth:`trigger`."""
        request = TriggerRequest(variables=trigger.variables, trigger=word, **origin)
        return self.trigger(tx, by, trigger.pipeline_id, request)

    def start_child(self, tx: Tx, by: Principal, parent: Parent, args: Mapping[str, Any]) -> Run:
        """Start a run of the pipeline (name or id) that a gate of another run names, in the same project.

        Raises as :meth:`trigger`.
        """
        named, variables = str(args["pipeline"]), args.get("variables") or {}
        if "\x00" in named:
            raise PipelineNotFound(named)
        pipeline = store.pipeline(tx.conn, named) or store.pipeline_named(tx.conn, parent.project, named)
        if pipeline is None or pipeline.project != parent.project:
            raise PipelineNotFound(named)
        if not isinstance(variables, Mapping):
            raise PipelineInvalid("variables are a map of names and values")
        texts = {
            str(name): value if isinstance(value, str) else insert_text(value)
            for name, value in variables.items()
        }
        request = TriggerRequest(variables=texts, trigger="run", parent=parent)
        if pipeline.repo_url:
            request = replace(request, **_of_last_run(tx.conn, pipeline))
        return self.trigger(tx, by, pipeline.id, request)

    def check_run(
        self,
        conn: Connection,
        project: str,
        names: NamesUsed,
        declared: Mapping[str, str],
        given: Mapping[str, str],
        inputs: tuple[Input, ...] | None,
        pipeline_id: str = "",
    ) -> None:
        """What :meth:`trigger` would refuse of a run's variables and secrets; changes nothing.

        ``declared``: the variables of the spec; ``given``: those of the run. Raises ``SpecError``.
        """
        _check_variables(given)
        _check_inputs(inputs, given)
        self._engine.check_names(conn, project, names, declared, given, pipeline_id)

    def _compiled(self, tx: Tx, pipeline: Pipeline, request: TriggerRequest) -> tuple[CompiledSpec, str]:
        """The spec of a new run, and its head if it is the saved spec."""
        if request.spec is not None:
            return request.spec, request.definition
        saved = store.newest_spec(tx.conn, pipeline.id)
        if saved is None:
            raise SpecMissing(
                f"pipeline '{pipeline.name}' has no spec; save one first, or send one in the request"
            )
        if saved.graph:
            return saved_form(saved), saved.head
        made = request.compiled
        if made is None:  # a child run, which starts in the transaction of its parent
            why = "has a spec of release 0.1, which is not compiled yet: run the pipeline itself once"
            raise SpecMissing(f"pipeline '{pipeline.name}' {why}")
        if made.text != saved.text:  # by a server of release 0.1 on the same database
            raise SpecMoved("the spec was changed meanwhile; try again")
        texts = {name: getattr(made, name) for name in COMPILED if name != "triggers"}
        store.keep_compiled(tx.conn, pipeline.id, saved.head, **texts)
        return made, saved.head


def saved_form(saved: SavedSpec) -> CompiledSpec:
    """The compiled form of a saved spec that has one."""
    return CompiledSpec(saved.text, saved.spec, saved.graph, saved.names, triggers=saved.triggers)


def require_pipeline(conn: Connection, pipeline_id: str) -> Pipeline:
    """The pipeline, or :class:`PipelineNotFound`."""
    pipeline = store.pipeline(conn, pipeline_id)
    if pipeline is None:
        raise PipelineNotFound(pipeline_id)
    return pipeline


def pipeline_project(conn: Connection, pipeline_id: str) -> str:
    """The id of its project; ``""`` if there is no such pipeline."""
    found = store.pipeline(conn, pipeline_id)
    return found.project if found else ""


def startable(conn: Connection, pipeline_id: str) -> Pipeline:
    """The pipeline, if its runs may start now: :class:`PipelineNotFound`, :class:`PipelineDisabled`."""
    pipeline = require_pipeline(conn, pipeline_id)
    if was_deleted(conn, pipeline.project):  # and so will be the pipeline
        raise PipelineNotFound(pipeline_id)
    if not pipeline.enabled:
        raise PipelineDisabled(f"pipeline '{pipeline.name}' is disabled")
    return pipeline


def _of_last_run(conn: Connection, pipeline: Pipeline) -> dict[str, Any]:
    """The commit of a pipeline in a git repository for a run that starts in a transaction, which cannot ask the
    forge: the one that was read last, with the work tree of an earlier run."""
    checkout = checkout_of_commit(conn, pipeline.id, pipeline.head) if pipeline.head else None
    if checkout is None:
        raise SpecMissing(
            f"pipeline '{pipeline.name}' has no run of its newest commit, whose work tree could be used: run it once"
        )
    return {"checkout_of": checkout, "commit_sha": pipeline.head}


def _written_in(text: str) -> SpecFormat:
    return SpecFormat.JSON if text.lstrip().startswith("{") else SpecFormat.YAML


def _source(pipeline: Pipeline) -> tuple[str, ...]:
    """Where the spec of a pipeline is read from."""
    return pipeline.repo_url, pipeline.default_branch, pipeline.file_path, pipeline.repo_secret


def _check_variables(given: Mapping[str, str]) -> None:
    if len(given) > MAX_VARIABLES:
        raise PipelineInvalid(f"a run takes at most {MAX_VARIABLES} variables")
    size = sum(len(name) + len(value) for name, value in given.items())
    if size > MAX_VARIABLES_SIZE:
        raise PipelineInvalid(
            f"the variables have {size} characters, a run takes at most {MAX_VARIABLES_SIZE}"
        )


def _check_inputs(inputs: tuple[Input, ...] | None, given: Mapping[str, str]) -> None:
    """Where a spec declares inputs, a run is given these alone. Raises SpecError."""
    if inputs is not None and (problems := check_given(inputs, given)):
        raise SpecError(problems[:MAX_PROBLEMS], "<spec>")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise PipelineInvalid("a pipeline's name is 1 to 128 letters, digits, spaces, dots, slashes, _ or -")
