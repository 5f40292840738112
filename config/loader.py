"""From a file to a `Loaded` table, or to every problem that it has, at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from config.catalog import Catalog
from config.problems import Mark, Problem
from config.schema import Table
from config.secrets import SecretStore
