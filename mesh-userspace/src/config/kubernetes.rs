//! Kubernetes as written -> as meant: a source of a service.

use std::{path::Path, time::Duration};

use super::{
    resolve::Findings,
    source::{needed, span},
    sourced::Source,
};
use crate::discovery::{ClusterAccess, KubernetesSpec};

/// Large clusters list slowly.
const TIMEOUT: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(60);

/// The source; `None` only with an error in `findings`.
pub(super) fn source(written: &Source, base: &Path, findings: &mut Findings<'_>) -> Option<KubernetesSpec> {
    let text = needed(written, written.service.as_ref(), "service", "NAMESPACE/NAME of the Service", findings)?;
    let (namespace, service) = findings.ok(text, service_name(&text.value), "write NAMESPACE/NAME, such as default/web")?;
    let access = ClusterAccess {
        kubeconfig: written.kubeconfig.as_ref().map(|file| base.join(&file.value)),
        timeout: span(written.timeout.as_ref(), TIMEOUT, findings),
        wait: whole_seconds(span(written.wait.as_ref(), WAIT, findings)),
    };
    let port_name = written.port_name.as_ref().map(|name| name.value.clone());
    Some(KubernetesSpec { access, namespace, service, port_name, share: written.share.as_ref().map(|s| s.value) })
}

/// The API server is told seconds; it ends a watch after five minutes in any case.
fn whole_seconds(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs().clamp(1, 290))
}

fn service_name(text: &str) -> Result<(String, String), String> {
    let both = text.split_once('/').filter(|(namespace, name)| is_label(namespace) && is_label(name));
    both.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).ok_or_else(|| format!("`{text}` is no Service"))
}

/// RFC 1123 section 2.1, in lower case.
fn is_label(text: &str) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('-') && !text.ends_with('-')
}
