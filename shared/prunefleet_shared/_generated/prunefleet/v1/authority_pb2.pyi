from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_DEVICE: _ClassVar[Role]
    ROLE_TRAINER: _ClassVar[Role]
    ROLE_OPERATOR: _ClassVar[Role]
    ROLE_COORDINATOR: _ClassVar[Role]
ROLE_UNSPECIFIED: Role
ROLE_DEVICE: Role
ROLE_TRAINER: Role
ROLE_OPERATOR: Role
ROLE_COORDINATOR: Role

class GetAuthorityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetAuthorityResponse(_message.Message):
    __slots__ = ("root_certificate", "now_ms")
    ROOT_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    NOW_MS_FIELD_NUMBER: _ClassVar[int]
    root_certificate: bytes
    now_ms: int
    def __init__(self, root_certificate: _Optional[bytes] = ..., now_ms: _Optional[int] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("token_id", "secret", "certificate_request")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    token_id: bytes
    secret: bytes
    certificate_request: bytes
    def __init__(self, token_id: _Optional[bytes] = ..., secret: _Optional[bytes] = ..., certificate_request: _Optional[bytes] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("membership",)
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    membership: Membership
    def __init__(self, membership: _Optional[_Union[Membership, _Mapping]] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("certificate_request",)
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    certificate_request: bytes
    def __init__(self, certificate_request: _Optional[bytes] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("membership",)
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    membership: Membership
    def __init__(self, membership: _Optional[_Union[Membership, _Mapping]] = ...) -> None: ...

class Membership(_message.Message):
    __slots__ = ("certificates", "operator_keys", "coordinator_address", "authority_address", "device_class")
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_KEYS_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    operator_keys: _containers.RepeatedScalarFieldContainer[bytes]
    coordinator_address: str
    authority_address: str
    device_class: str
    def __init__(self, certificates: _Optional[_Iterable[bytes]] = ..., operator_keys: _Optional[_Iterable[bytes]] = ..., coordinator_address: _Optional[str] = ..., authority_address: _Optional[str] = ..., device_class: _Optional[str] = ...) -> None: ...

class ListDeniedRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDeniedResponse(_message.Message):
    __slots__ = ("serials",)
    SERIALS_FIELD_NUMBER: _ClassVar[int]
    serials: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, serials: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RevokeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CreateTokensRequest(_message.Message):
    __slots__ = ("role", "name", "is_group", "num_tokens", "valid_for_s", "device_class")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_GROUP_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_S_FIELD_NUMBER: _ClassVar[int]
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    role: Role
    name: str
    is_group: bool
    num_tokens: int
    valid_for_s: int
    device_class: str
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., name: _Optional[str] = ..., is_group: _Optional[bool] = ..., num_tokens: _Optional[int] = ..., valid_for_s: _Optional[int] = ..., device_class: _Optional[str] = ...) -> None: ...

class CreateTokensResponse(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tokens: _Optional[_Iterable[str]] = ...) -> None: ...

class ListMembersRequest(_message.Message):
    __slots__ = ("role", "after_name")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    AFTER_NAME_FIELD_NUMBER: _ClassVar[int]
    role: Role
    after_name: str
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., after_name: _Optional[str] = ...) -> None: ...

class ListMembersResponse(_message.Message):
    __slots__ = ("members",)
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("name", "role", "public_key", "valid_until_ms", "is_revoked")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    VALID_UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    IS_REVOKED_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: Role
    public_key: bytes
    valid_until_ms: int
    is_revoked: bool
    def __init__(self, name: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., public_key: _Optional[bytes] = ..., valid_until_ms: _Optional[int] = ..., is_revoked: _Optional[bool] = ...) -> None: ...
