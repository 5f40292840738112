from __future__ import annotations

import os
import pickle
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.secrets import KeySource, Secret, SecretError, SecretStore, find_literal_secret, redact

KEY = "sk-kimi-canary-0123456789abcdef"


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def resolve(environ: dict[str, str], base: Path, **places: str) -> str:
    return SecretStore(environ, base).resolve(KeySource(**places)).reveal()


def message(environ: dict[str, str], base: Path, **places: str) -> str:
    with pytest.raises(SecretError) as caught:
        resolve(environ, base, **places)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("sk-0123456789abcdef", "[redacted]"),
        ("a sk-kimi-aaaa_bbbb-cccc, b", "a [redacted], b"),
        ("=sk-0123456789abcdef", "=[redacted]"),
        ("Bearer 0123456789ab", "Bearer [redacted]"),
        ("bEARER\t 0123456789ab!", "bEARER\t [redacted]"),
        ("Bearer sk-0123456789abcdef", "Bearer [redacted]"),
    ],
)
def test_a_literal_secret_is_found_and_redacted(text, clean):
    assert find_literal_secret(text)
    assert redact(text) == clean
    assert not find_literal_secret(redact(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sk-0123456789abcde",
        "task-0123456789abcdef",
        "9sk-0123456789abcdef",
        "sk-kimi-",
        "Bearer 0123456789a",
        "Bearer",
        "Bearer0123456789ab",
        "the bearer of news",
        "Bearer [redacted]",
    ],
)
def test_what_is_no_secret_passes(text):
    assert not find_literal_secret(text)
    assert redact(text) == text


@given(st.text(alphabet="sk-Bearer 0aA", max_size=60))
def test_redacting_twice_is_redacting_once(text):
    assert find_literal_secret(text) == (redact(text) != text)


def test_a_secret_shows_itself_to_nobody():
    secret = Secret(KEY)
    assert secret.reveal() == KEY
    shown = f"{secret} {secret!r} {secret:>40} {secret!s}" + "%s %r" % (secret, [secret])  # noqa: UP031
    assert "canary" not in shown
    assert "[redacted]" in shown
    assert secret == Secret(KEY)
    assert secret != Secret(KEY + "x")
    assert len({secret, Secret(KEY)}) == 1
    with pytest.raises(TypeError, match="not written down"):
        pickle.dumps(secret)


def test_a_file_that_is_shadowed_is_not_even_looked_at(tmp_path):
    unsafe = write(tmp_path / "kimi.env", KEY, mode=0o644)

    assert resolve({"A": "from-environment"}, tmp_path, env="A", file=str(unsafe)) == "from-environment"


def test_the_environment_comes_first_then_the_credential_then_the_file(tmp_path):
    write(tmp_path / "kimi", "from-credential")
    write(tmp_path / "kimi.env", "KIMI=from-file\n")
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    places = {"env": "KIMI", "credential": "kimi", "file": "kimi.env"}
    assert resolve({**credentials, "KIMI": "from-environment"}, tmp_path, **places) == "from-environment"
    assert resolve({**credentials, "KIMI": ""}, tmp_path, **places) == "from-credential"
    assert resolve({}, tmp_path, **places) == "from-file"
    write(tmp_path / "kimi", "")
    assert resolve(credentials, tmp_path, **places) == "from-file"


def test_a_key_is_found_with_the_name_of_its_place(tmp_path):
    (tmp_path / "up").write_text("canary-c")
    file = tmp_path / "up.env"
    file.write_text("canary-f")
    file.chmod(0o600)
    store = SecretStore({"UP_KEY": "canary-e", "CREDENTIALS_DIRECTORY": str(tmp_path)}, tmp_path)
    sources = [KeySource(env="UP_KEY"), KeySource(credential="up"), KeySource(file="up.env")]

    assert [store.find(source)[0] for source in sources] == ["UP_KEY", "the credential up", str(file)]
    assert [store.find(source)[1] for source in sources] == [store.resolve(source) for source in sources]


def test_a_credential_may_be_readable_by_others_and_hold_assignments(tmp_path):
    write(tmp_path / "kimi", "OTHER=x\nKIMI='the-key'\n", 0o444)
    assert (
        resolve({"CREDENTIALS_DIRECTORY": str(tmp_path)}, tmp_path, env="KIMI", credential="kimi")
        == "the-key"
    )


@pytest.mark.parametrize("name", ["../kimi", "a/b", "..", ""])
def test_a_credential_is_a_plain_name(name, tmp_path):
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    expected = f"the credential {name} cannot exist: a credential's name is a plain file name"
    assert message(environ, tmp_path, credential=name) == expected


def test_every_place_looked_at_is_named(tmp_path):
    path = tmp_path / "kimi.env"
    assert message({}, tmp_path, env="KIMI") == "no key: KIMI is not set"
    assert message({"KIMI": " "}, tmp_path, env="KIMI") == "no key: KIMI is empty"
    assert (
        message({}, tmp_path, env="KIMI", file="kimi.env")
        == f"no key: KIMI is not set and {path} does not exist"
    )
    assert (
        message({}, tmp_path, env="KIMI", credential="kimi", file=str(path))
        == f"no key: KIMI is not set, there is no systemd credential kimi and {path} does not exist"
    )
    assert message({}, tmp_path) == "no key: none of env, credential and file is given"


@pytest.mark.parametrize(
    "text",
    [
        "KIMI=the-key",
        "KIMI=the-key\r\n",
        "\ufeffKIMI=the-key",
        "# a comment\n\n  export KIMI = 'the-key'  \n",
        'OTHER=x\nKIMI="the-key"\n',
        "DIFFERENT=the-key",
        "the-key\n",
        "# the key\nthe-key",
        "KIMI=old\nKIMI=the-key",
    ],
)
def test_a_key_file_holds_assignments_or_the_bare_key(text, tmp_path):
    write(tmp_path / "key", text)
    assert resolve({}, tmp_path, env="KIMI", file="key") == "the-key"


def test_a_bare_key_may_end_in_padding(tmp_path):
    write(tmp_path / "key", "abc==\n")
    assert resolve({}, tmp_path, env="KIMI", file="key") == "abc=="


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", " is empty: write the key into it"),
        ("# canary\n", " is empty: write the key into it"),
        ("KIMI=\n", ": the key is empty"),
        ("A=canary\nB=canary\n", " holds several NAME=value lines and none is KIMI=…"),
        ("canary one\n", ": the key holds white space or characters other than printable ASCII"),
        ("KIMI=canär", ": the key holds white space or characters other than printable ASCII"),
        ("KIMI='canary", ": the quote around the key is not closed"),
        ("canary\ncanary\n", " holds neither NAME=value lines alone nor one bare key alone"),
        ("A=canary\ncanary\n", " holds neither NAME=value lines alone nor one bare key alone"),
        (b"canary\xff", " is not UTF-8 text"),
        ("c" * 65537, " is larger than 64 KiB: a key file holds a key and little else"),
    ],
)
def test_a_key_file_that_cannot_be_understood_is_told_without_its_content(text, problem, tmp_path):
    path = write(tmp_path / "key", text)
    assert message({}, tmp_path, env="KIMI", file="key") == f"{path}{problem}"


def test_without_a_name_a_file_may_hold_one_assignment_only(tmp_path):
    path = write(tmp_path / "key", "A=canary\nB=canary\n")
    assert (
        message({}, tmp_path, file="key")
        == f"{path} holds several NAME=value lines: say with env which one is the key"
    )
    write(path, "A=the-key\n")
    assert resolve({}, tmp_path, file="key") == "the-key"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o440])
def test_a_key_file_that_others_can_read_is_refused(mode, tmp_path):
    path = write(tmp_path / "key", KEY, mode)
    assert (
        message({}, tmp_path, file="key")
        == f"{path} has mode {mode:04o}, so others can read it: chmod 600 {path}"
    )


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o620])
def test_a_key_file_that_others_cannot_read_is_taken(mode, tmp_path):
    write(tmp_path / "key", KEY, mode)
    assert resolve({}, tmp_path, file="key") == KEY


def test_only_a_regular_file_is_a_key_file(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert message({}, tmp_path, file="fifo") == f"{tmp_path}/fifo cannot be read: it is not a regular file"
    assert message({}, tmp_path, file=".") == f"{tmp_path} cannot be read: it is not a regular file"
    assert "embedded null" in message({}, tmp_path, file="a\0b")
    write(tmp_path / "key", KEY)
    assert message({}, tmp_path, file="key/below") == f"{tmp_path}/key/below cannot be read: Not a directory"


def test_the_environments_value_is_checked_too(tmp_path):
    assert resolve({"KIMI": f" {KEY}\n"}, tmp_path, env="KIMI") == KEY
    expected = "KIMI: the key holds white space or characters other than printable ASCII"
    assert message({"KIMI": "canary two"}, tmp_path, env="KIMI") == expected


def test_the_key_must_begin_as_expected(tmp_path):
    assert resolve({"KIMI": KEY}, tmp_path, env="KIMI", expect="sk-kimi-") == KEY
    expected = "the key from KIMI does not begin with 'sk-or-', as expect says it must"
    assert message({"KIMI": KEY}, tmp_path, env="KIMI", expect="sk-or-") == expected
    write(tmp_path / "key", KEY)
    expected = f"the key from {tmp_path}/key does not begin with 'sk-or-', as expect says it must"
    assert message({}, tmp_path, file="key", expect="sk-or-") == expected


def test_environment_and_credential_last_until_restart(tmp_path):
    environ = {"KIMI": "one", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    write(tmp_path / "kimi", "two")
    store = SecretStore(environ, tmp_path)
    assert store.resolve(KeySource(env="KIMI")).reveal() == "one"
    assert store.resolve(KeySource(credential="kimi")).reveal() == "two"
    environ["KIMI"] = "changed"
    write(tmp_path / "kimi", "changed")
    assert store.resolve(KeySource(env="KIMI")).reveal() == "one"
    assert store.resolve(KeySource(credential="kimi")).reveal() == "two"


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path, monkeypatch):
    path = write(tmp_path / "key", "one")
    store = SecretStore({}, tmp_path)
    source = KeySource(file="key")
    assert store.resolve(source).reveal() == "one"
    stats: list[object] = []
    real = os.stat

    def counted(path: Path, **options: bool) -> os.stat_result:
        stats.append(path)
        return real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr("os.stat", counted)
        patch.setattr("config.secrets.read_regular", lambda *_: pytest.fail("the file was read again"))
        assert store.resolve(source).reveal() == "one"
    assert len(stats) == 1
    replacement = write(tmp_path / "new", "two")
    replacement.rename(path)
    assert store.resolve(source).reveal() == "two"
    path.unlink()
    with pytest.raises(SecretError, match="does not exist"):
        store.resolve(source)


def test_an_error_lasts_as_long_as_the_file_stays_as_it_is(tmp_path):
    path = write(tmp_path / "key", KEY, 0o644)
    store = SecretStore({}, tmp_path)
    for _ in range(2):
        with pytest.raises(SecretError, match="chmod 600"):
            store.resolve(KeySource(file="key"))
    path.chmod(0o600)
    assert store.resolve(KeySource(file="key")).reveal() == KEY


def test_one_file_may_hold_the_keys_of_several_sources(tmp_path):
    write(tmp_path / "keys", "A=one\nB=two\n")
    store = SecretStore({}, tmp_path)
    assert [store.resolve(KeySource(env=name, file="keys")).reveal() for name in "AB"] == ["one", "two"]
