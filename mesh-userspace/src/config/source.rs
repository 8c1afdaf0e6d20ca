//! A source of backends as written -> as meant.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::Path,
    time::Duration,
};

use super::{
    kubernetes,
    placed::Placed,
    resolve::Findings,
    source_access::{access, url},
    sourced::{RecordWord, Source, SourceWord},
    words::Span,
};
use crate::{
    discovery::{
        ConsulSpec, EtcdSpec, Fit, HttpSpec, SourceKind, SourceSpec, ZooKeeperSpec,
        dns::{DnsName, DnsSpec},
    },
    model::{Mode, VipAddr},
};

/// The sources of a service with this VIP and mode; those that are wrong are left out, with an error each.
pub(super) fn resolve_sources(
    written: &[Placed<Source>],
    vip: VipAddr,
    mode: Mode,
    base: &Path,
    findings: &mut Findings<'_>,
) -> Vec<SourceSpec> {
    let mut all: Vec<SourceSpec> = Vec::new();
    for placed in written {
        let Some(spec) = source(placed, vip, mode, base, findings) else { continue };
        if all.iter().any(|s| s.kind.to_string() == spec.kind.to_string()) {
            findings.error(&placed.value.kind, format!("the source `{}` is listed twice", spec.kind), "remove one of the two");
        }
        all.push(spec);
    }
    all
}

fn source(placed: &Placed<Source>, vip: VipAddr, mode: Mode, base: &Path, findings: &mut Findings<'_>) -> Option<SourceSpec> {
    let errors = findings.errors.len();
    let written = &placed.value;
    if let Some(port) = written.port.as_ref().filter(|p| p.value == 0) {
        findings.error(port, "port 0 can't be used", "write a port from 1 to 65535");
    }
    belongs(written, findings);
    let kind = match written.kind.value {
        SourceWord::Dns => SourceKind::Dns(dns(written, findings)?),
        SourceWord::Http => SourceKind::Http(http(written, base, findings)?),
        SourceWord::Etcd => SourceKind::Etcd(etcd(written, base, findings)?),
        SourceWord::ZooKeeper => SourceKind::ZooKeeper(zookeeper(written, findings)?),
        SourceWord::Consul => SourceKind::Consul(consul(written, base, findings)?),
        SourceWord::Kubernetes => SourceKind::Kubernetes(kubernetes::source(written, base, findings)?),
    };
    let fit = Fit { vip, mode, port: written.port.as_ref().map_or(vip.port, |p| p.value) };
    (findings.errors.len() == errors).then_some(SourceSpec { kind, fit })
}

/// Keys that mean nothing for a source of this type are mistakes.
fn belongs(written: &Source, findings: &mut Findings<'_>) {
    use SourceWord::{Consul, Dns, Etcd, Http, Kubernetes, ZooKeeper};
    /// Those that are asked by HTTP.
    const WEB: [SourceWord; 3] = [Http, Etcd, Consul];
    let keys = [
        ("name", written.name.as_ref().map(at), &[Dns][..]),
        ("record", written.record.as_ref().map(at), &[Dns][..]),
        ("servers", written.servers.first().map(at), &[Dns, ZooKeeper][..]),
        ("min_refresh", written.min_refresh.as_ref().map(at), &[Dns][..]),
        ("max_refresh", written.max_refresh.as_ref().map(at), &[Dns][..]),
        ("url", written.url.as_ref().map(at), &[Http, Consul][..]),
        ("interval", written.interval.as_ref().map(at), &[Http][..]),
        ("wait", written.wait.as_ref().map(at), &[Http, Consul, Kubernetes][..]),
        ("urls", written.urls.first().map(at), &[Etcd][..]),
        ("prefix", written.prefix.as_ref().map(at), &[Etcd][..]),
        ("path", written.path.as_ref().map(at), &[ZooKeeper][..]),
        ("session", written.session.as_ref().map(at), &[ZooKeeper][..]),
        ("service", written.service.as_ref().map(at), &[Consul, Kubernetes][..]),
        ("tags", written.tags.first().map(at), &[Consul][..]),
        ("datacenter", written.datacenter.as_ref().map(at), &[Consul][..]),
        ("token_file", written.token_file.as_ref().map(at), &WEB[..]),
        ("user", written.user.as_ref().map(at), &WEB[..]),
        ("password_file", written.password_file.as_ref().map(at), &WEB[..]),
        ("ca", written.ca.as_ref().map(at), &WEB[..]),
        ("cert", written.cert.as_ref().map(at), &WEB[..]),
        ("key", written.key.as_ref().map(at), &WEB[..]),
        ("server_name", written.server_name.as_ref().map(at), &WEB[..]),
        ("verify", written.verify.as_ref().map(at), &WEB[..]),
        ("port_name", written.port_name.as_ref().map(at), &[Kubernetes][..]),
        ("share", written.share.as_ref().map(at), &[Kubernetes][..]),
        ("node", written.node.as_ref().map(at), &[Kubernetes][..]),
        ("kubeconfig", written.kubeconfig.as_ref().map(at), &[Kubernetes][..]),
    ];
    for (key, place, of) in keys {
        if let Some(place) = place.filter(|_| !of.contains(&written.kind.value)) {
            let at = Placed { value: (), place };
            findings.error(&at, format!("`{key}` means nothing for a source of this type"), "remove it, or change `type`");
        }
    }
}

fn at<T>(placed: &Placed<T>) -> Option<Range<usize>> {
    placed.place.clone()
}

fn dns(written: &Source, findings: &mut Findings<'_>) -> Option<DnsSpec> {
    let name = needed(written, written.name.as_ref(), "name", "the name that is looked up", findings)?;
    let parsed = DnsName::from_utf8(&name.value).map_err(|e| format!("`{name}` is no name that could be looked up: {e}"));
    let mut parsed = findings.ok(name, parsed, "write a name such as web.example.org")?;
    if parsed.is_root() {
        findings.error(name, "the root is no name of a service", "write a name such as web.example.org");
        return None;
    }
    // Names are looked up as they are: which search list a daemon would have is nobody's guess.
    parsed.set_fqdn(true);
    let min_refresh = span(written.min_refresh.as_ref(), Duration::from_secs(1), findings);
    let max_refresh = span(written.max_refresh.as_ref(), Duration::from_secs(300).max(min_refresh), findings);
    if let Some(at) = written.max_refresh.as_ref().or(written.min_refresh.as_ref()).filter(|_| max_refresh < min_refresh) {
        findings.error(at, "`max_refresh` is shorter than `min_refresh`", "write a longer one");
    }
    Some(DnsSpec {
        name: parsed,
        srv: written.record.as_ref().is_some_and(|r| r.value == RecordWord::Srv),
        servers: written.servers.iter().filter_map(|s| server(s, 53, findings)).collect(),
        timeout: timeout(written, findings),
        min_refresh,
        max_refresh: max_refresh.max(min_refresh),
    })
}

fn http(written: &Source, base: &Path, findings: &mut Findings<'_>) -> Option<HttpSpec> {
    let text = needed(written, written.url.as_ref(), "url", "where the list is, such as http://registry.example.org/web.json", findings)?;
    Some(HttpSpec {
        url: url(text, &access(written, base, findings), findings)?,
        interval: span(written.interval.as_ref(), Duration::from_secs(5), findings),
        timeout: timeout(written, findings),
        wait: written.wait.as_ref().map(|_| span(written.wait.as_ref(), Duration::ZERO, findings)),
    })
}

fn etcd(written: &Source, base: &Path, findings: &mut Findings<'_>) -> Option<EtcdSpec> {
    let prefix = needed(written, written.prefix.as_ref(), "prefix", "what the keys begin with, such as /services/web/", findings)?;
    if prefix.value.is_empty() {
        findings.error(prefix, "an empty prefix stands for every key there is", "write what the keys begin with, such as /services/web/");
    }
    let access = access(written, base, findings);
    let default = [Placed::from("http://127.0.0.1:2379".to_owned())];
    let texts = if written.urls.is_empty() { &default[..] } else { &written.urls };
    let urls = texts.iter().filter_map(|text| url(text, &access, findings)).collect();
    Some(EtcdSpec { urls, prefix: prefix.value.clone(), timeout: timeout(written, findings) })
}

fn zookeeper(written: &Source, findings: &mut Findings<'_>) -> Option<ZooKeeperSpec> {
    let path = needed(written, written.path.as_ref(), "path", "the node whose children are the backends, such as /services/web", findings)?;
    let parts = path.value.strip_prefix('/').unwrap_or_default();
    if parts.is_empty() || parts.split('/').any(|part| matches!(part, "" | "." | "..")) || parts.contains('\0') {
        findings.error(path, format!("`{path}` is no path of a node"), "write one such as /services/web");
    }
    let mut servers: Vec<String> = written.servers.iter().filter_map(|text| host(text, 2181, findings)).collect();
    if written.servers.is_empty() {
        servers.push("127.0.0.1:2181".to_owned());
    }
    let session = span(written.session.as_ref(), Duration::from_secs(10), findings);
    Some(ZooKeeperSpec { servers, path: path.value.clone(), session, timeout: timeout(written, findings) })
}

fn consul(written: &Source, base: &Path, findings: &mut Findings<'_>) -> Option<ConsulSpec> {
    let service = needed(written, written.service.as_ref(), "service", "its name in Consul", findings)?;
    let default = Placed::from("http://127.0.0.1:8500".to_owned());
    Some(ConsulSpec {
        url: url(written.url.as_ref().unwrap_or(&default), &access(written, base, findings), findings)?,
        service: service.value.clone(),
        tags: written.tags.iter().map(|tag| tag.value.clone()).collect(),
        datacenter: written.datacenter.as_ref().map(|dc| dc.value.clone()),
        timeout: timeout(written, findings),
        wait: span(written.wait.as_ref(), Duration::from_secs(60), findings).max(Duration::from_secs(1)),
    })
}

/// `HOST` or `HOST:PORT`, as `HOST:PORT`.
fn host(text: &Placed<String>, port: u16, findings: &mut Findings<'_>) -> Option<String> {
    let parsed = text.value.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port).to_string()).or_else(|_| {
        let (host, port) = text.value.rsplit_once(':').map_or((text.value.as_str(), Ok(port)), |(host, port)| (host, port.parse::<u16>()));
        let fits = !host.is_empty() && !host.contains(|c: char| c == '/' || c.is_whitespace());
        port.ok().filter(|port| fits && *port != 0).map(|port| format!("{host}:{port}")).ok_or_else(|| format!("`{text}` is no server"))
    });
    findings.ok(text, parsed, "write HOST or HOST:PORT")
}

pub(super) fn timeout(written: &Source, findings: &mut Findings<'_>) -> Duration {
    span(written.timeout.as_ref(), Duration::from_secs(2), findings)
}

/// `ADDRESS` or `ADDRESS:PORT`.
fn server(text: &Placed<String>, port: u16, findings: &mut Findings<'_>) -> Option<SocketAddr> {
    let with_port = |addr: IpAddr| SocketAddr::new(addr, port);
    let parsed =
        text.value.parse().or_else(|_| text.value.parse().map(with_port)).map_err(|_| format!("`{text}` is no address of a server"));
    findings.ok(text, parsed, &format!("write ADDRESS or ADDRESS:PORT; the port is {port} if there is none"))
}

/// A key that a source of this type can't do without.
pub(super) fn needed<'a, T>(
    written: &Source,
    value: Option<&'a Placed<T>>,
    key: &str,
    what: &str,
    findings: &mut Findings<'_>,
) -> Option<&'a Placed<T>> {
    if value.is_none() {
        findings.error(&written.kind, format!("the source lacks the key `{key}`"), format!("add `{key}`: {what}"));
    }
    value
}

pub(super) fn span(written: Option<&Placed<Span>>, default: Duration, findings: &mut Findings<'_>) -> Duration {
    match written {
        None => default,
        Some(s) if (Duration::from_millis(50)..=Duration::from_hours(24)).contains(&s.value.0) => s.value.0,
        Some(s) => {
            findings.error(s, format!("{s} is out of range"), "write 50ms to 24h");
            default
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, parse, placed::Syntax};

    fn read(source: &str) -> Result<Config, String> {
        let text = format!("services:\n- name: web\n  vip: 192.0.2.10:80\n  sources:\n  - {source}\n");
        parse(&text, Syntax::Yaml, Path::new("lb.yaml")).map(|l| l.config).map_err(|e| e.to_string())
    }

    fn one(source: &str) -> SourceSpec {
        let config = read(source).unwrap_or_else(|e| panic!("{e}"));
        config.services.values().next().unwrap().sources[0].clone()
    }

    #[test]
    fn names_and_their_servers() {
        let spec = one("{type: dns, name: web.example.org, port: 8080}");
        assert_eq!((spec.kind.to_string().as_str(), spec.fit.port), ("dns web.example.org", 8080));
        let spec = one("{type: dns, name: _http._tcp.example.org., record: srv, servers: [10.0.0.53, '10.0.0.54:5353'], min_refresh: 2s}");
        let SourceKind::Dns(dns) = &spec.kind else { panic!("{spec:?}") };
        assert_eq!(dns.servers, ["10.0.0.53:53".parse().unwrap(), "10.0.0.54:5353".parse().unwrap()]);
        assert_eq!((dns.srv, dns.min_refresh, dns.max_refresh), (true, Duration::from_secs(2), Duration::from_secs(300)));
        assert_eq!((spec.kind.to_string().as_str(), spec.fit.port), ("dns _http._tcp.example.org srv", 80));
    }

    #[test]
    fn each_type_has_its_defaults() {
        for (source, shown) in [
            ("{type: http, url: 'http://a.test/b', wait: 30s}", "http a.test/b"),
            ("{type: etcd, prefix: /s/web/}", "etcd /s/web/"),
            ("{type: http, url: 'https://a.test/b', ca: ca.pem, user: a, password_file: b}", "http a.test/b"),
            ("{type: zookeeper, path: /s/web, servers: [zk1, 'zk2:2182', '::1']}", "zookeeper /s/web"),
            ("{type: consul, service: web, tags: [v1, eu], datacenter: dc2}", "consul web #v1 #eu @dc2"),
            ("{type: kubernetes, service: shop/web, port_name: http}", "kubernetes shop/web http"),
        ] {
            let spec = one(source);
            assert_eq!(spec.kind.to_string(), shown);
            if let SourceKind::ZooKeeper(zookeeper) = spec.kind {
                assert_eq!(zookeeper.servers, ["zk1:2181", "zk2:2182", "[::1]:2181"]);
            }
        }
    }

    #[test]
    fn mistakes_are_located() {
        for (source, expected) in [
            ("{type: dns}", "lb.yaml:5:12: the source lacks the key `name`"),
            ("{type: smoke}", "lb.yaml:5:12: unknown variant `smoke`"),
            ("{type: dns, name: 'a..b'}", "lb.yaml:5:23: `a..b` is no name that could be looked up"),
            ("{type: dns, name: a.b, servers: [ns1]}", "lb.yaml:5:38: `ns1` is no address of a server"),
            ("{type: dns, name: a.b, timeout: 1ms}", "lb.yaml:5:37: 1ms is out of range"),
            ("{type: dns, name: a.b, min_refresh: 1m, max_refresh: 1s}", "lb.yaml:5:58: `max_refresh` is shorter"),
            ("{type: http, url: 'ftp://a.test'}", "lb.yaml:5:23: `ftp://a.test` is neither http nor https"),
            ("{type: http, url: 'http://a.test', ca: a.pem}", "lb.yaml:5:23: `http://a.test` is asked without TLS"),
            ("{type: http, url: 'https://a.test', cert: a.pem}", "lb.yaml:5:47: `cert` has no `key`"),
            ("{type: http, url: 'https://a.test', user: a}", "lb.yaml:5:47: `user` has no `password_file`"),
            ("{type: etcd, prefix: /a, password_file: a}", "lb.yaml:5:45: `password_file` has no `user`"),
            ("{type: consul, service: a, user: a, password_file: b, token_file: c}", "lb.yaml:5:71: there are a user and a token"),
            ("{type: dns, name: a.b, token_file: c}", "lb.yaml:5:40: `token_file` means nothing"),
            ("{type: etcd, prefix: ''}", "lb.yaml:5:26: an empty prefix"),
            ("{type: etcd, prefix: /a, name: b}", "lb.yaml:5:36: `name` means nothing for a source of this type"),
            ("{type: zookeeper, path: s/web}", "lb.yaml:5:29: `s/web` is no path of a node"),
            ("{type: zookeeper, path: /s, servers: ['a:b']}", "lb.yaml:5:43: `a:b` is no server"),
            ("{type: consul}", "lb.yaml:5:12: the source lacks the key `service`"),
            ("{type: kubernetes, service: web}", "lb.yaml:5:33: `web` is no Service"),
            ("{type: kubernetes, service: Shop/web}", "lb.yaml:5:33: `Shop/web` is no Service"),
            ("{type: kubernetes, service: shop/web, tags: [a]}", "lb.yaml:5:50: `tags` means nothing"),
            ("{type: dns, name: a.b, nam: c}", "lb.yaml:5:28: unknown field `nam`"),
            ("{type: dns, name: a.b}\n  - {type: dns, name: a.b.}", "lb.yaml:6:12: the source `dns a.b` is listed twice"),
        ] {
            let error = read(source).unwrap_err();
            assert!(error.starts_with(expected), "{source}: {error}");
        }
    }
}
