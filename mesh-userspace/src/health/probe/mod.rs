//! Asking one target once. A probe never fails to answer: whatever happens is an [`Outcome`].

mod exec;
mod grpc;
mod http;
mod icmp;
mod tcp;
mod tls;
mod told;
mod udp;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use futures_util::future::{LocalBoxFuture, select_ok, try_join_all};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::sync::Semaphore;

use super::{Check, CheckKind, Part, Reported, alarm, stall::NOISE};
use told::Told;

/// What one check brought.
#[derive(Debug)]
pub struct Outcome {
    /// From the start to the end of the answer, or to the error.
    pub elapsed: Duration,
    /// How much of it the target had since it was last told something: for a check without an answer, the time that it had for one.
    pub waited: Duration,
    /// With the load that the target reports, where it is asked for.
    pub result: Result<Option<Reported>, ProbeError>,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("connecting failed: {0}")]
    Connect(#[source] io::Error),
    /// Nothing was asked, because this host could not: no file descriptor, no local port, no such source address.
    #[error("this host can't ask: {0}; look at its open files limit, local ports and the check's source address")]
    Local(#[source] io::Error),
    #[error("status {got}, expected {expected}")]
    Status { got: u16, expected: String },
    #[error("no HTTP answer: {0}")]
    Http(String),
    #[error("the body does not hold `{0}`")]
    Body(String),
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    #[error("gRPC: {0}")]
    Grpc(String),
    #[error("the answer is not the expected one: {0}")]
    Answer(String),
    #[error("the command {0}")]
    Exec(String),
    /// One of several checks.
    #[error("{kind}: {error}")]
    Part { kind: String, error: Box<ProbeError> },
}

/// Whom a failed check tells something about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The target answered wrongly or refused: certain, however late we were.
    Target,
    /// Silence: the target's, or our own if we were not awake to hear it.
    Silence,
    /// Ours.
    Own,
}

impl ProbeError {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Timeout(_) => Fault::Silence,
            Self::Local(_) => Fault::Own,
            Self::Part { error, .. } => error.fault(),
            Self::Connect(_)
            | Self::Status { .. }
            | Self::Http(_)
            | Self::Body(_)
            | Self::Tls(_)
            | Self::Grpc(_)
            | Self::Answer(_)
            | Self::Exec(_) => Fault::Target,
        }
    }
}

/// So long an answer is listened for after time was up, at most.
const LONGER: Duration = Duration::from_millis(5);

/// Commands that run at once; a machine that is to balance has no more to spare.
const PROCESSES: usize = 32;
static PROCESS: Semaphore = Semaphore::const_new(PROCESSES);

/// Runs `check` once, within its timeout. Cancel safe: dropping it closes the connection, and kills the command.
pub async fn probe(check: &Check) -> Outcome {
    // Waiting for a turn is no failure of the target, so it comes before the clock starts. The semaphore is never closed.
    let _turn = if check.kind.starts_processes() { PROCESS.acquire().await.ok() } else { None };
    let start = Instant::now();
    let told = Told::at(start);
    let asking = ask(&check.kind, Place { address: check.address, source: check.source, tag: check.tag, told: &told });
    let (result, end) = listen(asking, start + check.timeout).await;
    Outcome {
        elapsed: end.saturating_duration_since(start),
        waited: end.saturating_duration_since(told.when()),
        result: result.unwrap_or(Err(ProbeError::Timeout(check.timeout))),
    }
}

/// The answer, if there is one by `deadline`, and when it came or time was up.
///
/// Who wakes late listens a little longer: where all of the machine was away, what came meanwhile may still be on its way from the network card.
async fn listen<T>(mut asking: LocalBoxFuture<'_, T>, deadline: Instant) -> (Option<T>, Instant) {
    let answer = tokio::select! {
        biased;
        answer = &mut asking => Some(answer),
        () = alarm::sleep_until(deadline) => None,
    };
    let end = Instant::now();
    let late = end.saturating_duration_since(deadline);
    if answer.is_some() || late <= NOISE {
        return (answer, end);
    }
    (tokio::time::timeout(late.min(LONGER), asking).await.ok(), end)
}

/// Where to ask, and from where.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    address: SocketAddr,
    source: Option<IpAddr>,
    /// As [`Check::tag`].
    tag: u32,
    told: &'a Told,
}

impl Place<'_> {
    /// Has a socket's packets take the check's passage.
    fn lead(&self, socket: &impl AsFd) -> io::Result<()> {
        if self.tag == 0 {
            return Ok(());
        }
        Ok(setsockopt(socket, sockopt::Priority, &self.tag.cast_signed())?)
    }
}

fn ask<'a>(kind: &'a CheckKind, place: Place<'a>) -> LocalBoxFuture<'a, Result<Option<Reported>, ProbeError>> {
    Box::pin(async move {
        let plain = match kind {
            CheckKind::Tcp => tcp::connect(place).await.map(drop),
            CheckKind::Tls(check) => tls::handshake(tcp::connect(place).await?, place.address, check).await.map(drop),
            CheckKind::Http(check) => {
                let stream = tcp::connect(place).await?;
                return match check.tls() {
                    None => http::get(stream, place.address, check).await,
                    Some(tls) => http::get(tls::handshake(stream, place.address, tls).await?, place.address, check).await,
                };
            }
            CheckKind::Grpc { service } => grpc::check(tcp::connect(place).await?, place.address, service).await,
            CheckKind::Udp(check) => udp::ask(place, check).await,
            CheckKind::Icmp => icmp::echo(place).await,
            CheckKind::Exec(check) => exec::run(place.address, check).await,
            // The first of several that reports a load.
            CheckKind::All(parts) => {
                let all = try_join_all(parts.iter().map(|part| ask_part(part, place))).await?;
                return Ok(all.into_iter().flatten().next());
            }
            CheckKind::Any(parts) if parts.is_empty() => Ok(()),
            CheckKind::Any(parts) => return select_ok(parts.iter().map(|part| ask_part(part, place))).await.map(|(first, _)| first),
        };
        plain.map(|()| None)
    })
}

fn ask_part<'a>(part: &'a Part, place: Place<'a>) -> LocalBoxFuture<'a, Result<Option<Reported>, ProbeError>> {
    let address = SocketAddr::new(place.address.ip(), part.port.unwrap_or(place.address.port()));
    let name = |error| ProbeError::Part { kind: part.kind.to_string(), error: Box::new(error) };
    Box::pin(async move { ask(&part.kind, Place { address, ..place }).await.map_err(name) })
}

/// A failure to open, bind or connect a socket.
fn blame(error: io::Error) -> ProbeError {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied | io::ErrorKind::OutOfMemory => {
            ProbeError::Local(error)
        }
        _ => ProbeError::Connect(error),
    }
}

/// Whether `bytes` hold `wanted`; everything holds nothing.
fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|w| w == wanted)
}

#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod tests;
