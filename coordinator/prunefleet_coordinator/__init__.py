"""The coordinator: invites devices, adds up what they say, decides the network's shape. No torch in here.

``round`` decides what happens next, ``runner`` does it, ``aggregation`` and ``budget`` turn sums into a decision.
"""
