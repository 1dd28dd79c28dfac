"""The messages of etcd's interface. Made by `python tests/etcd_stubs.py` from _etcd.proto: change that instead."""

# pyright: basic

from __future__ import annotations

from google.protobuf import descriptor_pool, message_factory

_DESCRIPTOR = (
    b'\n\x0b_etcd.proto\x12\x0bleases.etcd"A\n\x06He'
    b'ader\x12\x12\n\ncluster_id\x18\x01 \x01(\x04\x12\x11\n\tmemb'
    b'er_id\x18\x02 \x01(\x04\x12\x10\n\x08revision\x18\x03 \x01(\x03"d\n'
    b'\x08KeyValue\x12\x0b\n\x03key\x18\x01 \x01(\x0c\x12\x17\n\x0fcreate'
    b'_revision\x18\x02 \x01(\x03\x12\x14\n\x0cmod_revision\x18'
    b'\x03 \x01(\x03\x12\r\n\x05value\x18\x05 \x01(\x0c\x12\r\n\x05lease\x18\x06 '
    b'\x01(\x03"=\n\x0cRangeRequest\x12\x0b\n\x03key\x18\x01 \x01(\x0c'
    b'\x12\x11\n\trange_end\x18\x02 \x01(\x0c\x12\r\n\x05limit\x18\x03 \x01'
    b'(\x03"f\n\rRangeResponse\x12#\n\x06header\x18\x01 '
    b'\x01(\x0b2\x13.leases.etcd.Header\x12"\n\x03kvs\x18'
    b'\x02 \x03(\x0b2\x15.leases.etcd.KeyValue\x12\x0c\n\x04'
    b'more\x18\x03 \x01(\x08"7\n\nPutRequest\x12\x0b\n\x03key\x18'
    b'\x01 \x01(\x0c\x12\r\n\x05value\x18\x02 \x01(\x0c\x12\r\n\x05lease\x18\x03 '
    b'\x01(\x03"!\n\x12DeleteRangeRequest\x12\x0b\n\x03key'
    b'\x18\x01 \x01(\x0c"\xbb\x01\n\tRequestOp\x122\n\rrequest_'
    b'range\x18\x01 \x01(\x0b2\x19.leases.etcd.RangeR'
    b'equestH\x00\x12.\n\x0brequest_put\x18\x02 \x01(\x0b2\x17.'
    b'leases.etcd.PutRequestH\x00\x12?\n\x14requ'
    b'est_delete_range\x18\x03 \x01(\x0b2\x1f.leases.'
    b'etcd.DeleteRangeRequestH\x00B\t\n\x07req'
    b'uest"N\n\nResponseOp\x124\n\x0eresponse_r'
    b'ange\x18\x01 \x01(\x0b2\x1a.leases.etcd.RangeRe'
    b'sponseH\x00B\n\n\x08response"\xe0\x01\n\x07Compare'
    b'\x12+\n\x06result\x18\x01 \x01(\x0e2\x1b.leases.etcd.C'
    b'ompare.Result\x12+\n\x06target\x18\x02 \x01(\x0e2\x1b.'
    b'leases.etcd.Compare.Target\x12\x0b\n\x03ke'
    b'y\x18\x03 \x01(\x0c\x12\x11\n\x07version\x18\x04 \x01(\x03H\x00\x12\x16\n\x0cmo'
    b'd_revision\x18\x06 \x01(\x03H\x00"\x13\n\x06Result\x12\t\n\x05'
    b'EQUAL\x10\x00"\x1e\n\x06Target\x12\x0b\n\x07VERSION\x10\x00\x12\x07'
    b'\n\x03MOD\x10\x02B\x0e\n\x0ctarget_union"\x85\x01\n\nTxnR'
    b'equest\x12%\n\x07compare\x18\x01 \x03(\x0b2\x14.leases'
    b".etcd.Compare\x12'\n\x07success\x18\x02 \x03(\x0b2\x16"
    b".leases.etcd.RequestOp\x12'\n\x07failur"
    b'e\x18\x03 \x03(\x0b2\x16.leases.etcd.RequestOp"'
    b'q\n\x0bTxnResponse\x12#\n\x06header\x18\x01 \x01(\x0b2\x13'
    b'.leases.etcd.Header\x12\x11\n\tsucceeded'
    b'\x18\x02 \x01(\x08\x12*\n\tresponses\x18\x03 \x03(\x0b2\x17.leas'
    b'es.etcd.ResponseOp"K\n\x12WatchCreat'
    b'eRequest\x12\x0b\n\x03key\x18\x01 \x01(\x0c\x12\x16\n\x0estart_r'
    b'evision\x18\x03 \x01(\x03\x12\x10\n\x08watch_id\x18\x07 \x01(\x03"'
    b'&\n\x12WatchCancelRequest\x12\x10\n\x08watch_i'
    b'd\x18\x01 \x01(\x03"\x95\x01\n\x0cWatchRequest\x129\n\x0ecrea'
    b'te_request\x18\x01 \x01(\x0b2\x1f.leases.etcd.W'
    b'atchCreateRequestH\x00\x129\n\x0ecancel_re'
    b'quest\x18\x02 \x01(\x0b2\x1f.leases.etcd.WatchC'
    b'ancelRequestH\x00B\x0f\n\rrequest_union"'
    b'n\n\x05Event\x12%\n\x04type\x18\x01 \x01(\x0e2\x17.leases.'
    b'etcd.Event.Type\x12!\n\x02kv\x18\x02 \x01(\x0b2\x15.le'
    b'ases.etcd.KeyValue"\x1b\n\x04Type\x12\x07\n\x03PU'
    b'T\x10\x00\x12\n\n\x06DELETE\x10\x01"\xbe\x01\n\rWatchRespons'
    b'e\x12#\n\x06header\x18\x01 \x01(\x0b2\x13.leases.etcd.'
    b'Header\x12\x10\n\x08watch_id\x18\x02 \x01(\x03\x12\x0f\n\x07crea'
    b'ted\x18\x03 \x01(\x08\x12\x10\n\x08canceled\x18\x04 \x01(\x08\x12\x18\n\x10c'
    b'ompact_revision\x18\x05 \x01(\x03\x12\x15\n\rcancel_'
    b'reason\x18\x06 \x01(\t\x12"\n\x06events\x18\x0b \x03(\x0b2\x12.l'
    b'eases.etcd.Event" \n\x11LeaseGrantRe'
    b'quest\x12\x0b\n\x03TTL\x18\x01 \x01(\x03"R\n\x12LeaseGrant'
    b'Response\x12#\n\x06header\x18\x01 \x01(\x0b2\x13.lease'
    b's.etcd.Header\x12\n\n\x02ID\x18\x02 \x01(\x03\x12\x0b\n\x03TTL'
    b'\x18\x03 \x01(\x03"5\n\x13AuthenticateRequest\x12\x0c\n'
    b'\x04name\x18\x01 \x01(\t\x12\x10\n\x08password\x18\x02 \x01(\t"J\n'
    b'\x14AuthenticateResponse\x12#\n\x06header\x18'
    b'\x01 \x01(\x0b2\x13.leases.etcd.Header\x12\r\n\x05to'
    b'ken\x18\x02 \x01(\t"\x13\n\x11AuthStatusRequest"J'
    b'\n\x12AuthStatusResponse\x12#\n\x06header\x18\x01'
    b' \x01(\x0b2\x13.leases.etcd.Header\x12\x0f\n\x07ena'
    b'bled\x18\x02 \x01(\x08"\x0f\n\rStatusRequest"\xb3\x01\n\x0e'
    b'StatusResponse\x12#\n\x06header\x18\x01 \x01(\x0b2\x13'
    b'.leases.etcd.Header\x12\x0f\n\x07version\x18\x02'
    b' \x01(\t\x12\x0e\n\x06dbSize\x18\x03 \x01(\x03\x12\x0e\n\x06leader\x18\x04'
    b' \x01(\x04\x12\x0e\n\x06errors\x18\x08 \x03(\t\x12\x13\n\x0bdbSizeIn'
    b'Use\x18\t \x01(\x03\x12\x11\n\tisLearner\x18\n \x01(\x08\x12\x13\n\x0b'
    b'dbSizeQuota\x18\x0c \x01(\x03"I\n\x06Member\x12\n\n\x02I'
    b'D\x18\x01 \x01(\x04\x12\x0c\n\x04name\x18\x02 \x01(\t\x12\x12\n\nclientU'
    b'RLs\x18\x04 \x03(\t\x12\x11\n\tisLearner\x18\x05 \x01(\x08"\x13\n\x11'
    b'MemberListRequest"_\n\x12MemberListR'
    b'esponse\x12#\n\x06header\x18\x01 \x01(\x0b2\x13.leases'
    b'.etcd.Header\x12$\n\x07members\x18\x02 \x03(\x0b2\x13.'
    b'leases.etcd.Member"\x0e\n\x0cAlarmReque'
    b'st"y\n\x0bAlarmMember\x12\x10\n\x08memberID\x18\x01 '
    b'\x01(\x04\x12,\n\x05alarm\x18\x02 \x01(\x0e2\x1d.leases.etcd'
    b'.AlarmMember.Type"*\n\x04Type\x12\x08\n\x04NON'
    b'E\x10\x00\x12\x0b\n\x07NOSPACE\x10\x01\x12\x0b\n\x07CORRUPT\x10\x02"^\n'
    b'\rAlarmResponse\x12#\n\x06header\x18\x01 \x01(\x0b2\x13'
    b'.leases.etcd.Header\x12(\n\x06alarms\x18\x02 '
    b'\x03(\x0b2\x18.leases.etcd.AlarmMemberb\x06p'
    b'roto3'
)
_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_DESCRIPTOR)


def _class(name):
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName("leases.etcd." + name))


Header = _class("Header")
KeyValue = _class("KeyValue")
RangeRequest = _class("RangeRequest")
RangeResponse = _class("RangeResponse")
PutRequest = _class("PutRequest")
DeleteRangeRequest = _class("DeleteRangeRequest")
RequestOp = _class("RequestOp")
ResponseOp = _class("ResponseOp")
Compare = _class("Compare")
TxnRequest = _class("TxnRequest")
TxnResponse = _class("TxnResponse")
WatchCreateRequest = _class("WatchCreateRequest")
WatchCancelRequest = _class("WatchCancelRequest")
WatchRequest = _class("WatchRequest")
Event = _class("Event")
WatchResponse = _class("WatchResponse")
LeaseGrantRequest = _class("LeaseGrantRequest")
LeaseGrantResponse = _class("LeaseGrantResponse")
AuthenticateRequest = _class("AuthenticateRequest")
AuthenticateResponse = _class("AuthenticateResponse")
AuthStatusRequest = _class("AuthStatusRequest")
AuthStatusResponse = _class("AuthStatusResponse")
StatusRequest = _class("StatusRequest")
StatusResponse = _class("StatusResponse")
Member = _class("Member")
MemberListRequest = _class("MemberListRequest")
MemberListResponse = _class("MemberListResponse")
AlarmRequest = _class("AlarmRequest")
AlarmMember = _class("AlarmMember")
AlarmResponse = _class("AlarmResponse")
