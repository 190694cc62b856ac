"""Conversations in one SQLite file: the tables that Chainlit's own SQLAlchemy layer expects. Runs in .venv-chat."""

import sqlite3
from pathlib import Path

from chainlit.data.sql_alchemy import SQLAlchemyDataLayer
from chainlit.element import ElementDict
from chainlit.step import StepDict
from chainlit.types import FeedbackDict, ThreadDict

USER = ("id", "identifier", "createdAt", "metadata")
TABLES = {
    "users": USER,
    "threads": tuple(name for name in ThreadDict.__annotations__ if name not in ("steps", "elements")),
    "steps": tuple(name for name in StepDict.__annotations__ if name != "feedback"),
    "elements": tuple(ElementDict.__annotations__),
    "feedbacks": tuple(FeedbackDict.__annotations__),
}
"""Columns from Chainlit's own types, so that a newer Chainlit that stores more finds its columns."""


def open_history(file: Path) -> SQLAlchemyDataLayer:
    """The data layer over ``file``, which is made where it is missing and given columns that it lacks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA journal_mode=WAL")
        for table, columns in TABLES.items():
            database.execute(f'CREATE TABLE IF NOT EXISTS {table} ("id" TEXT PRIMARY KEY)')
            there = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
            for column in columns:
                if column not in there:
                    database.execute(f'ALTER TABLE {table} ADD COLUMN "{column}"')
        database.execute('CREATE INDEX IF NOT EXISTS steps_of_thread ON steps ("threadId")')
    database.close()
    file.chmod(0o600)  # what people wrote is theirs
    return SQLAlchemyDataLayer(f"sqlite+aiosqlite:///{file}")
