//! A disk in memory that does what real ones do at the worst moment, by seed: finishes operations
//! in any order, tears those that a crash interrupts, forgets what was not synced, fails.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use nsq_log::{Disk, Op, OpOutput, OpResult, Token};

use super::{Rng, TestDisk};

const SECTOR: usize = 512;
/// What the making of a segment leaves for the journal on a disk that runs full, as the shell does.
const JOURNAL_RESERVE: usize = 4096;

/// How the machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process dies: what the kernel has stays.
    Kill,
    /// The power goes: of what was not synced, any sectors may be there or not.
    Power,
}

/// A file: what reads see, what is on the medium, and the writes in between.
#[derive(Debug, Clone, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl Inode {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        overwrite(&mut self.current, offset, bytes);
        self.unsynced.push((offset, bytes.to_vec()));
    }

    /// Makes the first `count` unsynced writes durable.
    fn sync(&mut self, count: usize) {
        for (offset, bytes) in self.unsynced.drain(..count) {
            overwrite(&mut self.durable, offset, &bytes);
        }
    }

    /// What a power failure leaves.
    fn lose_power(&self, rng: &mut Rng) -> Vec<u8> {
        let mut left = self.durable.clone();
        for (offset, bytes) in &self.unsynced {
            let survival = [0, 50, 90, 100][rng.index(4)];
            let mut at = 0;
            while at < bytes.len() {
                let sector_end = (offset + at + 1).next_multiple_of(SECTOR) - offset;
                let end = sector_end.min(bytes.len());
                if rng.chance(survival) {
                    overwrite(&mut left, offset + at, &bytes[at..end]);
                }
                at = end;
            }
        }
        left
    }
}

fn overwrite(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

#[derive(Debug)]
struct Pending {
    token: Token,
    op: Op,
    /// It survives the death of the process.
    is_accepted: bool,
    /// For a sync: how many of the file's writes it covers.
    covers: usize,
}

#[derive(Debug)]
pub(crate) struct SimDisk {
    pub(crate) rng: Rng,
    names: BTreeMap<PathBuf, usize>,
    inodes: Vec<Inode>,
    handles: HashMap<RawFd, usize>,
    pending: Vec<Pending>,
    /// Operations finished so far.
    pub(crate) finished: u64,
    /// The operation of this number fails.
    pub(crate) fail_at: Option<u64>,
    /// Bytes that fit on it.
    pub(crate) capacity: Option<usize>,
    /// Writes that failed after they had been accepted.
    kept: Vec<Op>,
    /// Kinds of operations that failed.
    pub(crate) failed: Vec<&'static str>,
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng(seed),
            names: BTreeMap::new(),
            inodes: Vec::new(),
            handles: HashMap::new(),
            pending: Vec::new(),
            finished: 0,
            fail_at: None,
            capacity: None,
            kept: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Goes down. The surviving files are put into `dir`, where recovery finds them.
    pub(crate) fn crash(mut self, crash: Crash, dir: &Path) -> Wreck {
        while !self.pending.is_empty() {
            let at = self.rng.index(self.pending.len());
            let Pending {
                op,
                covers,
                is_accepted,
                ..
            } = self.pending.swap_remove(at);
            match op {
                Op::Write {
                    file,
                    offset,
                    head,
                    body,
                    ..
                } => {
                    let bytes = [&head[..], &body[..]].concat();
                    let keep = match self.rng.below(3) {
                        _ if is_accepted && crash == Crash::Kill => bytes.len(),
                        0 => 0,
                        1 => self.rng.index(bytes.len() + 1),
                        _ => bytes.len(),
                    };
                    self.inode(&file)
                        .write(usize::try_from(offset).unwrap(), &bytes[..keep]);
                }
                other => {
                    if self.rng.chance(50) {
                        drop(self.carry_out(other, covers));
                    }
                }
            }
        }
        if crash == Crash::Kill {
            for op in std::mem::take(&mut self.kept) {
                drop(self.carry_out(op, 0));
            }
        }
        if dir.exists() {
            fs::remove_dir_all(dir).unwrap();
        }
        let mut wreck = Wreck {
            durable: BTreeMap::new(),
        };
        for (path, &inode) in &self.names {
            let inode = &self.inodes[inode];
            let left = match crash {
                Crash::Kill => inode.current.clone(),
                Crash::Power => inode.lose_power(&mut self.rng),
            };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &left).unwrap();
            let durable = if crash == Crash::Kill {
                inode.durable.clone()
            } else {
                left
            };
            wreck.durable.insert(path.clone(), durable);
        }
        wreck
    }

    /// A disk that holds what lies in `dir` after the recovery from `wreck`, which synced the
    /// journal or not.
    pub(crate) fn after(wreck: &Wreck, dir: &Path, seed: u64, has_synced: bool) -> Self {
        let mut disk = Self::new(seed);
        let Ok(entries) = fs::read_dir(dir) else {
            return disk;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let current = fs::read(&path).unwrap();
            let mut inode = Inode {
                current,
                ..Inode::default()
            };
            let is_synced = has_synced && path.ends_with("checkpoint.log");
            match wreck.durable.get(&path).filter(|_| !is_synced) {
                Some(durable) => {
                    inode.durable.clone_from(durable);
                    inode.durable.resize(inode.current.len(), 0);
                    let sectors = inode
                        .current
                        .chunks(SECTOR)
                        .zip(inode.durable.chunks(SECTOR));
                    let changed = sectors.enumerate().filter(|(_, (new, old))| new != old);
                    inode.unsynced = changed
                        .map(|(at, (new, _))| (at * SECTOR, new.to_vec()))
                        .collect();
                }
                None => inode.durable.clone_from(&inode.current),
            }
            disk.names.insert(path, disk.inodes.len());
            disk.inodes.push(inode);
        }
        disk
    }

    /// The kinds of operations in flight.
    pub(crate) fn pending_kinds(&self) -> Vec<&'static str> {
        self.pending
            .iter()
            .map(|pending| kind(&pending.op))
            .collect()
    }

    /// Carries out the oldest operation of a kind.
    pub(crate) fn finish_kind(&mut self, wanted: &str) -> (Token, OpResult) {
        let at = self
            .pending_kinds()
            .iter()
            .position(|kind| *kind == wanted)
            .unwrap();
        let Pending {
            token, op, covers, ..
        } = self.pending.remove(at);
        (token, self.carry_out(op, covers))
    }

    /// Takes one of the appends in flight into its keeping.
    pub(crate) fn accept_one(&mut self) -> Option<Token> {
        let is_append = |pending: &Pending| matches!(&pending.op, Op::Write { head, .. } if head.starts_with(b"RQB1"));
        let appends = self.pending.iter_mut().filter(|it| is_append(it));
        let pending = appends.filter(|it| !it.is_accepted).last()?;
        pending.is_accepted = true;
        Some(pending.token)
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.names.keys()
    }

    /// Bytes of all files.
    pub(crate) fn used(&self) -> usize {
        let inodes = self.names.values();
        inodes.map(|&inode| self.inodes[inode].current.len()).sum()
    }

    /// Damages the byte at this place of all files, one after the other.
    pub(crate) fn flip(&mut self, mut at: usize, bits: u8) {
        for &inode in self.names.values() {
            let bytes = &mut self.inodes[inode].current;
            match bytes.get_mut(at) {
                Some(byte) => return *byte ^= bits,
                None => at -= bytes.len(),
            }
        }
    }

    /// Whether there is no room for what the operation adds.
    fn is_too_much(&mut self, op: &Op) -> bool {
        let Some(capacity) = self.capacity else {
            return false;
        };
        let grown = match op {
            Op::Create { len, .. } => usize::try_from(*len).unwrap() + JOURNAL_RESERVE,
            Op::Replace { contents, .. } => contents.len(),
            Op::Write {
                file,
                offset,
                head,
                body,
                ..
            } => {
                let end = usize::try_from(*offset).unwrap() + head.len() + body.len();
                end.saturating_sub(self.inode(file).current.len())
            }
            _ => 0,
        };
        grown > 0 && self.used() + grown > capacity
    }

    fn inode(&mut self, file: &nsq_log::File) -> &mut Inode {
        let inode = self.handles[&file.as_raw_fd()];
        &mut self.inodes[inode]
    }

    fn open(&mut self, path: &Path) -> OpResult {
        let Some(&inode) = self.names.get(path) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let handle = OwnedFd::from(fs::File::open("/dev/null")?);
        self.handles.insert(handle.as_raw_fd(), inode);
        Ok(OpOutput::File(Rc::new(handle)))
    }

    fn add(&mut self, path: &Path, contents: Vec<u8>) -> OpResult {
        let inode = Inode {
            durable: contents.clone(),
            current: contents,
            unsynced: Vec::new(),
        };
        self.names.insert(path.to_owned(), self.inodes.len());
        self.inodes.push(inode);
        self.open(path)
    }

    fn carry_out(&mut self, op: Op, covers: usize) -> OpResult {
        match op {
            Op::Write {
                file,
                offset,
                head,
                body,
                ..
            } => {
                let offset = usize::try_from(offset).unwrap();
                self.inode(&file)
                    .write(offset, &[&head[..], &body[..]].concat());
                Ok(OpOutput::Done)
            }
            Op::Sync { file } => {
                self.inode(&file).sync(covers);
                Ok(OpOutput::Done)
            }
            Op::Read { file, offset, len } => {
                let bytes = &self.inode(&file).current;
                let start = usize::try_from(offset).unwrap().min(bytes.len());
                let end = (start + len as usize).min(bytes.len());
                Ok(OpOutput::Data(Bytes::copy_from_slice(&bytes[start..end])))
            }
            Op::Open { path } => self.open(&path),
            Op::Create { path, len, .. } => {
                if self.names.contains_key(&path) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                self.add(&path, vec![0; usize::try_from(len).unwrap()])
            }
            Op::Recycle { from, to } => {
                let inode = self.names.remove(&from).ok_or(io::ErrorKind::NotFound)?;
                self.names.insert(to.clone(), inode);
                self.open(&to)
            }
            Op::Replace { path, contents } => self.add(&path, contents.to_vec()),
            Op::Remove { path } => {
                self.names.remove(&path);
                Ok(OpOutput::Done)
            }
            Op::RemoveAll { path } => {
                self.names.retain(|name, _| !name.starts_with(&path));
                Ok(OpOutput::Done)
            }
        }
    }
}

/// What a crash left of the files' durable contents; the rest lies in the directory.
#[derive(Debug)]
pub(crate) struct Wreck {
    durable: BTreeMap<PathBuf, Vec<u8>>,
}

pub(crate) fn kind(op: &Op) -> &'static str {
    match op {
        Op::Write { .. } => "write",
        Op::Sync { .. } => "sync",
        Op::Read { .. } => "read",
        Op::Open { .. } => "open",
        Op::Create { .. } => "create",
        Op::Recycle { .. } => "recycle",
        Op::Replace { .. } => "replace",
        Op::Remove { .. } | Op::RemoveAll { .. } => "remove",
    }
}

impl Disk for SimDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let covers = match &op {
            Op::Sync { file } => self.inode(file).unsynced.len(),
            _ => 0,
        };
        self.pending.push(Pending {
            token,
            op,
            is_accepted: false,
            covers,
        });
    }
}

impl TestDisk for SimDisk {
    fn finish_one(&mut self) -> Option<(Token, OpResult)> {
        if self.pending.is_empty() {
            return None;
        }
        let at = self.rng.index(self.pending.len());
        let Pending {
            token,
            op,
            is_accepted,
            covers,
        } = self.pending.swap_remove(at);
        self.finished += 1;
        let fails = self.fail_at == Some(self.finished);
        let error = if fails {
            self.failed.push(kind(&op));
            5
        } else if self.is_too_much(&op) {
            28
        } else {
            return Some((token, self.carry_out(op, covers)));
        };
        if is_accepted {
            self.kept.push(op);
        }
        Some((token, Err(io::Error::from_raw_os_error(error))))
    }
}
