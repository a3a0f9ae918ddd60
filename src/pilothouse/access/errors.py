"""Refusals that callers can receive: a stable code, its HTTP status and its short text.

The codes are those of the StreamSpace page ("Error Handling") and others of the same pattern. The format of
an error (plain or in the Arcentra envelope) is decided in :mod:`pilothouse.edge.problems`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pilothouse.access.model import ACTIONS, FULL_TOKEN, Principal, Role

CODES: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        # authentication and authorization
        "AUTH_INVALID_CREDENTIALS": (401, "Authentication failed"),
        "AUTH_TOKEN_EXPIRED": (401, "Authentication failed"),
        "AUTH_TOKEN_INVALID": (401, "Authentication failed"),
        "AUTH_TOKEN_MISSING": (401, "Authentication failed"),
        "AUTH_INSUFFICIENT_PERMISSIONS": (403, "Insufficient permissions"),
        "ORIGIN_FORBIDDEN": (403, "Origin not allowed"),
        # invalid requests
        "VALIDATION_FAILED": (400, "Invalid request"),
        "INVALID_PARAMETER": (400, "Invalid parameter"),
        "MISSING_REQUIRED_FIELD": (400, "Missing required field"),
        "SPEC_INVALID": (400, "Invalid spec"),
        "CONCURRENCY_INVALID": (400, "Invalid concurrency group"),
        "TEMPLATE_INVALID": (400, "Invalid template"),
        "INVALID_STATE_TRANSITION": (400, "Invalid state transition"),
        "CURSOR_INVALID": (400, "Invalid cursor"),
        "HEADER_REPEATED": (400, "Header repeated"),
        "MALFORMED_REQUEST": (400, "Malformed request"),
        "REQUEST_TIMEOUT": (408, "Request too slow"),
        "CURSOR_EXPIRED": (410, "Cursor expired"),
        "PAYLOAD_TOO_LARGE": (413, "Payload too large"),
        "CLIENT_TOO_OLD": (426, "Client too old"),
        "INPUT_TOO_COSTLY": (400, "Input too costly"),
        "RATE_LIMIT_EXCEEDED": (429, "Rate limit exceeded"),
        "CALLER_QUEUE_FULL": (429, "Too many requests in progress"),
        "TOO_MANY_CONNECTIONS": (429, "Too many connections"),
        "METHOD_NOT_ALLOWED": (405, "Method not allowed"),
        "NOT_IMPLEMENTED": (501, "Not implemented"),
        # not found
        "NOT_FOUND": (404, "Not found"),
        "AGENT_NOT_FOUND": (404, "Agent not found"),
        "ALERT_NOT_FOUND": (404, "Alert not found"),
        "APPROVAL_NOT_FOUND": (404, "Approval not found"),
        "ARTIFACT_NOT_FOUND": (404, "Artifact not found"),
        "BLOB_NOT_FOUND": (404, "Blob not found"),
        "CLUSTER_NOT_FOUND": (404, "Cluster not found"),
        "DEPLOYMENT_NOT_FOUND": (404, "Deployment not found"),
        "ENVIRONMENT_NOT_FOUND": (404, "Environment not found"),
        "GATE_NOT_FOUND": (404, "Gate not found"),
        "JOB_NOT_FOUND": (404, "Job not found"),
        "PIPELINE_NOT_FOUND": (404, "Pipeline not found"),
        "PROJECT_NOT_FOUND": (404, "Project not found"),
        "PROMOTION_NOT_FOUND": (404, "Promotion not found"),
        "RELEASE_NOT_FOUND": (404, "Release not found"),
        "RUN_NOT_FOUND": (404, "Run not found"),
        "SECRET_NOT_FOUND": (404, "Secret not found"),
        "SESSION_NOT_FOUND": (404, "Session not found"),
        "SPEC_NOT_FOUND": (404, "Spec not found"),
        "TRIGGER_NOT_FOUND": (404, "Trigger not found"),
        "NOTIFICATION_NOT_FOUND": (404, "Notification not found"),
        "STEP_NOT_FOUND": (404, "Step not found"),
        "STEP_RUN_NOT_FOUND": (404, "Step run not found"),
        "TARGET_NOT_FOUND": (404, "Target not found"),
        "TEMPLATE_NOT_FOUND": (404, "Template not found"),
        "TOKEN_NOT_FOUND": (404, "Token not found"),
        "TENANT_NOT_FOUND": (404, "Tenant not found"),
        "UPLOAD_NOT_FOUND": (404, "Upload not found"),
        "USER_NOT_FOUND": (404, "User not found"),
        "WORKFLOW_NOT_FOUND": (404, "Workflow not found"),
        # conflicts
        "CONFLICT": (409, "Conflict"),
        "AGENT_ALREADY_EXISTS": (409, "Agent already exists"),
        "ARTIFACT_ALREADY_EXISTS": (409, "Artifact already exists"),
        "AGENT_REPLACED": (409, "Agent has connected again"),
        "CLUSTER_BUSY": (409, "Cluster busy"),
        "GATE_CLOSED": (409, "Gate is closed"),
        "IDEMPOTENCY_KEY_REUSED": (409, "Idempotency key reused"),
        "QUOTA_EXCEEDED": (409, "Quota exceeded"),
        "PIPELINE_ALREADY_EXISTS": (409, "Pipeline already exists"),
        "PIPELINE_DISABLED": (409, "Pipeline is disabled"),
        "SPEC_CONFLICT": (409, "Spec was changed meanwhile"),
        "PROJECT_ALREADY_EXISTS": (409, "Project already exists"),
        "PROJECT_IN_USE": (409, "Project in use"),
        "SECRET_ALREADY_EXISTS": (409, "Secret already exists"),
        "SESSION_ALREADY_EXISTS": (409, "Session already exists"),
        "SESSION_TERMINATING": (409, "Session is terminating"),
        "SETTING_FIXED": (409, "Setting cannot be changed while the server runs"),
        "TENANT_ALREADY_EXISTS": (409, "Tenant already exists"),
        "TENANT_IN_USE": (409, "Tenant in use"),
        "UPLOAD_INCOMPLETE": (409, "Upload is not complete"),
        "UPLOAD_OFFSET_CONFLICT": (409, "Upload goes on elsewhere"),
        "USER_ALREADY_EXISTS": (409, "User already exists"),
        # unavailable
        "AGENT_CAPACITY_EXCEEDED": (503, "Agents at capacity"),
        "AGENT_DRAINING": (503, "Agent is draining"),
        "AGENT_OFFLINE": (503, "Agent is offline"),
        "NO_AGENTS_AVAILABLE": (503, "No agents available"),
        "CONNECTION_OVERTAKEN": (503, "Connection overtaken"),
        "REPOSITORY_UNAVAILABLE": (503, "Repository unavailable"),
        "OBJECTS_UNAVAILABLE": (503, "Object store unavailable"),
        "STORAGE_BUSY": (503, "Storage busy"),
        "SERVER_BUSY": (503, "Server busy"),
        "SERVER_STOPPING": (503, "Server is stopping"),
        "WORKER_CRASHED": (503, "Worker crashed"),
        "SESSION_PROVISIONING_FAILED": (500, "Session provisioning failed"),
        "INTERNAL_ERROR": (500, "Internal server error"),
    }
)


class Refusal(Exception):
    """A refused request: a stable ``code`` and a ``message`` for the caller.

    Each package's errors are subclasses with their own ``code``; :meth:`of` creates one where no class is
    needed. ``status`` is the HTTP status and ``error`` the short text, both from :data:`CODES`; ``details``
    and ``extra`` are the details and further keys of the error body, ``headers`` those of the answer.
    """

    code = "INTERNAL_ERROR"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        details: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        usual, self.error = CODES.get(self.code, (500, "Request failed"))
        self.status = status or usual
        self.details = details
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    @classmethod
    def of(cls, code: str, message: str, **details: Any) -> Refusal:
        """A refusal with this code and its status; keywords become ``details``."""
        return Refusal(message, code=code, details=details or None)


class AuthError(Refusal):
    """Authentication failed: 401, ``AUTH_TOKEN_MISSING``, ``_INVALID``, ``_EXPIRED``,
    ``AUTH_INVALID_CREDENTIALS``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, code=code, headers={"WWW-Authenticate": "Bearer"})


class RateLimited(Refusal):
    """Too many requests; the next is allowed in ``retry_after`` whole seconds."""

    code = "RATE_LIMIT_EXCEEDED"

    def __init__(self, retry_after: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            f"Too many requests. Please try again in {retry_after} seconds.",
            headers={**(headers or {}), "Retry-After": str(retry_after)},
            extra={"retry_after": retry_after},
        )
        self.retry_after = retry_after


def token_missing() -> AuthError:
    """The request has no token."""
    return AuthError("AUTH_TOKEN_MISSING", "This needs a token: Authorization: Bearer <token>")


def token_invalid() -> AuthError:
    """The token is unknown or was revoked."""
    return AuthError("AUTH_TOKEN_INVALID", "The token is not valid; log in again")


def token_expired() -> AuthError:
    """The token has expired."""
    return AuthError("AUTH_TOKEN_EXPIRED", "The token has expired; log in again")


def require(principal: Principal, action: str, project: str | None = None) -> None:
    """Raise ``AUTH_INSUFFICIENT_PERMISSIONS`` unless the principal may do this (in that project)."""
    if not principal.may(action, project):
        raise Refusal.of(
            "AUTH_INSUFFICIENT_PERMISSIONS",
            _missing_right(principal, action, project),
            required_action=action,
        )


def _missing_right(principal: Principal, action: str, project: str | None) -> str:
    allowed = [role for role in Role if role in ACTIONS.get(action, ())]
    if principal.kind == "user" and allowed and principal.role not in allowed:
        return f"{principal.name} acts with the role {principal.role}; {action} needs the role {allowed[-1]}"
    if action in FULL_TOKEN and principal.token_role is not None:
        return f"This token is limited to the role {principal.token_role}; {action} needs a login"
    if principal.token_projects is not None:
        return f"This token is limited to projects; it may not {action}{'' if project is None else ' in this one'}"
    return f"{principal.name} may not {action}{'' if project is None else ' in this project'}"
