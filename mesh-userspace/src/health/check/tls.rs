use std::{fmt, io, net::IpAddr, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use super::BadCheck;

/// Where distributions keep the certificates of the public authorities.
const SYSTEM_ROOTS: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// What is asked of a server's TLS. All files are PEM, as their bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TlsSettings {
    /// Name that is sent (SNI) and that the certificate has to have; `None` = the checked address.
    pub server_name: Option<String>,
    /// Takes any certificate.
    pub insecure: bool,
    /// Authorities to trust; `None` = those of the system.
    pub ca: Option<Vec<u8>>,
    /// Certificate chain and private key to show.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// A TLS handshake, ready to be made.
#[derive(Clone)]
pub struct TlsCheck {
    settings: TlsSettings,
    server_name: Option<ServerName<'static>>,
    config: Arc<ClientConfig>,
}

impl TlsCheck {
    /// Reads the settings' certificates, and the system's where none are given.
    pub fn new(settings: TlsSettings) -> Result<Self, BadCheck> {
        let server_name =
            settings.server_name.as_ref().map(|name| ServerName::try_from(name.clone()).map_err(|_| BadCheck::ServerName(name.clone())));
        let server_name = server_name.transpose()?;
        let config = Arc::new(client_config(&settings)?);
        Ok(Self { settings, server_name, config })
    }

    /// Name that a server at `address` is asked by.
    pub fn server_name(&self, address: IpAddr) -> ServerName<'static> {
        self.server_name.clone().unwrap_or_else(|| ServerName::IpAddress(address.into()))
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }
}

impl PartialEq for TlsCheck {
    /// Made of the same settings.
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl fmt::Debug for TlsSettings {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server_name, insecure, ca, identity } = self;
        let (ca, identity) = (ca.is_some(), identity.is_some());
        f.debug_struct("TlsSettings")
            .field("server_name", server_name)
            .field("insecure", insecure)
            .field("ca", &ca)
            .field("identity", &identity)
            .finish()
    }
}

impl fmt::Debug for TlsCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

fn client_config(settings: &TlsSettings) -> Result<ClientConfig, BadCheck> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| BadCheck::Tls(e.to_string()))?;
    let builder = if settings.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(settings.ca.as_deref())?)
    };
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| BadCheck::Key(e.to_string()))?;
            let chain = certificates(chain).map_err(BadCheck::Certificate)?;
            builder.with_client_auth_cert(chain, key).map_err(|e| BadCheck::Certificate(e.to_string()))?
        }
    };
    // A resumed session shows no certificate: each check is to see it.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(ca: Option<&[u8]>) -> Result<RootCertStore, BadCheck> {
    let system = match ca {
        Some(_) => Vec::new(),
        None => system_roots().map_err(|e| BadCheck::Ca(format!("the system has no file of authorities: {e}")))?,
    };
    let found = certificates(ca.unwrap_or(&system)).map_err(BadCheck::Ca)?;
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found);
    if added == 0 { Err(BadCheck::Ca("none of its certificates can be used".into())) } else { Ok(store) }
}

fn system_roots() -> io::Result<Vec<u8>> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for path in SYSTEM_ROOTS {
        match std::fs::read(path) {
            Ok(bytes) => return Ok(bytes),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("it holds no certificate in PEM".into()),
        Ok(all) => Ok(all),
        Err(e) => Err(e.to_string()),
    }
}

/// Any certificate will do, but its key must have signed the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
