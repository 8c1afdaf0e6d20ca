//! The programs that lead probes the way of their service are ones that this kernel takes.

use anyhow::Result;
use mesh::dataplane::ProbePlane;

#[test]
fn the_kernel_takes_them() -> Result<()> {
    ProbePlane::load().map(drop).map_err(|error| anyhow::Error::new(error).context("the programs of passages"))
}
