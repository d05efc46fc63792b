"""The statements of the hot path, built once for each shape and not once for each use.

For a statement that reads or writes one row, Django's building of it costs several times what
the database takes to answer. These say the same as the ORM, on the same fields, for the few
shapes that every reconciled instance needs. A condition is an equality, or, where a tuple is
given, one of its values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import psycopg
from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.models import Field, Model, QuerySet

Row = TypeVar("Row", bound=Model)

Conditions = Mapping[str, Any]
_Shape = tuple[tuple[str, int | None], ...]
"""For each condition its field and, where it is a tuple, of how many values."""


def find(model: type[Row], *related: str, **conditions: Any) -> Row | None:
    """Return the one row that meets the conditions, or None.

    Args:
        model: of which table.
        related: foreign keys, none of them null, whose rows come by the same statement.
        conditions: by field; they must be such that one row at most meets them.
    """
    sql, builders = _select(model, related, _shape_of(conditions))
    with _cursor() as cursor:
        cursor.execute(sql, _adapted(model, conditions))
        values = cursor.fetchone()
    if values is None:
        return None
    row, *others = [build(values) for build in builders]
    for name, other in zip(related, others, strict=True):
        setattr(row, name, other)
    assert isinstance(row, model)
    return row


def find_all(model: type[Row], **conditions: Any) -> list[Row]:
    """Return the rows that meet the conditions, in any order."""
    sql, (build,) = _select(model, (), _shape_of(conditions))
    with _cursor() as cursor:
        cursor.execute(sql, _adapted(model, conditions))
        rows = [build(values) for values in cursor.fetchall()]
    return [row for row in rows if isinstance(row, model)]


def delete(model: type[Model], **conditions: Any) -> None:
    """Delete the rows that meet the conditions; no other row may point to them."""
    where = _where(model, _shape_of(conditions))
    with _cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {_quoted(model._meta.db_table)} WHERE {where}",
            _adapted(model, conditions),
        )


def plain(query: "QuerySet[Any, tuple[Any, ...]]") -> list[tuple[Any, ...]]:
    """Return the rows of a ``values_list`` as the driver gives them, with nothing made of them."""
    sql, parameters = query.query.sql_with_params()
    with _cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


def exists(model: type[Model], **conditions: Any) -> bool:
    """Return whether any row meets the conditions."""
    where = _where(model, _shape_of(conditions))
    with _cursor() as cursor:
        cursor.execute(
            f"SELECT 1 FROM {_quoted(model._meta.db_table)} WHERE {where} LIMIT 1",
            _adapted(model, conditions),
        )
        return cursor.fetchone() is not None


def is_free(model: type[Model], **conditions: Any) -> bool:
    """Return whether a row that meets the conditions is there, and nobody is at work on it.

    Where the database has but one writer nobody can be.
    """
    where = _where(model, _shape_of(conditions))
    skips = connection.features.has_select_for_update_skip_locked
    with _cursor() as cursor:
        cursor.execute(
            f"SELECT 1 FROM {_quoted(model._meta.db_table)} WHERE {where} LIMIT 1"
            + (" FOR UPDATE SKIP LOCKED" if skips else ""),
            _adapted(model, conditions),
        )
        return cursor.fetchone() is not None


def update(model: type[Model], values: Mapping[str, Any], **conditions: Any) -> int:
    """Set ``values`` in the rows that meet the conditions, and return how many do."""
    with _cursor() as cursor:
        cursor.execute(
            _update(model, tuple(values), _shape_of(conditions)),
            [*_adapted(model, values), *_adapted(model, conditions)],
        )
        return int(cursor.rowcount)


def update_each(
    model: type[Model], changes: Sequence[tuple[Mapping[str, Any], Conditions]]
) -> None:
    """Do several updates of one shape, in one exchange with the database.

    Args:
        model: of which table.
        changes: for each update its values and its conditions.
    """
    values, conditions = changes[0]
    with _cursor() as cursor:
        cursor.executemany(
            _update(model, tuple(values), _shape_of(conditions)),
            [[*_adapted(model, them), *_adapted(model, where)] for them, where in changes],
        )


def insert(rows: Sequence[Model]) -> None:
    """Insert rows of one model, which learn nothing of their keys."""
    if not rows:
        return
    model = type(rows[0])
    fields = _insertable(model)
    names = ", ".join(_quoted(field.column) for field in fields)
    each = f"({', '.join(['%s'] * len(fields))})"
    with _cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {_quoted(model._meta.db_table)} ({names})"
            f" VALUES {', '.join([each] * len(rows))}",
            [
                field.get_db_prep_save(getattr(row, field.attname), connection)
                for row in rows
                for field in fields
            ],
        )


def upsert(rows: Sequence[Model], keys: Sequence[str], names: Sequence[str]) -> None:
    """Insert rows; where one with its keys is there, set only what is named in that.

    Args:
        rows: of one model, at least one; they learn nothing of their keys.
        keys: the fields of a unique constraint.
        names: the fields that are set all the same.
    """
    model = type(rows[0])
    fields = _insertable(model)
    with _cursor() as cursor:
        cursor.executemany(
            _upsert(model, tuple(keys), tuple(names)),
            [
                [it.get_db_prep_save(getattr(row, it.attname), connection) for it in fields]
                for row in rows
            ],
        )


@contextmanager
def _cursor() -> Iterator[CursorWrapper]:
    """Open a cursor whose statements PostgreSQL plans once a connection, and not at each use.

    Django's own writes the parameters into the text, so that no two statements are alike.
    """
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.cursor = psycopg.Cursor(connection.connection)
        yield cursor


Builder = Callable[[Sequence[Any]], Model]


@cache
def _select(model: type[Model], related: Sequence[str], shape: _Shape) -> tuple[str, list[Builder]]:
    table = _quoted(model._meta.db_table)
    columns, builders = _columns(model, 0)
    joins = ""
    for name in related:
        key = _field(model, name)
        other = key.related_model
        assert isinstance(other, type)
        more, build = _columns(other, len(columns))
        columns += more
        builders += build
        its = _quoted(other._meta.db_table)
        joins += (
            f" JOIN {its} ON {its}.{_quoted(other._meta.pk.column)} = {table}.{_quoted(key.column)}"
        )
    where = _where(model, shape)
    return f"SELECT {', '.join(columns)} FROM {table}{joins} WHERE {where}", builders


def _columns(model: type[Model], start: int) -> tuple[list[str], list[Builder]]:
    """Return a model's columns, and what builds it from a row that has them from ``start`` on."""
    table = _quoted(model._meta.db_table)
    fields = model._meta.concrete_fields
    names = [field.attname for field in fields]
    compiler = model._base_manager.all().query.get_compiler(connection=connection)
    read = compiler.get_converters([field.get_col(model._meta.db_table) for field in fields])

    def build(values: Sequence[Any]) -> Model:
        mine = list(values[start : start + len(names)])
        for place, (converters, column) in read.items():
            for convert in converters:
                mine[place] = convert(mine[place], column, connection)
        return model.from_db(connection.alias, names, mine)

    return [f"{table}.{_quoted(field.column)}" for field in fields], [build]


@cache
def _update(model: type[Model], names: Sequence[str], shape: _Shape) -> str:
    sets = ", ".join(f"{_quoted(_field(model, name).column)} = %s" for name in names)
    return f"UPDATE {_quoted(model._meta.db_table)} SET {sets} WHERE {_where(model, shape)}"


@cache
def _upsert(model: type[Model], keys: Sequence[str], names: Sequence[str]) -> str:
    columns = [_quoted(field.column) for field in _insertable(model)]
    sets = (_quoted(_field(model, name).column) for name in names)
    return (
        f"INSERT INTO {_quoted(model._meta.db_table)} ({', '.join(columns)})"
        f" VALUES ({', '.join(['%s'] * len(columns))})"
        f" ON CONFLICT ({', '.join(_quoted(_field(model, key).column) for key in keys)})"
        f" DO UPDATE SET {', '.join(f'{it} = EXCLUDED.{it}' for it in sets)}"
    )


@cache
def _insertable(model: type[Model]) -> "Sequence[Field[Any, Any]]":
    return [field for field in model._meta.concrete_fields if not field.primary_key]


@cache
def _where(model: type[Model], shape: _Shape) -> str:
    table = _quoted(model._meta.db_table)
    return " AND ".join(
        f"{table}.{_quoted(_field(model, name).column)} "
        + ("= %s" if count is None else f"IN ({', '.join(['%s'] * count)})")
        for name, count in shape
    )


def _shape_of(conditions: Conditions) -> _Shape:
    return tuple(
        (name, len(value) if isinstance(value, tuple) else None)
        for name, value in conditions.items()
    )


def _adapted(model: type[Model], values: Mapping[str, Any]) -> list[Any]:
    adapted: list[Any] = []
    for name, value in values.items():
        adapt = _field(model, name).get_db_prep_save
        several = value if isinstance(value, tuple) else (value,)
        adapted += [adapt(one, connection) for one in several]
    return adapted


@cache
def _field(model: type[Model], name: str) -> "Field[Any, Any]":
    field = model._meta.pk if name == "pk" else model._meta.get_field(name)
    assert isinstance(field, Field)
    return field


def _quoted(name: str | None) -> str:
    assert name is not None
    return str(connection.ops.quote_name(name))
