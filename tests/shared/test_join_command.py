"""What ``… join`` does around the joining itself: where the token comes from, and what becomes of its file."""

import io
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prunefleet_shared import join_command as module
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.errors import CarrierError, ConfigError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.identity_folder import identity_from, save_identity
from prunefleet_shared.join_command import TOKEN_VARIABLE, join_command
from prunefleet_shared.join_token import JoinToken
from prunefleet_shared.messages import Role

NOW = datetime.now(UTC)
ROOT = create_authority(NOW - timedelta(days=3))


def a_token(number):
    return JoinToken("ab" * 32, f"{number:016x}", bytes(32), "ca:8471")


def an_identity(role=Role.DEVICE, now=NOW):
    return identity_from(
        issue(ROOT, role, "member", now),
        operator_keys=(bytes(91),),
        coordinator_address="coordinator:8470",
        authority_address="ca:8472",
        device_class="",
    )


class Joining:
    """Instead of the authority: notes the tokens, and answers or fails as it is told."""

    def __init__(self):
        self.tokens = []
        self.failure = None

    async def __call__(self, token, role, folder, *, now, before_send):
        self.tokens.append(token)
        if self.failure:
            raise self.failure
        identity = an_identity(role)
        save_identity(folder, identity)
        return identity


@pytest.fixture
def joining(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    double = Joining()
    monkeypatch.setattr(module, "join", double)
    return double


@pytest.fixture
def token_dir(tmp_path):
    folder = tmp_path / "tokens"
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / f"{number}.token").write_text(a_token(number).text() + "\n")
    return folder


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- where the token comes from --------------------------------------------------------------------------------------


def test_a_token_as_the_argument(joining, tmp_path):
    identity = join_command(Role.DEVICE, a_token(7).text(), None, tmp_path / "state")
    assert (identity.role, joining.tokens) == (Role.DEVICE, [a_token(7)])


def test_a_token_on_standard_input(joining, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(a_token(7).text() + "\nnot this line\n"))
    join_command(Role.DEVICE, "-", None, tmp_path / "state")
    assert joining.tokens == [a_token(7)]


def test_a_token_in_the_environment(joining, tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, a_token(7).text())
    join_command(Role.DEVICE, None, None, tmp_path / "state")
    assert joining.tokens == [a_token(7)]


def test_the_argument_goes_before_the_folder(joining, tmp_path, token_dir):
    join_command(Role.DEVICE, a_token(7).text(), token_dir, tmp_path / "state")
    assert joining.tokens == [a_token(7)]
    assert names_in(token_dir) == ["1.token", "2.token", "3.token"]


@pytest.mark.parametrize("token", [None, "", "-"])
def test_no_token_is_the_users_to_mend(joining, tmp_path, monkeypatch, token):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(ConfigError, match="join token"):
        join_command(Role.DEVICE, token, None, tmp_path / "state")
    assert joining.tokens == []


# --- who is a member already -----------------------------------------------------------------------------------------


def test_who_is_a_member_stays_it_and_the_token_stays_unused(joining, tmp_path, token_dir):
    save_identity(tmp_path / "state", an_identity())
    identity = join_command(Role.DEVICE, None, token_dir, tmp_path / "state")
    assert identity == join_command(Role.DEVICE, "no token at all", None, tmp_path / "state")
    assert joining.tokens == []
    assert names_in(token_dir) == ["1.token", "2.token", "3.token"]


def test_whose_certificate_ended_joins_again(joining, tmp_path):
    save_identity(tmp_path / "state", an_identity(now=NOW - timedelta(days=2)))
    join_command(Role.DEVICE, a_token(7).text(), None, tmp_path / "state")
    assert joining.tokens == [a_token(7)]


def test_a_member_of_another_role_is_not_replaced(joining, tmp_path):
    save_identity(tmp_path / "state", an_identity(Role.OPERATOR))
    with pytest.raises(ConfigError, match="--state"):
        join_command(Role.DEVICE, a_token(7).text(), None, tmp_path / "state")
    assert joining.tokens == []


# --- claiming one of several files -----------------------------------------------------------------------------------


def test_one_file_is_claimed_and_is_gone_when_it_has_served(joining, tmp_path, token_dir):
    join_command(Role.DEVICE, None, token_dir, tmp_path / "state")
    assert joining.tokens == [a_token(1)]
    assert names_in(token_dir) == ["2.token", "3.token"]


@pytest.mark.parametrize("failure", [CarrierError("away", retryable=True), ConfigError("clock"), KeyboardInterrupt()])
def test_an_own_claim_is_used_again_after_a_crash(joining, tmp_path, token_dir, failure):
    joining.failure = failure
    with pytest.raises(type(failure)):
        join_command(Role.DEVICE, None, token_dir, tmp_path / "state")
    assert len(names_in(token_dir)) == 3
    joining.failure = None
    join_command(Role.DEVICE, None, token_dir, tmp_path / "state")
    assert joining.tokens == [a_token(1), a_token(1)]
    assert names_in(token_dir) == ["2.token", "3.token"]


@pytest.mark.parametrize("reason", [RejectReason.USED_TOKEN, RejectReason.EXPIRED_TOKEN, RejectReason.UNKNOWN_TOKEN])
def test_a_spent_token_is_put_aside_so_that_the_next_try_takes_another(joining, tmp_path, token_dir, reason):
    joining.failure = reject(reason)
    with pytest.raises(RemoteProtocolError):
        join_command(Role.DEVICE, None, token_dir, tmp_path / "state")
    joining.failure = None
    join_command(Role.DEVICE, None, token_dir, tmp_path / "state")
    assert joining.tokens == [a_token(1), a_token(2)]


def test_a_refusal_for_now_keeps_the_claim(joining, tmp_path, token_dir):
    joining.failure = reject(RejectReason.TOO_MANY_TRIES)
    with pytest.raises(RemoteProtocolError):
        join_command(Role.DEVICE, None, token_dir, tmp_path / "state")
    joining.failure = None
    join_command(Role.DEVICE, None, token_dir, tmp_path / "state")
    assert joining.tokens == [a_token(1), a_token(1)]


def test_two_members_on_one_machine_do_not_share_a_claim(joining, tmp_path, token_dir):
    joining.failure = CarrierError("away", retryable=True)
    for state in ("one", "two"):
        with pytest.raises(CarrierError):
            join_command(Role.DEVICE, None, token_dir, tmp_path / state)
    joining.failure = None
    for state in ("two", "one"):
        join_command(Role.DEVICE, None, token_dir, tmp_path / state)
    assert joining.tokens == [a_token(1), a_token(2), a_token(2), a_token(1)]
    assert names_in(token_dir) == ["3.token"]


def test_many_claim_at_once_and_each_gets_its_own(joining, tmp_path):
    token_dir = tmp_path / "tokens"
    token_dir.mkdir()
    for number in range(20):
        (token_dir / f"{number:02}.token").write_text(a_token(number).text())
    start = threading.Barrier(20)

    def claim(number):
        start.wait()
        join_command(Role.DEVICE, None, token_dir, tmp_path / f"state-{number}")

    threads = [threading.Thread(target=claim, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert sorted(token.token_id for token in joining.tokens) == [a_token(number).token_id for number in range(20)]
    assert names_in(token_dir) == []


def test_a_file_that_another_claims_first_is_passed_over(joining, tmp_path, token_dir, monkeypatch):
    rename = Path.rename

    def slow(path, target):
        if path.name == "1.token":
            path.unlink()  # between our look and our claim
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", slow)
    join_command(Role.DEVICE, None, token_dir, tmp_path / "state")
    assert joining.tokens == [a_token(2)]


def test_an_empty_folder_is_the_operators_to_fill(joining, tmp_path):
    (tmp_path / "tokens").mkdir()
    with pytest.raises(ConfigError, match="more tokens"):
        join_command(Role.DEVICE, None, tmp_path / "tokens", tmp_path / "state")


def test_a_file_that_holds_no_token_is_named_put_aside_and_not_repeated(joining, tmp_path, token_dir):
    (token_dir / "0.token").write_text("PF1 a secret, perhaps")
    with pytest.raises(ConfigError, match=r"0\.refused: this is no join token") as caught:
        join_command(Role.DEVICE, None, token_dir, tmp_path / "state")
    assert "perhaps" not in str(caught.value)
    join_command(Role.DEVICE, None, token_dir, tmp_path / "state")
    assert joining.tokens == [a_token(1)]
