"""A small domain, notes, as a developer would add it: its files, and the lines it adds to existing files.

``docs/architecture.md`` ("Adding a domain") lists the same places; ``test_adding_a_domain.py`` compares.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pilothouse.storage.migrations import head

ROOT = Path(__file__).parents[2]

PACKAGE = {
    "src/pilothouse/notes/__init__.py": '"""Notes of a project."""\n',
    "src/pilothouse/notes/errors.py": '''
"""What is refused of notes."""

from pilothouse.access.errors import Refusal


class NoteNotFound(Refusal):
    code = "NOTE_NOT_FOUND"
''',
    "src/pilothouse/notes/jobs.py": '''
"""Jobs of the worker pool."""


def count_words(text: str) -> int:
    return len(text.split())
''',
    "src/pilothouse/notes/store.py": '''
"""The table of notes."""

from sqlalchemy import Column, Connection, Integer, Row, Table, Text, func, insert, select, update

from pilothouse.storage import metadata

notes = Table(
    "notes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("words", Integer, nullable=False),
    Column("archived", Integer, nullable=False),
    Column("gate", Text, nullable=False),
)


def add(conn: Connection, id: str, project: str, text: str, words: int) -> None:
    conn.execute(insert(notes).values(id=id, project=project, text=text, words=words, archived=0, gate=""))


def wait(conn: Connection, id: str, gate: str) -> None:
    conn.execute(update(notes).where(notes.c.id == id).values(gate=gate))


def find(conn: Connection, id: str) -> Row | None:
    return conn.execute(select(notes).where(notes.c.id == id)).first()


def fresh(conn: Connection) -> list[Row]:
    return list(conn.execute(select(notes).where(notes.c.archived == 0)))


def archive(conn: Connection, id: str) -> None:
    conn.execute(update(notes).where(notes.c.id == id).values(archived=1))


def count(conn: Connection) -> int:
    return conn.execute(select(func.count()).select_from(notes)).scalar_one()
''',
    "src/pilothouse/notes/gate.py": '''
"""A gate that waits until a note is archived."""

from collections.abc import Mapping
from typing import Any

from pilothouse.engine.gates.model import Gate, GateInvalid, Outcome
from pilothouse.engine.model import Run, Status
from pilothouse.notes import store
from pilothouse.storage import Tx

ARCHIVED_NOTE = "note"


class ArchivedNote:
    def opened(self, tx: Tx, run: Run, gate: Gate, args: Mapping[str, Any]) -> Outcome | None:
        note = store.find(tx.conn, args["note"])
        if note is None:
            raise GateInvalid("there is no such note")
        store.wait(tx.conn, note.id, gate.id)
        gate.message = f"until note {note.id} is archived"
        return None

    def due(self, tx: Tx, run: Run, gate: Gate) -> Outcome:
        return Outcome(Status.TIMED_OUT, "the note was not archived in time")

    def closed(self, tx: Tx, run: Run, gate: Gate) -> None:
        """Nothing is left behind."""
''',
    "src/pilothouse/notes/service.py": '''
"""The use cases of notes."""

from uuid_utils import uuid7

from pilothouse.access.model import Principal
from pilothouse.engine.gates.model import Outcome
from pilothouse.engine.gates.service import Gates
from pilothouse.engine.graph import Graph, Job, Step
from pilothouse.engine.model import Status
from pilothouse.engine.service import Engine, NewRun
from pilothouse.identity.service import Identity
from pilothouse.journal import Journal
from pilothouse.notes import store
from pilothouse.notes.gate import ARCHIVED_NOTE
from pilothouse.storage import Tx
from pilothouse.wire import entries

WRITTEN, ARCHIVED = "note.written", "note.archived"


class Notes:
    def __init__(self, journal: Journal, identity: Identity, engine: Engine, gates: Gates) -> None:
        self._journal = journal
        self._identity = identity
        self._engine = engine
        self._gates = gates

    def follow(self, tx: Tx, by: Principal, note: str) -> str:
        """A run of a kind of its own, which waits for the note."""
        project = store.find(tx.conn, note).project
        graph = Graph((Job("note", (Step("archived", gate=ARCHIVED_NOTE, args={"note": note}),)),))
        return self._engine.start(tx, by, NewRun("note", f"note {note}", project, graph)).id

    def write(self, tx: Tx, by: Principal, project: str, text: str, words: int) -> str:
        id = str(uuid7())
        store.add(tx.conn, id, project, text, words)
        body = {"note_id": id, "title": text, "by": by.name}
        self._journal.append(tx, f"note/{id}", WRITTEN, entries.project_scope(project), body)
        self._identity.audit(tx, by, "note.write", f"note/{id}")
        return id

    def archive(self, tx: Tx) -> None:
        for note in store.fresh(tx.conn):
            store.archive(tx.conn, note.id)
            body = {"note_id": note.id, "title": note.text}
            self._journal.append(tx, f"note/{note.id}", ARCHIVED, entries.project_scope(note.project), body)
            self._gates.settle(tx, note.gate, Outcome(Status.SUCCEEDED, "", {"note": note.id}))
''',
    "src/pilothouse/wire/rest/notes.py": '''
"""Notes."""

from typing import Any, ClassVar

from pilothouse.wire.rest.base import Answer, Count, Id
from pilothouse.wire.rest.bodies import Body


class WriteNote(Body):
    """A note to keep."""

    text: str

    example: ClassVar[Any] = {"text": "remember"}


class WrittenNote(Answer):
    """The ids of a new note and of the run that follows it."""

    id: Id
    run_id: Id

    example: ClassVar[Any] = {
        "id": "019a7b1e-9c0a-7c3e-9a51-0c4b8f1f2a10",
        "run_id": "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10",
    }


class Note(Answer):
    """A note and the number of its words."""

    text: str
    words: Count

    example: ClassVar[Any] = {"text": "remember", "words": 1}
''',
    "src/pilothouse/notes/http.py": '''
"""Routes of notes."""

from typing import Annotated, Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.edge.openapi import answer, errors
from pilothouse.edge.services import Database, WorkerPool, provided
from pilothouse.edge.web import Caller, Idem, allow, json_response
from pilothouse.identity.http.services import IdentityService
from pilothouse.notes import store
from pilothouse.notes.errors import NoteNotFound
from pilothouse.notes.jobs import count_words
from pilothouse.notes.service import Notes
from pilothouse.storage import Tx
from pilothouse.wire import entries
from pilothouse.wire.rest.notes import Note, WriteNote, WrittenNote

router = APIRouter(prefix="/api/v1/notes", tags=["notes"])
NotesService = Annotated[Notes, provided(Notes)]


@router.post("", dependencies=[allow("note.write")], status_code=201, responses=answer(WrittenNote, 201))
async def write_note(
    body: WriteNote, caller: Caller, idem: Idem, notes: NotesService, identity: IdentityService, pool: WorkerPool
) -> Response:
    project = await identity.project_id(caller, "")
    require(caller, "note.write", project)
    words = await pool.run(count_words, body.text, caller=caller.key)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        note = notes.write(tx, by, project, body.text, words)
        return {"id": note, "run_id": notes.follow(tx, by, note)}

    return await idem(use_case, 201, permit=lambda _, by: require(by, "note.write", project))


@router.get(
    "/{note_id}", dependencies=[allow("note.read")], responses=answer(Note) | errors("NOTE_NOT_FOUND")
)
async def show_note(note_id: str, caller: Caller, database: Database) -> Response:
    def read(conn: Connection) -> dict[str, Any]:
        note = store.find(conn, note_id)
        if note is None or not caller.sees(entries.project_scope(note.project)):
            raise NoteNotFound(f"No note with ID '{note_id}' exists")
        return {"text": note.text, "words": note.words}

    return json_response(await database.read(read))
''',
    "src/pilothouse/notes/module.py": '''
"""What notes add to the product."""

from pilothouse.edge.module import Core, Gauge, Module, Periodic, PublicEvent
from pilothouse.engine.gates.service import Gates
from pilothouse.engine.service import Engine
from pilothouse.identity.service import Identity
from pilothouse.notes import store
from pilothouse.notes.gate import ARCHIVED_NOTE, ArchivedNote
from pilothouse.notes.http import router
from pilothouse.notes.jobs import count_words
from pilothouse.notes.service import ARCHIVED, WRITTEN, Notes


def module(core: Core) -> Module:
    gates = core.service(Gates)
    gates.handle(ARCHIVED_NOTE, ArchivedNote())
    notes = Notes(core.journal, core.service(Identity), core.service(Engine), gates)
    core.provide(notes)

    async def archive() -> None:
        await core.storage.write(notes.archive)

    return Module(
        "notes",
        routers=(router,),
        streams={"note": "NOTE_NOT_FOUND"},
        events={
            WRITTEN: PublicEvent("note", "created", id="note_id", name="title"),
            ARCHIVED: PublicEvent("note", "completed", id="note_id", name="title"),
        },
        background=(Periodic("notes.archive", archive, every=0.2, exclusive=True),),
        metrics=lambda conn: [Gauge("notes", "Notes", {"": store.count(conn)})],
        jobs=(count_words,),
    )
''',
    "src/pilothouse/storage/migrations/versions/notes.py": f'''
"""Notes."""

import sqlalchemy as sa
from alembic import op

revision = "notes"
down_revision = "{head()}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notes",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("words", sa.Integer(), nullable=False),
        sa.Column("archived", sa.Integer(), nullable=False),
        sa.Column("gate", sa.Text(), nullable=False),
    )
''',
    "src/pilothouse/client/notes.py": '''
"""Notes."""

from pilothouse.client.api import Api


class Notes:
    def __init__(self, api: Api) -> None:
        self._api = api

    async def write(self, text: str) -> str:
        answer = await self._api.call("POST", "/notes", json={"text": text})
        return str(answer["id"])
''',
    "src/pilothouse/cli/note.py": '''
"""``pilot note``."""

from typing import Annotated

import typer

from pilothouse.cli.session import Group, Session, command

app = typer.Typer(cls=Group, help="Notes of a project.", no_args_is_help=True)


async def write(session: Session, text: Annotated[str, typer.Argument(help="The note.")]) -> None:
    """Write a note."""
    async with session.client() as client:
        session.out.line(await client.notes.write(text))


command(app, "write")(write)


def add_to(root: typer.Typer) -> None:
    root.add_typer(app, name="note")
''',
}
"""New files, by path."""

LINES = [
    (
        "src/pilothouse/server/graph.py",
        "import pilothouse.pipelines.module\n",
        "import pilothouse.notes.module\nimport pilothouse.pipelines.module\n",
    ),
    (
        "src/pilothouse/server/graph.py",
        "        pilothouse.pipelines.module.module(core, _pipelines(settings)),\n",
        "        pilothouse.pipelines.module.module(core, _pipelines(settings)),\n        pilothouse.notes.module.module(core),\n",
    ),
    (
        "src/pilothouse/access/model.py",
        '    "pipeline.read": (',
        '    "note.read": (Role.VIEWER, "see notes"),\n    "note.write": (Role.USER, "write notes"),\n'
        '    "pipeline.read": (',
    ),
    (
        "src/pilothouse/access/errors.py",
        '        "PIPELINE_NOT_FOUND": (',
        '        "NOTE_NOT_FOUND": (404, "Note not found"),\n        "PIPELINE_NOT_FOUND": (',
    ),
    ("src/pilothouse/storage/schema.py", f'NEWEST = "{head()}"\n', 'NEWEST = "notes"\n'),
    ("pyproject.toml", '    "pipelines",\n', '    "pipelines | notes",\n'),
    (
        "src/pilothouse/client/client.py",
        "        self.secrets = Secrets(self._api)\n",
        "        self.secrets = Secrets(self._api)\n        self.notes = Notes(self._api)\n",
    ),
    (
        "src/pilothouse/client/client.py",
        "from pilothouse.client.pipelines import",
        "from pilothouse.client.notes import Notes\nfrom pilothouse.client.pipelines import",
    ),
    (
        "src/pilothouse/cli/app.py",
        '    "secret": "secret",\n',
        '    "secret": "secret",\n    "note": "note",\n',
    ),
]
"""Changes of existing files: the file, the text that is replaced, its replacement."""


def add_domain(directory: Path) -> None:
    """Make a copy of the source tree in ``directory`` and add the domain to it."""
    shutil.copytree(ROOT / "src" / "pilothouse", directory / "src" / "pilothouse")  # with the compiled files
    shutil.copy2(ROOT / "pyproject.toml", directory)
    for path, text in PACKAGE.items():
        file = directory / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text.lstrip("\n"))
    for path, old, new in LINES:
        file = directory / path
        text = file.read_text()
        assert text.count(old) == 1, (path, old)
        file.write_text(text.replace(old, new))


def places() -> set[str]:
    """The files that the domain adds or changes, as the documentation names them."""
    named = set()
    for path in {*PACKAGE, *(path for path, _, _ in LINES)}:
        place = path.removeprefix("src/pilothouse/")
        if place.startswith("notes/"):
            place = "notes/"
        if place.startswith("storage/migrations/versions/"):
            place = "storage/migrations/versions/"
        named.add(place.replace("notes", "<domain>").replace("note", "<noun>"))
    return named
