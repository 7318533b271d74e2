from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DocumentKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DOCUMENT_KIND_UNSPECIFIED: _ClassVar[DocumentKind]
    DOCUMENT_KIND_CAMPAIGN: _ClassVar[DocumentKind]
    DOCUMENT_KIND_DECISION: _ClassVar[DocumentKind]
    DOCUMENT_KIND_SLIM_BASE: _ClassVar[DocumentKind]
    DOCUMENT_KIND_RULING: _ClassVar[DocumentKind]

class Readiness(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    READINESS_UNSPECIFIED: _ClassVar[Readiness]
    READINESS_READY: _ClassVar[Readiness]
    READINESS_BUSY: _ClassVar[Readiness]
    READINESS_NO_MEMORY: _ClassVar[Readiness]
    READINESS_LOW_POWER: _ClassVar[Readiness]
    READINESS_NO_DATA: _ClassVar[Readiness]

class SessionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_KIND_UNSPECIFIED: _ClassVar[SessionKind]
    SESSION_KIND_VOTE: _ClassVar[SessionKind]
    SESSION_KIND_OUTCOME: _ClassVar[SessionKind]
    SESSION_KIND_ROLLOUT: _ClassVar[SessionKind]

class Awaited(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AWAITED_UNSPECIFIED: _ClassVar[Awaited]
    AWAITED_DEVICES: _ClassVar[Awaited]
    AWAITED_TRAINER: _ClassVar[Awaited]
    AWAITED_NOTHING: _ClassVar[Awaited]
    AWAITED_OPERATOR: _ClassVar[Awaited]

class Ending(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENDING_UNSPECIFIED: _ClassVar[Ending]
    ENDING_COMPLETED: _ClassVar[Ending]
    ENDING_FAILED: _ClassVar[Ending]
    ENDING_STOPPED: _ClassVar[Ending]

class Control(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTROL_UNSPECIFIED: _ClassVar[Control]
    CONTROL_PAUSE: _ClassVar[Control]
    CONTROL_RESUME: _ClassVar[Control]
    CONTROL_STOP: _ClassVar[Control]

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_VOTING: _ClassVar[Phase]
    PHASE_RETRAINING: _ClassVar[Phase]
    PHASE_MEASURING: _ClassVar[Phase]
    PHASE_COMPLETED: _ClassVar[Phase]
    PHASE_FAILED: _ClassVar[Phase]
    PHASE_STOPPED: _ClassVar[Phase]
    PHASE_ROLLING_OUT: _ClassVar[Phase]

class RulingReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RULING_REASON_UNSPECIFIED: _ClassVar[RulingReason]
    RULING_REASON_HELD: _ClassVar[RulingReason]
    RULING_REASON_TOO_MANY_WORSE: _ClassVar[RulingReason]
    RULING_REASON_WITHIN_NOISE: _ClassVar[RulingReason]

class RejectReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REJECT_REASON_UNSPECIFIED: _ClassVar[RejectReason]
    REJECT_REASON_MALFORMED: _ClassVar[RejectReason]
    REJECT_REASON_TOO_LARGE: _ClassVar[RejectReason]
    REJECT_REASON_UNKNOWN_FIELD: _ClassVar[RejectReason]
    REJECT_REASON_STRANGER: _ClassVar[RejectReason]
    REJECT_REASON_WRONG_CAMPAIGN: _ClassVar[RejectReason]
    REJECT_REASON_WRONG_LAYOUT: _ClassVar[RejectReason]
    REJECT_REASON_WRONG_SESSION: _ClassVar[RejectReason]
    REJECT_REASON_NOT_INVITED: _ClassVar[RejectReason]
    REJECT_REASON_WRONG_LENGTH: _ClassVar[RejectReason]
    REJECT_REASON_OUT_OF_RANGE: _ClassVar[RejectReason]
    REJECT_REASON_DUPLICATE: _ClassVar[RejectReason]
    REJECT_REASON_LATE: _ClassVar[RejectReason]
    REJECT_REASON_WRONG_ROLE: _ClassVar[RejectReason]
    REJECT_REASON_WRONG_DECISION: _ClassVar[RejectReason]
    REJECT_REASON_NOT_FOUND: _ClassVar[RejectReason]
    REJECT_REASON_BAD_SIGNATURE: _ClassVar[RejectReason]
    REJECT_REASON_UNKNOWN_TOKEN: _ClassVar[RejectReason]
    REJECT_REASON_USED_TOKEN: _ClassVar[RejectReason]
    REJECT_REASON_EXPIRED_TOKEN: _ClassVar[RejectReason]
    REJECT_REASON_REVOKED: _ClassVar[RejectReason]
    REJECT_REASON_TOO_MANY_TRIES: _ClassVar[RejectReason]
    REJECT_REASON_OUT_OF_TURN: _ClassVar[RejectReason]
    REJECT_REASON_BAD_ROSTER: _ClassVar[RejectReason]
    REJECT_REASON_NO_AGREEMENT: _ClassVar[RejectReason]
    REJECT_REASON_BAD_SURVIVORS: _ClassVar[RejectReason]
    REJECT_REASON_TOO_ALIKE: _ClassVar[RejectReason]
DOCUMENT_KIND_UNSPECIFIED: DocumentKind
DOCUMENT_KIND_CAMPAIGN: DocumentKind
DOCUMENT_KIND_DECISION: DocumentKind
DOCUMENT_KIND_SLIM_BASE: DocumentKind
DOCUMENT_KIND_RULING: DocumentKind
READINESS_UNSPECIFIED: Readiness
READINESS_READY: Readiness
READINESS_BUSY: Readiness
READINESS_NO_MEMORY: Readiness
READINESS_LOW_POWER: Readiness
READINESS_NO_DATA: Readiness
SESSION_KIND_UNSPECIFIED: SessionKind
SESSION_KIND_VOTE: SessionKind
SESSION_KIND_OUTCOME: SessionKind
SESSION_KIND_ROLLOUT: SessionKind
AWAITED_UNSPECIFIED: Awaited
AWAITED_DEVICES: Awaited
AWAITED_TRAINER: Awaited
AWAITED_NOTHING: Awaited
AWAITED_OPERATOR: Awaited
ENDING_UNSPECIFIED: Ending
ENDING_COMPLETED: Ending
ENDING_FAILED: Ending
ENDING_STOPPED: Ending
CONTROL_UNSPECIFIED: Control
CONTROL_PAUSE: Control
CONTROL_RESUME: Control
CONTROL_STOP: Control
PHASE_UNSPECIFIED: Phase
PHASE_VOTING: Phase
PHASE_RETRAINING: Phase
PHASE_MEASURING: Phase
PHASE_COMPLETED: Phase
PHASE_FAILED: Phase
PHASE_STOPPED: Phase
PHASE_ROLLING_OUT: Phase
RULING_REASON_UNSPECIFIED: RulingReason
RULING_REASON_HELD: RulingReason
RULING_REASON_TOO_MANY_WORSE: RulingReason
RULING_REASON_WITHIN_NOISE: RulingReason
REJECT_REASON_UNSPECIFIED: RejectReason
REJECT_REASON_MALFORMED: RejectReason
REJECT_REASON_TOO_LARGE: RejectReason
REJECT_REASON_UNKNOWN_FIELD: RejectReason
REJECT_REASON_STRANGER: RejectReason
REJECT_REASON_WRONG_CAMPAIGN: RejectReason
REJECT_REASON_WRONG_LAYOUT: RejectReason
REJECT_REASON_WRONG_SESSION: RejectReason
REJECT_REASON_NOT_INVITED: RejectReason
REJECT_REASON_WRONG_LENGTH: RejectReason
REJECT_REASON_OUT_OF_RANGE: RejectReason
REJECT_REASON_DUPLICATE: RejectReason
REJECT_REASON_LATE: RejectReason
REJECT_REASON_WRONG_ROLE: RejectReason
REJECT_REASON_WRONG_DECISION: RejectReason
REJECT_REASON_NOT_FOUND: RejectReason
REJECT_REASON_BAD_SIGNATURE: RejectReason
REJECT_REASON_UNKNOWN_TOKEN: RejectReason
REJECT_REASON_USED_TOKEN: RejectReason
REJECT_REASON_EXPIRED_TOKEN: RejectReason
REJECT_REASON_REVOKED: RejectReason
REJECT_REASON_TOO_MANY_TRIES: RejectReason
REJECT_REASON_OUT_OF_TURN: RejectReason
REJECT_REASON_BAD_ROSTER: RejectReason
REJECT_REASON_NO_AGREEMENT: RejectReason
REJECT_REASON_BAD_SURVIVORS: RejectReason
REJECT_REASON_TOO_ALIKE: RejectReason

class SignedDocument(_message.Message):
    __slots__ = ("kind", "payload", "signature", "public_key")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    kind: DocumentKind
    payload: bytes
    signature: bytes
    public_key: bytes
    def __init__(self, kind: _Optional[_Union[DocumentKind, str]] = ..., payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class StartCampaignRequest(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: SignedDocument
    def __init__(self, campaign: _Optional[_Union[SignedDocument, _Mapping]] = ...) -> None: ...

class StartCampaignResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCampaignRequest(_message.Message):
    __slots__ = ("device_class", "ended_campaign_id")
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    ENDED_CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    device_class: str
    ended_campaign_id: bytes
    def __init__(self, device_class: _Optional[str] = ..., ended_campaign_id: _Optional[bytes] = ...) -> None: ...

class GetCampaignResponse(_message.Message):
    __slots__ = ("campaign", "come_back")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    COME_BACK_FIELD_NUMBER: _ClassVar[int]
    campaign: SignedDocument
    come_back: ComeBack
    def __init__(self, campaign: _Optional[_Union[SignedDocument, _Mapping]] = ..., come_back: _Optional[_Union[ComeBack, _Mapping]] = ...) -> None: ...

class FetchModelRequest(_message.Message):
    __slots__ = ("digest", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    offset: int
    def __init__(self, digest: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class FetchModelResponse(_message.Message):
    __slots__ = ("total_bytes", "chunk")
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    total_bytes: int
    chunk: bytes
    def __init__(self, total_bytes: _Optional[int] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class CheckInRequest(_message.Message):
    __slots__ = ("campaign_id", "layout_fingerprint", "readiness", "rulings_heard", "slim_base_heard")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    READINESS_FIELD_NUMBER: _ClassVar[int]
    RULINGS_HEARD_FIELD_NUMBER: _ClassVar[int]
    SLIM_BASE_HEARD_FIELD_NUMBER: _ClassVar[int]
    campaign_id: bytes
    layout_fingerprint: bytes
    readiness: Readiness
    rulings_heard: int
    slim_base_heard: int
    def __init__(self, campaign_id: _Optional[bytes] = ..., layout_fingerprint: _Optional[bytes] = ..., readiness: _Optional[_Union[Readiness, str]] = ..., rulings_heard: _Optional[int] = ..., slim_base_heard: _Optional[int] = ...) -> None: ...

class CheckInResponse(_message.Message):
    __slots__ = ("invitation", "come_back", "campaign_ended", "ruling", "slim_base")
    INVITATION_FIELD_NUMBER: _ClassVar[int]
    COME_BACK_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_ENDED_FIELD_NUMBER: _ClassVar[int]
    RULING_FIELD_NUMBER: _ClassVar[int]
    SLIM_BASE_FIELD_NUMBER: _ClassVar[int]
    invitation: Invitation
    come_back: ComeBack
    campaign_ended: CampaignEnded
    ruling: RulingOffer
    slim_base: SlimBaseOffer
    def __init__(self, invitation: _Optional[_Union[Invitation, _Mapping]] = ..., come_back: _Optional[_Union[ComeBack, _Mapping]] = ..., campaign_ended: _Optional[_Union[CampaignEnded, _Mapping]] = ..., ruling: _Optional[_Union[RulingOffer, _Mapping]] = ..., slim_base: _Optional[_Union[SlimBaseOffer, _Mapping]] = ...) -> None: ...

class Invitation(_message.Message):
    __slots__ = ("session_id", "kind", "level", "attempt", "remaining_ms", "decision", "slim_base")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    SLIM_BASE_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    kind: SessionKind
    level: int
    attempt: int
    remaining_ms: int
    decision: SignedDocument
    slim_base: SignedDocument
    def __init__(self, session_id: _Optional[bytes] = ..., kind: _Optional[_Union[SessionKind, str]] = ..., level: _Optional[int] = ..., attempt: _Optional[int] = ..., remaining_ms: _Optional[int] = ..., decision: _Optional[_Union[SignedDocument, _Mapping]] = ..., slim_base: _Optional[_Union[SignedDocument, _Mapping]] = ...) -> None: ...

class ComeBack(_message.Message):
    __slots__ = ("after_ms", "awaited")
    AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    AWAITED_FIELD_NUMBER: _ClassVar[int]
    after_ms: int
    awaited: Awaited
    def __init__(self, after_ms: _Optional[int] = ..., awaited: _Optional[_Union[Awaited, str]] = ...) -> None: ...

class CampaignEnded(_message.Message):
    __slots__ = ("ending",)
    ENDING_FIELD_NUMBER: _ClassVar[int]
    ending: Ending
    def __init__(self, ending: _Optional[_Union[Ending, str]] = ...) -> None: ...

class RulingOffer(_message.Message):
    __slots__ = ("ruling", "decision", "slim_base")
    RULING_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    SLIM_BASE_FIELD_NUMBER: _ClassVar[int]
    ruling: SignedDocument
    decision: SignedDocument
    slim_base: SignedDocument
    def __init__(self, ruling: _Optional[_Union[SignedDocument, _Mapping]] = ..., decision: _Optional[_Union[SignedDocument, _Mapping]] = ..., slim_base: _Optional[_Union[SignedDocument, _Mapping]] = ...) -> None: ...

class SlimBaseOffer(_message.Message):
    __slots__ = ("decision", "slim_base")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    SLIM_BASE_FIELD_NUMBER: _ClassVar[int]
    decision: SignedDocument
    slim_base: SignedDocument
    def __init__(self, decision: _Optional[_Union[SignedDocument, _Mapping]] = ..., slim_base: _Optional[_Union[SignedDocument, _Mapping]] = ...) -> None: ...

class ContributeRequest(_message.Message):
    __slots__ = ("session_id", "payload")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    payload: bytes
    def __init__(self, session_id: _Optional[bytes] = ..., payload: _Optional[bytes] = ...) -> None: ...

class ContributeResponse(_message.Message):
    __slots__ = ("session_id", "survivors", "come_back")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    COME_BACK_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    survivors: bytes
    come_back: ComeBack
    def __init__(self, session_id: _Optional[bytes] = ..., survivors: _Optional[bytes] = ..., come_back: _Optional[_Union[ComeBack, _Mapping]] = ...) -> None: ...

class AwaitDecisionRequest(_message.Message):
    __slots__ = ("campaign_id",)
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    campaign_id: bytes
    def __init__(self, campaign_id: _Optional[bytes] = ...) -> None: ...

class AwaitDecisionResponse(_message.Message):
    __slots__ = ("offer", "come_back", "campaign_ended")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    COME_BACK_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_ENDED_FIELD_NUMBER: _ClassVar[int]
    offer: DecisionOffer
    come_back: ComeBack
    campaign_ended: CampaignEnded
    def __init__(self, offer: _Optional[_Union[DecisionOffer, _Mapping]] = ..., come_back: _Optional[_Union[ComeBack, _Mapping]] = ..., campaign_ended: _Optional[_Union[CampaignEnded, _Mapping]] = ...) -> None: ...

class DecisionOffer(_message.Message):
    __slots__ = ("campaign", "decision", "vote_total", "outcome_totals")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    VOTE_TOTAL_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_TOTALS_FIELD_NUMBER: _ClassVar[int]
    campaign: SignedDocument
    decision: SignedDocument
    vote_total: Total
    outcome_totals: _containers.RepeatedCompositeFieldContainer[Total]
    def __init__(self, campaign: _Optional[_Union[SignedDocument, _Mapping]] = ..., decision: _Optional[_Union[SignedDocument, _Mapping]] = ..., vote_total: _Optional[_Union[Total, _Mapping]] = ..., outcome_totals: _Optional[_Iterable[_Union[Total, _Mapping]]] = ...) -> None: ...

class Total(_message.Message):
    __slots__ = ("lanes", "num_devices")
    LANES_FIELD_NUMBER: _ClassVar[int]
    NUM_DEVICES_FIELD_NUMBER: _ClassVar[int]
    lanes: _containers.RepeatedScalarFieldContainer[int]
    num_devices: int
    def __init__(self, lanes: _Optional[_Iterable[int]] = ..., num_devices: _Optional[int] = ...) -> None: ...

class UploadModelRequest(_message.Message):
    __slots__ = ("digest", "offset", "total_bytes", "chunk")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    offset: int
    total_bytes: int
    chunk: bytes
    def __init__(self, digest: _Optional[bytes] = ..., offset: _Optional[int] = ..., total_bytes: _Optional[int] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UploadModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PublishSlimBaseRequest(_message.Message):
    __slots__ = ("slim_base",)
    SLIM_BASE_FIELD_NUMBER: _ClassVar[int]
    slim_base: SignedDocument
    def __init__(self, slim_base: _Optional[_Union[SignedDocument, _Mapping]] = ...) -> None: ...

class PublishSlimBaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ControlCampaignRequest(_message.Message):
    __slots__ = ("campaign_id", "control")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    campaign_id: bytes
    control: Control
    def __init__(self, campaign_id: _Optional[bytes] = ..., control: _Optional[_Union[Control, str]] = ...) -> None: ...

class ControlCampaignResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("campaigns", "deny_list_age_ms", "authority_is_built_in")
    CAMPAIGNS_FIELD_NUMBER: _ClassVar[int]
    DENY_LIST_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_IS_BUILT_IN_FIELD_NUMBER: _ClassVar[int]
    campaigns: _containers.RepeatedCompositeFieldContainer[CampaignStatus]
    deny_list_age_ms: int
    authority_is_built_in: bool
    def __init__(self, campaigns: _Optional[_Iterable[_Union[CampaignStatus, _Mapping]]] = ..., deny_list_age_ms: _Optional[int] = ..., authority_is_built_in: _Optional[bool] = ...) -> None: ...

class RulingStatus(_message.Message):
    __slots__ = ("level", "is_rollout", "reason", "num_devices", "num_worse", "max_worse")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    IS_ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_DEVICES_FIELD_NUMBER: _ClassVar[int]
    NUM_WORSE_FIELD_NUMBER: _ClassVar[int]
    MAX_WORSE_FIELD_NUMBER: _ClassVar[int]
    level: int
    is_rollout: bool
    reason: RulingReason
    num_devices: int
    num_worse: int
    max_worse: int
    def __init__(self, level: _Optional[int] = ..., is_rollout: _Optional[bool] = ..., reason: _Optional[_Union[RulingReason, str]] = ..., num_devices: _Optional[int] = ..., num_worse: _Optional[int] = ..., max_worse: _Optional[int] = ...) -> None: ...

class CampaignStatus(_message.Message):
    __slots__ = ("campaign_id", "device_class", "phase", "is_paused", "level", "num_levels", "attempt", "num_contributions", "quorum", "cohort_size", "remaining_ms", "awaited", "awaited_for_ms", "awaited_ids", "rulings")
    CAMPAIGN_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    IS_PAUSED_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    NUM_LEVELS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NUM_CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    COHORT_SIZE_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    AWAITED_FIELD_NUMBER: _ClassVar[int]
    AWAITED_FOR_MS_FIELD_NUMBER: _ClassVar[int]
    AWAITED_IDS_FIELD_NUMBER: _ClassVar[int]
    RULINGS_FIELD_NUMBER: _ClassVar[int]
    campaign_id: bytes
    device_class: str
    phase: Phase
    is_paused: bool
    level: int
    num_levels: int
    attempt: int
    num_contributions: int
    quorum: int
    cohort_size: int
    remaining_ms: int
    awaited: Awaited
    awaited_for_ms: int
    awaited_ids: _containers.RepeatedScalarFieldContainer[str]
    rulings: _containers.RepeatedCompositeFieldContainer[RulingStatus]
    def __init__(self, campaign_id: _Optional[bytes] = ..., device_class: _Optional[str] = ..., phase: _Optional[_Union[Phase, str]] = ..., is_paused: _Optional[bool] = ..., level: _Optional[int] = ..., num_levels: _Optional[int] = ..., attempt: _Optional[int] = ..., num_contributions: _Optional[int] = ..., quorum: _Optional[int] = ..., cohort_size: _Optional[int] = ..., remaining_ms: _Optional[int] = ..., awaited: _Optional[_Union[Awaited, str]] = ..., awaited_for_ms: _Optional[int] = ..., awaited_ids: _Optional[_Iterable[str]] = ..., rulings: _Optional[_Iterable[_Union[RulingStatus, _Mapping]]] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("reason", "expected", "got", "remedy")
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    GOT_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    reason: RejectReason
    expected: str
    got: str
    remedy: str
    def __init__(self, reason: _Optional[_Union[RejectReason, str]] = ..., expected: _Optional[str] = ..., got: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...
