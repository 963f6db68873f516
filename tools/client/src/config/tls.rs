//! How TLS is done: certificates, keys and versions from files, as the `tls_*` options say.

use std::io;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::ConfigError;
use super::value::boolean;

/// What the `tls_*` options set. TLS below 1.2 is never spoken, whatever `tls_min_version` allows.
#[derive(Debug, Default)]
pub struct TlsOptions {
    /// Authorities to trust instead of the system's.
    roots: Option<Vec<CertificateDer<'static>>>,
    certificate: Option<Vec<CertificateDer<'static>>>,
    key: Option<PrivateKeyDer<'static>>,
    insecure_skip_verify: bool,
}

impl Clone for TlsOptions {
    fn clone(&self) -> Self {
        Self {
            roots: self.roots.clone(),
            certificate: self.certificate.clone(),
            key: self.key.as_ref().map(PrivateKeyDer::clone_key),
            insecure_skip_verify: self.insecure_skip_verify,
        }
    }
}

impl TlsOptions {
    /// Authorities (DER) to trust instead of the system's; `tls_root_ca_file`.
    pub fn trust_only(&mut self, roots: Vec<CertificateDer<'static>>) {
        self.roots = Some(roots);
    }

    /// A certificate chain and its key, to be shown to servers that ask; `tls_cert`, `tls_key`.
    pub fn identify_as(
        &mut self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) {
        self.certificate = Some(chain);
        self.key = Some(key);
    }

    /// Whether to take any certificate of the server for good; `tls_insecure_skip_verify`.
    pub const fn set_insecure_skip_verify(&mut self, skip: bool) {
        self.insecure_skip_verify = skip;
    }

    pub(crate) fn roots(&self) -> Option<&[CertificateDer<'static>]> {
        self.roots.as_deref()
    }

    /// Chain and key, if there are both.
    pub(crate) fn identity(&self) -> Option<(&[CertificateDer<'static>], &PrivateKeyDer<'static>)> {
        Some((self.certificate.as_deref()?, self.key.as_ref()?))
    }

    pub(crate) const fn skips_verification(&self) -> bool {
        self.insecure_skip_verify
    }

    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<bool, ConfigError> {
        match key {
            "tls_root_ca_file" => self.roots = Some(authorities(value)?),
            "tls_cert" => self.certificate = Some(certificates(value)?),
            "tls_key" => {
                let text = read(value).map_err(ConfigError::new)?;
                let key =
                    PrivateKeyDer::from_pem_slice(&text).map_err(|_| ConfigError::new(NO_KEY))?;
                self.key = Some(key);
            }
            "tls_insecure_skip_verify" => self.insecure_skip_verify = boolean(key, value)?,
            "tls_min_version" => match value {
                "ssl3.0" | "tls1.0" | "tls1.1" | "tls1.2" => {}
                _ => return Err(ConfigError(format!("ERROR: {value} is not a tls version"))),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A certificate needs its key, and a key its certificate.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.certificate.is_some() == self.key.is_some() {
            Ok(())
        } else {
            Err(ConfigError::new("tls_cert and tls_key go together"))
        }
    }
}

const NO_KEY: &str = "tls: failed to find any PEM data in key input";
const NO_CERTIFICATE: &str = "tls: failed to find any PEM data in certificate input";

fn read(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path)
        .map_err(|error: io::Error| format!("open {path}: {}", nsq_cli::errno_text(&error)))
}

fn parse(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|chain| !chain.is_empty())
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = read(path).map_err(ConfigError::new)?;
    parse(&pem).ok_or_else(|| ConfigError::new(NO_CERTIFICATE))
}

fn authorities(path: &str) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = read(path).map_err(|reason| {
        ConfigError(format!(
            "ERROR: failed to read custom Certificate Authority file {reason}"
        ))
    })?;
    parse(&pem).ok_or_else(|| {
        ConfigError::new("ERROR: failed to append certificates from Certificate Authority file")
    })
}
