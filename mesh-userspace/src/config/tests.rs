use super::*;

const FIVE_LINES: &str = "\
interfaces: [eth0]
services:
  - name: web
    vip: 192.0.2.10:80
    backends: [10.0.0.1:8080, 10.0.0.2:8080]
";

fn yaml(text: &str) -> Result<Loaded, ConfigError> {
    parse(text, Syntax::Yaml, Path::new("lb.yaml"))
}

#[test]
fn five_lines_will_do() {
    let Loaded { config, warnings } = yaml(FIVE_LINES).unwrap();
    assert!(warnings.is_empty());
    let web = config.services.values().next().unwrap();
    assert_eq!(web.vip.to_string(), "192.0.2.10:80/tcp");
    assert_eq!(web.backends.len(), 2);
    assert_eq!(web.check, Some(Check::default()));
    assert_eq!(config.api.socket, Path::new("/run/mesh/default.sock"));
}
