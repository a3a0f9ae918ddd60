"""The chat services that notifications may go to, and the part of the apprise library that talks to each.

Only these parts are ever imported: others of that library run programs, write files or open other protocols.
"""

from __future__ import annotations

from collections.abc import Collection

SERVICES: dict[str, tuple[str, str]] = {
    "dingtalk": ("dingtalk", "NotifyDingTalk"),
    "discord": ("discord", "NotifyDiscord"),
    "feishu": ("feishu", "NotifyFeishu"),
    "gchat": ("google_chat", "NotifyGoogleChat"),
    "gotifys": ("gotify", "NotifyGotify"),
    "guilded": ("guilded", "NotifyGuilded"),
    "lark": ("lark", "NotifyLark"),
    "mmosts": ("mattermost", "NotifyMattermost"),
    "nctalks": ("nextcloudtalk", "NotifyNextcloudTalk"),
    "ntfys": ("ntfy", "NotifyNtfy"),
    "rockets": ("rocketchat", "NotifyRocketChat"),
    "ryver": ("ryver", "NotifyRyver"),
    "slack": ("slack", "NotifySlack"),
    "tgram": ("telegram", "NotifyTelegram"),
    "webex": ("webexteams", "NotifyWebexTeams"),
    "workflows": ("workflows", "NotifyWorkflows"),
    "wxteams": ("webexteams", "NotifyWebexTeams"),
    "zulip": ("zulip", "NotifyZulip"),
}
"""By the scheme of the address: module and class. All send over https."""

EXTRA: dict[str, tuple[str, str]] = {
    "json": ("custom_json", "NotifyJSON"),
    "jsons": ("custom_json", "NotifyJSON"),
}
"""Only where ``PILOT_NOTIFY_SCHEMES`` names them: a JSON document for any server, ``json`` without TLS."""


def service_of(address: str, extra: Collection[str]) -> tuple[str, str, bool] | None:
    """Module and class for an address, and whether it may go out without TLS; ``None`` for any other address."""
    scheme = address.partition("://")[0].lower()
    if (found := SERVICES.get(scheme)) is not None:
        return (*found, False)
    if scheme in extra and (found := EXTRA.get(scheme)) is not None:
        return (*found, scheme == "json")
    return None
