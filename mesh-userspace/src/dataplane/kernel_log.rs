//! What the kernel half says in words, handed to the daemon's log.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
};

/// The reader of the kernel half's log. Dropping it ends the task.
#[derive(Debug)]
pub struct KernelLog(JoinHandle<()>);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum KernelLogError {
    #[error("the kernel half has nothing to say at this log level")]
    Silent,
    #[error("failed to watch the kernel half's log: {0}")]
    Watch(#[from] std::io::Error),
}

/// Starts to read; needs a tokio runtime with IO. Can be done once.
pub(super) fn start(ebpf: &mut Ebpf) -> Result<KernelLog, KernelLogError> {
    let logger = EbpfLogger::init(ebpf).map_err(|_| KernelLogError::Silent)?;
    // SAFETY: the logger owns its map's descriptor, and gives out that one for as long as it lives; here it lives until it is dropped.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }.map_err(|e| e.into_parts().1)?;
    Ok(KernelLog(tokio::spawn(read(logger))))
}

async fn read(mut logger: AsyncFd<EbpfLogger<&'static dyn log::Log>>) {
    // Cancel safe: records stay in the ring until they are read, and reading does not wait.
    loop {
        let Ok(mut ready) = logger.readable_mut().await else { return };
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        self.0.abort();
    }
}
