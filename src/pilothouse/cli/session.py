"""Common options, output and server connection of commands."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer
from typer.core import TyperCommand, TyperGroup

from pilothouse.cli.context import Context, ContextStore
from pilothouse.cli.errors import NotLoggedIn
from pilothouse.cli.imports import client_imports
from pilothouse.cli.output import Format, Output, unwritten
from pilothouse.cli.values import skip_conversion

if TYPE_CHECKING:
    from pilothouse.client import PilotClient

P = ParamSpec("P")

PRODUCT = "pilot"
"""The client's user agent."""
_PANEL = "Common options"

OutputOption = Annotated[
    Format | None, typer.Option("--output", "-o", help="Output format.", rich_help_panel=_PANEL)
]
NoColorOption = Annotated[
    bool, typer.Option("--no-color", help="Disable colors; same as NO_COLOR.", rich_help_panel=_PANEL)
]
ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Server URL. [env: PILOT_SERVER]", rich_help_panel=_PANEL),
]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="API token. [env: PILOT_TOKEN]", rich_help_panel=_PANEL),
]
ContextOption = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Context. [default: current one]", rich_help_panel=_PANEL),
]


@dataclass(frozen=True, slots=True)
class Common:
    """The common options as given; ``None`` (or ``False``) if not given."""

    output: Format | None = None
    no_color: bool = False
    server: str | None = None
    token: str | None = None
    context: str | None = None

    def over(self, outer: Common) -> Common:
        """These options, with defaults from those of the parent command."""
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name))}
        return replace(outer, **given)


@dataclass(slots=True)
class Session:
    """The context of one command invocation."""

    common: Common
    out: Output
    contexts: ContextStore = field(default_factory=ContextStore)

    @classmethod
    def of(cls, common: Common) -> Session:
        """Create the session for these options."""
        return cls(common, Output(common.output or Format.TABLE, colour=not common.no_color))

    def target(self) -> Context:
        """The effective server and token: from options, environment or the saved context, in that order.

        A saved token is only sent to the server it was saved for. Raises NotLoggedIn.
        """
        from pilothouse.client import server_address

        named = self.common.context or ""
        saved = self.contexts.load().get(named or os.environ.get("PILOT_CONTEXT", ""))
        # A context given on the command line takes precedence over the environment.
        env = (lambda _name: None) if named else os.environ.get
        server = self.common.server or env("PILOT_SERVER")
        token = self._given_token("" if named else os.environ.get("PILOT_TOKEN", ""))
        if server:
            server = server_address(server)
            known = saved is not None and saved.server == server
            token = token or (_saved_token(saved) if known and saved else "")
            name = saved.name if known and saved else ""
            return Context(name, server, token, saved.grpc if known and saved else "")
        if saved is None:
            raise NotLoggedIn("no server is configured")
        return replace(saved, token=token or _saved_token(saved))

    def _given_token(self, from_environment: str) -> str:
        """The token from the option or the environment. Raises BadToken."""
        from pilothouse.client import clean_token

        given = clean_token(self.common.token or "", "the token given with --token")
        return given or clean_token(from_environment, "the token in PILOT_TOKEN")

    def client(self, *, anonymous: bool = False) -> PilotClient:
        """A client for the effective server. Raises NotLoggedIn."""
        with client_imports():
            from pilothouse.client import PilotClient

        target = self.target()
        if not target.token and not anonymous:
            raise NotLoggedIn(f"not logged in to {target.server}")
        return PilotClient(target.server, target.token, on_wait=self.out.note, product=PRODUCT)


def _saved_token(saved: Context) -> str:
    from pilothouse.client import clean_token

    return clean_token(saved.token, f"the token of the saved login {saved.name!r}")


def common_options(
    ctx: typer.Context,
    output: OutputOption = None,
    no_color: NoColorOption = False,
    server: ServerOption = None,
    token: TokenOption = None,
    context: ContextOption = None,
) -> None:
    """Stores options given before the command's name for the command."""
    ctx.obj = Common(output, no_color, server, token, context).over(ctx.obj or Common())


_COMMON = [p for p in inspect.signature(common_options, eval_str=True).parameters.values() if p.name != "ctx"]


class Group(TyperGroup):
    """A command group."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line."""
        skip_conversion(self.get_params(ctx))
        return super().parse_args(ctx, args)


class _Command(TyperCommand):
    """Help with the sections options, common options and examples."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line."""
        skip_conversion(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, options and common options."""
        parts: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], _PANEL: []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                own = "Arguments" if param.param_type_name == "argument" else "Options"
                if own == "Arguments":
                    record = (param.metavar or param.name.upper(), record[1])
                common = getattr(param, "rich_help_panel", None) == _PANEL or param.name == "help"
                parts[_PANEL if common else own].append(record)
        for title, records in parts.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """``NAME`` for required arguments, ``[NAME]`` for optional ones."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples verbatim."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def command(
    group: typer.Typer, name: str, *, options: bool = True, examples: Sequence[str] = ()
) -> Callable[[Callable[Concatenate[Session, P], Coroutine[Any, Any, None] | None]], Callable[..., None]]:
    """Register a function, which may be ``async``, as a command. Its first argument is the Session.

    ``options=False``: without ``--server``, ``--token`` and ``--context``, for commands that do not use
    or redefine them. ``examples``: command lines shown in the help.
    """
    offered = _COMMON if options else [p for p in _COMMON if p.name in ("output", "no_color")]

    def register(
        function: Callable[Concatenate[Session, P], Coroutine[Any, Any, None] | None],
    ) -> Callable[..., None]:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()

        def run(ctx: typer.Context, **given: Any) -> None:
            mine = Common(**{p.name: given.pop(p.name) for p in offered})
            try:
                outcome = function(Session.of(mine.over(ctx.obj or Common())), **given)  # type: ignore[call-arg]
                if inspect.iscoroutine(outcome):
                    import asyncio

                    asyncio.run(outcome)
            except OSError as error:
                raise unwritten(error) from None

        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *offered)]
        functools.update_wrapper(run, function)
        del run.__wrapped__  # type: ignore[attr-defined]
        run.__signature__ = inspect.Signature([context, *named])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (context, *named)}
        group.command(name, cls=_Command, epilog="\n".join(examples) or None)(run)
        return run

    return register
