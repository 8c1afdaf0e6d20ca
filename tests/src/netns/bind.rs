//! Addresses that a test uses more than once.

use std::{
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

/// What `bind` makes, as soon as its address is free: while another thread starts a process, that one holds all sockets of ours until it runs its own program,
/// among them such as were just closed.
pub fn when_free<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let began = Instant::now();
    loop {
        match bind() {
            Err(e) if e.kind() == ErrorKind::AddrInUse && began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            bound => return bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn who_waits_for_an_address_gets_it_when_it_is_free() -> io::Result<()> {
        let holder = UdpSocket::bind("127.0.0.1:0")?;
        let at = holder.local_addr()?;
        let waits = std::thread::spawn(move || when_free(|| UdpSocket::bind(at)));
        std::thread::sleep(Duration::from_millis(20));
        drop(holder);
        assert_eq!(waits.join().expect("it does not panic")?.local_addr()?, at);
        Ok(())
    }
}
