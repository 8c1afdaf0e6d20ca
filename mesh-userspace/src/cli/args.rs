use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{
    documents::{CompletionsArgs, ConfigCommand, ManArgs},
    drain::DrainArgs,
    explain::ExplainArgs,
    output::Format,
    plan::PlanArgs,
    service_spec::AddService,
};
use crate::{
    agent::SecondChance,
    api::BackendRef,
    config::{
        Instance,
        words::{LogFormat, Span},
    },
    model::ServiceName,
};

/// An L4 load balancer in the Linux kernel.
#[derive(Clone, Debug, Parser)]
#[command(name = "mesh", version, propagate_version = true, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub target: Target,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such service or backend, \
    4 the request contradicts what is there or can't be, 5 no daemon answers, 6 not allowed.";

/// Which daemon, and how answers are written.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Socket of the daemon; default: /run/mesh/INSTANCE.sock
    #[arg(long, global = true, env = "MESH_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Name of the daemon, where several run on one node
    #[arg(long, global = true, env = "MESH_INSTANCE", value_name = "NAME", default_value = "default")]
    pub instance: Instance,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

impl Target {
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.instance.default_socket())
    }
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Run(RunArgs),
    /// Check a configuration file without running it
    Check(CheckArgs),
    /// Take the program off the interfaces and remove all that is pinned; forwarding ends
    Detach(DetachArgs),
    /// Be the backend of services of mode `tunnel`: own their VIPs quietly, and take the outer headers off
    Agent(AgentArgs),
    /// Show what a configuration may say
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a script that has a shell complete this command line
    Completions(CompletionsArgs),
    /// Print or write the man pages
    Man(ManArgs),
    #[command(flatten)]
    Query(Query),
}

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Configuration: *.yaml, *.yml, *.json or *.toml
    #[arg(short, long, value_name = "FILE", env = "MESH_CONFIG")]
    pub config: PathBuf,
    /// How the log is written: text or json; goes before the configuration
    #[arg(long, value_name = "FORMAT", env = "MESH_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Configuration of the balancer, whose `tunnel` services this node is a backend of; followed as it changes
    #[arg(short, long, value_name = "FILE", env = "MESH_CONFIG")]
    pub config: Option<PathBuf>,
    /// A VIP to serve, may be given several times
    #[arg(long = "vip", value_name = "ADDRESS")]
    pub vips: Vec<std::net::IpAddr>,
    /// Interface that packets come in by, may be given several times; default: those of the configuration
    #[arg(short, long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Whom a packet of an unknown connection may be passed on to, if the balancer names somebody: `link` (default; who is on the networks of the
    /// interfaces), a prefix such as 10.0.0.0/8, may be given several times, or `off`
    #[arg(long = "second-chance", value_name = "link|PREFIX|off")]
    pub second_chance: Vec<SecondChance>,
    /// Network namespace to work in, such as a pod's: /run/netns/NAME or /proc/PID/ns/net
    #[arg(long, value_name = "FILE")]
    pub netns: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Configuration: *.yaml, *.yml, *.json or *.toml
    #[arg(value_name = "FILE")]
    pub config: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct DetachArgs {
    /// Configuration of the daemon whose program goes; without it --instance names the daemon
    #[arg(short, long, value_name = "FILE", env = "MESH_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where the bpf file system is mounted, if no configuration says it
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf", conflicts_with = "config")]
    pub bpffs: PathBuf,
    /// Where the daemon keeps its state, if no configuration says it
    #[arg(long, value_name = "DIR", default_value = "/var/lib/mesh", conflicts_with = "config")]
    pub state_dir: PathBuf,
}

/// What is asked of a running daemon.
#[derive(Clone, Debug, Subcommand)]
pub enum Query {
    /// Show how the daemon is doing
    Status,
    /// Show and change services
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Show and change backends
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Show where backends are found
    #[command(subcommand)]
    Source(SourceCommand),
    /// Show which slots are on their way to another owner, and the flows that are remembered meanwhile
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Show what happened lately
    Events(EventsArgs),
    /// Read the configuration file again
    Reload,
    /// Show what a change would do, before it is made
    Plan(PlanArgs),
    /// Show what the loaded program would make of a packet, decision by decision; nothing is sent, changed or counted
    Explain(ExplainArgs),
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum LedgerCommand {
    /// List slots on their way, by service, owners and stage
    #[command(visible_alias = "list")]
    Ls,
    /// Show entries, refusals, the oldest entry, and how long slots took to come to rest
    Stats,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ServiceCommand {
    /// List services
    #[command(visible_alias = "list")]
    Ls,
    /// Show one service
    Show {
        /// Name of the service
        service: ServiceName,
    },
    /// Add a service; it outlives restarts
    Add(Box<AddService>),
    /// Remove a service
    #[command(visible_alias = "remove")]
    Rm {
        /// Name of the service
        service: ServiceName,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum BackendCommand {
    /// List backends, of one service or of all
    #[command(visible_alias = "list")]
    Ls {
        /// Name of the service
        service: Option<ServiceName>,
    },
    /// Show one backend, and why its weight is what it is
    Show(Which),
    /// Add a backend; it outlives restarts
    Add {
        /// Name of the service
        service: ServiceName,
        /// ADDRESS or ADDRESS:PORT; default port: the service's
        address: String,
        /// Share of new flows relative to the other backends; default 1
        #[arg(short, long, value_name = "N")]
        weight: Option<u16>,
        /// Name for people
        #[arg(short, long)]
        name: Option<String>,
        /// Where it stands, for services that prefer what is near
        #[arg(long)]
        zone: Option<String>,
        /// Flows at once that it can carry; `mesh plan` tells which change would push it beyond
        #[arg(long, value_name = "FLOWS")]
        capacity: Option<u32>,
        /// It is a backup: it gets nothing while enough of the others can be used; those of the lowest number (from 1) stand in first
        #[arg(long, value_name = "N")]
        backup: Option<u32>,
        /// Flows that it may have at once (`nat`)
        #[arg(long, value_name = "FLOWS")]
        max_connections: Option<u32>,
        /// New flows that it may be given within a second
        #[arg(long, value_name = "FLOWS")]
        max_connection_rate: Option<u32>,
        /// Its server id in QUIC connection ids (`quic`); default: the end of its address
        #[arg(long, value_name = "ID")]
        quic_server_id: Option<u32>,
    },
    /// Remove a backend
    #[command(visible_alias = "remove")]
    Rm(Which),
    /// Send new flows elsewhere; old ones stay until they end
    Drain(DrainArgs),
    /// Show how the drains go
    Drains {
        /// Name of the service
        service: Option<ServiceName>,
    },
    /// Let a drained backend take new flows again
    Undrain(Which),
    /// Tell that a backend lives, for services with `heartbeat`; to be repeated before the time to live is over
    Heartbeat(BeatArgs),
    /// Change the share of new flows
    Weight {
        #[command(flatten)]
        which: Which,
        /// 0 to 65535; 0 = no new flows
        weight: u16,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum SourceCommand {
    /// List the sources of all services: their state, age and last error
    #[command(visible_alias = "list")]
    Ls,
}

#[derive(Clone, Debug, Args)]
pub struct BeatArgs {
    #[command(flatten)]
    pub which: Which,
    /// How long it holds, such as 5s; default: the service's
    #[arg(long, value_name = "SPAN")]
    pub ttl: Option<Span>,
    /// How loaded it is: 1 = it has as much to do as it can
    #[arg(long, value_name = "N")]
    pub load: Option<f64>,
    /// It can't serve
    #[arg(long)]
    pub failing: bool,
    /// Share of new flows, for one that registers itself
    #[arg(short, long, value_name = "N")]
    pub weight: Option<u16>,
    /// Name for people, for one that registers itself
    #[arg(short, long)]
    pub name: Option<String>,
    /// It takes its leave
    #[arg(long, conflicts_with_all = ["ttl", "load", "failing", "weight", "name"])]
    pub leave: bool,
}

/// One backend of one service.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Name of the service
    pub service: ServiceName,
    /// ADDRESS:PORT, ADDRESS or name of the backend
    pub backend: BackendRef,
}

#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// Go on as events come
    #[arg(short, long)]
    pub follow: bool,
    /// Only events after this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub since: u64,
}
