//! The sampled flow log: one JSON object a line, to standard output, a file or a socket, by a thread that nothing waits for.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    dataplane::FlowNote,
    events::unix_ms,
    model::{BackendId, ServiceName, proto_name},
};

/// Where flows are logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FlowSink {
    Stdout,
    /// Lines are appended; whoever rotates the file just renames it.
    File(PathBuf),
    /// A unix stream socket that somebody listens at.
    Socket(PathBuf),
}

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    time_ms: u64,
    event: &'static str,
    /// The service's name, or its VIP where it has none any more.
    service: &'a str,
    protocol: &'static str,
    client: SocketAddr,
    vip: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    backend: BackendId,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
}

/// Lines that wait for a sink that is slow; what is beyond is dropped and counted.
const WAITING: usize = 16;
/// A sink that fails is tried again after this.
const PAUSE: Duration = Duration::from_secs(1);
/// A socket whose reader takes nothing for this long has failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// The near end.
#[derive(Debug)]
pub struct FlowLog {
    batches: SyncSender<Batch>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Batch {
    text: Vec<u8>,
    lines: u64,
}

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl FlowLog {
    /// Starts the thread that writes.
    pub fn spawn(sink: FlowSink) -> io::Result<Self> {
        let (batches, waiting) = sync_channel(WAITING);
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        thread::Builder::new().name("flow-log".into()).spawn(move || write_all(&sink, &waiting, &shared))?;
        Ok(Self { batches, counts })
    }

    /// Has these flows written; `name` finds a flow's service.
    pub fn write<'a>(&self, notes: &[FlowNote], name: impl Fn(&FlowNote) -> Option<&'a ServiceName>, now: SystemTime) {
        if notes.is_empty() {
            return;
        }
        let mut text = Vec::with_capacity(notes.len() * 200);
        for note in notes {
            let vip = SocketAddr::new(note.vip.addr, note.port);
            let shown = vip.to_string();
            let line = Line {
                time_ms: unix_ms(now.checked_sub(note.ago).unwrap_or(now)),
                event: note.change.name(),
                service: name(note).map_or(shown.as_str(), ServiceName::as_str),
                protocol: proto_name(note.vip.proto),
                client: note.client,
                vip,
                source_port: note.source_port,
                backend: note.backend,
                mode: note.mode.name(),
                duration_ms: note.lasted.map(|lasted| u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX)),
            };
            // Plain texts and numbers always can be written.
            if serde_json::to_writer(&mut text, &line).is_ok() {
                text.push(b'\n');
            }
        }
        let lines = notes.len() as u64;
        if self.batches.try_send(Batch { text, lines }).is_err() {
            self.counts.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }

    /// Lines that were written, and lines that were dropped because the sink was slow or not there.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.written.load(Ordering::Relaxed), self.counts.dropped.load(Ordering::Relaxed))
    }
}

fn write_all(sink: &FlowSink, waiting: &Receiver<Batch>, counts: &Counts) {
    let mut connection = None;
    let mut failing = false;
    for Batch { text, lines } in waiting {
        match write(sink, &mut connection, &text) {
            Ok(()) => {
                counts.written.fetch_add(lines, Ordering::Relaxed);
                failing = false;
            }
            Err(error) => {
                counts.dropped.fetch_add(lines, Ordering::Relaxed);
                if !std::mem::replace(&mut failing, true) {
                    log::warn!("flows can't be logged to {sink}: {error}; they are dropped until it works again");
                }
                thread::sleep(PAUSE);
            }
        }
    }
}

fn write(sink: &FlowSink, connection: &mut Option<UnixStream>, text: &[u8]) -> io::Result<()> {
    match sink {
        FlowSink::Stdout => io::stdout().lock().write_all(text),
        // Opened anew each time, so that a file that was renamed is left alone.
        FlowSink::File(path) => OpenOptions::new().create(true).append(true).open(path)?.write_all(text),
        FlowSink::Socket(path) => {
            let mut stream = match connection.take() {
                Some(stream) => stream,
                None => connect(path)?,
            };
            stream.write_all(text)?;
            *connection = Some(stream);
            Ok(())
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

impl std::fmt::Display for FlowSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
            Self::Socket(path) => write!(f, "the socket {}", path.display()),
        }
    }
}

impl std::str::FromStr for FlowSink {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.strip_prefix("unix:") {
            _ if s == "stdout" => Ok(Self::Stdout),
            Some(path) if path.starts_with('/') => Ok(Self::Socket(path.into())),
            None if s.starts_with('/') => Ok(Self::File(s.into())),
            _ => Err(format!("`{s}` is no place for flows")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        os::unix::net::UnixListener,
        time::Instant,
    };

    use mesh_common::abi::{Mode, Proto};

    use super::*;
    use crate::{dataplane::FlowChange, model::VipAddr};

    const LIMIT: Duration = Duration::from_secs(20);

    fn note(port: u16) -> FlowNote {
        let vip = VipAddr { addr: [192, 0, 2, 1].into(), port: 80, proto: Proto::Tcp };
        let (backend, client) = (BackendId(([10, 0, 0, 1], 8080).into()), ([10, 0, 0, 9], port).into());
        let (mode, ago) = (Mode::Nat, Duration::from_millis(200));
        FlowNote { change: FlowChange::Opened, vip, mode, backend, client, port: 80, source_port: Some(3000), ago, lasted: None }
    }

    fn write(log: &FlowLog, port: u16) {
        let name: ServiceName = "web".parse().unwrap();
        log.write(&[note(port)], |_| Some(&name), SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + LIMIT;
        while !holds() {
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_file_gets_lines_and_may_be_renamed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("flows"), directory.path().join("flows.1"));
        let log = FlowLog::spawn(FlowSink::File(path.clone())).unwrap();
        write(&log, 1);
        until("a line is written", || log.counts() == (1, 0));
        std::fs::rename(&path, &old).unwrap();
        write(&log, 2);
        until("another line is written", || log.counts() == (2, 0));
        let wanted = "{\"time_ms\":1300,\"event\":\"opened\",\"service\":\"web\",\"protocol\":\"tcp\",\"client\":\"10.0.0.9:1\",\"vip\":\"192.0.2.1:80\",\
                      \"source_port\":3000,\"backend\":\"10.0.0.1:8080\",\"mode\":\"nat\"}\n";
        assert_eq!(std::fs::read_to_string(&old).unwrap(), wanted);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), wanted.replace("0.9:1", "0.9:2"));
    }

    #[test]
    fn a_socket_that_comes_later_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.sock");
        let log = FlowLog::spawn(FlowSink::Socket(path.clone())).unwrap();
        write(&log, 1);
        until("nobody listens: it is dropped", || log.counts() == (0, 1));
        let listener = UnixListener::bind(&path).unwrap();
        write(&log, 2);
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains("10.0.0.9:2"), "{line}");
    }

    #[test]
    fn places_are_written_as_they_are_meant() {
        assert_eq!("stdout".parse(), Ok(FlowSink::Stdout));
        assert_eq!("/var/log/flows".parse(), Ok(FlowSink::File("/var/log/flows".into())));
        assert_eq!("unix:/run/flows.sock".parse(), Ok(FlowSink::Socket("/run/flows.sock".into())));
        for bad in ["", "flows", "unix:flows", "file:/x", "udp:1"] {
            assert!(bad.parse::<FlowSink>().is_err(), "{bad}");
        }
    }
}
