"""Quotas: how much a project or user may keep, and the refusal of more; pure."""

from __future__ import annotations

from dataclasses import dataclass

from pilothouse.access.errors import Refusal


@dataclass(slots=True)
class Quotas:
    """Each field ``x`` is the setting ``quota_x``. Services keep this object and read it when they need it, since an
    admin may change it while the server runs.

    Per project: ``blobs`` (bytes), ``blob_count``, ``artifacts`` (bytes), ``artifact_count``, ``pipelines``, ``runs``
    that have not ended. Per user: ``uploads`` (bytes of blobs that no run has used yet), ``tokens`` (API tokens). In
    total: ``projects``, ``tenants``, ``registration_tokens`` that are not revoked. Bytes that agents push:
    ``run_log`` and ``run_events`` of a run, ``agent_events`` of an agent itself.
    """

    blobs: int = 20 << 30
    blob_count: int = 100_000
    uploads: int = 4 << 30
    artifacts: int = 50 << 30
    artifact_count: int = 20_000
    pipelines: int = 1000
    runs: int = 10_000
    tokens: int = 100
    projects: int = 1000
    tenants: int = 1000
    registration_tokens: int = 1000
    run_log: int = 2 << 30
    run_events: int = 256 << 20
    agent_events: int = 64 << 20


DEFAULTS = Quotas()


class QuotaExceeded(Refusal):
    """A project, a user or the server has as much as is allowed."""

    code = "QUOTA_EXCEEDED"

    def __init__(self, what: str, used: int, limit: int, setting: str) -> None:
        super().__init__(
            f"{what}: {used} in use, at most {limit} are allowed (PILOT_QUOTA_{setting.upper()})",
            details={
                "quota": setting,
                "used": used,
                "limit": limit,
                "setting": f"PILOT_QUOTA_{setting.upper()}",
            },
        )


def check_quota(what: str, used: int, limit: int, setting: str, more: int = 1) -> None:
    """Refuse ``more`` of something beyond its limit. ``what``: for people. Raises :class:`QuotaExceeded`."""
    if used + more > limit:
        raise QuotaExceeded(what, used, limit, setting)
