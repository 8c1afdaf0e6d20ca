//! One question to DNS servers and its answer: UDP, and TCP where the answer does not fit (RFC 1035 section 4.2, RFC 7766).

use std::{io, net::SocketAddr, time::Duration};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::discovery::Failure;

/// Bytes of an answer by UDP that no path splits; what is longer comes by TCP.
const PAYLOAD: u16 = 1232;
/// Each server is asked this often before the next one is.
const TRIES: usize = 2;

/// The answer of the first server that has one: records, or that there are none. Whatever else a server says, the next one is asked.
pub(super) async fn ask(servers: &[SocketAddr], limit: Duration, name: &Name, kind: RecordType) -> Result<Message, Failure> {
    let mut failure = Failure::Unreachable("there is no DNS server to ask".to_owned());
    for server in servers {
        for _ in 0..TRIES {
            failure = match timeout(limit, exchange(*server, name, kind)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Unreachable(format!("{server} did not answer for {name} {kind} within {limit:?}")),
            };
            // Asking again helps against lost packets, not against an answer.
            if matches!(failure, Failure::Bad(_)) {
                break;
            }
        }
    }
    Err(failure)
}

async fn exchange(server: SocketAddr, name: &Name, kind: RecordType) -> Result<Message, Failure> {
    let query = query(name, kind);
    let bytes = query.to_vec().map_err(|e| Failure::Bad(format!("{name} can't be asked for: {e}")))?;
    let unreachable = |e: io::Error| Failure::Unreachable(format!("{server}: {e}"));
    let answer = over_udp(server, &bytes, &query).await.map_err(unreachable)??;
    let answer = if answer.metadata.truncation { over_tcp(server, &bytes, &query).await.map_err(unreachable)?? } else { answer };
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        code => Err(Failure::Unreachable(format!("{server} answers {code} for {name} {kind}"))),
    }
}

fn query(name: &Name, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    message.add_query(Query::query(name.clone(), kind)).set_edns(edns);
    message
}

/// The outer error is the socket's, the inner one the answer's.
type Exchanged = io::Result<Result<Message, Failure>>;

async fn over_udp(server: SocketAddr, bytes: &[u8], query: &Message) -> Exchanged {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Connected: packets of others don't come in, and a closed port is told.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let packet = &buffer[..length];
        // An answer to another question may be a late or a forged one: the right one may still come.
        if packet.len() >= 2 && packet[..2] == bytes[..2] {
            return Ok(read(packet, server, query));
        }
    }
}

async fn over_tcp(server: SocketAddr, bytes: &[u8], query: &Message) -> Exchanged {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(read(&answer, server, query))
}

fn read(bytes: &[u8], server: SocketAddr, query: &Message) -> Result<Message, Failure> {
    let bad = |why: String| Failure::Bad(format!("{server}: {why}"));
    let answer = Message::from_vec(bytes).map_err(|e| bad(format!("the answer can't be read: {e}")))?;
    if answer.metadata.id != query.metadata.id || answer.metadata.message_type != hickory_proto::op::MessageType::Response {
        return Err(bad("the answer is to no question of ours".to_owned()));
    }
    // A server that could not read the question leaves it out (RFC 1035 section 4.1.1 says no more of such answers).
    if answer.queries != query.queries && !answer.queries.is_empty() {
        return Err(bad(format!(
            "the answer is to another question: {}",
            answer.queries.iter().map(ToString::to_string).collect::<String>()
        )));
    }
    Ok(answer)
}
