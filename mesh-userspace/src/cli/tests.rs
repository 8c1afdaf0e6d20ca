use clap::{CommandFactory, Parser, error::ErrorKind};
use serde_json::{Value, json};

use super::*;
use crate::api::tests::seam::Seam;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("mesh").chain(line.split_whitespace()))
}

/// Runs one query against `seam`; what it printed, or how it failed.
pub(super) async fn run(seam: &Seam, line: &str) -> Result<String, Failure> {
    let cli = parse(&format!("--socket {} {line}", seam.socket().display())).unwrap();
    let Command::Query(query) = &cli.command else { panic!("{line} is no query") };
    let mut out = Vec::new();
    execute(query, &cli.target, &mut out).await?;
    Ok(String::from_utf8(out).unwrap())
}

async fn json(seam: &Seam, line: &str) -> Value {
    serde_json::from_str(&run(seam, &format!("{line} -o json")).await.unwrap()).unwrap()
}

#[test]
fn the_grammar_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn what_can_be_said() {
    for line in [
        "run --config mesh.yaml",
        "run -c mesh.toml",
        "check mesh.yaml",
        "detach",
        "detach --config mesh.yaml",
        "--instance edge detach --bpffs /bpf",
        "status",
        "status -o json",
        "-o yaml status",
        "--socket /run/x.sock service ls -o wide",
        "service list",
        "service show shop/web",
        "service add web --vip 192.0.2.1:80",
        "service add web --vip [2001:db8::1]:80 --protocol udp --mode dsr --announce eth0 -b 10.0.0.1=3 -b 10.0.0.2",
        "service add web --vip 192.0.2.1:80 --check http --check-path /healthz --check-interval 250ms --rise 1 --fall 2",
        "service rm web",
        "backend ls",
        "backend ls web",
        "backend add web 10.0.0.1:80 --weight 5 --name b1",
        "backend rm web b1",
        "backend show web b1",
        "backend drain web [2001:db8::1]:80",
        "backend drain web b1 b2 --deadline 10m --then remove --wait",
        "backend drains",
        "backend drains web -o json",
        "backend undrain web 10.0.0.1:80 -o json",
        "backend weight web b1 0",
        "events",
        "events -f --since 7",
        "reload",
        "plan add web 10.0.0.3 --weight 2 --capacity 100",
        "plan drain web b1 --max-move 2%",
        "plan --max-move 0.02 rm web b1",
        "plan weight web 10.0.0.1:80 7 -o json",
        "plan undrain web b1",
        "plan apply mesh.yaml",
    ] {
        if let Err(e) = parse(line) {
            panic!("mesh {line}: {e}");
        }
    }
}

#[test]
fn what_cannot_be_said() {
    for (line, kind) in [
        ("run", ErrorKind::MissingRequiredArgument),
        ("check", ErrorKind::MissingRequiredArgument),
        ("frobnicate", ErrorKind::InvalidSubcommand),
        ("status -o xml", ErrorKind::InvalidValue),
        ("--instance a/b status", ErrorKind::ValueValidation),
        ("service show a!b", ErrorKind::ValueValidation),
        ("service add web", ErrorKind::MissingRequiredArgument),
        ("service add web --vip 192.0.2.1:80 --mode warp", ErrorKind::ValueValidation),
        ("service add web --vip 192.0.2.1:80 --check-path /x", ErrorKind::MissingRequiredArgument),
        ("backend weight web b1 65536", ErrorKind::ValueValidation),
        ("backend weight web b1 -1", ErrorKind::UnknownArgument),
        ("backend drain web", ErrorKind::MissingRequiredArgument),
        ("backend drain web b1 --then vanish", ErrorKind::InvalidValue),
        ("backend drain web b1 --deadline soon", ErrorKind::ValueValidation),
        ("plan", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("plan drain web b1 --max-move much", ErrorKind::ValueValidation),
        ("detach --config x --bpffs /y", ErrorKind::ArgumentConflict),
    ] {
        let error = parse(line).map(|_| ()).expect_err(line);
        assert_eq!(error.kind(), kind, "{line}: {error}");
        assert_eq!(error.exit_code(), i32::from(Failure::USAGE), "{line}");
    }
}

#[test]
fn the_socket_follows_the_instance() {
    let socket = |line: &str| parse(line).unwrap().target.socket();
    assert_eq!(socket("--instance edge status").to_str(), Some("/run/mesh/edge.sock"));
    assert_eq!(socket("--instance edge --socket /x.sock status").to_str(), Some("/x.sock"));
}

#[tokio::test]
async fn tables_show_what_people_look_for() {
    let seam = Seam::start().await;
    let backends = run(&seam, "backend ls web").await.unwrap();
    assert_eq!(
        backends,
        "SERVICE  BACKEND        NAME  STATE   HEALTH  WEIGHT  SHARE  FLOWS  LIVE    RTT\n\
         web      10.0.0.1:8080  b1    active  up           3  50.0%     25     2  1.5ms\n\
         web      10.0.0.2:8080  -     down    down         3  50.0%     25     2      -\n"
    );
    let sources = run(&seam, "source ls").await.unwrap();
    let (head, row) = sources.split_once('\n').unwrap();
    assert_eq!(head.split_whitespace().collect::<Vec<_>>(), ["SERVICE", "SOURCE", "STATE", "BACKENDS", "AGE", "ERROR"]);
    assert!(row.starts_with("web      dns web.test  stale         2  ") && row.contains("Connection refused"), "{sources}");
    let services = run(&seam, "service ls").await.unwrap();
    assert_eq!(
        services,
        "NAME      VIP                MODE  BACKENDS  FLOWS  PACKETS     BYTES\n\
         web       192.0.2.10:80/tcp  nat        1/2     50      900  87.9 KiB\n\
         shop/api  192.0.2.10:80/tcp  nat        1/2     50      900  87.9 KiB\n"
    );
    let status = run(&seam, "status").await.unwrap();
    for part in [
        "instance:          default (mesh 0.1.0, pid 4711, up ",
        "ready:             no, waiting for the first round of health checks\n",
        "interface:         eth0 xdp\n",
        "interface:         eth1 not attached (no such interface)\n",
        "backends:          2 active, 1 down\n",
        "stale source:      dns web.test of web, last heard ",
        "tables:            epoch 7, 2048 of 1048576 slots\n",
        "  forwarded:       900 packets, 87.9 KiB\n",
    ] {
        assert!(status.contains(part), "{part} in\n{status}");
    }
    assert!(!status.contains("fragment") && run(&seam, "status -o wide").await.unwrap().contains("fragment"));
    let backend = run(&seam, "backend show web b1").await.unwrap();
    for part in ["2.50 of 3\n", "x 0.83: it gets less\n", "1.5ms, without load 1.0ms\n", "stay 20.0ms, without load 12.5ms\n", "eu-1a\n"] {
        assert!(backend.contains(part), "{part} in {backend}");
    }
    let show = run(&seam, "service show web").await.unwrap();
    assert!(show.starts_with("web 192.0.2.10:80/tcp by nat, from config\n") && show.ends_with(&backends), "{show}");
    let wide = run(&seam, "backend ls web -o wide").await.unwrap();
    assert!(wide.contains("eth0 02:00:00:00:00:01") && wide.contains("connecting failed"), "{wide}");
    assert!(run(&seam, "service ls -o wide").await.unwrap().contains("http /healthz every 1s"));
    let events = run(&seam, "events --since 2").await.unwrap();
    assert_eq!(events, "2025-12-31T23:59:59.001Z     3 web: backend 10.0.0.1:8080 has weight 7\n");
}

#[tokio::test]
async fn data_is_what_the_api_says() {
    let seam = Seam::start().await;
    let status = json(&seam, "status").await;
    assert_eq!((&status["ready"], &status["epoch"], &status["reasons"]["forwarded"]["packets"]), (&json!(false), &json!(7), &json!(900)));
    assert_eq!(json(&seam, "service show web").await["forwarded"]["packets"], 900);
    assert_eq!(json(&seam, "backend ls web").await[0]["id"], "10.0.0.1:8080");
    assert_eq!(json(&seam, "backend ls").await.as_array().map(Vec::len), Some(3));
    assert_eq!(json(&seam, "events").await[2]["seq"], 3);
    assert_eq!(json(&seam, "backend drain web b1").await["state"], "draining");
    assert_eq!(json(&seam, "backend rm web b1").await["done"], "web: backend b1 removed");

    let yaml = run(&seam, "backend ls web -o yaml").await.unwrap();
    let read: Value = serde_saphyr::from_str(&yaml).unwrap_or_else(|e| panic!("{e}: {yaml}"));
    assert_eq!(read, json(&seam, "backend ls web").await);
    let yaml = run(&seam, "status -o yaml").await.unwrap();
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), json(&seam, "status").await);
}

#[tokio::test]
async fn changes_say_what_they_did() {
    let seam = Seam::start().await;
    for (line, said) in [
        ("backend drain web b1", "web: backend b1 (10.0.0.1:8080) drains: new flows go elsewhere, old ones stay (draining)\n"),
        ("backend undrain web 10.0.0.1:8080", "web: backend b1 (10.0.0.1:8080) takes part again (active)\n"),
        ("backend weight web 10.0.0.1 7", "web: backend b1 (10.0.0.1:8080) has weight 7 (active)\n"),
        ("backend add web 10.0.0.3:80 -n b3 -w 2", "web: backend b3 (10.0.0.3:80) added (active)\n"),
        ("backend rm web b3", "web: backend b3 removed\n"),
        ("service add new --vip 192.0.2.10:80", "service new added: 192.0.2.10:80/tcp by nat\n"),
        ("service rm new", "service new removed\n"),
    ] {
        assert_eq!(run(&seam, line).await.as_deref(), Ok(said), "{line}");
    }
}

#[tokio::test]
async fn exit_codes_and_remedies() {
    let mut seam = Seam::start().await;
    for (line, code, said) in [
        ("service show nope", Failure::NOT_FOUND, "no service `nope`"),
        ("backend drain web b9", Failure::NOT_FOUND, "there are b1, 10.0.0.2:8080"),
        ("backend add web 10.0.0.1:8080", Failure::CONFLICT, "already"),
        ("backend add web nonsense", Failure::CONFLICT, "`nonsense` is no address"),
        ("service add web --vip 192.0.2.1:80", Failure::CONFLICT, "already"),
        ("service add x --vip 192.0.2.1:80 -b 10.0.0.1=much", Failure::USAGE, "`much` is no weight"),
        ("service add x --vip 192.0.2.1:80 --check ping", Failure::USAGE, "ping"),
        ("reload", Failure::CONFLICT, "mesh.yaml:1:1"),
    ] {
        let failure = run(&seam, line).await.expect_err(line);
        assert_eq!(failure.code, code, "{line}: {failure}");
        assert!(failure.message.contains(said), "{line}: {failure}");
    }
    seam.stop().await;
    let gone = run(&seam, "status").await.unwrap_err();
    assert_eq!(gone.code, Failure::UNREACHABLE);
    assert!(gone.remedy.contains("mesh run --config FILE"), "{gone}");

    let left_over = std::os::unix::net::UnixListener::bind(seam.socket()).unwrap();
    drop(left_over);
    let dead = run(&seam, "status").await.unwrap_err();
    assert_eq!(dead.code, Failure::UNREACHABLE);
    assert!(dead.remedy.starts_with("it has stopped"), "{dead}");
}

#[tokio::test]
async fn another_daemons_socket_is_named_as_the_remedy() {
    let seam = Seam::start().await;
    let wrong = seam.socket().with_file_name("wrong.sock");
    let cli = parse(&format!("--socket {} status", wrong.display())).unwrap();
    let Command::Query(query) = &cli.command else { panic!("no query") };
    let failure = execute(query, &cli.target, &mut Vec::new()).await.unwrap_err();
    assert_eq!(failure.code, Failure::UNREACHABLE);
    assert!(failure.remedy.contains(&seam.socket().display().to_string()), "{failure}");
}

/// What the command line describes is read like the configuration file.
#[test]
fn a_service_from_the_command_line() {
    let line = "service add shop/web --vip [2001:db8::1]:80 --announce eth0 -b [2001:db8::2]:8080=3 -b 2001:db8::3 \
                --check http --check-path /healthz --check-status 200-299 --check-interval 250ms --check-port 9000 --fall 5";
    let Command::Query(Query::Service(ServiceCommand::Add(add))) = parse(line).unwrap().command else { panic!("{line}") };
    assert_eq!(
        serde_json::to_value(add.spec().unwrap()).unwrap(),
        json!({
            "name": "shop/web", "vip": "[2001:db8::1]:80", "protocol": "tcp", "mode": "nat", "announce": { "address": "eth0" },
            "health": { "type": "http", "port": 9000, "interval": "250ms", "fall": 5, "path": "/healthz", "status": "200-299" },
            "backends": [{ "address": "[2001:db8::2]:8080", "weight": 3 }, { "address": "2001:db8::3" }],
        })
    );
}

#[test]
fn who_may_use_a_service_from_the_command_line() {
    let line = "service add web --vip 192.0.2.1:80 --allow 10.0.0.0/8 --allow 192.0.2.7 --deny 10.1.0.0/16 --drop-spoofed --source-rate 50/s \
                --rate 5000/s --when-empty fail_static -b 10.0.0.1";
    let Command::Query(Query::Service(ServiceCommand::Add(add))) = parse(line).unwrap().command else { panic!("{line}") };
    let spec = serde_json::to_value(add.spec().unwrap()).unwrap();
    let protect = json!({
        "allow": ["10.0.0.0/8", "192.0.2.7"], "deny": ["10.1.0.0/16"], "spoofed": true, "source_rate": "50/s", "rate": "5000/s",
    });
    assert_eq!((&spec["protect"], &spec["when_empty"]), (&protect, &json!("fail_static")));
    assert!(parse("service add web --vip 192.0.2.1:80 --when-empty never").is_err());
}

#[tokio::test]
async fn a_plan_is_shown_and_may_be_too_much() {
    let seam = Seam::start().await;
    let shown = run(&seam, "plan drain web b1").await.unwrap();
    assert_eq!(
        shown,
        "web: 512 of 1024 slots move (50.00 %), 512 have another secondary; of 5 open flows 5 stay and 0 are lost\n  \
         10.0.0.2:8080 would have more flows than its capacity\n  \
         BACKEND        BEFORE                AFTER                            SHARE     THEN  LIVE\n  \
         10.0.0.1:8080  in service, weight 3  drained by the operator, weight 3  50.00%    0.00%     2\n  \
         10.0.0.2:8080  in service, weight 3  in service, weight 3               50.00%  100.00%     3\n\
         assumed: web: as it is\n"
            .replace("AFTER                            SHARE", "AFTER                               SHARE")
    );
    assert_eq!(run(&seam, "plan drain web b1 --max-move 50%").await.as_deref(), Ok(&*shown));
    let failure = run(&seam, "plan drain web b1 --max-move 2%").await.unwrap_err();
    assert_eq!(failure.code, Failure::CONFLICT);
    assert!(failure.message.contains("50.00 %") && failure.message.contains("web"), "{failure}");
    assert_eq!(run(&seam, "plan rm web b9").await.unwrap_err().code, Failure::NOT_FOUND);
    assert_eq!(run(&seam, "plan apply /nowhere.yaml").await.unwrap_err().code, Failure::USAGE);

    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    let apply = run(&seam, &format!("plan apply {}", file.path().display())).await;
    assert_eq!(apply.as_deref(), Ok("nothing would change\n"));
    schema::check("plan", &json(&seam, "plan drain web b1").await);
    schema::check("plan", &json(&seam, &format!("plan apply {}", file.path().display())).await);
}

#[tokio::test]
async fn a_drain_is_waited_for_and_listed() {
    let seam = Seam::start().await;
    let said = run(&seam, "backend drain web b1 10.0.0.2:8080 --wait").await.unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[2], "web: backend 10.0.0.1:8080 is drained after 2.5s: the last flow has ended");
    assert_eq!(lines.len(), 4);
    let list = run(&seam, "backend drains web").await.unwrap();
    assert!(list.contains("ended: the last flow has ended      0         2      0    0.8"), "{list}");
    assert!(run(&seam, "backend drains shop/api").await.unwrap().lines().count() == 1);
    schema::check("drain", &json(&seam, "backend drains").await);
    let lines = run(&seam, "backend drain web b1 --wait -o json").await.unwrap();
    let line: Value = serde_json::from_str(lines.trim()).unwrap();
    schema::check("drain", &Value::Array(vec![line]));
}

#[tokio::test]
async fn slots_on_their_way_are_listed_and_the_ledger_is_told_of() {
    let seam = Seam::start().await;
    let expected = "SERVICE  FROM           TO             STAGE    SLOTS  LONGEST\n\
                    web      10.0.0.1:8080  10.0.0.1:8080  prepare      1   12.3 s\n\
                    web      10.0.0.1:8080  10.0.0.2:8080  divert      40   12.3 s\n\
                    web      10.0.0.1:8080  -              learn        2   12.3 s\n";
    assert_eq!(run(&seam, "ledger ls").await.as_deref(), Ok(expected));
    let stats = run(&seam, "ledger stats").await.unwrap();
    for line in ["on their way:      3 slots\n", "came to rest:      4 slots, in 12.5 s on average, 0.0 s at most\n"] {
        assert!(stats.contains(line), "{stats}");
    }
    schema::check("ledger-ls", &json(&seam, "ledger ls").await);
    schema::check("ledger-stats", &json(&seam, "ledger stats").await);
}

#[tokio::test]
async fn a_packet_is_explained_decision_by_decision() {
    let seam = Seam::start().await;
    let said = run(&seam, "explain 198.51.100.7:40000 192.0.2.10:80/tcp").await.unwrap();
    let expected = [
        "packet     198.51.100.7:40000 -> 192.0.2.10:80/tcp [syn]",
        "service    web",
        "mode       nat",
        "hash       00000000deadbeef of source",
        "slot       7 of 1024",
        "target     10.0.0.1:8080 (draining)",
        "secondary  10.0.0.2:8080 (active)",
        "entry      none yet: the packet would open the flow",
        "chosen by  the scheduler",
        "backend    10.0.0.2:8080 (active)",
        "next hop   02:00:00:00:00:02 from 02:00:00:00:00:01 by the interface that it came in by",
        "rewrite    10.0.0.9:1024 -> 10.0.0.2:8080",
        "verdict    forward (forwarded)",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    schema::check("explain", &json(&seam, "explain 198.51.100.7:40000 192.0.2.10:80 --flags ack,psh").await);
    schema::check("explain", &json(&seam, "explain [2001:db8::7]:5353 [2001:db8::1]:53/udp").await);
}
