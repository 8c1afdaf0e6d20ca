//! The real Prometheus watches the real daemon: what it scrapes, what its rules make of that, and what the dashboard asks it.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{
    daemon::{Daemon, Process},
    netns::Namespace,
    peer::{self, Load},
    stage::Stage,
};
use serde_json::Value;

const BACKENDS: [(&str, u8); 2] = [("b1", 11), ("b2", 12)];
const METRICS: &str = "127.0.0.1:9108";
const PROMETHEUS: &str = "127.0.0.1:9090";
const PATIENCE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(90);

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn promtool(args: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(deploy("prometheus")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("failed to start promtool: `cargo xtask setup --with-peers` installs it")?;
    child.stdin.take().context("no pipe")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "promtool {args:?}: {}\n{said}", output.status);
    Ok(said)
}

fn get(ns: &Namespace, at: &str, path: &str) -> Result<String> {
    let to: SocketAddr = at.parse()?;
    ns.enter(|| peer::get(to, path, PATIENCE))?.with_context(|| format!("GET {path} from {at}"))
}

/// Unreserved characters stay (RFC 3986 section 2.3).
fn encoded(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The series that Prometheus answers a query with.
fn series(ns: &Namespace, query: &str) -> Result<Vec<Value>> {
    let answer = get(ns, PROMETHEUS, &format!("/api/v1/query?query={}", encoded(query))).with_context(|| format!("the query {query}"))?;
    // A long answer comes in chunks; the JSON is what is between the first brace and the last.
    let json = answer.find('{').zip(answer.rfind('}')).map(|(from, to)| &answer[from..=to]).context("no JSON")?;
    let value: Value = serde_json::from_str(&unchunked(json))?;
    ensure!(value["status"] == "success", "{query}: {value}");
    Ok(value["data"]["result"].as_array().cloned().unwrap_or_default())
}

/// Takes out the lengths of chunks, which stand in lines of their own.
fn unchunked(text: &str) -> String {
    let length = |line: &str| !line.is_empty() && line.bytes().all(|b| b.is_ascii_hexdigit());
    text.split("\r\n").filter(|line| !length(line)).collect()
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        match holds() {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() > end => bail!("not within {LIMIT:?}: {what}"),
            Err(error) if Instant::now() > end => return Err(error.context(format!("not within {LIMIT:?}: {what}"))),
            _ => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// A service with a backend that doesn't live, and one whose source can't be had.
fn config(stage: &Stage) -> Result<String> {
    let mut backends = String::from("{name: dead, address: \"10.77.0.99:8080\"}, ");
    for (name, _) in BACKENDS {
        backends += &format!("{{name: {name}, address: \"{}\"}}, ", stage.address(name, false)?);
    }
    Ok(format!(
        "interfaces: [{{name: eth0, hook: xdp}}]\nmetrics: {{listen: \"{METRICS}\"}}\nlog: {{format: json}}\nservices:\n  - {{name: web, vip: \
         \"10.77.0.100:80\", announce: {{address: eth0}}, health: {{type: http, interval: 200ms}}, backends: [{backends}], sources: [{{type: http, url: \
         \"http://127.0.0.1:1/list.json\", interval: 1s}}]}}\n"
    ))
}

/// Prometheus in the balancer's namespace, with the rules as they are shipped.
fn prometheus(ns: &Namespace, directory: &Path) -> Result<Process> {
    let rules = fs::canonicalize(deploy("prometheus/rules.yml"))?;
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [\"{}\"]\nscrape_configs:\n  - job_name: mesh\n    static_configs: \
         [{{targets: [\"{METRICS}\"]}}]\n",
        rules.display()
    );
    let path = directory.join("prometheus.yml");
    fs::write(&path, config)?;
    let mut command = ns.command("prometheus");
    command.arg(format!("--config.file={}", path.display())).arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
    command.arg(format!("--web.listen-address={PROMETHEUS}")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Process::spawn(&mut command)
}

#[test]
fn prometheus_scrapes_and_every_query_of_the_dashboard_has_an_answer() -> Result<()> {
    let mut stage = Stage::build("mesh-prom", &BACKENDS)?;
    BACKENDS.iter().try_for_each(|(name, _)| stage.serve(name))?;
    let daemon = Daemon::start(&stage.balancer.ns, &config(&stage)?)?;
    let ns = &stage.balancer.ns;
    let directory = tempfile::Builder::new().prefix("mesh-prometheus-").tempdir()?;
    let _prometheus = prometheus(ns, directory.path())?;
    let load = Load::start(&stage.client.ns, "10.77.0.100:80".parse()?, 1, Duration::from_millis(20), PATIENCE)?;

    promtool(&["check", "metrics"], &get(ns, METRICS, "/metrics")?)?;
    until("two scrapes with traffic", || Ok(!series(ns, "rate(mesh_service_flows_total[10s]) > 0")?.is_empty()))?;
    ensure!(series(ns, "up{job=\"mesh\"} == 1")?.len() == 1, "the daemon is scraped");
    for (query, wanted) in [("mesh_backend_up == 0", 1), ("mesh_backend_up == 1", 2), ("mesh_source_live == 0", 1)] {
        until(query, || Ok(series(ns, query)?.len() == wanted))?;
    }
    recording_rules(ns)?;
    dashboard(ns)?;
    drop(load);
    json_log(&daemon.log())
}

/// Every recording rule yields something, and no rule fails.
fn recording_rules(ns: &Namespace) -> Result<()> {
    let records = [
        "service_packets:rate1m",
        "service_flows:rate1m",
        "backend_flows:rate1m",
        "drops:ratio1m",
        "map_fill:ratio",
        "service_taking:ratio",
    ];
    for record in records {
        until(record, || Ok(!series(ns, &format!("mesh:{record}"))?.is_empty()))?;
    }
    ensure!(series(ns, "sum(prometheus_rule_evaluation_failures_total) > 0")?.is_empty(), "a rule fails");
    Ok(())
}

fn dashboard(ns: &Namespace) -> Result<()> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(deploy("grafana/mesh.json"))?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten().map(move |t| (&panel["title"], t)));
    let mut asked = 0;
    for (title, target) in targets {
        let expr = target["expr"].as_str().context("no expr")?;
        // What Grafana puts in for its variables.
        let query = expr.replace("$__rate_interval", "20s").replace("$service", ".*").replace("$node", ".*");
        ensure!(!query.contains('$'), "{title}: nobody knows what `{query}` asks");
        until(&format!("{title}: {query}"), || Ok(!series(ns, &query)?.is_empty()))?;
        asked += 1;
    }
    ensure!(asked > 30, "only {asked} queries were found");
    Ok(())
}

/// `log: {format: json}`: each line is an object.
fn json_log(log: &str) -> Result<()> {
    ensure!(log.lines().count() > 3, "{log}");
    for line in log.lines() {
        let value: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        ensure!(value["message"].is_string() && value["level"].is_string() && value["time_ms"].is_u64(), "{line}");
    }
    Ok(())
}

#[test]
fn rules_are_good_and_alerts_fire_where_they_should() -> Result<()> {
    ensure!(promtool(&["check", "rules", "rules.yml"], "")?.contains("SUCCESS"));
    ensure!(promtool(&["test", "rules", "rules_test.yml"], "")?.contains("SUCCESS"));
    Ok(())
}

/// Each alert is tested, and whatever a rule or the dashboard asks for is something that the daemon tells.
#[test]
fn no_alert_is_untested() -> Result<()> {
    let (rules, tests) = (fs::read_to_string(deploy("prometheus/rules.yml"))?, fs::read_to_string(deploy("prometheus/rules_test.yml"))?);
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    ensure!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        ensure!(tests.contains(&format!("alertname: {alert}\n")), "{alert} is not tested");
    }
    Ok(())
}
