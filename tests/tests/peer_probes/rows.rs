//! What is asked of whom, and what the heartbeat has to say.

/// One heartbeat of one backend.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    /// As written; `DIR` is the folder of the certificates.
    pub health: &'static str,
    pub address: &'static str,
    pub port: u16,
    /// Part of the error of one that is down; `None` = up.
    pub error: Option<&'static str>,
}

const HOST: &str = "10.77.0.11";

fn up(name: &'static str, port: u16, health: &'static str) -> Row {
    Row { name, health, address: HOST, port, error: None }
}

fn down(name: &'static str, port: u16, health: &'static str, error: &'static str) -> Row {
    Row { error: Some(error), ..up(name, port, health) }
}

/// Ports: see the configurations of the servers.
#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    let mut all = web();
    all.extend(encrypted());
    all.extend(others());
    all
}

#[rustfmt::skip]
fn web() -> Vec<Row> {
    vec![
        up("tcp-nginx", 8001, "{type: tcp, interval: 500ms, timeout: 500ms}"),
        up("tcp-haproxy", 8020, "{type: tcp, interval: 500ms, timeout: 500ms}"),
        down("tcp-closed", 9, "{type: tcp, interval: 500ms, timeout: 500ms}", "refused"),
        Row { address: "10.77.0.200", ..down("tcp-nobody", 80, "{type: tcp, interval: 500ms, timeout: 500ms}", "") },
        // A stopped server: its kernel completes handshakes, and nobody answers.
        up("half-open-tcp", 8010, "{type: tcp, interval: 500ms, timeout: 500ms}"),
        down("half-open-http", 8010, "{type: http, interval: 500ms, timeout: 500ms}", "no answer within"),
        down("half-open-grpc", 8010, "{type: grpc, interval: 500ms, timeout: 500ms}", "no answer within"),
        down("half-open-tls", 8010, "{type: tls, verify: false, interval: 500ms, timeout: 500ms}", "no answer within"),
        up("http-nginx", 8001, "{type: http, body: all is well, interval: 500ms}"),
        up("http-haproxy", 8020, "{type: http, body: all is well, interval: 500ms}"),
        up("http-host", 8001, "{type: http, host: shop.test, body: a shop, interval: 500ms}"),
        up("http-headers", 8001, "{type: http, path: /asked, headers: {X-Probe: mesh}, status: 204, interval: 500ms}"),
        down("http-no-header", 8001, "{type: http, path: /asked, status: 204, interval: 500ms}", "status 403, expected 204"),
        down("http-lying-body", 8001, "{type: http, path: /lie, body: all is well, interval: 500ms}", "does not hold"),
        down("http-error", 8001, "{type: http, path: /broken, interval: 500ms}", "status 500"),
        up("http-error-wanted", 8001, "{type: http, path: /broken, status: 500, interval: 500ms}"),
        down("http-none-behind", 8022, "{type: http, interval: 500ms}", "status 503"),
        down("http-slow", 8001, "{type: http, path: /slow, interval: 600ms}", "no answer within"),
        down("http-closing", 8001, "{type: http, path: /cut, interval: 500ms}", "no HTTP answer"),
        down("http-rejecting", 8023, "{type: http, interval: 500ms}", ""),
        down("http-dropping", 8024, "{type: http, interval: 500ms}", "no answer within"),
        down("http-tarpit", 8025, "{type: http, interval: 500ms}", "no answer within"),
        down("http-resetting", 8027, "{type: http, interval: 500ms}", "no HTTP answer"),
        down("http-asks-tls", 8002, "{type: http, interval: 500ms}", "status 400"),
        down("http-asks-grpc", 8040, "{type: http, interval: 500ms}", "no HTTP answer"),
    ]
}

#[rustfmt::skip]
fn encrypted() -> Vec<Row> {
    vec![
        up("tls-nginx", 8002, "{type: tls, ca: DIR/ca.pem, server_name: lb.test, interval: 500ms}"),
        up("tls-haproxy", 8021, "{type: tls, ca: DIR/ca.pem, server_name: lb.test, interval: 500ms}"),
        up("tls-unverified", 8002, "{type: tls, verify: false, interval: 500ms}"),
        down("tls-other-name", 8002, "{type: tls, ca: DIR/ca.pem, server_name: other.test, interval: 500ms}", "TLS failed"),
        down("tls-stranger", 8002, "{type: tls, ca: DIR/stranger.pem, server_name: lb.test, interval: 500ms}", "TLS failed"),
        down("tls-asks-plain", 8001, "{type: tls, verify: false, interval: 500ms}", "TLS failed"),
        down("tls-resetting", 8027, "{type: tls, verify: false, interval: 500ms}", "TLS failed"),
        down("tls-rejecting", 8023, "{type: tls, verify: false, interval: 500ms}", ""),
        up("https-nginx", 8002, "{type: https, ca: DIR/ca.pem, server_name: lb.test, body: in private, interval: 500ms}"),
        up("https-haproxy", 8021, "{type: https, ca: DIR/ca.pem, server_name: lb.test, body: all is well, interval: 500ms}"),
        up("https-client", 8003, "{type: https, ca: DIR/ca.pem, server_name: lb.test, cert: DIR/client.pem, key: DIR/client.key, interval: 500ms}"),
        down("https-lying-body", 8002, "{type: https, verify: false, body: all is well, interval: 500ms}", "does not hold"),
        down("https-slow", 8002, "{type: https, verify: false, path: /slow, interval: 600ms}", "no answer within"),
        down("https-closing", 8002, "{type: https, verify: false, path: /cut, interval: 500ms}", "no HTTP answer"),
        down("https-resetting", 8027, "{type: https, verify: false, interval: 500ms}", "TLS failed"),
        down("half-open-https", 8010, "{type: https, verify: false, interval: 500ms, timeout: 500ms}", "no answer within"),
        down("https-no-client", 8003, "{type: https, ca: DIR/ca.pem, server_name: lb.test, interval: 500ms}", "status 400"),
    ]
}

#[rustfmt::skip]
fn others() -> Vec<Row> {
    vec![
        up("grpc-server", 8040, "{type: grpc, interval: 600ms}"),
        up("grpc-service", 8040, "{type: grpc, service: good, interval: 600ms}"),
        down("grpc-not-serving", 8040, "{type: grpc, service: bad, interval: 600ms}", "not serving"),
        down("grpc-unknown", 8040, "{type: grpc, service: nobody, interval: 600ms}", "status 5"),
        down("grpc-slow", 8040, "{type: grpc, service: slow, interval: 600ms}", "no answer within"),
        down("grpc-lying", 8040, "{type: grpc, service: lie, interval: 600ms}", "gRPC: "),
        down("grpc-resetting", 8027, "{type: grpc, interval: 600ms}", "gRPC: "),
        down("grpc-rejecting", 8023, "{type: grpc, interval: 600ms}", ""),
        down("grpc-asks-web", 8001, "{type: grpc, interval: 600ms}", "gRPC: "),
        down("grpc-asks-http2", 8026, "{type: grpc, interval: 600ms}", "gRPC: "),
        // A DNS question for web.test A, and the bytes of 10.1.2.3 in the answer.
        up("udp-dns", 5300, "{type: udp, send: 'hex:1234010000010000000000000377656204746573740000010001', expect: 'hex:0a010203', interval: 500ms}"),
        down("udp-dns-lying", 5300, "{type: udp, send: 'hex:1234010000010000000000000377656204746573740000010001', expect: 'hex:0a010204', interval: 500ms}", "without what was expected"),
        down("udp-dns-refused", 5300, "{type: udp, send: 'hex:12340100000100000000000003776562056f746865720000010001', expect: 'hex:0a010203', interval: 500ms}", "without what was expected"),
        // Knot doesn't answer what is no question.
        down("udp-dns-silent", 5300, "{type: udp, send: nonsense, interval: 500ms}", "no answer within"),
        // A stopped Knot: its kernel takes questions, and nobody answers.
        down("half-open-udp", 5302, "{type: udp, send: 'hex:1234010000010000000000000377656204746573740000010001', interval: 500ms}", "no answer within"),
        down("udp-closed", 5301, "{type: udp, send: hello, interval: 500ms}", "refused"),
        up("icmp-host", 1, "{type: icmp, interval: 500ms, timeout: 500ms}"),
        Row { address: "10.77.0.200", ..down("icmp-nobody", 1, "{type: icmp, interval: 500ms, timeout: 500ms}", "") },
        Row { address: "10.77.0.12", ..down("icmp-ignoring", 1, "{type: icmp, interval: 500ms, timeout: 500ms}", "no answer within") },
        Row { address: "10.77.0.13", ..down("icmp-lying", 1, "{type: icmp, interval: 500ms, timeout: 500ms}", "no answer within") },
        up("exec-passing", 8001, "{type: exec, command: [/bin/sh, -c, 'test $MESH_ADDRESS:$MESH_PORT = 10.77.0.11:8001'], interval: 500ms}"),
        down("exec-failing", 8001, "{type: exec, command: [/bin/sh, -c, 'echo no disk >&2; exit 3'], interval: 500ms}", "ended with status 3: no disk"),
        down("exec-hanging", 8001, "{type: exec, command: [/bin/sleep, '100'], interval: 500ms, timeout: 300ms}", "no answer within"),
        down("exec-missing", 8001, "{type: exec, command: [/nowhere/to/be/found], interval: 500ms}", "can't be started"),
        up("all-good", 8001, "{all: [tcp, http, {type: grpc, port: 8040}, icmp], interval: 600ms}"),
        down("all-but-one", 8001, "{all: [tcp, http, {type: grpc, service: bad, port: 8040}], interval: 600ms}", "grpc bad: gRPC: not serving"),
        up("any-one", 8001, "{any: [{type: http, path: /broken}, {type: tcp, port: 9}, icmp], interval: 600ms}"),
        down("any-none", 8001, "{any: [{type: http, path: /broken}, {type: tcp, port: 9}], interval: 600ms}", ": "),
    ]
}

/// Those that a host behind a slow line answers, each after its time: `error` is what is said then.
#[rustfmt::skip]
pub fn late() -> Vec<Row> {
    vec![
        down("late-tcp", 8001, "{type: tcp, interval: 1s, timeout: 300ms}", "no answer within"),
        down("late-tls", 8002, "{type: tls, ca: DIR/ca.pem, server_name: lb.test, interval: 1s, timeout: 300ms}", "no answer within"),
        down("late-udp", 5300, "{type: udp, send: 'hex:1234010000010000000000000377656204746573740000010001', expect: 'hex:0a010203', interval: 1s, timeout: 300ms}", "no answer within"),
        down("late-icmp", 1, "{type: icmp, interval: 1s, timeout: 300ms}", "no answer within"),
    ]
}
