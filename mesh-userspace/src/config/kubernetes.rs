//! Kubernetes as written -> as meant: a source of a service, and a cluster whose services are made here.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{
    placed::Placed,
    resolve::Findings,
    service::resolve_service,
    source::{needed, span},
    sourced::Source,
    words::Span,
    written,
};
use crate::discovery::{ClusterAccess, ClusterSpec, KubernetesSpec};

/// Large clusters list slowly.
const TIMEOUT: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(60);
const CLASS: &str = "mesh/balancer";

/// The source; `None` only with an error in `findings`.
pub(super) fn source(written: &Source, base: &Path, findings: &mut Findings<'_>) -> Option<KubernetesSpec> {
    let text = needed(written, written.service.as_ref(), "service", "NAMESPACE/NAME of the Service", findings)?;
    let (namespace, service) = findings.ok(text, service_name(&text.value), "write NAMESPACE/NAME, such as default/web")?;
    let access = access(written.kubeconfig.as_ref(), written.timeout.as_ref(), written.wait.as_ref(), base, findings);
    let port_name = written.port_name.as_ref().map(|name| name.value.clone());
    let (share, node) = (written.share.as_ref().map(|s| s.value), written.node.as_ref().map(|n| n.value.clone()));
    Some(KubernetesSpec { access, namespace, service, port_name, share, node })
}

/// The cluster; `None` only with an error in `findings`.
pub(super) fn cluster(placed: &Placed<written::Kubernetes>, base: &Path, findings: &mut Findings<'_>) -> Option<ClusterSpec> {
    let (written, errors) = (&placed.value, findings.errors.len());
    let spec = ClusterSpec {
        access: access(written.kubeconfig.as_ref(), written.timeout.as_ref(), written.wait.as_ref(), base, findings),
        class: written.class.as_ref().map_or_else(|| CLASS.to_owned(), |c| c.value.clone()),
        pool: written
            .addresses
            .iter()
            .filter_map(|text| findings.ok(text, text.value.parse(), "write 192.0.2.0/24, FIRST-LAST or one address"))
            .collect(),
        services: written.services.as_ref().is_none_or(|s| s.value),
        gateways: written.gateways.as_ref().is_some_and(|g| g.value),
        istio: written.istio.as_ref().map(|labels| labels.value.clone()),
        node: written.node.as_ref().map(|n| n.value.clone()).or_else(|| std::env::var("NODE_NAME").ok()).filter(|n| !n.is_empty()),
        template: template(written, base),
    };
    if let Some(class) = written.class.as_ref().filter(|c| !is_class(&c.value)) {
        findings.error(class, format!("`{class}` is no class"), "write PREFIX/NAME in lower case, such as example.org/mesh");
    }
    if let Some(labels) = written.istio.as_ref().filter(|labels| labels.value.is_empty()) {
        findings.error(labels, "no labels are selected by nobody", "write those of your Gateways' `selector`, such as {istio: mesh}");
    }
    check_template(placed, &spec.template, base, findings);
    (findings.errors.len() == errors).then_some(spec)
}

/// Keys of every service that is made. Files are told by their whole path, for what is made is relative to nothing.
fn template(written: &written::Kubernetes, base: &Path) -> Map<String, Value> {
    let health = written.health.clone().map(|mut health| {
        absolute(&mut health.value.0, base);
        health
    });
    let keys = json!({"mode": written.mode, "announce": written.announce, "interface": written.interface, "health": health});
    keys.as_object().cloned().unwrap_or_default().into_iter().filter(|(_, value)| !value.is_null()).collect()
}

fn absolute(health: &mut written::Health, base: &Path) {
    for file in [&mut health.ca, &mut health.cert, &mut health.key].into_iter().flatten() {
        file.value = base.join(&file.value);
    }
    for part in [&mut health.all, &mut health.any].into_iter().flatten().flat_map(|parts| &mut parts.value) {
        absolute(&mut part.value.0, base);
    }
}

/// A service like those that will be made has to hold.
fn check_template(placed: &Placed<written::Kubernetes>, template: &Map<String, Value>, base: &Path, findings: &mut Findings<'_>) {
    let mut sample = template.clone();
    sample.insert("name".to_owned(), json!("kubernetes"));
    sample.insert("vip".to_owned(), json!("192.0.2.1:80"));
    sample.insert("sources".to_owned(), json!([{"type": "kubernetes", "service": "default/web"}]));
    let service = serde_json::from_value::<written::Service>(Value::Object(sample)).map_err(|e| e.to_string());
    let Some(mut service) = findings.ok(placed, service, "") else { return };
    let written = &placed.value;
    service.mode = written.mode.clone().unwrap_or(service.mode);
    (service.announce, service.interface, service.health) = (written.announce.clone(), written.interface.clone(), written.health.clone());
    resolve_service(&service, base, findings);
}

fn access(
    kubeconfig: Option<&Placed<PathBuf>>,
    timeout: Option<&Placed<Span>>,
    wait: Option<&Placed<Span>>,
    base: &Path,
    findings: &mut Findings<'_>,
) -> ClusterAccess {
    ClusterAccess {
        kubeconfig: kubeconfig.map(|file| base.join(&file.value)),
        timeout: span(timeout, TIMEOUT, findings),
        wait: whole_seconds(span(wait, WAIT, findings)),
    }
}

/// `PREFIX/NAME`, fit for a class of Services and for a controller's name alike.
fn is_class(text: &str) -> bool {
    text.split_once('/').is_some_and(|(prefix, name)| prefix.split('.').all(is_label) && is_label(name))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{parse, placed::Syntax};

    fn read(section: &str) -> Result<Arc<ClusterSpec>, String> {
        let text = format!("kubernetes: {section}\n");
        let loaded = parse(&text, Syntax::Yaml, Path::new("/etc/mesh/lb.yaml")).map_err(|e| e.to_string())?;
        loaded.config.kubernetes.ok_or_else(|| "there is none".to_owned())
    }

    #[test]
    fn a_section_and_its_defaults() {
        let spec = read("{addresses: [192.0.2.0/28, '2001:db8::1'], kubeconfig: admin.conf}").unwrap();
        assert_eq!((spec.class.as_str(), spec.services, spec.gateways, spec.pool.len()), ("mesh/balancer", true, false, 2));
        assert_eq!(spec.access.kubeconfig.as_deref(), Some(Path::new("/etc/mesh/admin.conf")));
        assert!(spec.istio.is_none() && spec.template.is_empty());
        let spec =
            read("{mode: dsr, announce: {address: eth0}, health: {type: http, path: /ok}, gateways: true, istio: {istio: mesh}}").unwrap();
        assert_eq!(Value::Object(spec.template.clone())["health"]["path"], "/ok");
        assert!(spec.gateways && spec.istio.is_some());
    }

    #[test]
    fn mistakes_are_located() {
        for (section, expected) in [
            ("{addresses: [192.0.2.1/24]}", "1:26: `192.0.2.1/24` has bits beyond"),
            ("{class: web}", "1:21: `web` is no class"),
            ("{istio: {}}", "1:21: no labels are selected"),
            ("{mode: smoke}", "1:20: unknown variant `smoke`"),
            ("{health: udp}", "1:22: "),
            ("{announce: address}", "1:24: `announce: address` does not say where"),
            ("{clas: web}", "1:14: unknown field `clas`"),
            ("{wait: 1ms}", "1:20: 1ms is out of range"),
        ] {
            let error = read(section).unwrap_err();
            let start = format!("/etc/mesh/lb.yaml:{expected}");
            assert!(error.starts_with(&start), "{section}: {error}");
        }
    }
}
