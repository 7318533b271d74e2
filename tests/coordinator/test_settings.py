"""Settings of the coordinator: files, options, and what is said of wrong ones."""

from pathlib import Path

import pytest

from prunefleet_coordinator.grpc_carrier import is_loopback
from prunefleet_coordinator.settings import ServeSettings, load_settings, settings_toml
from prunefleet_shared.errors import ConfigError


def written(folder, text):
    path = folder / "coordinator.toml"
    path.write_text(text)
    return path


def test_options_win_over_the_file(tmp_path):
    config = written(tmp_path, 'listen = "0.0.0.0:1"\nallow_plain = true\n')
    settings = load_settings(config, {"listen": "127.0.0.1:2", "allow_plain": None})
    assert (settings.listen_host, settings.listen_port, settings.allow_plain) == ("127.0.0.1", 2, True)


def test_what_is_printed_is_read_back(tmp_path):
    settings = ServeSettings(listen="[::1]:0", token_dir=Path("/tokens"), database='sqlite:///a "b".db', devices=3)
    assert load_settings(written(tmp_path, settings_toml(settings)), {}) == settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lisen = 1", "did you mean 'listen'"),
        ("xyz = 1", "known keys: listen"),
        ('listen = "8470"', "host:port"),
        ('listen = "a b:1"', "host:port"),
        ('listen = "127.0.0.1:70000"', "host:port"),
        ("devices = -1", "devices"),
        ("listen = ", "not a readable TOML"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        load_settings(written(tmp_path, text), {})


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "nowhere.toml", {})


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.1.2.3:0", "fleet.example:0"])
def test_other_machines_may_come_in(listen):
    assert not is_loopback(ServeSettings(listen=listen).listen_host)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_only_this_machine_may_come_in(listen):
    assert is_loopback(ServeSettings(listen=listen).listen_host)


def test_the_database_lies_in_the_state_folder_unless_named():
    assert ServeSettings().database_url(Path("/state")) == "sqlite:////state/coordinator.sqlite"
    assert ServeSettings(database="postgresql://db/x").database_url(Path("/state")) == "postgresql://db/x"
