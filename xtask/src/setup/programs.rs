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
    Program { name: "nft", package: "nftables", needed: &[Need::Bench] },
    Program { name: "dnsmasq", package: "dnsmasq-base", needed: &[Need::Peers] },
    Program { name: "nginx", package: "nginx-light", needed: &[Need::Test, Need::Peers, Need::Bench] },
    // Modules are no programs; their files prove them as well.
    Program { name: "/usr/lib/nginx/modules/ngx_stream_module.so", package: "libnginx-mod-stream", needed: &[Need::Bench] },
    Program { name: "curl", package: "curl", needed: &[Need::Test] },
    Program { name: "ping", package: "iputils-ping", needed: &[Need::Test] },
    Program { name: "wrk", package: "wrk", needed: &[Need::Test] },
    Program { name: "/usr/lib/python3/dist-packages/grpc/__init__.py", package: "python3-grpcio", needed: &[Need::Peers] },
    Program { name: "etcd", package: "etcd-server", needed: &[Need::Peers] },
    Program { name: "java", package: "default-jre-headless", needed: &[Need::Peers] },
    Program { name: "zooinspector", package: "zookeeper", needed: &[Need::Peers] },
    Program { name: "prometheus", package: "prometheus", needed: &[Need::Peers] },
    Program { name: "promtool", package: "prometheus", needed: &[Need::Peers] },
    Program { name: "python3", package: "python3", needed: &[Need::Image] },
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

    #[test]
    fn a_package_is_named_once() {
        let program = |name| Program { name, package: "binutils", needed: &[] };
        assert_eq!(packages(&[&program("strip"), &program("ld")]), ["binutils"]);
    }
}
