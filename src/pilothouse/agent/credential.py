"""The agent's own token, in a file that only its user can read."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from pilothouse.agent.errors import DataDirForeign

KEY_LENGTH = 64


def credential_path(data_dir: Path) -> Path:
    return data_dir / "credential"


def load_credential(data_dir: Path, agent_id: str) -> str | None:
    """The token, None before the first registration.

    Raises DataDirForeign if the directory belongs to another agent, whose spool must not be sent under this id.
    """
    try:
        kept = json.loads(credential_path(data_dir).read_bytes())
        owner, token = str(kept["agent_id"]), str(kept["token"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None  # like a missing one: the agent registers again with a registration token
    if owner != agent_id:
        raise DataDirForeign(f"{data_dir} belongs to agent {owner}; give {agent_id} another --data-dir")
    return token


def save_credential(data_dir: Path, agent_id: str, token: str) -> None:
    """Save the token; it is on disk when this returns."""
    _write_private(credential_path(data_dir), json.dumps({"agent_id": agent_id, "token": token}))
    _key_path(data_dir).unlink(missing_ok=True)


def registration_key(data_dir: Path) -> str:
    """The idempotency key of the current registration, stored until there is a credential.

    A registration whose response was lost is repeated with the same key, also after a restart of the agent.
    """
    path = _key_path(data_dir)
    try:
        kept = path.read_text()
    except (OSError, ValueError):
        kept = ""
    if len(kept) != KEY_LENGTH or not kept.isalnum():
        kept = secrets.token_hex(KEY_LENGTH // 2)
        _write_private(path, kept)
    return kept


def _key_path(data_dir: Path) -> Path:
    return data_dir / "registration-key"


def _write_private(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(file, "w", encoding="utf-8") as writer:
        writer.write(text)
        writer.flush()
        os.fsync(file)
    draft.replace(path)
