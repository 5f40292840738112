"""Which route serves a request: the seven rules, first match wins.

Pure: it is given what the request says and answers with a `Choice`, so that a dry run takes the same
way. An `explicit_only` route can be reached only by the rules in which a client names it; the others
are built without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from config.globs import LONGEST, is_glob, matches
from config.schema import Table
from config.suggestions import is_near_miss, near_names
from middlewares.exchange import Rung
from middlewares.faults import ClientFault

Rule = Literal["path", "header", "provider", "models", "prefix", "serves", "default_route"]
RULES: tuple[Rule, ...] = get_args(Rule)
"""In their order."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the rules decided. `name` is the ladder or alias under `models`, if it was one."""

    rule: Rule
    rungs: tuple[Rung, ...]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """What a request says about where it wants to go."""

    path: str | None = None
    header: str | None = None
    provider: str | None = None
    model: str | None = None


class Router:
    """The rules, read once from a table."""

    def __init__(self, table: Table) -> None:
        self._routes = frozenset(table.routes)
        self._models = {
            name: tuple(Rung(target.partition("/")[0], target) for target in targets)
            for name, targets in table.models.items()
        }
        serves = {name: route.serves for name, route in table.routes.items() if not route.explicit_only}
        self._exact = _claims(serves, globs=False)
        self._globs = tuple(_claims(serves, globs=True).items())
        self._default = table.default_route if table.default_route in serves else None

    def choose(self, named: Named) -> Choice:
        """The first rule that matches; ClientFault `model_not_found` or `invalid_request` if none does."""
        for rule in RULES:
            if (choice := self.apply(rule, named)) is not None:
                return choice
        if named.model is None:
            raise ClientFault(
                "invalid_request", "No model is named, and there is no default route.", param="model"
            )
        raise self._unknown_model(named.model)

    def apply(self, rule: Rule, named: Named) -> Choice | None:
        """What one rule says, whatever the others do; ClientFault for a route that does not exist."""
        match rule:
            case "path":
                return self._by_name(rule, named.path)
            case "header":
                return self._by_name(rule, named.header)
            case "provider":
                return self._by_name(rule, named.provider)
            case "default_route":
                return self._by_default(named.model)
            case _ if named.model is None:
                return None
            case "models":
                rungs = self._models.get(named.model)
                return None if rungs is None else Choice(rule, rungs, name=named.model)
            case "prefix":
                first, slash, _ = named.model.partition("/")
                return Choice(rule, (Rung(first),)) if slash and first in self._routes else None
            case "serves":
                route = self._serving(named.model)
                return None if route is None else Choice(rule, (Rung(route),))

    def _by_name(self, rule: Rule, route: str | None) -> Choice | None:
        if route is None:
            return None
        if route not in self._routes:
            raise self._unknown_route(rule, route)
        return Choice(rule, (Rung(route),))

    def _by_default(self, model: str | None) -> Choice | None:
        if self._default is None or (model is not None and self._meant_a_route(model.partition("/")[0])):
            return None
        return Choice("default_route", (Rung(self._default),))

    def _serving(self, model: str) -> str | None:
        if (route := self._exact.get(model)) is not None:
            return route
        if len(model) > LONGEST:
            return None
        return next((route for glob, route in self._globs if matches(glob, model)), None)

    def _meant_a_route(self, first: str) -> bool:
        """A slip for a route's name, or the name alone: not to be sent to a stranger."""
        return first in self._routes or is_near_miss(first, self._routes)

    def _unknown_route(self, rule: Rule, route: str) -> ClientFault:
        near = _did_you_mean(near_names(route, sorted(self._routes)))
        if not route:
            near = " Leave it out, or name one."
        where = {"path": "The path", "header": "x-tidegate-provider"}.get(rule, "provider")
        return ClientFault(
            "model_not_found",
            f"{where} names the route {_cut(route)!r}, which does not exist.{near}",
            param="x-tidegate-provider" if rule == "header" else rule,
        )

    def _unknown_model(self, model: str) -> ClientFault:
        first, _, rest = model.partition("/")
        names = [*self._models, *self._exact]
        near = near_names(model, names)
        near += [
            f"{route}/{rest or '<model>'}"
            for route in ([first] if first in self._routes else near_names(first, sorted(self._routes)))
        ]
        return ClientFault(
            "model_not_found",
            f"No route serves the model {_cut(model)!r}.{_did_you_mean(near[:3])} "
            "Name one as ROUTE/MODEL; GET /v1/models lists them.",
            param="model",
        )


def _claims(serves: Mapping[str, tuple[str, ...]], *, globs: bool) -> dict[str, str]:
    return {claim: route for route, claims in serves.items() for claim in claims if is_glob(claim) == globs}


def _did_you_mean(names: list[str]) -> str:
    return f" Did you mean {' or '.join(repr(_cut(name)) for name in names)}?" if names else ""


def _cut(name: str) -> str:
    return name if len(name) <= 80 else name[:77] + "..."
