"""The specs of pipelines, wherever they are kept: shown, saved, and made ready for a run.

Shared by routes and RPCs. What takes long (compiling, git) is done here, before the transaction; what these methods
return is then used in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from pilothouse.access.model import Principal
from pilothouse.engine.checkouts import RepositoryCommit, SourceTree
from pilothouse.engine.graph import Graph
from pilothouse.engine.graph_json import decoded
from pilothouse.engine.model import Run
from pilothouse.engine.problems import SpecError
from pilothouse.pipelines import store
from pilothouse.pipelines.compiled import CompiledSpec, Spec
from pilothouse.pipelines.compiler import SpecCompiler
from pilothouse.pipelines.errors import SpecMissing
from pilothouse.pipelines.git.definitions import Definition, GitDefinitions
from pilothouse.pipelines.git.work_trees import WorkTree
from pilothouse.pipelines.model import Pipeline, SavedSpec
from pilothouse.pipelines.rights import allowed
from pilothouse.pipelines.service import Pipelines, TriggerRequest, saved_form
from pilothouse.storage import Storage, Tx
from pilothouse.wire.specs import SAVE_DIRECT, SpecFormat


@dataclass(frozen=True, slots=True)
class ShownSpec:
    """The current spec of a pipeline. ``spec``: its canonical form as JSON; ``head``: its commit, without a git
    repository its hash."""

    spec: str
    text: str
    format: SpecFormat
    head: str
    branch: str
    file: str


@dataclass(frozen=True, slots=True)
class Save:
    """A spec to be saved. ``expected_head``: the head that the caller has seen, empty: any. ``mode``: ``SAVE_DIRECT``
    or ``SAVE_PR``; 0: that of the pipeline."""

    spec: Spec
    file: str = ""
    expected_head: str = ""
    message: str = ""
    mode: int = 0


@dataclass(frozen=True, slots=True)
class SavedAs:
    """Where a spec was saved; ``pr_branch`` and ``pr_url`` only in mode ``SAVE_PR``."""

    head: str
    branch: str
    mode: int = SAVE_DIRECT
    pr_branch: str = ""
    pr_url: str = ""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A run of a pipeline as a caller asks for it. ``spec`` and ``checkout`` (a blob's id), where given, are used for
    this run alone; otherwise the spec is the pipeline's, of a git repository at ``commit_sha`` or ``branch``.
    ``request_id``: the same request with it starts no second run."""

    variables: dict[str, str] = field(default_factory=dict)
    spec: Spec | None = None
    file: str = ""
    request_id: str = ""
    checkout: str = ""
    branch: str = ""
    commit_sha: str = ""
    repositories: tuple[RepositoryCommit, ...] = ()
    dirty: bool = False
    tag: str = ""


class ReadyRun:
    """A run that can be started. Call :meth:`discard` if it is not."""

    def __init__(
        self,
        specs: Specs,
        caller: Principal,
        pipeline: Pipeline,
        request: TriggerRequest,
        file: str,
        request_id: str = "",
    ) -> None:
        self._specs = specs
        self._caller = caller
        self._pipeline = pipeline
        self._request = request
        self._file = file
        self._request_id = request_id
        self.trees: list[WorkTree] = []
        """What was received for it; recorded when it starts."""
        self._started = False

    def start(self, tx: Tx, by: Principal) -> str:
        """Start it, in a use case, and return its id; see :meth:`Pipelines.trigger_once`. ``by``: the caller, with
        the rights of this transaction."""
        pipelines, asked = self._specs.pipelines, (by, self._pipeline.id, self._request)
        if known := pipelines.requested(tx.conn, *asked, self._request_id, tx.now):
            return known
        self._record(tx)
        return pipelines.trigger_once(tx, *asked, self._request_id)

    def start_triggered(self, tx: Tx, by: Principal, variables: dict[str, str], word: str, depth: int) -> Run:
        """Start it for a trigger of kind ``word``; see :meth:`Pipelines.trigger`."""
        self._record(tx)
        request = replace(self._request, variables=variables, trigger=word, depth=depth)
        return self._specs.pipelines.trigger(tx, by, self._pipeline.id, request)

    def add_sources(self, sources: Mapping[str, WorkTree]) -> None:
        """Add the work trees of jobs with a source, by name."""
        self.trees += {id(tree): tree for tree in sources.values()}.values()
        found = {name: SourceTree(tree.archive.id, tree.repositories) for name, tree in sources.items()}
        self._request = replace(self._request, sources=found)

    def _record(self, tx: Tx) -> None:
        self._started = True
        for tree in self.trees:
            self._specs.git.record(tx, self._caller, self._pipeline, tree)

    def discard(self) -> None:
        """Delete what was received for it."""
        for tree in self.trees:
            self._specs.git.discard(tree)

    def discard_unless_started(self) -> None:
        """For calls that may have been answered without starting it."""
        if not self._started:
            self.discard()

    async def located(self, refusal: SpecError) -> SpecError:
        """The refusal with the places in the spec's text."""
        compiled = self._request.compiled
        if compiled is None or not compiled.written:
            return refusal
        return await self._specs.compiler.located(
            self._caller, refusal, compiled.text, self._file or "<spec>"
        )


class Specs:
    """Methods raise ``SpecError``, ``WorkError``, :class:`RepositoryUnavailable` and the refusals of
    :mod:`pilothouse.pipelines.service`."""

    def __init__(
        self, storage: Storage, compiler: SpecCompiler, pipelines: Pipelines, git: GitDefinitions
    ) -> None:
        self._storage = storage
        self.compiler = compiler
        self.pipelines = pipelines
        self.git = git

    async def shown(self, caller: Principal, pipeline_id: str) -> ShownSpec:
        """The current spec; of a git repository that at the branch's head. Raises :class:`SpecMissing`."""
        pipeline = await self._pipeline(caller, pipeline_id, "pipeline.read")
        if pipeline.repo_url:
            found = await self.git.current(caller, pipeline)
            format = SpecFormat.JSON if found.spec.text.lstrip().startswith("{") else SpecFormat.YAML
            return ShownSpec(found.spec.spec, found.spec.text, format, found.commit, found.branch, found.file)
        saved = await self._storage.read(lambda conn: store.newest_spec(conn, pipeline_id))
        if saved is None:
            raise SpecMissing(f"pipeline '{pipeline.name}' has no spec yet")
        # A spec that an older release has saved is stored as text only.
        spec = saved.spec or (await self.compiler.compile(caller, saved.text)).spec
        return ShownSpec(
            spec, saved.text, saved.format, saved.head, pipeline.default_branch, pipeline.file_path
        )

    async def save(
        self, caller: Principal, pipeline_id: str, save: Save
    ) -> Callable[[Tx, Principal], SavedAs]:
        """The use case that saves a spec. To a git repository it is pushed at once; saving the same spec again then
        changes nothing, so a call whose answer was lost can be repeated."""
        pipeline = await self._pipeline(caller, pipeline_id, "pipeline.write")
        if save.mode:
            pipeline = replace(pipeline, save_mode=save.mode)
            self.git.check(pipeline)
        compiled = await self.compiler.compile(caller, save.spec, save.file or pipeline.file_path)
        if not pipeline.repo_url:
            return lambda tx, by: self._saved(tx, by, pipeline_id, compiled, save)
        pushed = await self.git.save(caller, pipeline, compiled, save.expected_head, save.message)
        found = SavedAs(pushed.commit, pushed.branch, pipeline.save_mode, pushed.pr_branch, pushed.pr_url)
        return lambda tx, by: found

    def _saved(self, tx: Tx, by: Principal, pipeline_id: str, compiled: CompiledSpec, save: Save) -> SavedAs:
        pipeline = allowed(tx.conn, by, pipeline_id, "pipeline.write")
        saved = self.pipelines.save_spec(
            tx, by, pipeline_id, compiled, expected_head=save.expected_head, message=save.message
        )
        return SavedAs(saved.head, pipeline.default_branch)

    async def ready(self, caller: Principal, pipeline_id: str, request: RunRequest) -> ReadyRun:
        """A run with its spec, compiled, and of a git repository with its work tree."""
        pipeline = await self._pipeline(caller, pipeline_id, "run.trigger")
        if pipeline.repo_url and request.spec is None and not request.checkout:
            return await self._from_git(caller, pipeline, request)
        saved = await self._storage.read(lambda conn: store.newest_spec(conn, pipeline_id))
        compiled, file = await self._compiled(caller, pipeline, request, saved)
        ready = ReadyRun(self, caller, pipeline, _trigger(request, compiled), file, request.request_id)
        return ready if compiled is None else await self._with_sources(ready, pipeline, compiled)

    async def _with_sources(self, ready: ReadyRun, pipeline: Pipeline, spec: CompiledSpec) -> ReadyRun:
        """The run with the work trees of jobs with a source."""
        try:
            sources = await self.git.sources(pipeline, spec)
        except BaseException:
            ready.discard()
            raise
        ready.add_sources(sources)
        return ready

    async def _compiled(
        self, caller: Principal, pipeline: Pipeline, request: RunRequest, saved: SavedSpec | None
    ) -> tuple[CompiledSpec | None, str]:
        """The spec of a run and the name of its file; ``None`` if none is saved."""
        file = request.file or pipeline.file_path
        if request.spec is not None:
            compiled = await self.compiler.compile(caller, request.spec, file)
        elif saved is None:
            return None, file
        elif saved.graph:
            compiled = saved_form(saved)
        else:
            compiled = await self.compiler.compile(caller, saved.text, file)
        await _decode(compiled)
        return compiled, file

    async def _from_git(self, caller: Principal, pipeline: Pipeline, request: RunRequest) -> ReadyRun:
        found = await self._definition(caller, pipeline, request)
        await _decode(found.spec)
        tree = await self.git.work_tree(pipeline, found)
        trigger = TriggerRequest(
            variables=request.variables,
            spec=found.spec,
            compiled=found.spec,
            definition=found.commit,
            asked=f"{request.branch}@{request.commit_sha}",
            checkout=tree.archive.id,
            branch=found.branch,
            commit_sha=found.commit,
            repositories=tree.repositories,
            tag=request.tag,
        )
        ready = ReadyRun(self, caller, pipeline, trigger, found.file, request.request_id)
        ready.trees.append(tree)
        return await self._with_sources(ready, pipeline, found.spec)

    async def _definition(self, caller: Principal, pipeline: Pipeline, request: RunRequest) -> Definition:
        other = request.branch not in ("", pipeline.default_branch)
        if request.commit_sha or other:
            return await self.git.at(caller, pipeline, request.branch, request.commit_sha)
        return await self.git.current(caller, pipeline)

    async def for_trigger(self, pipeline_id: str, by: Principal) -> ReadyRun | None:
        """A run of a pipeline that needs a git repository, for a trigger with the rights of ``by``; ``None`` for
        others, whose spec is read by the transaction."""
        pipeline = await self._storage.read(lambda conn: store.pipeline(conn, pipeline_id))
        if pipeline is None:
            return None
        if pipeline.repo_url:
            return await self._from_git(by, pipeline, RunRequest())
        saved = await self._storage.read(lambda conn: store.newest_spec(conn, pipeline_id))
        if saved is None or not saved.graph:
            return None
        if not any(job.source for job in (await _decode(saved_form(saved))).jobs):
            return None
        ready = ReadyRun(self, by, pipeline, TriggerRequest(), pipeline.file_path)
        return await self._with_sources(ready, pipeline, saved_form(saved))

    async def _pipeline(self, caller: Principal, pipeline_id: str, action: str) -> Pipeline:
        def find(conn: Connection) -> Pipeline:
            return allowed(conn, caller, pipeline_id, action)

        return await self._storage.read(find)


def _trigger(request: RunRequest, compiled: CompiledSpec | None) -> TriggerRequest:
    return TriggerRequest(
        variables=request.variables,
        spec=None if request.spec is None else compiled,
        compiled=compiled,
        checkout=request.checkout,
        branch=request.branch,
        commit_sha=request.commit_sha,
        repositories=request.repositories,
        dirty=request.dirty,
        tag=request.tag,
    )


async def _decode(compiled: CompiledSpec) -> Graph:
    """Decode the graph: up to 20 ms for 5,000 steps; the transaction finds the result in the cache."""
    return await asyncio.to_thread(decoded, compiled.graph)
