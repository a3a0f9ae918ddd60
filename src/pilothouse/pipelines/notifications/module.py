"""Builds the notifications of pipelines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from pilothouse.edge.module import Core, Periodic
from pilothouse.engine.starts import Starts
from pilothouse.identity.service import Identity
from pilothouse.pipelines.notifications import rounds, sender
from pilothouse.pipelines.notifications.deliver import JOBS, Deliverer, MailServer
from pilothouse.pipelines.notifications.model import Retries
from pilothouse.pipelines.notifications.rounds import NotificationRounds
from pilothouse.pipelines.notifications.sender import Sender
from pilothouse.pipelines.notifications.service import Notifications
from pilothouse.secrets.service import Secrets
from pilothouse.workers.pool import Pool

WORKERS = 4
"""Processes that send e-mail and chat messages, while there are any. They wait more than they work."""


@dataclass(frozen=True, slots=True)
class NotificationSettings:
    """``enabled`` False: nobody is told; ``mail`` None: no e-mail; ``allowed``: addresses besides public ones;
    ``schemes``: further ones of chat."""

    enabled: bool = True
    mail: MailServer | None = None
    allowed: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    retries: Retries = field(default_factory=Retries)


@dataclass(frozen=True, slots=True)
class NotificationParts:
    """What the module of pipelines adds to the product for them."""

    background: tuple[Periodic, ...]
    stop: Callable[[], object]


def notifications(core: Core, settings: NotificationSettings) -> NotificationParts:
    """Provides :class:`Notifications`, :class:`NotificationRounds`, :class:`Sender`."""
    wake = asyncio.Event()
    service = Notifications(core.service(Identity), core.journal, core.server_id, settings.retries, wake.set)
    if settings.enabled:
        core.service(Starts).tell("pipeline", service.expect)
    pool = Pool(JOBS, workers=WORKERS)
    deliver = Deliverer(
        core.storage, core.service(Secrets), pool, settings.mail, settings.allowed, settings.schemes
    )
    found = NotificationRounds(core.storage, service, core.clock)
    sending = Sender(core.storage, service, core.clock, deliver, wake)
    core.provide(service, found, sending)

    def stop() -> None:
        """Cancels what is under way, which ends the processes that work on it; idle ones end with the server."""
        sending.stop()

    if not settings.enabled:
        return NotificationParts((), stop)
    return NotificationParts(
        (
            Periodic(
                "pipelines.notifications",
                found.round,
                every=rounds.EVERY,
                exclusive=True,
                lease=rounds.LEASE,
            ),
            Periodic("pipelines.deliveries", sending.round, every=sender.EVERY, wake=wake),
        ),
        stop,
    )
