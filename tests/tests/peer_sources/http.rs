//! A list at nginx, and at a server that can keep a question or answer badly.

use std::fs;

use anyhow::{Result, ensure};

use mesh_tests::registry::{
    Ground,
    web::{Manner, Web},
};

use crate::follower::{Follower, Times};

#[test]
fn a_list_at_nginx_is_polled_by_its_etag() -> Result<()> {
    let ground = Ground::new("nginx")?;
    let list = ground.write("web.json", r#"["10.0.0.1", {"address": "10.0.0.2", "port": 8080, "weight": 5}]"#)?;
    let replace = |text: &str| -> Result<()> {
        let new = ground.write("web.json.new", text)?;
        Ok(fs::rename(new, &list)?)
    };
    let dir = ground.path("");
    let dir = dir.display();
    let config = ground.write(
        "nginx.conf",
        &format!(
            "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/nginx.log;\nevents {{}}\nhttp {{\n  log_format f '$status';\n\
             access_log {dir}/access f;\n  client_body_temp_path {dir}/a;\n  proxy_temp_path {dir}/b;\n  fastcgi_temp_path {dir}/c;\n\
             uwsgi_temp_path {dir}/d;\n  scgi_temp_path {dir}/e;\n  server {{ listen 127.0.0.1:8080; root {dir}; }}\n}}\n"
        ),
    )?;
    let start = || ground.start("nginx", ground.ns.command("nginx").arg("-c").arg(&config));
    let mut nginx = start()?;
    ground.play(async || {
        let mut follower = Follower::of("{type: http, url: 'http://127.0.0.1:8080/web.json', interval: 100ms}")?;
        follower.has(&["10.0.0.1:80", "10.0.0.2:8080*5"]).await?;
        let answers = |status: &str| fs::read_to_string(ground.path("access")).unwrap_or_default().matches(status).count();
        follower.meanwhile("answers by ETag", || answers("304") >= 2).await?;
        ensure!(answers("200") == 1, "{} full answers", answers("200"));
        replace(r#"{"backends": ["10.0.0.3"]}"#)?;
        follower.has(&["10.0.0.3:80"]).await?;
        // A bad list keeps the good one, be it bad in one entry only.
        for (bad, why) in [("", "EOF"), ("[", "EOF"), (r#"["10.0.0.4", "127.0.0.1"]"#, "entry 2"), (r#"["10.0.0.4", "10.0.0.4"]"#, "twice")]
        {
            replace(bad)?;
            follower.stale(why).await?;
        }
        replace("[]")?;
        follower.has(&[]).await?;
        replace(r#"["10.0.0.5"]"#)?;
        follower.has(&["10.0.0.5:80"]).await?;
        nginx.kill()?;
        follower.stale("unreachable").await?;
        replace(r#"["10.0.0.106"]"#)?;
        let _again = start()?;
        follower.has(&["10.0.0.106:80"]).await?;
        Ok(())
    })
}

#[test]
fn a_long_poll_tells_at_once_and_no_answer_empties_the_list() -> Result<()> {
    let ground = Ground::new("http")?;
    ground.play(async || {
        let web = Web::start("127.0.0.1:8080", r#"["10.0.0.1"]"#).await?;
        let mut follower =
            Follower::of("{type: http, url: 'http://127.0.0.1:8080/web?zone=a', interval: 200ms, wait: 4s, timeout: 500ms}")?;
        follower.has(&["10.0.0.1:80"]).await?;
        let mut times = Times::default();
        for i in 2..=31 {
            follower.meanwhile("a question that waits", || web.content().waiting == 1).await?;
            web.set_body(format!(r#"["10.0.0.{i}"]"#));
            times.push(follower.has(&[&format!("10.0.0.{i}:80")]).await?);
        }
        times.report("http, long poll: change -> told");
        ensure!(web.content().waited >= 30, "{:?}", web.content());
        for (wrong, why) in [
            (Manner::Failing, "500"),
            (Manner::Page, "bad answer"),
            (Manner::Empty, "bad answer"),
            (Manner::CutOff, "broke off"),
            (Manner::Endless, "longer than"),
        ] {
            web.set_manner(wrong);
            follower.stale(why).await?;
            web.set_manner(Manner::Good);
            follower.has(&["10.0.0.31:80"]).await?;
        }
        let list = |count: usize| (0..count).map(|i| format!("\"10.1.{}.{}\"", i / 250, i % 250 + 1)).collect::<Vec<_>>().join(",");
        for count in [250, 500, 750, 1000] {
            web.set_body(format!("[{}]", list(count)));
        }
        let took = follower.counts(1000).await?;
        println!("http, long poll: 1000 backends in four changes, told {:.0} ms after them", took.as_secs_f64() * 1e3);
        web.set_manner(Manner::Silent);
        web.set_body("[]".to_owned());
        follower.stale("did not answer").await?;
        Ok(())
    })
}
