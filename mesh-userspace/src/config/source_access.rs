//! TLS and login of the sources that are asked by HTTP, as written -> as meant.

use std::{path::Path, sync::Arc};

use super::{placed::Placed, resolve::Findings, sourced::Source};
use crate::discovery::{Access, HttpUrl, Login};

/// The URL with what the source says of how it is asked. `None` only with an error in `findings`.
pub(super) fn url(text: &Placed<String>, access: &Arc<Access>, findings: &mut Findings<'_>) -> Option<HttpUrl> {
    let url = findings.ok(text, text.value.parse::<HttpUrl>(), "write http://HOST:PORT/PATH or https://HOST:PORT/PATH")?;
    if !url.is_tls() {
        let of_tls = access.ca.is_some() || access.identity.is_some() || access.server_name.is_some() || access.insecure;
        if of_tls {
            findings.error(text, format!("`{text}` is asked without TLS, but there are keys of TLS"), "write https://, or remove them");
        }
        if matches!(access.login, Some(Login::Password { .. })) {
            findings.warn(text, format!("`{text}` shows the password to everyone on the way"), "write https://");
        }
    }
    Some(url.with_access(Arc::clone(access)))
}

/// Files are relative to `base`. With an error in `findings` where two keys don't go together.
pub(super) fn access(written: &Source, base: &Path, findings: &mut Findings<'_>) -> Arc<Access> {
    let file = |file: &Placed<std::path::PathBuf>| base.join(&file.value);
    let mut alone = |there: Option<&Placed<std::path::PathBuf>>, key: &str, other: &str| {
        if let Some(at) = there {
            findings.error(at, format!("`{key}` has no `{other}`"), format!("add `{other}`"));
        }
    };
    let identity = match (&written.cert, &written.key) {
        (Some(cert), Some(key)) => Some((file(cert), file(key))),
        (cert, key) => {
            alone(cert.as_ref(), "cert", "key");
            alone(key.as_ref(), "key", "cert");
            None
        }
    };
    let login = match (&written.user, &written.password_file, &written.token_file) {
        (Some(user), Some(password), None) => Some(Login::Password { user: user.value.clone(), file: file(password) }),
        (None, None, token) => token.as_ref().map(|token| Login::Token(file(token))),
        (user, password, token) => {
            if user.is_none() {
                alone(password.as_ref(), "password_file", "user");
            }
            if let Some(at) = user.as_ref().filter(|_| password.is_none()) {
                findings.error(at, "`user` has no `password_file`", "add `password_file`");
            }
            if let Some(at) = token {
                findings.error(at, "there are a user and a token", "remove one of the two");
            }
            None
        }
    };
    let insecure = written.verify.as_ref().is_some_and(|v| !v.value);
    if let Some(ca) = written.ca.as_ref().filter(|_| insecure) {
        findings.error(ca, "nothing is compared with `ca` where `verify` is false", "remove one of the two");
    }
    let server_name = written.server_name.as_ref().map(|name| name.value.clone());
    Arc::new(Access::new(written.ca.as_ref().map(file), identity, server_name, insecure, login))
}
