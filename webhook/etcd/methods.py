"""The methods of etcd's API that are used, by their path.

Source: etcd ``api/etcdserverpb/rpc.proto`` (v3.6).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from webhook.etcd import rpc_pb2 as rpc

Response = TypeVar("Response")


@dataclass(frozen=True, slots=True)
class Method(Generic[Response]):
    """A method. ``parse`` raises DecodeError for bytes that are not its answer.

    ``needs_leader``: a member that has lost the others is to refuse at once, instead of waiting or
    answering from what it has. ``needs_login``: a token is sent, if there is a user to log in.
    """

    path: str
    parse: Callable[[bytes], Response]
    needs_leader: bool = True
    needs_login: bool = True

    @property
    def name(self) -> str:
        """The name for messages."""
        return self.path.rpartition("/")[2]


RANGE: Final = Method("/etcdserverpb.KV/Range", rpc.RangeResponse.FromString)
PUT: Final = Method("/etcdserverpb.KV/Put", rpc.PutResponse.FromString)
DELETE_RANGE: Final = Method("/etcdserverpb.KV/DeleteRange", rpc.DeleteRangeResponse.FromString)
TXN: Final = Method("/etcdserverpb.KV/Txn", rpc.TxnResponse.FromString)
COMPACT: Final = Method("/etcdserverpb.KV/Compact", rpc.CompactionResponse.FromString)
WATCH: Final = Method("/etcdserverpb.Watch/Watch", rpc.WatchResponse.FromString)
LEASE_GRANT: Final = Method("/etcdserverpb.Lease/LeaseGrant", rpc.LeaseGrantResponse.FromString)
LEASE_REVOKE: Final = Method("/etcdserverpb.Lease/LeaseRevoke", rpc.LeaseRevokeResponse.FromString)
LEASE_KEEP_ALIVE: Final = Method(
    "/etcdserverpb.Lease/LeaseKeepAlive", rpc.LeaseKeepAliveResponse.FromString
)
LEASE_TIME_TO_LIVE: Final = Method(
    "/etcdserverpb.Lease/LeaseTimeToLive", rpc.LeaseTimeToLiveResponse.FromString
)
AUTHENTICATE: Final = Method(
    "/etcdserverpb.Auth/Authenticate", rpc.AuthenticateResponse.FromString, needs_login=False
)
AUTH_STATUS: Final = Method("/etcdserverpb.Auth/AuthStatus", rpc.AuthStatusResponse.FromString)
USER_GET: Final = Method("/etcdserverpb.Auth/UserGet", rpc.AuthUserGetResponse.FromString)
ROLE_GET: Final = Method("/etcdserverpb.Auth/RoleGet", rpc.AuthRoleGetResponse.FromString)
STATUS: Final = Method(
    "/etcdserverpb.Maintenance/Status", rpc.StatusResponse.FromString, needs_leader=False
)
PROBE: Final = Method(STATUS.path, STATUS.parse, needs_leader=False, needs_login=False)
"""Status, of which any answer will do."""
ALARM: Final = Method("/etcdserverpb.Maintenance/Alarm", rpc.AlarmResponse.FromString)
MEMBER_LIST: Final = Method("/etcdserverpb.Cluster/MemberList", rpc.MemberListResponse.FromString)
