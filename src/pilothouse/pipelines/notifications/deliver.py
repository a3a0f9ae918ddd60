"""Delivers one notification: finds the secrets that it needs, and hands it to what sends its kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from pilothouse.pipelines.notifications import payload
from pilothouse.pipelines.notifications.guard import Guard
from pilothouse.pipelines.notifications.jobs import AGAIN, DELIVERED, Result, chat_job, email_job
from pilothouse.pipelines.notifications.model import CHAT, EMAIL, Delivery, Outcome
from pilothouse.pipelines.notifications.webhook import Webhooks
from pilothouse.secrets.service import Secrets
from pilothouse.storage import Storage
from pilothouse.workers.errors import WorkError
from pilothouse.workers.limits import MIB, Limits
from pilothouse.workers.pool import Pool

JOBS = (email_job, chat_job)

LIMITS = Limits(cpu=15, wall=25, memory=512 * MIB, result=MIB)
"""Of one e-mail or chat message. To import the library of the latter takes about a second."""

MAX_CHAT = 1500
"""Characters of a chat message; services cut or refuse longer ones."""


@dataclass(frozen=True, slots=True)
class MailServer:
    """``tls``: ``starttls``, ``tls`` or ``none``; ``user`` empty: no login; ``ca``: certificates (PEM), empty: those
    of the system."""

    host: str
    port: int
    tls: str
    sender: str
    user: str = ""
    password: str = ""
    ca: str = ""

    def __repr__(self) -> str:
        return f"MailServer({self.host}:{self.port})"


class Deliverer:
    """Delivers notifications. ``mail`` None: the server sends no e-mail. ``allowed``, ``schemes``: the settings
    ``notify_allow`` and ``notify_schemes``. ``pool``: for what blocks; its workers do nothing else."""

    def __init__(
        self,
        storage: Storage,
        secrets: Secrets,
        pool: Pool,
        mail: MailServer | None,
        allowed: tuple[str, ...],
        schemes: tuple[str, ...],
    ) -> None:
        self._storage = storage
        self._secrets = secrets
        self._pool = pool
        self._mail = mail
        self._allowed = allowed
        self._schemes = schemes
        self._webhooks = Webhooks(Guard.of(allowed))

    async def __call__(self, one: Delivery) -> Outcome:
        """One attempt."""
        if one.plugin == EMAIL:
            return await self._email(one)
        name = one.params["secret"]
        values = await self._storage.read(
            partial(self._secrets.values, project=one.project, names=[name], pipeline=one.pipeline_id)
        )
        if name not in values:
            return Outcome(again=False, reason=f"there is no (readable) secret named {name}")
        if one.plugin == CHAT:
            return await self._chat(one, values[name])
        return await self._webhooks.send(one.params["url"], values[name], f"msg_{one.id}", one.body)

    async def _email(self, one: Delivery) -> Outcome:
        mail = self._mail
        if mail is None:
            return Outcome(again=False, reason="the server sends no e-mail: PILOT_SMTP_HOST is not set")
        body = orjson.loads(one.body)
        server = {
            "host": mail.host,
            "port": mail.port,
            "tls": mail.tls,
            "user": mail.user,
            "password": mail.password,
            "sender": mail.sender,
            "ca": mail.ca,
        }
        domain = mail.sender.rpartition("@")[2].rstrip(">") or "localhost"
        message_id = f"<{one.id}@{domain}>"
        return await self._job(
            one,
            email_job,
            server,
            list(one.params["to"]),
            payload.title(body),
            payload.text(body),
            message_id,
        )

    async def _chat(self, one: Delivery, address: str) -> Outcome:
        body = orjson.loads(one.body)
        title = payload.without_mentions(payload.title(body))
        text = payload.without_mentions(payload.text(body))[:MAX_CHAT]
        return await self._job(one, chat_job, address, title, text, list(self._allowed), list(self._schemes))

    async def _job(self, one: Delivery, job: Any, *args: Any) -> Outcome:
        try:
            found: Result = await self._pool.run(job, *args, caller=f"project/{one.project}", limits=LIMITS)
        except WorkError as error:
            return Outcome(reason=f"the message could not be sent: {error.code}")
        kind, code, reason = found
        return Outcome(delivered=kind == DELIVERED, again=kind == AGAIN, code=int(code), reason=str(reason))
