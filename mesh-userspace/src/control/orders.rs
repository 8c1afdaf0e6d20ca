//! What the operator orders by CLI or API, done to the state. Pure; whoever calls saves the state and publishes.

use super::{
    core::{Core, listed, resolve_spec},
    drains::DrainOrder,
    error::ControlError,
    handle::{BackendSpec, ServiceSpec},
    merge::Merged,
    view::{Admin, Origin},
};
use crate::{
    config::{Findings, placed::Placed, resolve_backend, server_id_fits},
    events::What,
    model::{BackendId, Endpoint, ServiceName, quic_id},
    state::{Change, Presence},
};

/// A backend as its service would have it, or why it can't be.
pub(super) fn endpoint(merged: &Merged, spec: &BackendSpec) -> Result<Endpoint, ControlError> {
    let mut findings = Findings::new("", None);
    let endpoint = resolve_backend(spec, &Placed::from(()), merged.spec.vip, merged.spec.mode, &mut findings);
    endpoint.ok_or_else(|| ControlError::Invalid(listed(&findings)))
}

impl Core {
    /// Adds a service, or brings back one of the configuration that was removed.
    pub fn add_service(&mut self, spec: ServiceSpec) -> Result<ServiceName, ControlError> {
        let service = resolve_spec(&spec).map_err(ControlError::Invalid)?;
        let name = service.name.clone();
        if self.merged.contains_key(&name) {
            return Err(ControlError::Conflict(format!("there is a service `{name}` already")));
        }
        if let Some(other) = self.merged.values().find(|m| m.spec.vip == service.vip) {
            return Err(ControlError::Conflict(format!("the VIP {} is that of service `{}`", service.vip, other.spec.name)));
        }
        if self.merged.len() >= self.config.limits.services as usize {
            return Err(ControlError::Unavailable(format!("there are {} services, and limits.services allows no more", self.merged.len())));
        }
        self.room_for_backends(service.backends.len())?;
        match self.config.services.get(&name).or_else(|| self.derived.get(&name)) {
            Some(configured) if configured.vip != service.vip => {
                return Err(ControlError::Conflict(format!(
                    "the configuration has a service `{name}` with the VIP {}: give that VIP to bring it back, or take another name",
                    configured.vip
                )));
            }
            Some(_) => {
                self.state.removed.remove(&name);
            }
            None => {
                self.state.services.insert(name.clone(), spec);
                self.added.insert(name.clone(), service);
            }
        }
        self.merge();
        Ok(name)
    }

    /// Removes a service and what was changed about its backends.
    pub fn remove_service(&mut self, name: &ServiceName) -> Result<(), ControlError> {
        let origin = self.find(name)?.origin;
        if matches!(origin, Origin::Config | Origin::Kubernetes) {
            self.state.removed.insert(name.clone());
        }
        self.state.services.remove(name);
        self.added.remove(name);
        self.state.backends.remove(name);
        self.merge();
        Ok(())
    }

    /// Adds a backend, or brings back one that was removed.
    pub fn add_backend(&mut self, service: &ServiceName, spec: &BackendSpec) -> Result<BackendId, ControlError> {
        let merged = self.find(service)?;
        let endpoint = endpoint(merged, spec)?;
        if merged.has(&endpoint.id) {
            return Err(ControlError::Conflict(format!("service `{service}` has the backend {} already", endpoint.id)));
        }
        let quic = merged.spec.ways.quic;
        let has = |other: &&Endpoint, id| quic.is_some_and(|length| quic_id(other, length) == id);
        server_id_fits(quic, &endpoint, |id| merged.endpoints.iter().find(|other| has(other, id)))
            .map_err(|(why, remedy)| ControlError::Invalid(format!("{why}: {remedy}")))?;
        let Endpoint { id, weight, name, zone, capacity, backup, limits, quic_server_id, .. } = endpoint;
        self.room_for_backends(1)?;
        // If a file names it too, the weight that was given here still goes before.
        let weight = spec.weight.as_ref().map(|_| weight.0);
        let (presence, admin, drain) = (Presence::Added, Admin::In, None);
        let change = Change { presence, admin, weight, name, zone, capacity, backup, limits, drain, quic_server_id };
        self.state.backends.entry(service.clone()).or_default().insert(id, change);
        self.merge_service(service);
        Ok(id)
    }

    /// Removes a backend; one that a file names stays removed until it is added again.
    pub fn remove_backend(&mut self, service: &ServiceName, id: BackendId) -> Result<(), ControlError> {
        let merged = self.find_backend(service, id)?;
        // Also one that only the CLI added may later be named by a file: the removal would then be forgotten, which is as it should be.
        let by_source =
            matches!(merged.origins.get(&id), Some(Origin::File | Origin::Source)) || merged.service.backends.iter().any(|e| e.id == id);
        let changes = self.state.backends.entry(service.clone()).or_default();
        if by_source {
            changes.insert(id, Change { presence: Presence::Removed, ..Change::default() });
        } else {
            changes.remove(&id);
        }
        self.forget_empty(service);
        self.merge_service(service);
        Ok(())
    }

    /// Drains a backend, or ends that.
    pub fn set_admin(&mut self, service: &ServiceName, id: BackendId, admin: Admin) -> Result<Option<What>, ControlError> {
        let before = self.find_backend(service, id)?.admin(&id);
        self.change(service, id, |c| (c.admin, c.drain) = (admin, None));
        Ok((before != admin).then(|| What::AdminChanged { service: service.clone(), backend: id, admin }))
    }

    /// Cuts off what is left of a drain: nothing is sent to the backend until it is undrained.
    pub fn cut_off(&mut self, service: &ServiceName, id: BackendId) -> Option<DrainOrder> {
        let order = self.state().backends.get(service)?.get(&id)?.drain?;
        let order = DrainOrder { cut: true, ..order };
        self.change(service, id, |c| c.drain = Some(order));
        Some(order)
    }

    /// Drains a backend as `order` says.
    pub fn drain(&mut self, service: &ServiceName, id: BackendId, order: DrainOrder) -> Result<Option<What>, ControlError> {
        let event = self.set_admin(service, id, Admin::Drain)?;
        self.change(service, id, |c| c.drain = Some(order));
        Ok(event)
    }

    /// Sets a weight that goes before that of any file.
    pub fn set_weight(&mut self, service: &ServiceName, id: BackendId, weight: u16) -> Result<(), ControlError> {
        self.find_backend(service, id)?;
        self.change(service, id, |c| c.weight = Some(weight));
        Ok(())
    }

    /// The service of that name.
    pub fn find(&self, name: &ServiceName) -> Result<&Merged, ControlError> {
        self.merged.get(name).ok_or_else(|| ControlError::NotFound(format!("there is no service `{name}`")))
    }

    /// The service, which has that backend.
    pub fn find_backend(&self, service: &ServiceName, id: BackendId) -> Result<&Merged, ControlError> {
        let merged = self.find(service)?;
        if merged.has(&id) { Ok(merged) } else { Err(ControlError::NotFound(format!("service `{service}` has no backend {id}"))) }
    }

    fn change(&mut self, service: &ServiceName, id: BackendId, change: impl FnOnce(&mut Change)) {
        change(self.state.backends.entry(service.clone()).or_default().entry(id).or_default());
        self.forget_empty(service);
        self.merge_service(service);
    }

    fn forget_empty(&mut self, service: &ServiceName) {
        if let Some(changes) = self.state.backends.get_mut(service) {
            changes.retain(|_, c| !c.is_empty());
            if changes.is_empty() {
                self.state.backends.remove(service);
            }
        }
    }

    pub(super) fn room_for_backends(&self, more: usize) -> Result<(), ControlError> {
        let there: usize = self.merged.values().map(|m| m.endpoints.len()).sum();
        let limit = self.config.limits.backends as usize;
        if there + more <= limit {
            return Ok(());
        }
        Err(ControlError::Unavailable(format!("there are {there} backends, and limits.backends allows {limit}")))
    }
}
