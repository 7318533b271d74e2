"""Ready-made settings: how each kind of data is trained on, and how hard the demo is.

The difficulty of ``digits`` was fixed on seeds 101-104; reported seeds (1, 2, 3) were never looked at for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunefleet_edge.recipes import Recipe, recipe_named
from prunefleet_simulation.cameras import CameraRange
from prunefleet_trainer import recipes


@dataclass(frozen=True, slots=True)
class Preset:
    """How a simulation trains.

    Attributes:
        name: What it is called.
        model: Architecture used unless another is asked for.
        base: Training of the base on public data, when none is given.
        public: Retraining of a slim base on public data; the same for every arm that has it.
        local: Fine-tuning on a device; the same for every arm that has it.
        public_ratio: Fraction of the pool split off as public when no public data is given.
        images_per_device: Images a device learns from, at most.
        report_images: Images of a device's report split, at most.
        cameras: How far devices' cameras differ; None leaves images as they are.
    """

    name: str
    model: str
    base: Recipe
    public: Recipe
    local: Recipe
    public_ratio: float
    images_per_device: int
    report_images: int
    cameras: CameraRange | None


DIGITS = Preset(
    name="digits",
    model="resnet8",
    base=recipes.DIGITS.base,
    public=recipes.DIGITS.slim_base,
    local=recipe_named("digits"),
    public_ratio=1 / 3,
    images_per_device=40,
    report_images=1000,
    cameras=CameraRange(rotation_deg=15, blur_pixels=0.7, contrast_loss=0.4, noise=0.12),
)

IMAGES = Preset(
    name="images",
    model="resnet20",
    base=recipes.IMAGES.base,
    public=recipes.IMAGES.slim_base,
    local=recipe_named("images"),
    public_ratio=0.5,
    images_per_device=100,
    report_images=1000,
    cameras=None,
)

PRESETS = {preset.name: preset for preset in (DIGITS, IMAGES)}
