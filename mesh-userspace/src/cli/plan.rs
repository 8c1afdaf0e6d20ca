//! `mesh plan`: what a change would do, before it is made.

use std::{fmt, io::Write, path::PathBuf, str::FromStr};

use clap::{Args, Subcommand};

use super::{
    Failure,
    args::Which,
    output::{Format, print},
    query::Trouble,
    tables,
};
use crate::{
    api::Client,
    control::{BackendSpec, Intention, PlanView},
    model::ServiceName,
    plan::{BackendPreview, BackendShare, Preview},
};

#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    #[command(subcommand)]
    pub change: PlanCommand,
    /// Fail (exit code 4) if a larger share of a service's hash space would move, such as 2% or 0.02
    #[arg(long, global = true, value_name = "SHARE")]
    pub max_move: Option<Share>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum PlanCommand {
    /// Add a backend
    Add {
        /// Name of the service
        service: ServiceName,
        /// ADDRESS or ADDRESS:PORT; default port: the service's
        address: String,
        /// Share of new flows relative to the other backends; default 1
        #[arg(short, long, value_name = "N")]
        weight: Option<u16>,
        /// Flows at once that it can carry
        #[arg(long, value_name = "FLOWS")]
        capacity: Option<u32>,
    },
    /// Remove a backend
    #[command(visible_alias = "remove")]
    Rm(Which),
    /// Drain a backend
    Drain(Which),
    /// Let a drained backend take part again
    Undrain(Which),
    /// Change a backend's weight
    Weight {
        #[command(flatten)]
        which: Which,
        /// 0 to 65535
        weight: u16,
    },
    /// Reload with this configuration
    Apply {
        /// Configuration: *.yaml, *.yml, *.json or *.toml
        file: PathBuf,
    },
}

/// A part of the whole, 0 to 1.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (number, unit) = s.strip_suffix('%').map_or((s, 1.0), |percent| (percent, 0.01));
        let share = number.trim().parse::<f64>().ok().map(|n| n * unit).filter(|n| (0.0..=1.0).contains(n));
        share.map(Self).ok_or_else(|| format!("`{s}` is no share: write 2% or 0.02"))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} %", self.0 * 100.0)
    }
}

/// Asks and prints; fails if more would move than is allowed.
pub(super) async fn execute(args: &PlanArgs, client: &Client, format: Format, out: &mut impl Write) -> Result<(), Trouble> {
    let view = client.plan(&intention(&args.change)?).await?;
    print(out, format, &view, show)?;
    match args.max_move {
        Some(most) if view.moved_share > most.0 => Err(too_much(&view, most).into()),
        _ => Ok(()),
    }
}

fn too_much(view: &PlanView, most: Share) -> Failure {
    let worst = view.services.iter().max_by(|a, b| a.moved_share.total_cmp(&b.moved_share));
    let service = worst.map(|s| s.service.to_string()).unwrap_or_default();
    let message = format!("{} of the hash space of {service} would move, and --max-move allows {most}", Share(view.moved_share));
    Failure { code: Failure::CONFLICT, message, remedy: "make the change in smaller steps, or allow more".into() }
}

fn intention(command: &PlanCommand) -> Result<Intention<String>, Failure> {
    let named = |which: &Which| (which.service.clone(), which.backend.to_string());
    Ok(match command {
        PlanCommand::Add { service, address, weight, capacity } => {
            let (weight, capacity) = (weight.map(|w| i64::from(w).into()), capacity.map(Into::into));
            let backend = Box::new(BackendSpec { address: address.clone().into(), weight, capacity, ..BackendSpec::default() });
            Intention::Add { service: service.clone(), backend }
        }
        PlanCommand::Rm(which) => {
            let (service, backend) = named(which);
            Intention::Rm { service, backend }
        }
        PlanCommand::Drain(which) => {
            let (service, backend) = named(which);
            Intention::Drain { service, backend }
        }
        PlanCommand::Undrain(which) => {
            let (service, backend) = named(which);
            Intention::Undrain { service, backend }
        }
        PlanCommand::Weight { which, weight } => {
            let (service, backend) = named(which);
            Intention::Weight { service, backend, weight: *weight }
        }
        PlanCommand::Apply { file } => {
            let text = std::fs::read_to_string(file).map_err(|e| Failure::usage(format!("can't read {}: {e}", file.display())))?;
            let file = std::path::absolute(file).map_err(|e| Failure::usage(format!("can't find {}: {e}", file.display())))?;
            Intention::Apply { file, text }
        }
    })
}

fn show(view: &PlanView, wide: bool) -> String {
    if view.services.is_empty() {
        return "nothing would change\n".to_owned();
    }
    let mut text: String = view.services.iter().map(|s| service(s, wide)).collect();
    text.extend(view.assumed.iter().map(|what| format!("assumed: {what}\n")));
    text
}

fn service(s: &Preview, wide: bool) -> String {
    let mut text = format!(
        "{}: {} of {} slots move ({}), {} have another secondary; {}\n",
        s.service,
        s.moved,
        s.slots,
        Share(s.moved_share),
        s.secondaries,
        s.flows
    );
    if s.no_backends {
        text += "  no backend takes new flows then\n";
    }
    for id in &s.over_capacity {
        text += &format!("  {id} would have more flows than its capacity\n");
    }
    // Of a large service everybody's share changes a little; the ones that stand otherwise are what one looks for.
    let stands = |b: &&BackendPreview| wide || b.before.map(|s| (s.standing, s.weight)) != b.after.map(|s| (s.standing, s.weight));
    let few = s.backends.len() <= FEW;
    let mut table = tables::table(&["  BACKEND", "BEFORE", "AFTER", "SHARE", "THEN", "LIVE"], 3..6);
    for b in s.backends.iter().filter(|b| few || stands(b)) {
        let word = |share: Option<BackendShare>| share.map_or_else(|| "absent".into(), |s| format!("{}, weight {}", s.standing, s.weight));
        let part = |share: Option<BackendShare>| format!("{:.2}%", share.map_or(0.0, |s| s.share * 100.0));
        table.add_row(vec![format!("  {}", b.id), word(b.before), word(b.after), part(b.before), part(b.after), b.live_flows.to_string()]);
    }
    text + &tables::finish(&table)
}

/// Backends that are all shown.
const FEW: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (text, share) in [("2%", 0.02), ("0.02", 0.02), ("100%", 1.0), ("0", 0.0), ("0.5 %", 0.005)] {
            assert!((text.parse::<Share>().unwrap().0 - share).abs() < 1e-12, "{text}");
        }
        for bad in ["", "%", "2", "-1%", "101%", "NaN", "two"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }
}
