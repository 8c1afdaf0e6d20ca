//! What a heartbeat asks, as written -> as meant.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;

use super::{
    forms::HealthForm,
    placed::Placed,
    resolve::Findings,
    written::{Health, ProbeWord},
};
use crate::health::{BadCheck, CheckKind, ExecCheck, HttpCheck, Part, StatusSet, TlsCheck, TlsSettings, UdpCheck};

/// `all` in `any` in `all`: deeper is a mistake.
const DEPTH: usize = 3;

/// `None` for `none`, or with an error in `findings`. `at`: where the heartbeat is written.
pub fn resolve_kind<T>(health: &Health, at: &Placed<T>, base: &Path, findings: &mut Findings<'_>) -> Option<CheckKind> {
    Reader { base, findings }.kind(health, at, DEPTH)
}

struct Reader<'a, 'f, 't> {
    base: &'a Path,
    findings: &'f mut Findings<'t>,
}

impl Reader<'_, '_, '_> {
    fn kind<T>(&mut self, health: &Health, at: &Placed<T>, depth: usize) -> Option<CheckKind> {
        self.strays(health);
        if let Some(port) = health.port.as_ref().filter(|p| p.value == 0) {
            self.findings.error(port, "port 0 can't be probed", "write a port from 1 to 65535");
        }
        match (&health.all, &health.any) {
            (Some(_), Some(any)) => {
                self.findings.error(any, "`all` and `any` can't stand side by side", "put one of them into the other");
                None
            }
            (Some(parts), None) => self.parts(health, parts, depth).map(CheckKind::All),
            (None, Some(parts)) => self.parts(health, parts, depth).map(CheckKind::Any),
            (None, None) => self.single(health, at),
        }
    }

    fn single<T>(&mut self, health: &Health, at: &Placed<T>) -> Option<CheckKind> {
        Some(match health.probe.value {
            ProbeWord::None => return None,
            ProbeWord::Tcp => CheckKind::Tcp,
            ProbeWord::Tls => CheckKind::Tls(self.tls(health, at)?),
            ProbeWord::Http => CheckKind::Http(Box::new(self.http(health)?)),
            ProbeWord::Https => CheckKind::Http(Box::new(self.http(health)?.over(self.tls(health, at)?))),
            ProbeWord::Grpc => CheckKind::Grpc { service: health.service.as_ref().map(|s| s.value.clone()).unwrap_or_default() },
            ProbeWord::Udp => CheckKind::Udp(self.udp(health, at)?),
            ProbeWord::Icmp => CheckKind::Icmp,
            ProbeWord::Exec => CheckKind::Exec(self.exec(health, at)?),
        })
    }

    fn parts(&mut self, health: &Health, parts: &Placed<Vec<Placed<HealthForm>>>, depth: usize) -> Option<Vec<Part>> {
        if health.probe.place.is_some() || health.probe.value != ProbeWord::default() {
            self.findings.error(&health.probe, "`type` can't stand beside `all` or `any`", "put it into the list, as a check of its own");
        }
        if parts.value.is_empty() {
            self.findings.error(parts, "there is nothing to check in an empty list", "list checks such as `tcp` or `{type: http}`");
        }
        if depth == 0 {
            self.findings.error(parts, "checks are nested too deeply", format!("nest `all` and `any` {DEPTH} deep at most"));
            return None;
        }
        let read: Vec<_> = parts.value.iter().filter_map(|placed| self.part(placed, depth)).collect();
        (read.len() == parts.value.len()).then_some(read)
    }

    fn part(&mut self, placed: &Placed<HealthForm>, depth: usize) -> Option<Part> {
        let HealthForm(health) = &placed.value;
        let (interval, timeout) = (health.interval.as_ref().map(place), health.timeout.as_ref().map(place));
        let (rise, fall) = (health.rise.as_ref().map(place), health.fall.as_ref().map(place));
        let (source, through) = (health.source.as_ref().map(place), health.through.as_ref().map(place));
        let (detector, pulse) = (health.detector.as_ref().map(place), health.pulse.as_ref().map(place));
        let (pulse_interval, passive) = (health.pulse_interval.as_ref().map(place), health.passive.as_ref().map(place));
        let [max_soft, max_down, panic] = [&health.max_soft, &health.max_down, &health.panic].map(|p| p.as_ref().map(place));
        let rows = [
            ("interval", interval),
            ("jitter", health.jitter.as_ref().map(place)),
            ("timeout", timeout),
            ("rise", rise),
            ("fall", fall),
            ("source", source),
            ("through", through),
            ("detector", detector),
            ("pulse", pulse),
            ("pulse_interval", pulse_interval),
            ("passive", passive),
            ("max_soft", max_soft),
            ("max_down", max_down),
            ("panic", panic),
        ];
        for (key, at) in rows {
            if let Some(at) = at {
                self.findings.error(&at, format!("`{key}` holds for all checks together"), "move it beside `all` or `any`");
            }
        }
        if health.all.is_none() && health.any.is_none() && health.probe.value == ProbeWord::None {
            self.findings.error(placed, "`none` is no check", "remove it from the list");
        }
        let kind = self.kind(health, placed, depth - 1)?;
        Some(Part { kind, port: health.port.as_ref().map(|p| p.value) })
    }

    /// Keys that mean nothing for this type.
    fn strays(&mut self, h: &Health) {
        use ProbeWord::{Exec, Grpc, Http, Https, Tls, Udp};
        let web = &[Http, Https][..];
        let tls = &[Tls, Https][..];
        let keys = [
            ("path", h.path.as_ref().map(place), web),
            ("host", h.host.as_ref().map(place), web),
            ("status", h.status.as_ref().map(place), web),
            ("headers", h.headers.as_ref().map(place), web),
            ("body", h.body.as_ref().map(place), web),
            ("load_header", h.load_header.as_ref().map(place), web),
            ("server_name", h.server_name.as_ref().map(place), tls),
            ("verify", h.verify.as_ref().map(place), tls),
            ("ca", h.ca.as_ref().map(place), tls),
            ("cert", h.cert.as_ref().map(place), tls),
            ("key", h.key.as_ref().map(place), tls),
            ("service", h.service.as_ref().map(place), &[Grpc]),
            ("send", h.send.as_ref().map(place), &[Udp]),
            ("expect", h.expect.as_ref().map(place), &[Udp]),
            ("command", h.command.as_ref().map(place), &[Exec]),
        ];
        let several = h.all.is_some() || h.any.is_some();
        for (key, at, types) in keys {
            let Some(at) = at.filter(|_| several || !types.contains(&h.probe.value)) else { continue };
            let types: Vec<_> = types.iter().map(|t| format!("`type: {}`", word(*t))).collect();
            let message = match several {
                true => format!("`{key}` belongs to one of the checks"),
                false => format!("a `{}` heartbeat has no `{key}`", word(h.probe.value)),
            };
            self.findings.error(&at, message, format!("write {}, or remove the key", types.join(" or ")));
        }
    }

    fn http(&mut self, h: &Health) -> Option<HttpCheck> {
        let text = |t: &Option<Placed<String>>| t.as_ref().map(|t| t.value.clone());
        let (path, host) = (text(&h.path).unwrap_or_else(|| "/".to_owned()), text(&h.host));
        let status = h.status.as_ref().map_or_else(StatusSet::default, |s| s.value.0.clone());
        let mut check = match HttpCheck::new(&path, host.as_deref(), status) {
            Ok(check) => check,
            Err(error) => {
                let at = if matches!(error, BadCheck::Host(_)) { &h.host } else { &h.path };
                self.findings.error(at.as_ref().unwrap_or(&Placed::default()), error.to_string(), "");
                return None;
            }
        };
        if let Some(headers) = &h.headers {
            for (name, value) in &headers.value {
                let help = "the Host header is the key `host`, and those of the connection are not for a check to set";
                check = self.findings.ok(headers, check.header(name, value), help)?;
            }
        }
        if let Some(name) = &h.load_header {
            check = self.findings.ok(name, check.load_from(&name.value), "write a header's name, such as x-load")?;
        }
        Some(match &h.body {
            Some(text) => check.body_with(&text.value),
            None => check,
        })
    }

    fn tls<T>(&mut self, h: &Health, at: &Placed<T>) -> Option<TlsCheck> {
        let insecure = h.verify.as_ref().is_some_and(|v| !v.value);
        if let Some(ca) = h.ca.as_ref().filter(|_| insecure) {
            self.findings.error(ca, "nothing is compared with `ca` where `verify` is false", "remove one of the two");
        }
        let identity = match (&h.cert, &h.key) {
            (Some(cert), Some(key)) => Some((self.file(cert)?, self.file(key)?)),
            (Some(alone), None) => {
                self.findings.error(alone, "`cert` has no `key`", "add the file of its private key");
                return None;
            }
            (None, Some(alone)) => {
                self.findings.error(alone, "`key` has no `cert`", "add the file of its certificate");
                return None;
            }
            (None, None) => None,
        };
        let ca = match &h.ca {
            Some(ca) => Some(self.file(ca)?),
            None => None,
        };
        let server_name = h.server_name.as_ref().map(|n| n.value.clone());
        TlsCheck::new(TlsSettings { server_name, insecure, ca, identity }).map_err(|error| self.bad_tls(h, at, &error)).ok()
    }

    fn bad_tls<T>(&mut self, h: &Health, at: &Placed<T>, error: &BadCheck) {
        let (key, help) = match error {
            BadCheck::ServerName(_) => (h.server_name.as_ref().map(place), "write a host name or an address"),
            BadCheck::Ca(_) => (h.ca.as_ref().map(place), "give `ca` a file with certificates in PEM"),
            BadCheck::Certificate(_) => (h.cert.as_ref().map(place), "give `cert` a file with a certificate chain in PEM"),
            BadCheck::Key(_) => (h.key.as_ref().map(place), "give `key` a file with a private key in PEM"),
            _ => (None, ""),
        };
        self.findings.error(&key.unwrap_or_else(|| place(at)), error.to_string(), help);
    }

    fn file(&mut self, path: &Placed<PathBuf>) -> Option<Vec<u8>> {
        let full = self.base.join(&path.value);
        let read = std::fs::read(&full).map_err(|e| format!("can't read {}: {e}", full.display()));
        self.findings.ok(path, read, "name a file that the daemon may read")
    }

    fn udp<T>(&mut self, h: &Health, at: &Placed<T>) -> Option<UdpCheck> {
        let Some(send) = &h.send else {
            self.findings.error(at, "a `udp` heartbeat has nothing to send", "add `send: TEXT` or `send: \"hex:0a0b\"`");
            return None;
        };
        let expect = match &h.expect {
            Some(expect) => self.bytes(expect)?,
            None => Vec::new(),
        };
        Some(UdpCheck { send: self.bytes(send)?, expect })
    }

    fn bytes(&mut self, text: &Placed<String>) -> Option<Vec<u8>> {
        let Some(hex) = text.value.strip_prefix("hex:") else { return Some(text.value.clone().into_bytes()) };
        let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(|_| format!("`{hex}` is not hexadecimal"));
        self.findings.ok(text, bytes, "write two digits per byte, such as hex:0a0b")
    }

    fn exec<T>(&mut self, h: &Health, at: &Placed<T>) -> Option<ExecCheck> {
        let Some((program, args)) = h.command.as_ref().and_then(|c| c.value.split_first()) else {
            self.findings.error(at, "an `exec` heartbeat has no command", "add `command: [/path/of/program, ARGUMENT]`");
            return None;
        };
        if !program.starts_with('/') {
            let at = h.command.as_ref().map_or_else(|| place(at), place);
            self.findings.error(&at, format!("`{program}` is no absolute path"), "write the program's whole path; no shell looks for it");
            return None;
        }
        Some(ExecCheck { program: program.into(), args: args.to_vec() })
    }
}

pub(super) fn place<T>(placed: &Placed<T>) -> Placed<()> {
    Placed { value: (), place: placed.place.clone() }
}

/// As it is written.
fn word(probe: ProbeWord) -> &'static str {
    match probe {
        ProbeWord::Tcp => "tcp",
        ProbeWord::Tls => "tls",
        ProbeWord::Http => "http",
        ProbeWord::Https => "https",
        ProbeWord::Grpc => "grpc",
        ProbeWord::Udp => "udp",
        ProbeWord::Icmp => "icmp",
        ProbeWord::Exec => "exec",
        ProbeWord::None => "none",
    }
}
