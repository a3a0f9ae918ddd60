"""The use cases of pipelines: define, save a spec, trigger."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.model import Principal
from pilothouse.engine.checkouts import RepositoryCommit
from pilothouse.engine.model import Run
from pilothouse.engine.service import Engine, NewRun
from pilothouse.identity.service import Identity
from pilothouse.pipelines import store
from pilothouse.pipelines.errors import (
    PipelineDisabled,
    PipelineExists,
    PipelineInvalid,
    PipelineNotFound,
    SpecMissing,
    SpecMoved,
)
from pilothouse.pipelines.model import Pipeline, SavedSpec, SpecFormat
from pilothouse.pipelines.spec import ParsedSpec, Spec, parse_spec, spec_from_json
from pilothouse.pipelines.spec.names import NamesUsed, names_used
from pilothouse.storage import Tx

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,127}")
MAX_VARIABLES = 200

SpecSource = str | dict[str, Any]
"""A spec as text (YAML or JSON; errors then name line and column) or as a decoded object."""


@dataclass(frozen=True, slots=True)
class ReadSpec:
    """A spec that was read before the transaction which needs it: reading a large one takes long."""

    source: SpecSource
    spec: Spec
    names: NamesUsed


@dataclass(frozen=True, slots=True)
class TriggerRequest:
    """How a pipeline is started. A ``spec`` given here is used in place of the saved one, for this run.

    ``read``: that spec, or the saved one, if somebody has read it already.
    """

    variables: dict[str, str] = field(default_factory=dict)
    spec: SpecSource | None = None
    file_name: str = ""
    checkout: str = ""
    branch: str = ""
    commit_sha: str = ""
    repositories: tuple[RepositoryCommit, ...] = ()
    dirty: bool = False
    tag: str = ""
    trigger: str = "manual"
    read: ReadSpec | None = None


class Pipelines:
    """The pipelines of all projects. Every method is a use case of one transaction."""

    def __init__(self, engine: Engine, identity: Identity) -> None:
        self._engine = engine
        self._identity = identity

    def create(self, tx: Tx, by: Principal, project: str, name: str, **fields: Any) -> Pipeline:
        """Define a pipeline; it has no spec yet. Raises :class:`PipelineExists`, :class:`PipelineInvalid`."""
        _check_name(name)
        if store.pipeline_named(tx.conn, project, name) is not None:
            raise PipelineExists(f"the project has a pipeline named '{name}' already")
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
        store.save_pipeline(tx.conn, changed)
        self._identity.audit(tx, by, "pipeline.update", pipeline_id, {"fields": sorted(fields)})
        return changed

    def delete(self, tx: Tx, by: Principal, pipeline_id: str) -> None:
        """Forget a pipeline; its runs stay."""
        require_pipeline(tx.conn, pipeline_id)
        store.delete_pipeline(tx.conn, pipeline_id)
        self._identity.audit(tx, by, "pipeline.delete", pipeline_id)

    def save_spec(
        self, tx: Tx, by: Principal, pipeline_id: str, source: SpecSource, *, expected_head: str, message: str
    ) -> SavedSpec:
        """Put a spec in force that :func:`read_spec` has taken: that is too slow for a transaction.

        Raises :class:`SpecMoved` if the head is another.
        """
        pipeline = require_pipeline(tx.conn, pipeline_id)
        if expected_head and expected_head != pipeline.head:
            raise SpecMoved(f"the spec was changed meanwhile: its head is {pipeline.head or 'empty'}")
        text = (
            source if isinstance(source, str) else orjson.dumps(source, option=orjson.OPT_INDENT_2).decode()
        )
        written_in = SpecFormat.JSON if text.lstrip().startswith("{") else SpecFormat.YAML
        head = hashlib.sha256(text.encode()).hexdigest()[:40]
        saved = SavedSpec(text, written_in, head, by.name, message, tx.now)
        if head != pipeline.head:
            store.add_spec(tx.conn, pipeline_id, saved)
            store.save_pipeline(tx.conn, replace(pipeline, head=head, last_editor=by.name, updated_at=tx.now))
            self._identity.audit(tx, by, "pipeline.save_spec", pipeline_id, {"head": head})
        return saved

    def trigger(self, tx: Tx, by: Principal, pipeline_id: str, request: TriggerRequest) -> Run:
        """Start a run. Raises ``SpecError``, also where it lacks a variable or secret, :class:`SpecMissing`,
        :class:`PipelineDisabled`.
        """
        pipeline = require_pipeline(tx.conn, pipeline_id)
        if not pipeline.enabled:
            raise PipelineDisabled(f"pipeline '{pipeline.name}' is disabled")
        if len(request.variables) > MAX_VARIABLES:
            raise PipelineInvalid(f"a run takes at most {MAX_VARIABLES} variables")
        source, file, definition = request.spec, request.file_name or pipeline.file_path, ""
        if source is None:
            saved = store.newest_spec(tx.conn, pipeline_id)
            if saved is None:
                raise SpecMissing(
                    f"pipeline '{pipeline.name}' has no spec; save one first, or send one along"
                )
            source, definition = saved.text, saved.head
        read = request.read
        if read is None or read.source != source:  # another was saved meanwhile
            read = read_whole(source, file)
        new = NewRun(
            kind="pipeline",
            name=pipeline.name,
            project=pipeline.project,
            spec=read.spec,
            names=read.names,
            pipeline_id=pipeline.id,
            variables=request.variables,
            trigger=request.trigger,
            checkout=request.checkout,
            branch=request.branch or pipeline.default_branch,
            commit_sha=request.commit_sha,
            repositories=request.repositories,
            dirty=request.dirty,
            tag=request.tag,
            definition=definition,
        )
        return self._engine.start(tx, by, new)


def read_spec(source: SpecSource, file: str = "") -> ParsedSpec:
    """Parse and check a spec in either form. Raises ``SpecError`` with every problem found."""
    if isinstance(source, str):
        return parse_spec(source, file=file or "<spec>")
    return spec_from_json(source)


def read_whole(source: SpecSource, file: str = "") -> ReadSpec:
    """Read a spec for a run. Raises ``SpecError``."""
    spec = read_spec(source, file).spec
    return ReadSpec(source, spec, names_used(spec))


def require_pipeline(conn: Connection, pipeline_id: str) -> Pipeline:
    """The pipeline, or :class:`PipelineNotFound`."""
    pipeline = store.pipeline(conn, pipeline_id)
    if pipeline is None:
        raise PipelineNotFound(pipeline_id)
    return pipeline


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise PipelineInvalid("a pipeline's name is 1 to 128 letters, digits, spaces, dots, slashes, _ or -")
