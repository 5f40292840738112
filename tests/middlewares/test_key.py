from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from config.catalog import Scene
from config.problems import Invalid
from config.secrets import SecretStore
from middlewares.exchange import Deps
from middlewares.faults import Refusal
from middlewares.key import Key, Options, Source
from tests.middlewares.fakes import FakeNext, deps_of, exchange_of

A, B, C = "sk-canary-aaaaaaaaaaaaaaaa", "sk-canary-bbbbbbbbbbbbbbbb", "sk-canary-cccccccccccccccc"
KIMI = "sk-kimi-canary-0123456789"
SCENE = Scene("kimi", "api.example.com", ())


def key_of(options: object, environ: Mapping[str, str], *, host: str = "") -> Key:
    return Key(msgspec.convert(options, Options), deps_of(host=host, environ=environ))


async def carried(key: Key, *, path: str = "/chat/completions") -> list[tuple[str, str]]:
    exchange = exchange_of(path=path, headers=[("Accept", "*/*")])
    await key(exchange, FakeNext())
    return [(name, value) for name, value in exchange.headers.items() if name != "Accept"]


async def keys_in_turn(key: Key, times: int) -> list[str]:
    return [(await carried(key))[0][1].removeprefix("Bearer ") for _ in range(times)]


@pytest.mark.parametrize(
    ("options", "path", "header"),
    [
        ({}, "/chat/completions", ("Authorization", f"Bearer {A}")),
        ({}, "/responses", ("Authorization", f"Bearer {A}")),
        ({}, "/embeddings", ("Authorization", f"Bearer {A}")),
        ({}, "/messages", ("x-api-key", A)),
        ({}, "/messages/count_tokens", ("x-api-key", A)),
        ({"header": "auto"}, "/messages", ("x-api-key", A)),
        ({"header": "Authorization"}, "/messages", ("Authorization", f"Bearer {A}")),
        ({"header": "authorization"}, "/responses", ("authorization", f"Bearer {A}")),
        ({"header": "x-api-key"}, "/chat/completions", ("x-api-key", A)),
        ({"header": "X-Goog-Api-Key"}, "/messages", ("X-Goog-Api-Key", A)),
    ],
)
async def test_the_key_goes_up_in_the_header_that_the_endpoint_takes(options, path, header):
    key = key_of({"env": "A", **options}, {"A": A})
    assert await carried(key, path=path) == [header]


async def test_a_header_of_the_same_name_is_replaced_and_the_client_s_credential_stays_behind():
    exchange = exchange_of(
        headers=[("authorization", "Bearer set-before")], credentials=[("Authorization", "Bearer theirs")]
    )
    await key_of({"env": "A"}, {"A": A})(exchange, FakeNext())
    assert exchange.headers.getall("Authorization") == [f"Bearer {A}"]


async def test_the_environment_comes_before_the_credential_and_the_credential_before_the_file(tmp_path):
    (tmp_path / "kimi").write_text(B)
    file = tmp_path / "kimi.env"
    file.write_text(f"KEY={C}\n")
    file.chmod(0o600)
    source = Source(env="KEY", credential="kimi", file="kimi.env")
    both = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    found = []
    for environ in ({**both, "KEY": A}, both, {}):
        secrets = SecretStore(environ, tmp_path)
        found += await keys_in_turn(Key(source, Deps("kimi", "", secrets, "")), 1)
    assert found == [A, B, C]


async def test_several_sources_are_used_in_turn():
    key = key_of([{"env": "A"}, {"env": "B"}, {"env": "C"}], {"A": A, "B": B, "C": C})
    assert await keys_in_turn(key, 7) == [A, B, C, A, B, C, A]


@pytest.mark.parametrize(
    ("environ", "used"),
    [
        ({"B": B, "C": C}, [B, C, B, C]),
        ({"A": A, "C": C}, [A, C, A, C]),
        ({"A": A, "B": B}, [A, B, A, B]),
        ({"A": "", "B": B, "C": " "}, [B, B, B, B]),
        ({"A": "two words", "B": B}, [B, B, B, B]),
    ],
)
async def test_a_source_without_a_usable_key_is_skipped(environ, used):
    key = key_of([{"env": "A"}, {"env": "B"}, {"env": "C"}], environ)
    assert await keys_in_turn(key, 4) == used


async def test_a_key_that_lacks_the_expected_prefix_is_skipped():
    key = key_of(
        [{"env": "A", "expect": "sk-other-"}, {"env": "B", "expect": "sk-canary-"}], {"A": A, "B": B}
    )
    assert await keys_in_turn(key, 2) == [B, B]


async def test_a_key_that_belongs_to_another_host_is_skipped_and_never_sent_there():
    key = key_of([{"env": "A"}, {"env": "B"}], {"A": KIMI, "B": B}, host="openrouter.ai")
    assert await keys_in_turn(key, 3) == [B, B, B]


async def test_each_source_has_a_header_of_its_own():
    key = key_of([{"env": "A"}, {"env": "B", "header": "api-key"}], {"A": A, "B": B})
    assert [await carried(key) for _ in range(2)] == [[("Authorization", f"Bearer {A}")], [("api-key", B)]]


@pytest.mark.parametrize(
    ("options", "environ", "host", "names"),
    [
        ({"env": "A"}, {}, "", ["A is not set"]),
        ({"env": "A"}, {"A": ""}, "", ["A is empty"]),
        (
            {"env": "A", "credential": "c", "file": "f"},
            {},
            "",
            ["A is not set", "credential c", "/nowhere/f"],
        ),
        ({"env": "A", "expect": "sk-kimi-"}, {"A": A}, "", ["A does not begin with 'sk-kimi-'"]),
        ({"env": "A"}, {"A": A}, "api.kimi.com", ["keys for api.kimi.com begin with sk-kimi-"]),
        ({"env": "A"}, {"A": KIMI}, "openrouter.ai", ["sk-kimi- belongs to api.kimi.com"]),
        ({"env": "A"}, {"A": f"{A} {B}"}, "", ["A: the key holds white space"]),
        ([{"env": "A"}, {"env": "B"}], {}, "", ["A is not set"]),
        ([{"env": "A", "expect": "x-"}, {"env": "B"}], {"A": A}, "", ["A does not begin with"]),
    ],
)
async def test_without_a_usable_key_it_refuses_and_names_places_only(options, environ, host, names):
    call_next = FakeNext()
    with pytest.raises(Refusal) as caught:
        await key_of(options, environ, host=host)(exchange_of(), call_next)
    fault = caught.value
    assert (fault.code, fault.status, fault.retry_after) == ("key_missing", 503, None)
    assert fault.message.startswith("The route 'kimi' has no usable key: ")
    assert fault.message.endswith(".")
    assert all(name in fault.message for name in names), fault.message
    assert "canary" not in fault.message + repr(fault)
    assert call_next.calls == 0


async def test_the_refusal_tells_the_first_source_whoever_s_turn_it_is():
    key = key_of([{"env": "A"}], {})
    for _ in range(2):
        with pytest.raises(Refusal, match="A is not set"):
            key.next_key()


@pytest.mark.parametrize(
    ("options", "environ", "available"),
    [
        ({"env": "A"}, {"A": A}, True),
        ({"env": "A"}, {}, False),
        ([{"env": "A"}, {"env": "B"}], {"B": B}, True),
        ([{"env": "A"}, {"env": "B"}], {}, False),
        ({"pass": True}, {}, True),
    ],
)
def test_whether_there_is_a_key_can_be_asked(options, environ, available):
    assert key_of(options, environ).available() is available


async def test_asking_whether_there_is_a_key_uses_up_no_turn():
    key = key_of([{"env": "A"}, {"env": "B"}], {"A": A, "B": B})
    assert await keys_in_turn(key, 1) == [A]
    assert key.available()
    assert await keys_in_turn(key, 2) == [B, A]
    assert key.available()
    assert await keys_in_turn(key, 1) == [B]


async def test_a_key_file_that_changes_is_used_from_then_on(tmp_path):
    file = tmp_path / "key"
    file.write_text(A)
    file.chmod(0o600)
    key = Key(Source(file="key"), Deps("kimi", "", SecretStore({}, tmp_path), ""))
    before = await keys_in_turn(key, 1)
    other = tmp_path / "new"
    other.write_text(B)
    other.chmod(0o600)
    other.rename(file)
    assert before + await keys_in_turn(key, 1) == [A, B]


@pytest.mark.parametrize(
    "credentials",
    [
        [("Authorization", "Bearer theirs")],
        [("x-api-key", "theirs")],
        [("Authorization", "Bearer theirs"), ("x-api-key", "theirs")],
        [],
    ],
)
async def test_with_pass_the_client_s_own_credentials_go_up(credentials):
    exchange = exchange_of(headers=[("Accept", "*/*")], credentials=credentials)
    await key_of({"pass": True}, {})(exchange, FakeNext())
    assert list(exchange.headers.items()) == [("Accept", "*/*"), *credentials]


@pytest.mark.parametrize(
    "options",
    [{"pass": True}, [{"env": "A"}, {"pass": True}], [{"env": "A"}, {"env": "B", "header": "x-api-key"}]],
)
async def test_a_second_attempt_carries_one_credential_only(options):
    key = key_of(options, {"A": A, "B": B})
    exchange = exchange_of(credentials=[("Authorization", "Bearer theirs")])
    for _ in range(2):
        await key(exchange, FakeNext())
    assert len(exchange.headers) == 1


@pytest.mark.parametrize(
    ("options", "message", "field"),
    [
        ({}, "say where the key is: env, credential, file, or pass: true", None),
        ({"env": ""}, "say where the key is", None),
        ({"expect": "sk-"}, "say where the key is", None),
        ({"pass_": True, "env": "A"}, "so nothing else may be given", "pass"),
        ({"pass_": True, "file": "f"}, "so nothing else may be given", "pass"),
        ({"pass_": True, "credential": "c"}, "so nothing else may be given", "pass"),
        ({"pass_": True, "expect": "sk-"}, "so nothing else may be given", "pass"),
        ({"env": "A", "header": "X Key"}, "this is not a header name", "header"),
        ({"env": "A", "header": ""}, "this is not a header name", "header"),
        ({"env": "A", "header": "X\nKey"}, "is not a header name", "header"),
        ({"env": "A", "header": "Host"}, "belongs to the connection", "header"),
        ({"env": "A", "header": "content-length"}, "belongs to the connection", "header"),
        ({"env": "A", "header": "Transfer-Encoding"}, "belongs to the connection", "header"),
        ({"env": "acme-mysecretkey123"}, "env takes a variable's name, such as ACME_API_KEY", "env"),
        ({"env": "A B"}, "env takes a variable's name", "env"),
        ({"env": "1A"}, "env takes a variable's name", "env"),
    ],
)
def test_options_that_do_not_fit_each_other_are_errors(options, message, field):
    with pytest.raises(Invalid) as caught:
        Source(**options)
    assert message in str(caught.value)
    assert "mysecretkey" not in str(caught.value)
    assert caught.value.field == field


def test_options_are_one_source_or_a_list_of_them():
    assert msgspec.convert({"env": "A"}, Options) == Source(env="A")
    assert msgspec.convert([{"env": "A"}, {"pass": True}], Options) == (Source(env="A"), Source(pass_=True))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"evn": "A"}, Options)


def test_an_empty_list_of_sources_is_an_error():
    with pytest.raises(ValueError):
        msgspec.convert([], Options)


def reviewed(source: Source, scene: Scene) -> list[tuple[str, str, str | None]]:
    findings = list(source.review(scene))
    assert not any("canary" in finding.message for finding in findings)
    assert not any("canary" in (finding.precise or "") for finding in findings)
    return [(finding.level, finding.code, finding.field) for finding in findings]


def at(host: str, environ: Mapping[str, str] | None = None, *behind: str) -> Scene:
    secrets = None if environ is None else SecretStore(environ, Path("/nowhere"))
    return Scene("kimi", host, behind, secrets)


@pytest.mark.parametrize(
    ("source", "scene", "found"),
    [
        (Source(env="A"), at("api.example.com", {"A": A}), []),
        (Source(env="A"), at("", {"A": A}), []),
        (Source(env="A"), at("api.example.com"), []),
        (Source(env="A"), at("api.example.com", {}), [("error", "key-missing", None)]),
        (Source(env="A", expect="x-"), at("api.example.com", {"A": A}), [("error", "key-missing", None)]),
        (Source(env="A", expect="sk-kimi-"), at("api.kimi.com", {"A": KIMI}), []),
        (Source(env="A", expect="sk-kimi-"), at("api.kimi.com"), []),
        (Source(env="A", expect="sk-kimi-"), at("openrouter.ai"), [("error", "key-host", "expect")]),
        (Source(env="A", expect="sk-or-"), at("api.kimi.com", {"A": A}), [("error", "key-host", "expect")]),
        (Source(env="A"), at("openrouter.ai", {"A": KIMI}), [("error", "key-host", None)]),
        (Source(env="A"), at("api.kimi.com", {"A": A}), [("error", "key-host", None)]),
        (Source(env="A"), at("api.kimi.com"), []),
        (Source(pass_=True), at("api.kimi.com", {}), []),
        (Source(pass_=True), at("api.kimi.com", {}, "headers"), []),
        (
            Source(pass_=True),
            at("api.kimi.com", None, "headers", "client_keys"),
            [("error", "pass-behind-client-keys", "pass")],
        ),
        (Source(env="A"), at("api.example.com", {"A": A}, "client_keys"), []),
    ],
)
def test_a_source_judges_itself_where_it_stands(source, scene, found):
    assert reviewed(source, scene) == found


def test_a_missing_key_is_told_by_its_places():
    (finding,) = Source(env="A", file="kimi.env").review(at("api.example.com", {}))
    assert finding.message == "there is no usable key"
    assert finding.precise == "no key: A is not set and /nowhere/kimi.env does not exist"


def told(scene: Scene, **places: str) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = [
        (f.level, f.code, f.field, f.precise) for f in msgspec.convert(places, Source).review(scene)
    ]
    assert "canary" not in repr(found)
    return found


def test_a_place_with_another_key_than_the_one_that_is_used_is_told(tmp_path):
    """The key was renewed in one place, and the other goes first."""
    file, folder = tmp_path / "kimi.env", tmp_path / "credentials"
    folder.mkdir()
    environ = {"A": A, "CREDENTIALS_DIRECTORY": str(folder)}

    def scene() -> Scene:
        return Scene("kimi", "api.example.com", (), SecretStore(environ, tmp_path))

    places = {"env": "A", "credential": "kimi", "file": "kimi.env"}
    other = "holds another key than the place before it, which is the one that is used"
    file.write_text(f"A={A}\n")
    file.chmod(0o600)
    (folder / "kimi").write_text(A)
    assert told(scene(), **places) == []
    file.write_text(f"A={B}\n")
    shadowed = ("warning", "key-shadowed", "file", f"{file} {other}")
    assert told(scene(), **places) == [shadowed]
    (folder / "kimi").write_text(C)
    assert told(scene(), **places) == [
        ("warning", "key-shadowed", "credential", f"the credential kimi {other}"),
        shadowed,
    ]
    file.chmod(0o644)
    (folder / "kimi").write_text("")
    assert told(scene(), **places) == []  # what is not looked at need not be in order


def test_a_key_file_that_others_may_write_is_told(tmp_path):
    file = tmp_path / "kimi.env"
    file.write_text(A)
    for mode, found in ((0o600, False), (0o620, True), (0o602, True)):
        file.chmod(mode)
        message = f"{file} has mode {mode:04o}, so others can put their key in its place: chmod 600 {file}"
        expected = [("warning", "key-writable", "file", message)] if found else []
        assert told(Scene("kimi", "", (), SecretStore({}, tmp_path)), file="kimi.env") == expected
