//! Sources of backends against the real servers of Debian's packages: they live, change, die and return in network namespaces of their own.

#[path = "peer_sources/consul.rs"]
mod consul;
#[path = "peer_sources/consul_real.rs"]
mod consul_real;
#[path = "peer_sources/dns.rs"]
mod dns;
#[path = "peer_sources/dns_broken.rs"]
mod dns_broken;
#[path = "peer_sources/etcd.rs"]
mod etcd;
#[path = "peer_sources/follower.rs"]
mod follower;
#[path = "peer_sources/http.rs"]
mod http;
#[path = "peer_sources/kubernetes.rs"]
mod kubernetes;
#[path = "peer_sources/rough.rs"]
mod rough;
#[path = "peer_sources/secure.rs"]
mod secure;
#[path = "peer_sources/zookeeper.rs"]
mod zookeeper;
