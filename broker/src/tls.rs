//! What a TLS server needs: certificates, a key, and whom to believe (spec nsqd.md §1.2).
//!
//! Read at start and again on SIGHUP, by the thread that asks; what comes out is immutable and
//! shared. Clients prove themselves anew on every connection: sessions are not resumed.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use nsq_cli::errno_text;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{ClientAuthPolicy, Tls};

/// TLS 1.3 as TLS numbers it.
const TLS13: u16 = 0x0304;

/// The cryptography: ring's.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Reads the named files; `None` when neither certificate nor key is named.
///
/// # Errors
/// Why they cannot be used, in the reference's words where it has some.
pub(crate) fn server_config(tls: &Tls) -> Result<Option<Arc<ServerConfig>>, String> {
    if tls.cert.is_none() && tls.key.is_none() {
        return Ok(None);
    }
    let chain = certificates(&read(tls.cert.as_deref())?)?;
    let key = private_key(&read(tls.key.as_deref())?)?;
    let roots = tls.root_ca_file.as_deref().map(root_store).transpose()?;
    let provider = provider();
    let verifier = client_verifier(tls.client_auth_policy, roots, &provider)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(tls.min_version))
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key);
    let mut config = config.map_err(|error| {
        if matches!(error, Error::InconsistentKeys(_)) {
            "tls: private key does not match public key".to_owned()
        } else {
            format!("tls: {error}")
        }
    })?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Some(Arc::new(config)))
}

/// Reads a PEM file of certificates to believe.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub(crate) fn root_store(path: &Path) -> Result<RootCertStore, String> {
    let text = read(Some(path))?;
    let found = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    let mut store = RootCertStore::empty();
    if store.add_parsable_certificates(found).0 == 0 {
        return Err("failed to append certificate to pool".to_owned());
    }
    Ok(store)
}

/// The common name of a certificate's subject; the last one, if there are several.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject().iter_common_name();
    names.last()?.as_str().ok().map(str::to_owned)
}

/// As it is said to operators.
pub(crate) fn oldest_version(tls: &Tls) -> &'static str {
    if tls.min_version >= TLS13 {
        "TLS 1.3"
    } else {
        "TLS 1.2"
    }
}

/// 1.0 and 1.1 may be asked for, but not be had.
fn versions(min: u16) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    if min >= TLS13 {
        &FROM_13
    } else {
        rustls::DEFAULT_VERSIONS
    }
}

fn read(path: Option<&Path>) -> Result<Vec<u8>, String> {
    let path = path.map(Path::to_owned).unwrap_or_default();
    fs::read(&path).map_err(|error| format!("open {}: {}", path.display(), errno_text(&error)))
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| format!("tls: certificate input: {error}"))?;
    if !found.is_empty() {
        return Ok(found);
    }
    Err(match &labels(text)[..] {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [label] if label.ends_with("PRIVATE KEY") => {
            "tls: failed to find certificate PEM data in certificate input, but did find a \
             private key; PEM inputs may have been switched"
                .to_owned()
        }
        labels => format!(
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping \
             PEM blocks of the following types: [{}]",
            labels.join(" ")
        ),
    })
}

/// PKCS#8, PKCS#1 or SEC1.
fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|_| match &labels(text)[..] {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        ["CERTIFICATE"] => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        labels if labels.iter().any(|label| label.ends_with("PRIVATE KEY")) => {
            "tls: failed to parse private key".to_owned()
        }
        labels => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after \
             skipping PEM blocks of the following types: [{}]",
            labels.join(" ")
        ),
    })
}

/// What the PEM blocks of a file say they are.
fn labels(text: &[u8]) -> Vec<&str> {
    let text = std::str::from_utf8(text).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("-----BEGIN ")?
                .strip_suffix("-----")
        })
        .collect()
}

fn client_verifier(
    policy: ClientAuthPolicy,
    roots: Option<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    match policy {
        ClientAuthPolicy::None => Ok(WebPkiClientVerifier::no_client_auth()),
        ClientAuthPolicy::Require => Ok(Arc::new(AnyCertificate(
            provider.signature_verification_algorithms,
        ))),
        ClientAuthPolicy::RequireVerify => {
            let roots = roots.unwrap_or_else(system_roots);
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
                .map_err(|error| format!("tls: --tls-client-auth-policy=require-verify: {error}"))
        }
    }
}

/// As the reference does without a CA file.
fn system_roots() -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    store
}

/// `require`: the client must have a certificate and its key; who made it does not matter.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
