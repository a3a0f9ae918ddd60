"""Jobs of the worker pool of notifications: e-mail over SMTP, and chat messages through the apprise library.

Both block, and the second is a large import, so they run in child processes, which can be killed. Results are
``kind`` (:data:`DELIVERED`, :data:`AGAIN`, :data:`NEVER`), the code of the receiver's answer (0: none) and a reason
without anything secret.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate
from importlib import import_module
from typing import Any

from pilothouse.pipelines.notifications.chat_services import service_of
from pilothouse.pipelines.notifications.guard import Guard, Refused

DELIVERED, AGAIN, NEVER = "delivered", "again", "never"

Result = tuple[str, int, str]

TIMEOUT = 10.0
"""Seconds for each step of a conversation."""

MAX_SAID = 300
"""Characters of what a mail server says, as part of a reason."""


def email_job(server: dict[str, Any], to: list[str], subject: str, text: str, message_id: str) -> Result:
    """Send an e-mail. ``server``: ``host``, ``port``, ``tls`` (``starttls``, ``tls``, ``none``), ``user``,
    ``password``, ``sender``, ``ca`` (PEM texts, empty: those of the system)."""
    import smtplib

    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = server["sender"], ", ".join(to), subject
    message["Date"], message["Message-ID"] = formatdate(), message_id
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text + "\n")
    try:
        with _connected(server) as smtp:
            refused = smtp.send_message(message, from_addr=server["sender"], to_addrs=to)
    except smtplib.SMTPRecipientsRefused as error:
        return _said(max(code for code, _ in error.recipients.values()), "no recipient was accepted")
    except smtplib.SMTPAuthenticationError as error:
        return _said(error.smtp_code, "the mail server refused the user name and password")
    except smtplib.SMTPResponseException as error:
        return _said(error.smtp_code, f"the mail server said: {_plain(error.smtp_error)}")
    except smtplib.SMTPNotSupportedError:
        return NEVER, 0, "the mail server does not support the TLS mode or the login of the settings"
    except smtplib.SMTPException as error:
        return AGAIN, 0, f"the mail server broke off the conversation ({type(error).__name__})"
    except (OSError, ValueError) as error:
        return AGAIN, 0, f"the mail server cannot be reached: {_os_error(error)}"
    if refused:  # repeating it would send it again to the others
        return DELIVERED, 250, f"{len(refused)} of {len(to)} recipients were refused by the mail server"
    return DELIVERED, 250, ""


def _connected(server: dict[str, Any]) -> Any:
    """A connection with TLS as configured, logged in where there is a user."""
    import smtplib

    host, port = server["host"], server["port"]
    context = ssl.create_default_context(cadata=server["ca"] or None)
    if server["tls"] == "tls":
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=TIMEOUT, context=context)
    else:
        smtp = smtplib.SMTP(host, port, timeout=TIMEOUT)
    try:
        if server["tls"] == "starttls":
            smtp.starttls(context=context)
        if server["user"]:
            smtp.login(server["user"], server["password"])
    except BaseException:
        smtp.close()
        raise
    return smtp


def _said(code: int, reason: str) -> Result:
    """Codes from 500 on are final."""
    return (NEVER if code >= 500 else AGAIN), code, f"{reason} ({code})"


def _plain(said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return text[:MAX_SAID]


def _os_error(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return getattr(error, "strerror", None) or type(error).__name__


# -- chat -----------------------------------------------------------------------------------------------


def chat_job(address: str, title: str, text: str, allowed: list[str], schemes: list[str]) -> Result:
    """Send a message to the chat that an address of apprise names. ``allowed``, ``schemes``: the settings
    ``notify_allow`` and ``notify_schemes``."""
    found = service_of(address, schemes)
    if found is None:
        return NEVER, 0, "the secret does not hold an address of a chat service, such as slack://…"
    module, name, plain = found
    with _Network(Guard.of(allowed), plain) as network:
        try:
            plugin = _plugin(module, name, address)
            if plugin is None:
                return NEVER, 0, f"the secret does not hold a valid address of {module}"
            delivered = bool(plugin.notify(body=text, title=title))
        except Refused as error:
            return NEVER, 0, str(error)
        except Exception as error:
            return AGAIN, network.code, network.reason or f"the message failed ({type(error).__name__})"
    if delivered:
        return DELIVERED, network.code, ""
    reason = network.reason or (f"the service answered {network.code}" if network.code else "no answer")
    return (NEVER if network.refused else AGAIN), network.code, reason


def _plugin(module: str, name: str, address: str) -> Any:
    """The part of apprise for an address; ``None`` if it is not a valid one."""
    import logging

    import apprise

    logging.getLogger("apprise").disabled = True  # it logs addresses
    # Neither files of this machine nor other addresses become part of a message.
    apprise.AppriseAttachment.instantiate = staticmethod(lambda *_, **__: None)  # type: ignore[method-assign]
    service = getattr(import_module(f"apprise.plugins.{module}"), name)
    given = service.parse_url(address.strip().replace("/#", "/%23"))
    if not given or given.get("template"):
        return None
    given["asset"] = apprise.AppriseAsset(secure_logging=True)
    try:
        return service(**given)
    except (TypeError, ValueError, apprise.exception.AppriseException):
        return None


class _Network:
    """A context in which this process only connects to allowed addresses, over https unless ``plain``, without
    following redirects. Notes the ``code`` of the last answer and why there was none (``reason``)."""

    def __init__(self, guard: Guard, plain: bool) -> None:
        self.code, self.reason, self.refused = 0, "", False
        self._guard = guard
        self._plain = plain

    def __enter__(self) -> _Network:
        import requests

        self._resolve: Callable[..., Any] = socket.getaddrinfo
        self._session = requests.Session
        self._request: Callable[..., Any] = requests.Session.request
        socket.getaddrinfo = self._resolved
        network, request = self, self._request

        def guarded(session: Any, method: str, url: str, **options: Any) -> Any:
            return network._requested(request, session, method, url, options)

        requests.Session.request = guarded  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        socket.getaddrinfo = self._resolve
        self._session.request = self._request  # type: ignore[method-assign]

    def _resolved(self, host: Any, *args: Any, **options: Any) -> Any:
        found = self._resolve(host, *args, **options)
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
        try:
            for _, _, _, _, address in found:
                self._guard.check(name, address[0])
        except Refused as error:
            self.reason, self.refused = str(error), True
            raise
        return found

    def _requested(
        self, request: Callable[..., Any], session: Any, method: str, url: str, options: dict[str, Any]
    ) -> Any:
        import requests

        if not self._plain and not url.lower().startswith("https://"):
            self.reason, self.refused = "the service is not addressed over https", True
            raise Refused(self.reason)
        session.trust_env = False
        timeout = options.get("timeout")
        limits = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        options |= {
            "allow_redirects": False,
            "timeout": tuple(min(each or TIMEOUT, TIMEOUT) for each in limits),
        }
        try:
            answer = request(session, method, url, **options)
        except requests.Timeout:
            self.reason = "the service does not answer"
            raise
        except requests.exceptions.SSLError:
            self.reason = "the service has no valid certificate"
            raise
        except requests.RequestException:
            self.reason = self.reason or "the service cannot be reached"
            raise
        self.code, self.reason = answer.status_code, ""
        return answer
