//! The task: events in, lookups and keep-alive orders out, resolutions published.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::NetlinkMessage,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAttribute, RouteMessage},
    },
    sys::AsyncSocket,
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    super::{NetError, answers, connect, iface::Interfaces},
    Resolutions,
    keepalive::{Keepalive, execute},
    observe::{self, Effect},
    resolve::{Observed, Reason, Resolution, Route},
};

/// Everything is read anew this often, whatever the events said.
const RESYNC: Duration = Duration::from_secs(30);
/// Routing daemons change routes in bursts: lookups wait for more, but a single change must not wait long.
const BURST: Duration = Duration::from_millis(20);
/// Lookups that are under way at once.
const AT_ONCE: usize = 64;
/// After a netlink socket broke.
const REOPEN: Duration = Duration::from_secs(1);
/// Octets of events that the kernel may hold for us: some thousand changes.
const EVENT_BUFFER: usize = 1 << 20;

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

type Event = NetlinkMessage<RouteNetlinkMessage>;

/// One socket for questions and one for events: a flood of events can't take answers away.
pub struct Link {
    handle: Handle,
    events: Box<dyn Stream<Item = Event> + Send + Unpin>,
}

impl Link {
    pub fn open() -> Result<Self, NetError> {
        let (mut connection, _, events) = rtnetlink::new_multicast_connection(&GROUPS).map_err(NetError::Open)?;
        // More than rmem_max is not given; then events may be lost, which is noticed.
        let _ = connection.socket_mut().socket_mut().set_rx_buf_sz(EVENT_BUFFER);
        tokio::spawn(connection);
        Ok(Self { handle: connect()?, events: Box::new(events.map(|(event, _)| event)) })
    }
}

/// Runs until the other side of `targets` is gone.
pub async fn run(mut link: Link, mut targets: watch::Receiver<BTreeSet<IpAddr>>, publish: watch::Sender<Resolutions>) {
    let mut service = Service::new(publish);
    while let Err(why) = service.serve(&mut link, &mut targets).await {
        log::warn!("{why}; opening it again");
        link = loop {
            sleep(REOPEN).await;
            match Link::open() {
                Ok(link) => break link,
                Err(e) => log::warn!("{e}"),
            }
        };
    }
}

struct Service {
    observed: Observed,
    keepalive: Keepalive,
    /// What earlier lives left has been taken over.
    adopted: bool,
    publish: watch::Sender<Resolutions>,
}

impl Service {
    fn new(publish: watch::Sender<Resolutions>) -> Self {
        Self { observed: Observed::default(), keepalive: Keepalive::default(), adopted: false, publish }
    }

    /// Ok when nobody wants resolutions any more.
    async fn serve(&mut self, link: &mut Link, targets: &mut watch::Receiver<BTreeSet<IpAddr>>) -> Result<(), NetError> {
        let mut resync = interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lookup_at: Option<Instant> = None;
        let mut wanted = targets.borrow_and_update().clone();
        loop {
            // Every branch may be dropped at its await: none has done anything by then.
            tokio::select! {
                changed = targets.changed() => {
                    if changed.is_err() { return Ok(()) }
                    wanted = targets.borrow_and_update().clone();
                    self.lookup(&link.handle, &wanted, |observed, target| !observed.routes.contains_key(&target)).await;
                }
                event = link.events.next() => {
                    let Some(event) = event else { return Err(broken()) };
                    match self.take(event, link)? {
                        Taken::Resync => resync.reset_immediately(),
                        Taken::Lookup => { lookup_at.get_or_insert(Instant::now() + BURST); }
                        Taken::Nothing => {}
                    }
                }
                () = sleep_until(lookup_at.unwrap_or_else(Instant::now)), if lookup_at.is_some() => {
                    lookup_at = None;
                    self.lookup(&link.handle, &wanted, |_, _| true).await;
                }
                _ = resync.tick() => {
                    self.resync(&link.handle, &wanted).await?;
                    lookup_at = None;
                }
            }
            self.settle(&link.handle, &wanted).await;
        }
    }

    /// Takes `first` and all that has arrived behind it.
    fn take(&mut self, first: Event, link: &mut Link) -> Result<Taken, NetError> {
        let mut taken = self.apply(first);
        while let Some(next) = link.events.next().now_or_never() {
            taken = taken.max(self.apply(next.ok_or_else(broken)?));
        }
        Ok(taken)
    }

    fn apply(&mut self, event: Event) -> Taken {
        match self.observed.apply(event) {
            Effect::Nothing | Effect::Resolve => Taken::Nothing,
            Effect::Forgot(key) => {
                self.keepalive.forgot(key);
                Taken::Nothing
            }
            Effect::Lookup => Taken::Lookup,
            Effect::Resync => Taken::Resync,
        }
    }

    async fn resync(&mut self, handle: &Handle, wanted: &BTreeSet<IpAddr>) -> Result<(), NetError> {
        let links = Interfaces::with(handle).list().await?;
        let neighbours = answers("list the neighbours", handle.neighbours().get().execute()).await?;
        self.observed.links = links.into_iter().map(|link| (link.index, link)).collect();
        self.observed.neighbours.clear();
        for message in &neighbours {
            self.observed.new_neighbour(message);
        }
        self.keepalive.recheck(&self.observed.neighbours);
        self.lookup(handle, wanted, |_, _| true).await;
        Ok(())
    }

    /// Asks the kernel for its route to those targets that `due` names, and forgets what is no target any more.
    async fn lookup(&mut self, handle: &Handle, wanted: &BTreeSet<IpAddr>, due: impl Fn(&Observed, IpAddr) -> bool) {
        self.observed.routes.retain(|target, _| wanted.contains(target));
        let due: Vec<_> = wanted.iter().copied().filter(|target| due(&self.observed, *target)).collect();
        let asked = due.into_iter().map(|target| async move { (target, route_to(handle, target).await) });
        let mut answers = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some((target, route)) = answers.next().await {
            self.observed.routes.insert(target, route);
        }
    }

    /// Brings the kernel's neighbours and the published map in line with what has been observed.
    async fn settle(&mut self, handle: &Handle, wanted: &BTreeSet<IpAddr>) {
        if !self.adopted && !wanted.is_empty() {
            self.keepalive.adopt(&self.observed.neighbours);
            self.adopted = true;
        }
        let keys = wanted.iter().filter_map(|target| self.observed.neighbour_key(*target)).collect();
        for step in self.keepalive.plan(&keys, &self.observed.neighbours) {
            if let Err(error) = execute(handle, step).await {
                log::warn!("{error}: a next hop may expire unnoticed");
            }
        }
        let now: BTreeMap<IpAddr, Resolution> = wanted.iter().map(|target| (*target, self.observed.resolve(*target))).collect();
        self.publish.send_if_modified(|published| {
            let changed = **published != now;
            if changed {
                *published = Arc::new(now);
            }
            changed
        });
    }
}

/// What the caller of [`Service::take`] has to do; the later the more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Taken {
    Nothing,
    Lookup,
    Resync,
}

async fn route_to(handle: &Handle, target: IpAddr) -> Route {
    if matches!(target, IpAddr::V6(a) if a.is_unicast_link_local()) {
        return Route::Not(Reason::LinkLocal);
    }
    let mut request = RouteMessage::default();
    (request.header.address_family, request.header.destination_prefix_length) = match target {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    request.attributes.push(RouteAttribute::Destination(target.into()));
    match answers("look a route up", handle.route().get(request).execute()).await {
        Ok(found) => found.first().map_or(Route::Not(Reason::NoRoute("no answer".to_owned())), observe::route),
        Err(error) => Route::Not(unroutable(&error)),
    }
}

/// The kernel answers a lookup that ends in a route of a dropping type, or in none, with an error number.
fn unroutable(error: &NetError) -> Reason {
    match error.errno() {
        Some(libc::ENETUNREACH) => Reason::NoRoute("network is unreachable".to_owned()),
        Some(libc::EHOSTUNREACH) => Reason::RouteDrops("unreachable"),
        Some(libc::EPERM | libc::EACCES) => Reason::RouteDrops("prohibit"),
        Some(libc::EINVAL) => Reason::RouteDrops("blackhole"),
        _ => Reason::Unknown(error.to_string()),
    }
}

fn broken() -> NetError {
    NetError::Netlink { what: "watch routes and neighbours".to_owned(), detail: "the socket was closed".to_owned() }
}
