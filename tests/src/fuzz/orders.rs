//! Any lines as bodies of requests to the API, done to the core of a daemon that has two services.

use std::{net::SocketAddr, path::Path, time::Instant};

use mesh::{
    api::{BackendRef, WeightBody},
    config::{self, placed::Syntax},
    control::{
        BackendSpec, ControlError, Core, DrainOrder, DrainSpec, Intention, PacketSpec, ServiceSpec,
        view::{Admin, Beat},
    },
    model::{BackendId, ServiceName},
    state::State,
};
use serde::de::DeserializeOwned;

use super::text::check_plan;

const CONFIG: &str = "
services:
  - {name: web, vip: '192.0.2.10:80', backends: [10.0.0.1, 10.0.0.2], heartbeat: {register: true}, health: none}
  - {name: dns, vip: '192.0.2.10:53', protocol: udp, mode: dsr, health: none, backends: [10.0.0.3]}
";
/// Requests of an input beyond that many are left out.
const MOST: usize = 16;

/// Each line: a letter for the kind of request, and the body.
pub fn run(input: &[u8]) {
    let loaded = config::parse(CONFIG, Syntax::Yaml, Path::new("/nowhere/mesh.yaml")).unwrap_or_else(|e| panic!("{e}"));
    let (mut core, _) = Core::new(loaded.config, State::default());
    let now = Instant::now();
    for line in input.split(|byte| *byte == b'\n').take(MOST) {
        let Some((kind, body)) = line.split_first() else { continue };
        if let Err(error) = request(&mut core, *kind, body, now) {
            assert!(!error.to_string().is_empty(), "refused, and nobody says why");
            assert!(!matches!(error, ControlError::Internal(_)), "a request is no fault of the daemon: {error}");
        }
        core.replan(1, now);
        check_plan(core.plan());
    }
    // What was ordered has to be understood by the next daemon.
    let kept = serde_json::to_string(core.state()).unwrap_or_else(|e| panic!("the state can't be written: {e}"));
    let read: State = serde_json::from_str(&kept).unwrap_or_else(|e| panic!("the state can't be read again: {e}: {kept}"));
    assert!(read == *core.state(), "the state is read as another: {kept}");
}

fn request(core: &mut Core, kind: u8, body: &[u8], now: Instant) -> Result<(), ControlError> {
    let (web, known): (ServiceName, BackendId) = (name("web"), BackendId(SocketAddr::from(([10, 0, 0, 1], 80))));
    match kind {
        b's' => core.add_service(parsed::<ServiceSpec>(body)?).map(drop),
        b'r' => core.remove_service(&parsed::<ServiceName>(body)?),
        b'b' => core.add_backend(&web, &parsed::<BackendSpec>(body)?).map(drop),
        b'w' => core.set_weight(&web, known, parsed::<WeightBody>(body)?.weight),
        b'd' => {
            let DrainSpec { deadline, then } = parsed(body)?;
            let since_ms = 1_767_225_599_001;
            let deadline_ms = deadline.map(|span| since_ms + span.0.as_millis() as u64);
            core.drain(&web, known, DrainOrder { since_ms, deadline_ms, then, cut: false }).map(drop)
        }
        b'u' => core.set_admin(&web, known, Admin::In).map(drop),
        b'h' => {
            let id = BackendId(SocketAddr::from(([10, 0, 0, 9], 80)));
            core.beat(&web, id, &parsed::<Beat>(body)?, now).map(drop)
        }
        b'p' => core.what_if(parsed::<Intention<BackendId>>(body)?, 1, now).map(|view| drop(shown(&view))),
        b'e' => parsed::<PacketSpec>(body).map(|packet| drop(shown(&packet))),
        _ => {
            let Ok(backend) = String::from_utf8_lossy(body).parse::<BackendRef>();
            assert!(!matches!(backend, BackendRef::Name(ref text) if text.parse::<SocketAddr>().is_ok()));
            Ok(())
        }
    }
}

/// As the server reads it.
fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(|e| ControlError::Invalid(e.to_string()))
}

fn shown(answer: &impl serde::Serialize) -> String {
    serde_json::to_string(answer).unwrap_or_else(|e| panic!("an answer can't be written: {e}"))
}

fn name(text: &str) -> ServiceName {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}
