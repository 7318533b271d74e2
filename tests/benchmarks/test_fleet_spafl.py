"""The experiment fleet_spafl: averaging by hand numbers, who has which image, and what a device is said to send."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prunefleet_edge.data import Samples
from prunefleet_shared.campaign import PLAIN, SUM, Campaign, CohortPolicy, PrivacyTerms

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click 8.5 deprecates
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # where scripts import each other from
    import fedavg
    import fleet_spafl_page
    import fleet_spafl_summary
    import secure_sum
    import spafl_bytes
    from spafl_world import MIN_CLASSES, MIN_IMAGES, NUM_CLASSES, NUM_DEVICES, NUM_PUBLIC, SPEC, split_of

    sys.path.pop(0)

    from prunefleet_trainer.campaign_files import describe_base, make_campaign
    from prunefleet_trainer.public import fresh

torch.set_num_threads(1)
PLAN = fedavg.FedAvgPlan(rounds=4, devices_per_round=2, local_epochs=2, batch_size=4, learning_rate=0.5, save_every=2)


# --- averaging -------------------------------------------------------------------------------------------------------


def test_models_are_averaged_by_their_weights():
    states = [
        {"a": torch.tensor([0.0, 4.0]), "b": torch.tensor(1.0)},
        {"a": torch.tensor([4.0, 8.0]), "b": torch.tensor(5.0)},
    ]
    mean = fedavg.average(states, [30, 10])
    assert mean["a"].tolist() == [1.0, 5.0]  # three quarters of the first, one of the second
    assert mean["b"].item() == 2.0
    assert mean["a"].dtype == torch.float32


def test_a_round_by_hand():
    # One weight w, logits (w·x, 0), x = 1, label 0. From w = 0 the gradient is -1/2: one step at rate 0.5 gives 0.25.
    # A device of label 1 goes the other way. Three images against one: 0.75 · 0.25 - 0.25 · 0.25 = 0.125.
    class OneWeight(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return torch.cat([x * self.w, torch.zeros_like(x)], dim=1)

    own = [
        Samples(torch.ones(3, 1), torch.zeros(3, dtype=torch.int64)),
        Samples(torch.ones(1, 1), torch.ones(1, dtype=torch.int64)),
    ]
    plan = fedavg.FedAvgPlan(rounds=1, devices_per_round=2, local_epochs=1, batch_size=4, learning_rate=0.5)
    model = fedavg.one_round(OneWeight(), own, plan, seed=1, number=1)
    assert model.w.item() == pytest.approx(0.125)


def some_devices():
    rng = np.random.default_rng(3)
    sizes = (5, 9, 4, 7)
    return [
        Samples(torch.from_numpy(rng.normal(size=(n, 3)).astype(np.float32)), torch.from_numpy(rng.integers(0, 2, n)))
        for n in sizes
    ]


def start():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, 2)


def run(path, plan=PLAN, *, not_after=4, model=None):
    seen = []
    last = fedavg.run(
        model or start(),
        some_devices(),
        plan,
        1,
        path,
        lambda number, net: seen.append((number, net.weight.tolist())),
        not_after=not_after,
    )
    return last, seen


def test_a_run_that_was_killed_goes_on_as_it_would_have(tmp_path):
    whole, seen = run(tmp_path / "whole")
    run(tmp_path / "cut", fedavg.FedAvgPlan(2, 2, 2, 4, 0.5, 2))
    resumed, seen_late = run(tmp_path / "cut")
    assert [number for number, _ in seen] == [0, 1, 2, 3, 4]
    assert seen_late == seen[2:]
    assert torch.equal(resumed.weight, whole.weight)


def test_a_checkpoint_past_the_round_that_is_wanted_is_not_used(tmp_path):
    _, seen = run(tmp_path / "whole")
    _, again = run(tmp_path / "whole", not_after=1)
    assert again == seen


def test_the_devices_of_a_round_follow_from_seed_and_number():
    drawn = [PLAN.chosen(1, number, 4) for number in range(1, 30)]
    assert all(len(set(devices)) == 2 and set(devices) <= set(range(4)) for devices in drawn)
    assert drawn == [PLAN.chosen(1, number, 4) for number in range(1, 30)]
    assert len({tuple(devices) for devices in drawn}) > 3
    times = PLAN.times_chosen(1, 5, 4)
    assert times == [sum(device in devices for devices in drawn[:5]) for device in range(4)]
    assert sum(times) == 10


# --- who has which image ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split():
    train, test = (np.random.default_rng(0).permutation(np.arange(n) % NUM_CLASSES) for n in (60_000, 10_000))
    return split_of(1, train, test), train, test


def test_no_image_is_in_two_places_and_no_public_one_with_a_device(split):
    found, train, test = split
    everything = np.concatenate([found.public, *found.own])
    assert len(found.public) == NUM_PUBLIC
    assert np.array_equal(np.sort(everything), np.arange(len(train)))
    assert np.array_equal(np.sort(np.concatenate(found.test)), np.arange(len(test)))


def test_every_device_has_enough_and_test_images_in_its_own_shares(split):
    found, train, test = split
    assert len(found.own) == len(found.test) == NUM_DEVICES
    for own, report in zip(found.own, found.test, strict=True):
        assert len(own) >= MIN_IMAGES
        assert len(report) >= 1
        counts, report_counts = (np.bincount(labels, minlength=NUM_CLASSES) for labels in (train[own], test[report]))
        assert (counts > 0).sum() >= MIN_CLASSES
        # About 5,000 private and 1,000 test images a class: a fifth each, to one image and the luck of the public draw.
        assert np.abs(report_counts - counts / 5).max() <= 1 + 0.05 * counts.max() / 5


def test_another_seed_is_another_split(split):
    found, train, test = split
    again, other = split_of(1, train, test), split_of(2, train, test)
    assert all(np.array_equal(a, b) for a, b in zip(found.own, again.own, strict=True))
    assert not np.array_equal(found.public, other.public)


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_devices", [4, 9])
def test_the_table_of_sizes_is_what_the_real_ends_send(num_devices):
    vectors = np.zeros((num_devices, 40), dtype=np.int64)
    session = secure_sum.OurSession(vectors, certificates_cached=False)
    session.run(set())
    payload = secure_sum.Ring([(7 * num_devices).bit_length()] * 40).packed_bytes
    by_table = spafl_bytes.private_sum_up_bytes(num_devices, payload)
    sent = np.mean(list(session.cost.up_bytes.values()))
    # Certificates are somewhat shorter than we count; framing and session ids are not counted.
    assert by_table == pytest.approx(sent, abs=60 + 12 * num_devices + 150)


def campaign(mode: str) -> Campaign:
    return make_campaign(
        describe_base(SPEC, fresh(SPEC, 1)),
        campaign_id="ab" * 16,
        device_class="benchmark",
        levels_permille=(500, 250),
        cohort=CohortPolicy(100, 100, 1000),
        privacy=PrivacyTerms(mode, 8),
        decision_key=b"",
        slim_base_key=b"",
    )


def test_bytes_of_a_campaign_by_hand():
    assert campaign(PLAIN).layout.dense_widths == (20, 50, 500)
    # Not steered: 570 grades of 3 bits and 2 · 3 · 8 width lanes of 1 bit: 1,758 bits. An outcome: 35 bits.
    assert spafl_bytes.fleet_up_bytes(campaign(PLAIN), 0)[0] == 220 + 5
    plain, through_sum = spafl_bytes.fleet_up_bytes(campaign(SUM), 1)
    assert plain == 220 + 2 * 5
    # Of 100 devices: 10 bits a grade (700), 7 bits a flag (100), each run in whole bytes; around it, what
    # the five stages say to and about each peer.
    around = 600 + 160 + 32 + 32 * 99 + 80 * 99 + 64 + 64 + 32 * 100 + 13
    assert through_sum == 3 * around + (713 + 42) + 2 * 31


def test_bytes_of_averaging_by_hand():
    plain, through_sum = spafl_bytes.fedavg_up_bytes(3, 431_080, fedavg.FedAvgPlan())
    assert plain == 3 * 1_724_320
    around = 600 + 160 + 32 + 32 * 9 + 80 * 9 + 64 + 64 + 320 + 2
    assert through_sum == 3 * (1_724_320 + around)
    assert spafl_bytes.fedavg_down_bytes(3, 431_080) == 4 * 1_724_320


# --- summary ---------------------------------------------------------------------------------------------------------


def rows(arm, accuracy, up_bytes, seed=1, rounds=0, level=1.0):
    shared = {"arm": arm, "level_macs_ratio": level, "rounds": rounds, "seed": seed, "macs_ratio": level}
    sizes = {"up_bytes": up_bytes, "up_bytes_sum": 10 * up_bytes, "down_bytes": 7, "test_images": 2}
    return [shared | sizes | {"device": f"device-{i:02d}", "accuracy": accuracy} for i in range(NUM_DEVICES)]


def target(found, percent):
    return next(one for one in found["targets"] if one["target_percent"] == percent)


def test_bytes_to_a_target_and_what_is_not_reached():
    averaging = [
        *rows("fedavg_base", 0.86, 0),
        *rows("fedavg_base", 0.89, 4000, rounds=1),
        *rows("fedavg_base", 0.93, 8000, rounds=2),
    ]
    found = fleet_spafl_summary.summarise(
        [*averaging, *rows("fleet", 0.921, 100, level=0.5), *rows("fleet", 0.9, 110, level=0.25)]
    )
    assert target(found, 85)["fleet_over"]["fedavg_base"] == "fedavg_base is there before its first round"
    assert target(found, 88)["fleet_over"]["fedavg_base"] == {"up_bytes": 0.025, "up_bytes_sum": 0.025}
    assert target(found, 92)["up_bytes"] == {"fedavg_base": 8000, "fleet": 100}
    assert target(found, 94)["fleet_over"]["fedavg_base"] == "not reached by fleet"
    assert found["unfinished"] == ["fedavg_base"]
    ended = fleet_spafl_summary.summarise([*averaging, *rows("fedavg_base", 0.9, 9000, rounds=50)])
    assert ended["unfinished"] == []
    assert target(found, 94)["up_bytes"] == {"fedavg_base": None, "fleet": None}


def test_a_point_counts_when_all_devices_are_there_and_a_target_when_all_seeds_reach_it():
    found = fleet_spafl_summary.summarise(
        [*rows("fleet", 0.93, 100)[:-1], *rows("local", 0.91, 0), *rows("local", 0.89, 0, seed=2)]
    )
    assert {point["arm"] for point in found["points"]} == {"local"}
    assert found["points"][0]["accuracy_percent"] == pytest.approx(90)
    assert target(found, 88)["up_bytes"] == {"local": 0}
    assert target(found, 90)["up_bytes"] == {"local": None}


def test_the_page_says_what_needed_no_bytes_and_marks_what_is_not_measured():
    averaging = [
        row for n, sent in ((0, 0), (1, 4_000_000)) for row in rows("fedavg_base", 0.84 + n / 10, sent, rounds=n)
    ]
    every = [*averaging, *rows("fleet", 0.93, 440, level=0.5), *rows("local", 0.91, 0, level=0.5)]
    every = [row | {"images_per_class": 50.0} for row in every]
    about = dict.fromkeys(
        ("accuracy", "split", "up_bytes", "up_bytes_sum", "down_bytes", "latency_ratio", "fedavg"), "so"
    )
    about |= {
        "base": "b",
        "slim_base": "s",
        "local": "l",
        "published": {"source": "a paper", "accuracy_percent": {"Local": 84.87}},
    }
    document = {"summary": fleet_spafl_summary.summarise(every), "about": about, "rows": every}
    text = "\n".join(fleet_spafl_page.lines(document, lambda head, lines: [str(head), *map(str, lines)]))
    assert "`local` reaches 90 % without sending a byte" in text
    assert "`fleet` sent 1/9,091 to 1/9,091 of averaging's bytes" in text
    assert "['50%', '`local`', '+2.00'" in text
    assert "is *published*, not measured here (a paper)" in text
    assert "84.87 (Local)" in text
