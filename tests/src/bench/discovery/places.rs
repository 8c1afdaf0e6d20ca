//! Where backends are registered, each as its users do it.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::{
    daemon::Process,
    kube::{FakeApi, slice},
    registry::{
        Ground, etcd,
        knot::Knot,
        web::Web,
        zookeeper::{self, Registrar},
    },
};

/// Kinds of places.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    File,
    Dns,
    Http,
    Consul,
    Etcd,
    ZooKeeper,
    Kubernetes,
}

const SLICES: &str = "discovery.k8s.io/v1/endpointslices";

/// One that runs.
pub enum Running<'a> {
    File(PathBuf),
    Dns(Knot<'a>),
    Http(Web),
    Consul(Web),
    Etcd(Process),
    /// With the session of the backend that is registered.
    ZooKeeper(Process, Option<Registrar>),
    Kubernetes(FakeApi),
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dns => "dns",
            Self::Http => "http",
            Self::Consul => "consul",
            Self::Etcd => "etcd",
            Self::ZooKeeper => "zookeeper",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// What it takes by its nature: a name is asked for again after 50 ms at the soonest.
    pub fn own_ms(self) -> u64 {
        match self {
            Self::Dns => 50,
            Self::File | Self::Http | Self::Consul | Self::Etcd | Self::ZooKeeper | Self::Kubernetes => 0,
        }
    }

    /// How a service's configuration names it, as a line of YAML.
    pub fn key(self, ground: &Ground) -> String {
        let file = |name: &str| ground.path(name).display().to_string();
        match self {
            Self::File => format!("backends_file: '{}'", file("backends.json")),
            Self::Dns => "sources: [{type: dns, name: web.test, servers: ['127.0.0.1:5300'], min_refresh: 50ms, port: 9000}]".to_owned(),
            Self::Http => "sources: [{type: http, url: 'http://127.0.0.1:8080/web', wait: 30s}]".to_owned(),
            Self::Consul => "sources: [{type: consul, service: web, wait: 30s}]".to_owned(),
            Self::Etcd => format!("sources: [{{type: etcd, prefix: {}}}]", etcd::PREFIX),
            Self::ZooKeeper => "sources: [{type: zookeeper, path: /services/web}]".to_owned(),
            Self::Kubernetes => format!("sources: [{{type: kubernetes, service: shop/web, kubeconfig: '{}'}}]", file("kubeconfig")),
        }
    }

    /// Starts the server, in whose namespace the calling thread is.
    pub async fn start(self, ground: &Ground) -> Result<Running<'_>> {
        let running = match self {
            Self::File => Running::File(ground.write("backends.json", "[]")?),
            Self::Dns => Running::Dns(Knot::start(ground, 0)?),
            Self::Http => Running::Http(Web::start("127.0.0.1:8080", "[]").await?),
            Self::Consul => Running::Consul(Web::start("127.0.0.1:8500", "[]").await?),
            Self::Etcd => Running::Etcd(etcd::start(ground)?),
            Self::ZooKeeper => {
                let process = zookeeper::start(ground)?;
                let mut registrar = Registrar::connect(10_000)?;
                registrar.create("/services", "", false)?;
                registrar.create("/services/web", "", false)?;
                Running::ZooKeeper(process, None)
            }
            Self::Kubernetes => {
                let api = FakeApi::start("127.0.0.1:6443", &[SLICES])?;
                ground.write("kubeconfig", &api.kubeconfig())?;
                Running::Kubernetes(api)
            }
        };
        Ok(running)
    }
}

impl Running<'_> {
    /// Returns when the place has taken it.
    pub fn register(&mut self, backend: SocketAddr) -> Result<()> {
        let port = backend.port();
        match self {
            Self::File(path) => replace(path, &format!("[\"{backend}\"]")),
            Self::Dns(knot) => knot.update(&format!("add web.test. 0 A {}", backend.ip())),
            Self::Http(web) => {
                web.set_body(format!("[\"{backend}\"]"));
                Ok(())
            }
            Self::Consul(web) => {
                let node = format!(r#"{{"Node":"n1","Address":"{}"}}"#, backend.ip());
                web.set_body(format!(
                    r#"[{{"Node":{node},"Service":{{"ID":"web-1","Service":"web","Address":"","Port":{port}}},"Checks":[]}}]"#
                ));
                Ok(())
            }
            Self::Etcd(_) => etcd::put("one", &backend.to_string()),
            Self::ZooKeeper(_, session) => {
                let mut registrar = Registrar::connect(10_000)?;
                registrar.create("/services/web/one", &backend.to_string(), true)?;
                *session = Some(registrar);
                Ok(())
            }
            Self::Kubernetes(api) => {
                api.put(SLICES, slice("shop", "web", "web-1", port, &[(backend.ip().to_string(), "ready")])?);
                Ok(())
            }
        }
    }

    /// Takes it back.
    pub fn deregister(&mut self) -> Result<()> {
        match self {
            Self::File(path) => replace(path, "[]"),
            Self::Dns(knot) => knot.update("del web.test. A"),
            Self::Http(web) | Self::Consul(web) => {
                web.set_body("[]".to_owned());
                Ok(())
            }
            Self::Etcd(process) => {
                ensure!(process.id().is_some(), "etcd does not run");
                etcd::delete("one")
            }
            Self::ZooKeeper(process, session) => {
                ensure!(process.id().is_some(), "ZooKeeper does not run");
                session.take().map_or(Ok(()), Registrar::close)
            }
            Self::Kubernetes(api) => {
                api.delete(SLICES, "shop", "web-1");
                Ok(())
            }
        }
    }
}

fn replace(path: &PathBuf, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path).context("failed to put a list in place")
}
