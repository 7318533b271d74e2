"""The authority's folders: made once, rotated, and refused when they are not what they should be."""

import stat
from datetime import UTC, datetime

import pytest
from authority_world import Core, make_state
from cryptography import x509

from prunefleet_coordinator.ca import files
from prunefleet_coordinator.ca.files import AuthoritySettings, init_authority, load_intermediate, rotate_intermediate
from prunefleet_shared.errors import ConfigError

NOW = datetime.now(UTC)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_for_their_owner_alone(state):
    keys = [state / "root" / "root.key", state / "generation" / "intermediate.key"]
    assert [mode(key) for key in keys] == [0o600, 0o600]
    assert [mode(folder) for folder in (state, state / "root", (state / "generation").resolve())] == [0o700] * 3


def test_the_state_folder_needs_no_root_key(state):
    core = Core(state)
    (state / "root" / "root.key").unlink()
    (state / "root" / "root.pem").unlink()
    core.restart()
    core.join(core.token())
    core.store.close()


def test_a_second_authority_does_not_replace_the_first(state):
    before = (state / "root.pem").read_bytes()
    with pytest.raises(ConfigError, match="already"):
        make_state(state)
    assert (state / "root.pem").read_bytes() == before


def test_a_root_that_is_there_is_used_again(tmp_path):
    settings = AuthoritySettings(("localhost",), "c.example:8470")
    for state in ("one", "two"):
        init_authority(tmp_path / state, tmp_path / "root", settings, NOW)
    assert (tmp_path / "one" / "root.pem").read_bytes() == (tmp_path / "two" / "root.pem").read_bytes()


@pytest.mark.parametrize("at", range(1, 7))
def test_an_interrupted_beginning_is_begun_again(tmp_path, monkeypatch, at):
    """Whatever was written last before the power went, the same command makes a whole authority afterwards."""
    write, count = files.write_whole, iter(range(1, 100))

    def dying(*arguments, **options):
        if next(count) == at:
            raise KeyboardInterrupt
        write(*arguments, **options)

    monkeypatch.setattr(files, "write_whole", dying)
    monkeypatch.setattr(files, "write_document", lambda *_: dying(tmp_path / "x", b""))
    with pytest.raises(KeyboardInterrupt):
        make_state(tmp_path / "ca")
    monkeypatch.undo()
    assert not files.is_initialised(tmp_path / "ca")
    core = Core(make_state(tmp_path / "ca"))
    core.join(core.token())
    core.store.close()


def test_a_rotation_is_taken_up_by_an_authority_that_runs(core):
    before = core.join(core.token()).certificates[1]
    rotate_intermediate(core.state, core.state / "root", NOW)
    after = core.join(core.token(name="device-02")).certificates[1]
    assert before != after
    root = x509.load_pem_x509_certificate((core.state / "root.pem").read_bytes())
    for der in (before, after):
        x509.load_der_x509_certificate(der).verify_directly_issued_by(root)


def test_an_interrupted_rotation_leaves_the_old_pair(core, monkeypatch):
    before = load_intermediate(core.state)
    write = files.write_whole

    def dying(path, *arguments, **options):
        if path.name == "intermediate.pem":
            raise KeyboardInterrupt
        write(path, *arguments, **options)

    monkeypatch.setattr(files, "write_whole", dying)
    with pytest.raises(KeyboardInterrupt):
        rotate_intermediate(core.state, core.state / "root", NOW)
    assert load_intermediate(core.state) == before


def test_a_rotation_needs_the_root_and_the_right_one(state, tmp_path):
    with pytest.raises(ConfigError, match="give the folder that holds it"):
        rotate_intermediate(state, tmp_path / "nowhere", NOW)
    other = make_state(tmp_path / "other")
    with pytest.raises(ConfigError, match="another one"):
        rotate_intermediate(state, other / "root", NOW)


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        ("root.pem", "damaged"),
        ("generation/intermediate.pem", "damaged"),
        ("generation/intermediate.key", "damaged"),
        ("authority.json", "AuthoritySettings"),
    ],
)
def test_a_damaged_file_is_named(state, damaged, words):
    (state / damaged).write_bytes(b"\x00garbage")
    with pytest.raises(ConfigError, match=words) as caught:
        Core(state)
    assert damaged.rsplit("/", 1)[-1] in str(caught.value)


def test_a_missing_file_is_named(state):
    (state / "generation").resolve().joinpath("intermediate.key").unlink()
    with pytest.raises(ConfigError, match=r"intermediate\.key"):
        Core(state)


def test_files_of_two_authorities_are_not_mixed(state, tmp_path):
    other = make_state(tmp_path / "other")
    (state / "root.pem").write_bytes((other / "root.pem").read_bytes())
    with pytest.raises(ConfigError, match="another one"):
        Core(state)


def test_the_key_of_another_intermediate_is_refused(state, tmp_path):
    other = make_state(tmp_path / "other")
    key = other / "generation" / "intermediate.key"
    (state / "generation" / "intermediate.key").write_bytes(key.read_bytes())
    with pytest.raises(ConfigError, match="another one"):
        Core(state)


def test_no_authority_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="prunefleet ca init"):
        Core(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"hosts": ()},
        {"hosts": ("under_score",)},
        {"coordinator_address": "no port"},
        {"coordinator_address": ":8470"},
        {"validity_h": 0},
        {"validity_h": 169},
    ],
)
def test_settings_that_no_member_could_use(tmp_path, changed):
    with pytest.raises(ConfigError):
        make_state(tmp_path / "ca", **changed)
    assert not (tmp_path / "ca").exists()
