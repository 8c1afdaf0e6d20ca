//! Which Rust toolchain and which bpf-linker build the kernel half.
//!
//! One file for both who have to know: `mesh-userspace/build.rs` includes it by path, so it uses nothing but `std`.
//! A toolchain counts only if its sources are really there (a `nightly` without rust-src can't build `core`), and a linker only if its LLVM
//! is at least the one that made the bitcode.

use std::{
    env,
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Names the one toolchain to use (as `rustup run` takes it) instead of the first that fits.
pub const OVERRIDE: &str = "MESH_EBPF_TOOLCHAIN";

/// The least rustc that can build the workspace, as (major, minor); `rust-version` in the root manifest.
const LEAST_RUSTC: (u32, u32) = (1, 95);

/// A toolchain that has the sources of `core`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// What `rustup run` takes; without rustup the words "on PATH", for the reader only.
    pub name: String,
    /// rustc's release, such as `1.96.0`.
    pub release: String,
    /// Major version of rustc's LLVM.
    pub llvm: u32,
    /// Whether rustup starts it, or the programs on PATH are it.
    pub rustup: bool,
    /// Whether `-Z` flags work without `RUSTC_BOOTSTRAP`.
    pub nightly: bool,
}

/// A bpf-linker that starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linker {
    pub path: PathBuf,
    /// Major version of its LLVM; `None` where the file doesn't tell.
    pub llvm: Option<u32>,
}

/// What builds the kernel half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub toolchain: Toolchain,
    pub linker: Linker,
}

impl Choice {
    /// `program` of the chosen toolchain, such as `cargo`.
    pub fn command(&self, program: &str) -> Command {
        if self.toolchain.rustup { command("rustup", ["run", &self.toolchain.name, program]) } else { Command::new(program) }
    }
}

/// Why the kernel half can't be built here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// No toolchain of a fitting version has rust-src.
    Source,
    /// No bpf-linker starts.
    Linker,
    /// Every bpf-linker has an older LLVM than every toolchain.
    OldLinker { path: PathBuf, linker: u32, rustc: u32 },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = LEAST_RUSTC;
        match self {
            Self::Source => write!(f, "no Rust toolchain from {major}.{minor} on has the rust-src that the eBPF build needs"),
            Self::Linker => write!(f, "no working bpf-linker on PATH or in cargo's bin folder"),
            Self::OldLinker { path, linker, rustc } => {
                write!(f, "{} has LLVM {linker}, but the eBPF bitcode comes from LLVM {rustc}", path.display())
            }
        }
    }
}

impl std::error::Error for Missing {}

/// The first toolchain, in order of preference, that some linker fits.
pub fn choose() -> Result<Choice, Missing> {
    pick(&toolchains(), &linkers())
}

/// Toolchains with rust-src, the preferred first: the one that `MESH_EBPF_TOOLCHAIN` names, or nightly, the active one, stable, Debian's.
pub fn toolchains() -> Vec<Toolchain> {
    if !rustup() {
        return inspect(None).into_iter().collect();
    }
    let named = env::var(OVERRIDE).ok();
    let active = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| String::from("stable"));
    let names = match named {
        Some(name) => vec![name],
        None => vec![String::from("nightly"), active, String::from("stable"), String::from("/usr")],
    };
    let mut found: Vec<Toolchain> = Vec::new();
    for name in names {
        if found.iter().all(|t| t.name != name) {
            found.extend(inspect(Some(&name)));
        }
    }
    found
}

/// Every bpf-linker on PATH and in cargo's bin folder that starts.
pub fn linkers() -> Vec<Linker> {
    let mut found: Vec<Linker> = Vec::new();
    for dir in env::split_paths(&env::var_os("PATH").unwrap_or_default()).chain(cargo_bin()) {
        let path = dir.join("bpf-linker");
        if path.is_file() && found.iter().all(|l| l.path != path) && stdout(&mut command(&path, ["--version"])).is_some() {
            found.push(Linker { llvm: llvm_of(&path), path });
        }
    }
    found
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    home.map(|h| h.join("bin"))
}

/// Whether rustup is there to choose between toolchains.
pub fn rustup() -> bool {
    stdout(&mut command("rustup", ["--version"])).is_some()
}

fn pick(toolchains: &[Toolchain], linkers: &[Linker]) -> Result<Choice, Missing> {
    let fits = |toolchain: &Toolchain, linker: &Linker| linker.llvm.is_none_or(|llvm| llvm >= toolchain.llvm);
    for toolchain in toolchains {
        if let Some(linker) = linkers.iter().find(|l| fits(toolchain, l)) {
            return Ok(Choice { toolchain: toolchain.clone(), linker: linker.clone() });
        }
    }
    let Some(toolchain) = toolchains.first() else { return Err(Missing::Source) };
    let Some(linker) = linkers.first() else { return Err(Missing::Linker) };
    Err(Missing::OldLinker { path: linker.path.clone(), linker: linker.llvm.unwrap_or(0), rustc: toolchain.llvm })
}

/// What `rustup run NAME rustc` (or the rustc on PATH) is, if it can build `core`.
fn inspect(name: Option<&str>) -> Option<Toolchain> {
    let rustc = |args: &[&str]| match name {
        Some(name) => stdout(command("rustup", ["run", name, "rustc"]).args(args)),
        None => stdout(&mut command("rustc", args)),
    };
    let sysroot = rustc(&["--print", "sysroot"])?;
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        return None;
    }
    parse_version(&rustc(&["-vV"])?, name)
}

/// Reads `rustc -vV`; `None` for a rustc that is too old or says nothing of its LLVM.
fn parse_version(text: &str, name: Option<&str>) -> Option<Toolchain> {
    let field = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
    let release = field("release:")?;
    let mut parts = release.split('.').map_while(|p| p.parse::<u32>().ok());
    if (parts.next()?, parts.next()?) < LEAST_RUSTC {
        return None;
    }
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    let nightly = release.contains("nightly") || release.contains("dev");
    Some(Toolchain { name: name.unwrap_or("on PATH").to_owned(), release: release.to_owned(), llvm, rustup: name.is_some(), nightly })
}

/// The LLVM that a linker was built with: the shared library it asks for, else the mark that a static LLVM writes into bitcode.
fn llvm_of(linker: &Path) -> Option<u32> {
    let search = |pattern: &str| stdout(command("grep", ["-a", "-o", "-m1", "-E", pattern]).arg(linker).env("LC_ALL", "C"));
    let text = search(r"libLLVM(\.so\.|-)[0-9]+").or_else(|| search(r"LLVM[0-9]{2}\.[0-9]+\.[0-9]+"))?;
    parse_llvm(text.lines().next()?)
}

fn parse_llvm(mark: &str) -> Option<u32> {
    let digits = mark.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn stdout(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolchain(name: &str, llvm: u32) -> Toolchain {
        Toolchain { name: name.into(), release: "1.96.0".into(), llvm, rustup: true, nightly: false }
    }

    fn linker(llvm: Option<u32>) -> Linker {
        Linker { path: "/opt/bpf-linker".into(), llvm }
    }

    #[test]
    fn the_first_toolchain_that_a_linker_fits_wins() {
        let both = [toolchain("nightly", 23), toolchain("stable", 22)];
        assert_eq!(pick(&both, &[linker(Some(22))]).unwrap().toolchain.name, "stable");
        assert_eq!(pick(&both, &[linker(Some(23))]).unwrap().toolchain.name, "nightly");
        assert_eq!(pick(&both, &[linker(Some(21)), linker(None)]).unwrap().toolchain.name, "nightly");
    }

    #[test]
    fn what_is_missing_is_named() {
        let one = [toolchain("stable", 22)];
        assert_eq!(pick(&[], &[linker(Some(22))]), Err(Missing::Source));
        assert_eq!(pick(&one, &[]), Err(Missing::Linker));
        let old = pick(&one, &[linker(Some(21))]).unwrap_err();
        assert_eq!(old.to_string(), "/opt/bpf-linker has LLVM 21, but the eBPF bitcode comes from LLVM 22");
    }

    #[test]
    fn versions_are_read_from_rustc() {
        let text = "rustc 1.97.0-nightly\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        let read = parse_version(text, Some("nightly")).unwrap();
        assert_eq!((read.llvm, read.nightly), (22, true));
        assert_eq!(parse_version("release: 1.94.1\nLLVM version: 22.1.0\n", None), None);
        assert_eq!(parse_version("release: 1.96.0\n", None), None);
    }

    #[test]
    fn the_mark_of_llvm_is_read_in_every_spelling() {
        for mark in ["libLLVM.so.22", "libLLVM-22", "LLVM22.1.8"] {
            assert_eq!(parse_llvm(mark), Some(22), "{mark}");
        }
        assert_eq!(parse_llvm("libLLVM"), None);
    }
}
