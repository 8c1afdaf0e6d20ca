//! A DNS server that answers in every wrong way.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use tokio::net::UdpSocket;

use mesh_tests::registry::Ground;

use crate::follower::Follower;

/// How it answers.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Manner {
    Good,
    /// Well, after so many milliseconds.
    Slow(u64),
    Silent,
    Failing,
    Refusing,
    Garbled,
    /// Forged answers, with another number, come before the right one.
    ForgedFirst,
    /// The answer is to another question.
    Elsewhere,
    /// It says that the rest comes by TCP, where nobody listens.
    CutOff,
    /// It knows only who might know.
    Referring,
}

const QUIET: Duration = Duration::from_millis(1500);

#[test]
fn no_wrong_answer_empties_the_list() -> Result<()> {
    let ground = Ground::new("dns-broken")?;
    ground.play(async || {
        let socket = UdpSocket::bind("127.0.0.1:5300").await?;
        let manner = Arc::new(Mutex::new(Manner::Good));
        let now = Arc::clone(&manner);
        tokio::spawn(async move { serve(socket, &now).await });
        let set = |to: Manner| *manner.lock().unwrap_or_else(PoisonError::into_inner) = to;
        let mut follower = Follower::of("{type: dns, name: web.test, servers: ['127.0.0.1:5300'], min_refresh: 50ms, timeout: 1s}")?;
        follower.has(&["10.0.0.1:80"]).await?;
        for (wrong, why) in [
            (Manner::Silent, "did not answer"),
            (Manner::Failing, "answers"),
            (Manner::Refusing, "answers"),
            (Manner::Garbled, "bad answer"),
            (Manner::Elsewhere, "bad answer"),
            (Manner::CutOff, "unreachable"),
            (Manner::Referring, "hearsay"),
            (Manner::Slow(4000), "did not answer"),
        ] {
            set(wrong);
            follower.stale(why).await?;
            ensure!(follower.list() == ["10.0.0.1:80"], "{wrong:?} left {:?}", follower.list());
            set(Manner::Good);
            follower.has(&["10.0.0.1:80"]).await?;
        }
        for odd in [Manner::Slow(100), Manner::ForgedFirst] {
            set(odd);
            let failures = follower.status().failures;
            follower.rest(QUIET).await?;
            ensure!(follower.status().failures == failures && follower.is_live(), "{odd:?} is no failure: {:?}", follower.status());
        }
        ensure!(follower.updates == 1, "{} updates, and only the first one was news", follower.updates);
        Ok(())
    })
}

async fn serve(socket: UdpSocket, manner: &Mutex<Manner>) -> Result<()> {
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        let now = *manner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Manner::Slow(ms) = now {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        if now == Manner::ForgedFirst {
            let mut forged = answer(&buffer[..length], Manner::Good);
            forged[0] ^= 0xff;
            *forged.last_mut().unwrap_or(&mut 0) = 66;
            socket.send_to(&forged, from).await?;
            socket.send_to(&[], from).await?;
        }
        if now != Manner::Silent {
            socket.send_to(&answer(&buffer[..length], now), from).await?;
        }
    }
}

/// Bytes by hand (RFC 1035 section 4), with nothing of what reads them.
fn answer(question: &[u8], manner: Manner) -> Vec<u8> {
    // The question ends before the OPT record of 11 bytes.
    let asked = &question[12..question.len() - 11];
    let (code, answers, authorities) = match manner {
        Manner::Failing => (2, 0, 0),
        Manner::Refusing => (5, 0, 0),
        Manner::CutOff => (0, 0, 0),
        Manner::Referring => (0, 0, 1),
        _ => (0, 1, 0),
    };
    let cut = if manner == Manner::CutOff { 0x02 } else { 0 };
    let mut out = [&question[..2], &[0x81 | cut, 0x80 | code, 0, 1, 0, answers, 0, authorities, 0, 0], asked].concat();
    if manner == Manner::Elsewhere {
        out[13] ^= 1;
    }
    // A pointer to the name, the type, class IN, a time to live of 0, the length.
    if answers == 1 {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 10, 0, 0, 1]);
    }
    if authorities == 1 {
        out.extend([0xc0, 12, 0, 2, 0, 1, 0, 0, 0, 60, 0, 2, 0xc0, 12]);
    }
    if manner == Manner::Garbled {
        out.truncate(out.len() - 7);
    }
    out
}
