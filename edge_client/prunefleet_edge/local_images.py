"""The images of a job on this device alone: what it learns from, what it decides by, and what it is tested on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunefleet_edge.data import Samples, check_trainable, stratified_halves
from prunefleet_edge.data_source import load_source
from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.models import ModelSpec
from prunefleet_edge.prune_result import DataFacts, Measured
from prunefleet_edge.tracing import count_macs
from prunefleet_shared.documents import digest

FIT_RATIO = 0.75
"""Of every class, the part that is learned from; the rest decides."""
_NAME = "this-device"
"""For sources that draw a part by the device's name."""


@dataclass(frozen=True, slots=True)
class LocalImages:
    """A device's images.

    Attributes:
        fit: Trains; a part of it is held out for early stopping.
        gate: Decides which network is small enough and good enough.
        test: Nothing is decided by these; None when none were given.
        facts: The same in numbers.
    """

    fit: Samples
    gate: Samples
    test: Samples | None
    facts: DataFacts

    def fingerprint(self) -> str:
        """Names exactly these images, labels and this split."""
        parts = [part for samples in (self.fit, self.gate) for part in (samples.images, samples.labels)]
        return digest(b"".join(part.numpy().tobytes() for part in parts))

    def measured(self, model: nn.Module, example: Tensor, file_bytes: int) -> Measured:
        """A network on these images."""
        return Measured(
            parameters=sum(int(parameter.count_nonzero()) for parameter in model.parameters()),
            macs=count_macs(model, example),
            gate_accuracy=accuracy(model, self.gate),
            test_accuracy=None if self.test is None else accuracy(model, self.test),
            file_bytes=file_bytes,
        )


def load_local_images(source: str, test_source: str | None, spec: ModelSpec, seed: int) -> LocalImages:
    """Read, check and split.

    Args:
        source: As ``data_source.load_source`` takes it.
        test_source: The same, or None.
        spec: The network's input and classes.
        seed: Of the split.

    Raises:
        ConfigError: There is no such kind of source (the user's to mend).
        InputError: It cannot be read, does not fit the network, or nothing can be learned from it (the user's to mend).
    """
    data = load_source(source, spec, _NAME)
    check_trainable(data.samples, source)
    fit, gate = stratified_halves(data.samples.labels, torch.Generator().manual_seed(seed), FIT_RATIO)
    facts = DataFacts(
        source=source,
        num_images=len(data.samples),
        num_classes=len(set(data.samples.labels.tolist())),
        num_fit=len(fit),
        num_gate=len(gate),
        skipped=tuple(str(path) for path in data.skipped),
    )
    test = load_source(test_source, spec, _NAME).samples if test_source else None
    return LocalImages(data.samples[fit], data.samples[gate], test, facts)
