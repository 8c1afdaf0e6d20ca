//! `cargo xtask bench ipvs`: boots the machine that counts, and shows what it found.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    setup::{self, Need},
    vm,
};

const KERNEL: &str = "6.12";

pub fn run(json: bool, options: &[String]) -> Result<()> {
    setup::ensure(&[Need::Build, Need::Vm, Need::Counted])?;
    let kernel = match options {
        [] => KERNEL,
        [flag, version] if flag == "--kernel" => version,
        other => bail!("`{}`: the one option is `--kernel VERSION`", other.join(" ")),
    };
    let figures = vm::counted(kernel, &[String::from("ipvs-guest")], &["ipvsadm"])?;
    if !json {
        println!("instructions of a packet, less those of sending and dropping it (kernel {kernel})");
        println!("{:<8} {:<10} {:>12} {:>8} {:>12} {:>8} {:>8}", "way", "who", "connection", "ratio", "SYN", "ratio", "spread");
    }
    let parsed = figures.iter().map(|line| serde_json::from_str(line).with_context(|| format!("the guest told `{line}`")));
    let parsed: Vec<Value> = parsed.collect::<Result<_>>()?;
    for (line, figure) in figures.iter().zip(&parsed) {
        if json {
            println!("{line}");
        } else {
            println!("{}", shown(figure, &parsed));
        }
    }
    Ok(())
}

/// One line, with what IPVS takes for the same as 1.
fn shown(figure: &Value, all: &[Value]) -> String {
    let number = |figure: &Value, key: &str| figure[key].as_f64().unwrap_or(f64::NAN);
    let peer = all.iter().find(|other| other["who"] == "ipvs" && other["way"] == figure["way"]);
    let ratio = |key| peer.map_or(f64::NAN, |peer| number(figure, key) / number(peer, key));
    let way = figure["way"].as_str().unwrap_or("-");
    let who = figure["who"].as_str().unwrap_or("?");
    if who == "floor" {
        return format!(
            "{way:<8} {who:<10} {:>12} {:>8} {:>12} {:>8} {:>7}%",
            figure["packet"], "", figure["syn"], "", figure["spread_percent"]
        );
    }
    format!(
        "{way:<8} {who:<10} {:>12} {:>8.2} {:>12} {:>8.2} {:>7}%",
        figure["net_packet"],
        ratio("net_packet"),
        figure["net_syn"],
        ratio("net_syn"),
        figure["spread_percent"]
    )
}
