//! What an answer says of a name. Pure.

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::SRV},
};

/// Aliases that are followed one after another.
pub(super) const ALIASES: usize = 8;

/// The records of a name, and how long that holds.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Found<T> {
    pub records: Vec<T>,
    /// Seconds; `None` = the answer does not say.
    pub ttl: Option<u32>,
}

/// What an answer comes to.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Answer<T> {
    /// The records; none is an answer as well (RFC 2308 sections 2.1 and 2.2).
    Found(Found<T>),
    /// The name is an alias of this one, which the answer says nothing of.
    Alias(Name, Option<u32>),
    /// The server knows only who might know.
    Referral,
}

/// Addresses of `name`.
pub(super) fn addresses(message: &Message, name: &Name, kind: RecordType) -> Answer<IpAddr> {
    read(message, name, kind, |data| match data {
        RData::A(a) if kind == RecordType::A => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) if kind == RecordType::AAAA => Some(IpAddr::V6(a.0)),
        _ => None,
    })
}

/// Service records of `name`.
pub(super) fn services(message: &Message, name: &Name) -> Answer<SRV> {
    read(message, name, RecordType::SRV, |data| if let RData::SRV(srv) = data { Some(srv.clone()) } else { None })
}

/// Addresses of `name` that came with an answer to something else.
pub(super) fn additional(message: &Message, name: &Name, kind: RecordType) -> Option<Found<IpAddr>> {
    let of_name = message.additionals.iter().filter(|r| r.name == *name && r.dns_class == DNSClass::IN && r.record_type() == kind);
    let both: Vec<_> = of_name.filter_map(|r| Some((r.data.ip_addr()?, r.ttl))).collect();
    let ttl = both.iter().map(|(_, ttl)| *ttl).min()?;
    Some(Found { records: both.into_iter().map(|(addr, _)| addr).collect(), ttl: Some(ttl) })
}

fn read<T>(message: &Message, name: &Name, kind: RecordType, pick: impl Fn(&RData) -> Option<T>) -> Answer<T> {
    let (mut name, mut ttl) = (name.clone(), None);
    for _ in 0..=ALIASES {
        let of_name = |r: &&Record| r.name == name && r.dns_class == DNSClass::IN;
        let found: Vec<_> = message.answers.iter().filter(of_name).filter_map(|r| Some((pick(&r.data)?, r.ttl))).collect();
        if !found.is_empty() {
            let ttl = found.iter().map(|(_, ttl)| *ttl).chain(ttl).min();
            return Answer::Found(Found { records: found.into_iter().map(|(record, _)| record).collect(), ttl });
        }
        let alias = message.answers.iter().filter(of_name).find_map(|r| Some((alias(&r.data)?, r.ttl)));
        let Some((target, alias_ttl)) = alias else { break };
        name = target;
        ttl = Some(ttl.map_or(alias_ttl, |ttl: u32| ttl.min(alias_ttl)));
    }
    nothing(message, name, kind, ttl)
}

fn nothing<T>(message: &Message, name: Name, _kind: RecordType, alias_ttl: Option<u32>) -> Answer<T> {
    let none = |ttl: Option<u32>| Answer::Found(Found { records: Vec::new(), ttl: ttl.into_iter().chain(alias_ttl).min() });
    // RFC 2308 section 5: how long "no" holds.
    let soa = message.authorities.iter().find_map(|r| if let RData::SOA(soa) = &r.data { Some(soa.minimum.min(r.ttl)) } else { None });
    if soa.is_some() || message.metadata.response_code == ResponseCode::NXDomain {
        return none(soa);
    }
    if alias_ttl.is_some() {
        return Answer::Alias(name, alias_ttl);
    }
    let refers = message.authorities.iter().any(|r| r.record_type() == RecordType::NS);
    if refers && !message.metadata.authoritative { Answer::Referral } else { none(None) }
}

fn alias(data: &RData) -> Option<Name> {
    if let RData::CNAME(target) = data { Some(target.0.clone()) } else { None }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::OpCode,
        rr::rdata::{A, CNAME, NS, SOA},
    };

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(owner: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(name(owner), ttl, data)
    }

    fn a(last: u8) -> RData {
        RData::A(A([10, 0, 0, last].into()))
    }

    fn answer(records: &[(&str, u32, RData)]) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.add_answers(records.iter().map(|(owner, ttl, data)| record(owner, *ttl, data.clone())));
        message
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        record("test.", ttl, RData::SOA(SOA::new(name("ns.test."), name("a.test."), 1, 2, 3, 4, minimum)))
    }

    fn found(last: &[u8], ttl: Option<u32>) -> Answer<IpAddr> {
        Answer::Found(Found { records: last.iter().map(|l| IpAddr::from([10, 0, 0, *l])).collect(), ttl })
    }

    fn look(message: &Message) -> Answer<IpAddr> {
        addresses(message, &name("web.test."), RecordType::A)
    }

    #[test]
    fn records_of_the_name_alone_count() {
        let message = answer(&[("web.test.", 30, a(1)), ("evil.test.", 5, a(66)), ("WEB.test.", 20, a(2))]);
        assert_eq!(look(&message), found(&[1, 2], Some(20)));
    }

    #[test]
    fn aliases_are_followed_and_do_not_go_round() {
        let to = |target: &str| RData::CNAME(CNAME(name(target)));
        let chain = answer(&[("web.test.", 30, to("b.test.")), ("b.test.", 7, to("c.test.")), ("c.test.", 60, a(3))]);
        assert_eq!(look(&chain), found(&[3], Some(7)));
        let open = answer(&[("web.test.", 30, to("elsewhere.test."))]);
        assert_eq!(look(&open), Answer::Alias(name("elsewhere.test."), Some(30)));
        let round = answer(&[("web.test.", 30, to("b.test.")), ("b.test.", 7, to("web.test."))]);
        assert!(matches!(look(&round), Answer::Alias(..)));
    }

    #[test]
    fn no_is_an_answer_and_a_referral_is_none() {
        let mut nodata = answer(&[]);
        nodata.add_authority(soa(300, 9));
        assert_eq!(look(&nodata), found(&[], Some(9)));
        let mut nxdomain = answer(&[]);
        nxdomain.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(look(&nxdomain), found(&[], None));
        let mut referral = answer(&[]);
        referral.add_authority(record("test.", 300, RData::NS(NS(name("ns.test.")))));
        assert_eq!(look(&referral), Answer::Referral);
    }
}
