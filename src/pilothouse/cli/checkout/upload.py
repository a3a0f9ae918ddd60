"""A work tree on its way to the server: packed before anything is created there, then uploaded."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pilothouse.cli.checkout.interrupt import in_thread
from pilothouse.cli.checkout.known import KnownCommit, NewPack, StoredPack
from pilothouse.cli.checkout.options import options_of, sent_limit
from pilothouse.cli.checkout.repository import Repository
from pilothouse.cli.checkout.sending import Packed, keys, pack_tree
from pilothouse.cli.checkout.telling import notes, sending
from pilothouse.cli.checkout.tree import Tree, read_tree
from pilothouse.cli.live import Progress
from pilothouse.cli.output import Output
from pilothouse.cli.text import safe
from pilothouse.cli.uploading import LONG, Upload, upload_of

if TYPE_CHECKING:
    from pilothouse.client import PilotClient
    from pilothouse.client.types import CheckoutRepository, KnownCheckout

_PACK_TYPE = "application/x-git-packed-objects"


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What a trigger says of the checkout; empty if none was sent."""

    checkout: str = ""
    repositories: Sequence[CheckoutRepository] = ()
    dirty: bool = False


class PackedCheckout:
    """A packed work tree, of which the server has nothing yet."""

    def __init__(self, client: PilotClient, project: str, out: Output, tree: Tree, packed: Packed) -> None:
        self._client = client
        self._project = project
        self._out = out
        self._tree = tree
        self._packed = packed

    async def upload(self, progress: Progress) -> Uploaded:
        """Send it, and say so, and how far it is."""
        packed, packs = self._packed, self._packed.new_packs
        for note in notes(self._tree):
            self._out.say(safe(note), "yellow")
        objects = sum(pack.size for pack in packs)
        self._out.note(safe(sending(self._tree, packed.files, objects, packed.size)))
        with upload_of(self._out, packed.size, progress) as shown:
            ids, sent = {}, 0
            for pack in packs:
                ids[pack.sha256] = await self._send(pack, _PACK_TYPE, shown, sent)
                sent += pack.size
            archive = await self._send(packed.archive, "application/gzip", shown, sent)
        repositories: list[CheckoutRepository] = [
            {
                "key": each.key,
                "commit": each.commit,
                "depth": each.depth,
                "packs": [ids[p.sha256] if isinstance(p, NewPack) else p.id for p in each.packs],
            }
            for each in packed.repositories
        ]
        return Uploaded(archive, repositories, packed.dirty)

    async def _send(self, pack: NewPack, type: str, shown: Upload, before: int) -> str:
        blob = await self._client.blobs.upload(
            pack.file,
            pack.sha256,
            project=self._project,
            type=type,
            on_sent=lambda sent: shown.at(before + sent),
        )
        return blob["id"]


@asynccontextmanager
async def packed_checkout(
    client: PilotClient, repository: Repository, spec: str, project: str, out: Output
) -> AsyncIterator[PackedCheckout]:
    """Pack what is in front of us as the spec's ``checkout`` asks for, in a directory that goes with the context.

    Raises PackingError, CheckoutTooLarge; nothing was sent then.
    """
    options, limit = options_of(spec), sent_limit()
    with tempfile.TemporaryDirectory(prefix="pilot-checkout-") as directory:
        with _told_if_long(out, f"packing the files of {repository.root}"):
            tree = await in_thread(read_tree, repository, options)
            known = {key: _known(await client.checkouts.known(key, project=project)) for key in keys(tree)}
            packed = await in_thread(pack_tree, tree, options, known, Path(directory), limit)
        yield PackedCheckout(client, project, out, tree, packed)


@contextmanager
def _told_if_long(out: Output, what: str) -> Iterator[None]:
    """Say what is being done if it takes a while: work in a thread, so the event loop can."""
    import asyncio

    telling = asyncio.get_running_loop().call_later(LONG, out.note, safe(f"{what} …"))
    try:
        yield
    finally:
        telling.cancel()


def _known(answers: Sequence[KnownCheckout]) -> list[KnownCommit]:
    return [
        KnownCommit(
            each["commit"],
            each["depth"],
            tuple(StoredPack(pack["id"], pack["sha256"], pack["size"]) for pack in each["packs"]),
        )
        for each in answers
    ]
