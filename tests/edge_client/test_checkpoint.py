"""A training that is interrupted and goes on ends with the bits of one that was not."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.checkpoint import Checkpoint, TrainingState
from prunefleet_edge.data import Samples
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.training import num_steps, train
from prunefleet_shared.errors import ConfigError

torch.set_num_threads(1)
PLAIN = Recipe(epochs=3, learning_rate=0.05, batch_size=32)
EVERYTHING = replace(
    PLAIN, held_out_ratio=0.2, shift_pixels=1, flip=True, label_smoothing=0.1, micro_batch=10, is_channels_last=True
)
RECIPES = {
    "one cycle": PLAIN,
    "rate steps": replace(PLAIN, rate_steps=((0, 0.05), (1, 0.1), (2, 0.01))),
    "everything": EVERYTHING,
    "everything, rate steps": replace(EVERYTHING, rate_steps=((0, 0.05), (2, 0.01))),
    "least number of steps": replace(PLAIN, epochs=1, min_steps=12),
    "stops early": replace(EVERYTHING, learning_rate=30.0, epochs=6, patience=2),
}
all_recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


class Net(nn.Module):
    """A norm that counts, and dropout, which draws from torch's own generator."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(F.relu(self.norm(self.conv(x))).mean(dim=(2, 3))))


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def a_model() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()


def samples(num: int = 120) -> Samples:
    generator = torch.Generator().manual_seed(3)
    return Samples(torch.rand(num, 1, 6, 6, generator=generator), torch.randint(0, 3, (num,), generator=generator))


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in model.state_dict().items()}


def stop_at(step: int) -> Callable[[int, int], None]:
    def on_step(done: int, _total: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_step


def interrupted(recipe: Recipe, step: int, checkpoint: Checkpoint) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(a_model(), samples(), recipe, 7, checkpoint=checkpoint, on_step=stop_at(step))


# --- the same bits ---------------------------------------------------------------------------------------------------


@all_recipes
def test_interrupted_at_any_step_and_resumed_is_the_same_as_never_interrupted(recipe: Recipe, tmp_path: Path) -> None:
    told: list[int] = []
    expected = bits(train(a_model(), samples(), recipe, 7, on_step=lambda done, _total: told.append(done)))
    for step in range(1, max(told) + 1):
        path = tmp_path / f"{step}.part"
        interrupted(recipe, step, Checkpoint(path, "this", every_s=0))
        assert path.exists() is (step > 1), "the step during which the power goes is lost, no other"
        torch.manual_seed(step)  # whatever else the process did
        resumed: list[int] = []
        checkpoint = Checkpoint(path, "this", every_s=0)
        model = train(
            a_model(), samples(), recipe, 7, checkpoint=checkpoint, on_step=lambda done, _t, r=resumed: r.append(done)
        )
        assert bits(model) == expected
        assert resumed == told[step - 1 :], "nothing is done twice"
        assert not path.exists()


def test_interrupted_again_and_again(tmp_path: Path) -> None:
    expected = bits(train(a_model(), samples(), EVERYTHING, 7))
    checkpoint = Checkpoint(tmp_path / "x.part", "this", every_s=0)
    for step in (2, 3, 4, 5, 8):
        interrupted(EVERYTHING, step, checkpoint)
    assert bits(train(a_model(), samples(), EVERYTHING, 7, checkpoint=checkpoint)) == expected


def test_what_was_not_saved_is_done_again_to_the_same_bits(tmp_path: Path) -> None:
    expected = bits(train(a_model(), samples(), EVERYTHING, 7))
    clock = Clock()
    checkpoint = Checkpoint(tmp_path / "x.part", "this", clock, every_s=2)

    def on_step(done: int, _total: int) -> None:
        clock.now_s += 0.5  # a saving every fourth step
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(a_model(), samples(), EVERYTHING, 7, checkpoint=checkpoint, on_step=on_step)
    state = checkpoint.load()
    assert state is not None
    assert state.numbers["epoch"] * 3 + state.numbers["batch"] == 4
    assert bits(train(a_model(), samples(), EVERYTHING, 7, checkpoint=checkpoint)) == expected


def test_a_training_that_is_never_interrupted_is_not_changed_by_being_saved(tmp_path: Path) -> None:
    expected = bits(train(a_model(), samples(), EVERYTHING, 7))
    checkpoint = Checkpoint(tmp_path / "x.part", "this", every_s=0)
    assert bits(train(a_model(), samples(), EVERYTHING, 7, checkpoint=checkpoint)) == expected


@all_recipes
def test_the_number_of_steps_is_known_beforehand(recipe: Recipe) -> None:
    told: list[tuple[int, int]] = []
    train(a_model(), samples(), recipe, 7, on_step=lambda *step: told.append(step))
    total = num_steps(samples(), recipe)
    assert {of for _, of in told} == {total}
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][0] <= total
    if recipe.patience > recipe.epochs:
        assert told[-1][0] == total


# --- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout_follows_the_seed_and_not_what_the_process_did_before() -> None:
    found = []
    for noise, seed in ((1, 7), (2, 7), (1, 8)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        found.append(bits(train(a_model(), samples(), PLAIN, seed)))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
    assert found[0] != found[2]


# --- results that stay -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [PLAIN, EVERYTHING])
def test_a_result_that_stays_is_not_made_again(recipe: Recipe, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "x.part", "this", keeps_result=True)
    model = train(a_model(), samples(), recipe, 7, checkpoint=checkpoint)
    again = train(a_model(), samples(), recipe, 7, checkpoint=checkpoint, on_step=stop_at(1))
    assert bits(again) == bits(model)
    assert not again.training
    layouts = [[p.stride() for p in m.parameters()] for m in (model, again)]
    assert layouts[0] == layouts[1], "the memory format decides which kernels run next"
    checkpoint.clear()
    assert not checkpoint.path.exists()
    with pytest.raises(KeyboardInterrupt):
        train(a_model(), samples(), recipe, 7, checkpoint=checkpoint, on_step=stop_at(1))


def test_what_is_kept_is_the_best_not_the_last(tmp_path: Path) -> None:
    wild = replace(EVERYTHING, learning_rate=1e6, micro_batch=0)
    checkpoint = Checkpoint(tmp_path / "x.part", "this", keeps_result=True)
    model = train(a_model(), samples(), wild, 7, checkpoint=checkpoint)
    state = checkpoint.load()
    assert state is not None
    assert state.is_finished
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.tensors.items())
    assert bits(model) == bits(a_model()), "nothing was better than the state before training"


# --- files that are not ours -----------------------------------------------------------------------------------------


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "deep" / "x.part", "this")
    tensors = {"a": torch.rand(2, 3).t(), "b": torch.tensor([True, False]), "c": torch.arange(3, dtype=torch.uint8)}
    checkpoint.save(TrainingState(tensors, {"epoch": 3, "best_loss": float("inf")}))
    state = checkpoint.load()
    assert state is not None
    assert {name: tensor.dtype for name, tensor in state.tensors.items()} == {n: t.dtype for n, t in tensors.items()}
    assert all(torch.equal(state.tensors[name], tensor) for name, tensor in tensors.items())
    assert state.numbers == {"epoch": 3, "best_loss": float("inf")}
    assert not state.is_finished
    assert checkpoint.path.stat().st_mode & 0o777 == 0o600, "it has seen private images"
    assert checkpoint.path.parent.stat().st_mode & 0o777 == 0o700


def with_header(header: object) -> Callable[[bytes], bytes]:
    def damage(_: bytes) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text

    return damage


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-1],
    "no safetensors file": lambda _: b"PK\x03\x04 not ours",
    "a header that never ends": lambda content: b"\xff" * 8 + content[8:],
    "no metadata": with_header({}),
    "metadata of others": with_header({"__metadata__": {"format": "pt"}}),
    "metadata that is no JSON": with_header({"__metadata__": {"prunefleet-training-2": "{"}}),
    "metadata that is no object": with_header({"__metadata__": {"prunefleet-training-2": "[1]"}}),
    "metadata without numbers": with_header({"__metadata__": {"prunefleet-training-2": '{"purpose": "this"}'}}),
    "numbers that are none": with_header(
        {"__metadata__": {"prunefleet-training-2": '{"purpose": "this", "numbers": 3, "is_finished": false}'}}
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_ignored_and_the_training_starts_anew(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    expected = bits(train(a_model(), samples(), PLAIN, 7))
    checkpoint = Checkpoint(tmp_path / "x.part", "this", every_s=0)
    interrupted(PLAIN, 5, checkpoint)
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    assert checkpoint.load() is None
    assert bits(train(a_model(), samples(), PLAIN, 7, checkpoint=checkpoint)) == expected


def test_a_foreign_file_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    interrupted(PLAIN, 5, Checkpoint(path, "another purpose", every_s=0))
    assert Checkpoint(path, "this").load() is None
    assert Checkpoint(path, "another purpose").load() is not None
    expected = bits(train(a_model(), samples(), PLAIN, 7))
    assert bits(train(a_model(), samples(), PLAIN, 7, checkpoint=Checkpoint(path, "this"))) == expected


def test_no_file_is_no_state(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "none", "this")
    assert checkpoint.load() is None
    assert Checkpoint(tmp_path, "this").load() is None, "a folder"
    checkpoint.clear()


def test_a_failed_saving_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path / "x.part", "this")
    checkpoint.save(TrainingState({}, {"epoch": 1}))

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigError, match=r"x\.part: .* got No space left on device"):
        checkpoint.save(TrainingState({}, {"epoch": 2}))
    monkeypatch.undo()
    state = checkpoint.load()
    assert state is not None
    assert state.numbers == {"epoch": 1}


def test_a_saving_is_due_after_a_while_since_the_last(tmp_path: Path) -> None:
    clock = Clock()
    checkpoint = Checkpoint(tmp_path / "x.part", "this", clock)
    clock.now_s = 19.9
    assert not checkpoint.is_due()
    clock.now_s = 20.0
    assert checkpoint.is_due()
    checkpoint.save(TrainingState({}, {}))
    assert not checkpoint.is_due()
    clock.now_s = 40.0
    assert checkpoint.is_due()
