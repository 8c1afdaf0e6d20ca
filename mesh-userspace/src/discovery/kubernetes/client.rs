//! The way to an API server.

use std::time::Duration;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::ClusterAccess;
use crate::discovery::Failure;

/// A watch that says nothing for longer than it was asked to last has lost its connection.
const MARGIN: Duration = Duration::from_secs(5);

/// Reads who and where, anew each time, for tokens and certificates change. Does not connect yet.
pub async fn connect(access: &ClusterAccess) -> Result<Client, Failure> {
    let unreachable = |e: &dyn std::fmt::Display| Failure::Unreachable(e.to_string());
    let mut config = match &access.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|e| Failure::Unreachable(format!("{}: {e}", path.display())))?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
            config.map_err(|e| Failure::Unreachable(format!("{}: {e}", path.display())))?
        }
        None => Config::infer().await.map_err(|e| Failure::Unreachable(format!("{e}; `kubeconfig` names a file where there is no pod")))?,
    };
    config.connect_timeout = Some(access.timeout);
    config.read_timeout = Some(access.wait + MARGIN);
    config.write_timeout = Some(access.timeout);
    // Whoever asks tries again, and says so meanwhile.
    config.default_retry = false;
    Client::try_from(config).map_err(|e| unreachable(&e))
}
