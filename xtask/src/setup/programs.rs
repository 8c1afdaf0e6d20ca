//! Programs that the tasks start, and Debian's packages for them.

use std::path::PathBuf;

use super::Need;

/// A program that something starts.
pub struct Program {
    /// Its presence on PATH proves the package.
    name: &'static str,
    package: &'static str,
    needed: &'static [Need],
}

const PROGRAMS: &[Program] = &[
    Program { name: "ip", package: "iproute2", needed: &[Need::Demo, Need::Test, Need::Vm, Need::Bench, Need::Counted] },
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86", needed: &[Need::Vm] },
    Program { name: "ipvsadm", package: "ipvsadm", needed: &[Need::Counted] },
    Program { name: "strip", package: "binutils", needed: &[Need::Vm] },
    Program { name: "dpkg-deb", package: "dpkg", needed: &[Need::Vm] },
    Program { name: "knotd", package: "knot", needed: &[Need::Peers] },
    Program { name: "knsupdate", package: "knot-dnsutils", needed: &[Need::Peers] },
    Program { name: "haproxy", package: "haproxy", needed: &[Need::Peers, Need::Bench] },
    Program { name: "nft", package: "nftables", needed: &[Need::Test, Need::Peers, Need::Bench] },
    Program { name: "dnsmasq", package: "dnsmasq-base", needed: &[Need::Peers] },
    Program { name: "nginx", package: "nginx-light", needed: &[Need::Test, Need::Peers, Need::Bench] },
    // Modules are no programs; their files prove them as well.
    Program { name: "/usr/lib/nginx/modules/ngx_stream_module.so", package: "libnginx-mod-stream", needed: &[Need::Bench] },
    Program { name: "curl", package: "curl", needed: &[Need::Test] },
    Program { name: "iperf3", package: "iperf3", needed: &[Need::Test] },
    Program { name: "ping", package: "iputils-ping", needed: &[Need::Test] },
    Program { name: "wrk", package: "wrk", needed: &[Need::Test] },
    Program { name: "/usr/lib/python3/dist-packages/grpc/__init__.py", package: "python3-grpcio", needed: &[Need::Peers] },
    Program { name: "etcd", package: "etcd-server", needed: &[Need::Peers] },
    Program { name: "java", package: "default-jre-headless", needed: &[Need::Peers] },
    Program { name: "zooinspector", package: "zookeeper", needed: &[Need::Peers] },
    Program { name: "prometheus", package: "prometheus", needed: &[Need::Peers] },
    Program { name: "promtool", package: "prometheus", needed: &[Need::Peers] },
    Program { name: "python3", package: "python3", needed: &[Need::Peers, Need::Image] },
    Program { name: "systemd-analyze", package: "systemd", needed: &[Need::Image] },
    Program { name: "dpkg", package: "dpkg", needed: &[Need::Image] },
    Program { name: "dpkg-shlibdeps", package: "dpkg-dev", needed: &[Need::Image] },
    Program { name: "buildah", package: "buildah", needed: &[Need::Image] },
    Program { name: "podman", package: "podman", needed: &[Need::Image] },
    Program { name: "crun", package: "crun", needed: &[Need::Image] },
];

/// Those that are not there.
pub fn missing(needs: &[Need]) -> Vec<&'static Program> {
    needed(needs).filter(|p| find(p.name).is_none()).collect()
}

/// Those that are there, and where.
pub fn present(needs: &[Need]) -> Vec<(&'static str, PathBuf)> {
    needed(needs).filter_map(|p| Some((p.name, find(p.name)?))).collect()
}

pub fn names(programs: &[&Program]) -> String {
    programs.iter().map(|p| p.name).collect::<Vec<_>>().join(" ")
}

pub fn packages(programs: &[&Program]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = programs.iter().map(|p| p.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Where a program is. The system's folders count even where an ordinary user's PATH leaves them out.
pub fn find(name: &str) -> Option<PathBuf> {
    which::which(name).ok().or_else(|| ["/usr/sbin", "/sbin"].iter().map(|dir| PathBuf::from(dir).join(name)).find(|p| p.is_file()))
}

fn needed(needs: &[Need]) -> impl Iterator<Item = &'static Program> {
    PROGRAMS.iter().filter(|p| p.needed.iter().any(|n| needs.contains(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_need_has_its_programs() {
        let names = |need| needed(&[need]).map(|p| p.name).collect::<Vec<_>>();
        assert_eq!(names(Need::Build), Vec::<&str>::new());
        assert_eq!(names(Need::Demo), ["ip"]);
        assert_eq!(names(Need::Image), ["python3", "systemd-analyze", "dpkg", "dpkg-shlibdeps", "buildah", "podman", "crun"]);
    }

    /// What each Debian has, or what comes with `ip`.
    const THERE: [&str; 13] =
        ["cargo", "dpkg-deb", "env", "nice", "nsenter", "nstat", "setpriv", "sh", "ss", "tar", "tc", "timeout", "unshare"];

    /// What is set up for the tests and benches of a file.
    fn needs_of(path: &str) -> &'static [Need] {
        match path {
            _ if path.contains("/bench/ipvs") => &[Need::Counted],
            _ if path.contains("/bench/") || path.contains("/bench.rs") => &[Need::Bench],
            _ if path.starts_with("tests/tests/image_") => &[Need::Test, Need::Image],
            _ if path.contains("/registry/") => &[Need::Peers],
            _ if path.starts_with("tests/tests/peer_") || path.starts_with("tests/tests/kube_") => &[Need::Test, Need::Peers],
            _ => &[Need::Test],
        }
    }

    /// Programs that the lines of a file start by a name that stands there.
    fn started(text: &str) -> impl Iterator<Item = &str> {
        let calls = ["command(\"", "Command::new(\""];
        calls
            .into_iter()
            .flat_map(|call| text.split(call).skip(1))
            .filter_map(|rest| rest.split_once('"'))
            .map(|(path, _)| path.rsplit('/').next().unwrap_or(path))
    }

    #[test]
    fn what_the_tests_start_is_set_up_for_them() -> anyhow::Result<()> {
        let root = crate::workspace::root();
        let mut folders = vec![root.join("tests/src"), root.join("tests/tests")];
        let mut missing = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)?.flatten().map(|entry| entry.path()) {
                if entry.is_dir() {
                    folders.push(entry);
                    continue;
                }
                let path = entry.strip_prefix(&root)?.display().to_string();
                let text = std::fs::read_to_string(&entry)?;
                let known = |name: &&str| THERE.contains(name) || needed(needs_of(&path)).any(|p| p.name == *name);
                missing.extend(started(&text).filter(|name| !known(name)).map(|name| format!("{path}: {name}")));
            }
        }
        assert!(missing.is_empty(), "not set up for who starts it: {missing:#?}");
        Ok(())
    }

    #[test]
    fn a_package_is_named_once() {
        let program = |name| Program { name, package: "binutils", needed: &[] };
        assert_eq!(packages(&[&program("strip"), &program("ld")]), ["binutils"]);
    }
}
