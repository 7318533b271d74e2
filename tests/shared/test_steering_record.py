"""What an operator is told of a steering; how a record follows from a sum is tested with replay and steering."""

from dataclasses import replace

from prunefleet_shared.mixture import Mixture
from prunefleet_shared.steering_record import SteeringRecord, in_words


def record(mixture):
    return SteeringRecord("ab" * 16, 0, "cd" * 32, "ef" * 32, (3, 5, 9), ((7,), (1,), (3,)), mixture)


def test_what_was_found_and_how_far_to_believe_it():
    told = in_words(record(Mixture((0, 700_000, 300_000), 730_000, 180_000, is_confident=True)))
    assert told == (
        "the fleet seems to see 2 of 3 classes of public images: 5 (70 %), 9 (30 %) first "
        "(73 % of the sum explained, 18 % by chance)"
    )


def test_that_nothing_was_found():
    told = in_words(record(Mixture((333_334, 333_333, 333_333), 200_000, 180_000, is_confident=False)))
    assert told == (
        "the sum does not tell what the fleet sees (20 % of the sum explained, 18 % by chance); "
        "public images are drawn alike"
    )


CONFIDENT = Mixture((0, 700_000, 300_000), 730_000, 180_000, is_confident=True)


def test_clusters_are_told_by_their_size():
    told = in_words(replace(record(CONFIDENT), clusters=((1,), (2,))))
    assert told.startswith("the fleet seems to see 2 of 3 classes of public images, in clusters of 1, 1: 5 (70 %)")


def test_a_third_of_what_a_cluster_is_shown_is_what_all_are_shown():
    networks = replace(record(CONFIDENT), clusters=((1,), (2,))).network_weights_ppm
    assert networks[0] == CONFIDENT.weights_ppm
    assert networks[1] == (0, 900_000, 100_000)
    assert networks[2] == (0, 233_333, 766_667)
    assert record(CONFIDENT).network_weights_ppm == (CONFIDENT.weights_ppm,)
