"""Keys that two devices agree on, and the streams made of them. All primitives are the library's; here is their order.

* A pair's secret: X25519 (RFC 7748). From it HKDF-SHA-256 (RFC 5869) makes 32 bytes, bound to the session and to the
  pair: a mask seed (both make the same), or the key of one direction's shares.
* A mask: the key stream of AES-256 in counter mode from block 0 (NIST SP 800-38A). Each seed is used for one stream.
* Shares travel under AES-256-GCM (SP 800-38D) with a zero nonce: each key encrypts one message.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from prunefleet_shared.secure_sum.context import DOMAIN

SEED_BYTES = 32
SHARES_BYTES = 2 * 32
"""What a peer is sent: its share of the self mask, then its share of the mask key."""
SEALED_BYTES = SHARES_BYTES + 16
"""The same, encrypted, with its tag."""
_PROBE = X25519PrivateKey.from_private_bytes(bytes(range(32)))
_COUNTER_0, _NONCE_0 = bytes(16), bytes(12)


def private_key(raw: bytes) -> X25519PrivateKey:
    """The X25519 key of 32 bytes (clamped when it is used, RFC 7748 section 5)."""
    return X25519PrivateKey.from_private_bytes(raw)


def public_key(key: X25519PrivateKey) -> bytes:
    """Its public half, 32 bytes."""
    return key.public_key().public_bytes_raw()


def agree(key: X25519PrivateKey, peer_key: bytes) -> bytes:
    """The pair's secret, 32 bytes.

    Raises:
        ValueError: ``peer_key`` is a point of low order, which would make a secret that everyone knows.
    """
    return key.exchange(X25519PublicKey.from_public_bytes(peer_key))


def is_usable(peer_key: bytes) -> bool:
    """Whether :func:`agree` takes this key, whoever agrees: whether it is a point of low order depends on it alone."""
    try:
        agree(_PROBE, peer_key)
    except ValueError:
        return False
    return True


def pair_seed(secret: bytes, salt: bytes, position: int, peer_position: int) -> bytes:
    """The seed of the mask between two positions of the roster; the same for both."""
    low, high = sorted((position, peer_position))
    return _derive(secret, salt, b"pair", low, high)


def seal_shares(secret: bytes, salt: bytes, sender: int, receiver: int, shares: bytes) -> bytes:
    """Encrypt what ``sender`` gives to ``receiver`` (64 bytes): 80 bytes."""
    return AESGCM(_derive(secret, salt, b"shares", sender, receiver)).encrypt(_NONCE_0, shares, None)


def open_shares(secret: bytes, salt: bytes, sender: int, receiver: int, sealed: bytes) -> bytes | None:
    """Undo :func:`seal_shares`; None if it is not what ``sender`` made for ``receiver`` in this session."""
    try:
        return AESGCM(_derive(secret, salt, b"shares", sender, receiver)).decrypt(_NONCE_0, sealed, None)
    except InvalidTag:
        return None


def mask_stream(seed: bytes, num_bytes: int) -> bytes:
    """So many bytes of the mask of ``seed``."""
    return Cipher(algorithms.AES256(seed), modes.CTR(_COUNTER_0)).encryptor().update(bytes(num_bytes))


def self_mask_digest(seed: bytes) -> bytes:
    """What a device tells the coordinator of its self mask beforehand, so that a wrong share is noticed; 32 bytes."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(DOMAIN + b"self-mask|" + seed)
    return digest.finalize()


def _derive(secret: bytes, salt: bytes, purpose: bytes, first: int, second: int) -> bytes:
    info = DOMAIN + purpose + b"|" + first.to_bytes(2) + second.to_bytes(2)
    return HKDF(hashes.SHA256(), length=SEED_BYTES, salt=salt, info=info).derive(secret)
