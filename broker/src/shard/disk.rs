//! The disk of the logs: reads, writes and syncs go to the ring, the rest to the storage thread.

use std::sync::mpsc::Sender;

use nsq_core::TopicKey;
use nsq_log::{Disk, Op, Token};
use slotmap::{Key, SlotMap};

use super::DiskOpKey;
use super::message::{ShardId, StorageJob, StorageOp};
use super::socket::RingOp;
use crate::ring::Write;

/// Lends a log the means of its shard for one call.
pub(super) struct ShardDisk<'a> {
    pub(super) shard: ShardId,
    pub(super) topic: TopicKey,
    pub(super) ops: &'a mut SlotMap<DiskOpKey, (TopicKey, Token)>,
    pub(super) ring: &'a mut Vec<RingOp>,
    pub(super) storage: &'a Sender<StorageJob>,
}

impl Disk for ShardDisk<'_> {
    fn submit(&mut self, token: Token, op: Op) {
        let op = match StorageOp::from_op(op) {
            Ok(op) => {
                let job = StorageJob {
                    shard: self.shard,
                    topic: self.topic,
                    token,
                    op,
                };
                // The thread outlives the shards; if it were gone, so were the process.
                self.storage
                    .send(job)
                    .expect("the storage thread lives as long as the shards");
                return;
            }
            Err(op) => op,
        };
        let key = self.ops.insert((self.topic, token)).data().as_ffi();
        self.ring.push(match op {
            Op::Write {
                file,
                offset,
                head,
                body,
                is_urgent,
            } => RingOp::Write(Write {
                token: key,
                file,
                offset,
                parts: [head, body],
                is_urgent,
            }),
            Op::Read { file, offset, len } => RingOp::Read {
                token: key,
                file,
                offset,
                len,
            },
            Op::Sync { file } => RingOp::Sync { token: key, file },
            Op::Open { .. }
            | Op::Create { .. }
            | Op::Recycle { .. }
            | Op::Replace { .. }
            | Op::Remove { .. }
            | Op::RemoveAll { .. } => unreachable!("taken by the storage thread above"),
        });
    }
}
