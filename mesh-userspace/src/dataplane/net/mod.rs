//! What the daemon asks and tells the kernel through netlink: interfaces, the next hops of backends, announced addresses.
//!
//! Everything the daemon puts into the kernel's tables carries [`OWNER`], so that a later life of the daemon knows it again, and things of
//! others are never touched.

pub mod announce;
mod gratuitous;
pub mod iface;
pub mod nexthop;

use std::{io, time::Duration};

use futures_util::{Stream, StreamExt};
use rtnetlink::Handle;

pub use announce::{Address, Announced, Announcer};
pub use gratuitous::Teller;
pub use iface::{Interface, Interfaces};
pub use nexthop::{NextHop, NextHops, Reason, Resolution};

/// The `protocol` of neighbours (`NDA_PROTOCOL`) and addresses (`IFA_PROTO`, Linux 5.18) that are ours: `ip -d neigh` and `ip -d addr`
/// show it as `proto 109`.
pub const OWNER: u8 = 109;

/// The kernel answers at once; an answer that could not be decoded never comes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a question or an order to the kernel came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("failed to open a netlink socket: {0}; the sandbox must allow address family AF_NETLINK")]
    Open(#[source] io::Error),
    #[error("no interface is called `{0}`: `ip link` lists them")]
    NoSuchInterface(String),
    #[error("interface `{0}` has no Ethernet address, so nothing can be announced there")]
    NotEthernet(String),
    #[error("not permitted to {what}: run as root or with the capability {capability}")]
    NotPermitted { what: String, capability: &'static str },
    #[error("failed to {what}: {source}")]
    Kernel { what: String, source: io::Error },
    #[error("failed to {what}: {detail}")]
    Netlink { what: String, detail: String },
}

impl NetError {
    fn kernel(what: &str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { what: what.to_owned(), capability: "CAP_NET_ADMIN" },
            _ => Self::Kernel { what: what.to_owned(), source },
        }
    }

    fn from_netlink(what: &str, error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(e) => Self::kernel(what, e.to_io()),
            other => Self::Netlink { what: what.to_owned(), detail: other.to_string() },
        }
    }

    /// The kernel's error number, if it was the kernel that refused.
    fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            Self::NotPermitted { .. } => Some(libc::EPERM),
            _ => None,
        }
    }
}

/// A socket for requests in the calling thread's network namespace. Needs a tokio runtime.
fn connect() -> Result<Handle, NetError> {
    let (connection, handle, unsolicited) = rtnetlink::new_connection().map_err(NetError::Open)?;
    drop(unsolicited);
    tokio::spawn(connection);
    Ok(handle)
}

/// All answers to one request, in order. `what` completes "failed to ...".
async fn answers<T>(what: &str, stream: impl Stream<Item = Result<T, rtnetlink::Error>>) -> Result<Vec<T>, NetError> {
    let collect = async {
        let mut all = Vec::new();
        let mut stream = std::pin::pin!(stream);
        while let Some(next) = stream.next().await {
            all.push(next.map_err(|e| NetError::from_netlink(what, e))?);
        }
        Ok(all)
    };
    tokio::time::timeout(PATIENCE, collect).await.unwrap_or_else(|_| Err(no_answer(what)))
}

/// Runs one order and waits for the kernel's acknowledgement.
async fn order(what: &str, done: impl Future<Output = Result<(), rtnetlink::Error>>) -> Result<(), NetError> {
    match tokio::time::timeout(PATIENCE, done).await {
        Ok(result) => result.map_err(|e| NetError::from_netlink(what, e)),
        Err(_) => Err(no_answer(what)),
    }
}

fn no_answer(what: &str) -> NetError {
    NetError::Netlink { what: what.to_owned(), detail: format!("the kernel gave no answer within {PATIENCE:?}") }
}
