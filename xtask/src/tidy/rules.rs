//! The rules: one sentence, the files that it holds for, and what must not be found there.

use super::source::{Source, places};

/// One invariant.
pub struct Rule {
    pub sentence: &'static str,
    /// Whether a file, by its path from the root, has to keep it.
    pub covers: fn(&str) -> bool,
    pub check: Check,
    /// A file that breaks it: path and text.
    #[cfg_attr(not(test), allow(dead_code, reason = "what proves that the rule can be broken"))]
    example: (&'static str, &'static str),
}

/// What is wrong with a file, by line.
#[derive(Clone, Copy)]
pub enum Check {
    /// None of these names stands in the code.
    Code(&'static [&'static str]),
    /// None of these names stands in the code outside of tests.
    CodeWithoutTests(&'static [&'static str]),
    /// None of these stands anywhere, be it in a comment.
    Text(&'static [&'static str]),
    File(fn(&Source) -> Option<String>),
}

impl Check {
    pub fn run(self, source: &Source) -> Vec<(usize, String)> {
        match self {
            Self::Code(words) => places(&source.code, words),
            Self::CodeWithoutTests(words) => places(source.code_without_tests(), words),
            Self::Text(words) => places(&source.text, words),
            Self::File(check) => check(source).map(|what| (1, what)).into_iter().collect(),
        }
    }
}

const MOST_LINES: usize = 400;

/// Rooms that are functions of their inputs: they are given the time, and what others have read.
const PURE: [&str; 10] = [
    "mesh-common/src/",
    "mesh-userspace/src/table",
    "mesh-userspace/src/plan",
    "mesh-userspace/src/weights",
    "mesh-userspace/src/model",
    "mesh-userspace/src/config/resolve",
    "mesh-userspace/src/health/detector",
    "mesh-userspace/src/health/machine",
    "mesh-userspace/src/dataplane/layout",
    "mesh-userspace/src/dataplane/reconcile",
];

/// The only files with `unsafe`, each for one reason.
const UNSAFE: &[&str] = &[
    // The contract's types are plain data for aya's maps, and words that both halves change are atomic.
    "mesh-common/src/abi/user.rs",
    "mesh-common/src/shared.rs",
    "mesh-common/src/shared/atomic.rs",
    // The kernel half: bytes of packets, and values of maps.
    "mesh-ebpf/src/packet.rs",
    "mesh-ebpf/src/packet/patch.rs",
    "mesh-ebpf/src/aside.rs",
    "mesh-ebpf/src/rest.rs",
    "mesh-ebpf/src/maps.rs",
    "mesh-ebpf/src/agent/skb.rs",
    "mesh-ebpf/src/agent/maps.rs",
    "mesh-ebpf/src/probe/skb.rs",
    "mesh-ebpf/src/probe/maps.rs",
    // Clocks, by helpers.
    "mesh-ebpf/src/maps/time.rs",
    "mesh-ebpf/src/clock/main.rs",
    // The driver of the packet bench and its floors, which read and write frames without an engine on purpose.
    "mesh-ebpf/src/bench/driver.rs",
    // Mapped memory of the kernel's arrays.
    "mesh-userspace/src/dataplane/image.rs",
    "tests/src/mapped.rs",
    // System calls that no crate wraps.
    "mesh-userspace/src/api/peer.rs",
    "mesh-userspace/src/api/tests/access.rs",
    "mesh-userspace/src/dataplane/counters.rs",
    "tests/src/fixture/verifier.rs",
    "mesh-userspace/src/dataplane/flow_records.rs",
    "mesh-userspace/src/dataplane/kernel_log.rs",
    "mesh-userspace/src/dataplane/net/gratuitous.rs",
    "mesh-userspace/src/dataplane/grace.rs",
    "mesh-userspace/src/dataplane/owner.rs",
    "mesh-userspace/src/health/alarm.rs",
    "mesh-userspace/src/priority.rs",
    "mesh-userspace/src/health/pulse/filter.rs",
    // Scheduling of the bench, so that its slices are not disturbed.
    "tests/src/bench/driver.rs",
    "tests/src/bench/failover/wire.rs",
    "tests/src/bench/mod.rs",
    "tests/src/bin/demo.rs",
    "tests/src/netns/link.rs",
    "tests/src/netns/namespace.rs",
    "tests/src/netns/xdp_pass.rs",
    "tests/tests/image_pod/engine.rs",
    "tests/tests/netns_nexthop/pair.rs",
];

pub const RULES: &[Rule] = &[
    Rule {
        sentence: "Only the data plane, its benches and the tests know aya; the contract only promises it that its types are plain data.",
        covers: |path| {
            let rooms = ["mesh-userspace/src/dataplane/", "mesh-userspace/benches/", "tests/", "mesh-ebpf/"];
            let room = rooms.iter().any(|room| path.starts_with(room));
            path.ends_with(".rs") && !room && path != "mesh-common/src/abi/user.rs"
        },
        check: Check::Code(&["aya", "aya_log", "aya_obj"]),
        example: ("mesh-userspace/src/control/a.rs", "use aya::Ebpf;"),
    },
    Rule {
        sentence: "Only the data plane speaks netlink.",
        covers: |path| path.starts_with("mesh-userspace/src/") && !path.starts_with("mesh-userspace/src/dataplane/"),
        check: Check::Code(&["rtnetlink", "netlink_packet_route", "netlink_sys"]),
        example: ("mesh-userspace/src/control/a.rs", "use rtnetlink::Handle;"),
    },
    Rule {
        sentence: "The pure rooms have no clock: they are told the time.",
        covers: pure,
        check: Check::CodeWithoutTests(&["Instant::now", "SystemTime", "elapsed", "sleep"]),
        example: ("mesh-userspace/src/table/a.rs", "let now = Instant::now();"),
    },
    Rule {
        sentence: "The pure rooms do no IO: no sockets, files, processes, threads or tasks.",
        covers: pure,
        check: Check::CodeWithoutTests(&[
            "tokio",
            "std::fs",
            "std::io",
            "std::process",
            "std::thread",
            "std::env",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "println!",
            "eprintln!",
        ]),
        example: ("mesh-userspace/src/plan.rs", "use tokio::time;"),
    },
    Rule {
        sentence: "mesh-common and mesh-ebpf do without std, which the kernel has not; only the engine's host half is beside them.",
        covers: |path| {
            (path.starts_with("mesh-common/src/") && !path.starts_with("mesh-common/src/host")) || path.starts_with("mesh-ebpf/src/")
        },
        check: Check::CodeWithoutTests(&["std::", "alloc::"]),
        example: ("mesh-common/src/hash.rs", "use std::vec::Vec;"),
    },
    Rule {
        sentence: "`unsafe` stands only in the files that are listed for it: packets in one, maps in one, system calls in few.",
        covers: |path| path.ends_with(".rs") && !UNSAFE.contains(&path) && path != "mesh-ebpf/src/main.rs",
        check: Check::Code(&["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern"]),
        example: ("mesh-userspace/src/control/a.rs", "let a = unsafe { f() };"),
    },
    Rule {
        sentence: "mesh-ebpf's entry points hold no `unsafe` block.",
        covers: |path| path == "mesh-ebpf/src/main.rs",
        check: Check::Code(&["unsafe {", "unsafe fn"]),
        example: ("mesh-ebpf/src/main.rs", "let a = unsafe { f() };"),
    },
    Rule {
        sentence: "Nothing is left for later in the code: it is done, or it is not there.",
        covers: |path| path.ends_with(".rs"),
        check: Check::Text(&[
            concat!("to", "do!"),
            concat!("unimple", "mented!"),
            concat!("FIX", "ME"),
            concat!("TO", "DO"),
            concat!("XX", "X"),
        ]),
        example: ("tests/src/a.rs", concat!("// FIX", "ME: later")),
    },
    Rule {
        sentence: "Every test runs: none is ignored.",
        covers: |path| path.ends_with(".rs"),
        check: Check::Code(&["#[ignore"]),
        example: ("tests/tests/netns_a.rs", "#[test]\n#[ignore]\nfn a() {}"),
    },
    Rule {
        sentence: "No source file has more than 400 lines.",
        covers: |path| path.ends_with(".rs"),
        check: Check::File(|source| {
            let lines = source.text.lines().count();
            (lines > MOST_LINES).then(|| format!("{lines} lines"))
        }),
        // The one line stands for many: see the test.
        example: ("tests/src/long.rs", "\n"),
    },
    Rule {
        sentence: "A module is named for its role.",
        covers: |path| path.ends_with(".rs"),
        check: Check::File(|source| {
            let roleless = |name: &str| ["util", "utils", "helper", "helpers", "common", "misc"].contains(&name);
            source.path.trim_end_matches(".rs").split('/').find(|part| roleless(part)).map(str::to_owned)
        }),
        example: ("mesh-userspace/src/utils.rs", ""),
    },
    Rule {
        sentence: "Every member inherits the workspace's lints and version.",
        covers: |path| path.ends_with("/Cargo.toml"),
        check: Check::File(|source| {
            let wanted = ["[lints]\nworkspace = true", "version.workspace = true", "edition.workspace = true"];
            wanted.into_iter().find(|line| !source.text.contains(line)).map(|line| format!("lacks `{}`", line.replace('\n', " ")))
        }),
        example: ("mesh-common/Cargo.toml", "[package]\nversion.workspace = true\nedition.workspace = true\n"),
    },
    Rule {
        sentence: "No binary but xtask has tests in its own files: no suite runs them.",
        covers: |path| path.starts_with("tests/src/bin/") || path == "mesh-userspace/src/main.rs" || path.starts_with("mesh-ebpf/"),
        check: Check::Code(&["#[test]", "cfg(test)"]),
        example: ("tests/src/bin/a.rs", "#[test]\nfn a() {}"),
    },
    Rule {
        sentence: "Every test binary belongs to a suite of `cargo xtask test`, which its name begins with.",
        covers: |path| {
            path.split_once("/tests/")
                .is_some_and(|(package, file)| !package.contains("/src/") && file.ends_with(".rs") && !file.contains('/'))
        },
        check: Check::File(|source| {
            let suites = ["host_", "kernel_", "netns_", "peer_", "image_", "k8s_"].map(|suite| format!("tests/tests/{suite}"));
            (!suites.iter().any(|suite| source.path.starts_with(suite))).then(|| String::from("in no suite"))
        }),
        example: ("tests/tests/other.rs", ""),
    },
    Rule {
        sentence: "No file knows the machine that it was written on, or where packages come from.",
        covers: |_| true,
        check: Check::Text(&[
            concat!("/wo", "rk/"),
            concat!("/ho", "me/"),
            concat!("/ro", "ot/"),
            concat!("crates", ".io"),
            concat!("deb.", "debian.org"),
        ]),
        example: ("README.md", concat!("cd /ho", "me/me/mesh")),
    },
];

fn pure(path: &str) -> bool {
    PURE.iter().any(|room| path.starts_with(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaks(rule: &Rule, source: &Source) -> bool {
        (rule.covers)(&source.path) && !rule.check.run(source).is_empty()
    }

    #[test]
    fn every_rule_can_be_broken() {
        for rule in RULES {
            let (path, text) = rule.example;
            let text = if text == "\n" { text.repeat(MOST_LINES + 1) } else { text.to_owned() };
            let source = Source::new(path, &text);
            let broken: Vec<&str> = RULES.iter().filter(|r| breaks(r, &source)).map(|r| r.sentence).collect();
            assert_eq!(broken, [rule.sentence]);
        }
    }

    #[test]
    fn what_is_listed_for_unsafe_has_it() {
        for path in UNSAFE {
            let Ok(text) = std::fs::read_to_string(crate::workspace::root().join(path)) else { continue };
            assert!(!places(&Source::new(path, &text).code, &["unsafe"]).is_empty(), "{path} needs no place in the list");
        }
    }

    #[test]
    fn tests_may_read_the_clock() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { Instant::now(); }\n}\n";
        let source = Source::new("mesh-userspace/src/health/machine.rs", text);
        assert!(!RULES.iter().any(|rule| breaks(rule, &source)));
    }
}
