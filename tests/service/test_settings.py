"""Settings come from a file, the environment and flags; whatever is wrong with them is told, all of it."""

import json
import os
import re
import socket
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ffnsearch_indexer.answer.backends import AUTO, BACKENDS
from ffnsearch_service.config import TOKEN_VARIABLE, AdminSettings, Limits, LoggingSettings, ServerConfig
from ffnsearch_service.errors import SettingsError
from ffnsearch_service.settings.loading import key_values, load
from ffnsearch_service.settings.printing import default_toml, reasons
from ffnsearch_service.settings.schema import sections, settings
from ffnsearch_service.settings.sources import (
    from_arguments,
    from_environment,
    from_file,
    from_flags,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "server.toml"
        path.write_text(text)
        return from_file(path)

    return write


def problems_of(*given_):
    with pytest.raises(SettingsError) as caught:
        load([*given_, *from_arguments(["tiny.ffn"])])
    return caught.value.problems


def test_later_sources_win_and_origins_are_known(file):
    loaded = load(
        [
            *file("[server]\nport = 1\ngrace_s = 1\nthreads = 2\n"),
            *from_environment({"FFNSEARCH_SERVER_GRACE_S": "2", "FFNSEARCH_SERVER_THREADS": "3", "PATH": "/bin"}),
            *from_flags({"server.threads": 4, "server.host": None}, ["logging.format=json"]),
            *from_arguments(["plays=a.ffn", "b.ffn"]),
        ]
    )
    config = loaded.config
    assert (config.port, config.grace_s, config.threads, config.host) == (1, 2.0, 4, "127.0.0.1")
    assert config.logging == LoggingSettings("json")
    assert config.snapshots == {"plays": Path.cwd() / "a.ffn", "b": Path.cwd() / "b.ffn"}
    assert config.aliases == {"default": "plays"}
    assert [loaded.origin(f"server.{key}") for key in ("port", "grace_s", "threads", "host")] == [
        "server.toml line 2",
        "environment FFNSEARCH_SERVER_GRACE_S",
        "flag --threads",
        "default",
    ]
    assert loaded.origin("logging.format") == "flag --set"


def test_the_first_snapshot_of_a_file_is_the_default_unless_an_alias_says_so(file):
    text = '[snapshots]\none = "one.ffn"\n"two-v2" = "/two.ffn"\n'
    config = load(file(text)).config
    assert config.aliases == {"default": "one"}
    assert config.snapshots["two-v2"] == Path("/two.ffn")
    assert config.snapshots["one"].name == "one.ffn"
    assert config.snapshots["one"].is_absolute()  # relative to the file, wherever the server is started
    assert load(file(text + '[aliases]\ndefault = "two-v2"\n')).config.aliases == {"default": "two-v2"}


def test_a_relative_path_is_the_same_one_after_a_start_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "server.toml").write_text('[admin]\nmodels_folder = "models"\n')
    monkeypatch.chdir(tmp_path)
    config = load(
        [
            *from_file(Path("server.toml")),
            *from_environment({"FFNSEARCH_ADMIN_CORPORA_FOLDER": "./corpora"}),
            *from_flags({}, ["admin.snapshots_folder=snapshots"]),
            *from_arguments(["may=snapshots/may"]),
        ]
    ).config
    assert config.snapshots == {"may": tmp_path / "snapshots" / "may"}
    assert config.admin == AdminSettings(False, tmp_path / "snapshots", tmp_path / "corpora", tmp_path / "models")


def test_a_path_goes_back_from_where_a_link_leads(tmp_path, monkeypatch):
    release = tmp_path / "releases" / "42"
    release.mkdir(parents=True)
    (tmp_path / "releases" / "models").mkdir()
    (tmp_path / "current").symlink_to(release)
    (release / "server.toml").write_text('[admin]\nmodels_folder = "../models"\n')
    monkeypatch.chdir(tmp_path)
    settings = [*from_file(Path("current/server.toml")), *from_arguments(["a.ffn"])]
    found = load(settings).config.admin.models_folder
    assert found.is_absolute()
    assert found.samefile(tmp_path / "releases" / "models")


def test_the_environment_has_lists_of_snapshots_and_aliases():
    variables = {"FFNSEARCH_SNAPSHOTS": "a=/a.ffn, b=/b=2.ffn", "FFNSEARCH_ALIASES": "default=b,old=a"}
    config = load(from_environment(variables)).config
    assert config.snapshots == {"a": Path("/a.ffn"), "b": Path("/b=2.ffn")}
    assert config.aliases == {"default": "b", "old": "a"}


def test_what_kubernetes_puts_beside_a_service_is_no_setting():
    linked = {
        "FFNSEARCH_SERVICE_HOST": "10.0.0.1",
        "FFNSEARCH_SERVICE_PORT_GRPC": "50051",
        "FFNSEARCH_PORT": "tcp://10.0.0.1:50051",
        "FFNSEARCH_PORT_50051_TCP_ADDR": "10.0.0.1",
    }
    assert from_environment(linked) == []


def test_the_token_of_a_client_is_no_setting():
    assert from_environment({TOKEN_VARIABLE: "secret"}) == []


def test_every_problem_is_told_at_once_with_key_origin_value_limit_and_next_step(file):
    problems = problems_of(
        *file('[server]\nport = 70000\ngrace_s = "long"\nprot = 1\n\n[limits]\nplaces_max = 9\n\n[colour]\na = 1\n'),
        *from_environment({"FFNSEARCH_LIMITS_PROMPTS_MAX": "0", "FFNSEARCH_LOGGING_FORMAT": "xml"}),
        *from_flags({}, ["server.reflection=perhaps", "tls.key_file=key.pem", "metrics.port"]),
    )
    assert problems == (
        "server.port (server.toml line 2): '70000' is above 65535: choose 0 to 65535",
        "server.grace_s (server.toml line 3): 'long' is not a number: write 10.0, without quotes",
        "server.prot (server.toml line 4): there is no such setting: did you mean server.port?",
        "colour.a (server.toml line 10): there is no such setting: `ffnsearch serve --print-config` lists them all",
        "limits.prompts_max (environment FFNSEARCH_LIMITS_PROMPTS_MAX): '0' is below 1: choose 1 to 2147483647",
        "logging.format (environment FFNSEARCH_LOGGING_FORMAT): 'xml' is not one of its values: choose text or json",
        "server.reflection (flag --set): 'perhaps' is not true or false: write one of the two",
        "metrics.port (flag --set): '' is not a whole number: write 1, without quotes",
        "tls.key_file (flag --set) is set without tls.certificate_file, the certificate of the key: "
        "set both, or neither",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[server]\nhost = "0.0.0.0"', r"server\.host \(server.toml line 2\): '0\.0\.0\.0' can be .*--insecure-public"),
        ('[metrics]\nhost = "0.0.0.0"\nport = 1', r"metrics\.host \(server.toml line 2\).*neither encrypted"),
        ("[metrics]\nport = 50051", r"metrics\.port \(server.toml line 2\): 127.0.0.1:50051 .*another port"),
        (
            "[limits]\nplaces_default = 200",
            r"limits\.places_default .*200 is above limits\.places_max \(default\), 100",
        ),
        (
            "[limits]\nqueue_prompts_max = 512",
            r"prompts_max .*above limits\.queue_prompts_max \(server.toml line 2\), 512",
        ),
        ('[aliases]\nold = "gone"', r"aliases\.old \(server.toml line 2\): there is no snapshot 'gone'.*tiny"),
        ('[aliases]\ntiny = "tiny"', r"aliases\.tiny .*a snapshot has this name too"),
        ('[aliases]\n"a b" = "tiny"', r"aliases\.a b .*is not a name"),
        ('[tracing]\nendpoint = "localhost"', r"tracing\.endpoint \(server.toml line 2\).*http://HOST:PORT"),
        ("port = 1", r"port \(server.toml line 1\): there is no such setting"),
        ("[server]\nadmin = true", r"server\.admin .*there is no such setting: did you mean admin\.enabled\?"),
        ("[server]\nport = true", r"'True' is not a whole number"),
        ("[server]\ngrace_s = nan", r"'nan' is not a number"),
        ('[server]\nstate_folder = ""', r"server\.state_folder \(server.toml line 2\): it is empty"),
        ("[snapshots]\na = 1", r"snapshots\.a \(server.toml line 2\): '1' is not a text"),
    ],
)
def test_a_problem_names_the_key_and_the_line(file, text, expected):
    (problem,) = problems_of(*file(text))
    assert re.search(expected, problem), problem


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[server\n", "is not TOML.*line 1"),
        (b"\xff", "not UTF-8"),
        (b"#" * (1 << 21), "longer than"),
        (("#" + "ü" * (1 << 20)).encode(), "longer than"),
        (None, "read"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path, content, expected):
    path = tmp_path / "server.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=expected):
        from_file(path)


def test_no_snapshot_is_a_problem_unless_one_can_be_loaded():
    with pytest.raises(SettingsError, match="no snapshot is given"):
        load([])
    assert load(from_flags({}, ["admin.enabled=true"])).config.aliases == {}


def test_two_snapshots_of_one_name_are_refused():
    with pytest.raises(SettingsError, match=r"two snapshots are called a.*NAME=PATH"):
        from_arguments(["x/a.ffn", "y/a.ffn"])


def test_a_public_server_needs_tls_and_tokens_or_so_many_words(file):
    public = '[server]\nhost = "0.0.0.0"\n'
    protected = '[tls]\ncertificate_file = "c"\nkey_file = "k"\n[auth]\ntokens_file = "t"\n'
    snapshot = from_arguments(["a.ffn"])
    assert load([*file(public + protected), *snapshot]).config.host == "0.0.0.0"
    assert load([*file(public), *from_flags({"server.insecure_public": True}), *snapshot]).config.insecure_public
    assert "server.host" in problems_of(*file(public + protected.replace("tokens_file", "#")))[0]


@example("admin.corpora_folder", "~0")  # the home of nobody
@given(st.sampled_from(sorted(settings())), st.text(max_size=20))
def test_any_text_gives_a_setting_or_a_problem_with_its_key(key, text):
    variable = f"FFNSEARCH_{key.replace('.', '_').upper()}"
    problems = ()
    try:
        load([*from_arguments(["a.ffn"]), *from_environment({variable: text})])
    except SettingsError as error:
        problems = error.problems
    assert all(key in problem and variable in problem and problem.isprintable() for problem in problems)


def test_the_printed_file_has_every_setting_with_its_reason_and_changes_nothing(file):
    text = default_toml()
    live = "\n".join(line.removeprefix("# ") for line in text.splitlines() if "..." not in line)
    live = live[live.index("\n[server]\n") :]
    loaded = load([*from_arguments(["tiny.ffn"]), *file(live)])
    assert loaded.config == ServerConfig({"tiny": Path.cwd() / "tiny.ffn"}, aliases={"default": "tiny"})
    for setting in settings().values():
        assert f"\n# {setting.field} = " in text
        assert reasons(setting.owner)[setting.field]
    assert tomllib.loads(text).keys() == {"snapshots", "aliases", *sections()}


def test_the_backends_of_the_settings_are_those_there_are():
    assert settings()["server.backend"].choices == (AUTO, *BACKENDS)


def test_every_value_has_its_key():
    config = ServerConfig({"a": Path("a.ffn")}, aliases={"default": "a"}, limits=Limits(prompts_max=7))
    values = key_values(config)
    assert values["limits.prompts_max"] == 7
    assert values["admin.builds_max"] == 1
    assert values["snapshots.a"] == Path("a.ffn")
    assert len(values) == len(settings()) + 2


def test_the_example_for_deployment_is_valid():
    loaded = load(from_file(ROOT / "deploy" / "ffnsearch.toml"))
    assert loaded.config.metrics.port == 9464
    assert loaded.config.tls.certificate_file


def test_check_tells_what_would_happen(run, tiny_snapshot):
    code, out, err = run("serve", f"plays={tiny_snapshot}", "--check", "--port", 0, "--set", "metrics.port=0")
    assert (code, err) == (0, "")
    assert f"setting   snapshots.plays = {tiny_snapshot}  (argument plays=" in out
    assert "setting   aliases.default = plays  (" in out
    assert "snapshot  plays: " in out
    assert "address   127.0.0.1:0 is free" in out
    assert out.endswith("ready to start\n")


def test_check_tells_all_that_would_fail(run, tiny_snapshot, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "c.toml").write_text(
            f'[server]\nport = {port}\n[snapshots]\ngone = "gone.ffn"\n[auth]\ntokens_file = "tokens"\n'
            '[tls]\ncertificate_file = "c.toml"\nkey_file = "key"\n[admin]\ncorpora_folder = "none"\n'
        )
        code, out, err = run("serve", tiny_snapshot, "--config", tmp_path / "c.toml", "--check", "--json")
    found = json.loads(out)
    assert code == 2
    assert [snapshot["substrings"] > 0 and snapshot["bytes"] > 0 for snapshot in found["snapshots"]] == [True]
    assert [problem.partition(" ")[0] for problem in found["problems"]] == [
        "snapshots.gone",
        "server.port",
        "tls.certificate_file",
        "auth.tokens_file",
        "admin.corpora_folder",
    ]
    assert err.splitlines() == [f"error: {problem}" for problem in found["problems"]]
    settings = {one["key"]: one for one in found["settings"]}
    assert settings["server.port"] == {"key": "server.port", "value": port, "origin": "c.toml line 2"}
    assert settings["admin.enabled"]["value"] is False
    assert settings["server.threads"]["value"] is None
    assert settings["tls.key_file"]["value"] == str(tmp_path / "key")


def test_check_looks_at_what_a_restart_would_go_on_with(run, tiny_snapshot, tmp_path):
    def check(*settings):
        assignments = [part for setting in settings for part in ("--set", setting)]
        code, _, err = run(
            "serve", f"one={tiny_snapshot}", f"two={tiny_snapshot}", "--check", "--port", 0, *assignments
        )
        assert code == 2
        return err

    (tmp_path / "file").touch()
    (tmp_path / "catalog.json").write_text("{")
    assert "server.state_folder (flag --set): " in check(f"server.state_folder={tmp_path}/file/state")
    assert "server.state_folder (flag --set): " in check(f"server.state_folder={tmp_path}/file")
    assert "catalog.json cannot be read" in check(f"server.state_folder={tmp_path}")
    assert "limits.snapshots_max (flag --set): 2 snapshots are to be open" in check("limits.snapshots_max=1")
    assert "limits.snapshots_bytes_max (flag --set): " in check("limits.snapshots_bytes_max=1000")


def test_check_makes_nothing(run, tiny_snapshot, tmp_path):
    state = tmp_path / "state" / "of" / "one"
    code, out, _ = run("serve", tiny_snapshot, "--check", "--port", 0, "--set", f"server.state_folder={state}")
    assert (code, out.splitlines()[-1]) == (0, "ready to start")
    assert list(tmp_path.iterdir()) == []


def test_check_warns(run, tiny_snapshot):
    public = ("--host", "0.0.0.0", "--insecure-public")
    code, out, _ = run("serve", tiny_snapshot, "--check", "--port", 0, "--skip-verify", *public)
    assert code == 0
    assert "warning   0.0.0.0 can be reached from other machines" in out
    assert "warning   server.verify is sizes" in out


def test_serve_tells_every_problem_in_a_line_of_its_own(run, tiny_snapshot, monkeypatch):
    monkeypatch.setitem(os.environ, "FFNSEARCH_SERVER_PROT", "1")
    code, out, err = run("serve", tiny_snapshot, "--port", 70000, "--set", "a")
    assert (code, out) == (2, "")
    assert [line.split()[1] for line in err.splitlines()] == ["server.prot", "server.port", "a"]


def test_serve_prints_the_settings(run):
    code, out, err = run("serve", "--print-config")
    assert (code, err) == (0, "")
    assert out == default_toml()
