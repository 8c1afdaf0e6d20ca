use proptest::prelude::*;

use super::*;

fn vip(n: u8) -> VipAddr {
    let addr = if n.is_multiple_of(2) { [192, 0, 2, n].into() } else { Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()).into() };
    VipAddr { addr, port: 443, proto: if n.is_multiple_of(3) { Proto::Udp } else { Proto::Tcp } }
}

fn backend(n: u16) -> BackendId {
    BackendId(([10, 0, (n >> 8) as u8, n as u8], 8080).into())
}

#[test]
fn a_header_comes_back_as_it_was() {
    let header = Header {
        entries: true,
        held: true,
        tag: 1,
        from: 2,
        to: 3,
        version: 4,
        part: 5,
        parts: 6,
        heard: 7,
        number: 8,
        ..Header::default()
    };
    let header = Header { all: 9, got: u64::MAX, gone: 10, ..header };
    let bytes = header.write();
    assert_eq!(bytes.len(), HEADER);
    assert_eq!(Header::read(&[&bytes[..], b"more"].concat()), Some((header, &b"more"[..])));
    assert_eq!(Header::read(&bytes[1..]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reports_come_back_as_they_were(services in prop::collection::vec((1u16..400, 0u32..3000), 0..6)) {
        let mut report = Report::new();
        for (n, (owners, slots)) in services.iter().enumerate() {
            let said = |slot: u32| Said {
                target: Some(backend(slot as u16 % owners)),
                default: (!slot.is_multiple_of(5)).then(|| backend(slot as u16 / 3 % owners)),
                asks: slot.is_multiple_of(7).then(|| backend(1)),
                progress: Progress((slot % 16) as u8),
                rest: slot.is_multiple_of(11),
            };
            let words = Words { log2_slots: 12, foreign: n == 3, slots: (0..*slots).map(|slot| (slot, said(slot))).collect() };
            report.insert(vip(n as u8), words);
        }
        let mut back = Report::new();
        for part in report_parts(&report) {
            prop_assert!(part.len() <= ROOM);
            prop_assert!(read_report(&part, &mut back).is_some());
        }
        prop_assert_eq!(back, report);
    }

    #[test]
    fn entries_come_back_as_they_were(entries in prop::collection::vec((0u8..4, any::<u64>(), 0u16..300, any::<Option<u32>>(), 0u16..0x8000), 0..500)) {
        let mut entries: Vec<Entry> = entries
            .into_iter()
            .map(|(n, hash, b, isn, age)| Entry {
                vip: vip(n),
                hash: hash >> 16,
                backend: backend(b),
                kind: isn.map_or(Kind::Flow, |isn| Kind::Pending { isn }),
                age,
            })
            .collect();
        let mut back = Vec::new();
        for part in entry_parts(&entries) {
            prop_assert!(part.len() <= ROOM);
            back.extend(read_entries(&part).unwrap());
        }
        let key = |e: &Entry| (e.vip.addr, e.hash, e.backend, e.age);
        entries.sort_by_key(key);
        back.sort_by_key(key);
        prop_assert_eq!(back, entries);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (Header::read(&bytes), read_report(&bytes, &mut Report::new()), read_entries(&bytes));
    }
}
