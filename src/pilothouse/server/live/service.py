"""The use cases of settings: what is in force, where it comes from, and changes that every server follows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from sqlalchemy import Connection

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal
from pilothouse.identity.service import Identity
from pilothouse.server.live import store
from pilothouse.server.live.model import CHANGEABLE, parsed, shown, with_changes
from pilothouse.server.live.store import Changed
from pilothouse.server.settings import Settings
from pilothouse.storage import Storage, Tx

log = structlog.get_logger("server.settings")

Apply = Callable[[Settings], None]
"""Makes changed settings take effect on this server; called on the event loop."""


class LiveSettings:
    """The settings of the server's start, and what admins have changed since, which wins and survives a restart."""

    def __init__(self, settings: Settings, identity: Identity, storage: Storage, apply: Apply) -> None:
        self._given = settings
        self._identity = identity
        self._storage = storage
        self._apply = apply
        self._applied: dict[str, Any] = {}

    async def follow(self) -> None:
        """Apply what is in the database: at the start, and again and again where other servers may change it."""
        self._use(await self._storage.read(store.changed_settings))

    def list(self, conn: Connection) -> list[dict[str, Any]]:
        """Every setting: ``name``, ``value`` (secrets are masked), ``source``, ``changeable``, and who changed it."""
        changed = self._known(store.changed_settings(conn))
        force = with_changes(self._given, {name: each.value for name, each in changed.items()})
        return [
            {
                "name": name,
                "value": shown(force, name),
                "source": "database" if name in changed else self._source(name),
                "changeable": name in CHANGEABLE,
                "description": field.description or "",
                "changedBy": changed[name].by if name in changed else "",
                "changedAt": changed[name].at // 1000 if name in changed else 0,
            }
            for name, field in Settings.model_fields.items()
        ]

    def change(self, tx: Tx, by: Principal, changes: Mapping[str, Any]) -> None:
        """Change some settings, all or none; ``None``: as at the server's start.

        Raises ``SETTING_FIXED``, ``VALIDATION_FAILED`` with ``details.field``.
        """
        require(by, "settings.write")
        wanted = {
            name: None if value is None and name in CHANGEABLE else parsed(name, value)
            for name, value in changes.items()
        }
        before = self._known(store.changed_settings(tx.conn))
        detail: dict[str, Any] = {}
        for name, value in wanted.items():
            old = before[name].value if name in before else None
            if value == old:
                continue
            if value is None:
                store.drop_setting(tx.conn, name)
            else:
                store.put_setting(tx.conn, name, value, by.name, tx.now)
            start = shown(self._given, name)
            detail[name] = {"from": start if old is None else old, "to": start if value is None else value}
        if not detail:
            return
        self._identity.audit(tx, by, "settings.change", "settings", detail)
        after = store.changed_settings(tx.conn)
        tx.after_commit(lambda: self._use(after))

    def _use(self, changed: Mapping[str, Changed]) -> None:
        values = {name: each.value for name, each in self._known(changed).items()}
        if values != self._applied:
            self._applied = values
            self._apply(with_changes(self._given, values))
            log.info("settings.changed", names=sorted(values))

    def _known(self, changed: Mapping[str, Changed]) -> dict[str, Changed]:
        """Those that this release knows and accepts: another release may have stored others."""
        found = {}
        for name, each in changed.items():
            try:
                found[name] = each._replace(value=parsed(name, each.value))
            except Refusal as refused:
                log.warning("settings.not_used", name=name, reason=refused.message)
        return found

    def _source(self, name: str) -> str:
        if name not in self._given.model_fields_set:
            return "default"
        if name in self._given.options:
            return "option"
        environment = {variable.upper() for variable in os.environ}
        return "environment" if f"PILOT_{name.upper()}" in environment else "file"
