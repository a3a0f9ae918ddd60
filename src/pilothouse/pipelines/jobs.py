"""Jobs of the worker pool: specs that callers send are parsed, checked and compiled here.

Every worker imports this module: it and what it imports know nothing of HTTP and databases. Sources and results are
bytes (:mod:`pilothouse.pipelines.compiler` is the server's side), since JSON between processes can hold neither half
characters nor large integers, and callers may send both.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import orjson

from pilothouse.engine.names import names_to_json
from pilothouse.pipelines.compile import compile_spec
from pilothouse.pipelines.compiled import Spec, SpecSource, compile_source, names_in, read_spec
from pilothouse.pipelines.spec.canonical import triggers_to_json
from pilothouse.pipelines.spec.places import located
from pilothouse.pipelines.spec.problems import SpecError, SpecProblem
from pilothouse.wire.json_bounds import MAX_VALUES, BoundExceeded, check_values, most_values
from pilothouse.wire.specs import EncodedSpec

DONE, INVALID, NOT_UNICODE, REFUSED = "done", "invalid", "not unicode", "refused"
"""The first value of every result. After INVALID follow the problems (:func:`problems_from_json`), after REFUSED the
reason."""

Outcome = tuple[str | bytes, ...]


def compile_job(form: str, source: bytes, file: str) -> Outcome:
    """Check and compile a spec (:func:`encoded_source`): canonical spec, graph, names and triggers, as JSON texts; of
    an object then its indented JSON."""
    try:
        compiled = compile_source(_decoded(form, source), file)
        text = b"" if compiled.written else compiled.text.encode()
        made = (compiled.spec, compiled.graph, compiled.names, compiled.triggers)
        return (DONE, *(part.encode() for part in made), text)
    except SpecError as error:
        return INVALID, problems_to_json(error.problems)
    except (UnicodeEncodeError, orjson.JSONEncodeError):
        return NOT_UNICODE, b""


def check_job(form: str, source: bytes, file: str) -> Outcome:
    """Check a spec: the number of its jobs, and the warnings (:func:`problems_from_json`)."""
    try:
        parsed = read_spec(_decoded(form, source), file)
    except SpecError as error:
        return INVALID, problems_to_json(error.problems)
    return DONE, json.dumps(len(parsed.spec.jobs)).encode(), problems_to_json(parsed.warnings)


def check_names_job(form: str, source: bytes, file: str) -> Outcome:
    """As :func:`check_job`; then the spec's variables, ``names_to_json`` and the triggers, as JSON."""
    try:
        parsed = read_spec(_decoded(form, source), file)
    except SpecError as error:
        return INVALID, problems_to_json(error.problems)
    names = json.dumps(names_to_json(names_in(parsed))).encode()
    variables = json.dumps(dict(compile_spec(parsed.spec).variables)).encode()
    count = json.dumps(len(parsed.spec.jobs)).encode()
    triggers = json.dumps(triggers_to_json(parsed.spec)).encode()
    return DONE, count, problems_to_json(parsed.warnings), variables, names, triggers


def locate_job(problems: bytes, text: bytes, file: str) -> bytes:
    """The problems, with line and column as far as their paths lead to a place of the spec's text."""
    error = SpecError(problems_from_json(problems), file)
    return problems_to_json(located(error, text.decode("utf-8", "surrogatepass"), file).problems)


def split_job(body: bytes) -> Outcome:
    """Split a request's body: its JSON without ``spec``, then form and source of the spec (empty without one)."""
    try:
        found = json.loads(body)
        if not isinstance(found, dict):
            return REFUSED, b"The body is not an object"
        check_values(found)
    except BoundExceeded as error:
        return REFUSED, str(error).encode()
    except RecursionError:
        return REFUSED, b"The body is nested too deeply"
    except ValueError:
        return REFUSED, b"The body is not valid JSON"
    spec = found.pop("spec", None)
    rest = json.dumps(found).encode()
    if most_values(rest) > MAX_VALUES:
        return REFUSED, f"The body has more than {MAX_VALUES} values beside its spec".encode()
    if spec is None:
        return DONE, rest, "", b""
    if not isinstance(spec, str | dict):
        return REFUSED, b"spec: it is neither a text nor an object"
    return DONE, rest, *encoded_source(spec)


def encoded_source(source: Spec) -> tuple[str, bytes]:
    """A spec as the arguments ``form`` and ``source`` of a job. Raises RecursionError."""
    if isinstance(source, EncodedSpec):
        return source.form, source.data
    if isinstance(source, str):
        return "text", source.encode("utf-8", "surrogatepass")
    try:
        return "object", orjson.dumps(source)
    except orjson.JSONEncodeError:  # deep nesting, half characters, large integers
        return "object", json.dumps(source).encode()


def written_text(source: Spec) -> str | None:
    """The spec's text, if its caller has sent it as text."""
    if isinstance(source, EncodedSpec):
        return source.data.decode("utf-8", "surrogatepass") if source.form == "text" else None
    return source if isinstance(source, str) else None


def _decoded(form: str, source: bytes) -> SpecSource:
    if form == "text":
        return source.decode("utf-8", "surrogatepass")
    found: SpecSource = json.loads(source)
    return found


def problems_to_json(problems: tuple[SpecProblem, ...]) -> bytes:
    """Problems as JSON; :func:`problems_from_json` gives them back."""
    return json.dumps([asdict(problem) for problem in problems]).encode()


def problems_from_json(text: bytes) -> tuple[SpecProblem, ...]:
    """Reads what :func:`problems_to_json` wrote."""
    return tuple(SpecProblem(**problem) for problem in json.loads(text))
