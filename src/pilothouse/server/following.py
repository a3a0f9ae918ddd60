"""One streaming gRPC call: authentication, the current state, later entries, and the status at the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from sqlalchemy import Connection

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.edge.grpc import abort, caller, metadata, require
from pilothouse.edge.problems import translate
from pilothouse.edge.streaming import Stream
from pilothouse.identity.service import Identity
from pilothouse.journal import Cursor, CursorError, CursorExpired, Feed, Subscription, WireFormat
from pilothouse.journal import store as journal_store
from pilothouse.journal.feed import NOW
from pilothouse.journal.model import Sees
from pilothouse.journal.protobuf import UntilEnded
from pilothouse.server.watches import MAX_IDS, Watch
from pilothouse.storage import Storage, StorageError

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Find = Callable[[Connection, Sees, bool], Watch]
"""Finds what a call follows; the last argument says whether the stream begins with the current state."""

CURSOR = "pilot-cursor"
MAX_ID = 200


class Follower:
    """Serves calls that follow the journal. A client that does not read costs a cursor and does not delay others."""

    def __init__(self, identity: Identity, feed: Feed, storage: Storage) -> None:
        self._identity = identity
        self._feed = feed
        self._storage = storage

    async def serve(
        self, context: Context, action: str, fmt: WireFormat, find: Find, names: Collection[str]
    ) -> None:
        """Serve one call of a caller who may do ``action``; ``names`` are the ids in the request.

        With the metadata ``pilot-cursor`` (a cursor, ``now`` or ``start``) the stream continues there, without it the
        stream begins with the current state. Ends with OK once everything that was named has ended; otherwise with
        UNAUTHENTICATED, PERMISSION_DENIED, NOT_FOUND, INVALID_ARGUMENT, OUT_OF_RANGE (the cursor), or UNAVAILABLE
        (to be resumed).
        """
        try:
            await self._serve(context, action, fmt, find, names)
        except StorageError as error:
            await abort(context, translate(error))

    async def _serve(
        self, context: Context, action: str, fmt: WireFormat, find: Find, names: Collection[str]
    ) -> None:
        principal = await caller(context, self._identity)
        await require(context, principal, action)
        cursor = metadata(context, CURSOR)
        try:
            _check(names)
            watch, head = await self._find(principal, find, present=not cursor)
            # "now" is the snapshot in which it was read what has ended and what has not.
            place = Cursor(head).text(self._feed.epoch) if cursor in ("", NOW) else cursor
            stream = await self._open(principal, watch, fmt, place)
        except (Refusal, CursorError) as error:
            await _refuse(context, error)
        try:
            whole = await self._send(context, watch, stream)
        except (
            CursorExpired
        ) as error:  # the next entries were deleted by retention before the client read them
            await _refuse(context, error)
        finally:
            stream.close()
        if not whole:
            await _abort_stopped(context, stream)

    async def _find(self, principal: Principal, find: Find, *, present: bool) -> tuple[Watch, int]:
        """What the call follows, and the journal's next offset in the same snapshot."""

        def read(conn: Connection) -> tuple[Watch, int]:
            head = journal_store.next_offset(conn)
            return find(conn, principal.sees, present), head

        watch, head = await self._storage.read(read)
        if head > self._feed.window.head:
            # Entries committed here are published before a later write is answered. Reading them from disk would make
            # every other reader do so, too.
            await self._storage.write(lambda tx: None)
        if head > self._feed.window.head:
            await self._feed.check_other_servers()  # another server has written them
        return watch, head

    async def _open(self, principal: Principal, watch: Watch, fmt: WireFormat, cursor: str) -> Stream:
        if watch.ending is not None and watch.ending.going_on:
            fmt = UntilEnded(fmt, watch.ending.type, watch.ending.key, watch.ending.going_on)
        only = next(iter(watch.scopes)) if len(watch.scopes) == 1 else None
        stream = await Stream(self._identity, self._feed, principal, only).open(
            watch.selection, fmt, cursor=cursor
        )
        if len(watch.scopes) > 1:
            stream.authorization.on_change(lambda: _recheck(stream, watch.scopes))
        _recheck(stream, watch.scopes)  # rights may have changed since they were read
        return stream

    async def _send(self, context: Context, watch: Watch, stream: Stream) -> bool:
        """Write the current state and later entries. False if the stream was stopped before its own end."""
        subscription = stream.follow()
        place = stream.reader.position.text(self._feed.epoch)
        if not watch.present:  # otherwise the last message of the state has the cursor
            await context.send_initial_metadata(((CURSOR, place),))
        elif not await _write(context, stream, subscription, _state(watch, place)):
            return False
        over = watch.ending is not None and not watch.ending.going_on
        read = subscription.past if over else subscription.next
        while messages := await read():
            if not await _write(context, stream, subscription, messages):
                return False
        return stream.finished or (over and not _stopped(stream, subscription))


async def _write(
    context: Context, stream: Stream, subscription: Subscription, messages: Iterable[bytes]
) -> bool:
    """Write unless the stream is stopped; each write waits for the client's flow control window."""
    for message in messages:
        if _stopped(stream, subscription):
            return False
        await context.write(message)
    return True


def _stopped(stream: Stream, subscription: Subscription) -> bool:
    return subscription.stopped or stream.unauthorized or stream.forbidden


def _state(watch: Watch, place: str) -> Iterable[bytes]:
    """The current state. Only the last message has the cursor: a client that has not received it starts again."""
    watch.present[-1].cursor = place
    return (message.SerializeToString() for message in watch.present)


def _recheck(stream: Stream, scopes: Collection[str]) -> None:
    if not all(map(stream.authorization.sees, scopes)):
        stream.forbidden = True
        stream.stop()


def _check(names: Collection[str]) -> None:
    if len(names) > MAX_IDS:
        raise Refusal.of("INVALID_PARAMETER", f"a call names at most {MAX_IDS} ids")
    if any(len(name) > MAX_ID or "\x00" in name for name in names):
        raise Refusal.of("INVALID_PARAMETER", f"an id has at most {MAX_ID} characters, none of them NUL")


async def _refuse(context: Context, error: Refusal | CursorError) -> NoReturn:
    match error:
        case CursorExpired():
            await abort(context, Refusal.of("CURSOR_EXPIRED", f"{error} (cursor_expired)"))
        case CursorError():
            await abort(context, Refusal.of("CURSOR_INVALID", str(error)))
        case _:
            await abort(context, error)


async def _abort_stopped(context: Context, stream: Stream) -> NoReturn:
    if stream.unauthorized:
        expired = stream.authorization.reason == "expired"
        code = "AUTH_TOKEN_EXPIRED" if expired else "AUTH_TOKEN_INVALID"
        await abort(context, Refusal.of(code, f"the token {'has expired' if expired else 'was revoked'}"))
    if stream.forbidden:
        words = "you may no longer see what this stream is about"
        await abort(context, Refusal.of("AUTH_INSUFFICIENT_PERMISSIONS", words))
    await abort(
        context, Refusal.of("SERVER_STOPPING", "the server is going away: reconnect with your cursor")
    )
