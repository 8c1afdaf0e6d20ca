//! QUIC: servers that write their server id into connection ids, and clients that hold connections and move to other addresses.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::future::join_all;
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime,
    TransportConfig, VarInt, rustls::RootCertStore,
};
use rcgen::CertifiedKey;
use tokio::{runtime::Runtime, time};

use super::{HeldReport, unspecified};
use crate::netns::Namespace;

/// Bytes of a connection id.
const ID: usize = 12;
/// Name that servers have a certificate for.
const NAME: &str = "mesh.test";
/// After so long without a packet a side gives its connection up.
const IDLE: Duration = Duration::from_secs(400);

/// A server id, and how many bytes it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerId {
    pub id: u32,
    pub length: usize,
}

/// A server that answers each request by its name, until this value goes.
#[derive(Debug)]
pub struct QuicServer {
    // Ends what runs on it.
    _runtime: Runtime,
}

impl QuicServer {
    /// Serves at `listen` in `ns`. `id`: what it writes into its connection ids; `None` = they are drawn.
    pub fn start(ns: &Namespace, name: &str, listen: SocketAddr, id: Option<ServerId>) -> Result<Self> {
        let socket = ns.enter(|| UdpSocket::bind(listen))?.with_context(|| format!("{name} can't listen at {listen}"))?;
        let runtime = runtime()?;
        let mut config = EndpointConfig::default();
        if let Some(id) = id {
            config.cid_generator(move || Box::new(Generator { id, random: RandomState::new(), drawn: 0 }));
        }
        let certified = certified();
        let secret = quinn::rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let mut server = ServerConfig::with_single_cert(vec![certified.cert.der().clone()], secret.into())?;
        server.transport_config(transport()?);
        let endpoint = {
            let _inside = runtime.enter();
            Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))?
        };
        runtime.spawn(serve(endpoint, name.to_owned()));
        Ok(Self { _runtime: runtime })
    }
}

/// Connections, each from a socket of its own, that are asked again and again until this value goes.
#[derive(Debug)]
pub struct QuicHeld {
    clients: Vec<Endpoint>,
    shared: Arc<Shared>,
    to: SocketAddr,
    runtime: Runtime,
}

#[derive(Debug, Default)]
struct Shared {
    turns: AtomicU64,
    reports: Mutex<Vec<HeldReport>>,
}

impl QuicHeld {
    /// Opens `count` connections from `ns`; a request that takes longer than `timeout` has broken its connection.
    pub fn open(ns: &Namespace, to: SocketAddr, count: usize, pause: Duration, timeout: Duration) -> Result<Self> {
        let runtime = runtime()?;
        let any = unspecified(to);
        let sockets = ns.enter(|| (0..count).map(|_| UdpSocket::bind((any, 0))).collect::<io::Result<Vec<_>>>())??;
        let clients = {
            let _inside = runtime.enter();
            let client = |socket| Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime));
            sockets.into_iter().map(client).collect::<io::Result<Vec<_>>>()?
        };
        let config = client_config()?;
        let opened = runtime.block_on(join_all(clients.iter().map(|client| open(client, config.clone(), to, timeout))));
        let mut held = Vec::new();
        for one in opened {
            held.push(one.with_context(|| format!("failed to open QUIC connections to {to}"))?);
        }
        let shared = Arc::new(Shared::default());
        shared.note(&held);
        runtime.spawn(ask_on(held, Arc::clone(&shared), pause, timeout));
        Ok(Self { clients, shared, to, runtime })
    }

    /// Moves all of them to other ports, at `local` or wherever packets leave; connections are not told before (RFC 9000 section 9.3.1: a rebinding).
    pub fn rebind(&self, ns: &Namespace, local: Option<IpAddr>) -> Result<()> {
        let local = local.unwrap_or_else(|| unspecified(self.to));
        for client in &self.clients {
            let socket = ns.enter(|| UdpSocket::bind((local, 0)))??;
            let _inside = self.runtime.enter();
            client.rebind(socket)?;
        }
        Ok(())
    }

    /// How often all of them have been asked since they were opened.
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Acquire)
    }

    /// How each has fared until the last turn.
    pub fn so_far(&self) -> Vec<HeldReport> {
        self.shared.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes them and says how each fared.
    pub fn finish(self) -> Vec<HeldReport> {
        self.so_far()
    }
}

impl Shared {
    fn note(&self, held: &[Held]) {
        *self.reports.lock().unwrap_or_else(PoisonError::into_inner) = held.iter().map(|h| h.report.clone()).collect();
    }
}

struct Held {
    connection: Connection,
    report: HeldReport,
}

async fn open(client: &Endpoint, config: ClientConfig, to: SocketAddr, timeout: Duration) -> Result<Held> {
    let connection = time::timeout(timeout, client.connect_with(config, to, NAME)?).await.context("no answer to the handshake")??;
    let owner = ask(&connection, timeout).await?;
    Ok(Held { connection, report: HeldReport::begun(owner) })
}

async fn ask_on(mut held: Vec<Held>, shared: Arc<Shared>, pause: Duration, timeout: Duration) {
    loop {
        join_all(held.iter_mut().map(|one| one.ask_again(timeout))).await;
        shared.note(&held);
        shared.turns.fetch_add(1, Ordering::Release);
        time::sleep(pause).await;
    }
}

impl Held {
    async fn ask_again(&mut self, timeout: Duration) {
        if self.report.broken.is_some() {
            return;
        }
        let answer = ask(&self.connection, timeout).await;
        self.report.note(answer);
    }
}

/// One request, a stream of its own.
async fn ask(connection: &Connection, timeout: Duration) -> Result<String> {
    let answer = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(b"who?").await?;
        send.finish()?;
        anyhow::Ok(String::from_utf8_lossy(&recv.read_to_end(64).await?).into_owned())
    };
    time::timeout(timeout, answer).await.context("no answer in time")?
}

async fn serve(endpoint: Endpoint, name: String) {
    while let Some(incoming) = endpoint.accept().await {
        let name = name.clone();
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let name = name.clone();
                tokio::spawn(async move {
                    recv.read_to_end(64).await?;
                    send.write_all(name.as_bytes()).await?;
                    send.finish()?;
                    anyhow::Ok(())
                });
            }
        });
    }
}

/// Connection ids as the draft has them where nothing is encrypted: configuration 0 and how long the rest is, the server id, what is drawn.
struct Generator {
    id: ServerId,
    random: RandomState,
    drawn: u64,
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; ID];
        bytes[0] = ID as u8 - 1;
        let ServerId { id, length } = self.id;
        let (server, rest) = bytes[1..].split_at_mut(length);
        server.copy_from_slice(&id.to_be_bytes()[4 - length..]);
        self.drawn += 1;
        let random = self.random.hash_one(self.drawn).to_be_bytes();
        rest.iter_mut().zip(random.into_iter().cycle()).for_each(|(to, from)| *to = from);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
}

/// The one certificate of all servers of this process, which its clients trust.
fn certified() -> &'static CertifiedKey<rcgen::KeyPair> {
    static CERTIFIED: OnceLock<CertifiedKey<rcgen::KeyPair>> = OnceLock::new();
    CERTIFIED.get_or_init(|| rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a key can be made"))
}

fn client_config() -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certified().cert.der().clone())?;
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    config.transport_config(transport()?);
    Ok(config)
}

fn transport() -> Result<Arc<TransportConfig>> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE)?)).max_concurrent_bidi_streams(VarInt::from_u32(64));
    Ok(Arc::new(transport))
}
