"""A tokens file holds hashes alone, is believed only when it is private and whole, and is followed as it changes."""

import json
import logging
import os
import re
import threading
from datetime import UTC, datetime, timedelta

import pytest

from ffnsearch_service.errors import CredentialsError
from ffnsearch_service.security.private_files import FILE_BYTES_MAX
from ffnsearch_service.security.token_edits import add_token, revoke_token
from ffnsearch_service.security.token_store import TokenStore
from ffnsearch_service.security.tokens import (
    TOKENS_MAX,
    hash_secret,
    load_tokens,
    new_secret,
    new_token,
    render_tokens,
)

HASH = "ab" * 32
WHOLE = f'count = 1\n[tokens.x]\nscopes = ["read"]\nsha256 = "{HASH}"\ncreated = 2026-11-22T10:00:00Z\n'


class Clock:
    """A clock that is moved by hand."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def written(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return path


def added(path, name, *scopes, expires=None):
    """The secret of a token that is now in the file."""
    secret = new_secret()
    add_token(path, new_token(name, scopes or ("read",), secret, expires))
    return secret


@pytest.fixture
def file(tmp_path):
    return tmp_path / "tokens.toml"


def test_a_secret_has_256_random_bits_and_a_prefix():
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch(r"ffn_[A-Za-z0-9_-]{43}", secret) for secret in secrets)


def test_a_file_gives_back_what_was_written(file):
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    tokens = [
        new_token("a.b-c_1", ["read"], "one"),
        new_token("both", ["read", "admin"], "two", later),
    ]
    assert load_tokens(written(file, render_tokens(tokens))) == tuple(tokens)


def test_a_file_has_no_secret(file):
    secret = added(file, "website")
    text = file.read_text()
    assert secret not in text
    assert secret.removeprefix("ffn_") not in text
    assert hash_secret(secret).hex() in text


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o666])
def test_a_file_that_is_open_to_others_is_refused(file, mode):
    written(file, WHOLE, mode)
    with pytest.raises(CredentialsError, match=f"open to others.*{mode:04o}.*chmod 600") as caught:
        load_tokens(file)
    assert caught.value.reason == "FILE_NOT_PRIVATE"


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_a_file_of_the_service_and_its_group_is_taken(file, mode):
    assert len(load_tokens(written(file, WHOLE, mode))) == 1


def test_a_file_of_another_user_is_refused(file, monkeypatch):
    written(file, WHOLE)
    os.chown(file, 4321, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(CredentialsError, match="belongs to user"):
        load_tokens(file)


def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(CredentialsError, match="not an ordinary file"):
            load_tokens(path)
    with pytest.raises(CredentialsError, match="No such file"):
        load_tokens(tmp_path / "missing")


def test_a_file_too_large_is_refused(file):
    with pytest.raises(CredentialsError) as caught:
        load_tokens(written(file, "#" * (FILE_BYTES_MAX + 1)))
    assert caught.value.reason == "FILE_TOO_LARGE"


@pytest.mark.parametrize(
    ("text", "says"),
    {
        "nothing": ("", "count"),
        "no TOML": ("count = ", "not TOML"),
        "no text": ("count = '\udcff'", "not TOML"),
        "half": (WHOLE.split("sha256")[0], "sha256"),
        "half, between tokens": (WHOLE.replace("count = 1", "count = 2"), "count"),
        "another key": ("colour = 1\n" + WHOLE, "keys other than"),
        "another key of a token": (WHOLE + "secret = 'ffn_x'\n", "keys"),
        "a secret as hash": (WHOLE.replace(HASH, "ffn_" + "x" * 43), "sha256"),
        "another scope": (WHOLE.replace("read", "root"), "scope"),
        "no scope": (WHOLE.replace('"read"', ""), "scope"),
        "scopes that are text": (WHOLE.replace('["read"]', '"read"'), "scopes"),
        "a time without a zone": (WHOLE.replace("00Z", "00"), "zone"),
        "an expiry without a zone": (WHOLE + "expires = 2026-11-22T10:00:00\n", "zone"),
        "a name with a space": (WHOLE.replace("tokens.x", 'tokens."x y"'), "name"),
        "a token that is no table": ("count = 1\ntokens.x = 1", "keys"),
        "tokens that are no table": ("count = 1\ntokens = 1", "table"),
        "one hash twice": (
            WHOLE.replace("1", "2", 1) + WHOLE.split("\n", 1)[1].replace("tokens.x", "tokens.y"),
            "same",
        ),
    }.values(),
)
def test_a_file_that_is_not_as_documented_is_refused_without_telling_its_values(file, text, says):
    file.write_text(text, errors="surrogateescape")
    file.chmod(0o600)
    with pytest.raises(CredentialsError, match=says) as caught:
        load_tokens(file)
    assert caught.value.reason == "INVALID_TOKENS_FILE"
    assert str(file) in caught.value.message
    assert "xxx" not in caught.value.message
    assert "\n" not in caught.value.message


def test_every_beginning_of_a_file_is_refused(file):
    for name in ("one", "two", "three"):
        added(file, name)
    text = file.read_text()
    for length in range(0, len(text) - 1, 7):
        with pytest.raises(CredentialsError):
            load_tokens(written(file, text[:length]))


def test_a_token_is_found_by_its_secret(file):
    secret, other = added(file, "one", "read"), added(file, "two", "read", "admin")
    store = TokenStore.open(file, check_ms_max=250)
    assert store.find(secret).name == "one"
    assert store.find(other).scopes == {"read", "admin"}
    for wrong in ("", new_secret(), secret + "x", secret[:-1], hash_secret(secret).hex(), "\udcff\u20ac"):
        assert store.find(wrong) is None


def test_an_expired_token_is_not_found(file):
    now = datetime.now(UTC)
    secret = added(file, "one", expires=now + timedelta(seconds=60))
    clock = Clock(now.timestamp())
    store = TokenStore(file, check_ms_max=1, now_s=clock)
    store.load()
    assert store.find(secret)
    clock.now_s += 60
    assert store.find(secret) is None


def test_every_token_is_compared_whether_one_is_found_or_not(file, monkeypatch):
    secrets = [added(file, f"token-{number}") for number in range(5)]
    store = TokenStore.open(file, check_ms_max=250)
    compared = []
    monkeypatch.setattr(
        "ffnsearch_service.security.token_store.hmac.compare_digest",
        lambda one, other: compared.append(None) or one == other,
    )
    for secret in (secrets[0], secrets[-1], new_secret()):
        store.find(secret)
        assert len(compared) == 5
        compared.clear()


def test_a_changed_file_is_seen_after_the_interval_and_not_looked_at_before(file, caplog):
    clock = Clock()
    first = added(file, "first")
    store = TokenStore(file, check_ms_max=250, clock_s=clock)
    store.load()
    second = added(file, "second")
    clock.now_s = 0.2
    assert store.find(second) is None
    clock.now_s = 0.3
    with caplog.at_level(logging.INFO):
        assert store.find(second).name == "second"
    revoke_token(file, "first")
    clock.now_s = 0.6
    assert store.find(first) is None
    assert store.find(second)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert first not in caplog.text


@pytest.mark.parametrize("broken", ["count = ", "", "open", "gone"])
def test_a_file_that_breaks_keeps_the_tokens_and_is_told_once(file, caplog, broken):
    clock = Clock()
    secret = added(file, "one")
    store = TokenStore(file, check_ms_max=250, clock_s=clock)
    store.load()
    if broken == "gone":
        file.rename(file.with_suffix(".away"))
    elif broken == "open":
        file.chmod(0o644)
    else:
        file.write_text(broken)
    for clock.now_s in (1, 2, 3):
        assert store.find(secret)
    assert len(caplog.records) == 1
    assert re.search(r"stay as they are: (FILE_|INVALID_TOKENS_FILE)", caplog.text)
    assert secret not in caplog.text
    assert str(file.parent) not in caplog.text
    file.unlink(missing_ok=True)
    later = added(file, "two")
    clock.now_s = 4
    assert store.find(later)
    assert store.find(secret) is None


def test_a_server_does_not_start_with_a_broken_file(file):
    with pytest.raises(CredentialsError):
        TokenStore.open(file, check_ms_max=250)


def test_a_change_keeps_group_mode_and_link_of_the_file(file, tmp_path):
    real = tmp_path / "real.toml"
    added(real, "one")
    real.chmod(0o640)
    file.symlink_to(real)
    added(file, "two")
    assert file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert [token.name for token in load_tokens(real)] == ["one", "two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["real.toml", "tokens.toml"]


def test_a_new_file_is_private(file):
    before = os.umask(0)
    try:
        added(file, "one")
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600


def test_two_that_change_a_file_at_once_lose_nothing(file):
    threads = [threading.Thread(target=added, args=(file, f"token-{number}")) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_tokens(file)) == 12


def test_there_is_a_most_of_tokens(file):
    tokens = [new_token(f"token-{number}", ["read"], str(number)) for number in range(TOKENS_MAX)]
    written(file, render_tokens(tokens))
    with pytest.raises(CredentialsError) as caught:
        added(file, "more")
    assert caught.value.reason == "TOO_MANY_TOKENS"
    assert len(load_tokens(file)) == TOKENS_MAX


def test_the_command_line_makes_lists_and_revokes(run, file):
    code, secret, err = run("token", "create", "--scope", "read", "--scope", "admin", "--name", "nightly", file)
    assert code == 0
    assert re.fullmatch(r"ffn_\S{43}\n", secret)
    assert secret.strip() not in err
    assert run("token", "create", "--scope", "read", "--name", "site", "--days", 30, file)[0] == 0
    assert load_tokens(file)[0].sha256 == hash_secret(secret.strip())
    code, out, err = run("token", "list", file)
    assert (code, err) == (0, "")
    assert re.search(r"nightly +admin read +\S+Z +never\n", out)
    code, out, _ = run("token", "list", file, "--json")
    first, second = json.loads(out)
    assert (first["name"], first["expires"], second["scopes"]) == ("nightly", None, ["read"])
    expires = datetime.fromisoformat(second["expires"]) - datetime.fromisoformat(second["created"])
    assert timedelta(days=29.9) < expires < timedelta(days=30.1)
    assert run("token", "revoke", "nightly", file) == (0, "", "")
    assert [token.name for token in load_tokens(file)] == ["site"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "--scope", "read", "--name", "taken"), "already"),
        (("create", "--scope", "root", "--name", "new"), "'root' is no scope: choose of admin and read"),
        (("create", "--scope", "read", "--name", "a b"), "letters"),
        (("revoke", "missing"), "no token of that name"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(run, file, arguments, says):
    added(file, "taken")
    before = file.read_bytes()
    code, out, err = run("token", *arguments, file)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: \S.*\n", err)
    assert says in err
    assert file.read_bytes() == before


def test_revoking_in_a_missing_file_makes_none(run, file):
    code, _, err = run("token", "revoke", "one", file)
    assert code == 2
    assert "no tokens file" in err
    assert not file.exists()


def test_help_shows_examples(run):
    _, out, _ = run("token", "create", "--help")
    assert "  ffnsearch token create --scope read --name website tokens.toml\n" in out
    _, out, _ = run("token", "--help")
    assert all(command in out for command in ("create", "list", "revoke"))
