"""The fields of notifications; a part of the list in :mod:`pilothouse.pipelines.spec.messages`."""

from __future__ import annotations

from pilothouse.pipelines.spec.fields import Field

MAX_RECIPIENTS = 20
PLUGINS = ("webhook", "email", "chat")

NOTIFY = (
    Field("onSuccess", "message", "when it has succeeded: a [NotifyItem](#notifyitem)", of="NotifyItem"),
    Field(
        "onFailure",
        "message",
        "when it has failed or timed out: a [NotifyItem](#notifyitem)",
        of="NotifyItem",
    ),
)

NOTIFY_ITEM = (
    Field(
        "plugin",
        "choice",
        "`webhook`, `email` or `chat`: see [notifications](notifications.md). Required",
        required=True,
        expected="one of " + ", ".join(PLUGINS),
        options=PLUGINS,
        default="webhook",
    ),
    Field("action", "text", "`send` (default)", offered=("", "send")),
    Field(
        "params",
        "struct",
        "[WebhookParams](#webhookparams), [EmailParams](#emailparams) or [ChatParams](#chatparams). Required",
    ),
)

_NAME_IN_PROJECT = r"[A-Za-z_][A-Za-z0-9_-]{0,127}"
_WEBHOOK_URL = (
    r"https?://(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?(?:[/?][!-~]{0,2000})?"
)
_LABEL = "[A-Za-z0-9][A-Za-z0-9-]{0,62}"
_EMAIL = rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(?:\.{_LABEL}){{0,9}}"

WEBHOOK_PARAMS = (
    Field(
        "url",
        "text",
        "where to send it: `https://host/path`, or `http://`; without user name and password. Required",
        required=True,
        expected="an address such as https://hooks.example.org/pilot",
        pattern=_WEBHOOK_URL,
    ),
    Field(
        "secret",
        "text",
        "the name of the [secret](#secrets) with which it is signed, such as `whsec_…`. Required",
        required=True,
        expected="the name of a secret of the project",
        pattern=_NAME_IN_PROJECT,
    ),
)

EMAIL_PARAMS = (
    Field(
        "to",
        "texts",
        "addresses, 1 to 20. Required",
        required=True,
        expected="a list of addresses such as ops@example.org",
        pattern=_EMAIL,
        most=MAX_RECIPIENTS,
    ),
)

CHAT_PARAMS = (
    Field(
        "secret",
        "text",
        "the name of the [secret](#secrets) that holds the address, such as `slack://…`. Required",
        required=True,
        expected="the name of a secret of the project",
        pattern=_NAME_IN_PROJECT,
    ),
)
