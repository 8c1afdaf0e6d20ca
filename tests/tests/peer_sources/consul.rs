//! Consul's health API, as a server in this process speaks it: Debian has no Consul any more.

use std::time::Duration;

use anyhow::{Result, ensure};

use mesh_tests::registry::{
    Ground,
    web::{Manner, Web},
};

use crate::follower::{Follower, Times};

/// One instance, in the words of `/v1/health/service`.
fn instance(last: u8, checks: &[(&str, &str)]) -> String {
    let check = |(id, status): &(&str, &str)| {
        format!(
            r#"{{"Node":"n1","CheckID":"{id}","Name":"x","Status":"{status}","Notes":"","Output":"","ServiceID":"web-{last}","ServiceName":"web"}}"#
        )
    };
    let checks: Vec<String> = checks.iter().map(check).collect();
    format!(
        r#"{{"Node":{{"ID":"","Node":"n1","Address":"10.0.0.{last}","Datacenter":"dc1","TaggedAddresses":null,"Meta":null}},
        "Service":{{"ID":"web-{last}","Service":"web","Tags":["v1"],"Address":"","Meta":null,"Port":8080,"Weights":{{"Passing":10,"Warning":2}},
        "EnableTagOverride":false}},"Checks":[{}]}}"#,
        checks.join(",")
    )
}

fn list(instances: &[String]) -> String {
    format!("[{}]", instances.join(","))
}

#[test]
fn health_weights_and_maintenance_are_followed_by_blocking_queries() -> Result<()> {
    let ground = Ground::new("consul")?;
    let token = ground.write("token", "secret\n")?;
    ground.play(async || {
        let up = [("serfHealth", "passing"), ("service:web", "passing")];
        let web = Web::start("127.0.0.1:8500", &list(&[instance(1, &up), instance(2, &up)])).await?;
        let source = format!("{{type: consul, service: web, tags: [v1], wait: 20s, timeout: 500ms, token_file: '{}'}}", token.display());
        let mut follower = Follower::of(&source)?;
        follower.has(&["10.0.0.1:8080*10", "10.0.0.2:8080*10"]).await?;
        ensure!(follower.endpoint("10.0.0.1:8080")?.name.as_deref() == Some("web-1"));
        web.set_body(list(&[
            instance(1, &[("serfHealth", "passing"), ("service:web", "warning")]),
            instance(2, &[("_service_maintenance:web-2", "critical")]),
        ]));
        follower.has(&["10.0.0.1:8080*2", "10.0.0.2:8080*10 drains"]).await?;
        web.set_body(list(&[instance(1, &[("_node_maintenance", "critical")]), instance(2, &[("service:web", "critical")])]));
        follower.has(&["10.0.0.1:8080*10 drains"]).await?;
        let mut times = Times::default();
        for last in 3..=32 {
            follower.meanwhile("a question that waits", || web.content().waiting == 1).await?;
            web.set_body(list(&[instance(last, &up)]));
            times.push(follower.has(&[&format!("10.0.0.{last}:8080*10")]).await?);
        }
        times.report("consul, blocking queries (server in process): change -> told");
        ensure!(web.content().waited >= 30, "{:?}", web.content());

        for (wrong, why) in
            [(Manner::Failing, "500"), (Manner::Page, "bad answer"), (Manner::Empty, "bad answer"), (Manner::CutOff, "broke off")]
        {
            web.set_manner(wrong);
            follower.stale(why).await?;
            web.set_manner(Manner::Good);
            follower.has(&["10.0.0.32:8080*10"]).await?;
        }
        // An instance that can't be is left out and told, the others count; none that can be is no answer.
        let odd = instance(1, &up).replace("10.0.0.1", "127.0.0.1");
        web.set_body(list(&[odd.clone(), instance(2, &up)]));
        follower.has(&["10.0.0.2:8080*10"]).await?;
        ensure!(follower.status().error.is_some_and(|e| e.contains("web-1") && e.contains("loopback")), "{:?}", follower.troubles);
        web.set_body(list(&[odd]));
        follower.stale("none of 1 instances").await?;
        // The servers were restored from a backup: their index begins anew.
        web.set_back(list(&[instance(4, &up)]));
        follower.has(&["10.0.0.4:8080*10"]).await?;
        web.set_body("[]".to_owned());
        follower.has(&[]).await?;
        Ok(())
    })
}

#[test]
fn a_quiet_server_is_not_asked_all_the_time() -> Result<()> {
    let ground = Ground::new("consul-quiet")?;
    ground.play(async || {
        let web = Web::start("127.0.0.1:8500", &list(&[instance(1, &[])])).await?;
        let mut follower = Follower::of("{type: consul, service: web, wait: 1s}")?;
        follower.has(&["10.0.0.1:8080*10"]).await?;
        let before = web.content().asked;
        follower.rest(Duration::from_secs(3)).await?;
        let asked = web.content().asked - before;
        ensure!((1..=5).contains(&asked), "{asked} questions in 3 s");
        ensure!(follower.updates == 1, "{} updates", follower.updates);
        Ok(())
    })
}
