//! `mesh explain`: a packet is made up, the kernel half looks at it, and what it says is told in words.

use std::fmt::Write as _;

use mesh_common::{
    abi::{Action, Mode, Reason},
    schedule::By,
};
use serde::{Deserialize, Serialize};

use super::{
    daemon::Daemon,
    error::ControlError,
    made_up::{PacketSpec, TcpFlag, frame},
    report::mac,
    view::StateWord,
};
use crate::{
    config::words::{ModeWord, ProtoWord},
    dataplane::{Choice, Edit, Explanation, Owner, Way},
    model::{BackendId, HashField, HashFields, ServiceName},
};

/// What would become of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExplainView {
    pub packet: PacketSpec,
    /// Absent = it is for no service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotView>,
    /// Where translated flows are remembered (`nat`): whether this one is, or would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryWord>,
    /// Who has chosen the backend, in a service with a scheduler or affinity. A new flow's choice is the one that it would get right now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<ByWord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<OwnerView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<WayView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteView>,
    /// Name of the reason that it would be counted by.
    pub reason: String,
    pub verdict: VerdictWord,
}

/// How the flow's slot was found, and what it says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotView {
    pub mode: ModeWord,
    /// Hash of the fields that choose the slot, hexadecimal.
    pub hash: String,
    /// These fields; absent = all of the five-tuple.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<HashField>,
    pub slot: u32,
    pub slots: u32,
    /// Where new flows go, where flows without an entry go, and who is next if the target is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<OwnerView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<OwnerView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<OwnerView>,
    /// The slot is on its way from one owner to the next.
    pub moving: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OwnerView {
    pub id: BackendId,
    pub state: StateWord,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryWord {
    /// There is one, and the packet goes by it.
    Found,
    /// It would be made.
    New,
    /// There is none, and the packet makes none.
    None,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ByWord {
    /// The scheduler, now.
    Scheduler,
    /// The scheduler, when the flow began.
    Memory,
    /// The last flow of its source.
    Source,
    /// The hash, for there is no room to remember another choice.
    Full,
    /// The server id in its QUIC connection id.
    Id,
}

impl ByWord {
    const fn of(by: By) -> Option<Self> {
        match by {
            By::Hash => None,
            By::Scheduler => Some(Self::Scheduler),
            By::Memory => Some(Self::Memory),
            By::Source => Some(Self::Source),
            By::Full => Some(Self::Full),
            By::Id => Some(Self::Id),
        }
    }

    const fn in_words(self) -> &'static str {
        match self {
            Self::Scheduler => "the scheduler",
            Self::Memory => "the scheduler, when the flow began",
            Self::Source => "the last flow of its source",
            Self::Full => "the hash, for there is no room to remember another choice",
            Self::Id => "its connection id",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WayView {
    /// Absent = the one that it came in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    pub dst_mac: String,
    pub src_mac: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RewriteView {
    pub source: String,
    pub destination: String,
    /// The packet stays as it is, in a header of these addresses.
    pub encapsulated: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictWord {
    Forward,
    /// The host gets it.
    Pass,
    Drop,
    /// The balancer answers it itself.
    Answer,
}

impl Daemon {
    pub(super) fn explain(&self, packet: PacketSpec) -> Result<ExplainView, ControlError> {
        let told = self.plane.explain(&frame(&packet)?).map_err(|e| ControlError::Unavailable(e.to_string()))?;
        Ok(view(packet, &told, &|ifindex| interface(ifindex)))
    }
}

fn interface(ifindex: u32) -> String {
    nix::net::if_::if_indextoname(ifindex).map_or_else(|_| format!("interface {ifindex}"), |name| name.to_string_lossy().into_owned())
}

fn view(packet: PacketSpec, told: &Explanation, interface: &dyn Fn(u32) -> String) -> ExplainView {
    let nat = told.choice.as_ref().is_some_and(|c| c.mode == Mode::Nat);
    let sent = told.way.is_some();
    let entry = nat.then_some(match (sent, told.opens) {
        (true, false) => EntryWord::Found,
        (true, true) => EntryWord::New,
        (false, _) => EntryWord::None,
    });
    ExplainView {
        packet,
        service: told.service.as_ref().and_then(|(_, name)| name.clone()),
        slot: told.choice.as_ref().map(slot),
        entry,
        by: ByWord::of(told.by),
        backend: told.backend.map(owner),
        next_hop: told.way.as_ref().map(|way| way_view(way, interface)),
        rewrite: rewrite(told.edit),
        reason: told.reason.name().to_owned(),
        verdict: verdict(told.reason),
    }
}

fn slot(choice: &Choice) -> SlotView {
    SlotView {
        mode: choice.mode.into(),
        hash: format!("{:016x}", choice.hash),
        fields: listed(choice.fields),
        slot: choice.slot,
        slots: choice.slots,
        target: choice.target.map(owner),
        default: choice.default.map(owner),
        secondary: choice.secondary.map(owner),
        moving: choice.flags != 0,
    }
}

/// None where it is all of them.
pub(super) fn listed(fields: HashFields) -> Vec<HashField> {
    if fields.is_all() { Vec::new() } else { fields.iter().collect() }
}

/// As in ` of source, source_port`.
pub(crate) fn named(fields: &[HashField]) -> String {
    fields.iter().map(|field| field.name()).collect::<Vec<_>>().join(", ")
}

fn owner(owner: Owner) -> OwnerView {
    OwnerView { id: owner.id, state: owner.state.into() }
}

fn way_view(way: &Way, interface: &dyn Fn(u32) -> String) -> WayView {
    let interface = match way.ifindex {
        0 => None,
        u32::MAX => Some("the host's own route".to_owned()),
        ifindex => Some(interface(ifindex)),
    };
    WayView { interface, dst_mac: mac(way.dst_mac), src_mac: mac(way.src_mac) }
}

fn rewrite(edit: Edit) -> Option<RewriteView> {
    match edit {
        Edit::None => None,
        Edit::Translate(source, destination) => {
            Some(RewriteView { source: source.to_string(), destination: destination.to_string(), encapsulated: false })
        }
        Edit::Encapsulate(source, destination) => {
            Some(RewriteView { source: source.to_string(), destination: destination.to_string(), encapsulated: true })
        }
    }
}

fn verdict(reason: Reason) -> VerdictWord {
    match reason.action() {
        Action::Forward => VerdictWord::Forward,
        Action::Pass => VerdictWord::Pass,
        Action::Drop => VerdictWord::Drop,
        Action::Answer => VerdictWord::Answer,
    }
}

/// For people: one decision a line.
pub fn in_words(view: &ExplainView) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<10} {value}");
    };
    let stands = |o: &Option<OwnerView>| o.map_or("nobody".to_owned(), |o| format!("{} ({})", o.id, o.state));
    let PacketSpec { source, destination, protocol, flags, connection_id } = &view.packet;
    let syn = [TcpFlag::Syn];
    let flags = if flags.is_empty() { &syn[..] } else { flags };
    let flags = if *protocol == ProtoWord::Tcp { format!(" {flags:?}").to_lowercase() } else { String::new() };
    let protocol = if *protocol == ProtoWord::Tcp { "tcp" } else { "udp" };
    let id = connection_id.as_ref().map(|id| format!(" connection id {id}")).unwrap_or_default();
    line("packet", format!("{source} -> {destination}/{protocol}{flags}{id}"));
    line("service", view.service.as_ref().map_or("none".to_owned(), ToString::to_string));
    if let Some(slot) = &view.slot {
        line("mode", Mode::from(slot.mode).name().to_owned());
        let of = if slot.fields.is_empty() { String::new() } else { format!(" of {}", named(&slot.fields)) };
        line("hash", format!("{}{of}", slot.hash));
        let moving = if slot.moving { ", on its way to another owner" } else { "" };
        line("slot", format!("{} of {}{moving}", slot.slot, slot.slots));
        line("target", stands(&slot.target));
        if slot.default != slot.target {
            line("default", stands(&slot.default));
        }
        line("secondary", stands(&slot.secondary));
    }
    match view.entry {
        Some(EntryWord::Found) => line("entry", "found: the flow stays with its backend".to_owned()),
        Some(EntryWord::New) => line("entry", "none yet: the packet would open the flow".to_owned()),
        Some(EntryWord::None) => line("entry", "none".to_owned()),
        None => {}
    }
    if let Some(by) = view.by {
        line("chosen by", by.in_words().to_owned());
    }
    if view.backend.is_some() {
        line("backend", stands(&view.backend));
    }
    if let Some(way) = &view.next_hop {
        let by = way.interface.as_ref().map_or("the interface that it came in by".to_owned(), Clone::clone);
        line("next hop", format!("{} from {} by {by}", way.dst_mac, way.src_mac));
    }
    if let Some(rewrite) = &view.rewrite {
        let how = if rewrite.encapsulated { "in an outer header " } else { "" };
        line("rewrite", format!("{how}{} -> {}", rewrite.source, rewrite.destination));
    }
    let word = format!("{:?}", view.verdict).to_lowercase();
    line("verdict", format!("{word} ({})", view.reason));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::made_up::tests::spec;

    #[test]
    fn what_is_for_nobody_is_told_in_three_lines() {
        let told = Explanation {
            reason: Reason::NotForVip,
            service: None,
            choice: None,
            opens: false,
            by: By::Hash,
            backend: None,
            way: None,
            edit: Edit::None,
        };
        let view = view(spec("10.0.0.1:1", "10.0.0.2:2", ProtoWord::Udp), &told, &|i| i.to_string());
        assert_eq!((view.verdict, view.entry), (VerdictWord::Pass, None));
        let text = in_words(&view);
        assert_eq!(text, "packet     10.0.0.1:1 -> 10.0.0.2:2/udp\nservice    none\nverdict    pass (not_for_vip)\n");
    }
}
