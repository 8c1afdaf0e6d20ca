use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::{
    control::{ControlError, view::BackendView},
    model::BackendId,
};

/// A backend as a person names it: `address:port`, the address where one backend has it, or the backend's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BackendRef {
    Id(BackendId),
    Address(IpAddr),
    Name(String),
}

impl FromStr for BackendRef {
    type Err = std::convert::Infallible;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bare = s.strip_prefix('[').and_then(|s| s.strip_suffix(']')).unwrap_or(s);
        Ok(match (s.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
            (Ok(id), _) => Self::Id(BackendId(id)),
            (_, Ok(address)) => Self::Address(address),
            _ => Self::Name(s.to_owned()),
        })
    }
}

impl fmt::Display for BackendRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl BackendRef {
    /// The one backend among those of a service that is meant.
    pub fn find<'a>(&self, backends: &'a [BackendView]) -> Result<&'a BackendView, ControlError> {
        let meant: Vec<_> = backends.iter().filter(|b| self.fits(b)).collect();
        match meant[..] {
            [one] => Ok(one),
            [] => Err(ControlError::NotFound(format!("no backend `{self}`; {}", choice(backends)))),
            _ => {
                let ids: Vec<_> = meant.iter().map(|b| b.id.to_string()).collect();
                Err(ControlError::Conflict(format!("`{self}` may be any of {}: name it by address and port", ids.join(", "))))
            }
        }
    }

    fn fits(&self, backend: &BackendView) -> bool {
        match self {
            Self::Id(id) => backend.id == *id,
            Self::Address(address) => backend.id.0.ip() == *address,
            Self::Name(name) => backend.name.as_ref() == Some(name),
        }
    }
}

fn choice(backends: &[BackendView]) -> String {
    const SHOWN: usize = 8;
    if backends.is_empty() {
        return "the service has none".to_owned();
    }
    let names = backends.iter().take(SHOWN).map(|b| b.name.clone().unwrap_or_else(|| b.id.to_string()));
    let more = if backends.len() > SHOWN { ", ..." } else { "" };
    format!("there are {}{more}", names.collect::<Vec<_>>().join(", "))
}
