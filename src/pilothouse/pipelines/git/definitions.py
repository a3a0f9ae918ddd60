"""Specs of pipelines in git repositories: read at a branch's head, saved as commits, run at a commit.

The newest spec that was read is stored like one saved in the database, with the commit as its head. So everything
else reads specs of both kinds in the same way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import orjson

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.blobs.service import Blobs
from pilothouse.engine.graph import Source
from pilothouse.engine.graph_json import decoded
from pilothouse.pipelines import store
from pilothouse.pipelines.compiled import CompiledSpec
from pilothouse.pipelines.compiler import SpecCompiler
from pilothouse.pipelines.errors import (
    BranchMoved,
    PipelineInvalid,
    RepositoryInvalid,
    RepositoryUnavailable,
    SpecMissing,
)
from pilothouse.pipelines.git.address import check_branch, check_path, read_address
from pilothouse.pipelines.git.copy import Author, Copy
from pilothouse.pipelines.git.refs import Head
from pilothouse.pipelines.git.repositories import Remote, Repositories
from pilothouse.pipelines.git.work_trees import CheckoutOptions, WorkTree, WorkTrees
from pilothouse.pipelines.model import Pipeline, SavedSpec
from pilothouse.pipelines.service import Pipelines, saved_form
from pilothouse.secrets.service import Secrets
from pilothouse.storage import Storage, Tx, now_ms
from pilothouse.wire.specs import SAVE_DIRECT, SAVE_PR

DEFAULT_FILE = ".pilot.yaml"
MAX_SPEC = 1 << 20
"""Bytes of a spec's file."""
MAX_SOURCES = 10
"""Repositories that the jobs of one run may have beside that of the pipeline."""
_ADDRESS = re.compile(r"https://[!-~]+")


@dataclass(frozen=True, slots=True)
class Definition:
    """A spec at a commit of a branch."""

    commit: str
    branch: str
    file: str
    spec: CompiledSpec


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved spec. ``pr_branch``: the branch it was pushed to, if that is not the pipeline's; ``pr_url``: an address
    at which the forge offers to make a pull request, if it said one."""

    commit: str
    branch: str
    pr_branch: str = ""
    pr_url: str = ""


class GitDefinitions:
    """``schemes``: those that addresses may have beside https and ssh."""

    def __init__(
        self,
        repositories: Repositories,
        compiler: SpecCompiler,
        storage: Storage,
        secrets: Secrets,
        blobs: Blobs,
        pipelines: Pipelines,
        schemes: Collection[str],
        limit: int,
    ) -> None:
        self._repositories = repositories
        self._compiler = compiler
        self._storage = storage
        self._secrets = secrets
        self._blobs = blobs
        self._pipelines = pipelines
        self._schemes = frozenset(schemes)
        self._trees = WorkTrees(repositories, blobs, storage, limit, self._schemes)

    def check(self, pipeline: Pipeline) -> None:
        """What can be refused of a pipeline's repository without asking the forge. Raises
        :class:`RepositoryInvalid`."""
        if not pipeline.repo_url:
            given = {
                "saveMode": pipeline.save_mode == SAVE_PR,
                "prTargetBranch": pipeline.pr_target,
                "repoSecret": pipeline.repo_secret,
            }
            for field, value in given.items():
                if value:
                    raise RepositoryInvalid(f"{field} needs a repoUrl", details={"field": field})
            return
        read_address(pipeline.repo_url, self._schemes)
        for branch in (pipeline.default_branch, pipeline.pr_target):
            if branch:
                check_branch(branch)
        check_path(_file(pipeline))

    def key(self, url: str) -> str:
        """The key of the repository at this address, as local checkouts have it; empty without one."""
        return read_address(url, self._schemes).key if url else ""

    async def current(self, caller: Principal, pipeline: Pipeline) -> Definition:
        """The spec at the head of the pipeline's branch, which becomes its current spec.

        Raises :class:`RepositoryUnavailable`, :class:`SpecMissing`, ``SpecError``; the pipeline then shows why.
        """
        try:
            remote = await self._remote(pipeline)
            head = await self._head(remote, pipeline.default_branch)
            if head.commit == pipeline.head and (found := await self._stored(pipeline, head)):
                return found
            found = await self._read(caller, pipeline, remote, head)
        except Refusal as refusal:
            reason = str(refusal)[:500]
            await self._storage.write(lambda tx: self._pipelines.not_synced(tx, pipeline, reason))
            raise
        await self._storage.write(
            lambda tx: self._pipelines.synced(
                tx, pipeline, found.spec, found.commit, editor="", message="", reader=caller
            )
        )
        return found

    async def at(self, caller: Principal, pipeline: Pipeline, branch: str, commit: str) -> Definition:
        """The spec at another branch's head or at a commit; it does not become the current one. Raises as
        :meth:`current`."""
        remote = await self._remote(pipeline)
        if branch:
            check_branch(branch)
        head = Head(commit, branch) if commit else await self._head(remote, branch)
        return await self._read(caller, pipeline, remote, head)

    async def work_tree(self, pipeline: Pipeline, definition: Definition) -> WorkTree:
        """The checkout of a run of this definition. Call :meth:`record` in the transaction that starts the run, or
        :meth:`discard`."""
        options = await asyncio.to_thread(_options, definition.spec.spec)
        remote = await self._remote(pipeline)
        return await self._trees.make(remote, definition.commit, definition.branch, options)

    async def sources(self, pipeline: Pipeline, spec: CompiledSpec) -> dict[str, WorkTree]:
        """The checkouts of jobs with a source, by name; those of one repository are the same object. For each as for
        :meth:`work_tree`. Raises :class:`RepositoryInvalid`, :class:`RepositoryUnavailable`."""
        graph = await asyncio.to_thread(decoded, spec.graph)
        wanted = {job.name: job.source for job in graph.jobs if job.source is not None}
        if not wanted:
            return {}
        if len(set(wanted.values())) > MAX_SOURCES:
            raise RepositoryInvalid(f"the jobs of a run have at most {MAX_SOURCES} sources")
        options = await asyncio.to_thread(_options, spec.spec)
        made: dict[Source, WorkTree] = {}
        try:
            for source in wanted.values():
                if source not in made:
                    made[source] = await self._of_source(pipeline, source, options)
        except BaseException:
            for tree in made.values():
                self.discard(tree)
            raise
        return {name: made[source] for name, source in wanted.items()}

    async def _of_source(self, pipeline: Pipeline, source: Source, options: CheckoutOptions) -> WorkTree:
        if source.branch:
            check_branch(source.branch)
        remote = await self._reached(pipeline, source.repo, source.secret)
        if source.username and remote.secret:
            remote = replace(remote, secret=f"{source.username}:{remote.secret}")
        head = await self._head(remote, source.branch)
        return await self._trees.make(remote, head.commit, head.branch, options)

    def record(self, tx: Tx, by: Principal, pipeline: Pipeline, tree: WorkTree) -> None:
        """Record the checkout's files."""
        for blob in tree.new:
            self._blobs.record(tx, by, pipeline.project, blob)

    def discard(self, tree: WorkTree) -> None:
        """Delete the checkout's files, which were not recorded."""
        self._trees.discard(tree.new)

    async def save(
        self, by: Principal, pipeline: Pipeline, spec: CompiledSpec, expected: str, message: str
    ) -> Saved:
        """Commit a spec and push it. ``expected``: the head that the caller has seen, empty: any.

        A repeated call finds its text at the head, and answers that commit. Raises :class:`BranchMoved`,
        :class:`RepositoryUnavailable`.
        """
        remote = await self._remote(pipeline)
        target = pipeline.pr_target if pipeline.save_mode == SAVE_PR and pipeline.pr_target else ""
        head = await self._repositories.head(remote, target or pipeline.default_branch)
        branch = head.branch or target or pipeline.default_branch or "main"
        text, file = spec.text.encode(), _file(pipeline)
        if not head.commit:
            raise RepositoryUnavailable(f"{remote.address.url} has no branch {branch!r}; push a first commit")
        async with self._repositories.fetched(remote, head.commit, branch, 1) as copy:
            if await copy.file(head.commit, file, MAX_SPEC) == text:
                saved = Saved(head.commit, branch)
            elif expected and expected != head.commit:
                raise BranchMoved(f"the branch was changed meanwhile: its head is {head.commit}")
            else:
                author = Author(*_identity(by))
                made = await copy.commit_file(
                    head.commit, file, text, _message(message, file), author, now_ms() // 1000
                )
                saved = await _pushed(copy, pipeline, made, head.commit, branch)
        if not saved.pr_branch:
            await self._storage.write(
                lambda tx: self._pipelines.synced(
                    tx, pipeline, spec, saved.commit, editor=by.name, message=message, reader=by, by=by
                )
            )
        return saved

    async def _remote(self, pipeline: Pipeline) -> Remote:
        return await self._reached(pipeline, pipeline.repo_url, pipeline.repo_secret)

    async def _reached(self, pipeline: Pipeline, url: str, name: str) -> Remote:
        """The repository at an address; ``name``: of the secret with which this pipeline reads it."""
        address = read_address(url, self._schemes)
        if not name:
            return Remote(pipeline.project, address)
        values = await self._storage.read(
            lambda conn: self._secrets.values(conn, pipeline.project, (name,), pipeline.id)
        )
        if name not in values:
            raise RepositoryUnavailable(f"the project has no secret {name!r}, which the repository needs")
        return Remote(pipeline.project, address, values[name])

    async def _head(self, remote: Remote, branch: str) -> Head:
        head = await self._repositories.head(remote, branch)
        if not head.commit:
            what = f"branch {branch!r}" if branch else "commit yet"
            raise RepositoryUnavailable(f"{remote.address.url} has no {what}")
        return head

    async def _stored(self, pipeline: Pipeline, head: Head) -> Definition | None:
        saved = await self._storage.read(lambda conn: store.newest_spec(conn, pipeline.id))
        if saved is None or saved.head != head.commit or not saved.graph:
            return None
        return Definition(head.commit, head.branch, _file(pipeline), _compiled(saved))

    async def _read(self, caller: Principal, pipeline: Pipeline, remote: Remote, head: Head) -> Definition:
        file = _file(pipeline)
        async with self._repositories.fetched(remote, head.commit, head.branch, 1) as copy:
            data = await copy.file(head.commit, file, MAX_SPEC)
        if data is None:
            raise SpecMissing(f"{remote.address.url} has no {file} at {head.branch or head.commit[:12]}")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise PipelineInvalid(f"{file} is not UTF-8 text") from None
        compiled = await self._compiler.compile(caller, text, file)
        return Definition(head.commit, head.branch, file, compiled)


async def _pushed(copy: Copy, pipeline: Pipeline, commit: str, head: str, branch: str) -> Saved:
    if pipeline.save_mode == SAVE_DIRECT:
        await copy.push(commit, branch, head)
        return Saved(commit, branch)
    name = re.sub(r"[^A-Za-z0-9-]+", "-", pipeline.name).strip("-") or "pipeline"
    beside = f"pilothouse/{name[:60]}-{commit[:8]}"
    said = await copy.push(commit, beside, "")
    offered = _ADDRESS.search(said)
    return Saved(commit, branch, beside, offered[0] if offered else "")


def _file(pipeline: Pipeline) -> str:
    return pipeline.file_path or DEFAULT_FILE


def _compiled(saved: SavedSpec) -> CompiledSpec:
    return saved_form(saved)


def _options(spec: str) -> CheckoutOptions:
    asked: dict[str, Any] = orjson.loads(spec).get("checkout") or {}
    if asked.get("lfs"):
        raise RepositoryInvalid(
            "checkout.lfs needs the contents of LFS, which this server does not fetch: leave it out, and run "
            "`git lfs pull` in a step"
        )
    return CheckoutOptions(
        depth=int(asked.get("depth", 1)),
        tags=bool(asked.get("tags")),
        submodules=bool(asked.get("submodules")),
    )


def _identity(by: Principal) -> tuple[str, str]:
    """Name and address of a commit's author: the account's, from which git's special characters are removed."""
    name = re.sub(r"[<>\x00-\x1f\x7f]", "", by.name).strip() or "pilothouse"
    return name, f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}@users.pilothouse.invalid"


def _message(message: str, file: str) -> str:
    plain = re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", " ", message).strip()
    return plain or f"Update {file}"
