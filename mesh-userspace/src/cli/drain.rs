//! `mesh backend drain`: gives the order, and waits for the last flow where asked to.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use clap::{Args, ValueEnum};

use super::{
    Failure,
    output::{Format, print, print_line},
    query::{Trouble, changed},
    tables,
};
use crate::{
    api::{BackendRef, Client},
    config::words::Span,
    control::{DrainEnd, DrainSpec, DrainState, DrainView, Then},
    model::{BackendId, ServiceName},
};

#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// Name of the service
    pub service: ServiceName,
    /// ADDRESS:PORT, ADDRESS or name of the backend, or of several
    #[arg(required = true)]
    pub backends: Vec<BackendRef>,
    /// How long open flows are given, such as 30s or 10m
    #[arg(long, value_name = "SPAN")]
    pub deadline: Option<Span>,
    /// What becomes of flows that are still open at the deadline
    #[arg(long, value_enum, default_value_t)]
    pub then: ThenWord,
    /// Wait until the last flow has ended, or until the deadline has ended the drain
    #[arg(long)]
    pub wait: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum ThenWord {
    /// They stay, and the drain goes on
    #[default]
    Wait,
    /// They are cut off: who goes on is answered by a RST, and the backend gets nothing more until it is undrained
    #[value(alias = "cut")]
    Rst,
    /// The backend is removed, at the deadline or when its last flow has ended
    Remove,
}

impl From<ThenWord> for Then {
    fn from(word: ThenWord) -> Self {
        match word {
            ThenWord::Wait => Self::Wait,
            ThenWord::Rst => Self::Cut,
            ThenWord::Remove => Self::Remove,
        }
    }
}

/// From one look at the drains to the next.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn execute(args: &DrainArgs, client: &Client, format: Format, out: &mut impl Write) -> Result<(), Trouble> {
    let spec = DrainSpec { deadline: args.deadline, then: args.then.into() };
    let mut drained = Vec::new();
    for backend in &args.backends {
        let view = client.drain_as(&args.service, backend, &spec).await?;
        drained.push(view.id);
        if !(args.wait && format.is_data()) {
            changed(out, format, &view, "drains: new flows go elsewhere, old ones stay")?;
        }
    }
    if args.wait { wait(&args.service, drained, client, format, out).await } else { Ok(()) }
}

pub(super) async fn list(service: Option<&ServiceName>, client: &Client, format: Format, out: &mut impl Write) -> Result<(), Trouble> {
    let mut drains = client.drains().await?;
    drains.retain(|d| service.is_none_or(|s| d.service == *s));
    Ok(print(out, format, &drains, |drains, _| table(drains))?)
}

/// Shows how it goes until all are over. An end that is not the one that was waited for is a failure.
async fn wait(
    service: &ServiceName,
    drained: Vec<BackendId>,
    client: &Client,
    format: Format,
    out: &mut impl Write,
) -> Result<(), Trouble> {
    let bars = !format.is_data() && io::stderr().is_terminal();
    let mut open = drained;
    while !open.is_empty() {
        let drains = client.drains().await?;
        let ours: Vec<_> = drains.into_iter().filter(|d| d.service == *service && open.contains(&d.backend)).collect();
        for drain in &ours {
            if bars && drain.state != DrainState::Ended {
                eprint!("\r\x1b[2K{}", bar(drain));
            }
            if format.is_data() {
                print_line(out, format, drain, |_| String::new())?;
            }
        }
        for drain in ours.iter().filter(|d| d.state == DrainState::Ended) {
            open.retain(|id| *id != drain.backend);
            if bars {
                eprint!("\r\x1b[2K");
            }
            if !format.is_data() {
                writeln!(out, "{}", ended(drain))?;
            }
            if drain.ended == Some(DrainEnd::Undrained) {
                let message = format!("{service}: backend {} was taken back before it was drained", drain.backend);
                return Err(Failure { code: Failure::CONFLICT, message, remedy: String::new() }.into());
            }
        }
        if !open.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

fn ended(d: &DrainView) -> String {
    let how = d.ended.map(|how| how.to_string()).unwrap_or_default();
    let left = d.flows.filter(|n| *n > 0).map(|n| format!(", {n} flows were still open")).unwrap_or_default();
    format!("{}: backend {} is drained after {}: {how}{left}", d.service, d.backend, span(d.took_ms))
}

/// One line: how much of the way is done, and how long the rest takes.
fn bar(d: &DrainView) -> String {
    const WIDTH: usize = 24;
    let name = d.name.clone().unwrap_or_else(|| d.backend.to_string());
    let Some((flows, start)) = d.flows.zip(d.flows_at_start) else {
        let slots = d.slots.map(|n| format!("{n} slots may have flows, ")).unwrap_or_default();
        return format!("{name}: {slots}{:.0} packets/s, for {}", d.packets_per_s, span(d.took_ms));
    };
    let done = 1.0 - flows as f64 / start.max(1) as f64;
    let full = (done.clamp(0.0, 1.0) * WIDTH as f64) as usize;
    let estimate = d.estimate_ms.map_or("?".to_owned(), span);
    let oldest = d.oldest_ms.map(|age| format!(", the oldest {}", span(age))).unwrap_or_default();
    let late = if d.state == DrainState::Overdue { ", overdue" } else { "" };
    let (full, rest) = ("#".repeat(full), "-".repeat(WIDTH - full));
    format!("{name} [{full}{rest}] {flows} of {start} flows left, {:.1} end/s, about {estimate} to go{oldest}{late}", d.ended_per_s)
}

fn table(drains: &[DrainView]) -> String {
    let head =
        ["SERVICE", "BACKEND", "STATE", "FLOWS", "AT FIRST", "SLOTS", "END/S", "PACKETS/S", "NEW", "FOR", "ABOUT", "OLDEST", "QUIETEST"];
    let mut table = tables::table(&head, 3..13);
    for d in drains {
        let or_dash = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
        let state = match (d.state, d.ended) {
            (_, Some(end)) => format!("ended: {end}"),
            (DrainState::Overdue, _) => "overdue".to_owned(),
            _ => "draining".to_owned(),
        };
        table.add_row(vec![
            d.service.to_string(),
            d.name.clone().unwrap_or_else(|| d.backend.to_string()),
            state,
            or_dash(d.flows),
            or_dash(d.flows_at_start),
            or_dash(d.slots.map(u64::from)),
            format!("{:.1}", d.ended_per_s),
            format!("{:.1}", d.packets_per_s),
            d.new_flows.to_string(),
            span(d.took_ms),
            d.estimate_ms.map_or("-".to_owned(), span),
            d.oldest_ms.map_or("-".to_owned(), span),
            d.quiet_ms.map_or("-".to_owned(), span),
        ]);
    }
    tables::finish(&table)
}

fn span(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{:.1}s", ms as f64 / 1e3),
        10_000..60_000 => format!("{}s", ms / 1000),
        60_000..3_600_000 => format!("{}m{}s", ms / 60_000, ms / 1000 % 60),
        _ => format!("{}h{}m", ms / 3_600_000, ms / 60_000 % 60),
    }
}
