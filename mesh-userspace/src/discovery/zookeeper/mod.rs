//! Endpoints from ZooKeeper: the children of a node, followed by a persistent recursive watch (ZooKeeper 3.6 and later).
//!
//! The watch is set before the children are read, so nothing that changes meanwhile is missed. A session that is lost is no change: the next one
//! reads all again, and tells what is different.

mod session;
mod wire;

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    time::Duration,
};

use self::{
    session::Session,
    wire::{Frame, Kind},
};
use super::{Failure, Fit, Outlet, keyed::Keyed};

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZooKeeperSpec {
    /// `HOST:PORT` of members of the ensemble, at least one; when one fails the next one is asked.
    pub servers: Vec<String>,
    /// The node whose children are the endpoints; begins with `/`, does not end with it.
    pub path: String,
    /// Silence after which the session counts as lost.
    pub session: Duration,
    /// For a session to be granted.
    pub timeout: Duration,
}

/// A node that is followed.
#[derive(Debug)]
pub struct ZooKeeperSource {
    spec: ZooKeeperSpec,
    keyed: Keyed,
    /// Which server is asked.
    member: usize,
}

/// A request that is not answered yet; answers come in the order of requests.
enum Pending {
    Watch,
    Children,
    Data(String),
}

/// Requests under way on a session.
struct Ongoing {
    session: Session,
    pending: VecDeque<(i32, Pending)>,
    /// Children when the list was read, until their contents are there as well.
    listed: Option<BTreeSet<String>>,
}

impl ZooKeeperSource {
    pub fn new(spec: ZooKeeperSpec, fit: Fit) -> Self {
        Self { spec, keyed: Keyed::new(fit), member: 0 }
    }

    pub(super) async fn run(&mut self, outlet: &Outlet) -> Failure {
        let server = self.spec.servers[self.member % self.spec.servers.len()].clone();
        self.keyed.tell_all();
        match self.follow(&server, outlet).await {
            Ok(never) => match never {},
            Err(failure) => {
                self.member += 1;
                failure
            }
        }
    }

    async fn follow(&mut self, server: &str, outlet: &Outlet) -> Result<std::convert::Infallible, Failure> {
        let session = Session::open(server, self.spec.session, self.spec.timeout).await?;
        let mut ongoing = Ongoing { session, pending: VecDeque::new(), listed: None };
        let path = self.spec.path.clone();
        ongoing.ask(Pending::Watch, &path).await?;
        ongoing.ask(Pending::Children, &path).await?;
        let mut changed = true;
        loop {
            let frame = ongoing.session.frame().await?;
            match wire::frame(&frame)? {
                Frame::Pong => {}
                Frame::Event { kind, path } => {
                    changed |= self.event(kind, path, &mut ongoing).await?;
                }
                Frame::Reply { xid, error, body } => {
                    self.reply(xid, error, body, &mut ongoing).await?;
                    changed = true;
                }
            }
            // Told together: all that has come, once nothing is open that it would be incomplete without.
            if changed && ongoing.pending.is_empty() && !ongoing.session.has_more() {
                if let Some(listed) = ongoing.listed.take() {
                    self.keyed.retain(&listed);
                }
                self.keyed.tell(outlet).await;
                changed = false;
            }
        }
    }

    /// True if the event alone changes something.
    async fn event(&mut self, kind: Kind, path: &str, ongoing: &mut Ongoing) -> Result<bool, Failure> {
        // Below a child is others' business.
        let Some(child) = path.strip_prefix(&format!("{}/", self.spec.path)).filter(|child| !child.contains('/')) else { return Ok(false) };
        match kind {
            Kind::Created | Kind::Changed => {
                ongoing.listed.as_mut().map(|listed| listed.insert(child.to_owned()));
                ongoing.ask(Pending::Data(child.to_owned()), path).await?;
                Ok(false)
            }
            Kind::Deleted => {
                ongoing.listed.as_mut().map(|listed| listed.remove(child));
                self.keyed.remove(child);
                Ok(true)
            }
            Kind::Other(_) => Ok(false),
        }
    }

    async fn reply(&mut self, xid: i32, error: i32, body: &[u8], ongoing: &mut Ongoing) -> Result<(), Failure> {
        let Some((_, asked)) = ongoing.pending.pop_front().filter(|(expected, _)| *expected == xid) else {
            return Err(Failure::Bad(format!("request {xid} is answered out of its turn")));
        };
        match (asked, error) {
            (Pending::Watch, wire::OK) => {}
            (Pending::Watch, wire::UNIMPLEMENTED) => {
                return Err(Failure::Bad("the server has no persistent watches: ZooKeeper 3.6 or later is needed".to_owned()));
            }
            (Pending::Children, wire::OK) => {
                let children = wire::children(body)?;
                for child in &children {
                    let path = format!("{}/{child}", self.spec.path);
                    ongoing.ask(Pending::Data(child.clone()), &path).await?;
                }
                ongoing.listed = Some(children.into_iter().collect());
            }
            // Nobody has registered yet.
            (Pending::Children, wire::NO_NODE) => ongoing.listed = Some(BTreeSet::new()),
            (Pending::Data(child), wire::OK) => self.keyed.put(&child, wire::data(body)?),
            // It has gone again meanwhile.
            (Pending::Data(child), wire::NO_NODE) => self.keyed.remove(&child),
            (_, code) => return Err(Failure::Unreachable(format!("the server refuses a request with error {code}"))),
        }
        Ok(())
    }
}

impl Ongoing {
    async fn ask(&mut self, what: Pending, path: &str) -> Result<(), Failure> {
        let xid = self.session.next_xid();
        let request = match &what {
            Pending::Watch => wire::add_watch(xid, path),
            Pending::Children => wire::get_children(xid, path),
            Pending::Data(_) => wire::get_data(xid, path),
        };
        self.pending.push_back((xid, what));
        self.session.send(&request).await
    }
}

impl fmt::Display for ZooKeeperSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zookeeper {}", self.path)
    }
}
