//! The end of an instance: nothing of it stays in the kernel.

use std::{fmt, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    config::Instance,
    dataplane::{
        Dataplane, Detached,
        net::{Announcer, NetError, nexthop},
    },
    state::{State, Store},
};

/// What was taken away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    instance: Instance,
    plane: Detached,
    addresses: usize,
}

/// Ends all forwarding of an instance whose daemon does not run: links, programs, maps, announced addresses and kept neighbours go. What the
/// operator changed by CLI stays, for the next start.
pub async fn detach(instance: &Instance, bpffs: &Path, state_dir: &Path) -> Result<Done> {
    let store = Store::open(state_dir, instance)?;
    let found = store.load()?;
    if let Some(problem) = found.problem {
        log::warn!("{problem}; addresses that it announced are not removed");
    }
    // Clients' packets should stop to arrive before nobody takes them.
    let addresses = withdraw(&found.state).await.context("failed to take announced addresses away")?;
    let plane = Dataplane::detach(bpffs, instance.as_str())?;
    // Neighbours are kept alive for all instances alike.
    if !bpffs.join("mesh").exists() {
        nexthop::release_all().await.context("failed to release neighbours")?;
    }
    if !found.state.announced.is_empty() {
        store.save(&State { announced: [].into(), ..found.state })?;
    }
    Ok(Done { instance: instance.clone(), plane, addresses })
}

async fn withdraw(state: &State) -> Result<usize, NetError> {
    if state.announced.is_empty() {
        return Ok(0);
    }
    let announcer = Announcer::open()?;
    let mut removed = 0;
    for (address, interface) in &state.announced {
        match announcer.remove(*address, interface).await {
            Ok(was_there) => removed += usize::from(was_there),
            // With the interface its addresses are gone as well.
            Err(NetError::NoSuchInterface(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, plane, addresses } = self;
        if plane.interfaces.is_empty() && plane.objects == 0 && *addresses == 0 {
            return write!(f, "instance `{instance}`: there was nothing to take away");
        }
        let interfaces = if plane.interfaces.is_empty() { "no interface".to_owned() } else { plane.interfaces.join(", ") };
        write!(f, "instance `{instance}`: detached from {interfaces}; removed {} pins and {addresses} addresses", plane.objects)
    }
}
