//! The simplest real disk: carries every operation out at once, blocking, on files.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use nsq_log::{Disk, Op, OpOutput, OpResult, Token};

use super::TestDisk;
use super::sim_disk::kind;

#[derive(Debug, Default)]
pub(crate) struct FsDisk {
    results: VecDeque<(Token, OpResult)>,
    /// Opens so many times fail for want of descriptors.
    pub(crate) opens_to_fail: u32,
    /// So does making and replacing files.
    pub(crate) makes_to_fail: u32,
    pub(crate) opens: u32,
    pub(crate) syncs: u32,
    /// Files that were to be filled with zeros.
    pub(crate) filled: u32,
    /// What was carried out, in order.
    pub(crate) done: Vec<&'static str>,
}

impl FsDisk {
    fn carry_out(&mut self, op: Op) -> OpResult {
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
            Op::Sync { file } => {
                self.syncs += 1;
                borrow(&file)?.sync_data().map(|()| OpOutput::Done)
            }
            Op::Read { file, offset, len } => {
                let mut bytes = vec![0; len as usize];
                let mut filled = 0;
                let file = borrow(&file)?;
                loop {
                    match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                        0 => break,
                        read => filled += read,
                    }
                }
                bytes.truncate(filled);
                Ok(OpOutput::Data(Bytes::from(bytes)))
            }
            Op::Open { path } => {
                self.opens += 1;
                if self.opens_to_fail > 0 {
                    self.opens_to_fail -= 1;
                    return Err(io::Error::from_raw_os_error(24));
                }
                opened(&path)
            }
            Op::Create {
                path,
                len,
                is_written,
            } => {
                self.filled += u32::from(is_written);
                fs::create_dir_all(path.parent().unwrap())?;
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(&path)?
                    .set_len(len)?;
                opened(&path)
            }
            Op::Recycle { from, to } => {
                fs::rename(from, &to)?;
                opened(&to)
            }
            Op::Replace { path, contents } => {
                let aside = path.with_extension("log.tmp");
                let mut file = File::create(&aside)?;
                file.write_all(&contents)?;
                fs::rename(&aside, &path)?;
                opened(&path)
            }
            Op::Remove { path } => ignore_absent(fs::remove_file(path)),
            Op::RemoveAll { path } => ignore_absent(fs::remove_dir_all(path)),
        }
    }
}

fn borrow(file: &nsq_log::File) -> io::Result<File> {
    file.as_fd().try_clone_to_owned().map(File::from)
}

fn opened(path: &Path) -> OpResult {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    Ok(OpOutput::File(Rc::new(OwnedFd::from(file))))
}

fn ignore_absent(result: io::Result<()>) -> OpResult {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(OpOutput::Done),
    }
}

impl Disk for FsDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.done.push(kind(&op));
        let is_making = matches!(
            op,
            Op::Create { .. } | Op::Recycle { .. } | Op::Replace { .. }
        );
        let result = if is_making && self.makes_to_fail > 0 {
            self.makes_to_fail -= 1;
            Err(io::Error::from_raw_os_error(24))
        } else {
            self.carry_out(op)
        };
        self.results.push_back((token, result));
    }
}

impl TestDisk for FsDisk {
    fn finish_one(&mut self) -> Option<(Token, OpResult)> {
        self.results.pop_front()
    }
}
