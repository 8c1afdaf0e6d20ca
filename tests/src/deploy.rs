//! What `deploy/` says, read from the very files that operators use.

use anyhow::{Context, Result};
use serde::Deserialize;

pub const DAEMONSET: &str = include_str!("../../deploy/daemonset.yaml");
pub const UNIT: &str = include_str!("../../deploy/mesh.service");
pub const CONFIG: &str = include_str!("../../deploy/mesh.yaml");

/// The DaemonSet's one container.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    pub args: Vec<String>,
    pub security_context: SecurityContext,
    pub volume_mounts: Vec<VolumeMount>,
    pub liveness_probe: Probe,
    pub readiness_probe: Probe,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContext {
    pub privileged: bool,
    pub allow_privilege_escalation: bool,
    pub read_only_root_filesystem: bool,
    pub run_as_user: u32,
    pub run_as_group: u32,
    pub seccomp_profile: SeccompProfile,
    pub capabilities: Capabilities,
}

#[derive(Deserialize, Debug)]
pub struct SeccompProfile {
    #[serde(rename = "type")]
    pub kind: String,
}

/// Names without `CAP_`.
#[derive(Deserialize, Debug)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    pub name: String,
    pub mount_path: String,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    pub http_get: HttpGet,
}

#[derive(Deserialize, Debug)]
pub struct HttpGet {
    pub path: String,
}

/// The parts of a manifest that are looked at.
#[derive(Deserialize)]
struct Manifest {
    kind: String,
    spec: Option<Spec>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Spec {
    template: Template,
}

#[derive(Deserialize)]
struct Template {
    spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    host_network: bool,
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "mesh.yaml")]
    config: String,
}

fn manifests() -> Result<Vec<Manifest>> {
    serde_saphyr::from_multiple(DAEMONSET).context("deploy/daemonset.yaml is no list of manifests")
}

/// The container that the DaemonSet runs, on the node's network.
pub fn container() -> Result<Container> {
    let set = manifests()?.into_iter().find(|m| m.kind == "DaemonSet").and_then(|m| m.spec).context("no DaemonSet")?;
    let pod = set.template.spec;
    anyhow::ensure!(pod.host_network, "the pod must be on the node's network");
    pod.containers.into_iter().next().context("no container")
}

/// The configuration in the manifest's ConfigMap.
pub fn config_map() -> Result<String> {
    Ok(manifests()?.into_iter().find_map(|m| m.data).context("no ConfigMap with mesh.yaml")?.config)
}

/// Words of all lines `key=...` of the unit.
pub fn unit_words(key: &str) -> Vec<&'static str> {
    let values = UNIT.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use anyhow::ensure;
    use mesh::config::{self, placed::Syntax};

    use super::*;

    #[test]
    fn pod_and_unit_ask_for_the_same_capabilities() -> Result<()> {
        let security = container()?.security_context;
        let mut pod: Vec<String> = security.capabilities.add.iter().map(|c| format!("CAP_{c}")).collect();
        let mut unit = unit_words("CapabilityBoundingSet");
        pod.sort();
        unit.sort_unstable();
        ensure!(pod == unit, "{pod:?} against {unit:?}");
        ensure!(security.capabilities.drop == ["ALL"] && !security.privileged && !security.allow_privilege_escalation);
        ensure!(security.read_only_root_filesystem && security.seccomp_profile.kind == "Unconfined");
        Ok(())
    }

    #[test]
    fn every_configuration_is_valid_without_a_warning() -> Result<()> {
        for (name, text) in [("mesh.yaml", CONFIG.to_owned()), ("daemonset.yaml", config_map()?)] {
            let loaded = config::parse(&text, Syntax::Yaml, Path::new(name))?;
            ensure!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            ensure!(!loaded.config.services.is_empty(), "{name} has no service");
        }
        Ok(())
    }

    /// The text after `intro`, up to the end of its block.
    fn block<'a>(text: &'a str, intro: &str) -> Result<&'a str> {
        let after = text.split_once(intro).with_context(|| format!("README.md has no `{intro}`"))?.1;
        let inside = after.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```"));
        Ok(inside.with_context(|| format!("no block after `{intro}`"))?.0)
    }

    #[test]
    fn five_lines_in_the_readme_are_a_configuration() -> Result<()> {
        let text = block(include_str!("../../README.md"), "A configuration of five lines")?;
        ensure!(text.lines().count() == 5, "{text}");
        let loaded = config::parse(text, Syntax::Yaml, Path::new("mesh.yaml"))?;
        ensure!(loaded.warnings.is_empty() && loaded.config.services.len() == 1, "{:?}", loaded.warnings);
        ensure!(loaded.config.services.values().all(|s| s.backends.len() == 2));
        Ok(())
    }

    #[test]
    fn the_pods_configuration_fits_its_mounts_and_probes() -> Result<()> {
        let (container, text) = (container()?, config_map()?);
        let loaded = config::parse(&text, Syntax::Yaml, Path::new("mesh.yaml"))?.config;
        let mounted = |path: &Path| container.volume_mounts.iter().any(|m| path.starts_with(&m.mount_path) && !m.read_only);
        ensure!(mounted(&loaded.bpffs) && mounted(&loaded.state_dir) && mounted(&loaded.api.socket), "{:?}", container.volume_mounts);
        ensure!(loaded.metrics.is_some_and(|address| address.port() == 9108), "the probes ask port 9108");
        ensure!(
            (container.liveness_probe.http_get.path.as_str(), container.readiness_probe.http_get.path.as_str()) == ("/livez", "/readyz")
        );
        Ok(())
    }
}
