//! The chart: Helm lints and renders it, the API's own schemas know what it renders, and the plain manifests are just that.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::deploy::DAEMONSET;
use serde_json::{Map, Value, json};

/// The oldest that the chart takes, and the newest that the schemas know.
const VERSIONS: [&str; 3] = ["1.25", "1.31", "1.37"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs `helm.py`; what it printed, or what it said was wrong.
fn helm(args: &[&str], input: &str) -> Result<String> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let python = env::var_os("MESH_PYTHON").map_or_else(|| target.join("python/bin/python"), PathBuf::from);
    let mut command = Command::new(&python);
    command.arg(root().join("tests/src/helm.py")).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let missing = || format!("failed to start {}: `cargo xtask setup --for image` makes it", python.display());
    let mut child = command.spawn().with_context(missing)?;
    child.stdin.take().context("no pipe")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

fn chart() -> String {
    root().join("deploy/chart").display().to_string()
}

/// The rendered manifests as YAML documents.
fn render(values: &Value) -> Result<Vec<Value>> {
    let files: Map<String, Value> = serde_json::from_str(&helm(&["template", &chart(), "mesh", "mesh-system"], &values.to_string())?)?;
    let yaml = files.iter().filter(|(name, _)| name.ends_with(".yaml")).filter_map(|(_, text)| text.as_str());
    documents(&yaml.collect::<Vec<_>>().join("\n---\n"))
}

fn documents(yaml: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).context("no YAML")?;
    let mut all: Vec<Value> = all.into_iter().filter(|document| !document.is_null()).collect();
    all.sort_by_key(|document| document["kind"].as_str().unwrap_or_default().to_owned());
    Ok(all)
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Result<&'a Value> {
    documents.iter().find(|d| d["kind"] == kind).with_context(|| format!("no {kind}"))
}

/// Values that change what is rendered.
fn variants() -> Vec<Value> {
    vec![
        json!({}),
        json!({ "createNamespace": true }),
        json!({ "rbac": { "create": false }, "metrics": { "port": 9200, "annotations": false } }),
        json!({
            "image": { "repository": "registry.example.org/mesh", "tag": "1.2.3" }, "imagePullSecrets": [{ "name": "pull" }], "maxUnavailable": "10%",
            "affinity": { "nodeAffinity": {} }, "podLabels": { "team": "net" }, "podAnnotations": { "a/b": "c" }, "tolerations": []
        }),
    ]
}

#[test]
fn helm_lints_the_chart_without_a_warning() -> Result<()> {
    for values in variants() {
        let report: Value = serde_json::from_str(&helm(&["lint", &chart()], &values.to_string())?)?;
        // Severity 1 is advice: that there should be an icon.
        let told: Vec<_> = report["messages"].as_array().into_iter().flatten().filter(|m| m["severity"].as_u64() != Some(1)).collect();
        ensure!(told.is_empty() && report["errors"] == json!([]), "{values}: {report}");
        ensure!(report["total_charts_linted"] == 1, "{report}");
    }
    Ok(())
}

#[test]
fn the_apis_schemas_know_all_that_is_rendered() -> Result<()> {
    for values in variants() {
        let yaml = render(&values)?.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?.join("\n---\n");
        let report: Value = serde_json::from_str(&helm(&[&["validate"], &VERSIONS[..]].concat(), &yaml)?)?;
        ensure!(report["manifests"].as_u64() >= Some(3), "{report}");
        let broken = yaml.replace("hostNetwork", "hostNetwurk");
        ensure!(helm(&["validate", VERSIONS[2]], &broken).is_err(), "a misspelt field is found");
    }
    Ok(())
}

#[test]
fn the_plain_manifests_are_what_the_chart_renders() -> Result<()> {
    let (plain, rendered) = (documents(DAEMONSET)?, render(&json!({ "createNamespace": true }))?);
    for (plain, rendered) in plain.iter().zip(&rendered) {
        ensure!(plain == rendered, "run `cargo xtask generate`:\n{plain}\nis not\n{rendered}");
    }
    ensure!(plain.len() == rendered.len(), "run `cargo xtask generate`");
    Ok(())
}

#[test]
fn values_that_mean_nothing_are_refused_by_name() -> Result<()> {
    let rows = [
        (json!({ "imagge": {} }), "imagge"),
        (json!({ "image": { "repository": "mesh", "tag": 3 } }), "tag"),
        (json!({ "metrics": { "port": 80 } }), "port"),
        (json!({ "maxUnavailable": 0 }), "maxUnavailable"),
    ];
    for (values, word) in rows {
        let Err(refused) = render(&values) else { anyhow::bail!("{values} is taken") };
        ensure!(refused.to_string().contains(word), "{values}: {refused}");
    }
    Ok(())
}

#[test]
fn a_pod_may_read_what_it_needs_and_write_status_alone() -> Result<()> {
    let documents = render(&json!({}))?;
    for rule in of_kind(&documents, "ClusterRole")?["rules"].as_array().context("no rules")? {
        let words = |key: &str| rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
        let status = words("resources").iter().all(|resource| resource.ends_with("/status"));
        let verbs: &[&str] = if status { &["patch"] } else { &["get", "list", "watch"] };
        ensure!(words("verbs") == verbs && !words("resources").contains(&"*") && !words("apiGroups").contains(&"*"), "{rule}");
    }
    let pod = |documents: &[Value]| Ok::<_, anyhow::Error>(of_kind(documents, "DaemonSet")?["spec"]["template"]["spec"].clone());
    ensure!(pod(&documents)?["automountServiceAccountToken"] == true);
    let without = render(&json!({ "rbac": { "create": false } }))?;
    ensure!(of_kind(&without, "ClusterRole").is_err() && pod(&without)?["automountServiceAccountToken"] == false);
    Ok(())
}

#[test]
fn nodes_are_updated_one_at_a_time_and_none_is_left_out() -> Result<()> {
    let documents = render(&json!({}))?;
    let set = &of_kind(&documents, "DaemonSet")?["spec"];
    ensure!(set["updateStrategy"] == json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1 } }), "{set}");
    let pod = &set["template"]["spec"];
    ensure!(pod["priorityClassName"] == "system-node-critical" && pod["tolerations"] == json!([{ "operator": "Exists" }]), "{pod}");
    ensure!(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] == true);
    Ok(())
}
