from prunefleet_shared._generated.prunefleet.v1 import messages_pb2 as _messages_pb2
from prunefleet_shared._generated.prunefleet.v1 import secure_sum_pb2 as _secure_sum_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
