//! Random packets over random maps: the host's copy of the engine and the kernel give the same verdict, the same bytes and the same counts.

use mesh_tests::{
    fixture::{Engine, Hook, Host, Kernel, Outcome, Sizes, Verdict, World, random},
    fuzz::{self, Script, Target},
};
use proptest::{prelude::*, test_runner::TestRunner};

#[test]
fn sound_maps_by_xdp() {
    agree(Hook::Xdp, 150, random::script());
}

#[test]
fn sound_maps_by_tc() {
    agree(Hook::Tc, 150, random::script());
}

/// Garbage in the maps is nobody's intention, but the same for both, and no way out of the packet, of the maps or of the program.
#[test]
fn corrupted_maps_by_xdp() {
    agree(Hook::Xdp, 100, random::hostile_script());
}

#[test]
fn corrupted_maps_by_tc() {
    agree(Hook::Tc, 100, random::hostile_script());
}

/// What the fuzzer has found worth keeping.
#[test]
fn kept_inputs_by_xdp() {
    agree_on_kept(Hook::Xdp);
}

#[test]
fn kept_inputs_by_tc() {
    agree_on_kept(Hook::Tc);
}

fn agree_on_kept(hook: Hook) {
    let mut kernel = Kernel::load(hook, Sizes::SMALL).unwrap_or_else(|e| panic!("{e:#}"));
    for (target, hostile) in [(Target::Packet, false), (Target::Maps, true)] {
        for (name, input) in fuzz::read(target).unwrap_or_else(|e| panic!("{e:#}")) {
            let script = Script::read(&input, hostile);
            compare(&mut kernel, &script.world(), &script.events).unwrap_or_else(|e| panic!("{}/{name}: {e}", target.name()));
        }
    }
}

fn agree(hook: Hook, cases: u32, script: impl Strategy<Value = Vec<random::Event>>) {
    let mut kernel = Kernel::load(hook, Sizes::SMALL).unwrap_or_else(|e| panic!("{e:#}"));
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 400, ..ProptestConfig::default() };
    let kernel = std::cell::RefCell::new(&mut kernel);
    let result = TestRunner::new(config)
        .run(&(random::world(), script), |(world, script)| compare(&mut kernel.borrow_mut(), &world, &script).map_err(TestCaseError::fail));
    result.unwrap_or_else(|e| panic!("{e}"));
}

fn compare(kernel: &mut Kernel, world: &World, script: &[random::Event]) -> Result<(), String> {
    let mut host = Host::new(Sizes::SMALL);
    host.reset(&mut |maps| world.publish(maps));
    kernel.reset(&mut |maps| world.publish(maps));
    let (mut host_before, mut kernel_before) = (host.counters(), kernel.counters());
    for (i, event) in script.iter().enumerate() {
        host.edit(&mut |maps| event.apply(maps));
        kernel.edit(&mut |maps| event.apply(maps));
        let random::Event::Packet(packet) = event else { continue };
        if !kernel.takes(packet) {
            continue;
        }
        let (wanted, is) = (host.send(packet), kernel.send(packet));
        if !same(&wanted, &is) {
            return Err(format!("step {i}: the host says {wanted:02x?}, {} {is:02x?}", kernel.name()));
        }
        let (host_after, kernel_after) = (host.counters(), kernel.counters());
        let (wanted, is) = (host_after.since(&host_before), kernel_after.since(&kernel_before));
        if wanted != is {
            let backends = if wanted.backends == is.backends { "the same" } else { "different" };
            return Err(format!(
                "step {i}: the host counts {:?} {:?}, {} {:?} {:?}; backends {backends}",
                wanted.received,
                wanted.counted(),
                kernel.name(),
                is.received,
                is.counted(),
            ));
        }
        (host_before, kernel_before) = (host_after, kernel_after);
    }
    Ok(())
}

/// What is dropped is nobody's business any more; where a redirection goes is not told by a test run.
fn same(host: &Outcome, kernel: &Outcome) -> bool {
    let verdict = match (host.verdict, kernel.verdict) {
        (Verdict::Redirect(_) | Verdict::Tx, Verdict::Redirect(None)) => true,
        (a, b) => a == b,
    };
    verdict && (host.verdict == Verdict::Drop || host.bytes == kernel.bytes)
}
