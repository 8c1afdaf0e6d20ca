//! TLS, client certificates, passwords and tokens: nginx asks for them, before a list of its own, etcd, and Consul's API.

use std::fs;

use anyhow::{Result, ensure};
use mesh_tests::{
    daemon::Process,
    registry::{Ground, etcd, web::Web},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;

use crate::follower::Follower;

/// Keys and certificates in files: an authority, what it has signed for the server and for who asks, and an authority that nobody knows.
fn certificates(ground: &Ground) -> Result<()> {
    for authority in ["ca", "other"] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, authority);
        ground.write(&format!("{authority}.pem"), &params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        if authority == "ca" {
            for (name, host) in [("server", "registry.test"), ("client", "mesh.test")] {
                let key = KeyPair::generate()?;
                let mut params = CertificateParams::new(vec![host.to_owned(), "127.0.0.1".to_owned()])?;
                params.distinguished_name.push(DnType::CommonName, host);
                let cert = params.signed_by(&key, &issuer)?;
                ground.write(&format!("{name}.pem"), &cert.pem())?;
                ground.write(&format!("{name}.key"), &key.serialize_pem())?;
            }
        }
    }
    Ok(())
}

fn nginx(ground: &Ground) -> Result<Process> {
    certificates(ground)?;
    ground.write("users", "mesh:{PLAIN}sesame\n")?;
    ground.write("password", "sesame\n")?;
    ground.write("token", "open\n")?;
    ground.write("web.json", r#"["10.0.0.1"]"#)?;
    let dir = ground.path("");
    let dir = dir.display();
    let places = format!(
        "location = /web.json {{ auth_basic x; auth_basic_user_file {dir}/users; root {dir}; }}\n\
         location /token/ {{ if ($http_authorization != \"Bearer open\") {{ return 401; }} alias {dir}/; }}\n\
         location /v1/ {{ if ($http_x_consul_token != \"open\") {{ return 403; }} proxy_pass http://127.0.0.1:8500; }}\n\
         location /v3/ {{ proxy_pass http://127.0.0.1:2379; proxy_buffering off; proxy_http_version 1.1; proxy_read_timeout 1h; }}\n"
    );
    let config = ground.write(
        "nginx.conf",
        &format!(
            "user root;\ndaemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/nginx.log;\nevents {{}}\nhttp {{\n  access_log off;\n\
             client_body_temp_path {dir}/a;\n  proxy_temp_path {dir}/b;\n  fastcgi_temp_path {dir}/c;\n  uwsgi_temp_path {dir}/d;\n  scgi_temp_path {dir}/e;\n\
             server {{\n listen 127.0.0.1:8443 ssl;\n ssl_certificate {dir}/server.pem;\n ssl_certificate_key {dir}/server.key;\n\
             ssl_client_certificate {dir}/ca.pem;\n ssl_verify_client on;\n {places} }}\n}}\n"
        ),
    )?;
    ground.start("nginx", ground.ns.command("nginx").arg("-c").arg(config))
}

/// A source's keys with this authority, and our certificate.
fn tls(ground: &Ground, ca: &str) -> String {
    let file = |name: &str| ground.path(name).display().to_string();
    format!("ca: '{}', cert: '{}', key: '{}'", file(ca), file("client.pem"), file("client.key"))
}

#[test]
fn lists_behind_tls_passwords_and_tokens() -> Result<()> {
    let ground = Ground::new("secure")?;
    let _nginx = nginx(&ground)?;
    ground.play(async || {
        let url = "url: 'https://127.0.0.1:8443/web.json', interval: 100ms";
        let login = format!("user: mesh, password_file: '{}'", ground.path("password").display());
        let mut follower = Follower::of(&format!("{{type: http, {url}, {login}, {}}}", tls(&ground, "ca.pem")))?;
        follower.has(&["10.0.0.1:80"]).await?;
        // A password that is changed on one side only is no list; when the other side follows, it goes on by itself.
        ground.write("users", "mesh:{PLAIN}other\n")?;
        follower.stale("401").await?;
        ground.write("password", "other\n")?;
        follower.has(&["10.0.0.1:80"]).await?;

        let named = format!("server_name: registry.test, {}", tls(&ground, "ca.pem"));
        let token = format!("token_file: '{}'", ground.path("token").display());
        let mut by_token = Follower::of(&format!("{{type: http, url: 'https://127.0.0.1:8443/token/web.json', {token}, {named}}}"))?;
        by_token.has(&["10.0.0.1:80"]).await?;

        // Nobody is believed whom the authority does not know, or who is another; and nobody is let in who shows nothing.
        let refused = async |keys: &str, why: &str| {
            let mut follower = Follower::of(&format!("{{type: http, {url}, {login}, {keys}}}"))?;
            follower.until(why, |f| f.status().error.is_some_and(|e| e.contains(why))).await?;
            ensure!(follower.set.iter().count() == 0 && !follower.is_live());
            anyhow::Ok(())
        };
        refused(&tls(&ground, "other.pem"), "UnknownIssuer").await?;
        refused(&format!("server_name: other.test, {}", tls(&ground, "ca.pem")), "not valid for name").await?;
        refused(&format!("ca: '{}'", ground.path("ca.pem").display()), "400").await?;
        let insecure = format!("verify: false, cert: '{0}/client.pem', key: '{0}/client.key'", ground.path("").display());
        let mut follower = Follower::of(&format!("{{type: http, {url}, {login}, {insecure}}}"))?;
        follower.has(&["10.0.0.1:80"]).await?;
        Ok(())
    })
}

#[test]
fn consul_behind_tls_wants_its_token() -> Result<()> {
    let ground = Ground::new("secure-consul")?;
    let _nginx = nginx(&ground)?;
    ground.play(async || {
        let instance = r#"[{"Node":{"Address":"10.0.0.1"},"Service":{"ID":"web-1","Address":"","Port":8080},"Checks":[]}]"#;
        let web = Web::start("127.0.0.1:8500", instance).await?;
        let token = ground.path("token");
        let source = format!(
            "{{type: consul, url: 'https://127.0.0.1:8443', service: web, wait: 2s, timeout: 1s, token_file: '{}', {}}}",
            token.display(),
            tls(&ground, "ca.pem")
        );
        let mut follower = Follower::of(&source)?;
        follower.has(&["10.0.0.1:8080"]).await?;
        fs::write(&token, "wrong")?;
        follower.stale("403").await?;
        fs::write(&token, "open")?;
        follower.until("it is back", Follower::is_live).await?;
        ensure!(web.content().asked > 1);
        Ok(())
    })
}

#[test]
fn etcd_behind_tls_wants_a_login() -> Result<()> {
    let ground = Ground::new("secure-etcd")?;
    let _nginx = nginx(&ground)?;
    let _etcd = etcd::start(&ground)?;
    ground.play(async || {
        etcd::put("a", "10.0.0.1")?;
        etcd::call("/v3/auth/user/add", &json!({"name": "root", "password": "sesame"}))?;
        etcd::call("/v3/auth/role/add", &json!({"name": "root"}))?;
        etcd::call("/v3/auth/user/grant", &json!({"user": "root", "role": "root"}))?;
        etcd::call("/v3/auth/enable", &json!({}))?;
        ensure!(etcd::put("b", "10.0.0.2").is_err(), "etcd does not ask who it is");
        let login = format!("user: root, password_file: '{}'", ground.path("password").display());
        let source =
            format!("{{type: etcd, prefix: {}, urls: ['https://127.0.0.1:8443'], {login}, {}}}", etcd::PREFIX, tls(&ground, "ca.pem"));
        let mut follower = Follower::of(&source)?;
        follower.has(&["10.0.0.1:80"]).await?;
        let mut nobody = Follower::of(&format!(
            "{{type: etcd, prefix: {}, urls: ['https://127.0.0.1:8443'], {}}}",
            etcd::PREFIX,
            tls(&ground, "ca.pem")
        ))?;
        nobody.until("the refusal", |f| f.status().error.is_some_and(|e| e.contains("user name is empty"))).await?;
        ensure!(nobody.set.iter().count() == 0);
        Ok(())
    })
}
