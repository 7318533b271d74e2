"""A sum of integer vectors of which the coordinator learns nothing but the sum, even if it lies.

The protocol of Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), in
its malicious-server form, over a complete graph. In five stages, each a call of a device and its answer:

1. *Advertise*: every device makes two X25519 keys and signs them; the answer is the **roster**: all of them.
2. *ShareKeys*: every device draws a self mask, splits it and its mask key among the roster (Shamir, ``threshold`` of
   n), and sends each peer its two shares, encrypted; it signs the roster it saw. The answer: what peers sent to it.
3. *Contribute*: every device sends its vector plus its self mask plus, for every pair, a mask that the other of the
   pair subtracts. The answer: the **survivors**, whose vectors arrived.
4. *ConfirmSurvivors*: every device signs the survivors it was told. The answer: the others' signatures.
5. *Unmask*: once a threshold has signed the same survivors, every device gives away its share of each survivor's self
   mask and of each drop-out's mask key, never both of one peer. A threshold of these takes all masks off the sum.

Read in this order: ``context`` (what all keys and signatures are bound to), ``roster`` (who takes part), ``agreement``
(keys and streams), ``shamir``, ``ring`` (in which integers), ``device_end``, ``coordinator_end``, ``unmasking``. No
module here does I/O.
"""
