//! Who stands between a source and its server, and lets through what it is told to.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What it does with connections. Those that are open when it changes are cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Open,
    /// All that the server says comes so much later.
    Slow(Duration),
    /// Connections are taken, and that is all.
    Silent,
    Cut,
    /// Answers by what is neither the protocol nor JSON.
    Garbled,
}

#[derive(Debug)]
pub struct Between(watch::Sender<Way>);

impl Between {
    /// Listens at `listen` for connections to `server`.
    pub async fn start(listen: &str, server: &'static str) -> Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let (ways, way) = watch::channel(Way::Open);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut way = way.clone();
                tokio::spawn(async move {
                    let now = *way.borrow_and_update();
                    tokio::select! {
                        // An error means that whoever changes it is gone.
                        _ = way.changed() => Ok(()),
                        ended = carry(stream, server, now) => ended,
                    }
                });
            }
        });
        Ok(Self(ways))
    }

    pub fn set(&self, way: Way) {
        self.0.send_replace(way);
    }
}

async fn carry(mut client: TcpStream, server: &str, way: Way) -> Result<()> {
    let delay = match way {
        Way::Open => Duration::ZERO,
        Way::Slow(delay) => delay,
        Way::Silent => return std::future::pending().await,
        Way::Cut => return Ok(()),
        Way::Garbled => {
            // Part of a question is enough.
            let _ = client.read(&mut [0; 1024]).await?;
            client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>Hi</html>").await?;
            return Ok(());
        }
    };
    let onward = TcpStream::connect(server).await?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), onward.into_split());
    let asked = tokio::io::copy(&mut from_client, &mut to_server);
    let answered = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = from_server.read(&mut buffer).await?;
            if length == 0 {
                return Ok::<(), anyhow::Error>(());
            }
            tokio::time::sleep(delay).await;
            to_client.write_all(&buffer[..length]).await?;
        }
    };
    tokio::select! {
        ended = answered => ended,
        Err(error) = asked => Err(error.into()),
    }
}
