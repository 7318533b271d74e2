"""The device: scores, prunes and retrains its own network on private data, and says only masks and metrics.

``round`` decides what happens next, ``runner`` does it, ``egress`` is the only way out.
"""
