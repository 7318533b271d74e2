"""What a device, the coordinator, the trainer and the simulation must agree on.

Nothing here trains, listens or stores. Start with ``protos/prunefleet/v1`` for the story of a round, then
``layout`` (what can be pruned), ``masks`` and ``lanes`` (what is said about it) and ``messages`` (who says it).
"""

__version__ = "0.1.0"
