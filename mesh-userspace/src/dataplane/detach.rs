//! The end of an instance: its links, filters, maps and programs.

use std::path::Path;

use super::{
    attach,
    error::DataplaneError,
    pins::{self, Kept},
    probe,
};

/// What was taken away.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Detached {
    /// Interfaces that packets were balanced on.
    pub interfaces: Vec<String>,
    /// Maps and programs.
    pub objects: usize,
}

/// Ends all forwarding of an instance whose daemon does not run, and forgets its maps. An instance that is not there is a success.
pub fn detach(bpffs: &Path, instance: &str) -> Result<Detached, DataplaneError> {
    let dirs = pins::versions(bpffs, instance)?;
    let locks = dirs.iter().map(|dir| pins::lock(dir, instance)).collect::<Result<Vec<_>, _>>()?;
    let mut detached = Detached::default();
    for dir in &dirs {
        // What leads packets in goes first.
        let (leads, objects): (Vec<_>, Vec<_>) = pins::kept_in(dir)?.into_iter().partition(|(_, kept)| *kept != Kept::Object);
        for (path, kept) in leads.into_iter().chain(objects) {
            match kept {
                Kept::Link { interface } => {
                    attach::remove_link(&path)?;
                    detached.interfaces.push(interface);
                }
                Kept::Filter { interface } => {
                    attach::remove_filter(&interface);
                    probe::remove_filters(&interface);
                    detached.interfaces.push(interface);
                }
                Kept::Object => detached.objects += 1,
            }
            pins::remove(&path)?;
        }
        pins::remove(dir)?;
    }
    drop(locks);
    pins::remove(&pins::instance_dir(bpffs, instance)?)?;
    // Other instances may be there.
    let _ = std::fs::remove_dir(bpffs.join("mesh"));
    Ok(detached)
}
