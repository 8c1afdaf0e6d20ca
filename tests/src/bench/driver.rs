//! The driver's object, loaded.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions,
    maps::ProgramArray,
    programs::{ProgramFd, ProgramInfo, Xdp},
};

use super::Run;
use crate::mapped::Mapped;

/// What the driver's sources were built to.
pub const DRIVER_OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MESH_DATAPATH_BENCH_DRIVER"));

/// What the program under test is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Floor {
    /// Returns `XDP_TX`.
    Tx,
    /// Swaps the MACs.
    Swap,
    /// Writes an outer IPv4 header in front.
    Encap,
    /// Writes an outer IPv6 header in front.
    Encap6,
}

impl Floor {
    /// Bytes that it puts in front.
    pub const fn outer(self) -> u32 {
        match self {
            Self::Tx | Self::Swap => 0,
            Self::Encap => 20,
            Self::Encap6 => 40,
        }
    }
}

/// What one slice took.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    pub ns_per_packet: f64,
    pub bad: u64,
}

/// The driver program with its floors.
pub struct Driver {
    ebpf: Ebpf,
    next: ProgramArray<aya::maps::MapData>,
    run: Mapped<Run>,
    floors: [ProgramFd; 4],
}

impl Driver {
    /// Loads the driver; `object` is what its sources were built to.
    pub fn load(object: &[u8]) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(object).context("failed to load the bench driver's object")?;
        load(&mut ebpf, "bench_driver")?;
        let floors = ["bench_tx", "bench_swap", "bench_encap", "bench_encap6"].map(|floor| load(&mut ebpf, floor));
        let [tx, swap, encap, encap6] = floors;
        let floors = [tx?, swap?, encap?, encap6?];
        let run = Mapped::open(&ebpf, "RUN")?;
        let next = ProgramArray::try_from(ebpf.take_map("NEXT").context("the driver's object has no NEXT")?)?;
        Ok(Self { ebpf, next, run, floors })
    }

    /// Begins with the first flow again.
    pub fn restart_flows(&mut self) {
        self.run.as_mut_slice()[0].flow = 0;
    }

    /// Has the next slice send the last `packets` packets again.
    pub fn rewind(&mut self, packets: u64) {
        let flow = &mut self.run.as_mut_slice()[0].flow;
        *flow = flow.wrapping_sub(packets);
    }

    /// One slice over a floor. The flows go on where the last slice left off.
    pub fn slice_floor(&mut self, floor: Floor, run: &Run) -> Result<Slice> {
        let run = Run { len_out: run.len + floor.outer(), ..*run };
        self.slice_as(floor, &run)
    }

    /// One slice over a floor, with `run` as it is.
    pub fn slice_as(&mut self, floor: Floor, run: &Run) -> Result<Slice> {
        let fd = self.floors[floor as usize].try_clone()?;
        self.slice(&fd, run)
    }

    /// One slice: `run.count` packets through the program `target`.
    pub fn slice(&mut self, target: &ProgramFd, run: &Run) -> Result<Slice> {
        self.next
            .set(0, target, 0)
            .context("failed to put the program under test behind the driver; it has to be xdp.frags, as the driver is")?;
        let flow = self.run.as_slice()[0].flow;
        self.run.as_mut_slice()[0] = Run { seen: 0, bad: 0, flow, ..*run };
        let repeat = u32::try_from(run.count + 1)?;
        let data = &run.template[..run.len as usize];
        let driver: &Xdp = self.ebpf.program("bench_driver").context("the driver was loaded")?.try_into()?;
        let undisturbed = Undisturbed::begin()?;
        driver.test_run(TestRunOptions { data_in: Some(data), repeat, ..Default::default() }).context("failed to run the driver")?;
        drop(undisturbed);
        let done = self.run.as_slice()[0];
        ensure!(done.seen == run.count && done.end_ns > done.start_ns, "the driver sent {} of {} packets", done.seen, run.count);
        Ok(Slice { ns_per_packet: (done.end_ns - done.start_ns) as f64 / run.count as f64, bad: done.bad })
    }
}

/// A loaded program of whomever's that is pinned at `path`. It has to be `xdp.frags`, as the driver is.
pub fn pinned(path: &Path) -> Result<ProgramFd> {
    let program = ProgramInfo::from_pin(path).and_then(|info| info.fd());
    program.with_context(|| format!("failed to open the program at {}", path.display()))
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program: &mut Xdp = ebpf.program_mut(name).with_context(|| format!("the driver's object has no {name}"))?.try_into()?;
    program.load().with_context(|| format!("failed to load {name}"))?;
    Ok(program.fd()?.try_clone()?)
}

/// Binds the thread to one CPU, so that all slices run on the same one.
pub fn pin_to_last_cpu() -> Result<()> {
    let cpus = std::thread::available_parallelism()?.get();
    let mut set = nix::sched::CpuSet::new();
    set.set(cpus - 1)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).context("failed to bind to a CPU")
}

/// While it lives, nothing but interrupts runs on this CPU beside the thread that made it. A slice is a millisecond or two: on a machine with
/// other work the scheduler would cut most of them short.
#[derive(Debug)]
pub struct Undisturbed(());

impl Undisturbed {
    pub fn begin() -> Result<Self> {
        schedule(libc::SCHED_FIFO, 1).context("failed to get a real-time priority")?;
        Ok(Self(()))
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        // Going back to the ordinary is never refused.
        let _ = schedule(libc::SCHED_OTHER, 0);
    }
}

fn schedule(policy: libc::c_int, priority: libc::c_int) -> Result<(), nix::errno::Errno> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is valid for the call, which reads it; 0 is the calling thread.
    nix::errno::Errno::result(unsafe { libc::sched_setscheduler(0, policy, &param) }).map(drop)
}
