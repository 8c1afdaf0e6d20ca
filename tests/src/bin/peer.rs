//! The server of tests and demo: `mesh-peer NAME ADDRESS:PORT...`.

use anyhow::{Context, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: mesh-peer NAME ADDRESS:PORT...";
    let name = args.next().context(usage)?;
    let listen = args.map(|a| a.parse().context(usage)).collect::<Result<Vec<_>>>()?;
    anyhow::ensure!(!listen.is_empty(), usage);
    mesh_tests::peer::serve(&name, &listen).await
}
