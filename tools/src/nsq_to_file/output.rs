//! A file being written: plain, or a row of gzip members.
//!
//! Bytes are gathered in memory and handed to the kernel in larger pieces; [`OutputFile::sync`] puts
//! everything on the disk. A sync ends the gzip member, so that all that was finished can be read
//! however the file ends later.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Bytes gathered before they go to the kernel.
const GATHER_BYTES: usize = 256 * 1024;
const FILE_MODE: u32 = 0o666;

/// How a file may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// It must not exist.
    Refuse,
    /// It is continued.
    Append,
}

/// A file being written.
#[derive(Debug)]
pub(super) struct OutputFile {
    file: File,
    path: PathBuf,
    /// Bytes before compression that were written, and what it held when it was opened.
    size: u64,
    /// Whether it holds anything, on disk or in `pending`.
    is_empty: bool,
    /// Ready for the kernel.
    pending: Vec<u8>,
    compression: Option<Compression>,
    /// The gzip member that has begun.
    member: Option<GzEncoder<Vec<u8>>>,
}

impl OutputFile {
    /// Opens or creates a file; `gzip_level` is 1 to 9 or `None` for plain text.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn open(
        path: &Path,
        existing: Existing,
        gzip_level: Option<u32>,
    ) -> io::Result<Self> {
        let mut options = File::options();
        options.write(true).mode(FILE_MODE);
        let file = match existing {
            Existing::Refuse => options.create_new(true).open(path)?,
            Existing::Append => options.read(true).append(true).create(true).open(path)?,
        };
        let size = file.metadata()?.len();
        Ok(Self {
            file,
            path: path.to_owned(),
            size,
            is_empty: size == 0,
            pending: Vec::new(),
            compression: gzip_level.map(Compression::new),
            member: None,
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes before compression.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Ends a record that was cut when its writer was killed, so that the next one stands alone; the
    /// cut one was never finished and comes again. Whether there was one.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn end_torn_record(&mut self) -> io::Result<bool> {
        if self.is_empty || self.compression.is_some() {
            return Ok(false);
        }
        let mut last = [0];
        self.file.seek(SeekFrom::End(-1))?;
        self.file.read_exact(&mut last)?;
        let is_torn = last != *b"\n";
        if is_torn {
            self.pending.push(b'\n');
            self.size += 1;
        }
        Ok(is_torn)
    }

    /// Appends the body and a newline.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn append(&mut self, body: &[u8]) -> io::Result<()> {
        self.size += body.len() as u64 + 1;
        self.is_empty = false;
        if let Some(level) = self.compression {
            let member = self
                .member
                .get_or_insert_with(|| GzEncoder::new(Vec::new(), level));
            member.write_all(body)?;
            member.write_all(b"\n")?;
            self.pending.append(member.get_mut());
        } else {
            self.pending.extend_from_slice(body);
            self.pending.push(b'\n');
        }
        if self.pending.len() >= GATHER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Hands what was gathered to the kernel, so that others see it.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }

    /// Puts everything on the disk.
    ///
    /// # Errors
    /// Those of the system; what was appended since the last sync is then in an unknown state.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.end_member()?;
        self.flush()?;
        self.file.sync_all()
    }

    /// [`Self::sync`], and no more will come.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub(super) fn close(mut self) -> io::Result<()> {
        if let Some(level) = self.compression.filter(|_| self.is_empty) {
            // A file without any member is not valid gzip.
            self.member = Some(GzEncoder::new(Vec::new(), level));
        }
        self.sync()
    }

    fn end_member(&mut self) -> io::Result<()> {
        if let Some(member) = self.member.take() {
            self.pending.append(&mut member.finish()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use flate2::read::MultiGzDecoder;

    use super::*;

    fn unpacked(path: &Path) -> String {
        let mut text = String::new();
        let mut reader = MultiGzDecoder::new(File::open(path).unwrap());
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn records_are_seen_after_a_flush_and_counted_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut file = OutputFile::open(&path, Existing::Append, None).unwrap();
        file.append(b"one").unwrap();
        file.append(b"").unwrap();
        assert_eq!((file.size(), fs::read(&path).unwrap().len()), (5, 0));
        file.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\n\n");
    }

    #[test]
    fn a_torn_record_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        for (found, torn) in [("", false), ("a\n", false), ("a\nb", true)] {
            fs::write(&path, found).unwrap();
            let mut file = OutputFile::open(&path, Existing::Append, None).unwrap();
            assert_eq!(file.end_torn_record().unwrap(), torn, "{found:?}");
            file.append(b"c").unwrap();
            let written = file.size();
            file.close().unwrap();
            let ending = if torn { "\nc\n" } else { "c\n" };
            assert_eq!(
                fs::read_to_string(&path).unwrap(),
                format!("{found}{ending}")
            );
            assert_eq!(written, fs::metadata(&path).unwrap().len());
        }
    }

    #[test]
    fn every_sync_ends_a_gzip_member() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gz");
        let mut file = OutputFile::open(&path, Existing::Refuse, Some(6)).unwrap();
        file.append(b"one").unwrap();
        file.sync().unwrap();
        let first = fs::metadata(&path).unwrap().len();
        assert_eq!(unpacked(&path), "one\n");
        file.append(b"two").unwrap();
        file.sync().unwrap();
        assert_eq!(unpacked(&path), "one\ntwo\n");
        let size = fs::metadata(&path).unwrap().len();
        assert!(size > first);
        file.sync().unwrap();
        assert_eq!(file.size(), 8);
        file.close().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size, "no empty member");
        let again = OutputFile::open(&path, Existing::Refuse, Some(6));
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn an_empty_gzip_file_is_valid() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gz");
        let file = OutputFile::open(&path, Existing::Refuse, Some(1)).unwrap();
        file.close().unwrap();
        assert!(fs::metadata(&path).unwrap().len() > 0);
        assert_eq!(unpacked(&path), "");
    }
}
