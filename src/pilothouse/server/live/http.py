"""``/api/v1/settings``, in the Arcentra envelope."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from starlette.responses import Response

from pilothouse.access.model import Principal
from pilothouse.edge.openapi import enveloped, errors
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import Change, allow, envelope
from pilothouse.server.live.service import LiveSettings
from pilothouse.storage import Tx
from pilothouse.wire.rest import settings as shown
from pilothouse.wire.rest.settings import ChangeSettings

router = APIRouter(prefix="/api/v1/settings", tags=["settings"])

Live = Annotated[LiveSettings, provided(LiveSettings)]


@router.get(
    "",
    dependencies=[allow("settings.read")],
    summary="Show the settings",
    responses=enveloped(shown.SettingList),
)
async def get_settings(live: Live, database: Database) -> Response:
    """What is in force on this server, and where each value comes from. Secrets are masked."""
    return envelope({"settings": await database.read(live.list)})


@router.patch(
    "",
    dependencies=[allow("settings.write")],
    summary="Change settings",
    responses=enveloped(shown.SettingList) | errors("SETTING_FIXED"),
)
async def change_settings(live: Live, change: Change, body: ChangeSettings) -> Response:
    """Change settings of all servers of this database, all or none of those in the body, at once and for good; null
    undoes a change. Errors: ``SETTING_FIXED`` for one that needs a restart."""

    def use_case(tx: Tx, by: Principal) -> list[dict[str, Any]]:
        live.change(tx, by, body.settings)
        return live.list(tx.conn)

    return envelope({"settings": await change(use_case)})
