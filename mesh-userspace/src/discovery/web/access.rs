//! Who asks a web server, and whom it is believed to be. All of it is in files that are read for each connection, for they change.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use data_encoding::BASE64;

use crate::{
    discovery::Failure,
    health::{TlsCheck, TlsSettings},
};

/// Files and names; nothing of it is secret.
#[derive(Default)]
pub struct Access {
    /// Authorities to trust; `None` = those of the system.
    pub ca: Option<PathBuf>,
    /// Certificate chain and private key to show.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name that the certificate has to have; `None` = the URL's host.
    pub server_name: Option<String>,
    /// Takes any certificate.
    pub insecure: bool,
    pub login: Option<Login>,
    /// What the files said last: certificates are not parsed for every question.
    parsed: Mutex<Option<(TlsSettings, TlsCheck)>>,
}

/// How one who asks says who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Login {
    Password { user: String, file: PathBuf },
    Token(PathBuf),
}

impl Access {
    pub fn new(
        ca: Option<PathBuf>,
        identity: Option<(PathBuf, PathBuf)>,
        server_name: Option<String>,
        insecure: bool,
        login: Option<Login>,
    ) -> Self {
        Self { ca, identity, server_name, insecure, login, parsed: Mutex::default() }
    }

    /// The handshake with the server `host`, as the files are now.
    pub fn tls(&self, host: &str) -> Result<TlsCheck, Failure> {
        let bytes = |path: &Path| std::fs::read(path).map_err(|e| unreadable(path, &e));
        let identity = self.identity.as_ref().map(|(cert, key)| Ok((bytes(cert)?, bytes(key)?))).transpose()?;
        let ca = self.ca.as_deref().map(bytes).transpose()?;
        let server_name = Some(self.server_name.clone().unwrap_or_else(|| host.to_owned()));
        let settings = TlsSettings { server_name, insecure: self.insecure, ca, identity };
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, check)) = parsed.as_ref().filter(|(of, _)| *of == settings) {
            return Ok(check.clone());
        }
        let check = TlsCheck::new(settings.clone()).map_err(|e| Failure::Unreachable(e.to_string()))?;
        *parsed = Some((settings, check.clone()));
        Ok(check)
    }

    /// The `Authorization` of a question; a token goes behind `scheme`.
    pub fn authorization(&self, scheme: &str) -> Result<Option<String>, Failure> {
        Ok(match &self.login {
            None => None,
            Some(Login::Password { user, file }) => {
                Some(format!("Basic {}", BASE64.encode(format!("{user}:{}", secret(file)?).as_bytes())))
            }
            Some(Login::Token(file)) => Some(format!("{scheme}{}", secret(file)?)),
        })
    }
}

/// What a file holds, without the end of its line.
pub fn secret(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Unreachable(format!("can't read {}: {error}", path.display()))
}

impl PartialEq for Access {
    /// Asks in the same way.
    fn eq(&self, other: &Self) -> bool {
        (&self.ca, &self.identity, &self.server_name, self.insecure, &self.login)
            == (&other.ca, &other.identity, &other.server_name, other.insecure, &other.login)
    }
}

impl Eq for Access {}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ca, identity, server_name, insecure, login, parsed: _ } = self;
        f.debug_tuple("Access").field(ca).field(identity).field(server_name).field(insecure).field(login).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        let with = |login| Access { login: Some(login), ..Access::default() };
        let token = with(Login::Token(file.clone()));
        assert!(token.authorization("Bearer ").unwrap_err().to_string().contains("can't read"));
        std::fs::write(&file, "one\n").unwrap();
        assert_eq!(token.authorization("Bearer ").unwrap().as_deref(), Some("Bearer one"));
        std::fs::write(&file, "open sesame\r\n").unwrap();
        assert_eq!(token.authorization("").unwrap().as_deref(), Some("open sesame"));
        let password = with(Login::Password { user: "Aladdin".into(), file });
        assert_eq!(password.authorization("").unwrap().as_deref(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        assert!(!format!("{password:?}").contains("sesame"));
        assert_eq!(Access::default().authorization("").unwrap(), None);
    }

    #[test]
    fn bad_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let access = Access { ca: Some(file.clone()), ..Access::default() };
        assert!(access.tls("a.test").unwrap_err().to_string().contains("can't read"));
        std::fs::write(&file, "no certificate").unwrap();
        assert!(access.tls("a.test").is_err());
    }
}
