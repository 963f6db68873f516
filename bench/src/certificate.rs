//! A certificate for brokers on this machine, which is believed because it is named, and its key.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Whom it is for.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Where a certificate and its key are.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// PEM.
    pub(crate) certificate: PathBuf,
    /// PEM, PKCS#8; ECDSA over P-256.
    pub(crate) key: PathBuf,
}

impl Files {
    /// In this folder, whether they are there or not.
    pub(crate) fn within(folder: &Path) -> Self {
        Self {
            certificate: folder.join("certificate.pem"),
            key: folder.join("key.pem"),
        }
    }

    /// Makes new ones, in place of earlier ones.
    ///
    /// # Errors
    /// They cannot be written.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let files = Self::within(folder);
        let made = rcgen::generate_simple_self_signed(NAMES.map(str::to_owned))?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        for (path, text) in [
            (&files.certificate, made.cert.pem()),
            (&files.key, made.signing_key.serialize_pem()),
        ] {
            fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(files)
    }
}
