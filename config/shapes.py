"""The types that fields have, as `msgspec.inspect` tells of them: what they take, how they are named."""

from __future__ import annotations

from typing import Any

from msgspec import inspect

from config import scalars
from config.document import Node, Sequence
from config.scalars import Words

LISTS = (inspect.VarTupleType, inspect.ListType, inspect.SetType, inspect.FrozenSetType)
SCALARS = (inspect.StrType, inspect.BoolType, inspect.IntType, inspect.FloatType, inspect.LiteralType)


def marker_of(wanted: inspect.Type) -> str | None:
    while isinstance(wanted, inspect.Metadata):
        if wanted.extra and "reads" in wanted.extra:
            return str(wanted.extra["reads"])
        wanted = wanted.type
    return None


def bare(wanted: inspect.Type) -> inspect.Type:
    while isinstance(wanted, inspect.Metadata):
        wanted = wanted.type
    return wanted


def read_as(words: Words, wanted: inspect.Type) -> Any:
    """The scalar as one scalar type; raises ValueError."""
    notation = marker_of(wanted)
    if notation is not None:
        return scalars.read_notation(words, notation)
    match bare(wanted):
        case inspect.StrType():
            return scalars.read_text(words)
        case inspect.BoolType():
            return scalars.read_boolean(words)
        case inspect.IntType():
            return scalars.read_integer(words)
        case inspect.FloatType():
            return scalars.read_number(words)
        case inspect.LiteralType(values=values):
            return scalars.read_literal(words, values)
        case inspect.AnyType():
            return scalars.read_any(words)
        case inspect.NoneType() if words.kind == "null":
            return None
        case other:
            raise TypeError(f"no option can have the type {other}")


def eagerness(wanted: inspect.Type) -> int:
    """In a union the narrow types come first, and text last."""
    if isinstance(wanted, inspect.LiteralType):
        return 0
    return 2 if isinstance(bare(wanted), inspect.StrType) and not marker_of(wanted) else 1


def takes(node: Node, wanted: inspect.Type) -> bool:
    marker, inner = marker_of(wanted), bare(wanted)
    if marker is not None:
        return marker in {"chain", "targets"} and isinstance(node, Sequence)
    if isinstance(node, Sequence):
        return isinstance(inner, (*LISTS, inspect.AnyType))
    return isinstance(inner, inspect.StructType | inspect.DictType | inspect.AnyType)


def described(wanted: inspect.Type) -> str:
    marker = marker_of(wanted)
    if marker in scalars.NOTATIONS:
        return scalars.NOTATIONS[marker][0]
    match bare(wanted):
        case inspect.StrType():
            return "text"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number"
        case inspect.FloatType():
            return "a number"
        case inspect.NoneType():
            return "null"
        case inspect.LiteralType(values=values):
            return scalars.either(map(str, values))
        case inspect.StructType() | inspect.DictType():
            return "a mapping"
        case inner:
            return "a list" if isinstance(inner, LISTS) else "a value"


def names_of(wanted: inspect.StructType) -> list[str]:
    return [field.encode_name for field in wanted.fields]
