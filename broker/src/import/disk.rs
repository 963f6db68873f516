//! A disk for logs that are written before the shards run: every operation is carried out at once.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use bytes::Bytes;
use nsq_log::{Disk, Op, OpOutput, OpResult, Token};

use crate::shard::message::StorageOp;
use crate::storage;

/// The outcomes that the log has not been told yet, oldest first.
#[derive(Debug, Default)]
pub(super) struct BlockingDisk(pub(super) VecDeque<(Token, OpResult)>);

impl Disk for BlockingDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let result = match StorageOp::from_op(op) {
            Ok(op) => storage::carry_out(op)
                .map(|file| file.map_or(OpOutput::Done, |file| OpOutput::File(Rc::new(file)))),
            Err(op) => carry_out(op),
        };
        self.0.push_back((token, result));
    }
}

fn carry_out(op: Op) -> OpResult {
    match op {
        Op::Write {
            file,
            offset,
            head,
            body,
            ..
        } => {
            let file = borrow(&file)?;
            file.write_all_at(&head, offset)?;
            file.write_all_at(&body, offset + head.len() as u64)?;
            Ok(OpOutput::Done)
        }
        Op::Sync { file } => borrow(&file)?.sync_data().map(|()| OpOutput::Done),
        Op::Read { file, offset, len } => read(&borrow(&file)?, offset, len),
        Op::Open { .. }
        | Op::Create { .. }
        | Op::Recycle { .. }
        | Op::Replace { .. }
        | Op::Remove { .. }
        | Op::RemoveAll { .. } => unreachable!("a job of the storage thread"),
    }
}

fn borrow(file: &nsq_log::File) -> io::Result<File> {
    file.try_clone().map(File::from)
}

fn read(file: &File, offset: u64, len: u32) -> OpResult {
    let mut bytes = vec![0; len as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    bytes.truncate(filled);
    Ok(OpOutput::Data(Bytes::from(bytes)))
}
