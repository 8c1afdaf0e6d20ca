//! `cargo xtask test`: every proof there is, and exactly what CI runs.

use std::{
    ffi::OsString,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::{
    binaries, build,
    lanes::{self, How},
    lint, package,
    setup::{self, Need},
    tally::Tally,
    vm,
    workspace::target,
};

#[derive(clap::Args)]
pub struct Args {
    /// Which tests (several may be named); all of them if none is.
    suites: Vec<Suite>,
    /// Kernel for `vm` (repeatable): a version that Debian has a cloud image of, a folder, or a .deb file [default: 6.1 and 6.12].
    #[arg(long = "kernel", value_name = "VERSION|DIR|DEB")]
    kernels: Vec<String>,
    /// Only tests whose names have one of these words.
    #[arg(last = true, value_name = "WORDS")]
    words: Vec<String>,
}

/// The fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Format, lints, architecture.
    Lint,
    /// Unit and property tests, and fixtures through the engine.
    Host,
    /// Programs run by the kernel on given packets (needs root).
    Kernel,
    /// Daemon, program and real traffic in network namespaces (needs root).
    Netns,
    /// Sources of backends against the real servers of Debian's packages (needs root).
    Peers,
    /// The container image with just the capabilities it asks for (needs root).
    Image,
    /// `kernel` and `netns` inside Debian's stock kernels.
    Vm,
    /// The real kube-apiserver, which is built first; only if it is named (needs root).
    K8s,
}

/// What the engine's own tests and the ledger's are called, which stand beside the engine.
const OF_THE_ENGINE: [&str; 2] = ["engine", "ledger"];

/// What takes longest begins first, so that no lane is left waiting for it at the end.
const LONG: [&str; 6] = ["netns_ledger", "netns_passage", "netns_weights", "netns_schedulers", "netns_ecmp", "peer_sources"];

/// What a suite came to, and what it took.
struct Done {
    name: String,
    took: Duration,
    result: Result<Tally>,
}

pub fn run(args: &Args) -> Result<()> {
    let all: Vec<Suite> = Suite::value_variants().iter().copied().filter(|s| *s != Suite::K8s).collect();
    let suites = if args.suites.is_empty() { &all } else { &args.suites };
    let mut done = Vec::new();
    for (i, &suite) in suites.iter().enumerate() {
        if suite != Suite::Lint && !done.iter().any(|d: &Done| d.name == "build") && suites.len() > i + 1 {
            // All at once: two cores then have something to do to the end.
            done.push(timed("build", || build(&suites[i..]).map(|()| Tally::default())));
        }
        done.push(timed(&format!("{suite:?}").to_lowercase(), || suite.run(args)));
    }
    summarize(&done)
}

fn timed(name: &str, work: impl FnOnce() -> Result<Tally>) -> Done {
    println!("\n== {name}");
    let start = Instant::now();
    let result = work().and_then(|tally| tally.verdict().map(|()| tally));
    if result.is_err() {
        eprintln!("error: {name} failed; why stands at the end");
    }
    Done { name: name.to_owned(), took: start.elapsed(), result }
}

/// What failed and why, and last which suites that were: the end of a long log is what is read first.
fn summarize(done: &[Done]) -> Result<()> {
    for Done { name, result, .. } in done {
        if let Err(error) = result {
            println!("\n== What failed in {name}\n{error:#}");
        }
    }
    println!("\n== Summary");
    for Done { name, took, result } in done {
        let outcome =
            result.as_ref().map_or_else(|_| "FAILED".to_owned(), |tally| if tally.passed > 0 { tally.to_string() } else { "ok".into() });
        println!("{name:<8} {:>6.1} s  {outcome}", took.as_secs_f64());
    }
    let failed = done.iter().filter(|d| d.result.is_err()).count();
    ensure!(failed == 0, "{failed} of {} failed", done.len());
    Ok(())
}

/// Builds what these suites run.
fn build(suites: &[Suite]) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let mut names = OF_THE_ENGINE.map(str::to_owned).to_vec();
    for prefix in suites.iter().filter_map(|suite| suite.prefix()) {
        names.extend(binaries::named(prefix)?);
    }
    binaries::all(&names)?;
    build::run(build::Args::default())
}

impl Suite {
    /// How the names of its files in tests/tests begin.
    const fn prefix(self) -> Option<&'static str> {
        match self {
            Self::Host => Some("host_"),
            Self::Kernel => Some("kernel_"),
            Self::Netns => Some("netns_"),
            Self::Peers => Some("peer_"),
            Self::Image => Some("image_"),
            Self::K8s => Some("k8s_"),
            Self::Lint | Self::Vm => None,
        }
    }

    fn run(self, args: &Args) -> Result<Tally> {
        let words = &args.words;
        match self {
            Self::Lint => lint::run().map(|()| Tally::default()),
            Self::Host => host(words),
            Self::Kernel => self.integration(&[Need::Test], 1, Vec::new(), words),
            Self::Netns => self.integration(&[Need::Test], 1, vec![("RUST_TEST_THREADS", threads().to_string().into())], words),
            Self::Peers => {
                setup::ensure(&[Need::Test, Need::Peers])?;
                // Where it can be had, the tests find Consul by a variable.
                let consul = setup::consul::ensure().map(|consul| ("MESH_CONSUL", consul.into()));
                self.integration(&[Need::Test, Need::Peers], 2, consul.into_iter().collect(), words)
            }
            Self::Image => self.integration(&[Need::Test, Need::Image], 1, packed()?, words),
            Self::Vm => vm::run(&args.kernels, words),
            Self::K8s => {
                let server = setup::apiserver::ensure()?;
                self.integration(&[Need::Test, Need::Peers], 1, vec![("MESH_KUBE_APISERVER", server.into())], words)
            }
        }
    }

    /// Runs the suite's files. They find the binaries that they start beside themselves.
    fn integration(self, needs: &[Need], lanes: usize, variables: Vec<(&'static str, OsString)>, words: &[String]) -> Result<Tally> {
        setup::ensure(needs)?;
        let prefix = self.prefix().context("the suite has no files")?;
        let mut tests = binaries::tests(&binaries::named(prefix)?)?;
        tests.sort_by_key(|test| LONG.iter().position(|name| *name == test.name).unwrap_or(LONG.len()));
        build::run(build::Args::default())?;
        let arguments = std::iter::once("--show-output".to_owned()).chain(words.iter().cloned()).collect();
        lanes::run(tests, &How { lanes, root: true, arguments, variables })
    }
}

/// Tests of a file that run at once. They wait half of their time: for what has to be noticed, to time out, to come to rest.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) + 1
}

fn host(words: &[String]) -> Result<Tally> {
    setup::ensure(&[Need::Build])?;
    let mut names = binaries::named("host_")?;
    names.extend(OF_THE_ENGINE.map(str::to_owned));
    let tests = [binaries::units()?, binaries::tests(&names)?].concat();
    lanes::run(tests, &How { lanes: 1, arguments: words.to_vec(), ..How::default() })
}

/// What the tests of the image and of the package need, found by variables: both made of what is built for the other tests.
fn packed() -> Result<Vec<(&'static str, OsString)>> {
    let binary = build::without_libraries(build::Profile::Dev)?;
    let package = target().join("debian-test/mesh.deb");
    package::run(&package::Args { debug: true, output: Some(package.clone()) })?;
    Ok(vec![("MESH_STATIC_BIN", binary.into()), ("MESH_DEB", package.into())])
}
