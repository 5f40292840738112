"""The command line: what an operator types. Thin; the work is done elsewhere.

Imports of the serving half are late: `tidegate check` and `--help` need neither aiohttp nor uvloop.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from config.loader import Loaded, Overrides, find_table, load
from config.secrets import SecretStore
from proxy import __version__

_EPILOG = """\
The route table is looked for as -c FILE, $TIDEGATE_CONFIG, ./config/routes.yaml,
/etc/tidegate/routes.yaml, in this order.
"""


_KEYS_EPILOG = """\
The file is the one of --file, else the one that the table's client_keys names, else
/etc/tidegate/clients.yaml. It is replaced whole; its owner, its mode and its comments
stay, and runs at the same time wait for each other. A new file has mode 0600.

The table asks for keys by naming the file at its top level:

  middlewares:
    - client_keys: {file: /etc/tidegate/clients.yaml}

A client sends its key as Authorization: Bearer KEY, or as x-api-key: SDKs do it as they
do for OpenAI. What a client may use, and until when, is written into the file by hand:

  - name: ci
    key_sha256: "..."                                # of `tidegate keys new ci`
    allow: [kimi, "openrouter/*", review]            # routes, ROUTE/MODEL, names under models
    limits: {requests: 60/min, tokens: 200000/min, concurrent: 8}
    expires: 2027-01-01                              # over when that day begins, UTC

A server that runs takes an edit within two seconds; one with a mistake changes nothing.
"""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Wrong usage exits with 2."""
    options = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        # A terminal of another encoding gets an escape where it has no sign, and not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int = options.run(options)
    except FileNotFoundError as error:
        print(f"tidegate: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing is to be flushed to them any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidegate",
        description="A streaming reverse proxy for OpenAI-compatible APIs, described by one YAML table.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tidegate {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    serve = _command(commands, "serve", "serve the table until told to stop", _serve)
    _add_table(serve)
    serve.add_argument("--listen", metavar="ADDR", help="listen here instead, e.g. 127.0.0.1:9000")
    serve.add_argument(
        "--admin", metavar="ADDR", help="health, metrics and status here instead, e.g. 127.0.0.1:9001"
    )
    check = _command(commands, "check", "say everything that is wrong with the table; sends nothing", _check)
    check.epilog = f"docs/check.md has every code and what to do about it.\n\n{_EPILOG}"
    _add_table(check)
    check.add_argument("--strict", action="store_true", help="warnings count as errors")
    check.add_argument(
        "--no-secrets", action="store_true", help="judge the table alone: no keys, certificates, clients"
    )
    check.add_argument("--json", action="store_true", help="problems as a JSON list, for editors and CI")
    _add_explain(commands)
    _add_keys(commands)
    _command(commands, "schema", "print the JSON Schema of the table, for editors", _schema)
    _command(commands, "version", "print the version", _version)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    run: object,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=_EPILOG if name in ("serve", "check", "explain") else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_explain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands, "explain", "say what would become of a request: a dry run that sends nothing", _explain
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", type=_text, help="what a client asks for")
    _add_table(parser)
    parser.add_argument("--provider", metavar="P", type=_text, help="the route that the client names")
    parser.add_argument(
        "--path",
        metavar="PATH",
        type=_text,
        default="/v1/chat/completions",
        help="the request's path, with its query if it has one (default: %(default)s)",
    )
    parser.add_argument(
        "--body", metavar="FILE", help="the request's body, - for stdin; MODEL takes the place of its model"
    )
    parser.add_argument(
        "--header",
        metavar="NAME:VALUE",
        type=_header,
        action="append",
        default=[],
        help="a header of the client in place of an SDK's, e.g. 'User-Agent: KimiCLI/1.44'; may be repeated",
    )
    parser.add_argument(
        "--method", metavar="METHOD", type=_method, help="default: what the path is usually asked with"
    )
    parser.add_argument("--json", action="store_true", help="the explanation as a JSON object, for scripts")


def _add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "keys", "make, list and revoke the keys of clients", _keys)
    parser.epilog = _KEYS_EPILOG
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    for action, summary in (
        ("new", "make a client's key: it is printed this once, and only its SHA-256 is kept"),
        ("list", "list the clients: what they may use, their limits, when they end"),
        ("revoke", "take a client out: its key is refused within two seconds"),
    ):
        one = _command(actions, action, summary, _keys)
        one.epilog = _KEYS_EPILOG
        if action != "list":
            one.add_argument("name", metavar="NAME", type=_text, help="what the log and the metrics call it")
        one.add_argument("--file", metavar="FILE", type=_text, help="the clients file")
        _add_table(one)


def _text(given: str) -> str:
    try:
        given.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not UTF-8") from None
    return given


def _header(given: str) -> tuple[str, str]:
    name, colon, value = _text(given).partition(":")
    if not colon or not _NAME.fullmatch(name) or _CONTROL.search(value):
        # Not repeated: it may hold a key.
        raise argparse.ArgumentTypeError("write NAME:VALUE, in one line")
    return name, value.strip()


def _method(given: str) -> str:
    if not given.isascii() or not given.isalpha():
        raise argparse.ArgumentTypeError("a method is a word such as GET")
    return given.upper()


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", metavar="FILE", help="the route table")


def _table(options: argparse.Namespace) -> tuple[Path, SecretStore]:
    path = find_table(options.config, os.environ, Path.cwd())
    return path, SecretStore(os.environ, path.absolute().parent)


def _overrides(options: argparse.Namespace) -> Overrides:
    return Overrides(listen=getattr(options, "listen", None), admin=getattr(options, "admin", None))


def _serve(options: argparse.Namespace) -> int:
    from config.files import Files
    from proxy.source import Source

    path, secrets = _table(options)
    files = Files(secrets.base)
    source = Source(path, os.environ, _overrides(options), secrets)
    loaded = source.load(files)
    for problem in loaded.problems:
        print(problem, file=sys.stderr)
    if loaded.table is None:
        print("tidegate: these are errors, so nothing is served", file=sys.stderr)
        return 1
    from proxy.service import serve

    return serve(source, loaded, files)


def _explain(options: argparse.Namespace) -> int:
    from middlewares.registry import catalog

    path, secrets = _table(options)
    loaded = load(path, catalog(), environ=os.environ)
    if loaded.table is None:
        for problem in loaded.problems:
            print(problem, file=sys.stderr)
        print("tidegate: these are errors, so nothing is explained", file=sys.stderr)
        return 1
    from proxy.explain.command import run

    return run(options, loaded, loaded.table, secrets)


def _check(options: argparse.Namespace) -> int:
    from config.files import Files
    from middlewares.registry import catalog

    path, secrets = _table(options)
    with_files = not options.no_secrets
    loaded = load(
        path,
        catalog(),
        environ=os.environ,
        secrets=secrets if with_files else None,
        files=Files(secrets.base) if with_files else None,
    )
    problems = loaded.problems
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(problems), indent=2).decode())
    else:
        for problem in problems:
            print(problem)
        print(_summary(loaded))
    bad = [problem for problem in problems if problem.level == "error" or options.strict]
    return 1 if bad else 0


def _summary(loaded: Loaded) -> str:
    errors = sum(problem.level == "error" for problem in loaded.problems)
    warnings = len(loaded.problems) - errors
    counts = [_counted(n, word) for n, word in ((errors, "error"), (warnings, "warning")) if n]
    if loaded.table is None:
        return f"{loaded.file}: {', '.join(counts)}"
    table = loaded.table
    said = f"{_counted(len(table.routes), 'route')}, {_counted(len(table.models), 'name')} under models"
    return f"{loaded.file}: valid, {said}" + (f", {', '.join(counts)}" if counts else "")


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _keys(options: argparse.Namespace) -> int:
    from proxy.keys import run

    return run(options)


def _schema(_options: argparse.Namespace) -> int:
    from config.jsonschema import schema
    from middlewares.registry import catalog

    print(msgspec.json.format(msgspec.json.encode(schema(catalog())), indent=2).decode())
    return 0


def _version(_options: argparse.Namespace) -> int:
    print(f"tidegate {__version__}")
    return 0
