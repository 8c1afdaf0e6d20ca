use std::{cmp::Ordering, fmt};

use serde::{Deserialize, Serialize};

use super::{
    Plan, PlannedBackend, ServicePlan, Standing,
    diff::{changed, merged},
};
use crate::{
    model::{BackendId, BackendState, Mode, Proto, ServiceName, VipAddr},
    table::NONE,
};

/// What a change does to one service, in numbers: of a plan before it is carried out, and the same of one that was.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Preview {
    pub service: ServiceName,
    /// Slots whose owner is another backend than before, ...
    pub moved: u32,
    /// ... out of so many: the size of the larger table, if it was resized.
    pub slots: u32,
    /// The quotient of the two: share of the hash space that moves, 0 to 1.
    pub moved_share: f64,
    /// Slots that keep their owner, but would fail over to another backend than before.
    pub secondaries: u32,
    /// Afterwards nobody takes new flows.
    pub no_backends: bool,
    pub flows: FlowsPreview,
    /// Backends that will have more flows than the capacity that they were given, and had not before.
    pub over_capacity: Vec<BackendId>,
    /// Those for whom something changes, by id.
    pub backends: Vec<BackendPreview>,
}

/// What becomes of a service's open flows.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FlowsPreview {
    /// Who keeps those that stay; absent where the service is new, or the change breaks them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_by: Option<KeptBy>,
    /// Open flows, where each is remembered (`nat`). Absent where nothing counts them (`dsr`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<u64>,
    /// Of these, the ones that stay with their backend, because an entry of the translation says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// Share of the open flows that come to another backend, or to none: they break. Where they are not counted it is that of the slots whose
    /// flows do.
    pub lost_share: f64,
}

/// What keeps flows with their backend while slots move.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeptBy {
    /// Their entries (`nat`).
    Translation,
    /// The ledger of slots.
    Ledger,
}

/// What changes for one backend.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BackendPreview {
    pub id: BackendId,
    /// Absent = not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<BackendShare>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<BackendShare>,
    /// Flows that are open there now (`nat`).
    pub live_flows: u64,
    /// Flows that it will have once as many are open as now, in proportion to its share; only where it has a capacity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_flows: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
}

/// How a backend stands in a plan.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct BackendShare {
    pub standing: Standing,
    pub weight: u16,
    pub slots: u32,
    /// Share of the hash space, 0 to 1.
    pub share: f64,
}

/// What publishing `after` in place of `before` does, by service; services for which nothing changes are left out. `live`: open flows of a backend.
pub fn preview(before: &Plan, after: &Plan, live: &impl Fn(VipAddr, BackendId) -> u64) -> Vec<Preview> {
    changed(before, after).into_iter().filter_map(|(old, new)| of_service(old, new, live)).collect()
}

/// The same for one service, which may be new or gone.
pub fn of_service(old: Option<&ServicePlan>, new: Option<&ServicePlan>, live: &impl Fn(VipAddr, BackendId) -> u64) -> Option<Preview> {
    let any = new.or(old)?;
    if old == new {
        return None;
    }
    let (moved, secondaries, slots) = moves(old, new);
    let moved_share = f64::from(moved) / f64::from(slots.max(1));
    let live = |id: BackendId| live(any.vip, id);
    let backends = backends(old, new, &live);
    let over = |b: &&BackendPreview| b.expected_flows.zip(b.capacity).is_some_and(|(flows, capacity)| flows > u64::from(capacity));
    Some(Preview {
        service: any.name.clone(),
        moved,
        slots,
        moved_share,
        secondaries,
        no_backends: new.is_none_or(|n| n.no_backends),
        flows: flows(old, new, moved_share, &live),
        over_capacity: backends.iter().filter(over).filter(|b| !was_over(old, b, &live)).map(|b| b.id).collect(),
        backends,
    })
}

impl fmt::Display for FlowsPreview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.live, self.kept, self.lost) {
            (Some(live), Some(kept), Some(lost)) => write!(f, "of {live} open flows {kept} stay and {lost} are lost"),
            _ if self.kept_by == Some(KeptBy::Ledger) => {
                write!(f, "{:.2} % of the open flows are lost, the ledger keeps the others", 100.0 * self.lost_share)
            }
            _ => write!(f, "{:.2} % of the open flows are lost", 100.0 * self.lost_share),
        }
    }
}

impl Preview {
    /// Somebody comes, goes, stands otherwise or is configured otherwise.
    pub fn is_restaffed(&self) -> bool {
        let stands = |s: Option<BackendShare>| s.map(|s| (s.standing, s.weight));
        self.backends.iter().any(|b| stands(b.before) != stands(b.after))
    }

    /// Nothing that anybody would notice: no slot has another owner, nobody stands otherwise.
    pub fn is_still(&self) -> bool {
        let stands = |b: &BackendPreview| b.before.map(|s| s.standing) != b.after.map(|s| s.standing);
        self.moved == 0 && !self.backends.iter().any(stands)
    }
}

/// Slots that move, secondaries that change where the owner stays, and slots in all. A slot of the smaller table stands for several of the larger
/// one: the upper bits of the hash choose in both.
fn moves(old: Option<&ServicePlan>, new: Option<&ServicePlan>) -> (u32, u32, u32) {
    let log2 = [old, new].into_iter().flatten().map(|s| s.table.log2_slots).max().unwrap_or(0);
    if let (Some(old), Some(new)) = (old, new)
        && old.table.log2_slots == new.table.log2_slots
        && old.members.iter().map(|m| m.id).eq(new.members.iter().map(|m| m.id))
    {
        let pairs = || old.table.owner.iter().zip(&new.table.owner);
        let moved = pairs().filter(|(a, b)| a != b).count();
        let others = old.table.secondary.iter().zip(&new.table.secondary).zip(pairs()).filter(|((a, b), (c, d))| a != b && c == d).count();
        return (moved as u32, others as u32, 1 << log2);
    }
    let owners = |service: Option<&ServicePlan>, slot: usize| {
        let Some(service) = service else { return (None, None) };
        let at = slot >> (log2 - service.table.log2_slots);
        let id = |index: Option<&u16>| service.members.get(usize::from(*index.unwrap_or(&NONE))).map(|m| m.id);
        (id(service.table.owner.get(at)), id(service.table.secondary.get(at)))
    };
    let (mut moved, mut secondaries) = (0, 0);
    for slot in 0..1usize << log2 {
        let (before, after) = (owners(old, slot), owners(new, slot));
        moved += u32::from(before.0 != after.0);
        secondaries += u32::from(before.0 == after.0 && before.1 != after.1);
    }
    (moved, secondaries, 1 << log2)
}

fn flows(old: Option<&ServicePlan>, new: Option<&ServicePlan>, moved_share: f64, live: &impl Fn(BackendId) -> u64) -> FlowsPreview {
    let Some(old) = old else { return FlowsPreview::default() };
    let same = |n: &ServicePlan| n.mode == old.mode && n.vip == old.vip;
    if old.mode != Mode::Nat {
        let kept = new.filter(|n| same(n) && n.table.log2_slots == old.table.log2_slots);
        let lost_share = kept.map_or(moved_share, |new| lost_to_ledger(old, new));
        return FlowsPreview { kept_by: kept.map(|_| KeptBy::Ledger), lost_share, ..FlowsPreview::default() };
    }
    if !new.is_none_or(same) {
        return FlowsPreview { lost_share: moved_share, ..FlowsPreview::default() };
    }
    let total: u64 = old.members.iter().map(|m| live(m.id)).sum();
    let lost = old.members.iter().filter(|m| m.state.keeps_old() && !keeps(m.id, new)).map(|m| live(m.id)).sum();
    let lost_share = lost as f64 / total.max(1) as f64;
    let kept_by = new.map(|_| KeptBy::Translation);
    FlowsPreview { kept_by, live: Some(total), kept: Some(total - lost), lost: Some(lost), lost_share }
}

/// The ledger keeps the flows of slots that move as long as their backend does. Flows without a beginning, which nothing has chosen so far, are chosen
/// anew by a scheduler that chooses each.
fn lost_to_ledger(old: &ServicePlan, new: &ServicePlan) -> f64 {
    let shares = || shares(Some(old)).into_iter();
    if old.vip.proto == Proto::Udp && new.ways.choosing.is_any() && !old.ways.choosing.is_any() {
        return (1.0 - shares().map(|(_, s)| s.share * s.share).sum::<f64>()).clamp(0.0, 1.0);
    }
    let lost = shares().filter(|(m, _)| m.state.keeps_old() && !keeps(m.id, Some(new)));
    // The sum of no floats is -0.
    lost.fold(0.0, |sum, (_, s)| sum + s.share)
}

/// Whether a backend keeps the flows that it has. One that is taken out of its service does, until they end.
fn keeps(id: BackendId, new: Option<&ServicePlan>) -> bool {
    new.is_some_and(|new| find(new, id).is_none_or(|m| m.state.keeps_old()))
}

type Row<'a> = (&'a PlannedBackend, BackendShare);

fn backends(old: Option<&ServicePlan>, new: Option<&ServicePlan>, live: &impl Fn(BackendId) -> u64) -> Vec<BackendPreview> {
    let (before, after) = (shares(old), shares(new));
    let total = total_flows(old, live);
    let order = |a: &Row<'_>, b: &Row<'_>| -> Ordering { a.0.id.cmp(&b.0.id) };
    let pairs = merged(&before, &after, order).into_iter();
    let one = |(old, new): (Option<&Row<'_>>, Option<&Row<'_>>)| {
        let (member, _) = new.or(old)?;
        let (before, after) = (old.map(|o| o.1), new.map(|n| n.1));
        let capacity = member.capacity.filter(|_| after.is_some());
        let expected_flows = capacity.zip(after).map(|(_, after)| expected(after.share, total));
        let preview = BackendPreview { id: member.id, before, after, live_flows: live(member.id), expected_flows, capacity };
        (before != after).then_some(preview)
    };
    pairs.filter_map(one).collect()
}

fn shares(service: Option<&ServicePlan>) -> Vec<Row<'_>> {
    let Some(service) = service else { return Vec::new() };
    let total = service.table.owner.len().max(1) as f64;
    let rows = service.members.iter().zip(service.table.counts(service.members.len()));
    let share = |slots: u32| f64::from(slots) / total;
    rows.map(|(m, slots)| (m, BackendShare { standing: m.standing, weight: m.configured.0, slots, share: share(slots) })).collect()
}

fn was_over(old: Option<&ServicePlan>, now: &BackendPreview, live: &impl Fn(BackendId) -> u64) -> bool {
    let (Some(before), Some(capacity)) = (now.before, now.capacity) else { return false };
    expected(before.share, total_flows(old, live)) > u64::from(capacity)
}

fn total_flows(service: Option<&ServicePlan>, live: &impl Fn(BackendId) -> u64) -> u64 {
    service.into_iter().flat_map(|s| &s.members).map(|m| live(m.id)).sum()
}

fn expected(share: f64, total: u64) -> u64 {
    (share * total as f64).round() as u64
}

fn find(service: &ServicePlan, id: BackendId) -> Option<&PlannedBackend> {
    service.members.binary_search_by_key(&id, |m| m.id).ok().and_then(|at| service.members.get(at))
}

/// What a state means for flows, in one place with what the packet path does.
const _: () = assert!(BackendState::Draining.keeps_old() && !BackendState::Maintenance.keeps_old());
