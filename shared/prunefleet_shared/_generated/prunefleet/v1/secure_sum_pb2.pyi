from prunefleet_shared._generated.prunefleet.v1 import messages_pb2 as _messages_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RosterEntry(_message.Message):
    __slots__ = ("certificate_digest", "mask_key", "share_key", "signature")
    CERTIFICATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MASK_KEY_FIELD_NUMBER: _ClassVar[int]
    SHARE_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    certificate_digest: bytes
    mask_key: bytes
    share_key: bytes
    signature: bytes
    def __init__(self, certificate_digest: _Optional[bytes] = ..., mask_key: _Optional[bytes] = ..., share_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class AdvertiseRequest(_message.Message):
    __slots__ = ("session_id", "certificates", "entry", "self_mask_digest")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    SELF_MASK_DIGEST_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    entry: RosterEntry
    self_mask_digest: bytes
    def __init__(self, session_id: _Optional[bytes] = ..., certificates: _Optional[_Iterable[bytes]] = ..., entry: _Optional[_Union[RosterEntry, _Mapping]] = ..., self_mask_digest: _Optional[bytes] = ...) -> None: ...

class AdvertiseResponse(_message.Message):
    __slots__ = ("roster", "come_back")
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    COME_BACK_FIELD_NUMBER: _ClassVar[int]
    roster: Roster
    come_back: _messages_pb2.ComeBack
    def __init__(self, roster: _Optional[_Union[Roster, _Mapping]] = ..., come_back: _Optional[_Union[_messages_pb2.ComeBack, _Mapping]] = ...) -> None: ...

class Roster(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[RosterEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[RosterEntry, _Mapping]]] = ...) -> None: ...

class FetchCertificatesRequest(_message.Message):
    __slots__ = ("session_id", "digests")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, session_id: _Optional[bytes] = ..., digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FetchCertificatesResponse(_message.Message):
    __slots__ = ("certificate_list", "come_back")
    CERTIFICATE_LIST_FIELD_NUMBER: _ClassVar[int]
    COME_BACK_FIELD_NUMBER: _ClassVar[int]
    certificate_list: CertificateList
    come_back: _messages_pb2.ComeBack
    def __init__(self, certificate_list: _Optional[_Union[CertificateList, _Mapping]] = ..., come_back: _Optional[_Union[_messages_pb2.ComeBack, _Mapping]] = ...) -> None: ...

class CertificateList(_message.Message):
    __slots__ = ("certificates", "intermediates")
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    INTERMEDIATES_FIELD_NUMBER: _ClassVar[int]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    intermediates: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, certificates: _Optional[_Iterable[bytes]] = ..., intermediates: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ShareKeysRequest(_message.Message):
    __slots__ = ("session_id", "shares", "signature")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    shares: bytes
    signature: bytes
    def __init__(self, session_id: _Optional[bytes] = ..., shares: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class ShareKeysResponse(_message.Message):
    __slots__ = ("peer_shares", "come_back")
    PEER_SHARES_FIELD_NUMBER: _ClassVar[int]
    COME_BACK_FIELD_NUMBER: _ClassVar[int]
    peer_shares: PeerShares
    come_back: _messages_pb2.ComeBack
    def __init__(self, peer_shares: _Optional[_Union[PeerShares, _Mapping]] = ..., come_back: _Optional[_Union[_messages_pb2.ComeBack, _Mapping]] = ...) -> None: ...

class PeerShares(_message.Message):
    __slots__ = ("senders", "shares", "signatures")
    SENDERS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    senders: bytes
    shares: bytes
    signatures: bytes
    def __init__(self, senders: _Optional[bytes] = ..., shares: _Optional[bytes] = ..., signatures: _Optional[bytes] = ...) -> None: ...

class ConfirmSurvivorsRequest(_message.Message):
    __slots__ = ("session_id", "signature")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    signature: bytes
    def __init__(self, session_id: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class ConfirmSurvivorsResponse(_message.Message):
    __slots__ = ("confirmations", "come_back")
    CONFIRMATIONS_FIELD_NUMBER: _ClassVar[int]
    COME_BACK_FIELD_NUMBER: _ClassVar[int]
    confirmations: Confirmations
    come_back: _messages_pb2.ComeBack
    def __init__(self, confirmations: _Optional[_Union[Confirmations, _Mapping]] = ..., come_back: _Optional[_Union[_messages_pb2.ComeBack, _Mapping]] = ...) -> None: ...

class Confirmations(_message.Message):
    __slots__ = ("confirmers", "signatures")
    CONFIRMERS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    confirmers: bytes
    signatures: bytes
    def __init__(self, confirmers: _Optional[bytes] = ..., signatures: _Optional[bytes] = ...) -> None: ...

class UnmaskRequest(_message.Message):
    __slots__ = ("session_id", "holders", "shares")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    holders: bytes
    shares: bytes
    def __init__(self, session_id: _Optional[bytes] = ..., holders: _Optional[bytes] = ..., shares: _Optional[bytes] = ...) -> None: ...

class UnmaskResponse(_message.Message):
    __slots__ = ("session_id", "come_back")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    COME_BACK_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    come_back: _messages_pb2.ComeBack
    def __init__(self, session_id: _Optional[bytes] = ..., come_back: _Optional[_Union[_messages_pb2.ComeBack, _Mapping]] = ...) -> None: ...
