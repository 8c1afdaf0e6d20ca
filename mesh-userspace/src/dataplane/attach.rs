//! From a loaded program to an interface and back. Links are pinned, so that a daemon that is gone leaves them forwarding, and the next one
//! swaps the program in the same link.

use std::path::{Path, PathBuf};

use aya::programs::{
    LinkOrder, TcAttachType, XdpMode,
    links::{FdLink, PinnedLink},
    loaded_programs,
    tc::{TcAttachOptions, qdisc_add_clsact},
};

use super::{
    error::DataplaneError,
    filter,
    load::Loaded,
    options::{HookChoice, InterfaceOptions},
    owner::{LinkKind, XdpHook, link_at, take_off, xdp_hook},
    pins::{self, Kept, Pins},
    report::{AttachedIface, Hook},
};

/// A link of an earlier life.
struct Former {
    path: PathBuf,
    hook: Hook,
}

/// Attaches to one interface by the best hook that was asked for and is to be had; takes over what an earlier life has attached there.
pub fn attach(
    loaded: &mut Loaded,
    pins: &Pins,
    former_dirs: &[PathBuf],
    wanted: &InterfaceOptions,
) -> Result<AttachedIface, DataplaneError> {
    let name = wanted.name.as_str();
    let ifindex = nix::net::if_::if_nametoindex(name).map_err(|_| DataplaneError::NoInterface(name.to_owned()))?;
    let mut former = find_former(pins, former_dirs, name, ifindex)?;
    let mut note: Option<DataplaneError> = None;
    for &hook in hooks(wanted.hook) {
        let done = if former.as_ref().is_some_and(|f| f.hook == hook) {
            former.take().map_or(Ok(()), |f| take_over(loaded, pins, name, f))
        } else {
            attach_anew(loaded, pins, name, ifindex, hook, &mut former)
        };
        match done {
            Ok(()) => {
                if hook != Hook::Clsact {
                    drop_filter(pins, name)?;
                }
                if let Some(other) = former {
                    remove_link(&other.path)?;
                }
                return Ok(AttachedIface { name: name.to_owned(), ifindex, hook, note: note.map(|n| n.to_string()) });
            }
            Err(why) => note = Some(note.unwrap_or(why)),
        }
    }
    Err(note.unwrap_or_else(|| DataplaneError::NoInterface(name.to_owned())))
}

/// Takes away what an earlier life has attached to interfaces that are not `wanted` any more.
pub fn detach_others(pins: &Pins, wanted: &[InterfaceOptions]) -> Result<(), DataplaneError> {
    for (path, kept) in pins.kept()? {
        let gone = |interface: &str| wanted.iter().all(|w| w.name != interface);
        match kept {
            Kept::Link { interface } if gone(&interface) => remove_link(&path)?,
            Kept::Filter { interface } if gone(&interface) => {
                remove_filter(&interface);
                pins::remove(&path)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes a pinned link off its interface.
pub fn remove_link(path: &Path) -> Result<(), DataplaneError> {
    take_off(path);
    pins::remove(path)
}

/// Takes our filter away from an interface; one that is gone counts as taken away.
pub fn remove_filter(interface: &str) {
    drop(filter::at(interface, TcAttachType::Ingress, filter::BALANCER));
}

fn hooks(choice: HookChoice) -> &'static [Hook] {
    let tcx = filter::has_tcx();
    match choice {
        HookChoice::Auto if tcx => &[Hook::XdpNative, Hook::Tcx],
        HookChoice::Auto => &[Hook::XdpNative, Hook::Clsact],
        HookChoice::Native => &[Hook::XdpNative],
        HookChoice::Generic => &[Hook::XdpGeneric],
        HookChoice::Tc if tcx => &[Hook::Tcx],
        HookChoice::Tc | HookChoice::TcFilter => &[Hook::Clsact],
    }
}

fn find_former(pins: &Pins, former_dirs: &[PathBuf], name: &str, ifindex: u32) -> Result<Option<Former>, DataplaneError> {
    let own = pins.link(name);
    let file = own.file_name().unwrap_or_default().to_owned();
    let elsewhere = former_dirs.iter().map(|dir| dir.join(&file));
    let Some(path) = std::iter::once(own).chain(elsewhere).find(|path| path.exists()) else { return Ok(None) };
    let link = link_at(&path).map_err(DataplaneError::file("open", &path))?;
    let hook = match (link.kind, xdp_hook(ifindex)) {
        _ if link.ifindex != ifindex => None,
        (LinkKind::Tcx, _) => Some(Hook::Tcx),
        (LinkKind::Xdp, Ok(XdpHook::Generic(_))) => Some(Hook::XdpGeneric),
        (LinkKind::Xdp, _) => Some(Hook::XdpNative),
        (LinkKind::Other(_), _) => None,
    };
    match hook {
        Some(hook) => Ok(Some(Former { path, hook })),
        // The interface was made anew since, or this is no link of ours.
        None => remove_link(&path).map(|()| None),
    }
}

/// Swaps the program in a link: no packet sees the interface without one.
fn take_over(loaded: &mut Loaded, pins: &Pins, name: &str, former: Former) -> Result<(), DataplaneError> {
    let failed = |reason: String| DataplaneError::Attach { interface: name.to_owned(), hook: former.hook.name(), reason };
    let link = FdLink::from(PinnedLink::from_pin(&former.path).map_err(|e| failed(chain(&e)))?);
    let link: FdLink = if former.hook == Hook::Tcx {
        let tc = loaded.tc(pins)?;
        let link = link.try_into().map_err(|e| failed(chain(&e)))?;
        let id = tc.attach_to_link(link).map_err(|e| failed(chain(&e)))?;
        tc.take_link(id).map_err(|e| failed(chain(&e)))?.try_into().map_err(|e| failed(chain(&e)))?
    } else {
        let xdp = loaded.xdp(pins)?;
        let link = link.try_into().map_err(|e| failed(chain(&e)))?;
        let id = xdp.attach_to_link(link).map_err(|e| failed(chain(&e)))?;
        xdp.take_link(id).map_err(|e| failed(chain(&e)))?.try_into().map_err(|e| failed(chain(&e)))?
    };
    let own = pins.link(name);
    if former.path != own {
        link.pin(&own).map_err(|source| DataplaneError::Pin { path: own, source })?;
        pins::remove(&former.path)?;
    }
    Ok(())
}

fn attach_anew(
    loaded: &mut Loaded,
    pins: &Pins,
    name: &str,
    ifindex: u32,
    hook: Hook,
    former: &mut Option<Former>,
) -> Result<(), DataplaneError> {
    if hook == Hook::Clsact {
        return attach_filter(loaded, pins, name);
    }
    if hook == Hook::Tcx {
        let link = attach_tcx(loaded, pins, name)?;
        return pin(pins, name, link, former);
    }
    // One interface has one XDP link: ours of the other mode has to go first.
    if let Some(old) = former.take_if(|f| f.hook != Hook::Tcx) {
        remove_link(&old.path)?;
    }
    let owner = xdp_hook(ifindex).map_err(|source| DataplaneError::System { what: "ask who is at an XDP hook", source })?;
    if let Some(program) = owner.program() {
        return Err(DataplaneError::Owned { interface: name.to_owned(), owner: describe_program(program) });
    }
    let link = attach_xdp(loaded, pins, name, hook)?;
    pin(pins, name, link, former)
}

fn attach_xdp(loaded: &mut Loaded, pins: &Pins, name: &str, hook: Hook) -> Result<FdLink, DataplaneError> {
    let failed = |reason: String| DataplaneError::Attach { interface: name.to_owned(), hook: hook.name(), reason };
    let xdp = loaded.xdp(pins)?;
    let mode = if hook == Hook::XdpGeneric { XdpMode::Skb } else { XdpMode::Driver };
    let id = xdp.attach(name, mode).map_err(|e| failed(chain(&e)))?;
    let link = xdp.take_link(id).map_err(|e| failed(chain(&e)))?;
    // What the library attached by other means instead is no link, would end with this process, and is detached as it is dropped here.
    link.try_into().map_err(|_| failed("the kernel makes no link for it".to_owned()))
}

fn attach_tcx(loaded: &mut Loaded, pins: &Pins, name: &str) -> Result<FdLink, DataplaneError> {
    let failed = |reason: String| DataplaneError::Attach { interface: name.to_owned(), hook: Hook::Tcx.name(), reason };
    let tc = loaded.tc(pins)?;
    let last = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = tc.attach_with_options(name, TcAttachType::Ingress, last).map_err(|e| failed(chain(&e)))?;
    let link = tc.take_link(id).map_err(|e| failed(chain(&e)))?;
    link.try_into().map_err(|_| failed("the kernel makes no link for it".to_owned()))
}

/// A filter can't be pinned: it stays with its interface, and a mark among the pins says that it is ours.
fn attach_filter(loaded: &mut Loaded, pins: &Pins, name: &str) -> Result<(), DataplaneError> {
    let failed = |reason: String| DataplaneError::Attach { interface: name.to_owned(), hook: Hook::Clsact.name(), reason };
    let mark = pins.filter(name);
    // It may be there already; if it can't be had, attaching says so.
    let clsact = qdisc_add_clsact(name);
    let tc = loaded.tc(pins)?;
    let replaced = if mark.exists() {
        filter::at(name, TcAttachType::Ingress, filter::BALANCER).and_then(|link| tc.attach_to_link(link).ok())
    } else {
        None
    };
    let id = match replaced {
        Some(id) => id,
        None => tc.attach_with_options(name, TcAttachType::Ingress, filter::options(filter::BALANCER)).map_err(|e| {
            let qdisc = clsact.err().map(|q| format!("; adding the clsact qdisc: {}", chain(&q))).unwrap_or_default();
            failed(format!("{}{qdisc}", chain(&e)))
        })?,
    };
    // Dropped, the link would take the filter with it.
    std::mem::forget(tc.take_link(id).map_err(|e| failed(chain(&e)))?);
    if !mark.exists() {
        std::fs::create_dir(&mark).map_err(DataplaneError::file("create", &mark))?;
    }
    Ok(())
}

fn pin(pins: &Pins, name: &str, link: FdLink, former: &mut Option<Former>) -> Result<(), DataplaneError> {
    if let Some(old) = former.take() {
        remove_link(&old.path)?;
    }
    let path = pins.link(name);
    link.pin(&path).map(drop).map_err(|source| DataplaneError::Pin { path, source })
}

fn drop_filter(pins: &Pins, name: &str) -> Result<(), DataplaneError> {
    let mark = pins.filter(name);
    if mark.exists() {
        remove_filter(name);
        pins::remove(&mark)?;
    }
    Ok(())
}

fn describe_program(id: u32) -> String {
    let info = loaded_programs().filter_map(Result::ok).find(|p| p.id() == id);
    match info.as_ref().and_then(|p| p.name_as_str()) {
        Some(name) => format!("program `{name}` (id {id})"),
        None => format!("program {id}"),
    }
}

/// An error with what caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source()).map(|e| e.to_string());
    let mut text = error.to_string();
    for cause in causes.filter(|c| !c.is_empty()) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
