//! Which service records count, and with what weight (RFC 2782). Pure.

use std::{collections::BTreeMap, net::SocketAddr};

/// A service record with the addresses of its target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub priority: u16,
    pub weight: u16,
    pub name: String,
    pub at: Vec<SocketAddr>,
}

/// A record with weight 0 among others is to have "a very small chance of being selected": this much less than a record of weight 1.
const SMALL: u32 = 100;

/// The members of the group with the lowest number that has any, with their weights and names. Each address of a target has the record's weight.
pub(super) fn choose(offers: Vec<Offer>) -> BTreeMap<SocketAddr, (u16, String)> {
    let mut group: Vec<Offer> = offers.into_iter().filter(|o| !o.at.is_empty()).collect();
    let lowest = group.iter().map(|o| o.priority).min();
    group.retain(|o| Some(o.priority) == lowest);
    let largest = group.iter().map(|o| u32::from(o.weight)).max().unwrap_or(0);
    let factor = if group.iter().any(|o| o.weight == 0) && largest > 0 { (u32::from(u16::MAX) / largest).clamp(1, SMALL) } else { 1 };
    let mut members: BTreeMap<SocketAddr, (u16, String)> = BTreeMap::new();
    for offer in group {
        let weight = u16::try_from(u32::from(offer.weight) * factor).unwrap_or(u16::MAX).max(1);
        for at in offer.at {
            let member = members.entry(at).or_insert_with(|| (0, offer.name.clone()));
            member.0 = member.0.saturating_add(weight);
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(priority: u16, weight: u16, last: &[u8]) -> Offer {
        Offer { priority, weight, name: String::new(), at: last.iter().map(|l| ([10, 0, 0, *l], 80).into()).collect() }
    }

    fn chosen(offers: &[Offer]) -> Vec<(u8, u16)> {
        let last = |at: &SocketAddr| if let SocketAddr::V4(v4) = at { v4.ip().octets()[3] } else { 0 };
        choose(offers.to_vec()).iter().map(|(at, (weight, _))| (last(at), *weight)).collect()
    }

    #[test]
    fn the_first_group_with_members_counts() {
        assert_eq!(chosen(&[offer(20, 5, &[3]), offer(10, 5, &[1]), offer(10, 7, &[2])]), [(1, 5), (2, 7)]);
        assert_eq!(chosen(&[offer(20, 5, &[3]), offer(10, 5, &[])]), [(3, 5)]);
        assert_eq!(chosen(&[offer(10, 5, &[])]), []);
        assert_eq!(chosen(&[]), []);
    }

    #[test]
    fn weight_zero_is_a_small_chance_or_an_equal_one() {
        assert_eq!(chosen(&[offer(1, 0, &[1]), offer(1, 0, &[2])]), [(1, 1), (2, 1)]);
        assert_eq!(chosen(&[offer(1, 0, &[1]), offer(1, 10, &[2])]), [(1, 1), (2, 1000)]);
        assert_eq!(chosen(&[offer(1, 0, &[1]), offer(1, u16::MAX, &[2])]), [(1, 1), (2, u16::MAX)]);
    }

    #[test]
    fn an_address_named_twice_is_one_member() {
        assert_eq!(chosen(&[offer(1, 3, &[1, 2]), offer(1, 4, &[1])]), [(1, 7), (2, 3)]);
        assert_eq!(chosen(&[offer(1, u16::MAX, &[1]), offer(1, 4, &[1])]), [(1, u16::MAX)]);
    }
}
