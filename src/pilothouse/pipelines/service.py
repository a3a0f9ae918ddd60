"""The use cases of pipelines: define, save a spec, trigger."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.model import Principal
from pilothouse.access.quotas import DEFAULTS, check_quota
from pilothouse.engine.checkout_store import checkout_of_commit
from pilothouse.engine.checkouts import RepositoryCommit
from pilothouse.engine.gates.parent import Parent
from pilothouse.engine.graph_json import decoded
from pilothouse.engine.model import Run
from pilothouse.engine.names import NamesUsed
from pilothouse.engine.service import Engine, NewRun, Origin
from pilothouse.expressions.values import insert_text
from pilothouse.identity.service import Identity
from pilothouse.pipelines import store
from pilothouse.pipelines.compiled import CompiledSpec
from pilothouse.pipelines.errors import (
    PipelineDisabled,
    PipelineExists,
    PipelineInvalid,
    PipelineNotFound,
    SpecMissing,
    SpecMoved,
)
from pilothouse.pipelines.model import Pipeline, SavedSpec
from pilothouse.storage import Tx
from pilothouse.wire.bounds import MAX_VARIABLES, MAX_VARIABLES_SIZE
from pilothouse.wire.specs import SpecFormat

KEPT_OF_GIT = 20
"""Versions of a spec in a git repository that are stored here, too."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,127}")


@dataclass(frozen=True, slots=True)
class TriggerRequest:
    """How a pipeline is started. A ``spec`` given here is used in place of the saved one, for this run.

    ``definition``: the commit that it is from, if any.

    ``compiled``: the saved spec, compiled before the transaction; needed only where it was stored as text alone, as
    release 0.1 did.
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


class Pipelines:
    """The pipelines of all projects. Every method is a use case in one transaction."""

    def __init__(self, engine: Engine, identity: Identity, max_pipelines: int = DEFAULTS.pipelines) -> None:
        self._max_pipelines = max_pipelines
        self._engine = engine
        self._identity = identity

    def create(self, tx: Tx, by: Principal, project: str, name: str, **fields: Any) -> Pipeline:
        """Create a pipeline without a spec. Raises :class:`PipelineExists`, :class:`PipelineInvalid`."""
        _check_name(name)
        if store.pipeline_named(tx.conn, project, name) is not None:
            raise PipelineExists(f"the project has a pipeline named '{name}' already")
        count = store.count_pipelines(tx.conn, project)
        check_quota("pipelines of this project", count, self._max_pipelines, "pipelines")
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
        store.delete_pipeline(tx.conn, pipeline_id)
        self._identity.audit(tx, by, "pipeline.delete", pipeline_id)

    def save_spec(
        self, tx: Tx, by: Principal, pipeline_id: str, spec: CompiledSpec, *, expected_head: str, message: str
    ) -> SavedSpec:
        """Make a spec the current one. Raises :class:`SpecMoved` if ``expected_head`` is not the head."""
        pipeline = require_pipeline(tx.conn, pipeline_id)
        if expected_head and expected_head != pipeline.head:
            raise SpecMoved(f"the spec was changed meanwhile: its head is {pipeline.head or 'empty'}")
        text = spec.text
        head = hashlib.sha256(text.encode()).hexdigest()[:40]
        saved = SavedSpec(
            text, _written_in(text), head, by.name, message, tx.now, spec.spec, spec.graph, spec.names
        )
        if head != pipeline.head:
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
        by: Principal | None = None,
    ) -> None:
        """Make the spec at a commit of the pipeline's repository the current one.

        ``read``: the pipeline as it was when its repository was read; if another repository, branch or file was set
        meanwhile, nothing changes. ``by``: who pushed the commit, if it was saved here.
        """
        pipeline = store.pipeline(tx.conn, read.id)
        if pipeline is None or _source(pipeline) != _source(read):
            return
        if commit != pipeline.head:
            saved = SavedSpec(
                spec.text,
                _written_in(spec.text),
                commit,
                editor,
                message,
                tx.now,
                spec.spec,
                spec.graph,
                spec.names,
            )
            store.add_spec(tx.conn, pipeline.id, saved)
            store.forget_old_specs(tx.conn, pipeline.id, KEPT_OF_GIT)
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
            ),
        )
        return self._engine.start(tx, by, new)

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
    ) -> None:
        """What :meth:`trigger` would refuse of a run's variables and secrets; changes nothing.

        ``declared``: the variables of the spec; ``given``: those of the run. Raises ``SpecError``.
        """
        _check_variables(given)
        self._engine.check_names(conn, project, names, declared, given)

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
            return CompiledSpec(saved.text, saved.spec, saved.graph, saved.names), saved.head
        made = request.compiled
        if made is None:  # a child run, which starts in the transaction of its parent
            why = "has a spec of release 0.1, which is not compiled yet: run the pipeline itself once"
            raise SpecMissing(f"pipeline '{pipeline.name}' {why}")
        if made.text != saved.text:  # by a server of release 0.1 on the same database
            raise SpecMoved("the spec was changed meanwhile; try again")
        store.keep_compiled(
            tx.conn, pipeline.id, saved.head, spec=made.spec, graph=made.graph, names=made.names
        )
        return made, saved.head


def require_pipeline(conn: Connection, pipeline_id: str) -> Pipeline:
    """The pipeline, or :class:`PipelineNotFound`."""
    pipeline = store.pipeline(conn, pipeline_id)
    if pipeline is None:
        raise PipelineNotFound(pipeline_id)
    return pipeline


def startable(conn: Connection, pipeline_id: str) -> Pipeline:
    """The pipeline, if its runs may start now: :class:`PipelineNotFound`, :class:`PipelineDisabled`."""
    pipeline = require_pipeline(conn, pipeline_id)
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


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise PipelineInvalid("a pipeline's name is 1 to 128 letters, digits, spaces, dots, slashes, _ or -")
