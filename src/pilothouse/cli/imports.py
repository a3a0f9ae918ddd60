"""How commands import what is large: without parts of libraries that are never used."""

from __future__ import annotations

import contextlib
import gc
import sys
import warnings
from collections.abc import Iterator

_UNUSED = ("rich", "better_exceptions", "greenlet", "pydantic.v1", "grpc_tools")
"""What structlog, SQLAlchemy, FastAPI and gRPC import if it is installed: for tracebacks with local variables,
another kind of concurrency, models of an older Pydantic, the compiler of protobuf. Our processes need none."""
GRPC_SERVICES = ("grpc_health", "grpc_reflection")
"""What gRPC also imports, and only a server uses."""


@contextlib.contextmanager
def process_imports(*more: str) -> Iterator[None]:
    """For the imports of a process that runs for long, a server or an agent.

    ``more``: further modules that it does without. The garbage collector is off meanwhile, and does not look at the
    modules later: to traverse them again and again is a tenth of a server's start.
    """
    gc.disable()
    try:
        with _absent(*_UNUSED, *more):
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def deferred_models() -> Iterator[None]:
    """Pydantic's models that are defined here get their validators when they are first used.

    FastAPI has forty for its document alone, which is made when it is first asked for.
    """
    from pydantic import BaseModel
    from pydantic.warnings import UnsupportedFieldAttributeWarning

    # FastAPI silences this warning about its own models where it defines them; they are built later here.
    warnings.simplefilter("ignore", UnsupportedFieldAttributeWarning)
    BaseModel.model_config["defer_build"] = True
    try:
        yield
    finally:
        del BaseModel.model_config["defer_build"]


@contextlib.contextmanager
def client_imports() -> Iterator[None]:
    """For the import of httpx: without its command line and the three packages that needs."""
    with _absent("httpx._main"):
        yield


@contextlib.contextmanager
def _absent(*names: str) -> Iterator[None]:
    """Imports find these modules missing, as if they were not installed, unless they are already imported."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python marks them
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
