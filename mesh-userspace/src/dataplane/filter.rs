//! Classifiers at an interface's TC hooks: by a tcx link where the kernel has them, else as a filter of the clsact qdisc with a place of its own.

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
    },
    util::KernelVersion,
};

use super::{attach::chain, error::DataplaneError};

/// Places among the filters of an interface, the first one first: each of our objects has one.
pub const PROBE: u16 = 0x6d64;
pub const BALANCER: u16 = 0x6d65;
pub const AGENT: u16 = 0x6d66;
/// Unique within a place.
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Whether the kernel has tcx links (Linux 6.6).
pub fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(6, 6, 0))
}

/// How a filter takes its place.
pub fn options(place: u16) -> TcAttachOptions {
    TcAttachOptions::Netlink(NlOptions { priority: place, handle: HANDLE, classid: None })
}

/// The filter that has the place. Dropping it takes it off.
pub fn at(interface: &str, way: TcAttachType, place: u16) -> Option<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, way, place, HANDLE, None).ok()
}

/// The program of this name in the object.
pub fn classifier<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, DataplaneError> {
    let program = ebpf.program_mut(name).ok_or(DataplaneError::Object { kind: "program", name })?;
    program.try_into().map_err(DataplaneError::program(name))
}

/// Attaches for as long as the program lives. `order`: among the tcx links; `place`: among the filters, where there are no links.
pub fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    way: TcAttachType,
    order: LinkOrder,
    place: u16,
) -> Result<(), DataplaneError> {
    let (hook, how) = if has_tcx() {
        ("tcx", TcAttachOptions::TcxOrder(order))
    } else {
        // It may be there already; if it can't be had, attaching says so. A filter of a process that was killed goes with its handle.
        let _ = qdisc_add_clsact(interface);
        drop(at(interface, way, place));
        ("clsact", options(place))
    };
    let done = program.attach_with_options(interface, way, how);
    done.map(drop).map_err(|e| DataplaneError::Attach { interface: interface.to_owned(), hook, reason: chain(&e) })
}
